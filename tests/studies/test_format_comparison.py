"""Formats beside the unquantised model, on numbers that are known."""

import math

import pytest

from nbhelpers.core.statistics import Metric
from nbhelpers.studies import format_comparison as comparison

PROBES = {"facts": [1.0, 1.0], "arithmetic": [1.0, 0.0], "chat": [2.0], "prose": [3.0]}


def result(loss, right, **more):
    near = {"kl": [0.1, 0.3], "agreement": [1.0, 0.5], "logit_difference": [0.2, 0.2]}
    return {"held_out_loss": loss, "scores": {"task.exact_match": right}, "forgetting": PROBES} | near | more


FILES = {"saved_bytes": 3 * 2**20, "load_seconds": 1.25, "peak_memory_bytes": 30 * 2**20}
SPEEDS = {"make_seconds": 0.0, "prefill": 100.0, "decode": 10.0}
RESULTS = {
    "unquantised": result([1.0, 2.0], [1.0, 1.0], **FILES, **SPEEDS),
    "four": result([1.1, 2.3], [1.0, 0.0], **SPEEDS),
}


def test_a_rise_is_that_of_the_perplexity_and_paired_by_row():
    assert comparison.difference(RESULTS, "four").value == pytest.approx(0.2)
    rise = comparison.rises(RESULTS)["four"]
    assert rise.value == pytest.approx(math.exp(0.2) - 1)
    assert math.exp(0.1) - 1 <= rise.low <= rise.value <= rise.high <= math.exp(0.3) - 1 + 1e-9
    assert comparison.rises(RESULTS)["unquantised"] == Metric(0, 0, 0)


def test_sizes_are_those_of_formats_with_files_of_their_own():
    with_files = RESULTS | {"unquantised, compiled": RESULTS["unquantised"], "small": RESULTS["four"] | FILES}
    with_files["other"] = {"left_out": "it needs a GPU"}
    sizes = comparison.sizes(with_files)
    assert list(sizes) == ["unquantised", "small"]
    assert sizes["small"][0].value == 3
    assert sizes["small"][1] == comparison.rises(RESULTS)["four"]


def test_changes_are_those_of_scores_and_of_what_is_known():
    changes = comparison.changes(RESULTS)
    assert list(changes.index) == ["four"]
    assert changes.loc["four", "task.exact_match"].value == pytest.approx(-0.5)
    assert changes.loc["four", "known lost"].value == 0


def test_a_format_without_files_has_no_size():
    table, figures = comparison.table(RESULTS), comparison.figures(RESULTS)
    assert table.loc["four", "MiB on disk"] == ""
    assert table.loc["unquantised", "MiB on disk"] == "3.0"
    assert table.loc["unquantised", "MiB of memory"] == "30"
    assert "four.saved_bytes" not in figures
    assert figures["four.task.exact_match"].baseline == 1
    assert figures["four.decode"].higher_is_better
