"""Run a command that ends with the process that began it, however that one ends.

python -m nbhelpers.serving.child PARENT COMMAND ...

A server that outlives its notebook holds a port and the memory of a model. Signals do not help where a kernel is
killed, so that this process, between the two, watches the parent and takes the command and all that it started along.
"""

import contextlib
import subprocess
import sys
import time

import psutil

WATCH_SECONDS = 0.5


def end(process: psutil.Process, seconds: float = 5.0) -> None:
    """End a process and all that it started: asked first, killed where they stay."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [*process.children(recursive=True), process]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.terminate()
        _, stubborn = psutil.wait_procs(family, seconds)
        for member in stubborn:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(stubborn, seconds)


def main(parent: int, command: list[str]) -> int:
    try:
        owner = psutil.Process(parent)
    except psutil.NoSuchProcess:
        return 1
    running = subprocess.Popen(command)
    while running.poll() is None:
        if not owner.is_running() or owner.status() == psutil.STATUS_ZOMBIE:
            end(psutil.Process(running.pid))
            return 1
        time.sleep(WATCH_SECONDS)
    return running.returncode


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
