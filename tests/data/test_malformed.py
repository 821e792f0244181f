"""Malformed files: each raises one DataError that names the place, or loads with every row counted."""

import csv
import datetime
import decimal
import io
import json
import random
import re

import pyarrow
import pyarrow.parquet
import pytest

from nbhelpers.core.errors import DataError
from nbhelpers.data import files, sources

FILES, QUICK = 1_000, 200  # all of them take minutes
REFUSED, LOADS, EITHER = "refused", "loads", "either"


def question(i: int, shape: str = "prompt/completion") -> dict:
    """A good row."""
    asked, answered = f"question {i}, «why»?", f"answer {i} 日本\nand more"
    if shape == "messages":
        return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]}
    if shape == "sharegpt":
        return {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answered}]}
    if shape == "alpaca":
        return {"instruction": asked, "input": "", "output": answered}
    return {"prompt": asked, "completion": answered}


SHAPES = ("prompt/completion", "messages", "sharegpt", "alpaca")


def good(rng: random.Random, *shapes: str) -> list[dict]:
    shape = rng.choice(shapes or SHAPES)
    return [question(i, shape) for i in range(rng.randint(3, 12))]


def jsonl(rows: list, **options) -> bytes:
    return "".join(json.dumps(row, **options) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def either_json(rng: random.Random, rows: list) -> tuple[str, bytes]:
    return rng.choice([(".jsonl", jsonl(rows)), (".json", json.dumps(rows, indent=rng.choice([None, 1])).encode())])


def as_csv(rows: list[dict]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def parquet(table: pyarrow.Table | list[dict], **options) -> bytes:
    out = pyarrow.BufferOutputStream()
    table = pyarrow.Table.from_pylist(table) if isinstance(table, list) else table
    pyarrow.parquet.write_table(table, out, **options)
    return out.getvalue().to_pybytes()


# --- the kinds: each takes a random.Random and returns (suffix, content, outcome, the row or line at fault) ---------


def bad_utf8(rng):
    suffix, content = rng.choice([(".jsonl", jsonl(good(rng), ensure_ascii=False)),
                                  (".csv", as_csv(good(rng, "alpaca", "prompt/completion")).encode())])  # fmt: skip
    place = rng.randrange(len(content))
    damage = rng.choice([b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xe9", b"\xf8\x88\x80\x80\x80"])
    return suffix, content[:place] + damage + content[place:], REFUSED, "any"


def utf16(rng):
    suffix, content = rng.choice([(".jsonl", jsonl(good(rng))), (".csv", as_csv(good(rng, "alpaca")).encode()),
                                  (".json", json.dumps(good(rng)).encode())])  # fmt: skip
    encoding = rng.choice(["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    return suffix, content.decode().encode(encoding), LOADS if encoding == "utf-16" else REFUSED, "any"


def truncated_json(rng):
    rows = good(rng)
    suffix, content = either_json(rng, rows)
    content = content.rstrip()[: -rng.randint(1, len(json.dumps(rows[-1])) - 1)]
    return suffix, content, REFUSED, len(rows) if suffix == ".jsonl" else "any"


def null_anywhere(rng):
    rows = good(rng)
    at = rng.randrange(len(rows))
    places = [([key], rows[at]) for key in rows[at] if key != "input"]
    for key in ("messages", "conversations"):
        for i, turn in enumerate(rows[at].get(key, [])):
            places += [([i], rows[at][key]), *(([name], turn) for name in turn)]
    (key,), holder = rng.choice(places)
    holder[key] = None
    return *either_json(rng, rows), REFUSED, at + 1


def null_row(rng):
    rows = good(rng)
    at = rng.randrange(len(rows))
    rows[at] = rng.choice([None, True, 7, 1.5, "text", [], [1, 2], [rows[at]]])
    return *either_json(rng, rows), REFUSED, at + 1


def not_a_number(rng):
    rows = good(rng, "prompt/completion", "alpaca")
    at = rng.randrange(len(rows))
    rows[at][list(rows[at])[-1]] = rng.choice([float("nan"), float("inf"), -float("inf")])
    return *either_json(rng, rows), REFUSED, at + 1


def wrong_type(rng):
    rows = good(rng)
    at = rng.randrange(len(rows))
    key = rng.choice(list(rows[at]))
    wrong = [3, 2.5, True, ["a"], {"a": 1}, [["a"]], {"role": "user"}, [None], "words"]
    value = rows[at][key] = rng.choice(wrong if isinstance(rows[at][key], list) else wrong[:-1])
    simple = isinstance(value, int | float) or value == ["a"]  # a number is a text, and of several answers the first is
    return *either_json(rng, rows), EITHER if simple or key == "input" else REFUSED, at + 1


def wrong_turn(rng):
    rows = good(rng, "messages", "sharegpt")
    at = rng.randrange(len(rows))
    (turns,) = rows[at].values()
    turn = rng.choice(turns)
    wrong = [3, ["user"], {"a": 1}, "", " \n", False, ["text"], [{"type": "image", "image": "a.png"}]]
    key, value = rng.choice(list(turn)), rng.choice(wrong)
    turn[key] = value
    texts = key in ("content", "value") and value in (["user"], ["text"])  # a list of texts is a content of parts
    return *either_json(rng, rows), LOADS if texts else REFUSED, at + 1


def wrong_nesting(rng):
    rows = good(rng, "messages", "sharegpt")
    at = rng.randrange(len(rows))
    (key,) = rows[at]
    turns = rows[at][key]
    rows[at][key] = rng.choice([[turns], {"0": turns}, turns[0], [], {}, {key: turns}, [[t] for t in turns], turns[:1]])
    return *either_json(rng, rows), REFUSED, at + 1


def messages_as_text(rng):
    rows = good(rng, "messages", "sharegpt")
    at = rng.randrange(len(rows))
    (key,) = rows[at]
    written = json.dumps(rows[at][key])
    rows[at][key], expected = rng.choice([(written, LOADS), (repr(rows[at][key]), LOADS), (written[:-1], REFUSED)])
    return *either_json(rng, rows), expected, at + 1


def huge_row(rng):
    rows = good(rng)
    at = rng.randrange(len(rows))
    huge = rng.choice(["x", "word ", "日本 ", "\n"]) * 1_000_000
    huge = "start " + huge[:5_000_000]
    if rng.random() < 0.5:
        rows[at] = {"unknown": huge, huge[:3_000_000]: 1}
        return *either_json(rng, rows), REFUSED, "any"
    rows[at] = {key: huge if isinstance(value, str) else value for key, value in rows[at].items()}
    return *either_json(rng, rows), LOADS, None


def huge_cell(rng):
    rows = good(rng, "prompt/completion")
    at = rng.randrange(1, len(rows))
    rows[at]["completion"] = "x " * rng.randint(70_000, 2_500_000)
    return ".csv", as_csv(rows).encode(), LOADS, None


def deep_nesting(rng):
    rows = good(rng, "prompt/completion")
    at = rng.randrange(len(rows))
    depth = rng.choice([50, 300, 800, 1_200, 3_000, 20_000, 100_000])
    opening, closing = rng.choice([("[", "]"), ('{"a":', "}")])
    value = opening * depth + "1" + closing * depth
    lines = [json.dumps(row) for row in rows]
    field = rng.choice(["completion", "prompt", "extra"])
    lines[at] = json.dumps(rows[at] | {field: "VALUE"}).replace('"VALUE"', value)
    suffix, deep = rng.choice([(".jsonl", "\n".join(lines)), (".json", "[" + ",\n".join(lines) + "]")])
    return suffix, deep.encode(), EITHER if field == "extra" else REFUSED, at + 1


def empty_object(rng):
    rows = good(rng)
    at = rng.randrange(len(rows))
    rows[at] = {}
    return *either_json(rng, rows), REFUSED, at + 1


def duplicate_keys(rng):
    rows = good(rng, "prompt/completion")
    text = "".join(json.dumps(row)[:-1] + ', "prompt": "again"}\n' for row in rows)
    return ".jsonl", text.encode(), REFUSED, None  # one question is left


def missing_column(rng):
    rows = good(rng)
    at = rng.randrange(1, len(rows))
    rows[at].pop(rng.choice([key for key in rows[at] if key != "input"]))
    rows[at]["other"] = "x"
    return *either_json(rng, rows), REFUSED, at + 1


def extra_columns(rng):
    extras = [None, 3, [1, {"a": None}], {"b": [[]]}, "\x00", "x" * 1_000, -0.0, 10**30]
    rows = [row | {f"extra {rng.random()}": rng.choice(extras), "": 1, "id": rng.choice(extras)} for row in good(rng)]
    rows[0]["task"] = rng.choice([None, 3, ["a"], {"a": 1}, "\ud800", "task\x00"])
    outcome = (REFUSED, 1) if rows[0]["task"] == "\ud800" else (LOADS, None)
    return *either_json(rng, rows), *outcome


def mixed_shapes(rng):
    first, second = rng.sample(SHAPES, 2)
    rows = [question(i, first) for i in range(rng.randint(1, 4))]
    at = len(rows)
    rows += [question(i + 50, second) for i in range(rng.randint(1, 4))]
    return *either_json(rng, rows), REFUSED, at + 1


def unclosed_quote(rng):
    rows = good(rng, "prompt/completion", "alpaca")
    at = rng.randrange(len(rows))
    rows[at] = dict.fromkeys(rows[at], "plain")
    text = as_csv(rows)
    cut = text.index("plain")
    return ".csv", (text[:cut] + '"' + text[cut:].replace('"', "")).encode(), REFUSED, "any"


def wrong_column_count(rng):
    rows = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(rng.randint(2, 9))]
    lines = as_csv(rows).splitlines()
    at = rng.randrange(1, len(lines))
    lines[at] = rng.choice([lines[at] + ",more", lines[at].split(",")[0], lines[at] + ",,,", "a,b,c,d"])
    return ".csv", "\n".join(lines).encode(), REFUSED, at + 1


def wrong_header(rng):
    rows = good(rng, "prompt/completion")
    _, _, body = as_csv(rows).partition("\n")
    header = rng.choice(
        ["", "prompt", "prompt;completion", "Prompt,Completion", "a,b", ",", "prompt,prompt", '"prompt,"']
    )
    return ".csv", f"{header}\n{body}".encode(), LOADS if header == "Prompt,Completion" else REFUSED, "any"


def nul_bytes(rng):
    suffix, content = rng.choice([(".jsonl", jsonl(good(rng))), (".csv", as_csv(good(rng, "alpaca")).encode()),
                                  (".json", json.dumps(good(rng)).encode())])  # fmt: skip
    place = rng.randrange(len(content))
    return suffix, content[:place] + b"\x00" * rng.randint(1, 9) + content[place:], EITHER, None


def lone_surrogates(rng):
    rows = good(rng, "prompt/completion", "alpaca")
    at = rng.randrange(len(rows))
    key = rng.choice([key for key in rows[at] if key != "input"])
    rows[at][key] += rng.choice(["\ud800", "\udfff", "\udc80 x"])
    return *either_json(rng, rows), REFUSED, at + 1


def surrogate_key(rng):
    rows = [{"pro\ud800mpt": "a", "completion": "b"} for _ in range(rng.randint(2, 5))]
    return *either_json(rng, rows), REFUSED, 1


def line_ends(rng):
    end = rng.choice(["\r", "\r\n", "\n\r", "\n\n", "\n \t\n", "\r\r\n"])
    if rng.random() < 0.5:
        return ".jsonl", (end * rng.randint(0, 2) + jsonl(good(rng)).decode().replace("\n", end)).encode(), LOADS, None
    rows = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(rng.randint(2, 9))]
    return ".csv", as_csv(rows).replace("\n", end).encode(), EITHER if " " in end else LOADS, None


def byte_order_marks(rng):
    suffix, content = rng.choice([(".jsonl", jsonl(good(rng))), (".csv", as_csv(good(rng, "alpaca")).encode()),
                                  (".json", json.dumps(good(rng)).encode())])  # fmt: skip
    marks = rng.randint(1, 2)
    return suffix, b"\xef\xbb\xbf" * marks + content, LOADS if marks == 1 else REFUSED, "any"


def concatenated(rng):
    """Two files with a byte order mark each, one behind the other."""
    rows = good(rng)
    return ".jsonl", 2 * (b"\xef\xbb\xbf" + jsonl(rows)), REFUSED, len(rows) + 1


def scalar(rng):
    content = rng.choice(["null", "true", "7", "1e999", '"text"', "NaN", "{}", "[]", '{"messages": []}', "9" * 5_000])
    return rng.choice([".json", ".jsonl"]), content.encode(), REFUSED, None


def endless_number(rng):
    rows = good(rng)
    at = rng.randrange(len(rows))
    lines = [json.dumps(row) for row in rows]
    lines[at] = lines[at][:-1] + ', "extra": ' + "9" * rng.choice([5_000, 100_000]) + "}"
    suffix, text = rng.choice([(".jsonl", "\n".join(lines)), (".json", "[" + " ,\n".join(lines) + "]")])
    return suffix, text.encode(), REFUSED, at + 1


def one_line_of_rubbish(rng):
    rows = jsonl(good(rng)).decode().splitlines()
    at = rng.randrange(len(rows) + 1)
    rows.insert(
        at, rng.choice(["<html>", "{'prompt': 'a'}", "{prompt: 1}", "// note", "}", "nil", '{"a": 1} {"b": 2}', "\x01"])
    )
    return ".jsonl", "\n".join(rows).encode(), REFUSED, at + 1


def random_bytes(rng):
    return rng.choice(files.SUFFIXES), rng.randbytes(rng.randint(1, 3_000)), REFUSED, None


def wrong_suffix(rng):
    rows = good(rng, "prompt/completion")
    contents = {".jsonl": jsonl(rows), ".json": json.dumps(rows).encode(), ".csv": as_csv(rows).encode(),
                ".parquet": parquet(rows)}  # fmt: skip
    suffix, other = rng.sample(list(contents), 2)
    json_both = {suffix, other} == {".json", ".jsonl"}  # a list and lines are told apart by what stands in them
    return suffix, contents[other], LOADS if json_both else REFUSED, None


def truncated_parquet(rng):
    content = parquet(good(rng))
    return ".parquet", content[: rng.randrange(1, len(content))], REFUSED, None


def damaged_parquet(rng):
    content = bytearray(parquet([question(i) for i in range(200)], compression=rng.choice(["none", "snappy", "zstd"])))
    for _ in range(rng.choice([1, 3, 20])):
        place = rng.randrange(len(content))
        content[place : place + 8] = rng.randbytes(len(content[place : place + 8]))
    return ".parquet", bytes(content), EITHER, None


def odd_parquet(rng):
    """Columns of types that no training text has."""
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    kinds = {
        "binary": pyarrow.array([b"a", b"\xff"]),
        "list": pyarrow.array([["a"], ["b", None]]),
        "map": pyarrow.array([[("role", "user")], []], pyarrow.map_(pyarrow.string(), pyarrow.string())),
        "timestamp": pyarrow.array([now, now]),
        "far timestamp": pyarrow.array([2**62, -(2**62)], pyarrow.timestamp("ms")),
        "nanoseconds": pyarrow.array([1, 2**62 + 1], pyarrow.timestamp("ns")),
        "no such zone": pyarrow.array([1, 2], pyarrow.timestamp("us", "Nowhere/Land")),
        "duration": pyarrow.array([1, 2**62 + 1], pyarrow.duration("ns")),
        "date": pyarrow.array([2**30, 0], pyarrow.date32()),
        "time": pyarrow.array([1, 86_399_999_999_999], pyarrow.time64("ns")),
        "decimal": pyarrow.array([decimal.Decimal("1.5"), None]),
        "null": pyarrow.nulls(2),
        "struct": pyarrow.array([{"role": "user", "content": "a"}, None]),
        "dictionary": pyarrow.array(["a", "b"]).dictionary_encode(),
        "half": pyarrow.array([1.0, 2.0], pyarrow.float16()),
        "bad utf-8": pyarrow.Array.from_buffers(pyarrow.string(), 2, pyarrow.array([b"a", b"\xff"]).buffers()),
    }
    odd = kinds[kind := rng.choice(list(kinds))]
    columns = {"prompt": pyarrow.array(["a", "b"]), "completion": pyarrow.array(["c", "d"])}
    place = rng.choice(["prompt", "completion", "extra", "messages"])
    content = parquet(pyarrow.table(columns | {place: odd}))
    return ".parquet", content, LOADS if kind == "dictionary" and place != "messages" else EITHER, None


def no_columns_or_rows(rng):
    empty = [pyarrow.table({"prompt": pyarrow.array([], pyarrow.string())}), pyarrow.table({}),
             pyarrow.table([["a"], ["b"], ["c"]], names=["prompt", "completion", "prompt"]),
             pyarrow.table({"": ["a", "b"]})]  # fmt: skip
    return ".parquet", parquet(rng.choice(empty)), REFUSED, None


KINDS = [
    bad_utf8, utf16, truncated_json, null_anywhere, null_row, not_a_number, wrong_type, wrong_turn, wrong_nesting,
    messages_as_text, huge_row, huge_cell, deep_nesting, empty_object, duplicate_keys, missing_column, extra_columns,
    mixed_shapes, unclosed_quote, wrong_column_count, wrong_header, nul_bytes, lone_surrogates, surrogate_key,
    line_ends, byte_order_marks, concatenated, scalar, endless_number, one_line_of_rubbish, random_bytes, wrong_suffix,
    truncated_parquet, damaged_parquet, odd_parquet, no_columns_or_rows,
]  # fmt: skip
BIG = {huge_row: 6, huge_cell: 6}  # files of megabytes: at most so many of them


def how_many(kind, files: int) -> int:
    """Of `files` in all: each kind has its share, at least two."""
    big = {kind: max(2, most * files // FILES) for kind, most in BIG.items()}
    rest = [other for other in KINDS if other not in big]
    share, more = divmod(files - sum(big.values()), len(rest))
    return big.get(kind, share + (kind in rest[:more]))


@pytest.mark.parametrize("files", [QUICK, FILES])
def test_there_are_as_many_files_of_more_than_twenty_kinds(files):
    counts = [how_many(kind, files) for kind in KINDS]
    assert sum(counts) == files
    assert min(counts) >= 2
    assert len(KINDS) > 20


@pytest.mark.parametrize("files", [QUICK, pytest.param(FILES, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_malformed_file_is_refused_with_its_place_or_loads_with_every_row_counted(kind, files, tmp_path):
    for seed in range(how_many(kind, files)):
        suffix, content, outcome, place = kind(random.Random(f"{kind.__name__} {seed}"))
        path = tmp_path / f"{seed}{suffix}"
        path.write_bytes(content)
        case = f"{kind.__name__}, seed {seed}"
        try:
            source = sources.load(str(path))
        except DataError as error:
            message = str(error)
            assert outcome != LOADS, f"{case}: {message}"
            assert message.startswith(str(path)), f"{case}: {message}"
            assert len(message) < len(str(path)) + 600, f"{case}: {message[:1_000]}"
            assert message.encode(), case  # half a character in it could not be printed
            assert "Traceback" not in message, case
            if place:
                number = r"\d+" if place == "any" else place
                assert re.search(rf"\b(row|line)( from line)? {number}\b", message), f"{case}: {message}"
        except Exception as error:  # any other kind is a defect
            pytest.fail(f"{case}: {type(error).__name__}: {str(error)[:300]}")
        else:
            assert outcome != REFUSED, f"{case}: loaded {source}"
            assert source.read == len(source.train) + len(source.test) + sum(source.dropped.values()) > 0, case
        path.unlink()
