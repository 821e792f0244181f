"""Two runs compared, metric by metric: against the committed reference, or one run against another.

A metric with an interval is compared by its interval, one without by its value. Runs on other machines draw other rows
of rounding: what lies within the other's interval is no difference.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbhelpers.core.errors import NotebookError
from nbhelpers.core.parameters import BOOKKEEPING
from nbhelpers.core.storage import read_json
from nbhelpers.notebook import notebook_file

SPEEDS = ("_per_second", ".gflops")  # how metrics end that belong to a machine and not to a result
EXACT = 1e-3  # relative difference up to which a metric without an interval is the same


@dataclass(frozen=True)
class Difference:
    """One metric of one notebook in two runs. `beyond` is 0 where they agree, else how far apart they are."""

    notebook: str
    metric: str
    value: float
    other: float
    beyond: float

    def __str__(self) -> str:
        state = f"outside by {self.beyond:.3g}" if self.beyond else "as expected"
        return f"{self.notebook}  {self.metric}: {self.value:.4g}, expected {self.other:.4g}: {state}"


def _metrics(folder: Path) -> dict[str, dict]:
    content = read_json(folder / "metrics.json")
    found = content.get("metrics") if isinstance(content, dict) else None
    return found if isinstance(found, dict) else {}


def _span(entry: dict) -> tuple[float, float]:
    """What a metric may be: its interval, or its value with a thousandth to either side."""
    value = entry["value"]
    reach = EXACT * max(abs(value), EXACT)
    low, high = entry.get("low"), entry.get("high")
    return (value - reach, value + reach) if low is None or high is None else (min(low, value), max(high, value))


def differences(folder: Path, other: Path) -> list[Difference]:
    """The metrics that one notebook's run folder shares with another's; they agree where their spans overlap.

    Speeds are left out. An error without an interval agrees where it is no larger.
    """
    mine, theirs = _metrics(folder), _metrics(other)
    found = []
    for name in mine.keys() & theirs.keys():
        if name.endswith(SPEEDS):
            continue
        (low, high), (least, most) = _span(mine[name]), _span(theirs[name])
        error = mine[name].get("higher_is_better") is False and mine[name].get("low") is None
        beyond = max(0.0, 0.0 if error else least - high, low - most)
        found.append(Difference(folder.name, name, mine[name]["value"], theirs[name]["value"], beyond))
    return sorted(found, key=lambda difference: difference.metric)


def changed_parameters(folder: Path, other: Path) -> dict[str, tuple]:
    """Parameter -> its two values, of those that change a result and differ between two runs of a notebook.

    Where the profiles differ, with all that they set, the profile alone is named.
    """
    mine, theirs = ((read_json(path / "manifest.json") or {}).get("resolved", {}) for path in (folder, other))
    names = (mine.keys() & theirs.keys()) - BOOKKEEPING
    changed = {name: (mine[name], theirs[name]) for name in sorted(names) if mine[name] != theirs[name]}
    return {"profile": changed["profile"]} if "profile" in changed else changed


def _ended(run_folder: Path) -> dict[str, str]:
    """Name, with the point of a sweep in front -> status of each notebook in suite.json; empty without that file."""
    entries = read_json(Path(run_folder) / "suite.json")
    entries = [x for x in entries if {"notebook", "status"} <= x.keys()] if isinstance(entries, list) else []
    return {notebook_file.name_at(x.get("point"), x["notebook"]): x["status"] for x in entries}


def _runs(run_folder: Path) -> dict[str, Path]:
    """Name -> folder of each completed notebook of a batch or by hand. Raises NotebookError where there is none."""
    root, ended = Path(run_folder), _ended(run_folder)
    names = {path.parent.name for path in root.glob("*/metrics.json")} | ended.keys()
    said = {name: (read_json(root / name / "metrics.json") or {}).get("status") for name in sorted(names)}
    completed = [name for name, status in said.items() if {status, ended.get(name, status)} == {"completed"}]
    if not completed:
        raise NotebookError(f"{run_folder} holds no completed notebook: no folder in it has a metrics.json.")
    return {name: root / name for name in completed}


def check(run_folder: Path, reference_folder: Path) -> tuple[list[str], bool]:
    """Lines that say, notebook by notebook, whether a run gave what the reference did; and whether all of it did.

    A notebook that ran under other parameters than the reference is named and not compared. One that did not complete
    is not what the reference gave; nor is a run of which nothing could be compared.

    Raises NotebookError: the run has no completed notebook.
    """
    runs, ended, compared = _runs(run_folder), _ended(run_folder), 0
    lines = [f"{name}: {ended[name]}" for name in sorted(ended.keys() - runs.keys())]
    good = not lines
    for name, folder in runs.items():
        reference = Path(reference_folder, folder.name)
        if not (reference / "metrics.json").exists():
            lines.append(f"{name}: no reference")
            continue
        if changed := changed_parameters(folder, reference):
            said = ", ".join(f"{key} {mine!r} instead of {theirs!r}" for key, (mine, theirs) in changed.items())
            lines.append(f"{name}: not compared, it ran with {said}")
            continue
        found, missing = differences(folder, reference), _metrics(reference).keys() - _metrics(folder).keys()
        outside = [difference for difference in found if difference.beyond]
        compared += len(found)
        good = good and not outside and not missing
        lines.append(f"{name}: {len(found) - len(outside)} of {len(found)} metrics as expected")
        lines += [f"  {difference}" for difference in outside]
        lines += [f"  {metric} is not in this run" for metric in sorted(missing)]
    return lines + ([] if compared else ["nothing could be compared"]), good and compared > 0


def compare(first: Path, second: Path) -> list[str]:
    """Lines that say, for the notebooks that two runs share, which parameters differ and which metrics beyond noise.

    Raises NotebookError: a run has no completed notebook, or they share none.
    """
    mine, theirs = _runs(first), _runs(second)
    shared = [name for name in mine if name in theirs]
    if not shared:
        raise NotebookError(f"{first} and {second} have no completed notebook in common.")
    lines = []
    for name in shared:
        changed = changed_parameters(mine[name], theirs[name])
        said = ", ".join(f"{parameter}: {a!r} and {b!r}" for parameter, (a, b) in changed.items())
        found = differences(mine[name], theirs[name])
        beyond = [difference for difference in found if difference.beyond]
        lines.append(f"{name}: {len(beyond)} of {len(found)} metrics differ beyond noise; {said or 'same parameters'}")
        lines += [f"  {d.metric}: {d.value:.4g} and {d.other:.4g}" for d in beyond]
    return lines


def is_difference(name: str, entry: dict[str, Any]) -> bool:
    """Whether a metric is a change by itself (`A over B`, `..._rise`, `..._gain`), to be compared with 0."""
    return entry.get("baseline") is None and (" over " in name or name.endswith(("_rise", "_gain")))


def verdict(name: str, entry: dict[str, Any]) -> str:
    """`better`, `worse` or `no difference` of a metric against its baseline, by its interval; empty without one."""
    low, high, against = (entry.get(key) for key in ("low", "high", "baseline"))
    if is_difference(name, entry):
        against = 0.0
    if None in (low, high, against):
        return ""
    if low <= against <= high:
        return "no difference"
    return "better" if (low > against) == entry.get("higher_is_better", True) else "worse"
