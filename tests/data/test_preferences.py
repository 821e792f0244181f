import json

import pytest

from nbhelpers.core.errors import DataError
from nbhelpers.data import preferences

LONG = "Name a colour that most people find calm and warm."
ASK = [{"role": "user", "content": "Name a colour."}]
TRANSCRIPT = "\n\nHuman: Name a colour.\n\nAssistant: "


def answer(text: str) -> dict:
    return {"role": "assistant", "content": text}


def only(row: dict) -> dict:
    (pair,) = preferences.from_rows([row]).pairs
    return pair


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky", "The sky is blue", "The sky"),
        ("Paris ", "London", ""),
        ("Q: cost? A: 41 euro", "Q: cost? A: 46 euro", "Q: cost? A: "),
        ("The sky", "The skyline", "The "),
        ("same words", "same words", "same words"),
    ],
)
def test_the_shared_prompt_ends_with_a_whole_word(chosen, rejected, prompt):
    assert preferences.shared_prompt(chosen, rejected) == prompt


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": "The sky", "rejected": "The sky is blue"}, "with an empty answer"),
        ({"chosen": "Paris ", "rejected": "London"}, "without a prompt"),
        ({"prompt": "Q", "chosen": "a  b", "rejected": "a b"}, "with two answers alike"),
        ({"prompt": LONG, "chosen": f"{LONG} red", "rejected": "blue"}, "with the prompt in one answer"),
        ({"prompt": "Q", "chosen": None, "rejected": "blue"}, "with an answer that is no text"),
        ({"prompt": [answer("Hello")], "chosen": "a", "rejected": "b"}, "with a prompt that no user ends"),
        ({"prompt": {"a": 7}, "chosen": "a", "rejected": "b"}, "with a prompt that no user ends"),
        ({"prompt": "Q", "chosen": "a"}, "without chosen and rejected"),
        ({"prompt": "Q", "answers": ["a", "b"], "scores": [6, 6]}, "scores are all alike"),
        ({"prompt": "Q", "answers": ["a", "b"], "scores": [6]}, "scores do not fit"),
        ({"prompt": "Q", "answers": ["a", "b"], "scores": [6, "good"]}, "bad score"),
        ({"chosen": [*ASK, answer("x")], "rejected": [{"role": "user", "content": "Else?"}, answer("y")]},
         "whose earlier turns differ"),
        ({"chosen": "text", "rejected": [*ASK, answer("y")]}, "of two kinds of answers"),
    ],
)  # fmt: skip
def test_a_row_that_is_no_preference_is_dropped_and_counted(row, reason):
    good = {"prompt": "Name a colour.", "chosen": "Red", "rejected": "7"}
    found = preferences.from_rows([good, row, row])
    assert len(found.pairs) == 1
    assert found.dropped == {reason: 2}
    assert f"dropped: 2 {reason}" in str(found)
    with pytest.raises(DataError, match=f"None of 1 rows is a preference .1 {reason}"):
        preferences.from_rows([row])


def test_no_rows_are_one_clear_error():
    with pytest.raises(DataError, match="there are no rows"):
        preferences.from_rows([])


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Name a colour.", "chosen": "Red", "rejected": "7"},
        {"prompt": "Name a colour.", "chosen": "Name a colour. Red", "rejected": "Name a colour. 7"},
        {"prompt": ASK, "chosen": [*ASK, answer("Red")], "rejected": [*ASK, answer("7")]},
        {"prompt": ASK, "chosen": [answer("Red")], "rejected": [answer("7")]},
        {"prompt": "Name a colour.", "chosen": [*ASK, answer("Red")], "rejected": [*ASK, answer("7")]},
        {"chosen": [*ASK, answer("Red")], "rejected": [*ASK, answer("7")]},
        {"chosen": TRANSCRIPT + "Red", "rejected": TRANSCRIPT + "7"},
        {"prompt": "Name a colour.", "answers": ["7", "Red", "Blue"], "scores": ["7", "10", None]},
    ],
)  # fmt: skip
def test_every_shape_gives_the_same_pair(row):
    pair = only(row)
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == (ASK, "Red", "7")
    trl = preferences.conversational([pair])
    assert trl == [{"prompt": ASK, "chosen": [answer("Red")], "rejected": [answer("7")]}]


def test_a_transcript_is_split_at_its_last_answer():
    before = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: "
    pair = only({"chosen": before + "good", "rejected": before + "bad"})
    assert [turn["content"] for turn in pair["prompt"]] == ["a", "b", "c"]
    assert (pair["chosen"], pair["rejected"]) == ("good", "bad")
    within = "say\n\nAssistant: is a sign"
    assert only({"chosen": before + within, "rejected": before + "bad"})["chosen"] == within


def test_ranked_answers_make_a_pair_of_every_two_that_differ():
    pairs = preferences.from_scores(ASK, ["a", "b", "c"], [7, 7, 5])
    assert {(pair["chosen"], pair["rejected"]) for pair in pairs} == {("a", "c"), ("b", "c")}
    assert len({pair["group"] for pair in pairs}) == 1
    few = preferences.from_scores(ASK, ["a", "b", "c", "d"], [1, 1, 0, 0], most=2)
    assert len({pair["chosen"] for pair in few}) == len({pair["rejected"] for pair in few}) == 2
    assert preferences.from_scores(ASK, ["a", "b", "c"], [1, 2, 9], most=1)[0]["chosen"] == "c"


def test_pairs_of_one_prompt_stay_in_one_split():
    import datasets

    from nbhelpers.data import splits

    rows = [{"prompt": f"Question {i}", "answers": ["a", "b", "c"], "scores": [3, 2, 1]} for i in range(20)]
    found = preferences.from_rows(rows)
    assert len(found.pairs) == 60
    train, test = splits.split(datasets.Dataset.from_list(found.pairs), "group", "group", test_share=0.2)
    assert len(test) == 12
    assert not set(train["group"]) & set(test["group"])


def test_length_bias_is_reported():
    pairs = [{"chosen": "long answer", "rejected": "short"}] * 9 + [{"chosen": "a", "rejected": "bb"}]
    bias = preferences.longer_chosen([*pairs, {"chosen": "xy", "rejected": "yx"}])
    assert (bias.value, bias.n) == (0.9, 10)
    assert bias.low > 0.5
    assert preferences.longer_chosen([{"chosen": "xy", "rejected": "yx"}]).value == 0.5


def test_a_file_is_read_by_its_name(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Q{i}", "chosen": "a", "rejected": "b"}) + "\n" for i in range(3)))
    columns = "question: prompt; chosen: chosen; rejected: rejected"
    assert str(preferences.read(path)) == f"3 pairs of 3 prompts\n  columns: {columns}"


FILES = {
    "OpenAI": (
        {"input": {"messages": ASK, "tools": [], "parallel_tool_calls": True},
         "preferred_output": [answer("Red")], "non_preferred_output": [answer("7")]},
        "question: input; chosen: preferred_output; rejected: non_preferred_output",
    ),
    "LLaMA-Factory, Alpaca": (
        {"instruction": "Name a", "input": "colour.", "chosen": "Red", "rejected": "7"},
        "question: instruction + input; chosen: chosen; rejected: rejected",
    ),
    "LLaMA-Factory, ShareGPT": (
        {"conversations": [{"from": "human", "value": "Name a colour."}],
         "chosen": {"from": "gpt", "value": "Red"}, "rejected": {"from": "gpt", "value": "7"}},
        "question: conversations; chosen: chosen; rejected: rejected",
    ),
    "messages as the prompt": (
        {"messages": ASK, "chosen": "Red", "rejected": "7", "score_chosen": 9.0},
        "question: messages; chosen: chosen; rejected: rejected; not used: score_chosen (1 rows)",
    ),
    "Orca's columns": (
        {"system": "", "question": "Name a colour.", "chosen": "Red", "rejected": "7"},
        "question: question; chosen: chosen; rejected: rejected; empty: system",
    ),
    "scored answers": (
        {"prompt": "Name a colour.", "answers": ["7", "Red"], "scores": [1, 2]},
        "question: prompt; answers: answers; scores: scores",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_any_usual_form_says_what_its_columns_became(name, tmp_path):
    row, columns = FILES[name]
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    read = preferences.read(tmp_path / "pairs.jsonl")
    (pair,) = read.pairs
    assert [" ".join(turn["content"].split()) for turn in pair["prompt"]] == ["Name a colour."]
    assert (pair["chosen"], pair["rejected"], read.columns) == ("Red", "7", columns)


@pytest.mark.parametrize("tools", [[{"type": "function"}], None])
def test_tools_in_the_input_of_a_pair_are_refused_not_lost(tools):
    row = {"prompt": {"messages": ASK, "tools": tools}, "chosen": "Red", "rejected": "7"}
    if tools:
        with pytest.raises(DataError, match="1 tools"):
            preferences.from_rows([row])
    else:
        assert only(row)["prompt"] == ASK


def test_pairs_of_one_prompt_are_held_out_together():
    rows = [{"prompt": f"Question {i // 3}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(60)]
    train, held_out = preferences.hold_out(preferences.from_rows(rows).pairs, 0.2, 0)
    assert len(train) + len(held_out) == 60
    assert 6 <= len(held_out) <= 18
    assert not {pair["group"] for pair in train} & {pair["group"] for pair in held_out}
    assert train[0]["prompt"] == [{"role": "user", "content": train[0]["prompt"][0]["content"]}]


def test_an_answer_that_only_begins_like_its_prompt_stays_whole():
    row = {"prompt": "Hello", "chosen": "Hello! How can I help?", "rejected": "Hello, I am a model."}
    (pair,) = preferences.from_rows([row]).pairs
    assert (pair["chosen"], pair["rejected"]) == ("Hello! How can I help?", "Hello, I am a model.")


@pytest.mark.parametrize(
    "answers",
    [
        (["good"], ["bad"]),
        ([{"from": "gpt", "value": "good"}], [{"from": "gpt", "value": "bad"}]),
        ({"role": "Assistant", "content": "good"}, {"role": "Assistant", "content": "bad"}),
    ],
)
def test_answers_as_lists_of_others_are_read_or_refused_but_never_a_crash(answers):
    row = {"prompt": "q", "chosen": answers[0], "rejected": answers[1]}
    good = {"prompt": "Name a colour.", "chosen": "Red", "rejected": "7"}
    found = preferences.from_rows([good, row])
    assert len(found.pairs) == (1 if answers[0] == ["good"] else 2)
