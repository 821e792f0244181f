"""The turns of a conversation: read from what others call them, and checked."""

import ast
import io
import json
import re
import tokenize
import unicodedata
from itertools import pairwise

from nbhelpers.core.errors import DataError

_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and symbols by category that show nothing
ROLES = ("system", "user", "assistant", "tool")
_LOST = ("tool_calls", "function_call", "thinking", "reasoning", "reasoning_content", "images", "videos", "audio")
_MAY_FOLLOW = {  # role -> whose turn may come before it; None: the beginning
    "system": {None},
    "user": {None, "system", "assistant"},
    "assistant": {"user", "tool"},
    "tool": {"assistant", "tool"},
}
_ROLE_NAMES = {
    **dict.fromkeys(("user", "human", "prompter", "customer", "question", "patient"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "chatbot", "chatgpt", "model", "ai", "agent", "answer"), "assistant"),
    **dict.fromkeys(("bing", "bard", "claude", "gemini", "llama", "doctor"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "ipython"), "tool"),
}  # what others call a role, its letters alone and small -> ours
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from", "speaker", "author"), ("content", "value", "text", "message")
_OTHER_KEYS = {"weight", "train", *_LOST}


def is_blank(text: str) -> bool:
    """Whether nothing of a text would be seen: it is empty, white space, control characters, or without width."""
    return all(sign.isspace() or sign in _FILLERS or unicodedata.category(sign) in ("Cc", "Cf") for sign in text)


def is_missing(value) -> bool:
    """Whether a cell holds nothing: None, NaN, an empty list or object, or text of which nothing is seen."""
    return value is None or value != value or value in ([], {}) or (isinstance(value, str) and is_blank(value))


def unpacked(value):
    """Turns that a cell holds as text, written as JSON or as Python writes a list; any other value as it is."""
    found = list_in(value)
    return found if found is not value and found and all(map(_is_turn, found)) else value


def list_in(value):
    """The list that a text is, as `written_in` reads it; else the value."""
    found = written_in(value)
    return found if isinstance(found, list) else value


def written_in(value):
    """The list or object that a text is, in JSON or as Python or numpy write it, such as a cell of a CSV file.

    Any other value stays as it is. Raises DataError where an object in it has a key twice, of which Python would keep
    the last.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    for read in (DECODER.decode, _python_value):
        try:
            found = read(value.strip())
        except DataError:
            raise
        except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
            continue
        return found if isinstance(found, list | dict) else value
    return value


def _python_value(text: str):
    """A value as Python writes it, or numpy, which puts no commas: Python would join two texts without one."""
    blank = (tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER)
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in blank]
    parts = [tokens[0].string]
    for before, token in pairwise(tokens):
        ends = before.type != tokenize.OP or before.string in "])}"
        begins = token.type != tokenize.OP or token.string in "[({"
        parts += [",", token.string] if ends and begins else [token.string]
    tree = ast.parse(" ".join(parts), mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            _object([(ast.unparse(key), None) for key in node.keys if key is not None])
    return ast.literal_eval(tree)


def _object(pairs: list[tuple]) -> dict:
    """An object of JSON. Raises DataError where it has a key twice, of which Python would keep the last."""
    out = dict(pairs)
    if len(out) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise DataError(f"an object has the key {twice!r:.60} twice", "a key twice")
    return out


DECODER = json.JSONDecoder(object_pairs_hook=_object)  # of JSON whose objects have each key once


def _is_turn(value) -> bool:
    """Whether an object is surely a turn: `role` and `content`, or ShareGPT's `from` and `value`, of known roles."""
    if not isinstance(value, dict):
        return False
    plain = {str(key).strip().casefold(): x for key, x in value.items()}
    role = plain.get("role", plain.get("from"))
    return role_of(role) in ROLES and ("content" in plain if "role" in plain else "value" in plain)


def role_of(name):
    """Our name of a role, or what was given where there is none."""
    return _ROLE_NAMES.get(re.sub(r"[^a-z]", "", name.casefold()), name) if isinstance(name, str) else name


def _parts(turn: dict) -> tuple:
    """`(key of the role, key of the content)` of a turn: of several the first that holds something; None for none."""
    plain = {str(key).strip().casefold(): key for key in turn}
    found = []
    for names in (_ROLE_KEYS, _CONTENT_KEYS):
        keys = [plain[name] for name in names if name in plain]
        found.append(next((key for key in keys if not is_missing(turn[key])), keys[0] if keys else None))
    return tuple(found)


def plain_turn(turn):
    """A turn with our names of keys and roles, its parts of text joined; what is no turn stays as it is."""
    if not isinstance(turn, dict):
        return turn
    role, content = (turn.get(key) if key is not None else None for key in _parts(turn))
    if isinstance(content, list) and content and all(_is_text_part(part) for part in content):
        content = "".join(part if isinstance(part, str) else part["text"] for part in content)
    return turn | {"role": role_of(role), "content": content}


def _is_text_part(part) -> bool:
    if isinstance(part, str):
        return True
    kinds = ("text", "input_text", "output_text")
    return isinstance(part, dict) and part.get("type", "text") in kinds and isinstance(part.get("text"), str)


def _as_list(value):
    """Turns as a list, where they are text that is one, or an object with a list of roles and one of contents."""
    value = unpacked(value)
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        lengths = {len(column) for column in value.values()}
        if len(lengths) == 1:
            return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    return value


def turns_in(value):
    """The turns of a cell: a list, text that is one, or an object with a list of roles and one of contents."""
    value = _as_list(value)
    return [plain_turn(turn) for turn in value] if isinstance(value, list) else value


def unused_keys(value) -> list[str]:
    """Keys of a list of turns, or of their parts, that hold something and mean nothing here: a name, a time."""
    value = _as_list(value)
    found = set()
    for turn in value if isinstance(value, list) else ():
        if isinstance(turn, dict) and _parts(turn)[0] is not None:
            role, content = _parts(turn)
            others = turn.keys() - {role, content, *_OTHER_KEYS}
            found |= {str(key) for key in others if not is_missing(turn[key])}
            parts = turn.get(content) if isinstance(turn.get(content), list) else ()
            keys = {key for part in parts if isinstance(part, dict) for key in part if not is_missing(part[key])}
            found |= {f"{content}[].{key}" for key in keys - {"type", "text"}}
    return sorted(found)


def turn_of(role: str, content) -> dict:
    """A plain turn."""
    return {"role": role, "content": content}


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
    if isinstance(messages[0], dict) and messages[0].get("role") == "system" and is_missing(messages[0].get("content")):
        messages = messages[1:]  # a template's form for "no system prompt"
    before, out = None, []
    for i, turn in enumerate(messages):
        if not isinstance(turn, dict) or turn.get("role") not in ROLES:
            kind = "unknown role" if isinstance(turn, dict) else "not a turn"
            raise DataError(
                f"turn {i} is {turn!r:.60}, expected a role of {', '.join(ROLES)}, or a usual name of one "
                f"({', '.join(list(_ROLE_NAMES)[1:8])}, ...): rename it",
                kind,
            )
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
