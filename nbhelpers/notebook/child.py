"""papermill in a child process of the runner: `python -m nbhelpers.notebook.child PARENT_PID TASK`.

It differs from papermill's command line in four things. It ends, with its kernel, when the runner is gone. It writes a
notebook in one step, so that a reader finds a whole one at any time. It writes no path of this machine into it: those
of the repository become relative, and the home folder `~`. It speaks with the kernel through socket files instead of
ports, where the system has them: two notebooks that start at once cannot take the same port.
"""

import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import threading
import traceback
from pathlib import Path

import psutil

from nbhelpers.core import storage

KERNEL_DIED = 138  # papermill's exit code for it


def without_machine_paths(text: str) -> str:
    """A notebook's JSON, or a log, in which paths below the repository are relative and the home folder is `~`."""
    root, home = (re.escape(json.dumps(str(path))[1:-1]) for path in (storage.repository_root(), Path.home()))
    before, behind = r"(?<![\w.~-])", r"(?![\w-])"
    if storage.repository_root() != Path("/"):
        text = re.sub(f"{before}{root}{behind}(/?)", lambda match: "" if match[1] else ".", text)
    return re.sub(f"{before}{home}{behind}", "~", text) if Path.home() != Path("/") else text


def _end_with(parent: int) -> None:
    """Wait for the runner to be gone, then end the kernel and all that it started, and this process."""
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(parent).wait()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()
    os._exit(1)


def _write(self, buffer: str, path: str) -> None:
    with storage.replaced(path) as file:
        file.write(without_machine_paths(buffer))


def main(parent: int, task: dict) -> int:
    """Execute a notebook; the exit code is that of papermill's command line.

    Args:
        parent: process id of the runner.
        task: `input` and `output`, paths; `parameters`, name -> value.
    """
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: None)  # the kernel may have a checkpoint to write; the runner ends both
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill import iorw
    from traitlets.config import Config

    iorw.LocalHandler.write = _write
    paths = [task[name].replace("{", "{{").replace("}", "}}") for name in ("input", "output")]  # papermill formats them
    options = {"kernel_name": "python3", "language": "python", "progress_bar": False, "cwd": os.getcwd()}
    with tempfile.TemporaryDirectory(prefix="nbhelpers-") as sockets:
        if sys.platform != "win32":
            kernel = {"transport": "ipc", "ip": str(Path(sockets, "kernel"))}
            options["config"] = Config(KernelManager=kernel, AsyncKernelManager=kernel)
        try:
            papermill.execute_notebook(*paths, parameters=task["parameters"], **options)
        except DeadKernelError:
            traceback.print_exc()
            return KERNEL_DIED
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), json.loads(sys.argv[2])))
