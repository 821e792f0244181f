"""The shapes that rows of conversations come in, and what each of them becomes: checked turns `{"role", "content"}`."""

import json
import unicodedata

from nbhelpers.core.errors import DataError


def text_of(row: dict) -> str:
    """The `text` of a row, or the contents of its `messages` with a blank line between turns."""
    return row["text"] if "text" in row else "\n\n".join(turn["content"] for turn in row["messages"])


def fold(messages: list[dict]) -> str:
    """A key for the question of a conversation: its turns before the answer, white space and case folded."""
    return json.dumps([(t["role"], " ".join(t["content"].lower().split())) for t in messages[:-1]])


_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and symbols by category that show nothing
ROLES = ("system", "user", "assistant", "tool")
SHAPES = {
    "messages": {"messages"},
    "sharegpt": {"conversations"},
    "preference": {"chosen", "rejected"},
    "prompt/completion": {"prompt", "completion"},
    "alpaca": {"instruction", "output"},
    "text": {"text"},
}  # shape -> the columns it is recognised by, most specific first
_LOST = ("tool_calls", "function_call", "thinking", "reasoning", "reasoning_content", "images", "videos", "audio")
_LOST_COLUMNS = ("tools", "functions", "images", "videos", "audio")
_MAY_FOLLOW = {  # role -> whose turn may come before it; None: the beginning
    "system": {None},
    "user": {None, "system", "assistant"},
    "assistant": {"user", "tool"},
    "tool": {"assistant", "tool"},
}
_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def is_blank(text: str) -> bool:
    """Whether nothing of a text would be seen: it is empty, white space, control characters, or without width."""
    return all(sign.isspace() or sign in _FILLERS or unicodedata.category(sign) in ("Cc", "Cf") for sign in text)


def known_shape(columns: set[str]) -> str | None:
    """The name of the shape that these columns make, if any."""
    return next((shape for shape, needed in SHAPES.items() if needed <= columns), None)


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


def _turns(prompt, completion) -> list[dict]:
    if isinstance(prompt, list) and isinstance(completion, list):
        return [*prompt, *completion]
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]


def _history(pairs) -> list[dict]:
    """Earlier turns, as LLaMA-Factory writes them: a list of [question, answer]."""
    pairs = pairs or []
    if not isinstance(pairs, list) or any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs):
        raise DataError(f"history is {pairs!r:.60}, expected a list of [question, answer]", "bad history")
    return [turn for question, answer in pairs for turn in _turns(question, answer)]


def refuse_more_than_text(row) -> None:
    """Raises DataError where a row is none, or has tools or images, which plain turns cannot say."""
    if not isinstance(row, dict):
        raise DataError(f"{row!r:.60} is not an object like {{...}}", "not an object")
    if lost := [name for name in _LOST_COLUMNS if row.get(name)]:
        raise DataError(f"the row has {', '.join(lost)}, which plain turns cannot say", ", ".join(lost))


def to_messages(row: dict, shape: str, weights: bool = False) -> list[dict]:
    """The turns of one row of a known shape, checked as `check_messages` does; nothing that is trained is left out.

    A `system` column becomes the first turn, the `history` of a row with one question the turns before it.

    Args:
        weights: as in `check_messages`.

    Raises:
        DataError: says what is wrong with this row; the caller adds which row it is.
    """
    refuse_more_than_text(row)
    if shape == "messages":
        messages = row["messages"]
    elif shape == "sharegpt":
        if not isinstance(row["conversations"], list):
            raise DataError(f"conversations is {type(row['conversations']).__name__}, expected a list of turns")
        messages = [
            turn | {"role": _SHAREGPT_ROLES.get(turn["from"], turn["from"]), "content": turn.get("value")}
            if isinstance(turn, dict) and isinstance(turn.get("from"), str)
            else turn
            for turn in row["conversations"]
        ]
    elif shape == "prompt/completion":
        messages = _history(row.get("history")) + _turns(row["prompt"], row["completion"])
    elif shape == "alpaca":
        for name in ("instruction", "input"):
            if not isinstance(row.get(name), str | None):
                raise DataError(f"{name} is {row[name]!r:.60}, expected text", "content is not text")
        extra = f"\n\n{row['input']}" if row.get("input") else ""
        messages = _turns(f"{row['instruction']}{extra}" if row["instruction"] else None, row["output"])
        messages = _history(row.get("history")) + messages
    else:
        raise DataError(f"{shape} rows hold no question with one answer; supervised tuning needs messages")
    if row.get("system") and isinstance(messages, list):
        messages = [{"role": "system", "content": row["system"]}, *messages]
    return check_messages(messages, weights)


def check_messages(messages, weights: bool = False) -> list[dict]:
    """The same messages, as plain `{"role", "content"}` turns.

    Args:
        weights: keep OpenAI's `weight` 0, an answer not to be trained, as a key of its turn instead of refusing it.

    Raises DataError on the first turn that cannot be used: of no known role, with what a plain turn cannot say (tool
    calls, images, ...), without text, not to be trained, a system turn that is not the first, an answer without a
    question, two turns in a row of the user or of the assistant, no answer at the end, none that is trained.
    """
    if not isinstance(messages, list) or not messages:
        raise DataError(f"messages is {messages!r:.60}, expected a list of turns", "no messages")
    before, out = None, []
    for i, turn in enumerate(messages):
        if not isinstance(turn, dict) or turn.get("role") not in ROLES:
            kind = "unknown role" if isinstance(turn, dict) else "not a turn"
            raise DataError(f"turn {i} is {turn!r:.60}, expected a role of {', '.join(ROLES)}", kind)
        role, content = turn["role"], turn.get("content")
        weight = 0 if turn.get("train") is False else turn.get("weight")  # Axolotl's name for OpenAI's
        if lost := [key for key in _LOST if turn.get(key)]:
            raise DataError(f"turn {i} has {', '.join(lost)}, which a plain turn cannot say", "more than plain turns")
        if not isinstance(content, str) or is_blank(content):
            kind = "empty turn" if content is None or isinstance(content, str) else "content is not text"
            raise DataError(f"turn {i} ({role}) has content {content!r:.60}, expected text", kind)
        if weight not in (None, 0, 1):
            raise DataError(f"turn {i} has weight {weight!r:.60}, expected 0 or 1", "bad weight")
        if weight == 0 and role == "assistant" and not weights:
            raise DataError(
                f"turn {i} has weight 0, while every answer here is trained; remove the row, or the key to train it",
                "an answer of weight 0",
            )
        if role == "system" and i > 0:
            raise DataError(f"turn {i} is a system turn; only the first may be one", "system not first")
        if role == before and role != "tool":
            raise DataError(f"turns {i - 1} and {i} are both the {role}'s; join them", "two turns in a row")
        if before not in _MAY_FOLLOW[role]:
            after = f"the {before}'s" if before else "nothing"
            raise DataError(
                f"turn {i} is the {role}'s, after {after}; a user asks first, and a tool answers the assistant",
                "turns out of order",
            )
        before = role
        out.append({"role": role, "content": content} | ({"weight": 0} if weight == 0 and role == "assistant" else {}))
    if before != "assistant":
        raise DataError(f"the last turn is the {before}'s; there is no answer to learn", "no answer at the end")
    if all("weight" in turn for turn in out if turn["role"] == "assistant"):
        raise DataError("every answer has weight 0; there is none to learn", "no answer to learn")
    return out


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
