"""One notebook in a child process that can be stopped whole, judged by what it left behind.

papermill marks every cell of a notebook `completed` when its kernel is killed, so its marks are not believed: a
notebook has completed when every code cell ran without an error and a fresh `metrics.json` lies in its folder.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import nbhelpers
from nbhelpers.core import redaction, storage
from nbhelpers.core.hardware import CORES
from nbhelpers.core.process import kill_marked
from nbhelpers.core.storage import read_json
from nbhelpers.notebook import launch, notebook_file, usage
from nbhelpers.notebook.child import KERNEL_DIED

POLL_SECONDS = 0.25
GRACE_SECONDS = 60.0  # for an interrupted training to end its step and save it
NO_SPACE = "No space left on device"


@dataclass(frozen=True)
class Result:
    """How one notebook ended. `status` is completed, failed, interrupted or not run.

    `cell` is the one it stopped at: its index in the notebook (from 0), its id and the first line of its source.
    `point` is the name of its point of a sweep; `attempts` how often it was started; `peak_memory_bytes` the most that
    all its processes held, `cores_used` and `gpu_used` (0 to 1) means over its time. `forecast_seconds` is of
    `Task.forecast`.
    """

    notebook: str
    status: str
    reason: str | None = None
    cell: dict[str, Any] | None = None
    seconds: float = 0.0
    exit_code: int | None = None
    point: str = ""
    attempts: int = 1
    peak_memory_bytes: int | None = None
    cores_used: float | None = None
    gpu_used: float | None = None
    forecast_seconds: float | None = None


@dataclass(frozen=True)
class Limits:
    """When a notebook is stopped: after `seconds`, or when its processes hold more than `memory_bytes`; None: never.

    `threads` is how many cores it computes with; None: all.
    """

    seconds: float | None = None
    memory_bytes: int | None = None
    threads: int | None = None


@dataclass
class Stop:
    """Whether notebooks that run are to be stopped: `reason` says why, `at_once` leaves them no time to save."""

    reason: str | None = None
    at_once: bool = False


def started_cells(notebook: dict | None) -> list[tuple[int, dict]]:
    """The code cells that papermill began: it notes the time before a cell runs and invents none afterwards."""
    return [
        (i, c) for i, c in notebook_file.code_cells(notebook) if c["metadata"].get("papermill", {}).get("start_time")
    ]


def seconds_of(cell: dict) -> float:
    """How long papermill measured that a cell took; 0 while it is at work."""
    return cell["metadata"]["papermill"].get("duration") or 0.0


def cell_facts(places: list[tuple[int, dict]]) -> dict[str, Any] | None:
    """What a result says about the last of these cells."""
    if not places:
        return None
    index, cell = places[-1]
    return {"index": index, "id": cell.get("id"), "source": notebook_file.source_of(cell).strip().splitlines()[0]}


def _let_save(process: subprocess.Popen, seconds: float, stop: Stop) -> None:
    """Send SIGTERM to what papermill started, and wait for all to end by themselves: a training saves its step."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.terminate()
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end and not stop.at_once:
        time.sleep(POLL_SECONDS)


def _judge(notebook: dict | None, exit_code: int, folder: Path, log: str, begun: int) -> tuple[str | None, dict | None]:
    """`(reason, cell)` of a notebook whose process ended by itself; the reason is None when it has completed.

    `begun` is the time in ns that the file system gave a file written at the start; `log` what papermill printed.
    """
    started = started_cells(notebook)
    if exit_code == KERNEL_DIED:
        return "kernel died (SIGKILL or a crash; out of memory is the usual cause)", cell_facts(started)
    for place in started:
        for output in place[1]["outputs"]:
            if output["output_type"] == "error":
                return f"{output['ename']}: {output['evalue']}"[:2_000], cell_facts([place])
    if exit_code:
        if NO_SPACE in log:
            return f"the disk is full: {NO_SPACE} ({folder})", cell_facts(started)
        lines = log.strip().splitlines()
        said = next((line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception|Exit)\b", line)), None)
        how = f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with code {exit_code}"
        return f"papermill {how}: {said or (lines[-1] if lines else 'it printed nothing')}", cell_facts(started)
    unexecuted = [place for place in notebook_file.code_cells(notebook) if place[1]["execution_count"] is None]
    if unexecuted or not started:
        return "not every cell was executed", cell_facts(unexecuted[:1])
    path = folder / "metrics.json"
    if not path.exists() or path.stat().st_mtime_ns < begun:
        return "ran to the end without writing metrics.json", None
    content = read_json(path)
    if not isinstance(content, dict) or content.get("status") != "completed":
        return "wrote a metrics.json whose status is not completed", None
    return None, None


def clear(folder: Path) -> None:
    """Leave nothing of an earlier run that a reader could take for the next one's.

    Artifacts stay, they are found by their hashes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ("metrics.json", "manifest.json", "papermill.log", f"{folder.name}.ipynb", f"{folder.name}.html")
    for stale in (*(folder / name for name in names), *folder.glob("figures/*.png")):
        stale.unlink(missing_ok=True)


def _prepare(folder: Path, facts: dict | None) -> int:
    """`clear` the folder and note the facts there; the time (ns) that the file system gives a file now."""
    clear(folder)
    storage.write_json(folder / launch.FILE, facts or {})
    return (folder / launch.FILE).stat().st_mtime_ns


def run_one(
    path: Path,
    folder: Path,
    values: dict[str, Any],
    limits: Limits,
    show: Callable[[dict | None, float], None],
    stop: Stop,
    facts: dict | None = None,
) -> Result:
    """Run one notebook in a child process.

    Args:
        show: called with the notebook so far and the seconds after every look at it.
        stop: looked at every time; where it has a reason, the notebook gets SIGTERM and GRACE_SECONDS to save what it
            trains, and is killed. It counts as interrupted, unless it completed in that time.
        facts: what it is started with, of `launch.facts`; they are written beside its results.

    Raises OSError where the folder cannot be written to.
    """
    output, begun = folder / f"{folder.name}.ipynb", _prepare(folder, facts)
    mark = f"NBHELPERS_CHILD_OF_{uuid4().hex}"
    package = Path(nbhelpers.__file__).resolve().parent.parent  # the notebook shall import this very package
    search_path = os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {mark: "1", "PYTHONPATH": search_path}
    if limits.threads:
        stated = os.environ.get("OMP_NUM_THREADS", "")
        threads = min(limits.threads, int(stated)) if stated.isdigit() else limits.threads
        environment |= {"OMP_NUM_THREADS": str(threads), CORES: str(limits.threads)}
    start, process, seen, looked, ended, meter = time.monotonic(), None, None, None, None, usage.Meter()
    # Neither what it prints nor its sockets are in the folder, whose disk may be full.
    with tempfile.TemporaryFile() as stream, tempfile.TemporaryDirectory(prefix="nbhelpers-") as sockets:
        try:
            streams = {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": subprocess.STDOUT}
            task = {"input": str(path), "output": str(output), "parameters": values, "sockets": sockets, "mark": mark}
            command = [sys.executable, "-m", "nbhelpers.notebook.child", str(os.getpid()), json.dumps(task)]
            process = subprocess.Popen(command, env=environment, start_new_session=True, **streams)
            while process.poll() is None:
                seconds = time.monotonic() - start
                meter.look(process.pid)
                if limits.seconds is not None and seconds > limits.seconds:
                    ended = "failed", f"timed out after {limits.seconds:g} s"
                elif limits.memory_bytes is not None and meter.memory_bytes > limits.memory_bytes:
                    held, most = meter.memory_bytes / 2**30, limits.memory_bytes / 2**30
                    ended = "failed", f"held {held:.2f} GiB of memory, more than the limit of {most:.2f} GiB"
                elif stop.reason:
                    _let_save(process, GRACE_SECONDS, stop)
                    ended = None if process.poll() == 0 else ("interrupted", stop.reason)
                if ended:
                    break
                if output.exists() and (state := output.stat().st_mtime_ns) != looked:
                    looked, seen = state, read_json(output) or seen
                show(seen, seconds)
                time.sleep(POLL_SECONDS)
        finally:
            kill_marked(mark)
        exit_code = process.wait()
        stream.seek(0)
        log = redaction.redact(stream.read().decode(errors="replace"))
    seconds = round(time.monotonic() - start, 1)
    notebook = read_json(output) or seen
    status, reason = ended or (None, None)
    cell = cell_facts(started_cells(notebook))
    if status is None:
        reason, cell = _judge(notebook, exit_code, folder, log, begun)
        status = "failed" if reason else "completed"
    if status == "completed":
        launch.seal(folder)
    if reason:
        with contextlib.suppress(OSError):  # a full disk
            (folder / "papermill.log").write_text(log, encoding="utf-8")
    reason = redaction.redact(reason) if reason else None
    return Result(folder.name, status, reason, cell, seconds, exit_code, **meter.means(seconds))
