"""What a notebook is started with, so that the same command later knows whether its result still stands.

The facts are its code and the modules and data files that it uses, its parameters, the versions of the libraries, and a
hash of every file or folder that a parameter names, and of the packages that the embedded data are read from. A model
or data set that is named by its address on a hub counts by that name alone.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbhelpers.core import environment, fingerprint, storage
from nbhelpers.core.parameters import BOOKKEEPING
from nbhelpers.core.run import DISTRIBUTIONS
from nbhelpers.data import pydocs
from nbhelpers.notebook import notebook_file

FILE = "launch.json"
SEAL = "metrics"  # the key of FILE under which the sha256 of metrics.json stands


def _digest(path: Path) -> str:
    """Of a file its sha256; of a folder that of the names, sizes and times of change of what is in it."""
    if path.is_file():
        return storage.sha256_of(path)
    stats = [(file, file.stat()) for file in sorted(path.rglob("*")) if file.is_file()]
    listed = [f"{file.relative_to(path)} {stat.st_size} {stat.st_mtime_ns}" for file, stat in stats]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def _inputs(values: dict[str, Any]) -> dict[str, str]:
    """Parameter -> hash of the file or folder that it names, of those that change a result."""
    found = {}
    for name, value in values.items():
        if name not in BOOKKEEPING and isinstance(value, str) and value:
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # no text that could name a file
                path = Path(storage.repository_root(), Path(value).expanduser())
                if path.exists():
                    found[name] = _digest(path)
    return found


@functools.cache
def _corpus() -> str:
    """A hash of the packages that the embedded data are read from; they do not change while a batch runs."""
    return pydocs.fingerprint()


def _code(path: Path) -> dict[str, Any]:
    """Of the cells a hash of what stands in them, of modules and data files as `fingerprint.of_notebook`."""
    sources = [notebook_file.source_of(cell) for _, cell in notebook_file.code_cells(notebook_file.read_notebook(path))]
    code = {"cells": hashlib.sha256("\0".join(sources).encode()).hexdigest(), "modules": {}, "data": {}}
    with contextlib.suppress(SyntaxError):  # such as `x = !ls`: the cells alone count
        code |= {name: x for name, x in fingerprint.of_notebook(path).items() if name != "notebook"}
    return code


def facts(path: Path, declared: dict[str, Any], values: dict[str, Any], before: Sequence[Path] = ()) -> dict[str, Any]:
    """What the result of this notebook depends on.

    Args:
        declared: name -> default of every parameter.
        values: those that are set for this run.
        before: folders of the notebooks of this run whose artefacts it uses.
    """
    parameters = {name: x for name, x in (declared | values).items() if name not in BOOKKEEPING - {"study"}}
    code = _code(path)
    corpus = {"pydocs": _corpus()} if "data.pydocs" in code["modules"] else {}
    found = {
        "code": code,
        "parameters": parameters,
        "versions": environment.versions(DISTRIBUTIONS),
        "inputs": _inputs(parameters) | corpus,
        "before": {folder.name: _digest(folder / FILE) for folder in before if (folder / FILE).exists()},
    }
    return json.loads(json.dumps(found))  # as it is read again


def seal(folder: Path) -> None:
    """Note beside the facts which metrics.json this start has completed with: no other one stands for them."""
    begun = storage.read_json(folder / FILE)
    storage.write_json(folder / FILE, begun | {SEAL: storage.sha256_of(folder / "metrics.json")})


def earlier(folder: Path) -> dict[str, Any] | None:
    """The facts of the last start in a folder; None where none is known."""
    begun = storage.read_json(folder / FILE)
    return {name: x for name, x in begun.items() if name != SEAL} if isinstance(begun, dict) else None


def differences(before: dict | None, now: dict[str, Any]) -> list[str]:
    """What differs between the facts of an earlier start and those of now, in words; empty where nothing does."""
    if not isinstance(before, dict) or before.keys() != now.keys():
        return ["what it was started with is not known"]
    said = []
    for kind in ("parameters", "versions", "inputs"):
        for name in sorted(before[kind].keys() | now[kind].keys()):
            old, new = before[kind].get(name), now[kind].get(name)
            if old != new and kind == "inputs":
                said.append(f"the content of {name}")
            elif old != new:
                said.append(f"{name} {old!r} -> {new!r}")
    for name in sorted(before["code"]["modules"].keys() | now["code"]["modules"].keys()):
        if before["code"]["modules"].get(name) != now["code"]["modules"].get(name):
            said.append(f"module {name}")
    if before["code"]["cells"] != now["code"]["cells"]:
        said.append("the notebook's code")
    for name in sorted(before["before"].keys() & now["before"].keys()):
        if before["before"][name] != now["before"][name]:
            said.append(f"{name} ran again")
    changed = before["code"]["data"].items() ^ now["code"]["data"].items()
    return said + [f"data/{name}" for name in sorted({name for name, _ in changed})]


def still_stands(folder: Path, now: dict[str, Any]) -> list[str]:
    """Why the result in a notebook's run folder does not stand for a start with these facts; empty where it does."""
    metrics = storage.read_json(folder / "metrics.json")
    if not isinstance(metrics, dict) or metrics.get("status") != "completed":
        return ["it has not completed"]
    said = differences(earlier(folder), now)
    if not said:
        sealed = storage.read_json(folder / FILE).get(SEAL)
        if sealed is None:
            return ["it has not completed"]
        if sealed != storage.sha256_of(folder / "metrics.json"):
            return ["its metrics.json is of a run by hand"]
    return said
