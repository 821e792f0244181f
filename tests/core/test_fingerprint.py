import json

import pytest

from nbhelpers.core import fingerprint, storage

CELL = """
import os
rate = 1e-3  # a step

def f():
    'Says f.'
    from nbhelpers.errors import DataError
    return rate
"""


def notebook(folder, *sources):
    cells = [{"cell_type": "code", "id": f"cell-{i}", "metadata": {}, "source": text} for i, text in enumerate(sources)]
    path = folder / "01_a.ipynb"
    path.write_text(json.dumps({"nbformat": 4, "cells": cells}))
    return path


@pytest.mark.parametrize(
    "same",
    [
        CELL.replace("import os\n", "import sys as other\n"),
        CELL.replace("nbhelpers.errors", "nbhelpers.core.errors"),
        CELL.replace("Says f.", "Says something else."),
        CELL.replace("# a step", "# of the schedule"),
    ],
    ids=["import", "lazy import", "docstring", "comment"],
)
def test_what_computes_nothing_does_not_count(same):
    assert same != CELL
    assert fingerprint.code_hash([same]) == fingerprint.code_hash([CELL])


@pytest.mark.parametrize("change", [("1e-3", "2e-3"), ("return rate", "return 'Says f.'"), ("def f()", "def g()")])
def test_what_computes_counts(change):
    assert fingerprint.code_hash([CELL.replace(*change)]) != fingerprint.code_hash([CELL])


def test_a_cell_of_imports_or_magics_may_come_and_go(tmp_path):
    one = fingerprint.of_notebook(notebook(tmp_path, "x = 1"))
    other = fingerprint.of_notebook(notebook(tmp_path, "import os", "%matplotlib inline\nx = 1"))
    assert one["notebook"] == other["notebook"]


@pytest.mark.parametrize(
    "statement",
    [
        "import nbhelpers.a.b",
        "import nbhelpers.a.b as s",
        "from nbhelpers.a import x, b",
        "from nbhelpers.a.b import x",
        "from . import b",
        "from .b import x",
        "from ..a.b import x",
    ],
)
def test_every_form_of_import_is_seen(statement):
    assert "a.b" in fingerprint.imported_names(f"def inside():\n    if True:\n        {statement}\n", "a.c")


def test_changes_are_named_and_a_moved_module_is_none(tmp_path, monkeypatch):
    for name, text in (("a", "from nbhelpers import b\n"), ("b", "x = 1\n"), ("unused", "y = 1\n")):
        (tmp_path / f"{name}.py").write_text(text)
    files = {name: tmp_path / f"{name}.py" for name in ("a", "b", "unused")}
    monkeypatch.setattr(fingerprint, "module_files", lambda: files)
    path = notebook(tmp_path, "from nbhelpers import a\na.f()")
    before = fingerprint.of_notebook(path)
    assert list(before["modules"]) == ["a", "b"]
    assert fingerprint.changes(before, path) == []
    files["unused"].write_text("y = 2\n")
    files["room.b"] = files.pop("b")
    files["a"].write_text("from nbhelpers.room import b\n")
    assert fingerprint.changes(before, path) == []
    files["room.b"].write_text("x = 2\n")
    assert fingerprint.changes(before, path) == ["room.b"]
    assert fingerprint.changes(before, notebook(tmp_path, "from nbhelpers import a\na.g()")) == ["notebook", "room.b"]
    assert fingerprint.changes(None, path) == ["notebook"]


def test_a_data_file_counts_where_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "repository_root", lambda: tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("used.json", "unused.json"):
        (tmp_path / "data" / name).write_text("1")
    path = notebook(tmp_path, "open('data/used.json')")
    before = fingerprint.of_notebook(path)
    assert list(before["data"]) == ["used.json"]
    (tmp_path / "data" / "unused.json").write_text("2")
    assert fingerprint.changes(before, path) == []
    (tmp_path / "data" / "used.json").write_text("2")
    assert fingerprint.changes(before, path) == ["used.json"]
