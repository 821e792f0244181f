"""A batch of notebooks, one or several at a time, and what became of each."""

import contextlib
import importlib.util
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, fields
from pathlib import Path
from typing import TextIO

from filelock import FileLock, Timeout

from nbhelpers.core import storage
from nbhelpers.core.errors import NotebookError
from nbhelpers.core.storage import read_json
from nbhelpers.notebook import executors, launch, runner
from nbhelpers.notebook.attempts import Options
from nbhelpers.notebook.executors import Printer
from nbhelpers.notebook.plan import Task, name_of
from nbhelpers.notebook.report import describe
from nbhelpers.notebook.runner import Result


class _Batch:
    """A batch while it runs: what waits, what runs, what has ended."""

    def __init__(self, tasks: Sequence[Task], folder: Path, options: Options, printer: Printer):
        self.tasks, self.folder, self.options, self.printer = tasks, folder, options, printer
        self.executor = executors.Ray(options) if options.executor == "ray" else executors.Threads(options, printer)
        self.stopped: str | None = None  # why what runs is to be stopped
        self.waiting = list(tasks)
        self.running: dict[Future, Task] = {}
        self.results: dict[str, Result] = {}
        self.ran: set[str] = set()  # names of the tasks that were not left as they are
        self.begun = time.monotonic()
        earlier = [_result(entry) for entry in read_json(folder / "suite.json") or []]
        self.earlier = {name_of(result.point, result.notebook): result for result in earlier}

    def run(self) -> list[Result]:
        """Begin tasks as they become ready until all have ended."""
        with self.executor:
            while self.waiting or self.running:
                if reason := self._end():
                    for task in self.waiting:
                        self._note(Result(task.notebook, "not run", reason, point=task.point))
                    self.waiting = []
                if self.stopped:
                    self.executor.stop(self.stopped)
                while task := self._ready():
                    self.waiting.remove(task)
                    self._begin(task)
                done, _ = wait(self.running, timeout=runner.POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    self._note(self.executor.result(future, self.running[future]))
                    del self.running[future]
        return [self.results[task.name] for task in self.tasks]

    def _end(self) -> str | None:
        """Why nothing more may begin, if so."""
        cost, most = (time.monotonic() - self.begun) / 3600 * self.options.dollars_per_hour, self.options.max_dollars
        if most is not None and cost > most:
            self.stopped = f"the batch has cost ${cost:.2f}, more than the limit of ${most:g}"
        failed = any(result.status == "failed" for result in self.results.values())
        return self.stopped or ("an earlier notebook failed" if self.options.fail_fast and failed else None)

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

    def _begin(self, task: Task) -> None:
        """Start a task, unless its earlier result stands."""
        facts, earlier = launch.facts(task.path, task.declared, task.values), self.earlier.get(task.name)
        why = [f"{name} ran again" for name in sorted(task.before & self.ran)]
        if earlier and earlier.status != "completed":
            why = ["it failed" if earlier.status == "failed" else f"it was {earlier.status}"]
        why = why or launch.still_stands(task.folder, facts)
        if earlier and not why and not self.options.anew:
            self.printer.line(f"{task.name} is done: same code, parameters, versions and inputs")
            self._note(earlier)
            return
        if earlier and not self.options.anew:
            self.printer.line(f"{task.name} runs again: {', '.join(why)[:300]}")
        self.ran.add(task.name)
        self.running[self.executor.submit(task, facts)] = task

    def _note(self, result: Result) -> None:
        """Keep a result, print it, and write all of them."""
        self.results[name_of(result.point, result.notebook)] = result
        self.printer.line(describe(asdict(result)))
        found = self.earlier | self.results
        try:
            storage.write_json(self.folder / "suite.json", [asdict(found[name]) for name in sorted(found)])
        except OSError as error:
            self.printer.line(f"suite.json was not written: {error.strerror}")


def _result(entry: dict) -> Result:
    """A result as suite.json keeps it; one of an earlier version may have other fields."""
    return Result(**{field.name: entry[field.name] for field in fields(Result) if field.name in entry})


@contextlib.contextmanager
def _signals(batch: _Batch):
    """Ctrl-C and SIGTERM stop the batch while the block runs; only the main thread can have that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_) -> None:
        batch.stopped = "interrupted by the user"

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
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
        batch = _Batch(tasks, folder, options, Printer(stream or sys.stdout, options.jobs == 1))
        with _signals(batch):
            return batch.run()
    finally:
        lock.release()
