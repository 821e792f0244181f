"""The shapes that rows of conversations come in, and what each of them becomes: checked turns `{"role", "content"}`.

Reading, cleaning, conversion and encoding all see a row through `to_messages`. Nothing that a row holds disappears
without a line that says so: a column has one of the `meanings`, or the report of `column_names` calls it "not used".
"""

import json
import math

from nbhelpers.core.errors import DataError
from nbhelpers.data.chat import (
    check_messages,
    is_blank,
    is_missing,
    list_in,
    turn_of,
    turns_in,
    unpacked,
    unused_keys,
    written_in,
)


def text_of(row: dict) -> str:
    """The `text` of a row, or the contents of its `messages` with a blank line between turns."""
    return row["text"] if "text" in row else "\n\n".join(turn["content"] for turn in row["messages"])


def fold(messages: list[dict]) -> str:
    """A key for the question of a conversation: its turns before the answer, white space and case folded."""
    return json.dumps([(t["role"], " ".join(t["content"].lower().split())) for t in messages[:-1]])


SHAPES = {
    "messages": {"messages"},
    "sharegpt": {"conversations"},
    "preference": {"chosen", "rejected"},
    "prompt/completion": {"prompt", "completion"},
    "alpaca": {"instruction", "output"},
    "text": {"text"},
}  # shape -> the columns it is recognised by, most specific first
_LOST_COLUMNS = ("tools", "functions", "images", "videos", "audio")
_NOTHING = ("[]", "{}", "null", "None")  # what a CSV file's cell says where a column is empty
CONTEXTS = (
    *("instruction", "context", "input", "passage", "document", "documents", "paragraph", "article", "background"),
    *("choices", "options"),
)  # columns that belong to the question of a row, in the order in which they follow it
_WORDING = 20  # characters: what is shorter may stand in a question by chance
MEANINGS = dict.fromkeys(CONTEXTS, "question") | {"system": "system turn", "history": "earlier turns"}


def known_shape(columns: set[str]) -> str | None:
    """The name of the shape that these columns make, if any."""
    return next((shape for shape, needed in SHAPES.items() if needed <= columns), None)


def shape_of(rows) -> str | None:
    """The shape of the first row that has one, by the columns that hold something in it; None where none has."""
    for row in rows:
        if isinstance(row, dict) and (shape := known_shape({k for k, v in row.items() if not is_missing(v)})):
            return shape
    return None


def recognise(columns: set[str]) -> str:
    """The name of the shape that these columns make. Raises DataError with the shapes there are."""
    if shape := known_shape(columns):
        return shape
    known = "; ".join(f"{shape}: {', '.join(sorted(needed))}" for shape, needed in SHAPES.items())
    found = ", ".join(sorted(columns)).encode(errors="backslashreplace").decode() or "(none)"
    raise DataError(
        f"The columns {found:.200} make no known shape. Known are {known}. Rename them, or "
        "tell notebook 01 which is which: columns='question=prompt, reply=completion'."
    )


def meanings(row: dict, shape: str) -> dict[str, str]:
    """Column -> what it becomes, of those columns that this row's turns or text are made of."""
    if shape == "text":
        return {"text": "text"}
    if shape in ("messages", "sharegpt"):
        return dict.fromkeys(SHAPES[shape], "turns") | {"system": "system turn"}
    question, answers = {
        "preference": ("prompt", ("chosen", "rejected", "answers", "scores")),
        "prompt/completion": ("prompt", ("completion",)),
        "alpaca": ("instruction", ("output",)),
    }[shape]
    out = {question: "question"} | {name: name if shape == "preference" else "answer" for name in answers}
    if isinstance(unpacked(row.get(question)), list):
        return out | {"system": "system turn"}
    return out | MEANINGS | dict.fromkeys(_lettered(row), "question")


def _lettered(row: dict) -> dict:
    """The choices of a row that has a column for each, called A, B, ...; none where it has not."""
    found = {name: row[name] for name in "ABCDEFGH" if not is_missing(row.get(name))}
    return found if {"A", "B"} <= found.keys() else {}


def _labelled(choices) -> dict[str, str]:
    """Label -> text of the choices of a question.

    They may be a list, an object, two lists named `label` and `text`, or a list of objects with these keys.

    Raises DataError: they are none of these, or two have one label, or there are more texts than labels or fewer.
    """
    choices = written_in(choices)
    labels = texts = None
    if isinstance(choices, dict) and isinstance(choices.get("text"), list) and isinstance(choices.get("label"), list):
        labels, texts = choices["label"], choices["text"]
    elif isinstance(choices, dict):
        choices = {label: text for label, text in choices.items() if text is not None}  # Arrow adds other rows' labels
        labels, texts = list(choices), list(choices.values())
    elif isinstance(choices, list) and all(isinstance(c, dict) and {"label", "text"} <= c.keys() for c in choices):
        labels, texts = ([choice[name] for choice in choices] for name in ("label", "text"))
    elif isinstance(choices, list) and len(choices) <= 26:
        labels, texts = [chr(ord("A") + i) for i in range(len(choices))], choices
    if not texts or not all(isinstance(text, str | int | float) for text in texts):
        raise DataError(f"the choices are {choices!r:.60}, expected a list of texts", "choices are not text")
    labels = list(map(str, labels))
    if len(labels) != len(texts) or len(set(labels)) < len(labels):
        raise DataError(
            f"the choices {choices!r:.60} have {len(labels)} labels for {len(texts)} texts, or a label twice; give "
            "each its own",
            "choices and labels do not fit",
        )
    return {label: str(text) for label, text in zip(labels, texts, strict=True)}


def _choices(row: dict) -> dict[str, str]:
    given = next((row[name] for name in ("choices", "options") if not is_missing(row.get(name))), None)
    return _lettered(row) if given is None or isinstance(written_in(given), str) else _labelled(given)


def as_text(value) -> str | None:
    """A number or truth value as JSON writes it, and text as it is; None for anything else."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, bool | int | float) and math.isfinite(value) else None


def _texts_in(value) -> list[str]:
    """All texts and numbers in a value, in their order; where an object has several keys, each with its own."""
    if isinstance(value, dict):
        named = {key for key, part in value.items() if len(value) > 1 and as_text(part) is not None}
        named -= {"text"} if all(map(is_missing, (value[key] for key in value if key != "text"))) else set()
        return [f"{key}: {text}" if key in named else text for key in value for text in _texts_in(value[key])]
    if isinstance(value, list):
        return [text for part in value for text in _texts_in(part)]
    text = as_text(value)
    return [] if text is None or is_blank(text) else [text]


def _context(row: dict, name: str) -> str:
    """What a column adds to the question, as text; choices as a line each, what is nested as its texts."""
    value = row[name]
    if name in ("choices", "options") and not isinstance(written_in(value), str):
        return "\n".join(f"{label}. {text}" for label, text in _labelled(value).items())
    return "" if value == "<noinput>" else "\n\n".join(_texts_in(value))


def question_turns(row: dict, name: str) -> list[dict]:
    """The turns before the answer: a `system` column, the `history`, and the question in column `name`.

    A question of text takes in the columns of `CONTEXTS` and choices in columns A, B, ..., a blank line between them,
    unless it says the same already. One of turns is taken as it is.

    Raises DataError: the question is neither text nor turns, or the history is no list of [question, answer].
    """
    question = unpacked(row.get(name))
    if isinstance(question, list) and name != "instruction":
        return _with_system(row, turns_in(question))
    if question is not None and as_text(question) is None:
        raise DataError(f"{name} is {question!r:.60}, expected text", "content is not text")
    question = None if question is None else as_text(question)
    history = [] if is_missing(row.get("history")) else list_in(row["history"])
    if not isinstance(history, list) or any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in history):
        raise DataError(f"history is {history!r:.60}, expected a list of [question, answer]", "bad history")
    before = [turn_of(role, text) for pair in history for role, text in zip(("user", "assistant"), pair, strict=True)]
    lettered = "\n".join(f"{label}. {text}" for label, text in _lettered(row).items())
    contexts = [_context(row, other) for other in CONTEXTS if other != name and not is_missing(row.get(other))]
    for text in [*contexts, lettered]:
        if text and (len(text) < _WORDING or text.strip() not in (question or "")):
            question = f"{question}\n\n{text}" if question and not is_blank(question) else text
    return _with_system(row, [*before, turn_of("user", question)])


def _with_system(row: dict, turns: list[dict]) -> list[dict]:
    """The turns with the `system` column before them, unless they begin with the same already."""
    if is_missing(row.get("system")) or (turns and turns[0] == turn_of("system", row["system"])):
        return turns
    if (
        turns
        and isinstance(turns[0], dict)
        and turns[0].get("role") == "system"
        and not is_missing(turns[0]["content"])
    ):
        raise DataError("the column system and the system turn say different things; keep one", "two system prompts")
    return [turn_of("system", row["system"]), *turns]


def refuse_more_than_text(row) -> None:
    """Raises DataError where a row is none, or has tools or images, which plain turns cannot say."""
    if not isinstance(row, dict):
        raise DataError(f"{row!r:.60} is not an object like {{...}}", "not an object")
    if lost := [name for name in _LOST_COLUMNS if not is_missing(row.get(name)) and row[name] not in _NOTHING]:
        raise DataError(f"the row has {', '.join(lost)}, which plain turns cannot say", ", ".join(lost))


def to_messages(row: dict, shape: str, weights: bool = False) -> list[dict]:
    """The turns of one row of a known shape, checked as `check_messages` does; nothing that is trained is left out.

    Which columns become which turn is what `meanings` says. The answer to `choices` may be the number of one of them,
    from 0, where it is not a label itself; it becomes the label.

    Args:
        weights: as in `check_messages`.

    Raises:
        DataError: says what is wrong with this row; the caller adds which row it is.
    """
    refuse_more_than_text(row)
    if shape in ("messages", "sharegpt"):
        (column,) = SHAPES[shape]
        turns = turns_in(list_in(row[column]))
        if not isinstance(turns, list):
            raise DataError(f"{column} is {turns!r:.60}, expected a list of turns", "no messages")
        return check_messages(_with_system(row, turns), weights)
    if shape not in ("prompt/completion", "alpaca"):
        raise DataError(
            f"{shape} rows hold no question with one answer; supervised tuning needs messages, or a column for the "
            "question and one for the answer"
        )
    question, answer = ("prompt", "completion") if shape == "prompt/completion" else ("instruction", "output")
    asked = question_turns(row, question)
    if isinstance(unpacked(row[answer]), list) and isinstance(unpacked(row[question]), list):
        return check_messages(asked + turns_in(row[answer]), weights)
    return check_messages([*asked, turn_of("assistant", _reply(row, answer))], weights)


def _reply(row: dict, name: str):
    """The answer in column `name` as text: of several (as SQuAD has them) the first, of choices its label."""
    reply = row[name]
    if isinstance(reply, dict) and isinstance(reply.get("text"), list):
        reply = reply["text"]
    if isinstance(reply, list) and reply and all(isinstance(text, str) for text in reply):
        reply = reply[0]
    choices = _choices(row)
    if choices and isinstance(reply, float) and reply.is_integer():
        reply = int(reply)  # as pandas writes the numbers of a column with a gap
    text = as_text(reply)
    if choices and text is not None and text not in choices and text not in choices.values() and text.isdigit():
        if int(text) >= len(choices):
            raise DataError(
                f"the answer is choice {text} of {len(choices)}, counted from 0; where yours count from 1, write the "
                f"label ({', '.join(choices)})",
                "no such choice",
            )
        return [*choices][int(text)]
    return reply if text is None else text


def unused_parts(value, meaning: str, name: str = "") -> list[str]:
    """What a column holds beside what its meaning takes: other keys, `[].name` or `.why`; further answers, `[1:]`."""
    if meaning != "answer":
        given = written_in(value) if name in ("choices", "options") else None
        choices = [choice for choice in (given if isinstance(given, list) else [given]) if isinstance(choice, dict)]
        choices = [choice for choice in choices if {"label", "text"} <= choice.keys()]
        held = {str(key) for choice in choices for key, part in choice.items() if not is_missing(part)}
        return [f"[].{key}" for key in (*unused_keys(value), *sorted(held - {"label", "text"}))]
    parts, place = [], ""
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        parts = [f".{key}" for key, other in value.items() if key != "text" and not is_missing(other)]
        value, place = value["text"], ".text"
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        return parts + [f"{place}[1:]"] * (set(value) != {value[0]})
    return parts + [f"[].{key}" for key in unused_keys(value)]


def content_of(row: dict, shape: str) -> dict:
    """`{"text"}` of a row of plain text, `{"messages", "reference"}` of any other: what a row holds to learn from.

    Raises DataError, whose `reason` is the kind of fault in a few words.
    """
    refuse_more_than_text(row)
    lacks = SHAPES[shape] - {key for key, value in row.items() if value is not None}
    if lacks:
        raise DataError(f"lacks {', '.join(sorted(lacks))}", "a column is missing")
    if shape == "text":
        if not isinstance(row["text"], str) or is_blank(row["text"]):
            raise DataError(f"text is {row['text']!r:.60}, expected text", "no text")
        return {"text": row["text"]}
    messages = to_messages(row, shape)
    return {"messages": messages, "reference": messages[-1]["content"]}
