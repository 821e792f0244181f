"""Rows of local files, whole or one by one, as they are; every fault names its line or row.

Known are JSON lines, JSON, CSV and tables parted by tabs, each also compressed by gzip, and Parquet. The name need not
be exact: JSON lines named .json and a list named .jsonl are read too.
"""

import csv
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path

from nbhelpers.core.errors import DataError
from nbhelpers.data import json_rows, opened

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
COMPRESSED = tuple(f"{suffix}.gz" for suffix in SUFFIXES if suffix != ".parquet")


def is_known(path: str | Path) -> bool:
    """Whether the name of a file ends as one that `stream` reads."""
    return str(path).lower().endswith(SUFFIXES + COMPRESSED)


_SIDES = {"train": ("train", "training"), "test": ("test", "validation", "valid", "val", "dev", "eval")}


_PART = re.compile(r"(.*?)(?:[-_. (]*\d[\w() -]*)?(?:\.\w+)+$")  # the name of a file without the number of its part


def sides(folder: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """Side -> its files: `train.csv`, or `train-00000-of-00002.parquet` and further parts; and the files not used.

    Raises DataError: the folder has no training file, or none to hold out, or one side in files of two kinds or names.
    """
    by_word: dict[str, list[Path]] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file() and is_known(path)):
        word = re.match(r"[a-z]+", path.name.lower())
        by_word.setdefault(word[0] if word else path.name, []).append(path)
    found = {}
    for side, words in _SIDES.items():
        if not (word := next((word for word in words if word in by_word), None)):
            raise DataError(
                f"{folder} has no {side} file. It needs files whose names begin with train and with test or "
                f"validation, of {', '.join(SUFFIXES)}; or name one file, which is then split."
            )
        found[side] = by_word.pop(word)
        if len(stems := {_PART.match(path.name.lower())[1] for path in found[side]}) > 1:
            raise DataError(
                f"{folder} has {side} files of several names ({', '.join(sorted(stems))}). Keep one of them."
            )
        if len(kinds := {"".join(path.suffixes) for path in found[side]}) > 1:
            raise DataError(
                f"{folder} has {side} files of several kinds ({', '.join(sorted(kinds))}). Keep one of them."
            )
    return found, sorted(path.name for paths in by_word.values() for path in paths)


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
    lines = dict.fromkeys((".jsonl", ".ndjson"), json_rows.read_lines)
    reader = lines | {".json": json_rows.read, ".parquet": _read_parquet}
    return _told(path, reader.get(suffix, _read_table))


def _told(path: Path, reader) -> Iterator[dict]:
    """The reader's rows; a file that has none, or whose bytes are not text, is a DataError."""
    rows = 0
    try:
        for row in reader(path):
            rows += 1
            yield row
    except UnicodeError:
        if opened.magic(path)[:2] == b"PK":
            raise DataError(f"{path} is a spreadsheet or an archive. Save it as CSV UTF-8, or unpack it.") from None
        with opened.opener(path)(path, "rb") as file:
            number = next((i for i, line in enumerate(file, 1) if not _is_utf8(line)), 1)
        raise DataError(
            f"{path}, line {number} is not UTF-8. Save the file as UTF-8 (Excel: as CSV UTF-8; elsewhere: iconv -f "
            "WINDOWS-1252 -t UTF-8, with the encoding that it has) and try again."
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file ({error}). Copy it again, or unpack it.") from None
    if not rows:
        raise DataError(f"{path} has no rows. It needs at least two, one to train on and one to hold out.")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _next_row(reader: csv.DictReader) -> dict | None:
    """The next row, with cells of any size: the limit is the whole process's, so it is lifted for this row only."""
    limit = csv.field_size_limit(2**31 - 1)  # the most that every platform takes
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(limit)


def _read_table(path: Path) -> Iterator[dict]:
    with opened.text(path, newline="") as file:
        first = next((line for line in iter(file.readline, "") if line.strip()), "")
        said = re.fullmatch(r'"?sep=(.)"?\s*', first, re.I)  # Excel's own line
        header = re.sub('"[^"]*"', "", file.readline() if said else first)
        separator = said[1] if said else max(",;\t", key=header.count)  # a comma where there is none
        if path.name.lower().removesuffix(".gz").endswith(".tsv") and "\t" in header:
            separator = "\t"
        file.seek(0)
        skipped = begin = 0
        while (line := file.readline()) and (not line.strip() or (said and line == first)):
            skipped, begin = skipped + 1, file.tell()
        file.seek(begin)
        reader = csv.DictReader(file, strict=True, delimiter=separator)
        reader.fieldnames = _column_names(f"{path}, line {skipped + 1}", reader.fieldnames or [])
        try:
            while (row := _next_row(reader)) is not None:
                if None in row or None in row.values():
                    raise DataError(
                        f"{path}, line {reader.line_num + skipped}: this row has not the {len(reader.fieldnames)} "
                        f"columns of the header. Quote a cell that holds the separator {separator!r} or a line break."
                    )
                if any(row.values()):  # Excel ends with rows of separators alone
                    yield row
        except csv.Error as error:
            start = reader.line_num + skipped + 1  # it stands at the end of the last good row
            raise DataError(
                f"{path}, row from line {start}: {error}. Close every quoted cell, or use .jsonl."
            ) from None


def _column_names(place: str, names: list[str]) -> list[str]:
    """The names of a header; a column without one, such as pandas' index, gets its number.

    Raises DataError where two columns have one name; `place` says where the header stands.
    """
    names = [name if name.strip() else f"column {number}" for number, name in enumerate(names, 1)]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{place} has the column {twice[0]!r:.60} twice. Give one of them another name.")
    return names


def _plain(value):
    """A date, time or decimal as text, which JSON has not; any other value as it is."""
    return str(value) if isinstance(value, date | time | timedelta | Decimal) else value


def _read_parquet(path: Path) -> list[dict]:
    import pyarrow
    import pyarrow.parquet

    try:
        _column_names(str(path), pyarrow.parquet.read_schema(path).names)
        table = pyarrow.parquet.read_table(path)
        table.validate(full=True)  # text that is not UTF-8, offsets that point nowhere
    except (pyarrow.ArrowException, OSError) as error:
        reason = (str(error) or "nothing in it can be read.").splitlines()[0]
        raise DataError(f"{path} is not a whole parquet file: {reason:.300} Copy it again, or write it anew.") from None
    try:
        return [{name: _plain(value) for name, value in row.items()} for row in table.to_pylist()]
    except (pyarrow.ArrowException, ValueError, OverflowError, LookupError) as error:
        raise DataError(
            f"{path} holds a value that Python has not ({error!s:.200}). Leave its column out, or write it as text."
        ) from None
