"""A batch of notebooks, one or several at a time, and what became of each."""

import contextlib
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TextIO

from filelock import FileLock, Timeout

from nbhelpers.core import hardware, storage
from nbhelpers.core.errors import NotebookError
from nbhelpers.core.progress import duration
from nbhelpers.core.storage import read_json
from nbhelpers.notebook import launch, notebook_file, runner
from nbhelpers.notebook.plan import Task, name_of
from nbhelpers.notebook.report import describe
from nbhelpers.notebook.runner import Limits, Result


@dataclass(frozen=True)
class Options:
    """How a batch is run.

    Args:
        jobs: notebooks at a time, at most; fewer where their memory would not fit together. They share the cores.
        timeout: seconds after which a notebook is killed with all that it started.
        memory_bytes: that the processes of a notebook may hold together; one that holds more is killed.
        retry: how often a notebook that failed is started again.
        anew: run also what is done already.
        fail_fast: leave out what has not begun when a notebook has failed.
        max_dollars: leave out what has not begun, and stop what runs, when the batch has cost so much.
        dollars_per_hour: of this machine.
    """

    jobs: int = 1
    timeout: float | None = None
    memory_bytes: int | None = None
    retry: int = 0
    anew: bool = False
    fail_fast: bool = False
    max_dollars: float | None = None
    dollars_per_hour: float = 0.0


class _Printer:
    """What a batch says: a line for each new cell, or, of one notebook on a terminal, one line kept fresh."""

    def __init__(self, stream: TextIO, fresh: bool):
        self.stream, self.fresh, self.lock = stream, fresh and stream.isatty(), threading.Lock()

    def line(self, text: str, keep: bool = True) -> None:
        with self.lock:
            start = "\r\x1b[2K" if self.fresh else ""
            print(start + text, end="\n" if keep or not self.fresh else "", file=self.stream, flush=True)

    def progress(self, task: Task) -> Callable[[dict | None, float], None]:
        """A function that prints how far a notebook is."""
        shown, total = 0, len(notebook_file.code_cells(notebook_file.read_notebook(task.path)))

        def show(notebook: dict | None, seconds: float) -> None:
            nonlocal shown
            count = len(runner.started_cells(notebook))
            if count == 0 or (count == shown and not self.fresh):
                return
            shown = count
            eta = "no reference" if task.seconds is None else f"ETA {duration(max(0.0, task.seconds - seconds))}"
            self.line(f"{task.name}  cell {count} of {total}  {duration(seconds)}  {eta}", keep=False)

        return show


class _Batch:
    """A batch while it runs: what waits, what runs, what has ended."""

    def __init__(self, tasks: Sequence[Task], folder: Path, options: Options, printer: _Printer):
        self.tasks, self.folder, self.options, self.printer = tasks, folder, options, printer
        self.stopped: str | None = None  # why what runs is to be stopped
        self.waiting = list(tasks)
        self.running: dict[Future, Task] = {}
        self.results: dict[str, Result] = {}
        self.ran: set[str] = set()  # names of the tasks that were not left as they are
        self.begun = time.monotonic()
        self.memory_free = hardware.memory_free("cpu")
        earlier = [_result(entry) for entry in read_json(folder / "suite.json") or []]
        self.earlier = {name_of(result.point, result.notebook): result for result in earlier}

    def run(self) -> list[Result]:
        """Begin tasks as they become ready until all have ended."""
        with ThreadPoolExecutor(self.options.jobs) as pool:
            while self.waiting or self.running:
                if reason := self._end():
                    for task in self.waiting:
                        self._note(Result(task.notebook, "not run", reason, point=task.point))
                    self.waiting = []
                while task := self._ready():
                    self.waiting.remove(task)
                    self._begin(task, pool)
                done, _ = wait(self.running, timeout=runner.POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    self._note(future.result())
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
        share = self.memory_free / self.options.jobs  # of a task of which no peak is known
        held = sum(task.memory_bytes or share for task in self.running.values())
        unfinished = {task.name for task in (*self.waiting, *self.running.values())}
        for task in self.waiting:
            fits = not self.running or held + (task.memory_bytes or share) <= self.memory_free
            if fits and not task.before & unfinished:
                return task
        return None

    def _begin(self, task: Task, pool: ThreadPoolExecutor) -> None:
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
        self.running[pool.submit(self._attempts, task, facts)] = task

    def _attempts(self, task: Task, facts: dict) -> Result:
        """Run one task, as often as the options allow; a training goes on from what the last attempt left."""
        options, jobs, values = self.options, self.options.jobs, dict(task.values)
        threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None
        limits = Limits(options.timeout, options.memory_bytes, threads)
        same = not launch.differences(read_json(task.folder / launch.FILE), facts)
        for attempt in range(1, options.retry + 2):
            if "resume" in task.declared.keys() - task.values.keys() and (attempt > 1 or (same and not options.anew)):
                values["resume"] = "auto"
            try:
                show = self.printer.progress(task)
                result = runner.run_one(task.path, task.folder, values, limits, show, lambda: self.stopped, facts)
            except OSError as error:
                result = Result(task.notebook, "failed", f"{task.folder} cannot be written to: {error.strerror}")
            result = replace(result, point=task.point, attempts=attempt)
            if result.status != "failed" or attempt > options.retry:
                break
            self.printer.line(f"{describe(asdict(result))}; it is started again")
        return result

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
    options: Options = Options(),
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
        batch = _Batch(tasks, folder, options, _Printer(stream or sys.stdout, options.jobs == 1))
        with _signals(batch):
            return batch.run()
    finally:
        lock.release()
