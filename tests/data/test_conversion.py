"""Formats: hand-written pairs for every shape, and round trips of random conversations."""

import json
import os
import re
import stat
from datetime import date

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbhelpers.core.errors import DataError, NotebookError, ParameterError
from nbhelpers.cost import hosted, prices
from nbhelpers.data import chat, conversion, files


def turn(role: str, content: str, **more) -> dict:
    return {"role": role, "content": content, **more}


SYSTEM, ASK, ANSWER = turn("system", "Be brief."), turn("user", "Why?"), turn("assistant", "Because, «so».")
AGAIN, MORE = turn("user", "And?"), turn("assistant", "日本語 🙂\n\u2028\t")
OTHER, TOOL = turn("assistant", "No."), turn("tool", "42")
CHAT = [SYSTEM, ASK, ANSWER, AGAIN, MORE]


# --- one row of each shape, by hand -------------------------------------------------------------------------------

CONVERSATIONS = {
    "messages": ({"messages": CHAT}, CHAT),
    "openai": ({"messages": CHAT}, CHAT),
    "sharegpt": (
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "Why?"},
                {"from": "gpt", "value": "Because, «so»."},
                {"from": "tool", "value": "42"},
                {"from": "gpt", "value": "No."},
            ]
        },
        [SYSTEM, ASK, ANSWER, TOOL, OTHER],
    ),
    "alpaca": (
        {
            "instruction": "And?",
            "input": "",
            "output": MORE["content"],
            "system": "Be brief.",
            "history": [["Why?", "Because, «so»."]],
        },
        CHAT,
    ),
    "prompt/completion": ({"prompt": CHAT[:4], "completion": CHAT[4:]}, CHAT),
    "prompt/completion plain": ({"prompt": "Why?", "completion": "No."}, [ASK, OTHER]),
}
PAIRS = {
    "preference": {"prompt": [SYSTEM, ASK], "chosen": [ANSWER], "rejected": [OTHER]},
    "preference plain": {"prompt": "Why?", "chosen": "Because, «so».", "rejected": "No."},
    "preference implicit": {"chosen": [SYSTEM, ASK, ANSWER], "rejected": [SYSTEM, ASK, OTHER]},
    "openai preference": {
        "input": {"messages": [SYSTEM, ASK]},
        "preferred_output": [ANSWER],
        "non_preferred_output": [OTHER],
    },
}


@pytest.mark.parametrize("shape", conversion.CONVERSATIONS)
def test_a_conversation_is_written_and_read_as_the_shape_has_it(shape):
    row, messages = CONVERSATIONS[shape]
    assert conversion.from_messages({"messages": messages}, shape) == row
    assert conversion.normal_form(row) == {"messages": messages}


@pytest.mark.parametrize("shape", conversion.PAIRS)
def test_a_pair_is_written_and_read_as_the_shape_has_it(shape):
    prompt = [ASK] if shape == "preference plain" else [SYSTEM, ASK]
    pair = {"prompt": prompt, "chosen": [ANSWER], "rejected": [OTHER]}
    assert conversion.from_messages(pair, shape) == PAIRS[shape]
    assert conversion.normal_form(PAIRS[shape]) == pair


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "Why?", "input": "It rains.", "output": "No."}, [turn("user", "Why?\n\nIt rains."), OTHER]),
        ({"instruction": "Why?", "input": "", "output": "No."}, [ASK, OTHER]),
        ({"instruction": "Why?", "output": "No.", "system": "", "history": []}, [ASK, OTHER]),
        ({"instruction": "Why?", "output": "No.", "system": None, "history": None}, [ASK, OTHER]),
        (CONVERSATIONS["sharegpt"][0] | {"conversations": CONVERSATIONS["sharegpt"][0]["conversations"][1:3],
                                         "system": "Be brief."}, [SYSTEM, ASK, ANSWER]),
        ({"messages": [ASK, ANSWER | {"weight": 0}, AGAIN, MORE | {"weight": 1}]},
         [ASK, ANSWER | {"weight": 0}, AGAIN, MORE]),
        ({"messages": [ASK, OTHER | {"weight": None, "tool_calls": None}], "tools": []}, [ASK, OTHER]),
    ],
)  # fmt: skip
def test_variants_of_a_shape_are_read(row, expected):
    assert conversion.normal_form(row) == {"messages": expected}


def test_a_pair_whose_question_is_also_a_column_of_its_own_is_read():
    row = {"prompt": "Why?", "chosen": [ASK, ANSWER], "rejected": [ASK, OTHER], "score_chosen": 8.0}
    assert conversion.normal_form(row) == {"prompt": [ASK], "chosen": [ANSWER], "rejected": [OTHER]}


def test_the_prompt_of_an_implicit_pair_is_the_one_that_trl_finds():
    from trl import extract_prompt

    common = [SYSTEM, ASK, ANSWER, AGAIN]
    row = {"chosen": [*common, MORE], "rejected": [*common, OTHER]}
    assert conversion.normal_form(row) == extract_prompt(row)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a"}, "make no known shape"),
        ({"text": "a"}, "no question"),
        ({"messages": [ASK]}, "no answer to learn"),
        ({"messages": [ASK, turn("assistant", None, tool_calls=[{"id": "1"}])]}, "turn 1 has tool_calls"),
        ({"messages": [ASK, OTHER | {"tool_calls": [{"id": "1"}]}]}, "turn 1 has tool_calls"),
        ({"messages": [ASK, OTHER], "tools": [{"type": "function"}]}, "the row has tools"),
        ({"messages": [ASK, OTHER | {"weight": 0.5}]}, "weight 0.5, expected 0 or 1"),
        ({"messages": [ASK, OTHER | {"weight": 0}]}, "every answer has weight 0"),
        ({"messages": [ASK, turn("assistant", "\ud83d")]}, r"'\\ud83d' is half a character"),
        ({"instruction": "a", "output": "b", "system": "\ud83d"}, "half a character"),
        ({"instruction": "a", "output": "b", "history": "c"}, "history is 'c', expected a list"),
        ({"instruction": "a", "output": "b", "history": [["c"]]}, "history is .* expected a list"),
        ({"instruction": "a", "output": "b", "history": [["c", None]]}, "content None"),
        ({"instruction": "a", "output": "b", "system": 5}, "content 5"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "are the same"),
        ({"chosen": "a b", "rejected": "a c"}, "text together with a prompt"),
        ({"prompt": "a", "chosen": [ASK, ANSWER], "rejected": [ASK, OTHER]}, "turns 0 and 1 are both the user's"),
        ({"prompt": [ASK], "chosen": "b", "rejected": ["c"]}, "turn 1 is 'c', expected a role"),
        ({"prompt": [], "chosen": [ANSWER], "rejected": [OTHER]}, "turn 0 is the assistant's, after nothing"),
        ({"chosen": [ANSWER], "rejected": [OTHER]}, "turn 0 is the assistant's, after nothing"),
        ({"chosen": [ASK, ANSWER], "rejected": [ASK, ANSWER, AGAIN, MORE]}, "no answer after it"),
        ({"prompt": [ASK], "chosen": [ANSWER | {"weight": 0}], "rejected": [OTHER]}, "weight 0"),
        (PAIRS["preference"] | {"tools": [1]}, "the row has tools"),
        (PAIRS["preference"] | {"rejected": [OTHER | {"tool_calls": [1]}]}, "turn 2 has tool_calls"),
        (PAIRS["openai preference"] | {"input": [ASK]}, "input is .* expected an object"),
        (PAIRS["openai preference"] | {"input": {"messages": [ASK], "tools": [1]}}, "no tools"),
        (PAIRS["openai preference"] | {"input": {}}, "turn 0 is the assistant's"),
        (None, "None is not an object"),
        ([1], "is not an object"),
        ({"messages": [ASK, OTHER], "functions": [{"name": "f"}]}, "the row has functions"),
        ({"messages": [ASK, OTHER], "images": ["a.png"]}, "the row has images"),
        ({"messages": [SYSTEM, OTHER]}, "turn 1 is the assistant's, after the system's"),
        ({"messages": [ASK, TOOL, OTHER]}, "turn 1 is the tool's, after the user's"),
        ({"messages": [ASK, ANSWER, TOOL, AGAIN, OTHER]}, "turn 3 is the user's, after the tool's"),
        ({"messages": [ASK, OTHER | {"train": False}]}, "every answer has weight 0"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused_with_the_reason(row, message):
    with pytest.raises(DataError, match=message):
        conversion.normal_form(row)
    converted = conversion.convert([row, {"messages": [ASK, OTHER]}], "messages")
    assert (converted.read, len(converted.rows), list(converted.refused.values())) == (2, 1, [1])
    assert re.search(message, converted.refused_rows[1])


# --- what a shape cannot hold -------------------------------------------------------------------------------------

MULTI = {"prompt": [ASK], "chosen": [OTHER, AGAIN, MORE], "rejected": [OTHER, AGAIN, ANSWER]}


TOOLS, PAUSED = [ASK, ANSWER, TOOL, OTHER], [ASK, ANSWER | {"weight": 0}, AGAIN, MORE]
CANNOT_HOLD = [
    (TOOLS, "alpaca", "a tool turn"),
    (TOOLS, "openai", "a tool turn without the id of its call"),
    ([SYSTEM, ASK, OTHER], "prompt/completion plain", "more than one question and its answer"),
    *((PAUSED, shape, "an answer of weight 0") for shape in conversion.CONVERSATIONS if shape != "openai"),
    ([ASK, OTHER], "preference", "a conversation has no second answer"),
    (PAIRS["preference"], "alpaca", "a pair has an answer too many"),
    (PAIRS["preference"], "preference plain", "more than one question"),
    (MULTI, "preference implicit", "answers that begin with the same turn"),
    (MULTI, "preference plain", "an answer of several turns"),
    (MULTI, "openai preference", "an answer of several turns"),
    (PAIRS["preference"] | {"prompt": TOOLS[:3]}, "openai preference", "a tool turn without the id of its call"),
]


@pytest.mark.parametrize(("row", "shape", "reason"), CANNOT_HOLD)
def test_a_row_that_a_shape_cannot_hold_is_refused_and_counted_never_flattened(row, shape, reason):
    row = {"messages": row} if isinstance(row, list) else row
    good = {"messages": [ASK, OTHER]} if shape in conversion.CONVERSATIONS else PAIRS["preference plain"]
    converted = conversion.convert([good, row, good, row], shape)
    assert converted.refused == {reason: 2}
    assert list(converted.refused_rows) == [2, 4]
    assert all(reason in message and shape in message for message in converted.refused_rows.values())
    assert (converted.read, len(converted.rows)) == (4, 2)
    assert str(converted) == f"4 rows read = 2 as {shape} + 2 refused ({reason})"
    assert conversion.round_trip([good, row, good, row], shape) == 2


def test_an_unknown_shape_is_refused_with_the_known():
    for function, rows in ((conversion.from_messages, {}), (conversion.convert, []), (conversion.round_trip, [])):
        with pytest.raises(ParameterError, match="shape='chatml' is not one of messages, openai, sharegpt"):
            function(rows, "chatml")


# --- convert ------------------------------------------------------------------------------------------------------


def test_other_columns_stay_but_not_those_of_another_shape_and_openai_gets_its_own_keys_alone():
    row = {"id": "7", "task": "t", "instruction": "Why?", "input": "", "output": "No.", "history": []}
    kept = {"id": "7", "task": "t"}
    assert conversion.convert([row], "messages").rows == [kept | {"messages": [ASK, OTHER]}]
    assert conversion.convert([row], "prompt/completion plain").rows == [
        kept | CONVERSATIONS["prompt/completion plain"][0]
    ]
    assert conversion.convert([row], "openai").rows == [{"messages": [ASK, OTHER]}]


def test_a_dataset_of_mixed_shapes_is_read_row_by_row():
    rows = [CONVERSATIONS[shape][0] for shape in ("sharegpt", "alpaca", "prompt/completion plain")]
    columns = {name: None for row in rows for name in row}
    table = datasets.Dataset.from_list([columns | row for row in rows])
    assert [row["messages"] for row in conversion.convert(table, "messages").rows] == [
        CONVERSATIONS[shape][1] for shape in ("sharegpt", "alpaca", "prompt/completion plain")
    ]


@pytest.mark.parametrize("shape", conversion.CONVERSATIONS + conversion.PAIRS)
def test_no_rows_are_no_rows(shape):
    converted = conversion.convert([], shape)
    assert (converted.rows, converted.read, converted.refused) == ([], 0, {})


@pytest.mark.parametrize(("count", "warned"), [(9, True), (10, False)])
def test_openai_takes_ten_examples_and_no_fewer(count, warned, smoke):
    rows = [{"messages": [ASK, OTHER]}] * count
    warning = "9 examples; OpenAI takes a training file of at least 10." if warned else ""
    assert conversion.convert(rows, "openai").warning == warning
    assert hosted.openai_price(rows, smoke[1], 1, 1.0).warning == warning
    assert conversion.convert(rows, "sharegpt").warning == ""


# --- round trips --------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: not chat.is_blank(text)
)


def conversation(roles: str, texts: list[str]) -> list[dict]:
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [turn(names[role], text) for role, text in zip(roles, texts, strict=False)]


ROLES = st.from_regex(r"s?(ua(tt?a)?){1,3}", fullmatch=True)
CONVERSATION = st.builds(conversation, ROLES, st.lists(TEXT, min_size=20, max_size=20))
ANSWERS = st.builds(conversation, st.sampled_from(["a", "a", "aua", "ata"]), st.lists(TEXT, min_size=3, max_size=3))
HELD = {  # shape -> the roles of the conversations it can hold, an initial a turn
    "messages": ".+",
    "sharegpt": ".+",
    "openai": "[^t]+",
    "alpaca": "s?(ua)+",
    "prompt/completion": "..+",
    "prompt/completion plain": "ua",
}
quick = settings(max_examples=60, suppress_health_check=list(HealthCheck))


@quick
@given(st.lists(CONVERSATION, max_size=4), st.sampled_from(list(HELD)))
def test_every_conversation_comes_back_from_every_shape_that_holds_it_and_the_others_are_counted(conversations, shape):
    rows = [{"id": str(i), "messages": messages} for i, messages in enumerate(conversations)]
    held = [row for row in rows if re.fullmatch(HELD[shape], "".join(turn["role"][0] for turn in row["messages"]))]
    converted = conversion.convert(rows, shape)
    assert [conversion.normal_form(row)["messages"] for row in converted.rows] == [row["messages"] for row in held]
    assert converted.read == len(rows) == len(held) + sum(converted.refused.values())
    assert set(converted.refused_rows) == {i for i, row in enumerate(rows, 1) if row not in held}
    assert conversion.round_trip(rows, shape) == len(held)


@quick
@given(CONVERSATION, ANSWERS, ANSWERS, st.sampled_from(conversion.PAIRS))
def test_every_pair_comes_back_from_every_shape_that_holds_it(prompt, chosen, rejected, shape):
    pair = {"prompt": [*prompt, ASK], "chosen": chosen, "rejected": rejected}
    converted = conversion.convert([pair], shape)
    same = pair["chosen"] == pair["rejected"]
    single = len(pair["chosen"]) == len(pair["rejected"]) == 1
    holds = {
        "preference": True,
        "preference plain": False,  # these prompts have several turns
        "preference implicit": pair["chosen"][0] != pair["rejected"][0],
        "openai preference": single and all(turn["role"] != "tool" for turn in prompt),
    }[shape] and not same
    assert [conversion.normal_form(row) for row in converted.rows] == [pair] * holds
    assert len(converted.rows) + sum(converted.refused.values()) == 1


def test_a_conversion_that_changes_a_row_is_found_and_named(monkeypatch):
    write = conversion.from_messages

    def forgets_the_system_prompt(row, shape):
        return write(row | {"messages": [turn for turn in row["messages"] if turn["role"] != "system"]}, shape)

    rows = [{"id": "first", "messages": [ASK, OTHER]}, {"id": "second", "messages": CHAT}]
    assert conversion.round_trip(rows, "alpaca") == 2

    def forgets_the_answer(row, shape):
        return write(row, shape) | ({"output": ""} if row["id"] == "second" else {})

    for defect in (forgets_the_system_prompt, forgets_the_answer):
        monkeypatch.setattr(conversion, "from_messages", defect)
        with pytest.raises(
            DataError, match=r"Row second \(number 2\) is not the same after a round trip through alpaca"
        ):
            conversion.round_trip(rows, "alpaca")


# --- files --------------------------------------------------------------------------------------------------------


def test_a_written_file_is_what_the_source_reader_reads(tmp_path):

    rows = [{"messages": [turn("user", f"{i}\u2028\x85\r\n"), MORE]} for i in range(3)]
    path = tmp_path / "new" / "a.jsonl"
    assert conversion.write_jsonl(rows, path) == 3
    assert files.read(path) == rows
    assert len(path.read_text(encoding="utf-8").splitlines()) == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("value", [float("nan"), float("inf"), date(2026, 1, 1), b"bytes", {1, 2}])
def test_a_row_that_json_cannot_hold_leaves_the_old_file(tmp_path, value):
    path = tmp_path / "a.jsonl"
    conversion.write_jsonl([{"a": 1}], path)
    with pytest.raises(DataError, match="Row 2 cannot be written as JSON"):
        conversion.write_jsonl([{"a": 2}, {"a": value}], path)
    assert path.read_text() == '{"a": 1}\n'
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_no_rows_write_an_empty_file(tmp_path):
    assert conversion.write_jsonl([], tmp_path / "a.jsonl") == 0
    assert (tmp_path / "a.jsonl").read_bytes() == b""


# --- price --------------------------------------------------------------------------------------------------------


def test_the_price_is_tokens_times_epochs_times_price(smoke):
    rows = [{"messages": [ASK, OTHER]}, {"instruction": "Why?", "output": "No.", "system": "Be brief."}]
    lengths = {
        text: len(smoke[1](text, add_special_tokens=False)["input_ids"]) for text in ("Why?", "No.", "Be brief.")
    }
    tokens = (3 + 2 * 4 + lengths["Why?"] + lengths["No."]) + (3 + 3 * 4 + sum(lengths.values()))
    found = hosted.openai_price(rows, smoke[1], epochs=3, dollars_per_million=25.0)
    assert found.tokens == tokens
    assert found.dollars == pytest.approx(tokens * 3 * 25 / 1_000_000)
    assert hosted.openai_price(rows, smoke[1], 3, 0).dollars == 0


@pytest.mark.parametrize(("epochs", "price"), [(0, 1.0), (-1, 1.0), (1, -0.5)])
def test_no_epoch_or_a_negative_price_is_refused(epochs, price, smoke):
    with pytest.raises(ParameterError, match=f"epochs={epochs} and dollars_per_million={price}"):
        hosted.openai_price([], smoke[1], epochs, price)


@pytest.mark.parametrize("row", [PAIRS["preference"], {"messages": [ASK]}, {"messages": [ASK, OTHER, TOOL, ANSWER]}])
def test_a_row_that_openai_could_not_train_on_is_not_priced_and_counted(row, smoke):
    good = {"messages": [ASK, OTHER]}
    price = hosted.openai_price([good, row], smoke[1], 1, 1.0)
    assert price.tokens == hosted.openai_price([good], smoke[1], 1, 1.0).tokens
    assert price.warning.startswith("1 rows not priced (")


def test_every_price_has_a_source_and_a_date():
    prices = hosted.finetuning_prices()
    assert {price.provider for price in prices.values()} == {"OpenAI"}
    for model, price in prices.items():
        assert price.model == model
        assert price.dollars_per_million_training_tokens > 0
        assert price.source.startswith("https://")
        assert date(2026, 1, 1) < date.fromisoformat(price.date)


def test_a_missing_table_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(prices, "repository_root", lambda: tmp_path)
    with pytest.raises(NotebookError, match=r"finetuning_prices.csv is missing"):
        hosted.finetuning_prices()


def test_a_converted_file_is_openais_format_and_nothing_else(tmp_path):
    rows = [{"id": "a", "task": "t", "messages": CHAT}]
    conversion.write_jsonl(conversion.convert(rows, "openai").rows, tmp_path / "a.jsonl")
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {"messages": CHAT}
