"""What the jobs of `formats` found, format beside format: every one against the unquantised model, row by row."""

import numpy as np

from nbhelpers.core.statistics import Metric, estimate
from nbhelpers.evaluation import forgetting
from nbhelpers.studies.comparison import known_lost

EXACT = "unquantised"
COSTS = {  # figure of a result -> unit, and how many of it are one in the table
    "make_seconds": ("s", 1), "load_seconds": ("s", 1), "saved_bytes": ("bytes", 2**20),
    "peak_memory_bytes": ("bytes", 2**20), "prefill": ("tokens/s", 1), "decode": ("tokens/s", 1),
}  # fmt: skip


def difference(results: dict[str, dict], name: str, other: str = EXACT) -> Metric:
    """The paired difference in held-out loss between two formats, in nats per token, with its interval over rows."""
    losses = np.array(results[name]["held_out_loss"]) - np.array(results[other]["held_out_loss"])
    return estimate(losses.tolist(), unit="nats per token", higher_is_better=False)


def rises(results: dict[str, dict]) -> dict[str, Metric]:
    """Format -> rise of the perplexity over the unquantised model's, as a share of it."""
    found = {name: difference(results, name) for name in results}
    return {name: Metric(*map(float, np.expm1([m.value, m.low, m.high]))) for name, m in found.items()}


def sizes(results: dict[str, dict]) -> dict[str, tuple[Metric, Metric]]:
    """Format -> `(MiB on disk, rise of the perplexity)`, where it has files of its own: a compiled one has none."""
    stored = {name: x for name, x in results.items() if "saved_bytes" in x and not name.endswith("compiled")}
    rise = rises(stored)
    return {name: (Metric(result["saved_bytes"] / 2**20), rise[name]) for name, result in stored.items()}


def changes(results: dict[str, dict]):
    """A `pandas.DataFrame` of `Metric`: a row a format, the paired change of each score, and of facts and sums."""
    import pandas as pd

    exact, rows = results[EXACT], {}
    for name, result in results.items():
        if name == EXACT:
            continue
        rows[name] = {
            key: estimate([a - b for a, b in zip(values, exact["scores"][key], strict=True)])
            for key, values in result["scores"].items()
        }
        rows[name]["known lost"] = known_lost(result["forgetting"], exact["forgetting"])
    return pd.DataFrame.from_dict(rows, orient="index")


def figures(results: dict[str, dict]) -> dict[str, Metric]:
    """`"<format>.<figure>"` -> value, for `run.finish`."""
    found: dict[str, Metric] = {}
    for name, result in results.items():
        for cost, (unit, _) in COSTS.items():
            if cost in result:
                found[f"{name}.{cost}"] = Metric(result[cost], unit=unit, higher_is_better=unit == "tokens/s")
        found[f"{name}.loss_rise"] = difference(results, name)
        for near in ("kl", "agreement", "logit_difference"):
            found[f"{name}.{near}"] = estimate(result[near], higher_is_better=near == "agreement")
        for key, values in result["scores"].items():
            found[f"{name}.{key}"] = estimate(values, results[EXACT]["scores"][key])
        for key, metric in forgetting.estimates(result["forgetting"], results[EXACT]["forgetting"]).items():
            found[f"{name}.{key}"] = metric
    return found


def table(results: dict[str, dict]):
    """A `pandas.DataFrame`: a row a format, what it costs and how near it stays."""
    import pandas as pd

    titles = {"saved_bytes": "MiB on disk", "peak_memory_bytes": "MiB of memory", "prefill": "prefill tokens/s"}
    titles |= {"decode": "decode tokens/s", "make_seconds": "made in s", "load_seconds": "loaded in s"}
    rows, rise = {}, rises(results)
    for name, result in results.items():
        costs = {titles[cost]: result[cost] / one for cost, (_, one) in COSTS.items() if cost in result}
        rows[name] = {title: f"{value:,.0f}" if value >= 20 else f"{value:.1f}" for title, value in costs.items()}
        rows[name] |= {
            "perplexity": f"{np.exp(np.mean(result['held_out_loss'])):.2f}",
            "rise": f"{rise[name].value:+.1%} [{rise[name].low:+.1%}, {rise[name].high:+.1%}]",
            "KL": f"{np.mean(result['kl']):.4f}",
            "same choice": f"{np.mean(result['agreement']):.3f}",
            "logits differ by": f"{np.mean(result['logit_difference']):.2f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").fillna("")
