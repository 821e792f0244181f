"""What a project costs beside its GPU hours: interruptions, people, storage, data, energy."""

import math
from dataclasses import dataclass

from nbhelpers.core.errors import ParameterError


def positive(**values: float) -> None:
    """Raises ParameterError that names the first value that is not a number above 0."""
    for name, value in values.items():
        if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
            raise ParameterError(f"{name}={value!r}: a number above 0 is needed.")


def not_negative(**values: float) -> None:
    """Raises ParameterError that names the first value that is no number, or below 0."""
    for name, value in values.items():
        if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
            raise ParameterError(f"{name}={value!r}: 0 or a number above it is needed.")


@dataclass(frozen=True)
class Spot:
    """A run on a machine that may be taken away: seconds between checkpoints, expected hours, share that is lost."""

    checkpoint_seconds: float
    hours: float
    waste: float


def spot(
    hours: float, checkpoint_write_seconds: float, hours_between_interruptions: float, restart_seconds: float = 300
):
    """The best interval between checkpoints, and how much longer a run then takes.

    The interval is sqrt(2 C M) (Young 1974) for a checkpoint that takes C and a mean time M between interruptions. The
    share of time that is lost is C / T for writing, and for each interruption half an interval and the restart R:
    (T / 2 + R) / M (Daly 2006, first order).

    Returns: `Spot`.

    Raises:
        ParameterError: a value that is not above 0, or interruptions so frequent that the run would not end.
    """
    positive(
        hours=hours, checkpoint_write_seconds=checkpoint_write_seconds,
        hours_between_interruptions=hours_between_interruptions,
    )  # fmt: skip
    not_negative(restart_seconds=restart_seconds)
    between = 3600 * hours_between_interruptions
    interval = math.sqrt(2 * checkpoint_write_seconds * between)
    lost = checkpoint_write_seconds / interval + (interval / 2 + restart_seconds) / between
    if lost >= 1:
        raise ParameterError(
            f"hours_between_interruptions={hours_between_interruptions:g}: a run that writes a checkpoint in "
            f"{checkpoint_write_seconds:g} s would never end. Write smaller checkpoints (the adapter alone)."
        )
    return Spot(interval, hours / (1 - lost), lost)


def annotation(examples: int, minutes_each: float, dollars_per_hour: float) -> float:
    """Dollars for examples written by people: examples x minutes / 60 x wage."""
    not_negative(examples=examples, minutes_each=minutes_each, dollars_per_hour=dollars_per_hour)
    return examples * minutes_each / 60 * dollars_per_hour


def storage(gigabytes: float, months: float, dollars_per_gigabyte_month: float = 0.023) -> float:
    """Dollars for object storage; the default is that of S3 Standard in us-east-1 (aws.amazon.com/s3/pricing)."""
    not_negative(gigabytes=gigabytes, months=months, dollars_per_gigabyte_month=dollars_per_gigabyte_month)
    return gigabytes * months * dollars_per_gigabyte_month


@dataclass(frozen=True)
class Energy:
    """Electric energy of a run in kWh, and what its generation emits in kg of CO2 equivalent."""

    kwh: float
    kg_co2: float


def energy(hours: float, watts: float, grams_co2_per_kwh: float, overhead: float = 1.2) -> Energy:
    """Energy of a machine that draws `watts`, times the overhead of its data centre (PUE), at a stated grid intensity.

    An upper estimate where `watts` is the rating of the board: it is not reached all the time.

    Raises:
        ParameterError: a negative value, or an overhead below 1.
    """
    not_negative(hours=hours, watts=watts, grams_co2_per_kwh=grams_co2_per_kwh)
    if not overhead >= 1:
        raise ParameterError(f"overhead={overhead!r}: the PUE of a data centre is at least 1.")
    kwh = hours * watts * overhead / 1000
    return Energy(kwh, kwh * grams_co2_per_kwh / 1000)


def several_gpus(seconds: float, dollars_per_hour: float, gpus: int, efficiency: float) -> tuple[float, float]:
    """`(seconds, dollars)` on `gpus` GPUs at a scaling efficiency: with 4 that are 3 times as fast, a third dearer.

    Args:
        seconds, dollars_per_hour: of one GPU.
        efficiency: speed-up / gpus, above 0 and up to 1.
    """
    positive(seconds=seconds, gpus=gpus, efficiency=efficiency)
    not_negative(dollars_per_hour=dollars_per_hour)
    if efficiency > 1:
        raise ParameterError(f"efficiency={efficiency:g}: at most 1 (no GPU gets faster by having company).")
    shorter = seconds / (gpus * efficiency)
    return shorter, shorter / 3600 * dollars_per_hour * gpus


def phases(budget: float) -> dict[str, tuple[float, float]]:
    """`phase -> (from, to)` dollars of a budget: 20-30 % exploration, 50-60 % the training proper, 20-30 % after it."""
    positive(budget=budget)
    shares = {"explore": (0.2, 0.3), "train": (0.5, 0.6), "evaluate and serve": (0.2, 0.3)}
    return {name: (low * budget, high * budget) for name, (low, high) in shares.items()}
