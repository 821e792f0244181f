"""What a notebook is started with, so that the same command later knows whether its result still stands.

The facts are its code and the modules and data files that it uses, its parameters, the versions of the libraries, and a
hash of every file or folder that a parameter names. A model or data set that is named by its address on a hub counts by
that name alone.
"""

import hashlib
from pathlib import Path
from typing import Any

from nbhelpers.core import environment, fingerprint, storage
from nbhelpers.core.parameters import BOOKKEEPING
from nbhelpers.core.run import DISTRIBUTIONS

FILE = "launch.json"


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
            path = Path(storage.repository_root(), Path(value).expanduser())
            if path.exists():
                found[name] = _digest(path)
    return found


def facts(path: Path, declared: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """What the result of this notebook depends on.

    Args:
        declared: name -> default of every parameter.
        values: those that are set for this run.
    """
    parameters = {name: x for name, x in (declared | values).items() if name not in BOOKKEEPING - {"study"}}
    return {
        "code": fingerprint.of_notebook(path),
        "parameters": parameters,
        "versions": environment.versions(DISTRIBUTIONS),
        "inputs": _inputs(parameters),
    }


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
    if before["code"]["notebook"] != now["code"]["notebook"]:
        said.append("the notebook's code")
    changed = before["code"]["data"].items() ^ now["code"]["data"].items()
    return said + [f"data/{name}" for name in sorted({name for name, _ in changed})]


def still_stands(folder: Path, now: dict[str, Any]) -> list[str]:
    """Why the result in a notebook's run folder does not stand for a start with these facts; empty where it does."""
    metrics = storage.read_json(folder / "metrics.json")
    if not isinstance(metrics, dict) or metrics.get("status") != "completed":
        return ["it has not completed"]
    return differences(storage.read_json(folder / FILE), now)
