"""Jobs for `test_study`, in a module of their own that a child process imports quickly."""

import os
import signal


def note(folder, name, value, **more):
    """A job: appends its name to a file, so that it can be seen how often it ran."""
    with open(folder / "ran.txt", "a") as file:
        file.write(name + "\n")
    return {"value": value, "process": os.getpid()} | more


def fail(message):
    raise ValueError(message)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def told(folder, name, run):
    """A job that is given a run."""
    note(folder, name, 0)
    return {"seed": run.parameters.seed}


def leave(where, folder):
    """A job that leaves a file in its `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "file").write_text("x")
    return note(where, "leave", 1)


def here(role, path):
    """As `Run.artifact`, for a run that is none."""
    return path
