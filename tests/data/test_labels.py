import json

import pytest

from nbhelpers.core.errors import DataError
from nbhelpers.data import labels

ITEMS = [
    {"id": f"item-{i}", "prompt": [{"role": "user", "content": f"Question {i}"}], "answers": [f"good {i}", f"bad {i}"]}
    for i in range(200)
]


def label(item, labeller="ann", left=0, choice="left"):
    return {"item": f"item-{item}", "labeller": labeller, "left": left, "choice": choice}


def test_sides_are_drawn_so_that_a_habit_is_no_preference():
    """Who always clicks left on 200 items prefers either answer about as often (within three standard deviations)."""
    given = [label(i, left=labels.shown_left(ITEMS[i], "ann", 0)) for i in range(200)]
    first = sum(labels.preferred(x) == 0 for x in given)
    assert 79 <= first <= 121
    assert labels.left_rate(given).value == 1
    assert labels.left_rate(given).low > 0.57
    assert [x["left"] for x in given] != [labels.shown_left(item, "ben", 0) for item in ITEMS]


def test_the_order_is_each_labellers_own_and_the_same_again():
    ids = [item["id"] for item in labels.order(ITEMS, "ann", 0)]
    assert ids == [item["id"] for item in labels.order(ITEMS, "ann", 0)]
    assert ids != [item["id"] for item in labels.order(ITEMS, "ben", 0)]
    assert sorted(ids) == sorted(item["id"] for item in ITEMS)


@pytest.mark.parametrize(
    ("left", "choice", "answer"), [(0, "left", 0), (0, "right", 1), (1, "left", 1), (1, "right", 0), (1, "tie", None)]
)
def test_the_preferred_answer_follows_from_side_and_choice(left, choice, answer):
    assert labels.preferred(label(0, left=left, choice=choice)) == answer


def test_a_label_is_kept_once(tmp_path):
    path = tmp_path / "new" / "labels.jsonl"
    assert labels.read(path) == []
    assert labels.append(path, label(1))
    assert not labels.append(path, label(1, choice="right"))
    assert labels.append(path, label(1, labeller="ben"))
    assert labels.read(path) == [label(1), label(1, labeller="ben")]


@pytest.mark.parametrize(
    "broken", [{"item": "x"}, label(0) | {"choice": "both"}, label(0) | {"left": 2}, label(0) | {"left": "0"}]
)
def test_a_line_that_is_no_label_is_named(broken, tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps(label(0)) + "\n" + json.dumps(broken) + "\n")
    with pytest.raises(DataError, match="line 2"):
        labels.read(path)


def test_a_label_given_twice_is_named(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text((json.dumps(label(0)) + "\n") * 2)
    with pytest.raises(DataError, match="line 2: ann has labelled item item-0 before"):
        labels.read(path)


def test_agreement_is_that_of_krippendorffs_own_example():
    """Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", example A: two observers, two values, 0.095."""
    meg = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    owen = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    given = [
        label(i, who, choice="right" if value else "left")
        for who, values in (("meg", meg), ("owen", owen))
        for i, value in enumerate(values)
    ]
    found = labels.agreement(given)
    assert found["Krippendorff's alpha"] == pytest.approx(0.095, abs=5e-4)
    assert found["Cohen's kappa, meg and owen"] == pytest.approx(0.0909, abs=5e-4)


def test_agreement_reads_preferences_and_not_sides():
    given = [label(i, "ann", left=0, choice=side) for i, side in enumerate(("left", "right", "tie"))]
    given += [label(i, "ben", left=1, choice=side) for i, side in enumerate(("right", "left", "tie"))]
    assert set(labels.agreement(given).values()) == {1.0}


def test_agreement_is_not_defined_where_everybody_says_the_same_and_refused_of_one():
    import math

    found = labels.agreement([label(i, who) for who in ("ann", "ben") for i in range(3)])
    assert all(math.isnan(value) for value in found.values())
    with pytest.raises(DataError, match="of ann"):
        labels.agreement([label(0)])
    with pytest.raises(DataError, match="of nobody"):
        labels.agreement([])


def test_pairs_follow_the_majority_and_ties_are_counted():
    given = [label(0), label(0, "ben"), label(0, "cid", choice="right"), label(1, choice="right")]
    given += [label(2), label(2, "ben", choice="right"), label(3, choice="tie")]
    found = labels.to_pairs(ITEMS[:5], given)
    assert [(pair["chosen"], pair["rejected"]) for pair in found.pairs] == [("good 0", "bad 0"), ("bad 1", "good 1")]
    assert found.dropped == {"without a label or tied": 3}
    with pytest.raises(DataError, match="such as item-9"):
        labels.to_pairs(ITEMS[:2], [label(9)])
    with pytest.raises(DataError, match="None of 0 rows"):
        labels.to_pairs(ITEMS[:2], [])


def test_a_rule_labels_by_its_scores():
    given = labels.by_score(ITEMS[:3], [(1, 0), (0, 1), (1, 1)], "rule")
    assert [labels.preferred(x) for x in given] == [0, 1, None]
    many = labels.by_score(ITEMS, [(1, 0)] * len(ITEMS), "rule")
    assert {labels.preferred(x) for x in many} == {0}
    assert 0.35 < labels.left_rate(many).value < 0.65
    rows = labels.table([*given, *(label(i, "ann", 1, "left") for i in range(2))])
    assert rows.loc["rule", "prefers the second"] == 0.5
    assert rows.loc["ann"].tolist() == [2, 1.0, 1.0]
