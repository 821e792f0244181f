"""Variants of a study side by side: their figures with intervals, pooled over seeds, set against one another."""

import statistics

import numpy as np

from nbhelpers.core.statistics import Metric, estimate
from nbhelpers.evaluation import forgetting

COLUMNS = {  # figures of a variant: their units, and whether more is better
    "trained_parameters": ("parameters", False),
    "trained_share": ("share", False),
    "saved_bytes": ("bytes", False),
    "predicted_peak_memory_bytes": ("bytes", False),
    "peak_memory_bytes": ("bytes", False),
    "tokens_per_second": ("tokens/s", True),
    "predicted_seconds": ("s", False),
    "seconds": ("s", False),
    "dollars": ("dollars", False),
    "learning_rate": ("", False),
}


def figures(results: dict[str, dict], untuned: str) -> dict[str, Metric]:
    """`"<variant>.<figure>"` -> value; scores, losses and probes with their intervals beside the untuned model's.

    A latency is that of the base times so much, round by round: the median, the lowest and the highest. A variant that
    was left out has no figures.

    Args:
        results: variant -> what `tune` or `combine` found.
        untuned: the name of the variant in which nothing was trained.
    """
    found: dict[str, Metric] = {}
    base = results[untuned]
    for name, result in results.items():
        if "left_out" in result:
            continue
        for column, (unit, higher) in COLUMNS.items():
            if column in result:
                found[f"{name}.{column}"] = Metric(result[column], unit=unit, higher_is_better=higher)
        found[f"{name}.held_out_loss"] = estimate(
            result["held_out_loss"], base["held_out_loss"], unit="nats a token", higher_is_better=False
        )
        for key, values in result["scores"].items():
            found[f"{name}.{key}"] = estimate(values, base["scores"][key])
        for key, metric in forgetting.estimates(result["forgetting"], base["forgetting"]).items():
            found[f"{name}.{key}"] = metric
        found[f"{name}.known_lost"] = known_lost(result["forgetting"], base["forgetting"])
        times = result.get("latency", {})
        for key, mine, theirs in (("latency", "as it is", "base"), ("latency_merged", "merged", "base, again")):
            if mine in times:
                ratios = [a / b for a, b in zip(times[mine], times[theirs], strict=True)]
                spread = (statistics.median(ratios), min(ratios), max(ratios), len(ratios))
                found[f"{name}.{key}"] = Metric(*spread, 1.0, "times the base's", higher_is_better=False)
    return found


def pooled(results: list[dict]) -> dict:
    """Results of one variant over several seeds as one: scores, losses and probes with a line a seed.

    The intervals that `figures` gives then cover the choice of seeds as well as that of rows and probes.
    """
    numbers = {key: statistics.fmean(r[key] for r in results) for key in ("seconds", "dollars") if key in results[0]}
    return numbers | {key: _stacked([r[key] for r in results]) for key in ("held_out_loss", "scores", "forgetting")}


def _stacked(values: list):
    if isinstance(values[0], dict):
        return {key: _stacked([value[key] for value in values]) for key in values[0]}
    return values


def known_lost(tuned: dict[str, list[float]], untuned: dict[str, list[float]]) -> Metric:
    """The share of the facts and sums that were lost, less those that were gained, with its interval.

    The untuned model itself has lost nothing, whatever the probes.
    """
    if tuned is untuned:
        return Metric(0.0, 0.0, 0.0, unit="share lost", higher_is_better=False)
    before, after = (np.concatenate([probed["facts"], probed["arithmetic"]], axis=-1) for probed in (untuned, tuned))
    return estimate(before - after, unit="share lost", higher_is_better=False)


def _by_row(result: dict) -> dict[str, list[float]]:
    """What a variant did, row by row and probe by probe, by the name of the figure."""
    probed = result["forgetting"]
    lost = [1 - right for right in probed["facts"] + probed["arithmetic"]]
    losses = {"held-out loss": result["held_out_loss"], "chat loss": probed["chat"], "prose loss": probed["prose"]}
    return losses | {"facts and sums wrong": lost} | result["scores"]


def differences(by_seed: dict[str, list[dict]], baseline: str) -> dict[str, dict[str, tuple[Metric, int]]]:
    """Every variant against one of them, over the same seeds: variant -> figure -> `(mean difference, seeds)`.

    The difference is paired by row, seed by seed; its interval covers the choice of seeds and of rows.
    `seeds` counts those whose own mean difference has its sign.
    """
    found: dict[str, dict[str, tuple[Metric, int]]] = {}
    for name in by_seed:
        if name == baseline:
            continue
        found[name] = {}
        pairs = [(_by_row(a), _by_row(b)) for a, b in zip(by_seed[name], by_seed[baseline], strict=True)]
        for figure in pairs[0][0]:
            moved = [[x - y for x, y in zip(a[figure], b[figure], strict=True)] for a, b in pairs]
            mean = estimate(moved)
            found[name][figure] = mean, sum(statistics.fmean(values) * mean.value > 0 for values in moved)
    return found


def versus(by_seed: dict[str, list[dict]], baseline: str):
    """`differences` as a `pandas.DataFrame`: a row a figure, a column a variant, `mean [low, high], seeds of seeds`."""
    import pandas as pd

    count = len(by_seed[baseline])
    return pd.DataFrame(
        {
            name: {
                figure: f"{m.value:+.2f} [{m.low:+.2f}, {m.high:+.2f}], {seeds} of {count}"
                for figure, (m, seeds) in by_figure.items()
            }
            for name, by_figure in differences(by_seed, baseline).items()
        }
    )


def points(found: dict[str, Metric], x: str, y: str) -> dict[str, tuple[Metric, Metric]]:
    """Two figures of each variant that has both, for `plots.plot_pareto`: variant -> `(x, y)`; `found` as `figures`."""
    names = dict.fromkeys(key.partition(".")[0] for key in found)
    pairs = {name: (found.get(f"{name}.{x}"), found.get(f"{name}.{y}")) for name in names}
    return {name: pair for name, pair in pairs.items() if None not in pair}


def table(found: dict[str, Metric]):
    """A `pandas.DataFrame`: a row a variant, a column a figure, as `figures` gave them."""
    import pandas as pd

    rows: dict[str, dict[str, str]] = {}
    for key, metric in found.items():
        name, _, column = key.partition(".")
        rows.setdefault(name, {})[column.replace("_", " ")] = _shown(metric)
    return pd.DataFrame.from_dict(rows, orient="index").fillna("")


def _shown(metric: Metric) -> str:
    value = metric.value
    if metric.unit == "bytes":
        return f"{value / 2**20:,.1f} MiB"
    if metric.unit == "dollars":
        return f"${value:.4f}"
    if metric.unit == "share":
        return f"{value:.3%}"
    text = f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3g}"
    if metric.low is None:
        return text
    return f"{value:.2f} [{metric.low:.2f}, {metric.high:.2f}]"
