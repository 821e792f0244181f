"""Rows of local files, whole or one by one, as they are; every fault names its line or row.

Known are JSON lines, JSON, CSV and tables parted by tabs, each also compressed by gzip, and Parquet. The name need not
be exact: JSON lines named .json and a list named .jsonl are read too.
"""

import csv
import gzip
import itertools
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from nbhelpers.core.errors import DataError

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
COMPRESSED = tuple(f"{suffix}.gz" for suffix in SUFFIXES if suffix != ".parquet")


def is_known(path: str | Path) -> bool:
    """Whether the name of a file ends as one that `stream` reads."""
    return str(path).lower().endswith(SUFFIXES + COMPRESSED)


_SIDES = {"train": ("train", "training"), "test": ("test", "validation", "valid", "val", "dev", "eval")}


def sides(folder: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """Side -> its files, by the first word of their names; and the files of further sides, which are not used.

    Raises DataError: the folder has no training file, or none to hold out.
    """
    by_word: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and is_known(path):
            by_word.setdefault(re.split(r"[-_.]", path.name.lower())[0], []).append(path)
    found = {}
    for side, words in _SIDES.items():
        if not (word := next((word for word in words if word in by_word), None)):
            raise DataError(
                f"{folder} has no {side} file. It needs files whose names begin with train and with test or "
                f"validation, of {', '.join(SUFFIXES)}; or name one file, which is then split."
            )
        found[side] = by_word.pop(word)
    unused = [path.name for word in itertools.chain(*_SIDES.values()) for path in by_word.get(word, ())]
    return found, unused


def read(path: Path) -> list[dict]:
    """All rows of a file, as they are. Raises DataError as `stream`."""
    return list(stream(path))


def stream(path: Path) -> Iterator[dict]:
    """The rows of a file one by one, as they are; .jsonl, .csv and .tsv are never in memory as a whole.

    Raises DataError, the first part of these before the first row is asked for: the file is missing, empty or of
    another kind; it is neither UTF-8 nor UTF-16 with its mark, has a bad line (named), or a column or key twice.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist or is not a file. Give a path to a {', '.join(SUFFIXES)} file.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes). It needs at least two rows, one to train on and one to hold out.")
    if not is_known(path):
        raise DataError(
            f"{path} ends in {path.suffix or 'nothing'}; known are {', '.join(SUFFIXES)}, all but .parquet also with "
            ".gz behind. Save a spreadsheet as CSV UTF-8."
        )
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    reader = {".jsonl": _read_jsonl, ".json": _read_json, ".parquet": _read_parquet}.get(suffix, _read_table)
    return _told(path, reader)


def _told(path: Path, reader) -> Iterator[dict]:
    """The reader's rows; a file that has none, or whose bytes are not text, is a DataError."""
    rows = 0
    try:
        for row in reader(path):
            rows += 1
            yield row
    except UnicodeError:
        with _opener(path)(path, "rb") as file:
            number = next((i for i, line in enumerate(file, 1) if not _is_utf8(line)), 1)
        raise DataError(
            f"{path}, line {number} is not UTF-8. Save the file as UTF-8 (Excel: as CSV UTF-8; elsewhere: iconv -f "
            "WINDOWS-1252 -t UTF-8, with the encoding that it has) and try again."
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file ({error}). Copy it again, or unpack it.") from None
    if not rows:
        raise DataError(f"{path} has no rows. It needs at least two, one to train on and one to hold out.")


def _opener(path: Path):
    return gzip.open if path.suffix.lower() == ".gz" else open


def _text(path: Path, newline: str | None = None):
    """The file opened as text: UTF-16 where it begins with its mark, as Excel's Unicode text does, else UTF-8."""
    with _opener(path)(path, "rb") as file:
        marked = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    return _opener(path)(path, "rt", encoding="utf-16" if marked else "utf-8-sig", newline=newline)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


class _RepeatedKey(Exception):
    """An object of JSON has a key twice, of which Python would keep the last."""


def _object(pairs: list[tuple]) -> dict:
    out = dict(pairs)
    if len(out) < len(pairs):
        raise _RepeatedKey(next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1))
    return out


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
_FAULTS = (ValueError, RecursionError, _RepeatedKey)


def _fault(error: Exception) -> str:
    """What is wrong with a text, without the line number, and what to do."""
    if isinstance(error, _RepeatedKey):
        return f"it has the key {str(error)!r:.60} twice. Give one of them another name"
    if isinstance(error, json.JSONDecodeError):
        before = error.doc[: error.pos].rstrip()
        comma = before.endswith(",") and error.doc[error.pos : error.pos + 1] in ("]", "}")
        return f"bad JSON ({error.msg}). {'Remove the comma before it' if comma else 'Mend that line'}"
    return (
        f"bad JSON ({'nested too deeply' if isinstance(error, RecursionError) else 'a number of thousands of digits'})"
    )


def _read_jsonl(path: Path) -> Iterator[dict]:
    with _text(path) as file:
        first = next((line for line in file if line.strip()), "").lstrip()
    if first.startswith("["):  # a list in spite of its name
        yield from _read_json(path)
        return
    with _text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = _DECODER.decode(line.strip().removesuffix(","))
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
        value, place = _DECODER.raw_decode(text, place)
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
            _, place = _DECODER.raw_decode(text, place)
        except _FAULTS:
            return f", row {number}"
        place = _GAP.match(text, place).end()
    return ""


def _read_json(path: Path) -> list[dict]:
    with _text(path) as file:
        text = file.read()
    try:
        start = len(text) - len(text.lstrip())
        content, end = _DECODER.raw_decode(text, start) if text.strip() else ([], len(text))
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
    values = list(content.values())
    if content.keys() == {"columns", "index", "data"}:  # orient="split"
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    if len(values) == 1 and isinstance(values[0], list) and all(isinstance(row, dict) for row in values[0]):
        return values[0]
    if all(isinstance(value, dict) for value in values):
        if all(key.isdigit() for key in content):  # orient="index"
            return values
        keys = values[0].keys()
        if all(value.keys() == keys for value in values):  # orient="columns"
            return [{column: cells[key] for column, cells in content.items()} for key in keys]
    if all(isinstance(value, list) and len(value) == len(values[0]) for value in values):
        return [dict(zip(content, row, strict=True)) for row in zip(*values, strict=True)]
    if any(isinstance(value, str) for value in values):
        return [content]  # one line of JSON lines
    return None


def _next_row(reader: csv.DictReader) -> dict | None:
    """The next row, with cells of any size: the limit is the whole process's, so it is lifted for this row only."""
    limit = csv.field_size_limit(2**31 - 1)  # the most that every platform takes
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(limit)


def _read_table(path: Path) -> Iterator[dict]:
    with _text(path, newline="") as file:
        first = file.readline()
        said = re.fullmatch(r"sep=(.)\s*", first)  # Excel's own line
        header = re.sub('"[^"]*"', "", file.readline() if said else first)
        separator = said[1] if said else max(",;\t", key=header.count)  # a comma where there is none
        file.seek(0)
        if said:
            file.readline()
        reader = csv.DictReader(file, strict=True, delimiter=separator)
        reader.fieldnames = _column_names(path, reader.fieldnames or [])
        try:
            while (row := _next_row(reader)) is not None:
                if None in row or None in row.values():
                    raise DataError(
                        f"{path}, line {reader.line_num + bool(said)}: this row has not the {len(reader.fieldnames)} "
                        f"columns of the header. Quote a cell that holds the separator {separator!r} or a line break."
                    )
                yield row
        except csv.Error as error:
            start = reader.line_num + 1  # it stands at the end of the last good row
            raise DataError(
                f"{path}, row from line {start}: {error}. Close every quoted cell, or use .jsonl."
            ) from None


def _column_names(path: Path, names: list[str]) -> list[str]:
    """The names of a header; a column without one, such as pandas' index, gets its number."""
    names = [name if name.strip() else f"column {number}" for number, name in enumerate(names, 1)]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{path} has the column {twice[0]!r:.60} twice. Give one of them another name.")
    return names


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
