import random

import pandas as pd
import pytest

from nbhelpers.data import cleaning, contamination, detection, duplicates, normalisation, privacy, pydocs, splits
from nbhelpers.data.cleaning import Cleaned
from nbhelpers.data.privacy import Span

STEPS = [
    "duplicates", "normalise", "redact", "schema", "language", "quality", "decontaminate", "leakage proof",
]  # fmt: skip


@pytest.fixture(scope="module")
def clean() -> list[dict]:
    """600 real docstrings, none of which repeats another exactly."""
    found = pydocs.packages_on_disk()
    raw = [row["text"] for name in ("networkx", "jinja2") for row in pydocs.read_package(name, found[name])]
    texts = sorted({" ".join(text.split()): text for text in raw if len(text.split()) >= 8}.values())
    return [{"id": f"row-{i}", "text": text} for i, text in enumerate(random.Random(7).sample(texts, 600))]


@pytest.fixture(scope="module")
def table(clean):
    return detection.measure(clean, seed=7, count=60)


def step_of(clean: list[dict], name: str, count: int = 30):
    """The line of `summary` for one step, measured on fewer rows."""
    return detection.summary(detection.measure(clean[:120], seed=7, count=count)).loc[name]


@pytest.mark.parametrize("step", STEPS)
def test_every_step_finds_what_was_planted_and_spares_its_look_alikes(table, step):
    line = detection.summary(table).loc[step]
    assert line.recall >= 0.95
    assert line.precision >= 0.95
    assert line.defects >= 60
    assert line["look-alikes"] >= 60


def test_the_table_has_every_step_and_counts_every_planted_row(table):
    assert list(dict.fromkeys(table.step)) == STEPS
    assert set(table.seed) == {7}
    assert ((table.flagged >= 0) & (table.n > 0)).all()
    assert (table.flagged <= table.n).all()
    assert (table.defective == ~table.family.str.startswith("not: ")).all()
    sums = table.groupby(["step", "defective"]).n.sum()
    for step in set(STEPS) - {"redact", "leakage proof"}:
        assert sums[step].to_dict() == {True: 60, False: 60}, step
    assert sums["leakage proof", True] == 60


def test_the_same_seed_gives_the_same_table(clean, table):
    first, again = (detection.measure(clean[:120], 7, 13) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(detection.measure(clean[:120], 8, 13).assign(seed=7))


def test_the_summary_of_a_table_made_by_hand():
    lines = [
        ("one", "x", True, 0, 10, 9),
        ("one", "x", True, 1, 10, 5),
        ("one", "y", True, 0, 20, 16),
        ("one", "not: z", False, 0, 30, 10),
        ("two", "x", True, 0, 4, 0),
        ("two", "not: z", False, 0, 5, 0),
        ("three", "x", True, 0, 1, 1),
    ]
    table = pd.DataFrame(lines, columns=["step", "family", "defective", "seed", "n", "flagged"])
    assert detection.summary(table).reset_index().to_dict("records") == [
        {"step": "one", "recall": 0.75, "precision": 0.75, "defects": 40, "look-alikes": 30, "flagged in error": 10}
        | {"worst family": "x", "its recall": 0.7},
        {"step": "two", "recall": 0, "precision": 0, "defects": 4, "look-alikes": 5, "flagged in error": 0}
        | {"worst family": "x", "its recall": 0},
        {"step": "three", "recall": 1, "precision": 1, "defects": 1, "look-alikes": 0, "flagged in error": 0}
        | {"worst family": "x", "its recall": 1},
    ]


# --- a step that is broken shows ----------------------------------------------------------------------------------


def nothing(rows, *args, **kwargs) -> Cleaned:
    """A step that drops no row."""
    return Cleaned("broken", rows, len(rows))


def everything(rows, *args, **kwargs) -> Cleaned:
    """A step that drops every row."""
    return Cleaned("broken", [], len(rows), [(name, "dropped", "broken", "") for name in rows["id"]])


DROPPING = {"language": (cleaning, "keep_language"), "quality": (cleaning, "filter_quality")}


@pytest.mark.parametrize("step", DROPPING)
def test_a_step_that_drops_nothing_or_everything_shows(clean, monkeypatch, step):
    monkeypatch.setattr(*DROPPING[step], nothing)
    assert step_of(clean, step).recall == 0
    monkeypatch.setattr(*DROPPING[step], everything)
    broken = step_of(clean, step)
    assert (broken.recall, broken.precision) == (1, 0.5)


def test_a_validation_that_drops_nothing_or_everything_shows(clean, monkeypatch):
    monkeypatch.setattr(cleaning, "validate", lambda raw: Cleaned("broken", raw, len(raw)))
    assert step_of(clean, "schema").recall == 0
    monkeypatch.setattr(cleaning, "validate", lambda raw: everything(pd.DataFrame(raw)))
    broken = step_of(clean, "schema")
    assert (broken.recall, broken.precision) == (1, 0.5)


def test_duplicates_that_are_not_found_show(clean, monkeypatch):
    monkeypatch.setattr(duplicates, "drop_near", nothing)
    line = step_of(clean, "duplicates", count=26)
    assert line.recall == pytest.approx(6 / 26)  # exact, case and white space, twice each, are still found
    assert line.precision == 1
    monkeypatch.setattr(duplicates, "drop_exact", nothing)
    assert step_of(clean, "duplicates").recall == 0


def test_duplicates_found_everywhere_show(clean, monkeypatch):
    monkeypatch.setattr(duplicates.DuplicateIndex, "similarity", lambda self, *_: 0.99 * (self.min_words == 20))
    monkeypatch.setattr(duplicates, "BANDS", 120)
    line = step_of(clean, "duplicates")
    assert line.recall > 0.9
    assert line.precision < 0.7


def test_evaluation_rows_that_are_not_found_show(clean, monkeypatch):
    monkeypatch.setattr(contamination, "runs", lambda text, size: [])
    assert step_of(clean, "decontaminate").recall < 0.2
    monkeypatch.setattr(contamination, "decontaminate", nothing)
    line = step_of(clean, "decontaminate")
    assert (line.recall, line["flagged in error"]) == (0, 0)


def test_short_runs_taken_for_contamination_show(clean, monkeypatch):
    runs = contamination.runs
    monkeypatch.setattr(contamination, "runs", lambda text, size: runs(text, 8))
    line = step_of(clean, "decontaminate")
    assert line.recall == 1
    assert line.precision < 0.7


def test_a_proof_that_finds_nothing_or_everything_shows(clean, monkeypatch):
    monkeypatch.setattr(splits, "leaks", lambda train, test, threshold: {})
    assert step_of(clean, "leakage proof").recall == 0
    monkeypatch.setattr(splits, "leaks", lambda train, test, threshold: dict.fromkeys(train["id"]))
    line = step_of(clean, "leakage proof")
    assert line.recall == 1
    assert line.precision < 0.5


@pytest.mark.parametrize(
    ("rewrite", "recall", "errors"),
    [
        (lambda text: text, 0, 0),  # mends nothing
        (lambda text: "", 0, 30),  # destroys everything
        (lambda text: f"{text} indeed", 0, 30),  # leaves a trace
    ],
)
def test_a_normalisation_that_restores_wrongly_shows(clean, monkeypatch, rewrite, recall, errors):
    monkeypatch.setattr(normalisation, "normalise_text", lambda text: (rewrite(text), []))
    line = step_of(clean, "normalise")
    assert (line.recall, line["flagged in error"]) == (recall, errors)


def test_a_normalisation_that_mends_and_then_adds_a_word_shows(clean, monkeypatch):
    mend = normalisation.normalise_text
    monkeypatch.setattr(normalisation, "normalise_text", lambda text: (f"{mend(text)[0]} indeed", []))
    line = step_of(clean, "normalise")
    assert (line.recall, line["flagged in error"]) == (0, 30)


@pytest.mark.parametrize(
    ("broken", "errors"),
    [
        (lambda text, found: [], 0),
        (lambda text, found: [Span(0, len(text), "EMAIL")], 30),  # everything
        (lambda text, found: [Span(0, len(text), span.kind) for span in found], 0),  # all of a text that has something
        (lambda text, found: [span._replace(kind="OTHER") for span in found], 0),
        (lambda text, found: [span._replace(end=span.end - 1) for span in found], 0),
    ],
)
def test_a_redaction_that_is_broken_shows(clean, monkeypatch, broken, errors):
    find = privacy.find
    monkeypatch.setattr(privacy, "find", lambda text: broken(text, find(text)))
    line = step_of(clean, "redact")
    assert line.recall < 0.1
    assert errors <= line["flagged in error"] <= errors + 2
