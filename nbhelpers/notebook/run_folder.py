"""The folder of a run as it was left: its notebooks with what each claims, changed and cost, and one table of all."""

import csv
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from nbhelpers.core import redaction, storage
from nbhelpers.core.parameters import BOOKKEEPING
from nbhelpers.core.storage import read_json
from nbhelpers.cost import prices
from nbhelpers.notebook import notebook_file
from nbhelpers.notebook.runner import Result
from nbhelpers.notebook.verdicts import verdict


def _read_object(path: Path) -> dict:
    """The object in a JSON file, for others to see: without secrets and folders of this machine; empty without one."""
    content = read_json(path)
    return redaction.redacted(content) if isinstance(content, dict) else {}


def without_folders(value: Any) -> Any:
    """A value, of a path by itself its last part: the folders before it are those of a machine."""
    absolute = isinstance(value, str) and value.startswith(("/", "~")) and len(Path(value).parts) > 1
    return f"…/{Path(value).name}" if absolute else value


@dataclass(frozen=True)
class NotebookRun:
    """One notebook of a run: its entry of suite.json, and what it wrote."""

    folder: Path
    result: dict[str, Any]
    metrics: dict[str, Any]
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """The notebook, with its point of a sweep in front."""
        return notebook_file.name_at(self.result.get("point"), self.result["notebook"])

    @property
    def status(self) -> str:
        """completed, failed, interrupted, not run, or not finished."""
        return self.result["status"]

    @property
    def claim(self) -> tuple[str, str, dict] | None:
        """`(sentence, name, entry)`: what the notebook claims, and the metric that bears it out."""
        claim = self.metrics.get("claim")
        if not isinstance(claim, dict) or not {"text", "metric"} <= claim.keys():
            return None
        entry = self.entries.get(claim["metric"])
        return (str(claim["text"]), claim["metric"], entry) if entry else None

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        """Metric -> what `Run.finish` writes of it; a bare number is its value."""
        found = self.metrics.get("metrics")
        found = found if isinstance(found, dict) else {}
        return {name: entry if isinstance(entry, dict) else {"value": entry} for name, entry in found.items()}

    @property
    def changed(self) -> dict[str, Any]:
        """The parameters that differ from the notebook's own, bookkeeping left out."""
        declared, given = self.manifest.get("declared") or {}, self.manifest.get("parameters") or {}
        return {
            name: without_folders(x)
            for name, x in given.items()
            if name not in BOOKKEEPING and name in declared and x != declared[name]
        }

    def parameter(self, name: str) -> Any:
        """The value that a parameter was given, or the notebook's own; empty where it is not known."""
        return without_folders((self.manifest.get("parameters") or {}).get(name, ""))

    @property
    def dollars(self) -> float | None:
        """The whole notebook at its profile's price; None where the profile is not known."""
        price = (self.manifest.get("resolved") or {}).get("price")
        table = prices.prices()
        return prices.dollars(self.result["seconds"], table[price].dollars_per_hour) if price in table else None


def recorded(folder: Path) -> dict[str, Result]:
    """Name -> result, as suite.json has them; what is no entry of one, or of an earlier version, has what it has."""
    content, found = read_json(folder / "suite.json"), {}
    known = {field.name for field in fields(Result)}
    for entry in content if isinstance(content, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("notebook"), str) and isinstance(entry.get("status"), str):
            result = Result(**{name: x for name, x in entry.items() if name in known})
            found[notebook_file.name_at(result.point, result.notebook)] = result
    return found


def notebooks_of(folder: Path) -> list[NotebookRun]:
    """The entries of suite.json, and one for every other notebook of the run: those that were run by hand.

    One that is called completed has a metrics.json that says so: else it has not.
    """
    results = recorded(folder)
    for path in folder.glob("*/manifest.json"):
        if path.parent.name not in results:
            metrics = _read_object(path.parent / "metrics.json")
            seconds = (metrics.get("measured") or {}).get("notebook_seconds", 0.0)
            status = metrics.get("status") or "not finished"
            results[path.parent.name] = Result(path.parent.name, status, seconds=seconds)
    runs = []
    for name in sorted(results):
        metrics, manifest = (_read_object(folder / name / f"{part}.json") for part in ("metrics", "manifest"))
        result = results[name]
        if result.status == "completed" and metrics.get("status") != "completed":
            result = replace(result, status="not finished", reason="its metrics.json is missing or not completed")
        runs.append(NotebookRun(folder / name, asdict(result), metrics, manifest))
    return runs


def write_results(folder: Path, runs: list[NotebookRun]) -> Path:
    """Write `results.csv`, a line for each metric of each notebook, with the parameters that differ as columns."""
    changed = sorted({name for run in runs for name in run.changed})
    keys = ("value", "low", "high", "baseline", "n", "unit")
    with storage.replaced(folder / "results.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["point", "notebook", "status", "seconds", *changed, "metric", *keys, "verdict"])
        for run in runs:
            facts = [run.result.get("point", ""), run.result["notebook"], run.status, run.result["seconds"]]
            facts += [run.parameter(name) for name in changed]
            for name, entry in (run.entries or {"": {}}).items():
                writer.writerow([*facts, name, *(entry.get(key) for key in keys), verdict(name, entry)])
    return folder / "results.csv"
