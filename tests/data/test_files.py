"""Local files read row by row, and columns under their usual names. Malformed files: test_malformed.py."""

import csv
import itertools
import json

import pytest

from nbhelpers.core.errors import DataError
from nbhelpers.data import files

ROWS = [{"prompt": "What?", "completion": "That."}, {"prompt": 'Näher, "dran"?', "completion": "a,b\nc"}]


def write(path, rows):
    import pandas as pd

    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        frame = pd.DataFrame(rows)
        frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_every_kind_of_file_gives_the_same_rows_whole_and_one_by_one(tmp_path, suffix):
    path = write(tmp_path / f"rows{suffix}", ROWS)
    assert files.read(path) == list(files.stream(path)) == ROWS


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


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"question", "answer"}, {"prompt", "completion"}),
        ({"instruction", "response", "id"}, {"prompt", "completion", "id"}),
        ({"input", "target"}, {"prompt", "completion"}),
        ({"document", "label"}, {"text", "label"}),
        ({"instruction", "input", "output"}, {"instruction", "input", "output"}),  # Alpaca, known as it is
        ({"question", "input", "answer"}, {"question", "input", "answer"}),  # two that could be the prompt
        ({"headline", "body"}, {"headline", "body"}),
    ],
)
def test_usual_column_names_are_known_where_they_make_one_whole_shape(theirs, ours):
    assert set(files.renamed([dict.fromkeys(theirs, "x")])[0]) == ours


def test_columns_are_renamed_as_told_and_the_rest_stays():
    rows = [{"headline": "h", "body": "b", "year": "1"}]
    assert files.renamed(rows, "headline=prompt, body = completion") == [
        {"prompt": "h", "completion": "b", "year": "1"}
    ]


@pytest.mark.parametrize("columns", ["headline", "title=prompt", "headline=prompt=x", "=prompt", ","])
def test_columns_that_cannot_be_read_or_are_not_there_are_refused_with_those_that_are(columns):
    with pytest.raises(DataError, match="body, headline"):
        files.renamed([{"headline": "h", "body": "b"}], columns)


@pytest.mark.parametrize("columns", ["label=text", "label=new, text=new", "label=text, text=text"])
def test_two_columns_of_one_name_are_refused_and_both_are_named(columns):
    with pytest.raises(DataError, match=r"columns 'text' and 'label' would both be called '(text|new)'"):
        files.renamed([{"text": "t", "label": "l"}], columns)
    if columns == "label=text":
        with pytest.raises(DataError, match="'label' and 'text' would both"):  # also where only a later row has both
            files.renamed([{"label": "l"}, {"label": "l", "text": "t"}], columns)


def test_two_columns_can_change_their_names_about():
    assert files.renamed([{"text": "t", "label": "l"}], "label=text, text=label") == [{"label": "t", "text": "l"}]


def test_a_usual_name_never_takes_the_place_of_a_column_that_is_there():
    rows = [{"question": "q", "prompt": "p", "answer": "a"}]
    assert files.renamed(rows) == rows


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
