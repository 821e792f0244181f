"""Jobs for `test_study`, in a module of their own that a child process imports quickly."""

import os
import signal
import time

from nbhelpers.profiles import CORES


def note(folder, name, value, **more):
    """A job: appends its name to a file, so that it can be seen how often it ran."""
    with open(folder / "ran.txt", "a") as file:
        file.write(name + "\n")
    return {"value": value, "process": os.getpid()} | more


def fail(message):
    raise ValueError(message)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def linger(folder):
    """A job that would take a minute."""
    note(folder, str(os.getpid()), 0)
    time.sleep(60)


def told(folder, name, run):
    """A job that is given a run."""
    note(folder, name, 0)
    return {"seed": run.parameters.seed}


def leave(where, folder, seconds=0.0):
    """A job that leaves a file in its `folder`, after a while."""
    time.sleep(seconds)
    folder.mkdir(exist_ok=True)
    (folder / "file").write_text("x")
    return note(where, "leave", 1)


def meet(folder, name, other):
    """A job that ends only once another has begun; tells how many threads it was given."""
    note(folder, name, 0)
    end = time.monotonic() + 60
    while other not in (folder / "ran.txt").read_text().split():
        if time.monotonic() > end:
            raise TimeoutError(f"{other} did not begin")
        time.sleep(0.01)
    return {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", CORES)}


def after(folder, name, earlier):
    """A job that needs the file of others."""
    there = [(part.keywords["folder"] / "file").exists() for part in earlier]
    return note(folder, name, there)


def here(role, path):
    """As `Run.artifact`, for a run that is none."""
    return path
