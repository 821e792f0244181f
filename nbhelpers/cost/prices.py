"""What machines cost an hour, from `data/gpu_prices.csv`, what their GPUs are, and what a time on one comes to."""

import csv
import math
from dataclasses import dataclass, fields
from pathlib import Path

from nbhelpers.core.errors import NotebookError, ParameterError
from nbhelpers.core.storage import repository_root

KINDS = ("on demand", "flex", "active", "spot", "historical")


@dataclass(frozen=True)
class Price:
    """One row of data/gpu_prices.csv: what a machine with `gpus` GPUs costs an hour.

    `kind` is `on demand`, `flex` (billed while it works), `active` (billed all day, cheaper an hour), `spot` (may be
    taken away), or `historical`: an older price that guides still quote, which no estimate uses.
    """

    name: str
    gpu: str
    gpus: int
    kind: str
    dollars_per_hour: float
    what: str
    source: str
    date: str


@dataclass(frozen=True)
class Gpu:
    """One row of data/gpus.csv. Memory is what the driver shows, in bytes; `tflops` dense, in 16 bits, at the peak."""

    gpu: str
    memory_bytes: int
    bandwidth_gb_s: float
    tflops: float
    watts: float
    bfloat16: bool
    source: str


def table(name: str, *numbers: str, path: str | Path | None = None) -> list[dict]:
    """The rows of `data/<name>.csv`, or of another file with its columns, with the columns `numbers` as floats.

    Raises:
        NotebookError: it is missing.
        ParameterError: a column is missing, or a number is none or negative: names the row.
    """
    path = Path(path) if path else repository_root() / "data" / f"{name}.csv"
    if not path.exists():
        raise NotebookError(f"{path} is missing. It comes with the repository: run from a clone.")
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for line, row in enumerate(rows, 2):
        for column in numbers:
            try:
                row[column] = float(row[column])
            except KeyError:
                raise ParameterError(f"{path.name} has no column {column}; it has {', '.join(row)}.") from None
            except (TypeError, ValueError):
                raise ParameterError(f"{path.name}, line {line}: {column} is {row[column]!r}, not a number.") from None
            if not (row[column] >= 0 and math.isfinite(row[column])):
                raise ParameterError(
                    f"{path.name}, line {line}: {column} is {row[column]:g}; it is 0 or a number above."
                )
    return rows


def prices(path: str | Path | None = None) -> dict[str, Price]:
    """The price table by name; of two rows of a name the one with the newest date.

    Args:
        path: another file with the columns of data/gpu_prices.csv; None: that one.

    Raises:
        NotebookError, ParameterError: as `table`; also an unknown kind.
    """
    found: dict[str, Price] = {}
    rows, columns = table("gpu_prices", "dollars_per_hour", "gpus", path=path), [field.name for field in fields(Price)]
    if missing := [name for name in columns if rows and name not in rows[0]]:
        raise ParameterError(f"The price table has no column {', '.join(missing)}; it needs {', '.join(columns)}.")
    for row in sorted(rows, key=lambda row: row["date"]):
        if row["kind"] not in KINDS:
            raise ParameterError(f"{row['name']}: kind is {row['kind']!r}; choose {', '.join(KINDS)}.")
        found[row["name"]] = Price(**({name: row[name] for name in columns} | {"gpus": int(row["gpus"])}))
    return found


def offers(path: str | Path | None = None) -> list[Price]:
    """What can be rented with a GPU today, the cheapest first: every price that is not historical."""
    current = [price for price in prices(path).values() if price.gpus and price.kind != "historical"]
    return sorted(current, key=lambda price: price.dollars_per_hour)


def rents(gpu: str, path: str | Path | None = None) -> tuple[float, float]:
    """Dollars an hour of one GPU called `gpu`: in the cheapest and in the dearest offer.

    Args:
        path: of a price table, as for `prices`.

    Raises:
        NotebookError, ParameterError: as `prices`; also where no offer has this GPU.
    """
    found = [offer.dollars_per_hour / offer.gpus for offer in offers(path) if offer.gpu == gpu]
    if not found:
        known = sorted({offer.gpu for offer in offers(path)})
        raise ParameterError(f"No offer has {gpu!r}. Offered are: {', '.join(known)}.")
    return min(found), max(found)


def gpus() -> dict[str, Gpu]:
    """data/gpus.csv by name."""
    rows = table("gpus", "memory_mib", "bandwidth_gb_s", "tflops", "watts")
    return {
        row["gpu"]: Gpu(
            row["gpu"], int(row["memory_mib"] * 2**20), row["bandwidth_gb_s"], row["tflops"], row["watts"],
            row["bfloat16"] == "1", row["source"],
        )
        for row in rows
    }  # fmt: skip


def gpu(name: str) -> Gpu:
    """One GPU by its name in data/gpus.csv. Raises ParameterError that lists those that are known."""
    known = gpus()
    if name not in known:
        raise ParameterError(f"gpu={name!r} is not in data/gpus.csv; it has {', '.join(known)}.")
    return known[name]


def dollars(seconds: float, dollars_per_hour: float) -> float:
    """Price of `seconds` of machine time, billed by the second."""
    return seconds / 3600 * dollars_per_hour
