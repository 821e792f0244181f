"""What the jobs of `preference_methods` found, method beside method, as gains over the policy they all began at."""

import numpy as np

from nbhelpers.core.statistics import Metric, estimate

BEFORE = "SFT"  # the policy that every method began at


def gain(results: dict[str, dict], name: str, value: str = "true", split: str = "test", over: str = BEFORE) -> Metric:
    """The mean paired difference of one value between two methods over the questions of a split, with its interval.

    A method with several seeds (`over_seeds`) has an interval over seeds and questions.

    Args:
        value: `true` (score), `proxy` (the reward model's), `paid` (by `wrong_sign`), `ended` or `tokens`.
        split: `validation` or `test`.
    """
    after, before = (np.array(results[method]["scores"][f"{split}.{value}"]) for method in (name, over))
    return estimate((after - before).tolist())


def kept(results: dict[str, dict], name: str) -> float:
    """Facts and sums that a method answers right, as a share of those that were right before it."""
    right = {
        method: sum(map(sum, (results[method]["forgetting"][kind] for kind in ("facts", "arithmetic"))))
        for method in (name, BEFORE)
    }
    return right[name] / right[BEFORE] if right[BEFORE] else float("nan")


def figures(results: dict[str, dict]) -> dict[str, Metric]:
    """`"<method>.<figure>"` -> value, for `run.finish`: scores, gains, KL, what was kept, the price."""
    found: dict[str, Metric] = {}
    for name, result in results.items():
        for key, values in result["scores"].items():
            found[f"{name}.{key}"] = estimate(values, results[BEFORE]["scores"][key])
        if name == BEFORE:
            continue
        for split in ("validation", "test"):
            found[f"{name}.{split}.gain"] = gain(results, name, split=split)
        found[f"{name}.kl"] = estimate(result["kl"], unit="nats per answer", higher_is_better=False)
        found[f"{name}.kept"] = Metric(kept(results, name), unit="share of facts and sums")
        found[f"{name}.seconds"] = Metric(result["seconds"], unit="s", higher_is_better=False)
        found[f"{name}.dollars"] = Metric(result["dollars"], unit="dollars", higher_is_better=False)
        found[f"{name}.peak_memory_bytes"] = Metric(result["peak_memory_bytes"], unit="bytes", higher_is_better=False)
    return found


def table(results: dict[str, dict]):
    """A `pandas.DataFrame`: a row a method, with its gains over SFT, KL in nats per answer, and what it took."""
    import pandas as pd

    rows = {}
    for name, result in results.items():
        rows[name] = {"true score, test": _shown(estimate(result["scores"]["test.true"]))}
        if name == BEFORE:
            continue
        rows[name] |= {
            "gain, validation": _shown(gain(results, name, split="validation"), "+"),
            "gain, test": _shown(gain(results, name), "+"),
            "proxy gain": _shown(gain(results, name, "proxy"), "+"),
            "KL": f"{np.mean(result['kl']):.2f}",
            "kept": f"{kept(results, name):.2f}",
            "tokens": f"{np.mean(result['scores']['test.tokens']):.0f}",
            "seconds": f"{result['seconds']:.0f}",
            "dollars": f"{result['dollars']:.4f}",
            "peak MiB": f"{result['peak_memory_bytes'] / 2**20:,.0f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").fillna("")


def _shown(metric: Metric, sign: str = "") -> str:
    return f"{metric.value:{sign}.2f} [{metric.low:{sign}.2f}, {metric.high:{sign}.2f}]"
