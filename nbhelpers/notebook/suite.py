"""A batch of notebooks, one or several at a time, and what became of each."""

import contextlib
import importlib.util
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from filelock import FileLock, Timeout

from nbhelpers.core import redaction, storage
from nbhelpers.core.errors import NotebookError
from nbhelpers.core.storage import read_json
from nbhelpers.notebook import attempts, copies, executors, launch, runner
from nbhelpers.notebook.attempts import Options
from nbhelpers.notebook.executors import Printer
from nbhelpers.notebook.plan import Task
from nbhelpers.notebook.report import describe
from nbhelpers.notebook.run_folder import recorded
from nbhelpers.notebook.runner import Result, Stop


class _Batch:
    """A batch while it runs: what waits, what runs, what has ended.

    The files in a task's folder say whether it is done; the entries of suite.json are for the reader.
    """

    def __init__(self, tasks: Sequence[Task], folder: Path, options: Options, printer: Printer):
        self.tasks, self.folder, self.options, self.printer = tasks, folder, options, printer
        self.stop = Stop()
        ray = options.executor == "ray"
        self.executor = executors.Ray(options, self.stop) if ray else executors.Threads(options, printer, self.stop)
        self.waiting = list(tasks)
        self.running: dict[Future, Task] = {}
        self.results = recorded(folder)
        self.failed = False
        self.spent, self.looked = 0.0, time.monotonic()

    def run(self) -> list[Result]:
        """Begin tasks as they become ready until all have ended."""
        with self.executor:
            self._fetch()
            while self.waiting or self.running:
                if reason := self._end():
                    for task in self.waiting:
                        if not self._is_done(task):
                            self._note(task, Result(task.notebook, "not run", reason, point=task.point))
                    self.waiting = []
                if self.stop.reason:
                    self.executor.interrupt()
                while task := self._ready():
                    self.waiting.remove(task)
                    self._guarded(task, self._begin, task)
                done, _ = wait(self.running, timeout=runner.POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    self._guarded(self.running[future], self._finish, future)
                    del self.running[future]
        return [self.results[task.name] for task in self.tasks]

    def _fetch(self) -> None:
        """On a fresh machine, bring back what an earlier one has copied to the address: it may be done."""
        for task in self.tasks if self.options.copy_to and not self.options.anew else ():
            if not (task.folder / launch.FILE).exists():
                try:
                    copies.fetch(f"{self.options.copy_to.rstrip('/')}/{task.name}", task.folder)
                except NotebookError as error:
                    self.printer.line(redaction.redact(f"{task.name}: {error}"))

    def _guarded(self, task: Task, step: Callable, argument) -> None:
        """Take a step; whatever goes wrong with one task is that task's failure and ends no other."""
        try:
            step(argument)
        except Exception as error:
            reason = redaction.redact(f"{type(error).__name__}: {error}")[:2_000]
            self._note(task, Result(task.notebook, "failed", reason, point=task.point))

    def _end(self) -> str | None:
        """Why nothing more may begin, if so."""
        machines = max(1, len(self.running)) if self.options.executor == "ray" else 1
        seconds, self.looked = time.monotonic() - self.looked, time.monotonic()
        self.spent += machines * seconds / 3600 * self.options.dollars_per_hour
        most = self.options.max_dollars
        if most is not None and self.spent > most and not self.stop.reason:
            self.stop.reason = f"the batch has cost ${self.spent:.2f}, more than the limit of ${most:g}"
        return self.stop.reason or ("an earlier notebook failed" if self.options.fail_fast and self.failed else None)

    def _ready(self) -> Task | None:
        """The next task that may begin: those before it have ended, and there is memory for it."""
        if len(self.running) >= self.options.jobs:
            return None
        share = self.executor.memory_free / self.options.jobs  # of a task of which no peak is known
        held = sum(task.memory_bytes or share for task in self.running.values())
        unfinished = {task.name for task in (*self.waiting, *self.running.values())}
        for task in self.waiting:
            fits = not self.running or held + (task.memory_bytes or share) <= self.executor.memory_free
            if fits and not task.before & unfinished:
                return task
        return None

    def _is_done(self, task: Task) -> bool:
        return not self.options.anew and not why_again(task)

    def _begin(self, task: Task) -> None:
        """Start a task, unless its earlier result stands."""
        why = ["as asked"] if self.options.anew else why_again(task)
        if not why:
            self.printer.line(f"{task.name} is done: same code, parameters, versions and inputs")
            seconds = (read_json(task.folder / "metrics.json") or {}).get("measured", {}).get("notebook_seconds", 0.0)
            known = self.results.get(task.name)
            new = Result(task.notebook, "completed", seconds=seconds, point=task.point)
            done = known if known and known.status == "completed" else new
            self._note(task, attempts.copied(task, done, self.options.copy_to))
            return
        if (task.folder / launch.FILE).exists():
            self.printer.line(f"{task.name} runs again: {', '.join(why)[:300]}")
        lost = Result(task.notebook, "interrupted", "the batch ended before it did", point=task.point)
        self._record(task, lost)  # what a reader finds if this process is killed
        self.running[self.executor.submit(task, task.facts())] = task

    def _finish(self, future: Future) -> None:
        task = self.running[future]
        self._note(task, self.executor.result(future, task))

    def _note(self, task: Task, result: Result) -> None:
        """Keep a result, print it, and write all of them."""
        self.failed = self.failed or result.status == "failed"
        self._record(task, result)
        self.printer.line(describe(asdict(result)))

    def _record(self, task: Task, result: Result) -> None:
        self.results[task.name] = result
        try:
            found = [asdict(self.results[name]) for name in sorted(self.results)]
            storage.write_json(self.folder / "suite.json", found)
        except OSError as error:
            self.printer.line(f"suite.json was not written: {error.strerror}")


def why_again(task: Task) -> list[str]:
    """Why a task must run, although it may have before; empty where its earlier result stands."""
    return launch.still_stands(task.folder, task.facts())


@contextlib.contextmanager
def _signals(stop: Stop, printer: Printer, on_ray: bool):
    """Ctrl-C, SIGTERM and a lost terminal stop the batch while the block runs; a second one at once.

    Only the main thread can have that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_) -> None:
        stop.at_once = stop.reason is not None
        if stop.reason is None:
            stop.reason = "interrupted by the user"
            saving = f"up to {runner.GRACE_SECONDS:.0f} s for what trains to save; again to stop at once"
            printer.line("stopping: the workers are killed" if on_ray else f"stopping: {saving}")

    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_suite(
    tasks: Sequence[Task],
    folder: Path,
    options: Options,
    stream: TextIO | None = None,
) -> list[Result]:
    """Run the tasks of a plan; write `<folder>/suite.json` after each; return a result for each.

    What is done already with the same code, parameters, versions and inputs is not run again; what failed goes on from
    its last whole checkpoint where it trains. Ctrl-C or SIGTERM stops what runs, and the rest is not begun.

    Args:
        tasks: of `plan.tasks`.
        folder: of the run, `<output_dir>/<run_id>`; nobody else may be running in it.
        stream: where progress is printed, standard output by default.

    Raises:
        NotebookError: nothing was started: papermill is not installed, another batch uses the folder, or it cannot be
            written to.
    """
    for module in ("papermill", "ipykernel"):
        if importlib.util.find_spec(module) is None:
            raise NotebookError(f"{module} is not installed; pip install '.[notebooks]' in the repository brings it.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise NotebookError(f"Another batch is running in {folder}. Wait for it, or give another --run-id.") from None
    except OSError as error:
        raise NotebookError(f"{folder} cannot be written to: {error.strerror}. Give another --output-dir.") from None
    try:
        printer = Printer(stream or sys.stdout, options.jobs == 1)
        batch = _Batch(tasks, folder, options, printer)
        with _signals(batch.stop, printer, options.executor == "ray"):
            return batch.run()
    finally:
        lock.release()
