"""Rows of local files, .jsonl, .json, .csv and .parquet, whole or one by one; every fault names its line or row."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

from nbhelpers.core.errors import DataError
from nbhelpers.data import schemas

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


def read(path: Path) -> list[dict]:
    """All rows of a file, as they are. Raises DataError as `stream`."""
    return list(stream(path))


def stream(path: Path) -> Iterator[dict]:
    """The rows of a file one by one, as they are; .jsonl and .csv are never in memory as a whole.

    Raises DataError, the first part of these before the first row is asked for: the file is missing, empty or of
    another kind; it is not UTF-8 or has a bad line (named).
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist or is not a file. Give a path to a {', '.join(SUFFIXES)} file.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes). It needs at least two rows, one to train on and one to hold out.")
    reader = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}.get(
        path.suffix.lower()
    )
    if reader is None:
        raise DataError(f"{path} ends in {path.suffix or 'nothing'}; known are {', '.join(SUFFIXES)}.")
    return _told(path, reader)


def _told(path: Path, reader) -> Iterator[dict]:
    """The reader's rows; a file that has none, or is not UTF-8, is a DataError."""
    rows = 0
    try:
        for row in reader(path):
            rows += 1
            yield row
    except UnicodeDecodeError:
        number = next(i for i, line in enumerate(open(path, "rb"), 1) if not _is_utf8(line))  # noqa: SIM115
        raise DataError(f"{path}, line {number} is not UTF-8. Save the file as UTF-8 and try again.") from None
    if not rows:
        raise DataError(f"{path} has no rows. It needs at least two, one to train on and one to hold out.")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _read_jsonl(path: Path) -> Iterator[dict]:
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                what = _json_fault(error)  # without its line number, which is that of this one line
                raise DataError(f"{path}, line {number}: bad JSON ({what}). Each line must be one object.") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: {row!r:.60} is not an object like {{...}}.")
            yield row


def _json_fault(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else "a number of thousands of digits"


def _row_at_fault(text: str) -> str:
    """`, row N` for the first element of a JSON list that Python cannot read, where its error gives no line."""
    number, gap = 0, re.match(r"\s*\[\s*", text)
    while gap:
        number += 1
        try:
            _, end = json.JSONDecoder().raw_decode(text, gap.end())
        except (ValueError, RecursionError):
            return f", row {number}"
        gap = re.compile(r"\s*,\s*").match(text, end)
    return ""


def _read_json(path: Path) -> list[dict]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: bad JSON ({error.msg}). Mend that line.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}{_row_at_fault(text)}: bad JSON ({_json_fault(error)}). Remove that value.") from None
    if not isinstance(content, list):
        raise DataError(f"{path} must hold a list of objects; for one object a line name the file .jsonl.")
    for number, row in enumerate(content, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: {row!r:.60} is not an object like {{...}}.")
    return content


def _next_row(reader: csv.DictReader) -> dict | None:
    """The next row, with cells of any size: the limit is the whole process's, so it is lifted for this row only."""
    limit = csv.field_size_limit(2**31 - 1)  # the most that every platform takes
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(limit)


def _read_csv(path: Path) -> Iterator[dict]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        header = re.sub('"[^"]*"', "", file.readline())
        separator = max(",;\t", key=header.count)  # a comma where there is none
        file.seek(0)
        reader = csv.DictReader(file, strict=True, delimiter=separator)
        try:
            while (row := _next_row(reader)) is not None:
                if None in row or None in row.values():
                    raise DataError(
                        f"{path}, line {reader.line_num}: this row has not the {len(reader.fieldnames)} columns of the "
                        f"header. Quote a cell that holds the separator {separator!r} or a line break."
                    )
                yield row
        except csv.Error as error:
            start = reader.line_num + 1  # it stands at the end of the last good row
            raise DataError(
                f"{path}, row from line {start}: {error}. Close every quoted cell, or use .jsonl."
            ) from None


def _read_parquet(path: Path) -> list[dict]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
        table.validate(full=True)  # text that is not UTF-8, offsets that point nowhere
    except (pyarrow.ArrowException, OSError) as error:
        reason = (str(error) or "nothing in it can be read.").splitlines()[0]
        raise DataError(f"{path} is not a whole parquet file: {reason:.300} Copy it again, or write it anew.") from None
    try:
        return table.to_pylist()
    except (pyarrow.ArrowException, ValueError, OverflowError, LookupError) as error:
        raise DataError(
            f"{path} holds a value that Python has not ({error!s:.200}). Leave its column out, or write it as text."
        ) from None


ALIASES = {  # what others call the columns of a question and its answer
    "question": "prompt", "query": "prompt", "input": "prompt", "source": "prompt", "instruction": "prompt",
    "answer": "completion", "response": "completion", "output": "completion", "target": "completion",
    "reply": "completion", "conversation": "messages", "dialogue": "messages", "content": "text", "document": "text",
}  # fmt: skip


def renamed(rows: list[dict], columns: str = "") -> list[dict]:
    """Rows with their columns called as `shapes.SHAPES` calls them.

    Args:
        columns: pairs `theirs=ours`, parted by commas. Where it is empty and the columns make no known shape, those of
            `ALIASES` are taken, if they give a whole one.

    Raises DataError: `columns` cannot be read, or names a column that the first row has not; two columns of a row
    would have one name.
    """
    if columns:
        pairs = [tuple(map(str.strip, pair.split("="))) for pair in columns.split(",")]
        there = set(rows[0]) if rows and isinstance(rows[0], dict) else set()
        if any(len(pair) != 2 or pair[0] not in there for pair in pairs):
            raise DataError(
                f"columns={columns!r} should read like 'question=prompt, reply=completion'; the columns there are "
                f"{', '.join(map(str, sorted(there)))[:300]}."
            )
        names = dict(pairs)
    elif not rows or schemas.known_shape(set(rows[0])):
        return rows
    else:
        names = {theirs: ours for theirs, ours in ALIASES.items() if theirs in rows[0]}
        if len({names.get(key, key) for key in rows[0]}) < len(rows[0]) or not schemas.known_shape(set(names.values())):
            return rows
    return [_renamed(row, names) for row in rows]


def _renamed(row: dict, names: dict[str, str]) -> dict:
    out = {names.get(key, key): value for key, value in row.items()}
    if len(out) < len(row):
        new = next(ours for ours in names.values() if sum(names.get(key, key) == ours for key in row) > 1)
        both = " and ".join(f"{key!r:.60}" for key in row if names.get(key, key) == new)
        raise DataError(f"The columns {both} would both be called {new!r:.60}. Give one of them another name.")
    return out
