import math
import random

import numpy as np
import pytest

from nbhelpers.core.errors import ParameterError
from nbhelpers.core.statistics import bootstrap_interval, estimate, share
from nbhelpers.evaluation import scores

NAMES = ("rouge_l", "exact_match", "json_validity", "json_exact_match", "json_keys_f1", "token_f1")


@pytest.mark.parametrize(
    ("name", "prediction", "reference", "expected"),
    [
        ("rouge_l", "the cat sat", "the cat sat on the mat", 2 / 3),  # P 3/3, R 3/6
        ("rouge_l", "mat the", "the mat", 1 / 2),  # order counts
        ("rouge_l", "Cats running", "cat runs", 1),  # stems
        ("rouge_l", "", "words", 0),
        ("exact_match", "f(a,\n  b) ", "f(a, b)", 1),
        ("exact_match", "F(a, b)", "f(a, b)", 0),
        ("token_f1", "a a b", "A b c d", 4 / 7),  # `a` and `b` in common
        ("token_f1", "", "", 1),
        ("token_f1", "", "a", 0),
        ("json_validity", '{"a": 1}', "", 1),
        ("json_validity", '[{"a": null}]', "", 1),
        ("json_validity", 'Sure: {"a": 1}', "", 0),
        ("json_validity", '{"a": 1', "", 0),
        ("json_validity", '{"a": NaN}', "", 0),
        ("json_validity", "1", "", 0),
        ("json_validity", "", "", 0),
        ("json_validity", "[" * 100_000, "", 0),
        ("json_exact_match", '{"b":2,"a":1}', '{"a": 1, "b": 2}', 1),
        ("json_exact_match", '{"a": "1"}', '{"a": 1}', 0),
        ("json_exact_match", "[1, 2]", "[2, 1]", 0),
        ("json_exact_match", "nothing", "nothing", 0),
        ("json_keys_f1", '{"a": 1, "b": 2}', '{"a": 9, "c": 3, "d": 4}', 2 / 5),
        ("json_keys_f1", "{}", "{}", 1),
        ("json_keys_f1", "[]", '{"a": 1}', 0),
        ("json_keys_f1", "{", '{"a": 1}', 0),
    ],
)
def test_known_values(name, prediction, reference, expected):
    assert getattr(scores, name)(prediction, reference) == pytest.approx(expected, abs=1e-12)


def sentences(count: int, seed: int = 0) -> list[str]:
    """Sentences of words that no stemmer changes."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(["ba", "do", "mi", "fo", "gu", "ze"], k=rng.randint(1, 12))) for _ in range(count)]


PAIRS = list(zip(sentences(40, 1), sentences(40, 2), strict=True))


@pytest.mark.parametrize("name", ["rouge_l", "token_f1", "exact_match"])
def test_equal_texts_score_one_and_swapping_changes_nothing(name):
    score = getattr(scores, name)
    for first, second in PAIRS:
        assert score(first, first) == 1
        assert 0 <= score(first, second) <= 1
        assert score(first, second) == pytest.approx(score(second, first), abs=1e-12)


def longest_common(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence, by its definition."""
    if not first or not second:
        return 0
    if first[-1] == second[-1]:
        return longest_common(first[:-1], second[:-1]) + 1
    return max(longest_common(first[:-1], second), longest_common(first, second[:-1]))


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence():
    for first, second in PAIRS:
        a, b = first.split()[:7], second.split()[:7]
        expected = 2 * longest_common(a, b) / (len(a) + len(b))
        assert scores.rouge_l(" ".join(a), " ".join(b)) == pytest.approx(expected, abs=1e-12)


def test_rouge_l_is_that_of_rouge_score():
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    found = [scores.rouge_l(prediction, reference) for prediction, reference in PAIRS]
    assert found == [scorer.score(reference, prediction)["rougeL"].fmeasure for prediction, reference in PAIRS]
    assert len(set(found)) > 10


@pytest.mark.parametrize("task", scores.SCORES)
def test_a_perfect_answer_scores_one_whatever_the_white_space_around_it(task):
    answer = '{"a": "int"}'
    assert set(scores.score(task, f"\n{answer} ", answer).values()) == {1.0}


def test_a_task_of_the_users_own_gets_text_scores():
    assert scores.score("poems", "a b", "a c") == pytest.approx({"rouge_l": 0.5, "token_f1": 0.5, "exact_match": 0})


def test_the_interval_of_a_large_sample_is_the_normal_one():
    sample = np.random.default_rng(0).gamma(2.0, size=4_000)
    low, high = bootstrap_interval(sample)
    error = sample.std(ddof=1) / math.sqrt(len(sample))
    assert (low - sample.mean()) / error == pytest.approx(-1.96, abs=0.12)  # a 90 % interval would give 1.64
    assert (high - sample.mean()) / error == pytest.approx(1.96, abs=0.12)


@pytest.mark.parametrize(("level", "lowest", "highest"), [(0.95, 0.92, 0.97), (0.8, 0.75, 0.84)])
def test_the_interval_covers_the_true_mean_as_often_as_it_says(level, lowest, highest):
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(400):
        low, high = bootstrap_interval(rng.normal(size=60), seed=seed, resamples=250, level=level)
        covered += low <= 0 <= high
    assert lowest < covered / 400 < highest


def test_four_times_the_rows_halve_the_interval():
    sample = np.random.default_rng(1).normal(size=200)
    widths = [np.diff(bootstrap_interval(np.tile(sample, times)))[0] for times in (1, 4, 16)]
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.06)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.06)


def test_the_interval_of_equal_values_is_a_point_and_of_any_sample_holds_the_mean():
    assert bootstrap_interval([0.25] * 9) == (0.25, 0.25)
    for n in (2, 5, 30):
        sample = np.random.default_rng(n).random(n)
        low, high = bootstrap_interval(sample)
        assert sample.min() <= low < sample.mean() < high <= sample.max()


def test_the_interval_depends_on_the_seed_alone():
    sample = np.random.default_rng(0).random(50)
    assert bootstrap_interval(sample, seed=3) == bootstrap_interval(sample, seed=3)
    assert bootstrap_interval(sample, seed=3) != bootstrap_interval(sample, seed=4)


def test_a_hundred_thousand_rows_need_little_memory():
    import tracemalloc

    tracemalloc.start()
    bootstrap_interval(np.zeros(100_000), resamples=20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 8 * 100_000  # a few arrays of the sample's size, not one a resample


@pytest.mark.parametrize("sample", [[], [[]], [[[1.0, 2.0]]]])
def test_a_sample_that_is_empty_or_no_list_is_refused(sample):
    with pytest.raises(ValueError, match="shape"):
        bootstrap_interval(sample)
    with pytest.raises(ValueError, match="shape"):
        estimate(sample)


def test_estimate_is_mean_interval_rows_and_baseline():
    values, baseline = [0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]
    m = estimate(values, baseline, unit="share")
    assert (m.value, m.n, m.baseline, m.unit) == (0.75, 4, 0.25, "share")
    assert (m.low, m.high) == bootstrap_interval(values)
    assert estimate(values).baseline is None


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_score_that_is_the_same_in_every_row_has_the_interval_of_a_share(value):
    m, expected = estimate([value] * 50, [0.0] * 50), share(int(50 * value), 50)
    assert (m.value, m.low, m.high) == pytest.approx((value, expected.low, expected.high))
    assert m.high - m.low > 0.05
    difference = estimate([0.0] * 50)
    assert (difference.low, difference.high) == (0.0, 0.0), "no share"


@pytest.mark.parametrize("value", [-1, 0, 1])
def test_a_difference_of_shares_that_is_the_same_in_every_row_has_the_width_of_a_share(value):
    m, width = estimate([value] * 50, unit="share lost"), share(0, 50).high
    assert 0.05 < width < 0.1
    assert m.low == pytest.approx(max(-1, value - width))
    assert m.high == pytest.approx(min(1, value + width))
    half = estimate([0.5] * 50, unit="share lost")
    assert half.low == half.high == 0.5, "no outcome: nothing is known of its spread"


def test_an_interval_over_runs_covers_the_true_mean_more_often_than_one_over_rows():
    rng, covered = np.random.default_rng(0), {"rows": 0, "runs and rows": 0}
    for seed in range(200):
        values = rng.normal(size=(8, 1)) + rng.normal(size=(8, 40))  # each run has an effect of its own
        for name, sample in (("rows", values.mean(0)), ("runs and rows", values)):
            low, high = bootstrap_interval(sample, seed=seed, resamples=250)
            covered[name] += low <= 0 <= high
    assert covered["rows"] / 200 < 0.5
    assert 0.86 < covered["runs and rows"] / 200 <= 1


@pytest.mark.parametrize("baseline", [[], [1.0], [1.0, 1.0, 1.0]])
def test_a_baseline_on_other_rows_is_refused(baseline):
    with pytest.raises(ValueError, match="not the same rows"):
        estimate([0.0, 1.0], baseline)


@pytest.mark.parametrize("name", NAMES)
def test_an_evaluate_module_gives_the_mean_score(name):
    predictions, references = ["a b", '{"a": 1}', "c"], ["a c", '{"a": 1}', "c"]
    expected = [getattr(scores, name)(p, r) for p, r in zip(predictions, references, strict=True)]
    found = scores.evaluate_module(name).compute(predictions=predictions, references=references)
    assert found == {name: pytest.approx(sum(expected) / 3)}


def test_evaluate_combine_works_without_a_network():
    import evaluate

    combined = evaluate.combine([scores.evaluate_module(name) for name in NAMES])
    found = combined.compute(predictions=["a b", "[1]"], references=["a c", "[1]"])
    assert found == pytest.approx(
        {"rouge_l": 0.75, "exact_match": 0.5, "json_validity": 0.5, "json_exact_match": 0.5}
        | {"json_keys_f1": 0, "token_f1": 0.75}
    )


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(50, 100, 0.4038, 0.5962), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 1, 0.2065, 1.0)],
)  # Wilson's interval, computed with statsmodels
def test_a_share_has_wilsons_interval(hits, n, low, high):
    found = share(hits, n)
    assert (found.value, found.n) == (hits / n, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("hits", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_a_share_of_nothing_or_of_more_than_all_is_refused(hits, n):
    with pytest.raises(ParameterError, match=f"hits={hits}, n={n}"):
        share(hits, n)


@pytest.mark.parametrize("n", range(1, 120))
def test_the_interval_of_a_share_holds_the_share_where_all_or_none_hit(n):
    for hits in (0, n):
        found = share(hits, n)
        assert found.low <= found.value <= found.high
