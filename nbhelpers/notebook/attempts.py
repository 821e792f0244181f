"""One task of a batch, started as often as the options allow."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from nbhelpers.core import redaction
from nbhelpers.core.errors import NotebookError
from nbhelpers.core.storage import read_json
from nbhelpers.notebook import copies, launch, runner
from nbhelpers.notebook.plan import Task
from nbhelpers.notebook.report import describe
from nbhelpers.notebook.runner import Limits, Result, Stop


@dataclass(frozen=True)
class Options:
    """How a batch is run.

    Args:
        jobs: notebooks at a time, at most; fewer where their memory would not fit together. They share the cores.
        timeout: seconds after which a notebook is killed with all that it started.
        memory_bytes: that the processes of a notebook may hold together; one that holds more is killed.
        retry: how often a notebook that failed is started again.
        anew: run also what is done already, trainings from their first step.
        fail_fast: leave out what has not begun when a notebook has failed.
        max_dollars: leave out what has not begun, and stop what runs, when the batch has cost so much.
        dollars_per_hour: of this machine.
        executor: `threads`, each with a child process here, or `ray`.
        copy_to: an address to which every notebook's folder is copied when it has ended, and from which it comes back
            to a machine that has none.
    """

    jobs: int = 1
    timeout: float | None = None
    memory_bytes: int | None = None
    retry: int = 0
    anew: bool = False
    fail_fast: bool = False
    max_dollars: float | None = None
    dollars_per_hour: float = 0.0
    executor: str = "threads"
    copy_to: str | None = None


def attempts(
    task: Task,
    facts: dict,
    options: Options,
    threads: int | None,
    stop: Stop | None = None,
    show: Callable[[dict | None, float], None] = lambda notebook, seconds: None,
    say: Callable[[str], None] = print,
) -> Result:
    """Run a task; a training goes on from what the last attempt, or an earlier start with the same code, left.

    Args:
        facts: of `launch.facts`.
        threads: cores to compute with; None: all.
        stop, show: of `runner.run_one`.
        say: called with a line about each attempt that failed and is not the last.
    """
    stop = stop or Stop()
    limits, values = Limits(options.timeout, options.memory_bytes, threads), dict(task.values)
    begun = launch.earlier(task.folder) or facts
    anew = options.anew or any(begun.get(name) != facts[name] for name in ("code", "versions"))
    for attempt in range(1, options.retry + 2):
        if "resume" in task.declared.keys() - task.values.keys():
            values["resume"] = "never" if anew and attempt == 1 else "auto"
        try:
            result = runner.run_one(task.path, task.folder, values, limits, show, stop, facts)
        except OSError as error:
            reason = redaction.redact(f"{task.folder} cannot be written to: {error.strerror}")
            result = Result(task.notebook, "failed", reason)
        else:
            executed = read_json(task.folder / f"{task.notebook}.ipynb")
            result = replace(result, forecast_seconds=task.forecast(executed))
        result = replace(result, point=task.point, attempts=attempt)
        if result.status != "failed" or attempt > options.retry or stop.reason:
            break
        say(f"{describe(asdict(result))}; it is started again")
    return copied(task, result, options.copy_to)


def copied(task: Task, result: Result, address: str | None) -> Result:
    """The result, after the task's folder was copied to an address; what completed and was not copied has failed."""
    if address:
        try:
            copies.copy(task.folder, f"{address.rstrip('/')}/{task.name}")
        except NotebookError as error:
            reason = "; ".join(filter(None, (result.reason, redaction.redact(f"not copied: {error}"))))
            status = "failed" if result.status == "completed" else result.status
            result = replace(result, status=status, reason=reason)
    return result
