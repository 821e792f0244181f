"""Scores of one prediction against one reference: pure functions of two strings, from 0 to 1.

`evaluate_module` wraps one of them as an `evaluate.Metric`, so that `evaluate.combine` works with no network.
"""

import json
from collections import Counter
from functools import cache


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
