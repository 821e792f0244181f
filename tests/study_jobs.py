"""Jobs for `test_study`, in a module of their own that a child process imports quickly."""

import os
import signal
import time

from nbhelpers.core.hardware import CORES


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
    """A job that would take twenty minutes."""
    note(folder, str(os.getpid()), 0)
    time.sleep(1200)


def told(folder, name, run):
    """A job that is given a run."""
    note(folder, name, 0)
    return {"seed": run.parameters.seed}


def until(what, whose):
    """Wait for a condition, or tell after ten minutes that it never came."""
    end = time.monotonic() + 600
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(f"{whose} did not begin")
        time.sleep(0.01)


def leave(where, folder, behind=None):
    """A job that leaves a file in its `folder`, once there is one in the folder `behind`."""
    if behind:
        until((behind / "file").exists, behind.name)
    folder.mkdir(exist_ok=True)
    (folder / "file").write_text("x")
    return note(where, "leave", 1)


def meet(folder, name, other):
    """A job that ends only once another has begun; tells how many threads it was given."""
    note(folder, name, 0)
    until(lambda: other in (folder / "ran.txt").read_text().split(), other)
    return {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", CORES)}


def after(folder, name, earlier):
    """A job that needs the file of others."""
    there = [(part.keywords["folder"] / "file").exists() for part in earlier]
    return note(folder, name, there)


def here(role, path):
    """As `Run.artifact`, for a run that is none."""
    return path
