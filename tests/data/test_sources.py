"""Sources: what can be read, what is refused and in which words, and that no split leaks."""

import json
import random
from collections import Counter

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hub import Client, Hub

from nbhelpers.core.errors import DataError
from nbhelpers.data import hub, pydocs_tasks, schemas, sources

OPENS_PRIVATE, OPENS_GATED, OPENS_NOTHING = (f"hf_{word * 5}" for word in ("Private", "Gated", "Nothing"))


def pairs(count: int) -> list[dict]:
    return [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(count)]


def jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def contents(source: sources.Source) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for side in (source.train, source.test) for row in side)


# --- local files: what can be read --------------------------------------------------------------------------------

QUESTION = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because, «so»."}]
SHAPES = {
    "messages": ({"messages": QUESTION, "extra": 1}, QUESTION),
    "sharegpt": ({"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
                 [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]),
    "prompt/completion": ({"prompt": "Why?", "completion": "So."},
                          [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]),
    "conversational prompt/completion": ({"prompt": QUESTION[:1], "completion": QUESTION[1:]}, QUESTION),
    "alpaca": ({"instruction": "Add.", "input": "1, 2", "output": "3"},
               [{"role": "user", "content": "Add.\n\n1, 2"}, {"role": "assistant", "content": "3"}]),
    "alpaca, input empty": ({"instruction": "Add.", "input": "", "output": "3"},
                            [{"role": "user", "content": "Add."}, {"role": "assistant", "content": "3"}]),
    "alpaca without input": ({"instruction": "Add.", "output": "3"},
                             [{"role": "user", "content": "Add."}, {"role": "assistant", "content": "3"}]),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_every_shape_is_read_from_every_suffix(tmp_path, shape, suffix):
    row, messages = SHAPES[shape]
    other = json.loads(json.dumps(row).replace("Why?", "Who?").replace("Add.", "Sum."))
    path = tmp_path / f"data{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row, other]), path)
    else:
        write(path, jsonl([row, other]) if suffix == ".jsonl" else json.dumps([row, other]))
    source = sources.load(str(path))
    found = {row["id"]: row for side in (source.train, source.test) for row in side}
    assert found["row-1"]["messages"] == messages
    assert found["row-1"]["reference"] == messages[-1]["content"]
    assert (source.read, len(source.train), len(source.test)) == (2, 1, 1)
    assert source.name == str(path)


def test_a_csv_with_quoted_commas_line_breaks_and_a_byte_order_mark_is_read(tmp_path):
    text = '\ufeffinstruction,input,output\n"Add, please.",,"3\n4"\nSub.,"5, ""six""",1\n'
    rows = {row["id"]: row["messages"] for side in _sides(write(tmp_path / "a.CSV", text)) for row in side}
    assert [turn["content"] for turn in rows["row-1"]] == ["Add, please.", "3\n4"]
    assert [turn["content"] for turn in rows["row-2"]] == ['Sub.\n\n5, "six"', "1"]


def _sides(path):
    source = sources.load(str(path))
    return source.train, source.test


def test_a_task_column_is_kept_and_blank_lines_of_a_jsonl_are_no_rows(tmp_path):
    rows = [row | {"task": f"t{i}"} for i, row in enumerate(pairs(4))]
    source = sources.load(str(write(tmp_path / "a.jsonl", jsonl(rows).replace("\n", "\n\n"))))
    assert source.read == 4
    assert sorted([*source.train["task"], *source.test["task"]]) == ["t0", "t1", "t2", "t3"]


# --- local files: what is refused ---------------------------------------------------------------------------------

PARQUET = pyarrow.BufferOutputStream()
pyarrow.parquet.write_table(pyarrow.Table.from_pylist(pairs(200)), PARQUET)
PARQUET = PARQUET.getvalue().to_pybytes()
GOOD = jsonl(pairs(2))
REFUSED = {
    "missing file": ("a.jsonl", None, "does not exist.*Give a path"),
    "empty file": ("a.jsonl", "", r"empty \(0 bytes\).*at least two"),
    "blank file": ("a.jsonl", "\n \n", "no rows.*at least two"),
    "empty list": ("a.json", "[]", "no rows.*at least two"),
    "header alone": ("a.csv", "prompt,completion\n", "no rows.*at least two"),
    "one row": ("a.jsonl", jsonl(pairs(1)), "1 different question.*at least two"),
    "one question twice": ("a.jsonl", jsonl(pairs(1) * 2), "1 different question.*at least two"),
    "other suffix": ("a.xlsx", "x", r"ends in \.xlsx; known are \.jsonl"),
    "no suffix": ("data", "x", r"ends in nothing; known are \.jsonl"),
    "bad JSON": ("a.jsonl", GOOD + '{"prompt": \n' + GOOD, "line 3: bad JSON.*one object"),
    "bad JSON in a list": ("a.json", '[{"prompt": "a",\n "completion" "b"}]', "line 2: bad JSON.*Mend"),
    "deep JSON": ("a.jsonl", GOOD + "[" * 100_000, "line 3: bad JSON"),
    "one object": ("a.json", '{"prompt": {"a": 1}, "b": 2}', "list of objects"),
    "null line": ("a.jsonl", GOOD + "null\n", "line 3: None is not an object"),
    "number line": ("a.jsonl", GOOD + "\n7\n", "line 4: 7 is not an object"),
    "null in a list": ("a.json", '[{"prompt": "a", "completion": "b"}, null]', "row 2: None is not an object"),
    "not UTF-8": ("a.jsonl", (GOOD * 3_000).encode() + b'{"prompt": "\xe9"}\n', "line 6001 is not UTF-8.*Save"),
    "UTF-16, no mark": ("a.csv", "prompt,completion\n\xe4,b\n".encode("utf-16-le"), "line 2 is not UTF-8.*Save"),
    "ragged CSV, short": ("a.csv", "prompt,completion\na,b\nc\n", "line 3: .*2 columns.*Quote"),
    "ragged CSV, long": ("a.csv", "prompt,completion\na,b,c\n", "line 2: .*2 columns.*Quote"),
    "open quote": ("a.csv", 'prompt,completion\na,"b\n', "row from line 2: .*quoted cell"),
    "not a parquet": ("a.parquet", GOOD, "not a whole parquet file.*Copy it again"),
    "half a parquet": ("a.parquet", PARQUET[: len(PARQUET) // 2], "not a whole parquet file.*Copy it again"),
    "damaged parquet": (
        "a.parquet", PARQUET[:40] + b"\xff" * 400 + PARQUET[440:], "not a whole parquet file.*Copy it again"
    ),
    "unknown columns": ("a.csv", "q,a\nx,y\nz,w\n", "The columns a, q make no known shape.*alpaca: instruction"),
    "plain text": ("a.jsonl", jsonl([{"text": "a"}, {"text": "b"}]), "row 1: text rows hold no question.*messages"),
    "mixed shapes": ("a.jsonl", GOOD + jsonl([{"instruction": "a", "output": "b"}]), "row 3: lacks.*split it"),
    "missing cell": ("a.jsonl", GOOD + jsonl([{"prompt": "a", "completion": None}]), "row 3: lacks completion.*fill"),
    "empty answer": ("a.jsonl", GOOD + jsonl([{"prompt": "a", "completion": " "}]), "row 3: turn 1 .* expected text"),
    "empty question": ("a.csv", "prompt,completion\na,b\n,d\n", "row 2: turn 0 .* expected text"),
    "list as answer": ("a.jsonl", GOOD + jsonl([{"prompt": "a", "completion": [4]}]), "row 3: turn 1 .* expected text"),
    "unknown role": ("a.jsonl", jsonl([{"messages": [{"role": "judge", "content": "x"}]}]), "row 1: .*role of system"),
    "no answer": ("a.jsonl", jsonl([{"messages": QUESTION[:1]}]), "row 1: the last turn is the user's"),
    "turns as text": ("a.jsonl", jsonl([{"conversations": ["hello"]}]), "row 1: "),
    "half a character": ("a.jsonl", GOOD + r'{"prompt": "\ud83d", "completion": "b"}', "row 3: .*character"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_file_is_one_data_error_that_names_file_place_and_remedy(tmp_path, case):
    name, content, message = REFUSED[case]
    path = tmp_path / name
    if content is not None:
        write(path, content)
    with pytest.raises(DataError, match=message) as caught:
        sources.load(str(path))
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("name", ["nonsense", "a/b/c", "org/", "", "org/name@", "org/name#"])
def test_a_name_that_is_no_source_is_refused_without_asking_the_hub(name, monkeypatch):
    monkeypatch.setattr(hub, "read_hub", lambda *_: pytest.fail("asked the Hub"))
    with pytest.raises(DataError):
        sources.load(name)


# --- splits -------------------------------------------------------------------------------------------------------


def noisy(random_: random.Random) -> list[dict]:
    """Few questions, often repeated in another case and spacing, each time with another answer."""
    rows = []
    for i in range(random_.randint(3, 40)):
        words = f"what is {random_.randint(0, 9)}".split()
        question = random_.choice([" ", "  ", "\n"]).join(random_.choice([w, w.upper()]) for w in words)
        rows.append({"prompt": question, "completion": f"answer {i}"})
    return [*rows, *pairs(2)]


def test_equal_questions_never_fall_on_both_sides_and_no_row_is_lost(tmp_path):
    for seed in range(60):
        random_ = random.Random(seed)
        rows = noisy(random_)
        source = sources.load(str(write(tmp_path / "a.jsonl", jsonl(rows))), seed, random_.choice([0.0, 0.1, 0.5, 1.0]))
        train, test = (
            {schemas.fold(messages) for messages in side["messages"]} for side in (source.train, source.test)
        )
        assert train
        assert test
        assert not train & test
        assert source.read == len(rows) == len(source.train) + len(source.test) + sum(source.dropped.values())
        answers = sorted([*source.train["reference"], *source.test["reference"]])
        assert answers == sorted(row["completion"] for row in rows)


def test_the_share_held_out_is_the_one_asked_for(tmp_path):
    path = str(write(tmp_path / "a.jsonl", jsonl(pairs(200))))
    assert [len(sources.load(path, test_share=share).test) for share in (0.05, 0.1, 0.25)] == [10, 20, 50]


def test_the_seed_decides_the_split_and_the_content_the_hash(tmp_path):
    path = str(write(tmp_path / "a.jsonl", jsonl(pairs(50))))
    first, again, other = (sources.load(path, seed) for seed in (1, 1, 2))
    assert first.test.to_list() == again.test.to_list()
    assert first.test.to_list() != other.test.to_list()
    assert contents(first) == contents(other)
    assert first.hash == other.hash
    write(tmp_path / "a.jsonl", jsonl(pairs(51)))
    assert sources.load(path, 1).hash != first.hash
    assert f"{first}".startswith(f"{path}: 50 rows read = 45 to train on + 5 held out; turns: 50 user, ")
    assert f"hash {first.hash[:12]}" in f"{first}"


# --- balanced -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uneven():
    """Three tasks; in each one package has most rows, and a third task nobody asks for."""
    sizes = {("a", "big"): 300, ("a", "small"): 9, ("b", "big"): 200, ("b", "tiny"): 2, ("c", "big"): 50}
    sizes |= {("a", f"other{i:02}"): 1 for i in range(20)}
    rows = [{"id": f"{t}-{p}-{i}", "task": t, "package": p} for (t, p), size in sizes.items() for i in range(size)]
    return datasets.Dataset.from_list(rows)


def test_balanced_is_even_over_tasks_and_packages(uneven):
    chosen = sources.balanced(uneven, ["a", "b"], 120, seed=0)
    assert Counter(chosen["task"]) == {"a": 60, "b": 60}
    counts = Counter(zip(chosen["task"], chosen["package"], strict=True))
    assert counts["a", "small"] == 9
    assert counts["a", "big"] == 60 - 9 - 20
    assert (counts["b", "big"], counts["b", "tiny"]) == (58, 2)
    assert len(set(chosen["id"])) == 120


def test_balanced_is_the_same_for_a_seed_and_shuffled_by_it(uneven):
    first, again, other = (sources.balanced(uneven, ["a", "b"], 30, seed)["id"] for seed in (3, 3, 4))
    assert list(first) == list(again)
    assert set(first) != set(other)
    table = {name: place for place, name in enumerate(uneven["id"])}
    assert [table[name] for name in first] != sorted(table[name] for name in first)
    assert any(int(name.rpartition("-")[2]) > 20 for name in first if "-big-" in name)  # not a package's first rows


def test_balanced_favours_no_package_by_its_place_in_the_table(uneven):
    drawn = Counter()
    for seed in range(40):
        drawn.update(set(sources.balanced(uneven, ["a"], 11, seed)["package"]))
    assert set(drawn) == {row["package"] for row in uneven if row["task"] == "a"}
    assert max(drawn.values()) <= 32  # each of 22 packages is drawn with probability 1/2: mean 20, deviation 3.2
    assert min(drawn.values()) >= 8


def test_balanced_gives_what_there_is_where_too_much_is_asked_for(uneven):
    assert len(sources.balanced(uneven, ["b", "c"], 10_000, 0)) == 252
    assert len(sources.balanced(uneven.remove_columns("package"), ["c"], 10, 0)) == 10


# --- near-duplicates ----------------------------------------------------------------------------------------------


def document(text: str) -> dict:
    return {"messages": [{"role": "user", "content": f"The instruction that all share.\n\n{text}"}]}


def runs(row: dict, size: int = 8) -> set[str]:
    words = row["messages"][0]["content"].split("\n\n", 1)[1].split()
    return {" ".join(words[i : i + size]) for i in range(max(1, len(words) - size + 1))}


def test_without_neighbours_equals_a_comparison_of_every_pair():
    removed = 0
    for seed in range(40):
        random_ = random.Random(seed)
        pieces = [" ".join(random_.choices("abcdefgh", k=random_.randint(4, 12))) for _ in range(8)]
        rows = [document(" ".join(random_.choices(pieces, k=random_.randint(1, 4)))) for _ in range(30)]
        rows, held_out = rows[:20], rows[20:]
        threshold = random_.choice([0.3, 0.5, 0.8])
        expected = [
            row for row in rows
            if not any(
                common and len(common) / min(len(runs(row)), len(runs(other))) >= threshold
                for other in held_out for common in [runs(row) & runs(other)]
            )
        ]  # fmt: skip
        removed += len(rows) - len(expected)
        assert sources.without_neighbours(rows, held_out, threshold) == expected
    assert 100 < removed < 700  # both outcomes occur


def test_a_planted_near_copy_is_removed_whichever_side_is_the_longer():
    text = " ".join(f"word{i}" for i in range(60))
    padding = " ".join(f"other{i}" for i in range(600))
    near = document(text.replace("word30", "changed").upper())
    longer, shorter, unrelated = document(f"{padding} {text}"), document(text[:150]), document(padding)
    assert sources.without_neighbours([near, longer, shorter, unrelated], [document(text)]) == [unrelated]


def test_the_shared_instruction_alone_makes_no_neighbours():
    instruction = pydocs_tasks.INSTRUCTIONS["parameters"]
    rows = [
        {"messages": [{"role": "user", "content": f"{instruction}\n\n{t} tail of text number"}]} for t in ("one", "two")
    ]
    assert sources.without_neighbours(rows[:1], rows[1:]) == rows[:1]


# --- the Hub ------------------------------------------------------------------------------------------------------

CARD = (
    "---\nconfigs:\n" + "".join(f"- config_name: {n}\n  data_files: {n}.jsonl\n" for n in ("short", "long")) + "---\n"
)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    files = {
        "plain/train.jsonl": jsonl(pairs(40)),
        "plain/test.jsonl": jsonl(pairs(8)),
        "plain@v2/train.jsonl": jsonl(pairs(12)),
        "configs/README.md": CARD,
        "configs/short.jsonl": jsonl(pairs(5)),
        "configs/long.jsonl": jsonl(pairs(25)),
        "private/train.jsonl": jsonl(pairs(3)),
        "gated/train.jsonl": jsonl(pairs(4)),
        "odd/train.jsonl": jsonl([{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": " "}]),
        "empty/README.md": "nothing here",
    }
    for name, content in files.items():
        path = folder / "datasets/org" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, content)
    with Hub(folder, {"org/private": OPENS_PRIVATE}, {"org/gated": OPENS_GATED}, {OPENS_NOTHING}) as served:
        yield served


@pytest.fixture(scope="module")
def client(served, tmp_path_factory):
    with Client(tmp_path_factory.mktemp("client"), served.endpoint) as client:
        yield client


@pytest.mark.parametrize(
    ("name", "token", "rows"),
    [
        ("org/plain", None, 40),
        ("org/plain#test", None, 8),
        ("org/plain@v2", None, 12),
        ("org/plain@v2#train", None, 12),
        ("org/configs:long", None, 25),
        ("org/configs:short@main#train", None, 5),
        ("org/private", OPENS_PRIVATE, 3),
        ("org/gated", OPENS_GATED, 4),
    ],
)
def test_a_hub_set_is_streamed_by_config_revision_and_split(client, name, token, rows):
    source = f"sources.load({name!r})"
    found = client.value(f"[s.train.to_list() + s.test.to_list() for s in [{source}]][0]", token)
    assert sorted(row["reference"] for row in found) == sorted(f"answer {i}" for i in range(rows))


def test_no_more_rows_than_the_limit_are_read(client):
    references = client.value(
        "[s.train['reference'][:] + s.test['reference'][:] for s in [sources.load('org/plain', limit=7)]]"
    )
    assert sorted(references[0]) == [f"answer {i}" for i in range(7)]


@pytest.mark.parametrize(
    ("name", "token", "remedies"),
    [
        ("org/private", None, ["401", "HF_TOKEN", "spelling"]),
        ("org/private", "hf_" + "Expired" * 5, ["401", "HF_TOKEN"]),
        ("org/private", OPENS_NOTHING, ["404", "HF_TOKEN", "spelling"]),
        ("org/missing", OPENS_NOTHING, ["404", "spelling"]),
        ("org/gated", None, ["gated", "Ask for access", "HF_TOKEN"]),
        ("org/gated", OPENS_NOTHING, ["gated", "Ask for access", "HF_TOKEN"]),
        ("org/plain@v3", None, ["404", "revision"]),
        ("org/plain#validation", None, ["validation", "train", "test"]),
        ("org/configs", None, ["Config name is missing", "short", "long"]),
        ("org/configs:middle", None, ["middle", "short", "long"]),
        ("org/empty", None, ["data files"]),
        ("org/odd", None, ["row 2", "expected text"]),
    ],
)
def test_a_refusal_of_the_hub_names_the_set_and_the_remedy_and_no_token(client, name, token, remedies):
    refusal = client.refusal(f"sources.load({name!r})", token)
    assert refusal["error"] == "DataError"
    assert refusal["message"].startswith(name)
    assert all(remedy in refusal["message"] for remedy in remedies), refusal["message"]
    assert "cannot be reached" not in refusal["message"]
    assert not token or token[3:] not in refusal["traceback"] + client.output.read_text()


@pytest.mark.parametrize("how", ["nothing listens", "HF_HUB_OFFLINE=1"])
def test_offline_is_said_at_once_with_pydocs_as_remedy(served, tmp_path, how):
    with Hub(tmp_path) as gone:
        pass
    listening, before = how != "nothing listens", len(served.requests)
    environment = {"HF_HUB_OFFLINE": "1"} if listening else {}
    with Client(tmp_path / "client", served.endpoint if listening else gone.endpoint, **environment) as client:
        refusal = client.refusal("sources.load('org/plain')", OPENS_PRIVATE)
        assert "Retrying" not in client.output.read_text()
    assert refusal["error"] == "DataError"
    assert "org/plain: the Hub cannot be reached" in refusal["message"]
    assert "pydocs" in refusal["message"]
    assert OPENS_PRIVATE not in refusal["traceback"]
    assert len(served.requests) == before


def test_an_error_that_is_not_the_hubs_is_not_blamed_on_the_network():
    message = hub.explain_hub_error(OSError(28, "No space left on device"), "model")
    assert "No space left" in message
    assert "cannot be reached" not in message


# --- raw rows, and the folder that notebook 01 leaves --------------------------------------------------------------


def test_raw_docstrings_have_ids_of_their_own_and_come_from_the_cache_the_second_time(tmp_path, monkeypatch):
    monkeypatch.setenv("NBHELPERS_CACHE", str(tmp_path))
    entries = [
        {"package": "p", "module": "p.m", "name": name, "kind": "function", "arguments": None, "text": text}
        for name, text in (("f", "Getter."), ("f", "Setter."), ("", "Module."))
    ]
    monkeypatch.setattr(sources.pydocs, "corpus", lambda: entries)
    rows = sources.read("pydocs")
    assert [row["id"] for row in rows] == ["p.m.f", "p.m.f 2", "p.m"]
    monkeypatch.setattr(sources.pydocs, "corpus", lambda: pytest.fail("read again"))
    assert sources.read("pydocs") == rows


def test_docstring_tasks_are_those_of_the_rows_kept_with_their_cleaned_text():
    body = "Reads the file line by line and returns what it finds there, " * 2
    entry = {"id": "a", "package": "p", "module": "p.m", "name": "f", "kind": "function", "arguments": None}
    rows = [entry | {"text": f"Read a file of rows.\n\n{body}"}, entry | {"id": "b", "text": f"Write rows.\n\n{body}"}]
    tasks = sources.docstring_tasks(rows, {"a": f"Read one file of rows.\n\n{body}"})
    assert {row["task"] for row in tasks} >= {"summary"}
    assert all("Write rows" not in row["messages"][0]["content"] for row in tasks)
    assert next(row for row in tasks if row["task"] == "summary")["reference"] == "Read one file of rows."


def test_a_folder_of_train_and_test_is_taken_as_it_is_split(tmp_path):
    row = {"id": "x-1", "package": "p", "task": "summary", "messages": chat_row("Q?", "A."), "reference": "A."}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"id": "x-2"}) + "\n")
    with pytest.raises(DataError, match="has no test file"):
        sources.load(str(tmp_path))
    (tmp_path / "test.jsonl").write_text(json.dumps(row | {"id": "x-3"}) + "\n")
    source = sources.load(str(tmp_path))
    assert list(source.train["id"]) == ["x-1", "x-2"]
    assert source.test[0] == row | {"id": "x-3"}
    assert source.read == 3


def chat_row(question: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def numbered(count: int, task=lambda i: "text") -> list[dict]:
    return [{"prompt": f"Say {i}.", "completion": f"It is {i}.", "task": task(i)} for i in range(count)]


def test_a_task_column_of_many_values_is_no_task_and_that_is_said(tmp_path):
    for count, task, tasks in ((60, lambda i: f"task-{i}", ["text"]), (60, lambda i: f"task-{i % 4}", None)):
        source = sources.load(str(write(tmp_path / "a.jsonl", jsonl(numbered(count, task)))))
        assert tasks == source.tasks or (tasks is None and {*source.tasks} <= {f"task-{i}" for i in range(4)})
        assert ("task has 60 values in 60 rows, too many to be tasks" in str(source)) == bool(tasks)


def test_held_out_rows_of_a_task_that_is_never_trained_are_counted_and_said(tmp_path):
    write(tmp_path / "train.jsonl", jsonl(numbered(8, lambda i: "a")))
    write(tmp_path / "test.jsonl", jsonl(numbered(6, lambda i: "ab"[i % 2])))
    source = sources.load(str(tmp_path))
    assert source.tasks == ["a"]
    assert "held-out rows that are not scored, since no training row has their task: 3 of b" in str(source)
    write(tmp_path / "test.jsonl", jsonl(numbered(6, lambda i: "b")))
    with pytest.raises(DataError, match=r"tasks of the training rows \(a\) are others than those .*\(b\)"):
        _ = sources.load(str(tmp_path)).tasks


@pytest.mark.parametrize(
    ("names", "held_out", "unused"),
    [
        (["train.csv", "validation.csv", "test.csv"], "test", "validation.csv"),
        (["train.jsonl", "dev.jsonl.gz"], "dev", ""),
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "valid.tsv"], "valid", ""),
        (["train_data.csv", "test_data.csv", "more.csv"], "test_data", "more.csv"),
        (["train (1).csv", "train (2).csv", "eval (1).csv"], "eval (1)", ""),
    ],
)
def test_a_folder_of_files_by_side_is_read_and_a_file_that_is_not_used_is_named(tmp_path, names, held_out, unused):
    import gzip

    import pandas as pd

    for number, name in enumerate(names):
        frame = pd.DataFrame({"question": [f"{name} {i}?" for i in range(3)], "answer": f"It is {number}."})
        if name.endswith(".parquet"):
            frame.to_parquet(tmp_path / name, index=True)
        elif name.endswith(".gz"):
            (tmp_path / name).write_bytes(gzip.compress(frame.to_json(orient="records", lines=True).encode()))
        else:
            frame.to_csv(tmp_path / name, index=False, sep="\t" if name.endswith(".tsv") else ",")
            if name.endswith(".jsonl"):
                frame.to_json(tmp_path / name, orient="records", lines=True)
    source = sources.load(str(tmp_path))
    assert {row["messages"][0]["content"].split(".")[0].split("-")[0] for row in source.test} == {held_out}
    assert len(source.train) == 3 * sum(name.startswith("train") for name in names)
    assert ("files not used: " + unused in str(source)) == bool(unused)


def test_the_sides_of_a_folder_may_call_their_columns_differently_and_one_without_answers_is_refused(tmp_path):
    write(tmp_path / "train.jsonl", jsonl(numbered(3)))
    write(tmp_path / "test.jsonl", jsonl([{"question": f"Say {i}?", "answer": "No."} for i in range(3)]))
    source = sources.load(str(tmp_path))
    assert [len(source.train), len(source.test)] == [3, 3]
    assert "; held out: question: question; answer: answer" in str(source)
    write(tmp_path / "test.jsonl", jsonl([{"prompt": f"Say {i}?"} for i in range(3)]))
    with pytest.raises(DataError, match=r"test.jsonl has no known answers.*Take it out of the folder"):
        sources.load(str(tmp_path))


def test_a_side_of_two_names_is_refused_and_both_are_named(tmp_path):
    for name in ("train_sft-00000-of-00001.jsonl", "train_gen-00000-of-00001.jsonl", "test_sft.jsonl"):
        write(tmp_path / name, jsonl(numbered(3)))
    with pytest.raises(DataError, match=r"train files of several names \(train_gen, train_sft\). Keep one"):
        sources.load(str(tmp_path))
    (tmp_path / "train_gen-00000-of-00001.jsonl").unlink()
    assert sources.load(str(tmp_path)).read == 6


def test_a_table_that_pandas_wrote_with_its_index_is_read(tmp_path):
    import pandas as pd

    frame = pd.DataFrame(numbered(6)).drop(columns="task").set_index(pd.Index(list("abcdef"), name="number"))
    frame.to_parquet(tmp_path / "a.parquet")
    source = sources.load(str(tmp_path / "a.parquet"))
    assert source.read == 6
    assert "not used: number (6 rows)" in str(source)
