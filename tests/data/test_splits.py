import random
from collections import Counter
from datetime import date

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from nbhelpers.core.errors import AuditError, DataError, ParameterError
from nbhelpers.data import cleaning, contamination, defects_copies, duplicates, pydocs, splits, wording


def rows(count: int = 100, **columns) -> Dataset:
    texts = [f"text number {i}" for i in range(count)]
    return Dataset.from_dict({"id": [f"row-{i}" for i in range(count)], "text": texts} | columns)


def shuffled(data: Dataset, seed: int = 0) -> Dataset:
    return data.select(random.Random(seed).sample(range(len(data)), len(data)))


def of_sizes(**sizes: int) -> list[str]:
    return [name for name, size in sizes.items() for _ in range(size)]


DATA = rows(
    kind=of_sizes(a=60, b=30, c=10),
    package=[f"package {i % 20}" for i in range(100)],
    year=[2000 + i // 10 for i in range(100)],
)
COLUMNS = {"random": None, "stratified": "kind", "group": "package", "temporal": "year"}


# --- splits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("how", splits.WAYS)
def test_every_row_is_on_one_side_and_in_its_order(how, share):
    train, test = splits.split(DATA, how, COLUMNS[how], share)
    expected = {"temporal": {0.1: 10, 0.25: 30, 0.5: 50}, "stratified": {0.1: 10, 0.25: 15 + 8 + 2, 0.5: 50}}
    assert len(test) == expected.get(how, {}).get(share, 100 * share)
    place = {name: i for i, name in enumerate(DATA["id"])}
    sides = [[place[name] for name in side["id"]] for side in (train, test)]
    assert sorted(sides[0] + sides[1]) == list(range(100))
    assert [sorted(side) for side in sides] == sides
    assert train.to_list() == [DATA[i] for i in sides[0]]
    assert train.features == test.features == DATA.features


@pytest.mark.parametrize("how", splits.WAYS)
def test_the_seed_decides_and_the_order_of_rows_does_not(how):
    def held_out(data: Dataset, seed: int) -> set[str]:
        return set(splits.split(data, how, COLUMNS[how], 0.2, seed)[1]["id"])

    assert held_out(DATA, 1) == held_out(DATA, 1) == held_out(shuffled(DATA), 1)
    if how == "temporal":
        assert held_out(DATA, 1) == held_out(DATA, 2)
    else:
        assert len({frozenset(held_out(DATA, seed)) for seed in range(5)}) == 5


def test_a_random_split_draws_from_everywhere():
    drawn = Counter(name for seed in range(200) for name in splits.split(DATA, seed=seed)[1]["id"])
    assert len(drawn) == 100
    assert max(drawn.values()) < 40  # 20 on average, a standard deviation of 4.2


def test_a_stratified_split_holds_out_the_same_share_of_each_value():
    train, test = splits.split(DATA, "stratified", "kind", 0.2)
    assert Counter(test["kind"]) == {"a": 12, "b": 6, "c": 2}
    assert Counter(train["kind"]) == {"a": 48, "b": 24, "c": 8}


@pytest.mark.parametrize("seed", range(6))
def test_no_group_is_cut(seed):
    data = rows(package=of_sizes(a=40, b=25, c=15, d=10, e=6, f=4))
    train, test = splits.split(data, "group", "package", 0.2, seed)
    assert not set(train["package"]) & set(test["package"])
    assert 10 <= len(test) <= 20


def test_a_group_that_is_too_large_is_passed_over_and_the_smallest_held_out_where_none_fits():
    data = rows(package=of_sizes(a=90, b=6, c=4))
    for seed in range(6):
        assert set(splits.split(data, "group", "package", 0.1, seed)[1]["package"]) == {"b", "c"}
        assert set(splits.split(data, "group", "package", 0.02, seed)[1]["package"]) == {"c"}
    assert len(splits.split(rows(package=of_sizes(a=29, b=71)), "group", "package", 0.29)[1]) == 29


def test_groups_held_out_by_name():
    train, test = splits.split(DATA, "group", "package", held_out=("package 3", "package 7"))
    assert set(test["package"]) == {"package 3", "package 7"}
    assert (len(train), len(test)) == (90, 10)
    with pytest.raises(ParameterError, match="package 33"):
        splits.split(DATA, "group", "package", held_out=("package 3", "package 33"))


def test_the_newest_rows_are_held_out_with_all_their_ties():
    days = [date(2024, 1, day) for day in (1, 5, 5, 2, 5, 3, 9, 4, 1, 5)]
    train, test = splits.split(rows(10, day=days), "temporal", "day", 0.2)
    assert test["id"][:] == ["row-1", "row-2", "row-4", "row-6", "row-9"]  # the 9th, and four of the 5th
    assert max(train["day"]) < min(test["day"])
    assert splits.split(rows(10, day=days), "temporal", "day", 0.1)[1]["id"][:] == ["row-6"]


@pytest.mark.parametrize("how", splits.WAYS)
def test_rows_after_select_and_filter(how):
    part = shuffled(DATA).filter(lambda row: row["kind"] != "c").select(range(80))
    plain = Dataset.from_list(part.to_list())
    for one, two in zip(*(splits.split(data, how, COLUMNS[how], 0.2) for data in (part, plain)), strict=True):
        assert one.to_list() == two.to_list()


@pytest.mark.parametrize("how", splits.WAYS)
@pytest.mark.parametrize("count", [0, 1])
def test_too_few_rows_are_refused(how, count):
    with pytest.raises(DataError, match=f"of {count} rows would be held out"):
        splits.split(DATA.select(range(count)), how, COLUMNS[how])


@pytest.mark.parametrize(
    ("how", "column", "share", "message"),
    [
        ("by hand", None, 0.1, "how is random, stratified, group, temporal"),
        ("random", None, 0, "share between 0 and 1"),
        ("random", None, 1, "share between 0 and 1"),
        ("random", None, float("nan"), "share between 0 and 1"),
        ("group", None, 0.1, "needs a column; None is not one of id, text, kind"),
        ("temporal", "day", 0.1, "'day' is not one of"),
    ],
)
def test_parameters_that_are_wrong_are_refused(how, column, share, message):
    with pytest.raises(ParameterError, match=message):
        splits.split(DATA, how, column, share)


@pytest.mark.parametrize(
    ("how", "column", "values"),
    [("stratified", "kind", ["a", None, "b", None]), ("temporal", "when", [1.0, float("nan"), 2.0, float("nan")])],
)
def test_rows_without_a_value_are_refused(how, column, values):
    with pytest.raises(DataError, match=rf"2 rows have no {column} \(first: row 2\)"):
        splits.split(rows(4, **{column: values}), how, column, 0.5)


@pytest.mark.parametrize(("how", "column"), [("group", "one"), ("temporal", "one"), ("stratified", "id")])
def test_a_side_without_rows_is_refused(how, column):
    with pytest.raises(DataError, match=r"(0|100) of 100 rows would be held out"):
        splits.split(rows(one=["2026"] * 100), how, column)


def test_time_is_read_from_numbers_and_dates_also_where_they_are_text_and_nothing_else_is_taken_for_time():
    for values in (["9", "10", "100"], ["2026-02-01", "2026-02-01T10:00", "2026-11-03"], [9, 10, 100]):
        _, test = splits.split(rows(3, when=values), "temporal", "when", 0.3)
        assert test["when"][:] == values[2:]
    with pytest.raises(ParameterError, match="when cannot be put into an order of time"):
        splits.split(rows(3, when=["25/01/2014", "03/02/2015", "01/03/2015"]), "temporal", "when", 0.3)


def test_the_same_question_never_stands_on_both_sides():
    turns = [
        [{"role": "user", "content": f"Question {i // 4}?"}, {"role": "assistant", "content": str(i)}]
        for i in range(80)
    ]
    data = Dataset.from_list([{"id": str(i), "messages": turn} for i, turn in enumerate(turns)])
    train, test = splits.split(data, test_share=0.2)
    asked = [{messages[0]["content"] for messages in side["messages"]} for side in (train, test)]
    assert not asked[0] & asked[1]
    assert len(test) == 16
    assert splits.leaks(data.select([0]), data.select([1])) == {"0": ("1", 1.0)}


def answers(*texts: str) -> Dataset:
    asked = [{"role": "user", "content": f"Question {i}?"} for i in range(len(texts))]
    said = [{"role": "assistant", "content": text} for text in texts]
    chats = [list(turns) for turns in zip(asked, said, strict=True)]
    return Dataset.from_dict({"id": [f"row-{i}" for i in range(len(chats))], "messages": chats})


def passage(number: int, words: int = 14) -> str:
    return " ".join(f"word{number}x{i}" for i in range(words))


@pytest.mark.parametrize("seed", range(8))
def test_answers_of_which_one_gives_the_other_away_stay_on_one_side_in_any_order(seed):
    data = answers(*(f"{passage(i % 20)}\n{i}" for i in range(40)), *(passage(100 + i) for i in range(40)))
    train, test = splits.split(data, seed=seed)
    assert contamination.decontaminate(train, test).dropped == {}
    assert len(test) == 8
    assert set(test["id"]) == set(splits.split(shuffled(data), seed=seed)[1]["id"])


def test_a_large_group_is_held_out_no_more_often_than_a_single_row():
    data = answers(*(passage(i) for i in range(194)), *(f"{passage(1000)}\n{i}" for i in range(6)))
    held = [sum(int(name.removeprefix("row-")) >= 194 for name in splits.split(data, seed=seed)[1]["id"])
            for seed in range(60)]  # fmt: skip
    assert set(held) == {0, 6}
    assert held.count(6) <= 15, "of 60 seeds about six hold it out: a tenth, as of every row"


def test_a_stratified_split_holds_out_its_share_where_rows_have_twins():
    kinds = of_sizes(a=60, b=8)
    data = answers(*(passage(i // 2) for i in range(68))).add_column("kind", kinds)
    _, test = splits.split(data, "stratified", "kind", test_share=0.25)
    assert Counter(test["kind"]) == {"a": 14, "b": 2}
    _, test = splits.split(data, "stratified", "kind", test_share=0.1)
    assert Counter(test["kind"])["b"] == 1, "twins are parted where they do not fit into the share of their value"


def test_answers_that_all_hang_together_or_share_a_template_are_parted():
    chain = answers(*(f"{passage(i)}\n{passage(i + 1)}" for i in range(50)))
    assert len(splits.split(chain)[1]) == 5
    template = answers(*(f"{passage(0)}\n{i}" for i in range(50)))
    train, test = splits.split(template)
    assert len(test) == 5
    assert contamination.decontaminate(train, test).dropped == {}


def test_short_texts_leak_where_only_punctuation_differs():
    one, other = (
        Dataset.from_list([{"id": name, "text": text}]) for name, text in (("a", "Done, now!"), ("b", "done now"))
    )
    assert splits.leaks(one, other) == {"a": ("b", 1.0)}


def test_a_few_rows_are_enough_for_a_random_split():
    train, test = splits.split(rows(2))
    assert (len(train), len(test)) == (1, 1)


# --- the proof of no leak -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts() -> list[dict]:
    """Real docstrings of 20 words or more that repeat each other neither exactly nor nearly."""
    found = pydocs.packages_on_disk()
    raw = [row["text"] for name in ("jinja2", "requests") for row in pydocs.read_package(name, found[name])]
    raw = [text for text in raw if len(wording.words(text)) >= 20]
    data = Dataset.from_dict({"id": [f"row-{i}" for i in range(len(raw))], "text": raw})
    return duplicates.drop_near(duplicates.drop_exact(data).rows).rows.to_list()


def test_clean_splits_pass(texts):
    for seed in range(3):
        train, test = splits.split(Dataset.from_list(texts), seed=seed)
        assert splits.prove_disjoint(train, test) == {"train": len(train), "test": len(test), "leaked": 0}


@pytest.mark.parametrize("family", [*defects_copies.COPIES])
def test_one_leaked_row_of_any_family_is_refused(texts, family):
    rng, train, test = random.Random(0), texts[::2], texts[1::2]
    row = next(row for row in test if len(set(defects_copies.sentences_of(row["text"]))) >= 3)
    copy = {"id": "the copy", "text": defects_copies.COPIES[family](row["text"], rng)}
    with pytest.raises(AuditError, match=rf"1 of {len(train) + 1} training rows .*the copy ~ {row['id']} \(") as caught:
        splits.prove_disjoint(Dataset.from_list([*train, copy]), Dataset.from_list(test))
    assert "split by group" in str(caught.value)


def test_all_rows_leaked_on_purpose_are_named(texts):
    leaked, truth = defects_copies.leaks(texts[::2], texts[1::2], 0, 80)
    train, test = Dataset.from_list(leaked), Dataset.from_list(texts[1::2])
    found = splits.leaks(train, test)
    assert set(found) <= set(truth)
    assert len(found) >= 0.95 * len(truth)
    assert {name: found[name][0] for name in found} == {name: truth[name] for name in found}
    with pytest.raises(AuditError, match=rf"{len(found)} of {len(train)} training rows"):
        splits.prove_disjoint(train, test)
    left = train.filter(lambda row: row["id"] not in found)
    assert splits.prove_disjoint(left, test)["leaked"] == 0


def test_both_sides_may_count_their_rows_from_one():
    train = Dataset.from_dict({"id": ["1", "2", "3"], "text": ["one", "two", "three"]})
    test = Dataset.from_dict({"id": ["1", "2", "3"], "text": ["TWO", "other", "Three "]})
    assert splits.leaks(train, test) == {"2": ("1", 1.0), "3": ("3", 1.0)}
    same_row = Dataset.from_dict({"id": ["1"], "text": ["one"]})
    assert splits.leaks(train, same_row) == {"1": ("1", 1.0)}
    assert not splits.leaks(train.select([1]), same_row)


def test_repeats_within_one_side_are_no_leak(texts):
    train, test = texts[:50], texts[50:80]
    assert not splits.leaks(Dataset.from_list([*train, train[0] | {"id": "again"}]), Dataset.from_list(test * 2))
    twice = Dataset.from_list([*test, test[0] | {"id": "again"}])
    assert splits.leaks(Dataset.from_list([*train, test[0] | {"id": "leak"}]), twice) == {"leak": (test[0]["id"], 1.0)}


def test_the_threshold_is_that_of_the_pair():
    text = [f"word{chr(97 + i)}{chr(97 + i)}ing" for i in range(24)]
    train = Dataset.from_dict({"id": ["a"], "text": [" ".join([*text, "pineapple", "cherry"])]})
    test = Dataset.from_dict({"id": ["b"], "text": [" ".join(text)]})
    assert splits.leaks(train, test, 0.92) == {"a": ("b", pytest.approx(24 / 26))}
    assert splits.prove_disjoint(train, test, 0.93) == {"train": 1, "test": 1, "leaked": 0}
    with pytest.raises(ParameterError, match="threshold"):
        splits.prove_disjoint(train, test, 0.4)


def test_a_side_without_rows_leaks_nothing():
    for train, test in ((DATA, DATA.select([])), (DATA.select([]), DATA)):
        assert splits.prove_disjoint(train, test) == {"train": len(train), "test": len(test), "leaked": 0}


# --- balance ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "most", "expected"),
    [
        ("under", 1, {"a": 10, "b": 10, "c": 10}),
        ("under", 2.55, {"a": 25, "b": 25, "c": 10}),
        ("under", 3, {"a": 30, "b": 30, "c": 10}),
        ("under", 6, {"a": 60, "b": 30, "c": 10}),
        ("over", 1, {"a": 60, "b": 60, "c": 60}),
        ("over", 2, {"a": 60, "b": 30, "c": 30}),
        ("over", 3.5, {"a": 60, "b": 30, "c": 18}),  # 60 / 3.5 = 17.1, rounded up
        ("over", 100, {"a": 60, "b": 30, "c": 10}),
        ("weights", 1, {"a": 60, "b": 30, "c": 10}),
    ],
)
def test_counts_after_balance(how, most, expected):
    found = splits.balance(DATA, "kind", how, most)
    assert Counter(found.rows["kind"]) == expected
    assert found.rows.column_names == DATA.column_names + (["weight"] if how == "weights" else [])
    assert len(set(found.rows["id"])) == len(found.rows)


def test_under_sampling_drops_with_a_reason_and_keeps_the_order():
    found = splits.balance(DATA, "kind", most=2)
    assert found.read == 100
    assert found.dropped == {"more than 20 of one kind": 50}
    assert Counter(detail for *_, detail in found.log) == {"a": 40, "b": 10}
    kept = set(found.rows["id"])
    assert [row for row in DATA if row["id"] in kept] == found.rows.to_list()
    assert cleaning.account([duplicates.drop_exact(DATA), found])["kept"].tolist() == [100, 50]


def test_over_sampling_repeats_in_turn_under_ids_of_their_own():
    data = rows(10, kind=of_sizes(a=7, b=3))
    found = splits.balance(data, "kind", "over")
    assert found.rows.to_list()[:10] == data.to_list()
    assert found.rows.features == data.features
    text = dict(zip(data["id"], data["text"], strict=True))
    copies = found.rows.to_list()[10:]
    assert [name for name, *_ in found.log] == [row["id"] for row in copies]
    assert {action for _, action, *_ in found.log} == {"added"}
    assert all(row["kind"] == "b" and row["text"] == text[row["id"].split(" copy ")[0]] for row in copies)
    assert sorted(Counter(row["text"] for row in copies).values()) == [1, 1, 2]  # all three once, then the first again
    assert sorted(row["id"][-6:] for row in copies) == ["copy 1"] * 3 + ["copy 2"]


def test_weights_make_the_values_equal():
    found = splits.balance(DATA, "kind", "weights").rows
    total = Counter()
    for row in found:
        total[row["kind"]] += row["weight"]
    assert dict(total) == {name: pytest.approx(100 / 3) for name in "abc"}
    assert sum(found["weight"]) / 100 == pytest.approx(1)
    assert found.remove_columns("weight").to_list() == DATA.to_list()
    with pytest.raises(ParameterError, match="weight already"):
        splits.balance(found, "kind", "weights")


@pytest.mark.parametrize("how", ["under", "over"])
def test_the_seed_decides_what_is_drawn(how):
    drawn = [splits.balance(DATA, "kind", how, 1.7, seed).log for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_rows_without_a_value_are_a_value_of_their_own():
    data = rows(10, kind=["a"] * 6 + [None] * 4)
    assert Counter(splits.balance(data, "kind").rows["kind"]) == {"a": 4, None: 4}
    assert Counter(splits.balance(data, "kind", "over").rows["kind"]) == {"a": 6, None: 6}
    assert splits.balance(data, "kind", "weights").rows["weight"][-1] == pytest.approx(10 / 2 / 4)


@pytest.mark.parametrize(
    ("column", "how", "most"),
    [("kind", "sideways", 1), ("color", "under", 1), ("kind", "under", 0.9), ("kind", "over", float("nan")),
     ("kind", "under", float("inf"))],
)  # fmt: skip
def test_balance_refuses_parameters_that_are_wrong(column, how, most):
    with pytest.raises(ParameterError, match="how is under, over or weights"):
        splits.balance(DATA, column, how, most)


@pytest.mark.parametrize("how", ["under", "over", "weights"])
def test_balance_of_no_rows_and_after_select(how):
    empty = splits.balance(DATA.select([]), "kind", how)
    assert (empty.read, len(empty.rows), empty.log) == (0, 0, [])
    part = shuffled(DATA).select(range(50))
    plain = splits.balance(Dataset.from_list(part.to_list()), "kind", how)
    assert splits.balance(part, "kind", how).rows.to_list() == plain.rows.to_list()


@given(
    st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=40),
    st.sampled_from(["under", "over", "weights"]),
    st.floats(1, 5),
)
@settings(max_examples=60)
def test_every_row_is_kept_dropped_or_repeated(kinds, how, most):
    data = Dataset.from_dict({"id": [str(i) for i in range(len(kinds))], "kind": kinds, "text": ["x"] * len(kinds)})
    found = splits.balance(data, "kind", how, most)
    dropped = [name for name, action, *_ in found.log if action == "dropped"]
    added = [name for name, action, *_ in found.log if action == "added"]
    assert sorted([*found.rows["id"], *dropped]) == sorted([*data["id"], *added])
    sizes = Counter(found.rows["kind"]).values()
    if how == "under":
        assert max(sizes) <= most * min(sizes)
    elif how == "over":
        assert max(sizes) == max(Counter(kinds).values()) <= most * min(sizes) + 1e-9


def test_rows_that_balance_adds_are_in_the_account():
    data = Dataset.from_list([{"id": str(i), "text": "x", "task": "ab"[i > 0]} for i in range(4)])
    over = splits.balance(data, "task", "over")
    account = cleaning.account([over, cleaning.redact(over.rows)])
    assert account.added.tolist() == [2, 0]
    assert (account.read + account.added == account.kept + account.dropped).all()


def test_lengths_fall_into_classes_by_words():
    data = Dataset.from_list([{"id": str(n), "text": "word " * n} for n in (1, 25, 26, 200, 201)])
    assert splits.length_class(data) == ["1-25", "1-25", "26-50", "101-200", "over 200"]
    assert splits.length_class(data, (100,)) == ["1-100"] * 3 + ["over 100"] * 2


def test_over_sampling_what_is_in_balance_changes_nothing_also_after_a_column_was_added():
    data = Dataset.from_list([{"id": str(i), "text": "a b", "task": "x"} for i in range(4)]).select([2, 0, 3])
    data = data.add_column("length", splits.length_class(data))
    found = splits.balance(data, "task", "over")
    assert found.rows.to_list() == data.to_list()
    assert found.log == []


def test_a_question_with_two_values_is_not_parted_by_a_stratified_split_whatever_the_order():
    data = Dataset.from_list(
        [
            {"id": f"{i}-{kind}", "kind": kind}
            | {"messages": [{"role": "user", "content": f"What is {i}?"}, {"role": "assistant", "content": kind}]}
            for i in range(40)
            for kind in ("good", "bad")
        ]
    )
    train, test = splits.split(data, "stratified", "kind", test_share=0.3, seed=1)
    assert len(test) > 10
    assert not {name.split("-")[0] for name in train["id"]} & {name.split("-")[0] for name in test["id"]}
    for seed in range(3):
        again = splits.split(shuffled(data, seed), "stratified", "kind", test_share=0.3, seed=1)[1]
        assert set(again["id"]) == set(test["id"])
