"""The committed reference: an executed notebook as a reader compares with it, and what code it was made by."""

import json
import math
import re
import socket
from pathlib import Path
from typing import Any

from nbhelpers.core import fingerprint, redaction, storage
from nbhelpers.core.errors import NotebookError
from nbhelpers.core.storage import read_json
from nbhelpers.notebook import notebook_file
from nbhelpers.notebook.notebook_file import ADDED_BY_PAPERMILL, code_cells

REFERENCE_BYTES = 1_500_000  # that one executed notebook may have to be committed
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def reference_seconds(
    name: str, profile: str | None, reference_folder: Path, max_steps: int | None = None
) -> float | None:
    """The wall time of a notebook in the reference run; None where that run has another profile or is missing.

    Args:
        max_steps: for which the time of the trainings in it is converted; None: as the reference.
    """
    metrics, manifest = (read_json(reference_folder / name / f"{part}.json") or {} for part in ("metrics", "manifest"))
    same = profile is not None and manifest.get("resolved", {}).get("profile") == profile
    measured, steps = metrics.get("measured", {}), manifest.get("resolved", {}).get("max_steps")
    seconds = measured.get("notebook_seconds") if same else None
    if seconds is None or not isinstance(max_steps, int) or not steps:
        return seconds
    trainings = math.fsum(x for key, x in measured.items() if key.endswith(".seconds"))
    return seconds + trainings * (max_steps / steps - 1)


def reference_cells(name: str, profile: str | None, reference_folder: Path) -> dict[str, float]:
    """Id of each code cell -> the seconds that it took in the reference run; empty as `reference_seconds` is None."""
    if reference_seconds(name, profile, reference_folder) is None:
        return {}
    return read_json(reference_folder / name / "seconds.json") or {}


def reference_peak(name: str, profile: str | None, reference_folder: Path) -> int | None:
    """The highest peak memory that the reference run measured or, where it is higher, predicted; None as there."""
    if reference_seconds(name, profile, reference_folder) is None:
        return None
    metrics = read_json(reference_folder / name / "metrics.json") or {}
    both = [*metrics.get("measured", {}).items(), *metrics.get("predicted", {}).items()]
    return max((int(value) for key, value in both if key.endswith("peak_memory_bytes")), default=None)


def _machine_paths() -> re.Pattern:
    """Matches an absolute path that exists because of this machine: repository, home, temporary, environment."""
    return re.compile(rf"(?<![\w.~-])(?:{'|'.join(map(re.escape, redaction.folders()))})(?![\w-])")


def _portable(value: Any) -> Any:
    """JSON content whose paths in the repository are relative; other paths of this machine and its name are dropped."""
    root, machine = storage.repository_root(), _machine_paths()

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


def _cell_seconds(notebook: dict) -> dict[str, float]:
    """Id of each code cell -> its seconds as papermill measured them."""
    durations = {c["id"]: c["metadata"].get("papermill", {}).get("duration") for _, c in code_cells(notebook)}
    return {name: round(seconds, 1) for name, seconds in durations.items() if seconds is not None}


def _reduced(notebook: dict, name: str) -> str:
    """An executed notebook as text to commit: no widgets, no times, no paths; refused where a path is left."""
    cells = [cell for cell in notebook["cells"] if not notebook_file.tags_of(cell) & ADDED_BY_PAPERMILL]
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
    """Copy what a reader compares with of each completed notebook; return the names copied.

    Of a notebook whose run computed a study only that study and its manifest are copied, for the notebook shows them.
    Nothing is written unless every completed notebook passes.

    Raises:
        NotebookError: no notebook completed, an output names a path of this machine, a notebook is too large.
    """
    folder = Path(run_folder)
    names = [x["notebook"] for x in read_json(folder / "suite.json") or [] if x["status"] == "completed"]
    if not names:
        raise NotebookError(f"{folder} has no suite.json with a completed notebook: python -m nbhelpers run makes one.")
    ready: dict[Path, Any] = {}
    for name in names:
        source, target = folder / name, Path(reference_folder, name)
        metrics, manifest = (_portable(read_json(source / part)) for part in ("metrics.json", "manifest.json"))
        ready[target / "manifest.json"] = manifest
        if "study" in metrics.get("artifacts", {}):
            ready[target / "study.json"] = read_json(source / "artifacts" / "study.json")
            continue
        path = source / f"{name}.ipynb"
        ready[target / "seconds.json"] = _cell_seconds(notebook_file.read_notebook(path))
        ready[target / path.name] = _reduced(notebook_file.read_notebook(path), name)
        ready |= {target / "metrics.json": metrics, target / "code.json": fingerprint.of_notebook(path)}
    for path, content in ready.items():
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            storage.write_json(path, content, indent=None if path.name == "study.json" else 2)
    return names
