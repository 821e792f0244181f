"""papermill in a child process of the runner: `python -m nbhelpers.notebook.child PARENT_PID TASK`.

It differs from papermill's command line in four things. It ends, with its kernel, when the runner is gone. It writes a
notebook in one step, so that a reader finds a whole one at any time. Outputs and parameters in it name no folder of
this machine and no secret. It speaks with the kernel through socket files instead of ports, where the system has them:
two notebooks that start at once cannot take the same port.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import psutil

from nbhelpers.core import process, redaction, storage
from nbhelpers.notebook import notebook_file

KERNEL_DIED = 138  # papermill's exit code for it
LONGEST_SOCKET = 90  # characters of its path: systems allow about a hundred
POLL_SECONDS = 0.5


def _end_with(parent: int, mark: str) -> None:
    """Wait for the runner to be gone, then end the kernel and all that it started, and this process."""
    with contextlib.suppress(psutil.NoSuchProcess):
        runner = psutil.Process(parent)
        while runner.is_running() and runner.status() != psutil.STATUS_ZOMBIE:
            time.sleep(POLL_SECONDS)
    process.kill_marked(mark, spare=os.getpid())
    os._exit(1)


def _write(self, buffer: str, path: str) -> None:
    """Write a notebook; what its author wrote stays, all else in it is redacted."""
    notebook = json.loads(buffer)
    for cell in notebook["cells"]:
        own = {} if "injected-parameters" in notebook_file.tags_of(cell) else {"source": cell["source"]}
        cell |= redaction.redacted(cell) | own
    notebook["metadata"] = redaction.redacted(notebook["metadata"])
    with storage.replaced(path) as file:
        file.write(json.dumps(notebook, indent=1) + "\n")


def main(parent: int, task: dict) -> int:
    """Execute a notebook; the exit code is that of papermill's command line.

    Args:
        parent: process id of the runner.
        task: `input` and `output`, paths; `parameters`, name -> value; `sockets`, a folder for those of the kernel;
            `mark`, what the environment of all processes carries.
    """
    threading.Thread(target=_end_with, args=(parent, task["mark"]), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: None)  # the kernel may have a checkpoint to write; the runner ends both
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill import iorw
    from traitlets.config import Config

    iorw.LocalHandler.write = _write
    paths = [task[name].replace("{", "{{").replace("}", "}}") for name in ("input", "output")]  # papermill formats them
    options = {"kernel_name": "python3", "language": "python", "progress_bar": False, "cwd": os.getcwd()}
    sockets = str(Path(task["sockets"], "kernel"))
    if sys.platform != "win32" and len(sockets) < LONGEST_SOCKET:
        kernel = {"transport": "ipc", "ip": sockets}
        options["config"] = Config(KernelManager=kernel, AsyncKernelManager=kernel)
    try:
        papermill.execute_notebook(*paths, parameters=task["parameters"], **options)
    except DeadKernelError:
        traceback.print_exc()
        return KERNEL_DIED
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), json.loads(sys.argv[2])))
