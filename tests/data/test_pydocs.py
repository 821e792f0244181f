"""pydocs: what is read out of a docstring, that nothing is executed, and what the real corpus promises."""

import ast
import contextlib
import gc
import json
import os
import re
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from inspect import cleandoc
from pathlib import Path

import pytest

from nbhelpers.data import pydocs, pydocs_tasks, sources

# --- parameters ---------------------------------------------------------------------------------------------------

NUMPY = """
    Do it.

    Parameters
    ----------
    x, y : array_like
        Two of them: one line.
    axis : {0, 1}, optional
        The axis.
    dtype : :class:`~numpy.dtype`, default None
        A type.

        copy : bool
            Indented, so it belongs to the text.
    size : int or tuple[int, int] (default: 3)
    *args
        More.
    **kwargs : dict
        Options.

    Returns
    -------
    z : int
        Not a parameter.
"""
GOOGLE = """
    Do it.

    Args:
        x (int): A number: one.
        names (`list[str]`, *optional*, defaults to `["a"]`): Some
            names: several.
        callback (Callable[[int], str]): Called
        `path` (`str` or [`~pathlib.Path`]):
            Where.
        kind (str, keyword-only): Which.
        free: No type.
        *args (Any): More.
        **kwargs: Options.

    Returns:
        z: Not a parameter.
"""
SPHINX = """
    Do it.

    :param int x: A number
    :param tuple[int, int] size: Two,
        and more text
    :param free: no type
    :parameter str kind: Which
    :param *args: more
    :returns: something
"""
READ = {
    "numpydoc": (NUMPY, {
        "x": "array_like", "y": "array_like", "axis": "{0, 1}", "dtype": "numpy.dtype",
        "size": "int or tuple[int, int]", "args": None, "kwargs": "dict",
    }),
    "Google": (GOOGLE, {
        "x": "int", "names": "list[str]", "callback": "Callable[[int], str]", "path": "str or pathlib.Path",
        "kind": "str", "free": None, "args": "Any", "kwargs": None,
    }),
    "Sphinx": (SPHINX, {"x": "int", "size": "tuple[int, int]", "free": None, "kind": "str", "args": None}),
    "last section": ("Do it.\n\nParameters\n----------\nx : int", {"x": "int"}),
    "Arguments": ("Do it.\n\nArguments:\n    x (int): One.", {"x": "int"}),
    "no section": ("Do it.\n\nWith x : int and other prose.", None),
    "empty section": ("Do it.\n\nArgs:\n\nReturns:\n    x (int): One.", None),
    "numpydoc with prose": ("Do it.\n\nParameters\n----------\nx : int\nThe rest is as in `other`.", None),
    "Google with prose": ("Do it.\n\nArgs:\n    x (int): One.\n    See the other function", None),
    "Sphinx with an unreadable line": ("Do it.\n\n:param int x: One\n:param dict(str, int) y: Two", None),
    "half a type": ("Do it.\n\nArgs:\n    x (list[int): One.", {"x": None}),
    "a role": ("Do it.\n\nArgs:\n    x (:obj:`int`, `optional`): One.", {"x": "int"}),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_documented_parameters_are_read_whole_or_not_at_all(case):
    text, expected = READ[case]
    found = pydocs_tasks.documented_parameters(cleandoc(text))
    assert found == expected
    assert found is None or list(found) == list(expected)


@pytest.mark.parametrize(
    ("documented", "kind"),
    [
        ("int, optional", "int"),
        ("int, default 5", "int"),
        ("int, default=5", "int"),
        ("int, default: 5", "int"),
        ("int (default 5)", "int"),
        ("int [optional]", "int"),
        ("int [optional, or 5]", "int"),
        ("`int`, *optional*, defaults to 5", "int"),
        ("{'a', 'b'}, default 'a'", "{'a', 'b'}"),
        ("defaultdict[str, int]", "defaultdict[str, int]"),
        ("`~matplotlib.axes.Axes` or None", "matplotlib.axes.Axes or None"),
        ("`.Path`", "Path"),
        ("torch.Tensor", "torch.Tensor"),
        ("optional", None),
        (None, None),
    ],
)
def test_a_type_is_kept_without_marks_and_defaults(documented, kind):
    entry = "x" if documented is None else f"x : {documented}"
    assert pydocs_tasks.documented_parameters(f"Do it.\n\nParameters\n----------\n{entry}\n    Text.") == {"x": kind}


# --- summaries ----------------------------------------------------------------------------------------------------

BODY = "The body goes on for more than eighty characters, so that there is something to sum up in one line."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"Return what was asked.\n\n{BODY}", ("Return what was asked.", BODY)),
        (f"Return what was asked.\n\n\n{BODY}\n\nMore.", ("Return what was asked.", f"{BODY}\n\nMore.")),
        ("Return what was asked.", None),
        (f"Return what was asked\n\n{BODY}", None),
        (f"Return what was\nasked for.\n\n{BODY}", None),
        (f"Return it.\n\n{BODY}", None),
        (f"{'many ' * 25}words.\n\n{BODY}", None),
        ("Return what was asked.\n\nToo short a body.", None),
        (f"Return what was asked.\n\nParameters\n----------\nx : int\n    {BODY}", None),
        (f"Return what was asked.\n\nArgs:\n    x: {BODY}", None),
        (f"Return what was asked.\n\n>>> {BODY}", None),
    ],
)
def test_a_summary_is_one_sentence_before_prose(text, expected):
    assert pydocs_tasks.split_summary(text) == expected


# --- files --------------------------------------------------------------------------------------------------------

SOURCE = '''
"""The module itself."""
import pathlib
pathlib.Path({mark!r}).write_text("imported")

def public(a, /, b, *args, c=1, **kwargs):
    """A function."""
    def inner():
        """Not public: inside."""

async def later(a, *, b): """Async."""

def _private(): """Hidden."""

class Thing:
    """A class."""
    def __init__(self, x, y=2): pass
    def method(self, a): """A method."""
    @classmethod
    def make(cls, a): """A class method."""
    def _hidden(self): """Hidden."""
    class Nested: """Nested."""
    def empty(self): """   """

class _Hidden:
    """Hidden."""
    def method(self): """Hidden with it."""
'''


def test_public_docstrings_are_read_and_nothing_is_executed(tmp_path):
    mark = tmp_path / "imported"
    file = tmp_path / "m.py"
    file.write_text(SOURCE.replace("{mark!r}", repr(str(mark))))
    rows = pydocs.read_docstrings(file, "package", "package.m")
    assert [(row["name"], row["kind"], row["arguments"], row["text"]) for row in rows] == [
        ("", "module", None, "The module itself."),
        ("public", "function", ["a", "b", "*args", "c", "**kwargs"], "A function."),
        ("later", "function", ["a", "*", "b"], "Async."),
        ("Thing", "class", ["x", "y"], "A class."),
        ("Thing.method", "function", ["a"], "A method."),
        ("Thing.make", "function", ["a"], "A class method."),
        ("Thing.Nested", "class", None, "Nested."),
    ]
    assert {(row["package"], row["module"]) for row in rows} == {("package", "package.m")}
    assert not mark.exists()
    exec(compile(file.read_text(), str(file), "exec"), {})
    assert mark.exists()  # what an import would have done


@pytest.mark.parametrize(
    "content",
    [b"def broken(:\n", b"\xff\xfe\x00", b'"""x"""\0', b"(" * 5_000, b"a" + b".a" * 100_000, b"print 'old'\n"],
)
def test_a_file_that_is_not_valid_python_gives_nothing(tmp_path, content):
    (tmp_path / "m.py").write_bytes(content)
    assert pydocs.read_docstrings(tmp_path / "m.py", "p", "p") == []


def test_a_lone_surrogate_in_a_docstring_can_be_stored(tmp_path):
    (tmp_path / "m.py").write_text(r'"""Half a character: \ud800."""')
    assert pydocs.read_docstrings(tmp_path / "m.py", "p", "p")[0]["text"] == "Half a character: ?."


FAKE = {
    "__init__.py": '"""Fake."""\n',
    "b.py": f'''
def scale(values, factor=2, *, copy=True):
    """Scale every value by one factor.

    {BODY}

    Args:
        values (list[float]): The values.
        factor (float, *optional*, defaults to 2): The factor.
        copy (bool): Whether.
    """

def liar(values):
    """Read the values of somebody.

    Args:
        worth (int): The code does not have it.
    """

def half(values, factor):
    """Read half of the values.

    Args:
        values (int): Only one of two.
    """

def untyped(values):
    """Read all of the values.

    Args:
        values: No type.
    """
''',
    "a.py": f'"""Say where this comes from.\n\n{BODY}\n"""\n',
    "again.py": f'"""Say where this comes from.\n\n{BODY}\n"""\n',
    "named.py": f'"""Say that this is Fake.\n\n{BODY} Once more.\n"""\n',
    "long.py": f'"""Say very much of it.\n\n{BODY * 20}\n"""\n',
    "_private.py": f'"""Say nothing to anybody.\n\n{BODY} Private.\n"""\n',
    "tests/test_x.py": f'"""Say what is tested.\n\n{BODY} Tested.\n"""\n',
    "sub/__init__.py": f'"""Say what is below.\n\n{BODY} Below.\n"""\n',
}


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Path:
    """The only package of the corpus."""
    root = tmp_path / "fake"
    for name, text in FAKE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(pydocs, "packages_on_disk", lambda: {"fake": root})
    return root


def test_the_rows_of_a_small_package_are_exactly_these(fake):
    rows = pydocs_tasks.make_rows(pydocs.corpus(workers=1))
    assert [(row["task"], row["module"], row["reference"]) for row in rows] == [
        ("summary", "fake.a", "Say where this comes from."),
        ("package", "fake.a", "fake"),
        ("summary", "fake.b", "Scale every value by one factor."),
        ("package", "fake.b", "fake"),
        ("parameters", "fake.b", '{"values": "list[float]", "factor": "float", "copy": "bool"}'),
        ("signature", "fake.b", "scale(values, factor, *, copy)"),
        ("parameters", "fake.b", '{"values": "int"}'),
        ("signature", "fake.b", "untyped(values)"),
        ("summary", "fake.named", "Say that this is Fake."),
        ("summary", "fake.sub", "Say what is below."),
        ("package", "fake.sub", "fake"),
    ]
    for row in rows:
        question, answer = row["messages"]
        assert question["content"].startswith(f"{pydocs_tasks.INSTRUCTIONS[row['task']]}\n\n")
        assert answer == {"role": "assistant", "content": row["reference"]}
    assert len({row["id"] for row in rows}) == len(rows)
    assert rows[0]["messages"][0]["content"].endswith(f"\n\n{BODY}")  # the body without the answer


def test_more_workers_give_the_same_corpus(tmp_path, monkeypatch):
    for i in range(250):  # more than two chunks
        (tmp_path / f"m{i:03}.py").write_text(f'"""Module {i}."""')
    monkeypatch.setattr(pydocs, "packages_on_disk", lambda: {"p": tmp_path})
    rows = pydocs.corpus(workers=1)
    assert [row["text"] for row in rows] == [f"Module {i}." for i in range(250)]
    assert pydocs.corpus(workers=2) == rows


def test_the_fingerprint_follows_the_record_of_every_package(monkeypatch):
    read = pydocs.metadata.PathDistribution.read_text
    before = pydocs.fingerprint()
    assert pydocs.fingerprint() == before
    changes = {
        "a source file": lambda text: text.replace(".py,sha256=", ".py,sha256=0", 1),
        "a compiled file": lambda text: text + "\nx.pyc,,\nx.so,sha256=0,1\n",
    }
    after = {}
    for name, change in changes.items():

        def changed(self, file, change=change):
            text = read(self, file)
            return change(text) if file == "RECORD" and self.metadata["Name"] == "peft" else text

        monkeypatch.setattr(pydocs.metadata.PathDistribution, "read_text", changed)
        after[name] = pydocs.fingerprint()
    assert after["a source file"] != before
    assert after["a compiled file"] == before


# --- the real corpus ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source() -> sources.Source:
    return sources.load("pydocs")


@pytest.fixture(scope="module")
def rows(source) -> list[dict]:
    return source.train.to_list() + source.test.to_list()


def test_held_out_packages_are_in_the_test_rows_and_nowhere_else(source):
    assert set(source.test["package"]) == set(pydocs.HELD_OUT)
    assert not set(source.train["package"]) & set(pydocs.HELD_OUT)
    assert source.read == len(source.train) + len(source.test) + sum(source.dropped.values())
    assert sources.without_neighbours(source.train.to_list(), source.test.to_list()) == source.train.to_list()


def test_there_is_enough_of_every_task_to_train_and_to_measure(source):
    held_out = Counter(source.test["task"])
    assert all(held_out[task] >= 100 for task in ("summary", "parameters", "signature"))
    assert all(count >= 1_000 for count in Counter(source.train["task"]).values())
    assert set(source.train["task"]) == set(pydocs.TASKS) == set(pydocs_tasks.INSTRUCTIONS)


def test_every_answer_can_be_found_in_its_question(rows):
    checked = Counter()
    for row in rows:
        question = row["messages"][0]["content"].partition("\n\n")[2]
        if row["task"] == "parameters":
            answer = json.loads(row["reference"])
            assert answer
            assert all(name in question and kind for name, kind in answer.items()), row
        elif row["task"] == "signature":
            name, _, arguments = row["reference"].rstrip(")").partition("(")
            assert question.startswith(f"{name}\n\n")
            names = [argument.lstrip("*") for argument in arguments.split(", ") if argument != "*"]
            assert all(name in question for name in names), row
        elif row["task"] == "package":
            assert row["reference"] == row["package"]
            assert row["package"].lower() not in question.lower(), row
        checked[row["task"]] += 1
    assert set(checked) == set(pydocs.TASKS)


def test_no_type_carries_marks_or_half_a_bracket(rows):
    kinds = [kind for row in rows if row["task"] == "parameters" for kind in json.loads(row["reference"]).values()]
    assert len(kinds) > 10_000
    for kind in kinds:
        assert "`" not in kind
        assert not kind.lower().endswith(("optional", "default"))
        assert all(kind.count(a) == kind.count(b) for a, b in ("()", "[]", "{}")), kind


def test_no_row_could_forge_a_turn_though_docstrings_speak_of_such_signs(rows):
    contents = [turn["content"] for row in rows for turn in row["messages"]]
    assert not [content for content in contents if re.search(r"<\|\S+?\|>", content)]
    assert any("< |endoftext|>" in content for content in contents)


def test_no_row_repeats_and_every_row_is_as_documented(rows):
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert set(row) == {"id", "task", "package", "module", "messages", "reference"}
        assert row["messages"][1]["content"] == row["reference"]
        assert row["module"].partition(".")[0] == row["package"]


def cpu_seconds() -> float:
    """Processor time of this process and of its ended children: other work on the machine would count in wall time."""
    return sum(os.times()[:4])


def test_unanswerable_questions_are_about_texts_that_name_no_parameter(rows):
    found = pydocs_tasks.unanswerable(rows)
    assert len(found) > 500
    head = pydocs_tasks.INSTRUCTIONS["parameters"] + "\n\n"
    for row in found:
        question, answer = (turn["content"] for turn in row["messages"])
        assert question.startswith(head)
        assert not pydocs_tasks.documented_parameters(question.removeprefix(head))
        assert answer == row["reference"] == pydocs_tasks.NOT_DOCUMENTED
        assert row["task"] == "unanswerable"
    assert len({row["id"] for row in found}) == len(found)
    assert not pydocs_tasks.unanswerable([row for row in rows if row["task"] != "package"])


def parse(files: list[str]) -> None:
    gc.disable()
    for file in files:
        with contextlib.suppress(SyntaxError):
            ast.parse(Path(file).read_bytes())


@pytest.mark.slow
def test_a_cold_load_costs_less_than_twice_what_python_needs_to_parse_the_files(tmp_path, monkeypatch):
    """The parser alone, on every fifth file and in as many processes, stands for how fast the machine is just now."""
    monkeypatch.setenv("NBHELPERS_CACHE", str(tmp_path))
    files = [file for name, root in pydocs.packages_on_disk().items() for file, *_ in pydocs._files(name, root)]
    sample, workers = files[::5], min(8, os.cpu_count() or 1)

    def parser_seconds() -> float:
        before = cpu_seconds()
        with ProcessPoolExecutor(workers) as pool:
            list(pool.map(parse, [sample[i :: 4 * workers] for i in range(4 * workers)]))
        return (cpu_seconds() - before) * sum(map(os.path.getsize, files)) / sum(map(os.path.getsize, sample))

    first = parser_seconds()
    wall, before = time.perf_counter(), cpu_seconds()
    source = sources.load("pydocs")
    seconds, wall = cpu_seconds() - before, time.perf_counter() - wall
    parsing = (first + parser_seconds()) / 2
    print(f"cold load: {seconds:.1f} s of processor time where the parser alone takes {parsing:.1f} s "
          f"({seconds / parsing:.2f}), {wall:.1f} s on the clock")  # fmt: skip
    assert seconds < 2 * parsing
    assert len(list((tmp_path / "pydocs").glob("*.jsonl"))) == 2  # the docstrings, and the rows made of them
    before = time.perf_counter()
    assert sources.load("pydocs").hash == source.hash
    print(f"warm load: {time.perf_counter() - before:.1f} s on the clock")
