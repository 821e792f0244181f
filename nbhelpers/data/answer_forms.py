"""What the answers of a data set look like, and whether those of one task look alike."""

import json
import re
from collections import Counter

from nbhelpers.data import vocabulary

_NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?([eE][-+]?\d+)?\s?%?")
_LIKE_JSON = re.compile(r"\{.*\}|\[.*\]|[{\[]\s*[\"'{\[].*", re.DOTALL)
_CALL = re.compile(r"[A-Za-z_][\w.]*\((?:[^()]|\([^()]*\))*\)(\s*->\s*[\w.]+(\[.*\])?)?", re.DOTALL)
_CODE = re.compile(
    r"^[ \t]*(```|>>> |(async )?def \w+\(|class \w+.*:$|from [\w.]+ import |import [\w.]+( as \w+)?$|[\w.]+ = \S.*$)",
    re.MULTILINE,
)
_BULLET = re.compile(r"\s*([-*+•]|\d+[.)])\s+\S")


def form(answer: str) -> str:
    """What an answer looks like, by the first rule that fits.

    empty, JSON object, JSON list, number, broken JSON (it begins like an object or list and does not parse), code,
    bullet list, call signature, single word, one line, several lines.
    """
    text = answer.strip()
    if not text:
        return "empty"
    if _NUMBER.fullmatch(text):
        return "number"
    if _LIKE_JSON.fullmatch(text):
        try:
            return "JSON object" if isinstance(json.loads(text), dict) else "JSON list"
        except (ValueError, RecursionError):
            return "broken JSON"
    lines = [line for line in text.splitlines() if line.strip()]
    if _CODE.search(text):
        return "code"
    if len(lines) > 1 and sum(bool(_BULLET.match(line)) for line in lines) > len(lines) / 2:
        return "bullet list"
    if _CALL.fullmatch(text):
        return "call signature"
    if len(lines) > 1:
        return "several lines"
    return "one line" if re.search(r"\s", text) else "single word"


def format_consistency(rows):
    """DataFrame, one line a `task`: the commonest form of its answers, its share, and rows that deviate from it.

    The answer is the last message's content, or the row's `text`; rows without a task are one task `(none)`.
    Columns: task, rows, form (see `form`), share (0 to 1), forms (how many different ones), deviating (up to five ids).
    """
    import pandas as pd

    vocabulary.texts_of(rows)
    found: dict[str, list[tuple[str, str]]] = {}
    for number, row in enumerate(rows, 1):
        answer = row["text"] if "text" in row else row["messages"][-1]["content"]
        task = "(none)" if row.get("task") is None else str(row["task"])
        found.setdefault(task, []).append((form(answer), row.get("id", f"row {number}")))
    table = []
    for task, answers in found.items():
        counts = Counter(name for name, _ in answers)
        commonest, count = counts.most_common(1)[0]
        others = [name for kind, name in answers if kind != commonest][:5]
        table.append((task, len(answers), commonest, count / len(answers), len(counts), others))
    return pd.DataFrame(table, columns=["task", "rows", "form", "share", "forms", "deviating"])
