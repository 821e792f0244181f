"""The folder of a run as it was left: its notebooks with what each claims, changed and cost, and one table of all."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbhelpers.core import storage
from nbhelpers.core.parameters import BOOKKEEPING
from nbhelpers.core.storage import read_json
from nbhelpers.cost import prices
from nbhelpers.notebook.verdicts import verdict


def _read_object(path: Path) -> dict:
    content = read_json(path)
    return content if isinstance(content, dict) else {}


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
        return "/".join(filter(None, (self.result.get("point"), self.result["notebook"])))

    @property
    def status(self) -> str:
        """completed, failed, interrupted, not run, or not finished."""
        return self.result["status"]

    @property
    def claim(self) -> tuple[str, str, dict] | None:
        """`(sentence, name, entry)`: what the notebook claims, and the metric that bears it out."""
        claim = self.metrics.get("claim") or {}
        entry = (self.metrics.get("metrics") or {}).get(claim.get("metric"))
        return (claim["text"], claim["metric"], entry) if isinstance(entry, dict) else None

    @property
    def changed(self) -> dict[str, Any]:
        """The parameters that differ from the notebook's own, bookkeeping left out."""
        declared, given = self.manifest.get("declared") or {}, self.manifest.get("parameters") or {}
        return {
            name: x for name, x in given.items() if name not in BOOKKEEPING and name in declared and x != declared[name]
        }

    @property
    def dollars(self) -> float | None:
        """The whole notebook at its profile's price; None where the profile is not known."""
        price = (self.manifest.get("resolved") or {}).get("price")
        table = prices.prices()
        return prices.dollars(self.result["seconds"], table[price].dollars_per_hour) if price in table else None


def notebooks_of(folder: Path) -> list[NotebookRun]:
    """The entries of suite.json, and one for every other notebook of the run: those that were run by hand."""
    entries = read_json(folder / "suite.json") or []
    listed = {entry["notebook"] for entry in entries if not entry.get("point")}
    for path in folder.glob("*/manifest.json"):
        if path.parent.name not in listed:
            metrics = _read_object(path.parent / "metrics.json")
            status = metrics.get("status") or "not finished"
            seconds = (metrics.get("measured") or {}).get("notebook_seconds", 0.0)
            entry = {"notebook": path.parent.name, "status": status, "seconds": seconds, "reason": None, "cell": None}
            entries.append(entry)
    runs = []
    for entry in entries:
        place = folder / entry.get("point", "") / entry["notebook"]
        runs.append(
            NotebookRun(place, entry, *(_read_object(place / f"{part}.json") for part in ("metrics", "manifest")))
        )
    return sorted(runs, key=lambda run: run.name)


def write_results(folder: Path, runs: list[NotebookRun]) -> Path:
    """Write `results.csv`, a line for each metric of each notebook, with the parameters that differ as columns."""
    changed = sorted({name for run in runs for name in run.changed})
    keys = ("value", "low", "high", "baseline", "n", "unit")
    with storage.replaced(folder / "results.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["point", "notebook", "status", "seconds", *changed, "metric", *keys, "verdict"])
        for run in runs:
            facts = [run.result.get("point", ""), run.result["notebook"], run.status, run.result["seconds"]]
            facts += [run.changed.get(name, "") for name in changed]
            for name, entry in (run.metrics.get("metrics") or {"": {}}).items():
                writer.writerow([*facts, name, *(entry.get(key) for key in keys), verdict(name, entry)])
    return folder / "results.csv"
