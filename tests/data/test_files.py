"""Local files read row by row. Malformed files: test_malformed.py."""

import csv
import gzip
import itertools
import json
import re
import subprocess

import pytest

from nbhelpers.core.errors import DataError
from nbhelpers.data import files

ROWS = [{"prompt": "What?", "completion": "That."}, {"prompt": 'Näher, "dran"?', "completion": "a,b\nc"}]


def write(path, rows):
    import pandas as pd

    if path.suffix in (".jsonl", ".ndjson"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        frame = pd.DataFrame(rows)
        tabs = {"sep": "\t"} if path.suffix == ".tsv" else {}
        frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False, **tabs)
    return path


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_every_kind_of_file_gives_the_same_rows_whole_and_one_by_one(tmp_path, suffix):
    path = write(tmp_path / f"rows{suffix}", ROWS)
    assert files.read(path) == list(files.stream(path)) == ROWS
    if suffix != ".parquet":
        packed = path.with_name(f"packed{suffix}.gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert files.read(packed) == ROWS
        packed.write_bytes(packed.read_bytes()[:-10])
        with pytest.raises(DataError, match=r"not a whole gzip file.*unpack it"):
            files.read(packed)


LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.json", LINES),
        ("lines, pretty.json", "\n".join(json.dumps(row, indent=2) for row in ROWS)),
        ("lines with commas.jsonl", LINES.replace("}\n", "},\n")),
        ("list.jsonl", json.dumps(ROWS)),
        ("list, pretty.jsonl", json.dumps(ROWS, indent=1)),
        ("data.json", json.dumps({"data": ROWS})),
        ("columns.json", json.dumps(COLUMNS)),
        ("pandas columns.json", json.dumps({k: {str(i): v for i, v in enumerate(vs)} for k, vs in COLUMNS.items()})),
        ("pandas index.json", json.dumps({str(i): row for i, row in enumerate(ROWS)})),
        ("pandas split.json",
         json.dumps({"columns": [*COLUMNS], "index": [0, 1], "data": [[*row.values()] for row in ROWS]})),
        ("pandas table.json", json.dumps({"schema": {"fields": []}, "data": ROWS})),
        ("excel.csv", '"SEP=;"\nprompt;completion\nWhat?;That.\n"Näher, ""dran""?";"a,b\nc"\n'),
        ("excel.csv", "\ufeffsep=;\r\nprompt;completion\r\nWhat?;That.\r\n\"Näher, \"\"dran\"\"?\";\"a,b\nc\"\r\n"),
        ("tabs.txt.tsv", "prompt\tcompletion\nWhat?\tThat.\n\"Näher, \"\"dran\"\"?\"\t\"a,b\nc\"\n"),
    ],
)  # fmt: skip
def test_what_others_write_is_read_whatever_the_file_is_called(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert files.read(tmp_path / name) == ROWS


def test_text_of_excel_in_utf16_is_read_and_windows_1252_refused_with_a_remedy_that_works(tmp_path):
    text = "prompt\tcompletion\r\nNäher?\tJa.\r\n"
    (tmp_path / "unicode.tsv").write_bytes(text.encode("utf-16"))
    assert files.read(tmp_path / "unicode.tsv") == [{"prompt": "Näher?", "completion": "Ja."}]
    old = tmp_path / "old.csv"
    old.write_bytes(text.replace("\t", ";").encode("windows-1252"))
    with pytest.raises(DataError, match=r"line 2 is not UTF-8.*iconv -f WINDOWS-1252 -t UTF-8") as caught:
        files.read(old)
    command = re.search(r"iconv -f \S+ -t UTF-8", str(caught.value))[0].split()
    old.write_bytes(subprocess.run([*command, str(old)], check=True, capture_output=True).stdout)
    assert files.read(old) == [{"prompt": "Näher?", "completion": "Ja."}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "prompt,completion,completion\nq,good,bad\n", "the column 'completion' twice"),
        ("a.tsv", "prompt\tprompt\nq\tr\n", "the column 'prompt' twice"),
        (
            "a.jsonl",
            '{"prompt": "q", "completion": "a", "prompt": "r"}\n',
            "line 1: .* the key 'prompt' twice",
        ),
        ("a.json", '[{"a": "b"}, {"m": [{"role": "x", "role": "y"}]}]', "row 2: .* the key 'role' twice"),
        ("a.json", '[{"a": "b"},]', r"line 1: bad JSON .*Remove the comma before it"),
        ("a.json", '{"version": 1, "data": [1]}', "Keep the list of the rows alone"),
        ("a.xlsx", "PK", "known are .*Save a spreadsheet as CSV UTF-8"),
    ],
)
def test_what_would_be_lost_or_guessed_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        files.read(tmp_path / name)


def test_a_column_without_a_name_gets_its_number(tmp_path):
    (tmp_path / "index.csv").write_text(",prompt,\n0,q,\n")
    assert files.read(tmp_path / "index.csv") == [{"column 1": "0", "prompt": "q", "column 3": ""}]


def test_a_stream_reads_no_further_than_it_is_asked_to(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\nnot JSON\n')
    stream = files.stream(path)
    assert [row["text"] for row in itertools.islice(stream, 2)] == ["a", "b"]
    with pytest.raises(DataError, match="line 3"):
        next(stream)


def test_a_stream_of_a_missing_or_empty_file_is_refused_before_the_first_row(tmp_path):
    (tmp_path / "empty.csv").touch()
    for name, what in (("none.jsonl", "does not exist"), ("empty.csv", "is empty")):
        with pytest.raises(DataError, match=what):
            files.stream(tmp_path / name)


def test_the_line_that_is_not_utf8_is_named_also_far_into_the_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' * 20_000 + b'{"text": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"line 20001 is not UTF-8"):
        files.read(path)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_separator_of_a_csv_file_is_the_one_of_its_header_line(tmp_path, separator):
    import pandas as pd

    path = tmp_path / "rows.csv"
    rows = [{"prompt": "a;b;c", "completion": "d,e,f\tg", "a, b, c; d": "x"}]
    pd.DataFrame(rows).to_csv(path, index=False, sep=separator, quoting=csv.QUOTE_ALL)
    assert files.read(path) == rows
    path.write_text("text\nplain\n")
    assert files.read(path) == [{"text": "plain"}]


def test_a_csv_cell_of_any_size_is_read_and_the_limit_of_the_process_stays(tmp_path):
    limit = csv.field_size_limit()
    rows = [{"text": "x" * (limit + 1)}, {"text": "y" * 1_000_000}]
    stream = files.stream(write(tmp_path / "rows.csv", rows))
    assert next(stream) == rows[0]
    assert csv.field_size_limit() == limit  # also while the file is half read
    assert list(stream) == rows[1:]
    (tmp_path / "rows.csv").write_text('text\n"open')
    with pytest.raises(DataError, match="Close every quoted cell"):
        files.read(tmp_path / "rows.csv")
    assert csv.field_size_limit() == limit
