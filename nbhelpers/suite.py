"""Notebooks run as a batch: each in a child process that can be stopped whole, judged by what it left behind.

papermill marks every cell of a notebook `completed` when its kernel is killed, so its marks are not believed: a
notebook has completed when every code cell ran without an error and a fresh `metrics.json` lies in its folder.
"""

import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

from nbhelpers import fingerprint, run
from nbhelpers.errors import NotebookError, ParameterError
from nbhelpers.report import describe, duration
from nbhelpers.run import read_json

KERNEL_DIED = 138  # papermill's exit code for it
POLL_SECONDS = 0.25
REFERENCE_BYTES = 1_500_000  # that one executed notebook may have to be committed
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_ADDED_BY_PAPERMILL = {"injected-parameters", "papermill-error-cell-tag"}
_GIVEN = {name: run.Parameter(name, "str", "") for name in ("profile", "run_id", "output_dir")}


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


def _source(cell: dict) -> str:
    return "".join(cell["source"])


def _tags(cell: dict) -> set[str]:
    return set(cell["metadata"].get("tags", []))


def _code_cells(notebook: dict | None) -> list[tuple[int, dict]]:
    """`(index, cell)` of the code cells its author wrote; those papermill adds neither count nor shift the index."""
    own = [cell for cell in (notebook or {"cells": []})["cells"] if not _tags(cell) & _ADDED_BY_PAPERMILL]
    return [(i, cell) for i, cell in enumerate(own) if cell["cell_type"] == "code" and _source(cell).strip()]


def _started(notebook: dict | None) -> list[tuple[int, dict]]:
    """The code cells that papermill began: it notes the time before a cell runs and invents none afterwards."""
    return [(i, c) for i, c in _code_cells(notebook) if c["metadata"].get("papermill", {}).get("start_time")]


def _cell_facts(places: list[tuple[int, dict]]) -> dict[str, Any] | None:
    """What a result says about the last of these cells."""
    if not places:
        return None
    index, cell = places[-1]
    return {"index": index, "id": cell.get("id"), "source": _source(cell).strip().splitlines()[0]}


def _read_notebook(path: Path) -> dict:
    content = read_json(path)
    if not isinstance(content, dict) or content.get("nbformat") != 4 or "cells" not in content:
        raise NotebookError(f"{path} is missing or is not a notebook in Jupyter's format 4.")
    return content


def _declared(notebook: dict) -> dict[str, run.Parameter]:
    cells = [cell for _, cell in _code_cells(notebook) if "parameters" in _tags(cell)]
    return (run.declared_parameters(_source(cells[0])) or {}) if cells else {}


def reference_seconds(name: str, profile: str | None, reference_folder: Path) -> float | None:
    """The wall time of a notebook in the reference run; None where that run has another profile or is missing."""
    metrics, manifest = (read_json(reference_folder / name / f"{part}.json") or {} for part in ("metrics", "manifest"))
    same = profile is not None and manifest.get("resolved", {}).get("profile") == profile
    return metrics.get("measured", {}).get("notebook_seconds") if same else None


def _progress(
    name: str, total: int, profile: str, folder: Path, reference_folder: Path, stream: TextIO
) -> Callable[[dict | None, float], None]:
    """A function that prints how far a notebook is: a line for each new cell, or one line kept fresh on a terminal."""
    shown = 0

    def show(notebook: dict | None, seconds: float) -> None:
        nonlocal shown
        count = len(_started(notebook))
        if count == 0 or (count == shown and not stream.isatty()):
            return
        shown, known = count, profile
        if profile == "auto":  # resolved inside the notebook, which notes it in its manifest
            known = (read_json(folder / "manifest.json") or {}).get("resolved", {}).get("profile")
        expected = reference_seconds(name, known, reference_folder)
        eta = "no reference" if expected is None else f"ETA {duration(max(0.0, expected - seconds))}"
        line = f"{name}  cell {count} of {total}  {duration(seconds)}  {eta}"
        start, end = ("\r\x1b[2K", "") if stream.isatty() else ("", "\n")
        print(start + line, end=end, file=stream, flush=True)

    return show


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
    started = _started(notebook)
    if exit_code == KERNEL_DIED:
        return "kernel died (SIGKILL or a crash; out of memory is the usual cause)", _cell_facts(started)
    for place in started:
        for output in place[1]["outputs"]:
            if output["output_type"] == "error":
                return f"{output['ename']}: {output['evalue']}"[:2_000], _cell_facts([place])
    if exit_code:
        log = (folder / "papermill.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        how = f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with code {exit_code}"
        return f"papermill {how}: {log[-1] if log else 'it printed nothing'}", _cell_facts(started)
    unexecuted = [place for place in _code_cells(notebook) if place[1]["execution_count"] is None]
    if unexecuted or not started:
        return "not every cell was executed", _cell_facts(unexecuted[:1])
    path = folder / "metrics.json"
    if not path.exists() or path.stat().st_mtime_ns < begun:
        return "ran to the end without writing metrics.json", None
    content = read_json(path)
    if not isinstance(content, dict) or content.get("status") != "completed":
        return "wrote a metrics.json whose status is not completed", None
    return None, None


def _run_one(
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
    package = Path(__file__).resolve().parent.parent  # the notebook shall import this very package
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
            run.write_json(output, notebook)
        return Result(path.stem, *stopped, _cell_facts(_started(notebook)), seconds, exit_code)
    reason, cell = _judge(notebook, exit_code, folder, begun)
    if reason is None:
        log.unlink()
    return Result(path.stem, "failed" if reason else "completed", reason, cell, seconds, exit_code)


def run_suite(
    notebooks: Sequence[str | Path],
    profile: str = "auto",
    run_id: str = "default",
    output_dir: str | Path = "outputs",
    parameters: dict[str, Any] | None = None,
    timeout: float | None = None,
    fail_fast: bool = False,
    stream: TextIO | None = None,
    reference_folder: Path | None = None,
) -> list[Result]:
    """Run notebooks in order; write `<output_dir>/<run_id>/suite.json` after each; return one result a notebook.

    Args:
        notebooks: paths; their file names must differ, for each names a folder of the run.
        profile, run_id, output_dir: injected into every notebook that declares them.
        parameters: the user's own, injected into every notebook, each of which must declare them.
        timeout: seconds after which a notebook is killed with all that it started.
        fail_fast: leave out the notebooks behind one that failed.
        stream: where progress is printed, standard output by default.
        reference_folder: whose times the ETA is taken from, `outputs/reference` by default.

    Raises:
        NotebookError: nothing was started: a notebook is missing, papermill is not installed, a parameter is wrong.
    """
    given = {"profile": profile, "run_id": run_id, "output_dir": str(output_dir)}
    run.check_parameters(_GIVEN, [], given)
    for name in given.keys() & (parameters or {}).keys():
        raise ParameterError(f"{name} is not set with -p but with --{name.replace('_', '-')}.")
    for module in ("papermill", "ipykernel"):
        if importlib.util.find_spec(module) is None:
            raise NotebookError(f"{module} is not installed; pip install '.[notebooks]' in the repository brings it.")
    paths = {Path(path).stem: Path(path).resolve() for path in notebooks}
    if len(paths) < len(notebooks):
        raise NotebookError("Two of the notebooks have the same file name; each names a folder of the run.")
    sources = {name: _read_notebook(path) for name, path in paths.items()}
    for name, notebook in sources.items():  # before anything of an earlier run is replaced
        try:
            run.check_parameters(_declared(notebook), list(parameters or {}), parameters or {})
        except ParameterError as error:
            raise ParameterError(f"{name}: {error}") from None
    stream, root = stream or sys.stdout, run.repository_root()
    reference_folder = reference_folder or root / "outputs" / "reference"
    folder = Path(root, Path(output_dir).expanduser(), run_id)
    earlier = [entry for entry in read_json(folder / "suite.json") or [] if entry["notebook"] not in paths]
    results: list[Result] = []
    for name, path in paths.items():
        ended = {result.status for result in results}
        if "interrupted" in ended or (fail_fast and "failed" in ended):
            results.append(Result(name, "not run", "an earlier notebook failed or was interrupted"))
        else:
            values = {key: x for key, x in given.items() if key in _declared(sources[name])} | (parameters or {})
            total = len(_code_cells(sources[name]))
            show = _progress(name, total, profile, folder / name, reference_folder, stream)
            results.append(_run_one(path, folder / name, values, timeout, show))
        print(("\r\x1b[2K" if stream.isatty() else "") + describe(asdict(results[-1])), file=stream, flush=True)
        entries = earlier + [asdict(result) for result in results]
        run.write_json(folder / "suite.json", sorted(entries, key=lambda entry: entry["notebook"]))
    return results


def reference_is_current(notebook_path: Path, reference_folder: Path) -> bool:
    """Whether the reference of this notebook was made by the code that is in it, and in the modules it uses, now."""
    made_by = read_json(Path(reference_folder, Path(notebook_path).stem, "code.json"))
    return not fingerprint.changes(made_by, notebook_path)


def _machine_paths() -> re.Pattern:
    """Matches an absolute path that exists because of this machine: repository, home, temporary, environment."""
    found = {run.repository_root(), Path.home(), Path(tempfile.gettempdir()), Path(sys.prefix)}
    found = {str(path) for path in found | {path.resolve() for path in found} if len(path.parts) > 1}
    return re.compile(rf"(?<![\w.~-])(?:{'|'.join(map(re.escape, sorted(found)))})(?![\w-])")


def _portable(value: Any) -> Any:
    """JSON content whose paths in the repository are relative; other paths of this machine and its name are dropped."""
    root, machine = run.repository_root(), _machine_paths()

    def local(x: Any) -> bool:
        if not isinstance(x, str) or Path(x).is_relative_to(root):
            return False
        return machine.search(x) is not None or x == socket.gethostname()

    if isinstance(value, dict):
        return {key: _portable(x) for key, x in value.items() if key != "hostname" and not local(x)}
    if isinstance(value, list):
        return [_portable(x) for x in value if not local(x)]
    inside = isinstance(value, str) and Path(value).is_absolute() and Path(value).is_relative_to(root)
    return Path(value).relative_to(root).as_posix() if inside else value


def _reduced(notebook: dict, name: str) -> str:
    """An executed notebook as text to commit: no widgets, no timings, no paths; refused where a path is left."""
    cells = [cell for cell in notebook["cells"] if not _tags(cell) & _ADDED_BY_PAPERMILL]
    machine, problems = _machine_paths(), []
    for i, cell in enumerate(cells):
        cell["metadata"] = {key: x for key, x in cell["metadata"].items() if key not in ("papermill", "execution")}
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET_VIEW, None)
            texts = [output.get(key, "") for key in ("text", "evalue", "traceback")]
            texts += [x for kind, x in output.get("data", {}).items() if not kind.startswith("image/png")]
            found = machine.search("\n".join(x if isinstance(x, str) else "".join(map(str, x)) for x in texts))
            problems += [f"cell {i} ({cell.get('id')}) prints {found.group()}"] if found else []
        if "outputs" in cell:  # a widget that had no other form leaves nothing to show
            cell["outputs"] = [output for output in cell["outputs"] if output.get("data") != {}]
    if problems:
        raise NotebookError(f"{name} cannot be a reference, its outputs name this machine: {'; '.join(problems)}.")
    metadata = {key: x for key, x in notebook["metadata"].items() if key not in ("papermill", "widgets")}
    text = json.dumps(notebook | {"cells": cells, "metadata": metadata}, indent=1, ensure_ascii=False, sort_keys=True)
    if len(text.encode()) >= REFERENCE_BYTES:
        megabytes, limit = len(text.encode()) / 1e6, REFERENCE_BYTES / 1e6
        raise NotebookError(
            f"{name} has {megabytes:.1f} MB, a reference less than {limit} MB: make its figures smaller."
        )
    return text + "\n"


def make_reference(run_folder: str | Path, reference_folder: str | Path) -> list[str]:
    """Copy what a reader compares with of each completed notebook, no artefact but its study; return the names copied.

    Nothing is written unless every completed notebook passes.

    Raises:
        NotebookError: no notebook completed, an output names a path of this machine, a notebook is too large.
    """
    folder = Path(run_folder)
    names = [x["notebook"] for x in read_json(folder / "suite.json") or [] if x["status"] == "completed"]
    if not names:
        raise NotebookError(f"{folder} has no suite.json with a completed notebook: python -m nbhelpers run makes one.")
    ready = []
    for name in names:
        path = folder / name / f"{name}.ipynb"
        facts = {part: _portable(read_json(folder / name / part)) for part in ("metrics.json", "manifest.json")}
        facts["code.json"] = fingerprint.of_notebook(path)
        if "study" in facts["metrics.json"].get("artifacts", {}):
            facts["study.json"] = read_json(folder / name / "artifacts" / "study.json")
        ready.append((Path(reference_folder, name), _reduced(_read_notebook(path), name), facts))
    for target, text, facts in ready:
        for part, content in facts.items():
            run.write_json(target / part, content, indent=None if part == "study.json" else 2)
        (target / f"{target.name}.ipynb").write_text(text, encoding="utf-8")
    return names
