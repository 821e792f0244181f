"""Gains over the policy that every method began at, on numbers that are known."""

import pytest

from nbhelpers.studies import preference_comparison as comparison

PROBES = {"facts": [1.0, 1.0, 0.0, 1.0], "arithmetic": [1.0, 0.0], "chat": [2.0], "prose": [3.0]}


def result(true, paid=None, facts=None, **more):
    values = {"true": true, "proxy": true, "paid": paid or true, "ended": true, "tokens": true}
    scores = {f"{split}.{name}": value for split in ("validation", "test") for name, value in values.items()}
    return {"scores": scores, "kl": [0.5, 1.5], "forgetting": PROBES | ({"facts": facts} if facts else {})} | more


COSTS = {"seconds": 60.0, "dollars": 0.01, "peak_memory_bytes": 2**30}
BEFORE = result([0.0, 1.0, 0.0, 1.0])
AFTER = result([1.0, 1.0, 0.0, 1.0], paid=[3.0, 3.0, 3.0, 3.0], facts=[1.0, 0.0, 0.0, 1.0], **COSTS)
SEEDS = result([[1.0, 1.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]], **COSTS)
RESULTS = {"SFT": BEFORE, "DPO": SEEDS, "wrong": AFTER}


def test_a_gain_is_the_mean_paired_difference_over_questions_and_seeds():
    assert comparison.gain(RESULTS, "wrong").value == pytest.approx(0.25)
    assert comparison.gain(RESULTS, "wrong", "paid").value == pytest.approx(2.5)
    assert comparison.gain(RESULTS, "DPO").value == pytest.approx(0.375)
    assert comparison.gain(RESULTS, "wrong", over="DPO").value == pytest.approx(-0.125)
    turned = comparison.gain(RESULTS, "SFT", over="wrong")
    assert turned.low <= turned.value == pytest.approx(-0.25)


def test_kept_is_the_share_of_what_was_known_before():
    assert comparison.kept(RESULTS, "wrong") == pytest.approx(3 / 4)
    assert comparison.kept(RESULTS, "SFT") == 1


def test_figures_and_table_have_every_method_and_no_gain_of_the_policy_itself():
    found = comparison.figures(RESULTS)
    assert found["DPO.test.gain"].value == pytest.approx(0.375)
    assert found["wrong.test.true"].baseline == pytest.approx(0.5)
    assert found["wrong.dollars"].value == 0.01
    assert "SFT.test.gain" not in found
    table = comparison.table(RESULTS)
    assert list(table.index) == ["SFT", "DPO", "wrong"]
    assert table.loc["SFT", "gain, test"] == ""
    assert table.loc["wrong", "gain, test"].startswith("+0.25 [")
    assert table.loc["wrong", "peak MiB"] == "1,024"
