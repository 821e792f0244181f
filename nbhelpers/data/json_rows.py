"""Rows of JSON lines and JSON, in whichever of the usual forms."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from nbhelpers.core.errors import DataError
from nbhelpers.data import opened, schemas
from nbhelpers.data.chat import DECODER

_FAULTS = (ValueError, RecursionError)  # a key that comes twice is a DataError, which is a ValueError


def _fault(error: Exception) -> str:
    """What is wrong with a text, without the line number, and what to do."""
    if isinstance(error, DataError):
        return f"{error}. Give one of them another name"
    if isinstance(error, json.JSONDecodeError):
        before = error.doc[: error.pos].rstrip()
        comma = before.endswith(",") and error.doc[error.pos : error.pos + 1] in ("]", "}")
        return f"bad JSON ({error.msg}). {'Remove the comma before it' if comma else 'Mend that line'}"
    return (
        f"bad JSON ({'nested too deeply' if isinstance(error, RecursionError) else 'a number of thousands of digits'})"
    )


def read_lines(path: Path) -> Iterator[dict]:
    """The rows of JSON lines one by one; a list, or objects of several lines each, are read whole."""
    with opened.text(path) as file:
        first = next((line for line in file if line.strip()), "").lstrip()
    if first.startswith("[") or first.rstrip() == "{":  # a list, or objects of several lines, in spite of the name
        yield from read(path)
        return
    with opened.text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = DECODER.decode(line.strip().removesuffix(","))
            except _FAULTS as error:
                raise DataError(f"{path}, line {number}: {_fault(error)}. Each line must be one object.") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: {row!r:.60} is not an object like {{...}}.")
            yield row


_GAP = re.compile(r"[\s,]*")


def _objects(text: str, start: int) -> list:
    """The values that follow one another in a text, as JSON lines have them; raises as a decoder does."""
    out, place = [], _GAP.match(text, start).end()
    while place < len(text):
        value, place = DECODER.raw_decode(text, place)
        out.append(value)
        place = _GAP.match(text, place).end()
    return out


def _place(text: str, error: Exception) -> str:
    """`, line N` of what cannot be read, or `, row N` of a list where the error does not say the line."""
    if isinstance(error, json.JSONDecodeError):
        return f", line {error.lineno}"
    number, place = 0, re.match(r"\s*\[?\s*", text).end()
    while place < len(text) and text[place] != "]":
        number += 1
        try:
            _, place = DECODER.raw_decode(text, place)
        except _FAULTS:
            return f", row {number}"
        place = _GAP.match(text, place).end()
    return ""


def read(path: Path) -> list[dict]:
    """The rows of a JSON file: see `_rows_of`; JSON lines in spite of its name are read too."""
    with opened.text(path) as file:
        text = file.read()
    try:
        start = len(text) - len(text.lstrip())
        content, end = DECODER.raw_decode(text, start) if text.strip() else ([], len(text))
        if text[end:].strip():  # more than one value: JSON lines in spite of its name
            content = [content, *_objects(text, end)]
    except _FAULTS as error:
        raise DataError(f"{path}{_place(text, error)}: {_fault(error)}.") from None
    rows = _rows_of(content)
    if rows is None:
        raise DataError(
            f"{path} holds {content!r:.60}, expected a list of objects, one object a line, or a table that pandas "
            "wrote. Keep the list of the rows alone."
        )
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: {row!r:.60} is not an object like {{...}}.")
    return rows


def _rows_of(content) -> list | None:
    """Rows of a JSON value: a list, a list under the only key, a row, or a table as `DataFrame.to_json` writes it."""
    if isinstance(content, list):
        return content
    if not isinstance(content, dict) or not content:
        return None
    if content.keys() == {"schema", "data"}:  # orient="table"
        return content["data"]
    values = list(content.values())
    if len(values) > 1 and any(isinstance(value, list) and value and isinstance(value[0], dict) for value in values):
        if schemas.known_shape(set(content)):
            return [content]  # a row of turns
        return None
    if content.keys() == {"columns", "index", "data"}:  # orient="split"
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    if len(values) == 1 and isinstance(values[0], list) and all(isinstance(row, dict) for row in values[0]):
        return values[0]
    if all(isinstance(value, dict) for value in values):
        if all(key.isdigit() for key in content) or schemas.known_shape(set(values[0])):  # orient="index"
            return values
        keys = values[0].keys()
        if all(value.keys() == keys for value in values):  # orient="columns"
            return [{column: cells[key] for column, cells in content.items()} for key in keys]
    if all(isinstance(value, list) and len(value) == len(values[0]) for value in values):
        return [dict(zip(content, row, strict=True)) for row in zip(*values, strict=True)]
    if any(isinstance(value, str) for value in values):
        return [content]  # one line of JSON lines
    return None
