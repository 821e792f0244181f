from functools import partial

import datasets
import pytest
import torch

from nbhelpers.core.errors import DataError, ParameterError
from nbhelpers.data import augmentation
from nbhelpers.evaluation import generation

TEXT = "Read every line of the open file and return the ones that match the given pattern as a list of strings."
REWRITE = "Go through an open file line by line; whatever fits the given pattern comes back as strings in a list."
TEMPLATES = {
    "summary": ["Sum this up in a line.", "Give a one-line summary."],
    "package": ["Which package is it?", "Name it."],
}


def row(i, task="summary", text=TEXT, instruction="Write the summary.", answer="Filter lines."):
    content = f"{instruction}\n\n{text}" if instruction else text
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return {"id": f"r{i}", "task": task, "messages": messages, "reference": answer}


def rows_of(count, **options):
    return [row(i, **options) for i in range(count)]


# --- templates ----------------------------------------------------------------------------------------------------


def test_a_template_replaces_the_instruction_and_nothing_else():
    given = [row(0), row(1, "package", text="a\n\nb\n  c"), row(2, text="  indented\n\ncode")]
    given[0]["messages"].insert(0, {"role": "system", "content": "Be brief.\n\nAlways."})
    made = augmentation.from_templates(given, {task: wordings[:1] for task, wordings in TEMPLATES.items()}, seed=0)
    assert [r["messages"][-2]["content"] for r in made] == [
        f"Sum this up in a line.\n\n{TEXT}",
        "Which package is it?\n\na\n\nb\n  c",
        "Sum this up in a line.\n\n  indented\n\ncode",
    ]
    assert made[0]["messages"][0] == given[0]["messages"][0]
    assert [(r["synthetic_origin"], r["synthetic_source_id"], r["reference"], r["task"]) for r in made] == [
        ("template", r["id"], r["reference"], r["task"]) for r in given
    ]
    assert not {r["id"] for r in made} & {r["id"] for r in given}
    assert given[1] == row(1, "package", text="a\n\nb\n  c"), "the given rows stay as they are"


def test_the_seed_decides_which_template():
    given = rows_of(30)
    first, again, other = (augmentation.from_templates(given, {"summary": TEMPLATES["summary"]}, s) for s in (1, 1, 2))
    assert first == again != other
    assert len({r["messages"][0]["content"] for r in first}) == 2


@pytest.mark.parametrize(
    ("given", "templates", "message"),
    [
        ([row(0, "poem")], {"summary": ["x"]}, "No templates for: poem; no row for: summary"),
        ([row(0)], TEMPLATES, "no row for: package"),
        ([row(0)], {"summary": []}, "at least one"),
        ([row(0)], {"summary": ["fine", " "]}, "without a blank line"),
        ([row(0)], {"summary": ["two\n\nparts"]}, "without a blank line"),
        ([row(0)], {"summary": ["fine", "write  the Summary"]}, "Row r0 .* would be a copy"),
        ([row(0, instruction="")], {"summary": ["fine"]}, "Row r0 has no blank line"),
        ([row(0) | {"messages": [{"role": "assistant", "content": "x"}]}], {"summary": ["fine"]}, "no user turn"),
    ],
)
def test_templates_that_cannot_be_used_are_refused(given, templates, message):
    with pytest.raises(DataError, match=message):
        augmentation.from_templates(given, templates, seed=0)


# --- the filter ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rewrite", "reason"),
    [
        (REWRITE, None),
        ("", "empty"),
        ("... !", "empty"),
        ("the file the file the file the file the file the file the file", "loop"),
        ("Matching lines of a file.", "length"),
        (f"{TEXT} {REWRITE} It also says a good deal more.", "length"),
        (TEXT, "copy"),
        (TEXT.upper().replace(" ", "\n"), "copy"),
        (" ".join(TEXT.split()[:14]), "copy"),
        (
            "Sorry, but I can not help you with this since it is not something which models do on their own.",
            "off the subject",
        ),
    ],
)
def test_a_rewrite_is_refused_for_its_reason(rewrite, reason):
    assert augmentation.rejection(TEXT, rewrite) == reason


def words(common, own):
    return " ".join([f"c{i}" for i in range(common)] + [f"o{own}x{i}" for i in range(20 - common)])


@pytest.mark.parametrize(
    ("common", "reason"), [(19, "copy"), (18, None), (7, None), (6, "off the subject")]
)  # of 20 words
def test_the_bounds_of_word_overlap(common, reason):
    assert augmentation.rejection(words(common, 1), words(common, 2)) == reason


@pytest.mark.parametrize(("count", "reason"), [(9, "length"), (10, None), (40, None), (41, "length")])
def test_the_bounds_of_length(count, reason):
    rewrite = " ".join([f"c{i}" for i in range(8)] + [f"o{i}" for i in range(count - 8)])
    source = " ".join([f"c{i}" for i in range(8)] + [f"p{i}" for i in range(12)])
    assert augmentation.rejection(source, rewrite) == reason


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ('{"pattern": "list"}', None),  # in both
        ("match(pattern)", "answer"),  # only in the text: lost
        ("goes back", None),  # in neither
        ("Fits whatever.", "answer"),  # only in the rewrite: given away
    ],
)
def test_an_answer_that_is_lost_or_given_away_is_refused(reference, reason):
    assert augmentation.rejection(TEXT, REWRITE, reference) == reason


# --- paraphrases --------------------------------------------------------------------------------------------------


def test_paraphrases_are_filtered_counted_and_marked():
    given = [row(0), row(1, instruction=""), *rows_of(6)[2:]]
    asked = []

    def generate(prompts):
        asked.extend(prompts)
        answers = [
            (f" {REWRITE}\n", True),
            (REWRITE, True),
            (REWRITE, False),
            (TEXT, True),
            ("", True),
            ("no no", True),
        ]
        return [generation.Answer(text, 1, stopped) for text, stopped in answers]

    made, counts = augmentation.paraphrase(given, generate, count=6, seed=4)
    assert {p[0]["content"] for p in asked} == {f"{augmentation.REQUEST}\n\n{TEXT}"}
    assert counts["rejected"] == dict.fromkeys(augmentation.REASONS, 0) | {
        "unfinished": 1, "copy": 1, "empty": 1, "length": 1
    }  # fmt: skip
    assert counts["produced"] == 6 == counts["accepted"] + sum(counts["rejected"].values())
    assert counts["accepted"] == len(made) == 2
    assert {r["synthetic_origin"] for r in made} == {"paraphrase"}
    by_id = {r["id"]: r for r in given}
    for r in made:
        source = by_id[r["synthetic_source_id"]]
        assert r["messages"][0]["content"] == source["messages"][0]["content"].replace(TEXT, REWRITE)
        assert (r["messages"][1], r["reference"]) == (source["messages"][1], source["reference"])


def rewrites(prompts):
    return [generation.Answer(REWRITE, 1, True)] * len(prompts)


def test_the_seed_draws_the_rows_and_no_row_twice():
    drawn = [
        [r["synthetic_source_id"] for r in augmentation.paraphrase(rows_of(20), rewrites, 5, seed)[0]]
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 5


def test_a_real_model_gives_the_same_counts_for_the_same_seed(smoke):
    given = datasets.Dataset.from_list(rows_of(5))
    sampled = partial(generation.generate, *smoke, max_new_tokens=12, batch_size=2, temperature=0.7, seed=0)
    runs = [augmentation.paraphrase(given, sampled, count=4, seed=0) for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0][1]["produced"] == 4 == runs[0][1]["accepted"] + sum(runs[0][1]["rejected"].values())


def test_sampling_depends_on_the_seed_alone_and_leaves_the_callers_seed(smoke):
    prompts = [[{"role": "user", "content": text}] for text in ("a", "some words", "more of them")]

    def sampled(temperature, seed):
        return generation.generate(*smoke, prompts, 8, batch_size=2, temperature=temperature, seed=seed)

    torch.manual_seed(5)
    first = sampled(1.0, 1)
    drawn = torch.rand(1)
    torch.manual_seed(6)
    assert sampled(1.0, 1) == first
    assert sampled(1.0, 2) != first
    torch.manual_seed(5)
    assert torch.rand(1) == drawn
    assert sampled(0.0, 1) == sampled(0.0, 2) == generation.generate(*smoke, prompts, 8) != first


@pytest.mark.parametrize(("options", "message"), [({"count": 0}, "0 is outside 1 to 3"), ({"count": 4}, "1 to 3")])
def test_a_count_out_of_range_is_refused(options, message):
    with pytest.raises(ParameterError, match=message):
        augmentation.paraphrase(rows_of(3), rewrites, seed=0, **options)


# --- back-translation ---------------------------------------------------------------------------------------------


def test_back_translation_goes_there_and_back():
    calls = []

    def translate(texts, source, target):
        calls.append((list(texts), source, target))
        return [REWRITE if target == "en" and text == f"de:{TEXT}" else f"de:{text}" for text in texts]

    made, counts = augmentation.back_translate(
        datasets.Dataset.from_list([row(0), row(1, text="One two.")]), translate, "de"
    )
    assert calls == [([TEXT, "One two."], "en", "de"), ([f"de:{TEXT}", "de:One two."], "de", "en")]
    assert [(r["synthetic_origin"], r["synthetic_source_id"], r["reference"]) for r in made] == [
        ("back-translation", "r0", "Filter lines.")
    ]
    assert made[0]["messages"][0]["content"] == f"Write the summary.\n\n{REWRITE}"
    assert counts["produced"] == 2
    assert counts["rejected"]["copy"] == 1  # "de:de:One two." holds both words


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (["a"], "a list of 1 for 2 texts"),
        ("ab", "a str for 2 texts"),
        (None, "a NoneType for 2 texts"),
        (["a", None], "None for the text of row r1"),
        ([b"a", "b"], "b'a' for the text of row r0"),
    ],
)
@pytest.mark.parametrize("bad_call", [1, 2])
def test_what_the_hook_returns_is_checked_both_ways(found, message, bad_call):
    calls = []

    def translate(texts, source, target):
        calls.append(target)
        return found if len(calls) == bad_call else texts

    with pytest.raises(DataError, match=message):
        augmentation.back_translate(rows_of(2), translate, "de")
    assert len(calls) == bad_call


def test_the_pivot_is_another_language():
    with pytest.raises(ParameterError, match="pivot='en'"):
        augmentation.back_translate(rows_of(1), lambda texts, source, target: texts, "en")


# --- the mix ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "share", "kept"),
    [(7, 0.3, 3), (70, 0.3, 30), (10, 0.5, 10), (10, 0.0, 0), (9, 0.1, 1), (8, 0.1, 0), (10, 0.49, 9)],
)
def test_synthetic_rows_are_at_most_their_share(given, share, kept):
    rows = rows_of(given)
    synthetic = augmentation.from_templates(rows, {"summary": ["Another."]}, 0)
    mixed, counts = augmentation.mix(rows, synthetic, share, seed=0)
    assert counts == {"given": given, "synthetic": kept, "repeated": 0, "dropped": given - kept}
    assert len(mixed) == given + kept
    assert kept <= share * len(mixed) + 1e-9
    assert kept + 1 > share * (given + kept + 1), "one more would have been too many"
    assert [r["synthetic_origin"] for r in mixed] == ["given"] * given + ["template"] * kept
    assert [r["synthetic_source_id"] for r in mixed[:given]] == [None] * given


def test_the_surplus_is_dropped_at_random():
    rows = rows_of(40)
    synthetic = augmentation.from_templates(rows, {"summary": ["Another."]}, 0)
    kept = [[r["id"] for r in augmentation.mix(rows, synthetic, 0.2, seed)[0][40:]] for seed in (0, 0, 1)]
    assert kept[0] == kept[1] != kept[2]
    assert kept[0] != [r["id"] for r in synthetic[:10]]


def test_a_dataset_stays_one_and_few_synthetic_rows_are_all_kept():
    rows = rows_of(10)
    synthetic = augmentation.from_templates(rows[:2], {"summary": ["Another."]}, 0)
    mixed, counts = augmentation.mix(datasets.Dataset.from_list(rows), synthetic)
    assert isinstance(mixed, datasets.Dataset)
    assert counts == {"given": 10, "synthetic": 2, "repeated": 0, "dropped": 0}
    assert mixed["synthetic_source_id"][-3:] == [None, "r0", "r1"]
    assert mixed[-1] == synthetic[-1]


def test_a_synthetic_row_that_is_there_twice_is_used_once():
    rows = rows_of(10)
    made = [augmentation.from_templates(rows, {"summary": TEMPLATES["summary"]}, seed) for seed in (0, 1)]
    repeated = sum(a == b for a, b in zip(*made, strict=True))
    assert 0 < repeated < 10
    mixed, counts = augmentation.mix(rows, made[0] + made[1], 0.5)
    assert counts == {"given": 10, "synthetic": 10, "repeated": repeated, "dropped": 10 - repeated}
    assert len({r["id"] for r in mixed}) == len(mixed) == 20


@pytest.mark.parametrize("share", [-0.1, 0.51, 1.0, float("nan")])
def test_a_share_above_half_is_refused_with_its_reason(share):
    with pytest.raises(ParameterError, match="model collapse, Shumailov"):
        augmentation.mix(rows_of(2), [], share)


def test_rows_whose_origin_is_in_doubt_are_refused():
    rows = rows_of(2)
    synthetic = augmentation.from_templates(rows, {"summary": ["Another."]}, 0)
    with pytest.raises(DataError, match=r"Row r0-template-\w+ among the given rows is marked 'template'"):
        augmentation.mix([*rows, *synthetic], [])
    with pytest.raises(DataError, match="has the origin None"):
        augmentation.mix(rows, [row(5)])
    with pytest.raises(DataError, match="made from row 'r1', which is not among the given"):
        augmentation.mix(rows[:1], synthetic)
    with pytest.raises(DataError, match="has the origin 'given'"):
        augmentation.mix(rows, [row(5) | {"synthetic_origin": "given", "synthetic_source_id": "r0"}])


def test_a_data_set_may_have_columns_of_any_name_of_its_own():
    given = [row(i) | {"origin": f"web {i}", "source_id": "x", "weight": 3} for i in range(4)]
    mixed, counts = augmentation.mix(given, [])
    assert counts["given"] == 4
    assert [r["origin"] for r in mixed] == [r["origin"] for r in given]
