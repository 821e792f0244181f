"""A function called in a fresh process, which takes its memory with it when it ends.

call(partial(function, argument), Path("function.log"))
"""

import contextlib
import os
import pickle
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from nbhelpers.core.errors import NotebookError
from nbhelpers.core.hardware import CORES
from nbhelpers.core.storage import repository_root

KILLED = (
    ", as a system does when memory runs out: end what else holds memory, or lower per_device_train_batch_size "
    "(and raise gradient_accumulation_steps) or max_length"
)


def call(job: partial, log: Path, threads: int | None = None) -> Any:
    """What a job returns, computed in a fresh process: `job` is a `partial` of a function that a module defines.

    Args:
        log: where the process writes what it prints; its last line is quoted where the process ends without a word.
        threads: how many it computes with; None: as many as there are cores.

    Raises:
        NotebookError: the process ended with an exception or by a signal.
    """
    log = Path(log)
    log.parent.mkdir(parents=True, exist_ok=True)
    answer = log.with_suffix(".pickle")
    answer.unlink(missing_ok=True)
    search_path = os.pathsep.join(filter(None, (str(repository_root()), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-u", "-m", __name__, str(answer), str(os.getpid())]
    environment = {"PYTHONPATH": search_path}
    if threads:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", CORES), str(threads))
    with open(log, "wb") as stream:
        done = subprocess.run(
            command, input=pickle.dumps(job), stdout=stream, stderr=stream, env=os.environ | environment
        )
    if code := done.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        how = lines[-1] if lines else "it printed nothing"
        if code < 0:
            how = f"killed by signal {-code}" + (KILLED if code == -9 else "")
        elif answer.exists():
            how = pickle.loads(answer.read_bytes())
            answer.unlink()
        root = repository_root()
        shown = log.relative_to(root) if log.is_relative_to(root) else log
        raise NotebookError(f"{job.func.__name__} failed in its process: {how}. What it printed is in {shown}.")
    try:
        return pickle.loads(answer.read_bytes())
    finally:
        answer.unlink()


def kill_marked(mark: str, spare: int | None = None) -> None:
    """Kill every process whose environment carries a variable of this name, but the one of the id `spare`.

    Children inherit it, so this reaches what killing a process group does not: the kernel, which jupyter starts in a
    session of its own, whatever a notebook started, and orphans whose parent is gone. A child whose environment was
    replaced is not reached.
    """
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        killed = 0
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):  # it has just ended, or is another user's
                if process.pid != spare and mark in process.environ():
                    process.kill()
                    killed += 1
        if not killed:
            return
        time.sleep(0.05)


def _end_with(parent: int) -> None:
    """End this process when the one that began it is gone: a kernel that was restarted leaves no training behind."""
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(parent).wait()
    os._exit(1)


if __name__ == "__main__":
    answer, parent = Path(sys.argv[1]), int(sys.argv[2])
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    job = pickle.load(sys.stdin.buffer)
    try:
        result = job()
    except Exception as error:
        answer.write_bytes(pickle.dumps(f"{type(error).__name__}: {error}"))  # whole; the traceback goes to the log
        raise
    answer.write_bytes(pickle.dumps(result))
