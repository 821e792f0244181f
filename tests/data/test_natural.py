"""The labels of `data/` still belong to what cleaning does to `pydocs` with the pinned packages."""

import csv
import sys

import natural_sample
import pytest

from nbhelpers.core.storage import repository_root


def labels(name: str) -> list[dict]:
    with open(repository_root() / "data" / f"{name}_labels.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("name", "good"), [("near_duplicate", {"copy", "variant"}), ("redaction", {"right"})])
def test_what_was_read_is_right_in_at_least_95_of_100(name, good):
    rows = labels(name)
    assert len(rows) == natural_sample.COUNT
    assert sum(row["label"] in good for row in rows) >= 0.95 * len(rows)
    for row in rows:  # where the two readings differ, the less favourable counts
        assert row["label"] == row["first_reading"] or row["first_reading"] != row["second_reading"]
        assert row["label"] in (row["first_reading"], row["second_reading"])


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the sample was drawn from Python 3.11's standard library")
@pytest.mark.parametrize("name", ["near_duplicate", "redaction"])
def test_the_steps_still_do_what_was_read(name):
    if name == "near_duplicate":
        now = {natural_sample.key(text, kept) for *_, text, kept in natural_sample.dropped_pairs()}
    else:
        now = {natural_sample.key(place, kind, value) for place, kind, _, value, _ in natural_sample.redacted_spans()}
    read = [row["key"] for row in labels(name)]
    still = sum(key in now for key in read)
    assert still >= 0.95 * len(read), f"{still} of {len(read)} are left: draw and read a new sample (data/README.md)"
