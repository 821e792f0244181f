"""Scores of one prediction against one reference, and intervals over many.

Each score is a pure function of two strings with a value from 0 to 1. `evaluate_module` wraps one of them as an
`evaluate.Metric`, so that `evaluate.combine` works with no network.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from nbhelpers.errors import ParameterError


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


def _refuse_constant(word: str):
    raise ValueError(f"{word} is not JSON.")


def _parse(text: str):
    """The value of a JSON text. NaN and Infinity, which Python reads and JSON has not, raise ValueError."""
    return json.loads(text, parse_constant=_refuse_constant)


def json_validity(prediction: str, reference: str = "") -> float:
    """1.0 when the whole prediction parses as a JSON object or array, else 0.0 (a bare number or word is no answer)."""
    try:
        return float(isinstance(_parse(prediction), dict | list))
    except (ValueError, RecursionError):
        return 0.0


def json_exact_match(prediction: str, reference: str) -> float:
    """1.0 when both parse to the same JSON value; spaces and the order of keys do not count."""
    try:
        return float(_parse(prediction) == _parse(reference))
    except (ValueError, RecursionError):
        return 0.0


def json_keys_f1(prediction: str, reference: str) -> float:
    """F1 over the keys of two JSON objects; 0.0 where the prediction is not an object."""
    try:
        found, wanted = _parse(prediction), _parse(reference)
    except (ValueError, RecursionError):
        return 0.0
    if not isinstance(found, dict) or not isinstance(wanted, dict):
        return 0.0
    common = len(found.keys() & wanted.keys())
    return 2 * common / (len(found) + len(wanted)) if found or wanted else 1.0


def exact_match(prediction: str, reference: str) -> float:
    """1.0 when both texts are equal after folding runs of white space."""
    return float(prediction.split() == reference.split())


def token_f1(prediction: str, reference: str) -> float:
    """F1 over lower-cased words as a multiset, after SQuAD (Rajpurkar et al. 2016) without its article rule."""
    found, wanted = Counter(prediction.lower().split()), Counter(reference.lower().split())
    common = sum((found & wanted).values())
    return 2 * common / (found.total() + wanted.total()) if found or wanted else 1.0


@cache
def _rouge():
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


def rouge_l(prediction: str, reference: str) -> float:
    """F-measure of the longest common subsequence of stemmed words (Lin 2004), computed by `rouge-score`."""
    return _rouge().score(reference, prediction)["rougeL"].fmeasure


def perplexity(mean_negative_log_likelihood: float) -> float:
    """exp of the mean negative log-likelihood a token, in nats; infinite where it overflows a float."""
    try:
        return math.exp(mean_negative_log_likelihood)
    except OverflowError:
        return math.inf


SCORES = {
    "summary": {"rouge_l": rouge_l},
    "parameters": {"json_validity": json_validity, "exact_match": json_exact_match, "keys_f1": json_keys_f1},
    "signature": {"exact_match": exact_match},
    "package": {"exact_match": exact_match},
    "unanswerable": {"exact_match": exact_match},
}  # task -> name -> function(prediction, reference); the first one listed is the task's headline


def score(task: str, prediction: str, reference: str) -> dict[str, float]:
    """Every score of one row; a task that is not in `SCORES` (a user's own) gets ROUGE-L, token F1 and exact match."""
    functions = SCORES.get(task, {"rouge_l": rouge_l, "token_f1": token_f1, "exact_match": exact_match})
    return {name: function(prediction.strip(), reference.strip()) for name, function in functions.items()}


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
    return Metric(p, max(0.0, low), min(1.0, high), n, unit=unit, higher_is_better=higher_is_better)


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


def evaluate_module(name: str):
    """One score of this module as an `evaluate.Metric` (its mean over the rows), for `evaluate.combine`.

    `name` is a function of this module: rouge_l, exact_match, json_validity, json_exact_match, json_keys_f1, token_f1.
    """
    import datasets
    import evaluate

    function = globals()[name]

    class Score(evaluate.Metric):
        def _info(self):
            features = datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            )
            return evaluate.MetricInfo(
                description=function.__doc__, citation="", inputs_description="strings", features=features
            )

        def _compute(self, predictions, references):
            pairs = zip(predictions, references, strict=True)
            scores = [function(prediction, reference) for prediction, reference in pairs]
            return {name: sum(scores) / len(scores)}

    return Score()
