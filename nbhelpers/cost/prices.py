"""What machines cost an hour, from `data/prices.csv`, and what a time on one comes to."""

import csv
from dataclasses import dataclass

from nbhelpers.core.errors import NotebookError
from nbhelpers.core.storage import repository_root


@dataclass(frozen=True)
class Price:
    """One row of data/prices.csv."""

    name: str
    dollars_per_hour: float
    what: str
    source: str
    date: str


def table(name: str, number: str) -> list[dict]:
    """The rows of `data/<name>.csv`, its column `number` as floats. Raises NotebookError where it is missing."""
    path = repository_root() / "data" / f"{name}.csv"
    if not path.exists():
        raise NotebookError(f"{path} is missing. It comes with the repository: run from a clone.")
    with open(path, encoding="utf-8", newline="") as file:
        return [row | {number: float(row[number])} for row in csv.DictReader(file)]


def prices() -> dict[str, Price]:
    """The price table by name. Raises NotebookError where data/prices.csv is not there."""
    return {row["name"]: Price(**row) for row in table("prices", "dollars_per_hour")}


def dollars(seconds: float, dollars_per_hour: float) -> float:
    """Price of `seconds` of machine time, billed by the second."""
    return seconds / 3600 * dollars_per_hour
