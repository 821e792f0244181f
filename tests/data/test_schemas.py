"""Every shape that rows come in: recognised, made into turns, and refused with the reason where that cannot be done."""

import pytest
from turns import ANSWER, ASK, SYSTEM, turn

from nbhelpers.core.errors import DataError
from nbhelpers.data import chat, schemas

SHAREGPT = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]


@pytest.mark.parametrize(
    ("row", "shape", "expected"),
    [
        ({"messages": [SYSTEM, ASK, ANSWER | {"extra": 1}]}, "messages", [SYSTEM, ASK, ANSWER]),
        (
            {
                "conversations": [
                    {"from": "system", "value": "Be brief."},
                    {"from": "human", "value": "Why?"},
                    {"from": "gpt", "value": "Because."},
                ]
            },
            "sharegpt",
            [SYSTEM, ASK, ANSWER],
        ),
        ({"prompt": "Why?", "completion": "Because."}, "prompt/completion", [ASK, ANSWER]),
        ({"prompt": [SYSTEM, ASK], "completion": [ANSWER]}, "prompt/completion", [SYSTEM, ASK, ANSWER]),
        ({"instruction": "Why?", "output": "Because."}, "alpaca", [ASK, ANSWER]),
        ({"instruction": "Why?", "input": "", "output": "Because."}, "alpaca", [ASK, ANSWER]),
        (
            {"instruction": "Why?", "input": "It rains.", "output": "Because."},
            "alpaca",
            [turn("user", "Why?\n\nIt rains."), ANSWER],
        ),
        (
            {"instruction": "And?", "output": "No.", "system": "Be brief.", "history": [["Why?", "Because."]]},
            "alpaca",
            [SYSTEM, ASK, ANSWER, turn("user", "And?"), turn("assistant", "No.")],
        ),
        ({"instruction": "Why?", "output": "Because.", "system": "", "history": None}, "alpaca", [ASK, ANSWER]),
        ({"conversations": SHAREGPT, "system": "Be brief."}, "sharegpt", [SYSTEM, ASK, ANSWER]),
        ({"messages": [ASK, ANSWER], "system": "Be brief."}, "messages", [SYSTEM, ASK, ANSWER]),
        ({"prompt": "Why?", "completion": "Because.", "system": "Be brief."}, "prompt/completion",
         [SYSTEM, ASK, ANSWER]),
        ({"prompt": "And?", "completion": "No.", "history": [["Why?", "Because."]]}, "prompt/completion",
         [ASK, ANSWER, turn("user", "And?"), turn("assistant", "No.")]),
        ({"messages": [ASK | {"weight": 0}, ANSWER | {"weight": 1, "tool_calls": None}], "tools": []}, "messages",
         [ASK, ANSWER]),
    ],
)  # fmt: skip
def test_every_shape_is_recognised_and_becomes_messages(row, shape, expected):
    assert schemas.recognise({*row, "id", "source"}) == shape
    assert schemas.to_messages(row, shape) == expected


@pytest.mark.parametrize(
    ("columns", "shape"),
    [
        ({"prompt", "chosen", "rejected"}, "preference"),
        ({"text"}, "text"),
        ({"text", "messages"}, "messages"),
        ({"prompt", "completion", "messages"}, "messages"),
    ],
)
def test_the_most_specific_shape_wins(columns, shape):
    assert schemas.recognise(columns) == shape


@pytest.mark.parametrize("columns", [set(), {"prompt"}, {"question", "answer"}, {"Messages"}])
def test_unknown_columns_are_refused_with_the_known_shapes(columns):
    with pytest.raises(DataError) as caught:
        schemas.recognise(columns)
    assert all(shape in str(caught.value) for shape in schemas.SHAPES)
    assert all(column in str(caught.value) for column in columns)


def test_unknown_columns_are_named_in_words_that_can_be_printed_and_are_few():
    with pytest.raises(DataError, match=r"columns a, \\ud800 make") as caught:
        schemas.recognise({"a", "\ud800"})
    assert str(caught.value).encode()
    with pytest.raises(DataError, match="columns a, xxx") as caught:
        schemas.recognise({"a", "x" * 5_000})
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("row", "shape", "message"),
    [
        ({"messages": []}, "messages", r"messages is \[\], expected a list"),
        ({"messages": None}, "messages", "messages is None, expected a list"),
        ({"messages": "Why?"}, "messages", "messages is 'Why\\?', expected a list"),
        ({"messages": ["Why?"]}, "messages", "turn 0 is 'Why\\?', expected a role of system, user, assistant, tool"),
        ({"messages": [ASK, turn("judge", "x")]}, "messages", "turn 1 is .*'judge'.*, expected a role"),
        ({"messages": [{"content": "Why?"}, ANSWER]}, "messages", "turn 0 is .*, expected a role"),
        ({"messages": [ASK, turn("assistant", " \n")]}, "messages", r"turn 1 \(assistant\) has content ' \\n'"),
        ({"messages": [turn("user", None), ANSWER]}, "messages", r"turn 0 \(user\) has content None, expected text"),
        ({"messages": [turn("user", [3]), ANSWER]}, "messages", r"turn 0 \(user\) has content \[3\]"),
        ({"messages": [ASK]}, "messages", "last turn is the user's; there is no answer"),
        ({"conversations": "Why?"}, "sharegpt", "conversations is 'Why\\?', expected a list"),
        ({"conversations": []}, "sharegpt", r"\[\], expected a list"),
        ({"conversations": ["Why?"]}, "sharegpt", "turn 0 is 'Why\\?', expected a role"),
        ({"conversations": [{"from": "judge", "value": "x"}]}, "sharegpt", "turn 0 is .*judge.*, expected a role"),
        ({"conversations": [{"from": "human"}]}, "sharegpt", r"turn 0 \(user\) has content None"),
        ({"prompt": "Why?", "completion": ""}, "prompt/completion", r"turn 1 \(assistant\) has content ''"),
        ({"prompt": "Why?", "completion": [ANSWER]}, "prompt/completion", r"turn 1 \(assistant\) has content \["),
        ({"instruction": None, "output": "x"}, "alpaca", r"turn 0 \(user\) has content None"),
        ({"instruction": "", "input": " ", "output": "x"}, "alpaca", r"turn 0 \(user\) has content ''"),
        ({"instruction": "Why?", "output": {"a": 3}}, "alpaca", r"turn 1 \(assistant\) has content {'a': 3}, expected"),
        ({"instruction": ["Why?"], "output": "x"}, "alpaca", r"instruction is \['Why\?'\], expected text"),
        ({"instruction": [ASK], "output": [ANSWER]}, "alpaca", "instruction is .* expected text"),
        ({"conversations": [{"from": ["human"], "value": "x"}]}, "sharegpt", "turn 0 is .*human.*, expected a role"),
        ({"text": "words"}, "text", "text rows hold no question"),
        ({"chosen": [ANSWER], "rejected": [ANSWER]}, "preference", "preference rows hold no question"),
    ],
)
def test_a_malformed_row_is_refused_and_the_message_says_where(row, shape, message):
    with pytest.raises(DataError, match=message):
        schemas.to_messages(row, shape)


@pytest.mark.parametrize(
    ("row", "message", "reason"),
    [
        ({"messages": [ASK, ANSWER], "tools": [{"type": "function"}]}, "the row has tools", "tools"),
        ({"messages": [ASK, ANSWER | {"tool_calls": [1]}]}, "turn 1 has tool_calls", "more than plain turns"),
        ({"messages": [ASK, turn("assistant", None) | {"function_call": {"name": "f"}}]},
         "turn 1 has function_call", "more than plain turns"),
        ({"conversations": [SHAREGPT[0] | {"images": ["a.png"]}, SHAREGPT[1]]}, "turn 0 has images",
         "more than plain turns"),
        ({"prompt": [ASK | {"audio": "a.wav"}], "completion": [ANSWER]}, "turn 0 has audio", "more than plain turns"),
        ({"messages": [ASK, ANSWER | {"weight": 0}, ASK, ANSWER]}, "turn 1 has weight 0", "an answer of weight 0"),
        ({"conversations": [SHAREGPT[0], SHAREGPT[1] | {"weight": 0}]}, "turn 1 has weight 0",
         "an answer of weight 0"),
        ({"prompt": [ASK], "completion": [ANSWER | {"weight": 0.5}]}, "turn 1 has weight 0.5", "bad weight"),
        ({"conversations": [{"from": "system", "value": "x"}, *SHAREGPT], "system": "Be brief."},
         "the column system and the system turn say different things", "two system prompts"),
        ({"messages": [ASK, ANSWER | {"train": False}]}, "turn 1 has weight 0", "an answer of weight 0"),
        ({"messages": [ASK | {"videos": ["a.mp4"]}, ANSWER]}, "turn 0 has videos", "more than plain turns"),
        ({"messages": [ASK, ANSWER | {"reasoning": "Hm."}]}, "turn 1 has reasoning", "more than plain turns"),
        ({"messages": [ANSWER]}, "turn 0 is the assistant's, after nothing", "turns out of order"),
        ({"conversations": SHAREGPT[::-1]}, "turn 0 is the assistant's, after nothing", "turns out of order"),
        ({"messages": [SYSTEM, ASK, ANSWER], "system": "Be long."}, "column system and the system turn say different",
         "two system prompts"),
        ({"instruction": "a", "output": "b", "system": 5}, "content 5", "content is not text"),
        ({"instruction": "a", "output": "b", "history": [["c"]]}, "history is .* expected a list", "bad history"),
    ],
)  # fmt: skip
def test_what_plain_turns_cannot_say_is_refused_under_a_reason_never_dropped(row, message, reason):
    with pytest.raises(DataError, match=message) as caught:
        schemas.content_of(row, schemas.recognise(set(row)))
    assert caught.value.reason == reason


def test_weight_0_is_kept_only_where_it_is_asked_for_and_another_answer_is_trained():
    messages = [ASK | {"weight": 0}, ANSWER | {"weight": 0}, ASK, ANSWER | {"weight": 1}]
    kept = [ASK, ANSWER | {"weight": 0}, ASK, ANSWER]
    assert schemas.to_messages({"messages": messages}, "messages", weights=True) == kept
    with pytest.raises(DataError, match="every answer has weight 0"):
        schemas.to_messages({"messages": messages[:2]}, "messages", weights=True)


@pytest.mark.parametrize("sign", ["", " ", "\n", "\x00", "\x14", "\xad", "\u200b", "\ufeff", "\u2800", "\u3164"])
def test_a_text_of_which_nothing_is_seen_is_blank(sign):
    assert chat.is_blank(f" {sign}\t")
    assert not chat.is_blank(f"{sign}.")
