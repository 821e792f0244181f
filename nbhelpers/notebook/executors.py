"""Where the tasks of a batch are computed: by threads of this process, or by the machines of a Ray cluster.

Both give a future for a task. A thread starts the notebook in a child process here. A Ray worker does so on its machine
and sends back what a reader looks at: the executed notebook, the results and the figures. What is large, such as
adapters, stays where it was made, unless the output folder is one that all machines share.
"""

import contextlib
import io
import os
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from nbhelpers.core import hardware, redaction, storage
from nbhelpers.core.errors import NotebookError
from nbhelpers.core.progress import duration
from nbhelpers.notebook import notebook_file, runner
from nbhelpers.notebook.attempts import Options, attempts
from nbhelpers.notebook.plan import Task
from nbhelpers.notebook.runner import Result, Stop

HANDED_ON = ("HF_TOKEN", "NBHELPERS_CHECKPOINTS")  # environment variables that hold on every machine
LOST = 3  # times that a task is begun anew when its machine is lost


class Printer:
    """What a batch says: a line for each new cell, or, of one notebook on a terminal, one line kept fresh."""

    def __init__(self, stream: TextIO, fresh: bool):
        self.stream, self.fresh, self.lock = stream, fresh and stream.isatty(), threading.Lock()

    def line(self, text: str, keep: bool = True) -> None:
        with self.lock:
            start = "\r\x1b[2K" if self.fresh else ""
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more: the batch goes on
                print(start + text, end="\n" if keep or not self.fresh else "", file=self.stream, flush=True)

    def progress(self, task: Task) -> Callable[[dict | None, float], None]:
        """A function that prints how far a notebook is."""
        shown, since, first, total = 0, 0.0, 0.0, len(notebook_file.code_cells(notebook_file.read_notebook(task.path)))

        def show(notebook: dict | None, seconds: float) -> None:
            nonlocal shown, since, first
            cells = [cell for _, cell in runner.started_cells(notebook)]
            count = len(cells)
            if count == 0 or (count == shown and not self.fresh):
                return
            if count < shown or shown == 0:  # the first cell, of another attempt too
                first = seconds
            if count != shown:
                shown, since = count, seconds
            begun = {cell.get("id"): runner.seconds_of(cell) for cell in cells}
            left = task.left(begun, seconds - first, seconds - since)
            eta = "no reference" if left is None else f"ETA {duration(left)}"
            self.line(f"{task.name}  cell {count} of {total}  {duration(seconds)}  {eta}", keep=False)

        return show


class Threads:
    """Tasks in child processes of this one, `options.jobs` at a time; they share the cores."""

    def __init__(self, options: Options, printer: Printer, stop: Stop):
        self.options, self.printer, self.stop = options, printer, stop
        machine = hardware.detect()
        self.memory_free = hardware.memory_free(machine.device)
        self.threads = max(1, machine.cores // options.jobs) if options.jobs > 1 else None
        self.pool = ThreadPoolExecutor(options.jobs)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.pool.shutdown()

    def submit(self, task: Task, facts: dict) -> Future:
        """Begin a task."""
        show, say = self.printer.progress(task), self.printer.line
        return self.pool.submit(attempts, task, facts, self.options, self.threads, self.stop, show, say)

    def result(self, future: Future, task: Task) -> Result:
        """What became of a task whose future has ended."""
        return future.result()

    def interrupt(self) -> None:
        """What runs looks at `stop` itself."""


class Ray:
    """Tasks on a Ray cluster: the one at RAY_ADDRESS, or one of this machine alone.

    The repository travels to each machine, which needs Python with the same packages. A task whose machine is lost is
    begun anew on another one.
    """

    memory_free = float("inf")  # Ray places tasks where their memory is

    def __init__(self, options: Options, stop: Stop):
        try:
            import ray
        except ImportError:
            raise NotebookError("ray is not installed; pip install 'nbhelpers[ray]' brings it.") from None
        self.ray, self.options, self.stop, self.references = ray, options, stop, {}

    def __enter__(self):
        if not self.ray.is_initialized():
            left_out = ["outputs/*", "!outputs/reference", "wheelhouse", ".venv", ".git", "**/__pycache__"]
            handed_on = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
            environment = {"working_dir": str(storage.repository_root()), "excludes": left_out, "env_vars": handed_on}
            self.ray.init(runtime_env=environment, log_to_driver=False, logging_level="error")
        return self

    def __exit__(self, *_) -> None:
        self.ray.shutdown()

    def submit(self, task: Task, facts: dict) -> Future:
        """Begin a task on a machine with the memory that its reference took; a GPU goes to each where there are any."""
        total, root = self.ray.cluster_resources(), storage.repository_root()
        needs = {"num_cpus": 1, "max_retries": LOST}
        needs |= {"memory": task.memory_bytes} if task.memory_bytes else {}
        needs |= {"num_gpus": 1} if total.get("GPU") else {}
        places = tuple(
            path.relative_to(root) if path.is_relative_to(root) else path for path in (task.path, task.folder)
        )
        reference = self.ray.remote(**needs)(_on_worker).remote(task, places, facts, self.options)
        future = reference.future()
        self.references[future] = reference
        return future

    def result(self, future: Future, task: Task) -> Result:
        """What became of a task whose future has ended; its files lie in the task's folder then."""
        del self.references[future]
        try:
            result, files = future.result()
        except Exception as error:  # a worker that was lost too often, or cancelled; Ray's errors have no common base
            if self.stop.reason:
                return Result(task.notebook, "interrupted", self.stop.reason, point=task.point)
            reason = redaction.redact(f"on Ray: {type(error).__name__}: {error}")[:500]
            return Result(task.notebook, "failed", reason, point=task.point)
        runner.clear(task.folder)
        with zipfile.ZipFile(io.BytesIO(files)) as archive:
            archive.extractall(task.folder)
        return result

    def interrupt(self) -> None:
        """Kill the workers; the notebooks end with them."""
        for reference in self.references.values():
            self.ray.cancel(reference, force=True)


def _on_worker(task: Task, places: tuple[Path, Path], facts: dict, options: Options) -> tuple[Result, bytes]:
    """Run a task on this machine; the result, and the files of its folder that are no artefacts, as a zip archive."""
    root = storage.repository_root()
    task = replace(task, path=Path(root, places[0]), folder=Path(root, places[1]))
    result = attempts(task, facts, options, threads=None)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(task.folder.rglob("*")):
            name = path.relative_to(task.folder)
            if path.is_file() and name.parts[0] != "artifacts":
                archive.write(path, name)
    return result, packed.getvalue()
