"""Conversion between the shapes of training rows, each proven by a round trip, and OpenAI's price for a set.

Every row is read into TRL's conversational form, which is either `{"messages"}` or, for a pair of answers,
`{"prompt", "chosen", "rejected"}`, and written from it. A row that a shape cannot hold whole is refused and counted.
"""

import itertools
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from nbhelpers.core.errors import DataError, ParameterError
from nbhelpers.core.storage import replaced
from nbhelpers.data import chat, schemas

CONVERSATIONS = ("messages", "openai", "sharegpt", "alpaca", "prompt/completion", "prompt/completion plain")
PAIRS = ("preference", "preference plain", "preference implicit", "openai preference")
OPENAI_MINIMUM = 10  # examples; https://developers.openai.com/api/docs/guides/supervised-fine-tuning
_OPENAI_PAIR = {"input", "preferred_output", "non_preferred_output"}
_RESERVED = {*schemas.MEANINGS, "tools", "parallel_tool_calls", *_OPENAI_PAIR}.union(*schemas.SHAPES.values())
_FROM = {"system": "system", "user": "human", "assistant": "gpt", "tool": "tool"}  # role -> ShareGPT's name


@dataclass(frozen=True)
class Converted:
    """Rows of one shape, and what became of every row read: `read == len(rows) + sum(refused.values())`.

    `refused` is reason -> rows; `refused_rows` is row number, from 1, -> what is wrong with that row. `warning` is
    empty, or says why OpenAI would not take the file. `left_out` is column -> rows that had something in it: a column
    beside the turns whose name would mean something in the new shape, or any where the shape takes no other columns.
    """

    shape: str
    rows: list[dict]
    read: int
    refused: dict[str, int]
    refused_rows: dict[int, str]
    warning: str = ""
    left_out: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        refused = "".join(f" + {count} refused ({reason})" for reason, count in self.refused.items())
        left_out = "".join(f"; {name} left out of {count}" for name, count in self.left_out.items())
        return f"{self.read} rows read = {len(self.rows)} as {self.shape}{refused}{left_out}"


def normal_form(row: dict) -> dict:
    """`{"messages"}`, or `{"prompt", "chosen", "rejected"}` of a pair, from a row of any known shape.

    Turns are `{"role", "content"}`; an answer that OpenAI's `weight` 0 takes out of the training keeps that key. The
    prompt of a pair without one is what its two conversations begin with alike.

    Raises DataError: the columns make no known shape, a turn cannot be used, or the row has what a plain turn cannot
    say (tool calls, images, ...).
    """
    schemas.refuse_more_than_text(row)
    columns = {name for name, value in row.items() if value is not None}
    shape = "openai preference" if columns >= _OPENAI_PAIR else schemas.recognise(columns)
    if shape == "openai preference":
        given = row["input"]
        if not isinstance(given, dict) or given.get("tools"):
            raise DataError(
                f"input is {given!r:.60}, expected an object with messages and no tools", "no input messages"
            )
        return _pair(given.get("messages"), row["preferred_output"], row["non_preferred_output"])
    if shape == "preference":
        prompt, answers = _prompt(row), [chat.unpacked(row[name]) for name in ("chosen", "rejected")]
        if prompt is not None:
            answers = [[chat.turn_of("assistant", text)] if isinstance(text, str) else text for text in answers]
        return _pair(prompt, *answers)
    messages = schemas.to_messages(row, shape, weights=True)
    _encodable(messages)
    return {"messages": messages}


def _prompt(row: dict) -> list[dict] | None:
    """The turns of a pair's prompt; None where it has none, or where its answers hold the question once more."""
    prompt, answers = row.get("prompt"), [chat.unpacked(row[name]) for name in ("chosen", "rejected")]
    asked = chat.turn_of("user", prompt)  # as UltraFeedback has it
    if prompt is None or all(isinstance(answer, list) and asked in answer for answer in answers):
        return None
    return schemas.question_turns(row, "prompt")


def _pair(prompt, chosen, rejected) -> dict:
    for name, turns in (("chosen", chosen), ("rejected", rejected), ("prompt", prompt)):
        if not isinstance(turns, list) and not (name == "prompt" and turns is None):
            raise DataError(
                f"{name} is {turns!r:.60}, expected turns, or text together with a prompt that is text", "not turns"
            )
    conversations = [[*(prompt or []), *answer] for answer in (chosen, rejected)]
    good, bad = map(chat.check_messages, conversations)
    if good == bad:
        raise DataError("chosen and rejected are the same; there is nothing to prefer", "nothing to prefer")
    length = len(good) - len(chosen)
    if prompt is None:  # as TRL's extract_prompt: the turns that both begin with
        length = next((i for i, (a, b) in enumerate(zip(good, bad, strict=False)) if a != b), min(len(good), len(bad)))
    if not 0 < length < min(len(good), len(bad)):
        raise DataError("the pair has no prompt, or no answer after it", "no prompt")
    _encodable(good + bad)
    return {"prompt": good[:length], "chosen": good[length:], "rejected": bad[length:]}


def _encodable(turns: list[dict]) -> None:
    try:
        "".join(turn["content"] for turn in turns).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{error.object[error.start]!a} is half a character", "half a character") from None


def from_messages(row: dict, shape: str) -> dict:
    """The row in another shape: its columns there, and the row's own other columns (`id`, `task`, ...) unchanged.

    OpenAI's shapes get the keys of OpenAI's format alone. A multi-turn conversation as prompt/completion trains its
    last answer only, while `messages` train them all.

    Args:
        row: as `normal_form` returns it, with any other columns.
        shape: one of `CONVERSATIONS`, or for a pair one of `PAIRS`.

    Raises:
        DataError: the shape cannot hold this row whole.
        ParameterError: there is no such shape.
    """
    _check_shape(shape)
    if ("messages" in row) != (shape in CONVERSATIONS):
        kind = "a conversation has no second answer" if shape in PAIRS else "a pair has an answer too many"
        raise DataError(f"{kind} for {shape}", kind)
    columns = _write_conversation(row["messages"], shape) if shape in CONVERSATIONS else _write_pair(row, shape)
    if shape.startswith("openai"):
        return columns
    return {name: value for name, value in row.items() if name not in _RESERVED} | columns


def _check_shape(shape: str) -> None:
    if shape not in CONVERSATIONS + PAIRS:
        raise ParameterError(f"shape={shape!r} is not one of {', '.join(CONVERSATIONS + PAIRS)}.")


def _refuse_unless(holds: bool, shape: str, what: str) -> None:
    if not holds:
        raise DataError(f"{shape} cannot hold {what}", what)


def _write_conversation(messages: list[dict], shape: str) -> dict:
    roles = [turn["role"] for turn in messages]
    if shape == "openai":
        _refuse_unless("tool" not in roles, shape, "a tool turn without the id of its call")
        return {"messages": messages}
    _refuse_unless(not any("weight" in turn for turn in messages), shape, "an answer of weight 0")
    if shape == "messages":
        return {"messages": messages}
    if shape == "sharegpt":
        return {"conversations": [{"from": _FROM[turn["role"]], "value": turn["content"]} for turn in messages]}
    if shape == "prompt/completion":
        return {"prompt": messages[:-1], "completion": messages[-1:]}
    if shape == "prompt/completion plain":
        _refuse_unless(roles == ["user", "assistant"], shape, "more than one question and its answer")
        return {"prompt": messages[0]["content"], "completion": messages[1]["content"]}
    _refuse_unless("tool" not in roles, shape, "a tool turn")
    system = messages[0]["content"] if roles[0] == "system" else ""
    turns = [turn["content"] for turn in messages[bool(system) :]]
    pairs = [list(pair) for pair in zip(turns[::2], turns[1::2], strict=True)]
    *history, (question, answer) = pairs
    return {"instruction": question, "input": "", "output": answer, "system": system, "history": history}


def _write_pair(pair: dict, shape: str) -> dict:
    columns = {name: pair[name] for name in ("prompt", "chosen", "rejected")}
    prompt, chosen, rejected = columns.values()
    if shape == "preference":
        return columns
    if shape == "preference implicit":
        _refuse_unless(chosen[0] != rejected[0], shape, "answers that begin with the same turn")
        return {"chosen": prompt + chosen, "rejected": prompt + rejected}
    _refuse_unless(len(chosen) == len(rejected) == 1, shape, "an answer of several turns")
    if shape == "preference plain":
        _refuse_unless([turn["role"] for turn in prompt] == ["user"], shape, "more than one question")
        return {name: turns[0]["content"] for name, turns in columns.items()}
    _refuse_unless(all(turn["role"] != "tool" for turn in prompt), shape, "a tool turn without the id of its call")
    return {"input": {"messages": prompt}, "preferred_output": chosen, "non_preferred_output": rejected}


def convert(rows, shape: str) -> Converted:
    """Every row in one shape, or refused and counted under the reason.

    Args:
        rows: a `datasets.Dataset` or a list of dicts, each row of any known shape.
        shape: one of `CONVERSATIONS` or `PAIRS`.

    Raises ParameterError: there is no such shape.
    """
    _check_shape(shape)
    kept, reasons, refused_rows, left_out, read = [], Counter(), {}, Counter(), 0
    for read, row in enumerate(rows, 1):
        try:
            turns = normal_form(row)
            kept.append(from_messages(_others(row) | turns, shape))
            left_out.update(name for name in _unmeant(row) if kept[-1].get(name) != row[name])
        except DataError as error:
            refused_rows[read] = str(error)
            reasons[error.reason] += 1
    warning = too_few(len(kept)) if shape.startswith("openai") else ""
    return Converted(shape, kept, read, dict(reasons), refused_rows, warning, dict(left_out))


def _others(row: dict) -> dict:
    return {name: value for name, value in row.items() if name not in _RESERVED}


def _unmeant(row: dict) -> list[str]:
    """The columns that hold something and are no part of the row's turns."""
    columns = {name for name, value in row.items() if value is not None}
    meant = _OPENAI_PAIR if columns >= _OPENAI_PAIR else schemas.meanings(row, schemas.recognise(columns))
    return [name for name, value in row.items() if name not in meant and not chat.is_missing(value)]


def round_trip(rows, shape: str) -> int:
    """Convert every row to `shape`, write it as JSON, read it back and compare; return how many were compared.

    Rows that the shape cannot hold are left out, as `convert` leaves them out.

    Raises DataError: names the first row, from 1, whose turns are not the same afterwards.
    """
    _check_shape(shape)
    compared = 0
    for number, row in enumerate(rows, 1):
        try:
            before = normal_form(row)
            there = from_messages(_others(row) | before, shape)
        except DataError:
            continue
        try:
            after = normal_form(json.loads(_line(there, number)))
        except DataError as error:
            after = str(error)
        if after != before:
            raise DataError(
                f"Row {row.get('id', number)} (number {number}) is not the same after a round trip through {shape}: "
                f"{before!r:.120} became {after!r:.120}."
            )
        compared += 1
    return compared


def compare(rows, pairs: list[dict]):
    """One line a shape: rows, refused, identical after a round trip; as a `pandas.DataFrame`.

    Args:
        rows: conversations, for `CONVERSATIONS`.
        pairs: pairs of answers, for `PAIRS`.
    """
    import pandas as pd

    lines = {}
    for shape in (*CONVERSATIONS, *PAIRS):
        given = pairs if shape in PAIRS else rows
        done = convert(given, shape)
        lines[shape] = {"rows": len(done.rows), "refused": sum(done.refused.values())}
        lines[shape]["identical after a round trip"] = round_trip(given, shape)
    return pd.DataFrame(lines).T


def mismatched_pairs(conversations: list[list[dict]]) -> list[dict]:
    """Pairs to try conversions on: each question with its own answer chosen and that of the next one rejected."""
    return [
        {"prompt": own[:-1], "chosen": own[-1:], "rejected": other[-1:]}
        for own, other in itertools.pairwise(conversations)
        if own[-1] != other[-1]
    ]


def _line(row: dict, number: int) -> str:
    try:
        return json.dumps(row, allow_nan=False) + "\n"  # ASCII: no reader can cut at U+2028 or guess an encoding
    except (TypeError, ValueError) as error:
        raise DataError(f"Row {number} cannot be written as JSON: {error}. Remove or convert that column.") from None


def write_jsonl(rows, path: str | Path) -> int:
    """Write rows one JSON object a line, in one step: a reader sees the old file or the whole new one.

    Returns the number of rows. Raises DataError: a row holds what JSON cannot (NaN, a date, bytes); names its number.
    """
    number = 0
    with replaced(path) as file:
        for number, row in enumerate(rows, 1):
            file.write(_line(row, number))
    return number


def too_few(count: int) -> str:
    if count >= OPENAI_MINIMUM:
        return ""
    return f"{count} examples; OpenAI takes a training file of at least {OPENAI_MINIMUM}."
