"""A number with its interval: bootstrap of a mean, and the score interval of a share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nbhelpers.core.errors import ParameterError


@dataclass(frozen=True)
class Metric:
    """A number with its 95 % interval: one entry of metrics.json.

    `value` is a mean over `n` rows and `low`..`high` its interval (None where there is no sample to resample);
    `baseline` is the same number of the untuned model on the same rows.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    baseline: float | None = None
    unit: str = ""
    higher_is_better: bool = True


def bootstrap_interval(
    values: Sequence, seed: int = 0, resamples: int = 2_000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron 1979): the answer is (low, high).

    Args:
        values: shape (n,), or (runs, n) for several runs on the same n rows: then both runs and rows are drawn, so that
            the interval covers the choice of either. With two or three runs it is still somewhat narrow. Paired data:
            pass the differences.

    Raises ValueError on an empty sample or another shape.
    """
    import numpy as np

    sample = np.asarray(values, dtype=float)
    if sample.ndim not in (1, 2) or not sample.size:
        raise ValueError(f"bootstrap_interval needs a sample of shape (n,) or (runs, n), got shape {sample.shape}.")
    sample = np.atleast_2d(sample)
    rng, (runs, n) = np.random.default_rng(seed), sample.shape
    means = []
    for _ in range(resamples):  # one by one: n may be 100,000
        drawn = rng.integers(0, n, size=n)
        means.append((sample[rng.integers(0, runs, size=runs)] if runs > 1 else sample)[:, drawn].mean())
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def share(hits: int, n: int, unit: str = "", higher_is_better: bool = True) -> Metric:
    """A share of `n` independent cases with its 95 % score interval (Wilson 1927), which keeps its width at 0 and 1.

    Raises ParameterError: not 0 <= hits <= n, or n is 0.
    """
    if not 0 <= hits <= n or n < 1:
        raise ParameterError(f"hits={hits}, n={n}: a share needs 0 <= hits <= n and at least one case.")
    z, p = 1.959964, hits / n
    middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
    low, high = max(0.0, min(low, p)), min(1.0, max(high, p))  # where all or none hit, rounding may pass the share
    return Metric(p, low, high, n, unit=unit, higher_is_better=higher_is_better)


def estimate(
    values: Sequence, baseline: Sequence[float] | None = None, unit: str = "", higher_is_better: bool = True
) -> Metric:
    """The mean of `values` with its bootstrap interval, beside the mean of `baseline` on the same rows.

    Where every row of a score, which has a baseline, is 0 or every row 1, there is nothing to resample: the interval is
    that of a `share`. A difference of shares that is the same in every row is as wide, to both sides.

    Args:
        values: as for `bootstrap_interval`.

    Raises ValueError on an empty sample, or where `baseline` has not as many rows.
    """
    import numpy as np

    low, high = bootstrap_interval(values)
    mean, rows = float(np.mean(values)), np.shape(values)[-1]
    if baseline is not None and len(baseline) != rows:
        raise ValueError(f"estimate got {rows} values and a baseline of {len(baseline)}: not the same rows.")
    if (baseline is not None or unit.startswith("share")) and low == high and mean in (-1, 0, 1):
        width, lowest = share(0, rows).high, -1 if baseline is None else 0
        low, high = max(mean - width, lowest), min(mean + width, 1)
    base = None if baseline is None else float(np.mean(baseline))
    return Metric(mean, low, high, rows, base, unit, higher_is_better)
