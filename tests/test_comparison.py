import pytest

from nbhelpers import comparison
from nbhelpers.errors import ParameterError


def test_a_name_with_a_dot_is_refused():
    with pytest.raises(ParameterError, match=r"with a dot: rank 0\.5"):
        comparison.figures({"rank 0.5": {}, "untuned": {}}, "untuned")


def test_pooled_results_are_the_means_over_seeds_row_by_row():
    one = {"seconds": 2.0, "scores": {"a": [0.0, 1.0]}, "latency": {"base": [1.0]}, "findings": []}
    other = {"seconds": 4.0, "scores": {"a": [1.0, 1.0]}, "latency": {"base": [3.0]}, "findings": []}
    found = comparison.pooled([one, other])
    assert found == {"seconds": 3.0, "scores": {"a": [0.5, 1.0]}, "latency": {"base": [2.0]}, "findings": []}


def result(held_out, right):
    probed = {"facts": right, "arithmetic": [1.0], "chat": [2.0], "prose": [3.0]}
    return {"held_out_loss": held_out, "forgetting": probed, "scores": {"summary.rouge_l": [0.5, 0.5]}}


def test_variants_are_set_against_one_of_them_row_by_row_and_seed_by_seed():
    by_seed = {
        "full": [result([1.0, 2.0], [1.0, 0.0]), result([1.0, 3.0], [0.0, 0.0])],
        "LoRA": [result([1.5, 2.5], [1.0, 1.0]), result([1.5, 2.0], [1.0, 1.0])],
    }
    found = comparison.differences(by_seed, "full")
    assert found.keys() == {"LoRA"}
    loss, seeds = found["LoRA"]["held-out loss"]
    assert loss.value == pytest.approx((0.5 + (0.5 - 1.0) / 2) / 2)
    assert (loss.n, seeds) == (2, 1), "one seed says more, one less"
    wrong, seeds = found["LoRA"]["facts and sums wrong"]
    assert wrong.value == pytest.approx(-0.5)
    assert seeds == 2
    assert found["LoRA"]["chat loss"][0].value == 0
    table = comparison.versus(by_seed, "full")
    assert table.loc["LoRA", "facts and sums wrong"].startswith("-0.50 [")
    assert table.loc["LoRA", "facts and sums wrong"].endswith("2 of 2")
