import json
import math
import random
import zlib

import numpy as np
import pytest

from nbhelpers.core.errors import DataError, ParameterError
from nbhelpers.data import answer_forms, groups, vocabulary
from nbhelpers.models import encoding, sequence_lengths

WORDS = ["the", "graph", "has", "a", "node", "and", "an", "edge", "of", "each", "weight", "in", "list", "with", "value"]


def rows_of(*texts: str, **columns) -> list[dict]:
    return [{"id": f"r{i}", "text": text, **columns} for i, text in enumerate(texts)]


def random_rows(count: int, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    return rows_of(*(" ".join(rng.choices(WORDS, k=rng.randint(0, 30))) for _ in range(count)))


def conversation(answer: str, question: str = "What is it?") -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


# --- text -----------------------------------------------------------------------------------------------------------


def test_relevance_is_the_cosine_with_the_centroid_worked_out_by_hand():
    # Reference: "a b" and "a". df(a) = 2, df(b) = 1, so idf(a) = 1, idf(b) = 1 + ln(3/2), unseen 1 + ln 3.
    b, unseen = 1 + math.log(3 / 2), 1 + math.log(3)
    length = math.hypot(1, b)
    centroid = ((1 / length + 1) / 2, b / length / 2)
    size = math.hypot(*centroid)
    expected = [centroid[0] / size, centroid[1] / size]
    twice = (1 + math.log(2)) * b  # "b b c"
    expected += [twice * centroid[1] / size / math.hypot(twice, unseen), 0, 0]
    found = vocabulary.relevance(rows_of("A", "b", "b b c", "c", ""), rows_of("a b", "a"))
    assert found == pytest.approx(expected, abs=1e-12)


def dense_relevance(rows: list[dict], reference: list[dict]) -> np.ndarray:
    """The same formula with matrices."""
    words = sorted({word for row in [*rows, *reference] for word in row["text"].split()})

    def counts(texts):
        return np.array([[row["text"].split().count(word) for word in words] for row in texts], dtype=float)

    target = counts(reference)
    idf = 1 + np.log((1 + len(reference)) / (1 + (target > 0).sum(axis=0)))

    def unit(matrix):
        weights = np.where(matrix > 0, 1 + np.log(np.maximum(matrix, 1)), 0) * idf
        return weights / np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-300)

    centroid = unit(target).mean(axis=0)
    return unit(counts(rows)) @ centroid / np.linalg.norm(centroid)


def test_relevance_is_that_of_matrices_and_ranks_a_set_by_its_own_kind():
    rows, reference = random_rows(40, 1), random_rows(10, 2)
    found = vocabulary.relevance(rows, reference)
    assert found == pytest.approx(dense_relevance(rows, reference), abs=1e-12)
    assert found.min() >= 0
    assert found.max() <= 1
    like, unlike = rows_of("the tensor of a layer"), rows_of("the king of a country")
    assert (
        vocabulary.relevance(like, rows_of("a tensor", "this layer"))[0]
        > 3 * (vocabulary.relevance(unlike, rows_of("a tensor", "this layer"))[0])
    )


def test_relevance_of_a_row_does_not_depend_on_the_others():
    rows, reference = random_rows(20, 1), random_rows(10, 2)
    assert vocabulary.relevance(rows[:1], reference)[0] == vocabulary.relevance(rows, reference)[0]


@pytest.mark.parametrize("measure", [vocabulary.relevance, vocabulary.coverage])
@pytest.mark.parametrize(("rows", "reference"), [([], ["a b"]), (["a b"], []), (["a b"], ["", "!"])])
def test_nothing_to_compare_is_refused(measure, rows, reference):
    with pytest.raises(DataError, match=r"no rows|no word|two words"):
        measure(rows_of(*rows), rows_of(*reference))


def test_diversity_counts_grams_within_a_text():
    # words a a b | a b, bigrams (a a) (a b) | (a b), trigram (a a b)
    found = vocabulary.diversity(rows_of("a A b", "a b", ""), sample_words=5)
    expected = {"rows": 3, "words": 5, "distinct_1": 2 / 5, "distinct_2": 2 / 3, "distinct_3": 1.0}
    assert found.items() >= expected.items()
    assert [found[f"distinct_{n}_sample"] for n in (1, 2, 3)] == [found[f"distinct_{n}"] for n in (1, 2, 3)]
    text = b"a A b\na b\n\n"
    assert found["compression_ratio"] == pytest.approx(len(text) / len(zlib.compress(text, 9)))


def test_distinct_n_is_that_of_sets_of_tuples():
    rows = random_rows(60)
    words = [row["text"].split() for row in rows]
    found = vocabulary.diversity(rows)
    for n in (1, 2, 3):
        grams = [tuple(text[i : i + n]) for text in words for i in range(len(text) - n + 1)]
        assert found[f"distinct_{n}"] == len(set(grams)) / len(grams)


def test_only_the_sample_of_fixed_size_is_the_same_for_a_larger_set():
    small, large = vocabulary.diversity(random_rows(100), 0, 1_000), vocabulary.diversity(random_rows(1_000), 0, 1_000)
    assert large["distinct_3"] < small["distinct_3"] / 1.5
    assert large["distinct_3_sample"] == pytest.approx(small["distinct_3_sample"], rel=0.05)
    assert vocabulary.diversity(random_rows(100), 0, 10_000)["distinct_1_sample"] is None  # too few words


def test_repeated_rows_are_less_diverse_and_compress_more():
    rows = random_rows(50)
    once, often = vocabulary.diversity(rows), vocabulary.diversity(rows * 4)
    assert often["distinct_2"] == pytest.approx(once["distinct_2"] / 4)
    assert often["compression_ratio"] > 2.5 * once["compression_ratio"]


def test_the_sample_depends_on_the_seed_alone():
    rows = random_rows(200)
    first, again, other = (vocabulary.diversity(rows, seed, 300) for seed in (1, 1, 2))
    assert first == again
    assert first["distinct_3_sample"] != other["distinct_3_sample"]
    assert first["distinct_3"] == other["distinct_3"]


@pytest.mark.parametrize("texts", [[], ["", "!?"]])
def test_diversity_of_no_words_is_refused(texts):
    with pytest.raises(DataError, match=r"no rows|has a word"):
        vocabulary.diversity(rows_of(*texts))


def test_one_word_has_no_bigrams():
    found = vocabulary.diversity(rows_of("word"))
    assert (found["distinct_1"], found["distinct_2"], found["distinct_3"]) == (1, None, None)


def test_coverage_is_the_share_of_bigram_mass():
    reference = rows_of("a b a b", "c d")  # ab ba ab cd
    assert vocabulary.coverage(rows_of("x A b"), reference) == 2 / 4
    assert vocabulary.coverage(rows_of("a b", "a", "c d"), reference) == 3 / 4
    assert vocabulary.coverage(reference, reference) == 1
    assert vocabulary.coverage(rows_of("a", "b", "c"), reference) == 0


# --- form -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"a": "int"}', "JSON object"),
        (' [1, {"a": null}]\n', "JSON list"),
        ("{'a': 1}", "broken JSON"),
        ('{"a": 1', "broken JSON"),
        pytest.param("[" * 100_000 + "]", "broken JSON", id="nested too deeply"),
        ("42", "number"),
        ("-1,234.5 %", "number"),
        ("1e-5", "number"),
        ("networkx", "single word"),
        ("2024-01-31", "single word"),
        ("true", "single word"),
        ("add_edge(u, v, *, key=(1, 2))", "call signature"),
        ("np.zeros(\n    shape,\n)", "call signature"),
        ("f(x) -> list[int]", "call signature"),
        ("f(x) and g(y)", "one line"),
        ("f(x) returns the first value.", "one line"),
        ("Return the value (or None).", "one line"),
        ("Import data from a table.", "one line"),
        ("One line.\nAnother.", "several lines"),
        ("- a\n- b", "bullet list"),
        ("1. first\n2) second\n\n* third", "bullet list"),
        ("Some text:\n- a", "several lines"),
        ("- only one", "one line"),
        ("```python\nx\n```", "code"),
        ("import numpy as np\nx = np.ones(3)", "code"),
        ("def f(a):\n    return a", "code"),
        (">>> f(1)\n2", "code"),
        ("Keep the ``R``` as it is.", "one line"),
        ("", "empty"),
        (" \n", "empty"),
        pytest.param("a" + "\n" * 100_000 + "b", "several lines", id="blank lines, in linear time"),
    ],
)
def test_the_form_of_an_answer(answer, expected):
    assert answer_forms.form(answer) == expected


def test_format_consistency_names_the_form_and_those_that_deviate():
    import datasets

    answers = ['{"a": 1}'] * 8 + ['{"a": 1', "none"]
    rows = [{"id": f"j{i}", "task": "json", "messages": conversation(answer)} for i, answer in enumerate(answers)]
    rows += [{"id": f"w{i}", "task": "word", "messages": conversation("word")} for i in range(3)]
    rows += [{"id": "n", "task": None, "messages": conversation("Two words.")}]
    for given in (rows, datasets.Dataset.from_list(rows)):
        table = answer_forms.format_consistency(given)
        assert table.to_dict("list") == {
            "task": ["json", "word", "(none)"],
            "rows": [10, 3, 1],
            "form": ["JSON object", "single word", "one line"],
            "share": [0.8, 1.0, 1.0],
            "forms": [3, 1, 1],
            "deviating": [["j8", "j9"], [], []],
        }


def test_at_most_five_deviating_rows_are_named_and_text_rows_work():
    table = answer_forms.format_consistency(rows_of(*["1"] * 10, *["a b"] * 7))
    assert table.loc[0, "deviating"] == ["r10", "r11", "r12", "r13", "r14"]
    assert table.loc[0, "share"] == 10 / 17


# --- groups ---------------------------------------------------------------------------------------------------------


def grouped(**mixes: dict[str, int]) -> list[dict]:
    """Rows by group and label: `grouped(a={"x": 2})`; the text of group a is one word, of b two words, ..."""
    return [
        {"text": "word " * (1 + number), "task": label, "package": group}
        for number, (group, mix) in enumerate(mixes.items())
        for label, count in mix.items()
        for _ in range(count)
    ]


def test_skew_worked_out_by_hand():
    table = groups.skew(grouped(a={"x": 6, "y": 2}, b={"x": 0, "y": 2}), "package").set_index("group")
    assert list(table.index) == ["(all)", "a", "b"]
    assert list(table["rows"]) == [10, 8, 2]
    assert list(table["share"]) == [1, 0.8, 0.2]
    assert list(table["median_words"]) == [1, 1, 2]
    assert list(table["task: x"]) == pytest.approx([0.6, 0.75, 0])
    assert list(table["task: y"]) == pytest.approx([0.4, 0.25, 1])
    assert list(table["distance"]) == pytest.approx([0, 0.15, 0.6])
    # both labels have the same spread: 2 sqrt(0.6 * 0.4 * (10 - n) / (2 pi n 9))
    chance = [2 * math.sqrt(0.24 * (10 - n) / (2 * math.pi * n * 9)) for n in (10, 8, 2)]
    assert list(table["by_chance"]) == pytest.approx(chance)


def test_the_distance_by_chance_is_the_mean_over_random_groups():
    rng = random.Random(0)
    labels = ["x"] * 500 + ["y"] * 300 + ["z"] * 200
    found, expected = [], 0.0
    for _ in range(30):
        rows = [{"text": "a", "task": label, "package": str(i % 20)} for i, label in enumerate(labels)]
        for row, label in zip(rows, rng.sample(labels, len(labels)), strict=True):
            row["task"] = label
        table = groups.skew(rows, "package")
        found += list(table["distance"][1:])
        expected = table["by_chance"][1]
    assert np.mean(found) == pytest.approx(expected, rel=0.06)  # 600 groups of 50 rows


def test_skew_of_lengths_alone_of_missing_values_and_of_unknown_columns():
    rows = rows_of("a b c", "a", package="p") + rows_of("a b")
    table = groups.skew(rows, "package", label=None)
    assert list(table.columns) == ["group", "rows", "share", "median_words"]
    assert table.to_numpy().tolist() == [["(all)", 3, 1, 2], ["p", 2, 2 / 3, 2], ["(none)", 1, 1 / 3, 2]]
    with pytest.raises(ParameterError, match=r"no column 'module'; they have id, package, text"):
        groups.skew(rows, "module")
    with pytest.raises(ParameterError, match="no column 'task'"):
        groups.skew(rows, "package")


GROUPS, TERMS = {"f": ["she"], "m": ["he"]}, {"lead": ["boss", "Chief"]}


def mentions(she_with: int, she: int, he_with: int, he: int) -> list[dict]:
    texts = ["She is the chief."] * she_with + ["she sings"] * (she - she_with)
    return rows_of(*texts, *["HE, the boss"] * he_with, *["he sings"] * (he - he_with), "the chief and the other boss")


def test_co_occurrence_counts_texts_and_compares_groups():
    table = groups.co_occurrence(mentions(10, 40, 30, 60), GROUPS, TERMS, prior=1e-9)
    assert list(table["group"]) == ["f", "m"]
    assert list(table["terms"]) == ["lead", "lead"]
    assert table[["texts", "count", "others", "others_count"]].to_numpy().tolist() == [
        [40, 10, 60, 30],
        [60, 30, 40, 10],
    ]
    assert list(table["rate"]) == [0.25, 0.5]
    # without a prior it is the log-odds ratio of the 2 x 2 table and its standard error (Woolf 1955)
    ratio, error = math.log((10 / 30) / (30 / 30)), math.sqrt(1 / 10 + 1 / 30 + 1 / 30 + 1 / 30)
    first = table.iloc[0]
    assert (first.log_odds, first.low, first.high) == pytest.approx((ratio, ratio - 1.96 * error, ratio + 1.96 * error))
    assert table.iloc[1].log_odds == pytest.approx(-ratio)


def test_the_prior_pulls_toward_no_difference():
    ratios = [
        groups.co_occurrence(mentions(2, 20, 12, 20), GROUPS, TERMS, prior).iloc[0].log_odds
        for prior in (1e-9, 10, 1e9)
    ]
    assert ratios[0] < ratios[1] < ratios[2] < 1e-6
    # by hand: rate of both 14/40, so 3.5 texts with and 6.5 without are added to either side
    assert ratios[1] == pytest.approx(math.log(5.5 / 24.5) - math.log(15.5 / 14.5))
    even = groups.co_occurrence(mentions(3, 10, 30, 100), GROUPS, TERMS).iloc[0]
    assert even.log_odds == pytest.approx(0, abs=1e-12)
    assert even.low < 0 < even.high


def test_a_text_that_mentions_both_counts_for_both_and_as_the_others_of_neither():
    rows = mentions(5, 10, 5, 10) + rows_of("he and she")
    table = groups.co_occurrence(rows, GROUPS, TERMS)
    assert table[["texts", "others"]].to_numpy().tolist() == [[11, 10], [11, 10]]


def test_the_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    truth = math.log((0.3 / 0.7) / (0.5 / 0.5))
    covered = 0
    for _ in range(500):
        a, c = rng.binomial(150, 0.3), rng.binomial(200, 0.5)
        _, low, high = groups._log_odds(a, 150, c, 200, prior=1e-9)
        covered += low <= truth <= high
    assert 0.925 < covered / 500 < 0.975


@pytest.mark.parametrize(
    ("counts", "blank"),
    [
        ((2, 4, 20, 40), "the group has 4 texts"),
        ((20, 40, 2, 4), "the others are 4"),
        ((2, 40, 2, 40), "4 have a term"),
        ((38, 40, 38, 40), "4 lack a term"),
        ((3, 5, 3, 6), None),
    ],
)
def test_few_texts_are_left_blank(counts, blank):
    first = groups.co_occurrence(mentions(*counts), GROUPS, TERMS).iloc[0]
    assert np.isnan([first.log_odds, first.low, first.high]).tolist() == [blank is not None] * 3
    assert math.isnan(first.rate) == (counts[1] < 5)
    assert first["count"] == counts[0]  # what was counted is always shown


def test_word_lists_are_single_words_and_disjoint():
    for lists in (groups.GROUPS, groups.TERMS):
        words = [word for words in lists.values() for word in words]
        assert len(words) == len(set(words))
    table = groups.co_occurrence(rows_of("she"))
    assert len(table) == len(groups.GROUPS) * len(groups.TERMS)
    with pytest.raises(ParameterError, match=r"lead has 'vice president'; each entry must be a single word"):
        groups.co_occurrence(rows_of("she"), GROUPS, {"lead": ["vice president"]})
    with pytest.raises(ParameterError, match="prior is 0"):
        groups.co_occurrence(rows_of("she"), prior=0)


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_token_lengths_are_those_that_training_sees(tokenizer):
    rows = [{"messages": conversation(f"It is {row['text']}")} for row in random_rows(25)]
    expected = [len(encoding.encode(row["messages"], tokenizer)["input_ids"]) for row in rows]
    assert sequence_lengths.token_lengths(rows, tokenizer, batch_size=7).tolist() == expected
    assert len(set(expected)) > 5


def test_token_lengths_of_text_are_those_of_the_text_as_it_is(tokenizer):
    rows = random_rows(5)
    expected = [len(tokenizer(row["text"], add_special_tokens=False)["input_ids"]) for row in rows]
    assert sequence_lengths.token_lengths(rows, tokenizer).tolist() == expected
    assert sequence_lengths.token_lengths([], tokenizer).tolist() == []


def test_truncation_worked_out_by_hand():
    table = sequence_lengths.truncation([10, 20, 30, 40], [25, 100], answer_lengths=[5, 5, 10, 10], batch_size=2)
    first, second = table.to_dict("records")
    assert (first["rows_over"], first["share_over"], first["tokens_cut"]) == (2, 0.5, 20)
    assert (first["kept_if_cut"], first["kept_if_dropped"]) == (0.8, 0.3)
    # prompts take 5, 15, 20, 30 tokens: of the answers 5, 5, 5 and 0 are left
    assert (first["answers_cut"], first["answers_lost"], first["answer_tokens_kept"]) == (2, 1, 0.5)
    assert (second["rows_over"], second["tokens_cut"], second["kept_if_dropped"]) == (0, 0, 1)
    assert (second["answers_cut"], second["answers_lost"], second["answer_tokens_kept"]) == (0, 0, 1)
    assert first["packing"] == sequence_lengths.packing_efficiency([10, 20, 30, 40], 25) == 80 / 100
    assert "answers_cut" not in sequence_lengths.truncation([10], [5])


def test_padding_is_the_share_of_a_batch_that_is_not_a_row():
    pair = sequence_lengths.truncation([10, 40], [40, 20], batch_size=2)
    assert pair["padded_random"].tolist() == pytest.approx([30 / 80, 10 / 40])
    single = sequence_lengths.truncation([10, 40, 20], [40], batch_size=1).iloc[0]
    assert single["padded_random"] == single["padded_grouped"] == 0
    short = sequence_lengths.truncation([10, 10, 10], [40], batch_size=8).iloc[0]  # a last batch of three
    assert short["padded_random"] == 0


def test_grouping_by_length_saves_padding_and_the_seed_decides():
    counts = np.random.default_rng(0).integers(5, 200, size=800)
    table, again, other = (sequence_lengths.truncation(counts, [100, 200], seed=seed) for seed in (0, 0, 1))
    assert table.equals(again)
    assert table["padded_random"].tolist() != other["padded_random"].tolist()
    assert (table["padded_grouped"] < table["padded_random"] / 5).all()


def test_padding_of_uniform_lengths_is_the_mean_over_the_expected_longest():
    counts = np.random.default_rng(0).integers(1, 200, size=8_000)
    found = sequence_lengths.truncation(counts, [200]).iloc[0]["padded_random"]
    assert found == pytest.approx(1 - counts.mean() / (200 * 8 / 9), abs=0.01)  # the longest of 8: 8/9 of the range


def test_packing_keeps_every_row_whole():
    counts = np.random.default_rng(0).integers(1, 120, size=2_500)
    packed = sequence_lengths.pack(counts, 128)
    assert sorted(length for sequence in packed for length in sequence) == sorted(counts)
    assert max(map(sum, packed)) <= 128
    assert sequence_lengths.packing_efficiency(counts, 128) == counts.sum() / (128 * len(packed))
    assert sequence_lengths.packing_efficiency(counts, 128) > 0.9


def test_packing_of_known_cases():
    assert sequence_lengths.pack([3, 5, 4, 2, 6], 8) == [[6, 2], [5, 3], [4]]
    assert sequence_lengths.packing_efficiency([3, 5, 4, 2, 6], 8) == 20 / 24
    assert sequence_lengths.pack([10, 0, 3], 4) == [[4], [3]]  # cut to max_length; an empty row takes no place
    assert sequence_lengths.packing_efficiency([4, 4], 4) == 1


def test_packing_leaves_the_progress_bars_as_they_were():
    import datasets

    assert datasets.utils.is_progress_bar_enabled()
    sequence_lengths.pack([1], 2)
    assert datasets.utils.is_progress_bar_enabled()


@pytest.mark.parametrize("counts", [[], [0, 0], [-1, 5], [[1, 2]]])
def test_lengths_that_are_none_are_refused(counts):
    with pytest.raises(DataError, match="lengths must be"):
        sequence_lengths.truncation(counts, [8])
    with pytest.raises(DataError, match="lengths must be"):
        sequence_lengths.packing_efficiency(counts, 8)


def test_bad_limits_and_answers_are_refused():
    with pytest.raises(ParameterError, match="max_length is 0"):
        sequence_lengths.truncation([5], [0])
    with pytest.raises(ParameterError, match="batch_size is 0"):
        sequence_lengths.truncation([5], [4], batch_size=0)
    for answers in ([6], [1, 1], [0]):
        with pytest.raises(DataError, match="answer_lengths"):
            sequence_lengths.truncation([5], [4], answer_lengths=answers)


def test_every_measure_takes_a_dataset_of_messages():
    import datasets

    rows = datasets.Dataset.from_list(
        [{"id": str(i), "task": "t", "messages": conversation(json.dumps({"a": i}))} for i in range(6)]
    )
    assert vocabulary.relevance(rows, rows).shape == (6,)
    assert vocabulary.diversity(rows)["rows"] == 6
    assert vocabulary.coverage(rows, rows) == 1
    assert answer_forms.format_consistency(rows)["form"].tolist() == ["JSON object"]
    assert groups.skew(rows, "task")["rows"].tolist() == [6, 6]
    assert groups.co_occurrence(rows)["texts"].sum() == 0
