import pytest

from nbhelpers.studies import comparison


def test_pooled_results_have_the_mean_over_seeds_and_an_interval_that_covers_them():
    one, other = result([1.0, 2.0], [1.0, 0.0]), result([3.0, 2.0], [0.0, 0.0])
    found = comparison.pooled([one | {"seconds": 2.0}, other | {"seconds": 4.0}])
    assert found["seconds"] == 3.0
    untuned = result([2.0, 2.0], [1.0, 1.0])
    figures = comparison.figures({"untuned": untuned, "tuned": found}, "untuned")
    assert figures["tuned.held_out_loss"].value == 2.0
    assert (figures["tuned.held_out_loss"].low, figures["tuned.held_out_loss"].high) == (1.0, 3.0)
    assert figures["tuned.known_lost"].value == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert figures["tuned.known_lost"].n == 3
    assert figures["tuned.summary.rouge_l"].value == 0.5
    with pytest.raises(ValueError, match="inhomogeneous"):
        comparison.figures(
            {"untuned": untuned, "tuned": comparison.pooled([one, result([1.0], [1.0, 0.0])])}, "untuned"
        )


def test_seeds_that_disagree_widen_the_interval():
    agree = {"a": [result([2.0] * 9, [1.0])] * 3, "b": [result([1.0] * 9, [1.0])] * 3}
    disagree = agree | {"a": [result([x] * 9, [1.0]) for x in (0.0, 2.0, 4.0)]}
    for by_seed, low, high in ((agree, 1.0, 1.0), (disagree, -1.0, 3.0)):
        mean, _ = comparison.differences(by_seed, "b")["a"]["held-out loss"]
        assert (mean.value, mean.low, mean.high) == (1.0, low, high)


def test_what_is_known_no_more_is_lost_and_what_was_gained_is_taken_off():
    untuned = {"facts": [1.0, 1.0, 0.0, 1.0], "arithmetic": [1.0]}
    tuned = {"facts": [1.0, 0.0, 1.0, 0.0], "arithmetic": [0.0]}
    assert comparison.known_lost(tuned, untuned).value == pytest.approx(2 / 5)


def test_where_no_probe_changed_something_may_be_lost_all_the_same_but_not_by_the_untuned_model():
    untuned = {"facts": [1.0] * 20, "arithmetic": [0.0] * 20}
    same = comparison.known_lost(dict(untuned), untuned)
    assert (same.value, same.low, same.high) == (0, -same.high, pytest.approx(0.0876, abs=1e-4))
    itself = comparison.known_lost(untuned, untuned)
    assert (itself.value, itself.low, itself.high) == (0, 0, 0)


def test_latency_is_set_beside_the_base_round_by_round():
    times = {"base": [1.0, 2.0, 1.0], "as it is": [2.0, 4.0, 1.5], "merged": [1.0, 3.0, 3.0]}
    times["base, again"] = [1.0, 3.0, 2.0]
    untuned = result([1.0, 2.0], [1.0, 0.0])
    found = comparison.figures({"untuned": untuned, "LoRA": untuned | {"latency": times}}, "untuned")
    assert (found["LoRA.latency"].value, found["LoRA.latency"].low, found["LoRA.latency"].high) == (2.0, 1.5, 2.0)
    assert found["LoRA.latency_merged"].value == 1.0
    assert "untuned.latency" not in found


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
    assert table.loc["facts and sums wrong", "LoRA"].startswith("-0.50 [")
    assert table.loc["facts and sums wrong", "LoRA"].endswith("2 of 2")


def test_only_variants_with_both_figures_are_points():
    results = {"untuned": result([2.0, 2.0], [1.0]), "tuned": result([1.0, 3.0], [0.0]) | {"seconds": 5.0}}
    results |= {"too large": {"left_out": "no memory"}}
    pairs = comparison.points(comparison.figures(results, "untuned"), "seconds", "held_out_loss")
    assert {name: (x.value, y.value) for name, (x, y) in pairs.items()} == {"tuned": (5.0, 2.0)}
