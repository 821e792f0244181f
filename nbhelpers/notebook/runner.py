"""One notebook in a child process that can be stopped whole, judged by what it left behind.

papermill marks every cell of a notebook `completed` when its kernel is killed, so its marks are not believed: a
notebook has completed when every code cell ran without an error and a fresh `metrics.json` lies in its folder.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import nbhelpers
from nbhelpers.core import storage
from nbhelpers.core.storage import read_json
from nbhelpers.notebook import notebook_file

KERNEL_DIED = 138  # papermill's exit code for it
POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Result:
    """How one notebook ended. `status` is completed, failed, interrupted or not run.

    `cell` is the one it stopped at: its index in the notebook (from 0), its id and the first line of its source.
    """

    notebook: str
    status: str
    reason: str | None = None
    cell: dict[str, Any] | None = None
    seconds: float = 0.0
    exit_code: int | None = None


def started_cells(notebook: dict | None) -> list[tuple[int, dict]]:
    """The code cells that papermill began: it notes the time before a cell runs and invents none afterwards."""
    return [
        (i, c) for i, c in notebook_file.code_cells(notebook) if c["metadata"].get("papermill", {}).get("start_time")
    ]


def cell_facts(places: list[tuple[int, dict]]) -> dict[str, Any] | None:
    """What a result says about the last of these cells."""
    if not places:
        return None
    index, cell = places[-1]
    return {"index": index, "id": cell.get("id"), "source": notebook_file.source_of(cell).strip().splitlines()[0]}


def _stop(mark: str) -> None:
    """Kill every process whose environment carries the mark.

    Children inherit it, so this reaches what killing a process group does not: the kernel, which jupyter starts in a
    session of its own, whatever the notebook started, and orphans whose parent is gone.
    """
    import psutil

    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = 0
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):  # it has just ended, or is another user's
                if mark in process.environ():
                    process.kill()
                    found += 1
        if not found:
            return
        time.sleep(0.05)


def _judge(notebook: dict | None, exit_code: int, folder: Path, begun: int) -> tuple[str | None, dict | None]:
    """`(reason, cell)` of a notebook whose process ended by itself; the reason is None when it has completed.

    `begun` is the time in ns that the file system gave a file written at the start.
    """
    started = started_cells(notebook)
    if exit_code == KERNEL_DIED:
        return "kernel died (SIGKILL or a crash; out of memory is the usual cause)", cell_facts(started)
    for place in started:
        for output in place[1]["outputs"]:
            if output["output_type"] == "error":
                return f"{output['ename']}: {output['evalue']}"[:2_000], cell_facts([place])
    if exit_code:
        log = (folder / "papermill.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        how = f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with code {exit_code}"
        return f"papermill {how}: {log[-1] if log else 'it printed nothing'}", cell_facts(started)
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


def run_one(
    path: Path, folder: Path, values: dict[str, Any], timeout: float | None, show: Callable[[dict | None, float], None]
) -> Result:
    """Run one notebook in a child process; `show(notebook so far, seconds)` is called after every look at it."""
    import yaml

    output, log = folder / path.name, folder / "papermill.log"
    folder.mkdir(parents=True, exist_ok=True)
    # What an earlier run left and a reader could take for this one's; artifacts stay, they are found by their hashes.
    for stale in (folder / "metrics.json", folder / "manifest.json", output, *folder.glob("figures/*.png")):
        stale.unlink(missing_ok=True)
    log.write_bytes(b"")
    begun = log.stat().st_mtime_ns
    mark = f"NBHELPERS_CHILD_OF_{uuid4().hex}"
    package = Path(nbhelpers.__file__).resolve().parent.parent  # the notebook shall import this very package
    search_path = os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))
    files = [str(file).replace("{", "{{").replace("}", "}}") for file in (path, output)]  # papermill formats them
    command = [sys.executable, "-m", "papermill", *files, "--cwd", str(Path.cwd()), "--no-progress-bar"]
    command += ["-k", "python3", "-l", "python", "-y", yaml.safe_dump(values)]  # YAML keeps types that -p would guess
    environment = os.environ | {mark: "1", "PYTHONPATH": search_path}
    start, process, seen, looked, stopped = time.monotonic(), None, None, None, None
    try:
        with open(log, "ab") as stream:
            streams = {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": subprocess.STDOUT}
            process = subprocess.Popen(command, env=environment, start_new_session=True, **streams)
        while process.poll() is None:
            if timeout is not None and time.monotonic() - start > timeout:
                stopped = "failed", f"timed out after {timeout:g} s"
                break
            if output.exists() and (state := output.stat().st_mtime_ns) != looked:
                looked, seen = state, read_json(output) or seen
            show(seen, time.monotonic() - start)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        stopped = "interrupted", "interrupted by the user"
    finally:
        _stop(mark)
    exit_code = process.wait() if process else None
    seconds = round(time.monotonic() - start, 1)
    notebook = read_json(output) or seen
    if stopped:
        if notebook:  # papermill may have been in the middle of writing it
            storage.write_json(output, notebook)
        return Result(folder.name, *stopped, cell_facts(started_cells(notebook)), seconds, exit_code)
    reason, cell = _judge(notebook, exit_code, folder, begun)
    if reason is None:
        log.unlink()
    return Result(folder.name, "failed" if reason else "completed", reason, cell, seconds, exit_code)
