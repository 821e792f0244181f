"""Which notebooks run again: why, in which order, within which time."""

import json
import subprocess

import pytest

from nbhelpers.core import fingerprint, storage
from nbhelpers.notebook import staleness
from nbhelpers.notebook.command_line import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A repository of five notebooks whose references are current, each of 60 s under `cpu`; all import `core.run`."""
    monkeypatch.setattr(storage, "repository_root", lambda: tmp_path)
    for i in range(1, 6):
        name = f"0{i}_a"
        write(tmp_path, name, "from nbhelpers.core import run")
        target = tmp_path / "outputs" / "reference" / name
        storage.write_json(target / "code.json", fingerprint.of_notebook(tmp_path / "notebooks" / f"{name}.ipynb"))
        storage.write_json(target / "metrics.json", {"measured": {"notebook_seconds": 60.0}})
        storage.write_json(target / "manifest.json", {"resolved": {"profile": "cpu"}})
    return tmp_path


def write(root, name: str, source: str) -> None:
    cell = {"cell_type": "code", "id": "code", "metadata": {}, "source": source}
    storage.write_json(root / "notebooks" / f"{name}.ipynb", {"nbformat": 4, "cells": [cell]})


def change_module(root, name: str) -> None:
    """The reference of a notebook was made with another `core.run`."""
    path = root / "outputs" / "reference" / name / "code.json"
    content = json.loads(path.read_text())
    content["modules"]["core.run"] = "another"
    storage.write_json(path, content)


def stale(root, turn=0):
    notebooks = sorted((root / "notebooks").glob("*.ipynb"))
    return staleness.stale_notebooks(notebooks, root / "outputs" / "reference", turn)


def names(group) -> list[str]:
    return [x.path.stem for x in group]


def test_nothing_is_stale_where_nothing_changed(folder, capsys):
    assert stale(folder) == []
    assert main(["stale"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "\n"
    assert "nothing to run" in printed.err


def test_own_code_comes_first_and_each_turn_begins_with_another(folder):
    for name in ("01_a", "02_a", "03_a"):
        change_module(folder, name)
    for name in ("04_a", "05_a"):
        write(folder, name, "x = 1")
    found = stale(folder)
    assert [x.changed for x in found] == [["notebook"], ["notebook"], ["core.run"], ["core.run"], ["core.run"]]
    orders = [names(stale(folder, turn)) for turn in range(6)]
    assert orders[0] == ["04_a", "05_a", "01_a", "02_a", "03_a"]
    assert orders[1] == ["05_a", "04_a", "02_a", "03_a", "01_a"]
    assert {order[0] for order in orders} == {"04_a", "05_a"}
    assert {order[2] for order in orders} == {"01_a", "02_a", "03_a"}


def test_a_notebook_costs_twice_its_reference_and_without_one_the_longest_allowed(folder):
    change_module(folder, "01_a")
    (folder / "outputs" / "reference" / "02_a" / "code.json").unlink()  # a reference of an earlier kind
    write(folder, "06_new", "x = 1")
    manifest = folder / "outputs" / "reference" / "03_a" / "manifest.json"
    storage.write_json(manifest, {"resolved": {"profile": "a100"}})  # its time says nothing about this machine
    change_module(folder, "03_a")
    seconds = {x.path.stem: x.seconds for x in stale(folder)}
    assert seconds == {"01_a": 120.0, "02_a": 120.0, "03_a": 720.0, "06_new": 720.0}


def test_the_budget_is_spent_in_order(folder):
    for name in ("01_a", "02_a", "03_a"):
        change_module(folder, name)
    storage.write_json(folder / "outputs/reference/02_a/metrics.json", {"measured": {"notebook_seconds": 100.0}})
    for budget, expected in (
        (119, []),
        (240, ["01_a", "03_a"]),
        (320, ["01_a", "02_a"]),
        (440, ["01_a", "02_a", "03_a"]),
    ):
        chosen, left = staleness.within(stale(folder), budget)
        assert names(chosen) == expected
        assert sorted(names(chosen + left)) == ["01_a", "02_a", "03_a"]
    assert staleness.within([], 100) == ([], [])


def test_the_command_names_what_to_run_and_says_why(folder, capsys):
    change_module(folder, "01_a")
    write(folder, "02_a", "x = 1")
    assert main(["stale", "--budget", "3"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "02_a\n"
    assert printed.err.splitlines() == [
        "to run: 02_a (up to 2 min 00 s): its own code",
        "left for the next time: 01_a (up to 2 min 00 s): core.run",
    ]
    assert main(["stale"]) == 0
    assert capsys.readouterr().out == "02_a 01_a\n"


def test_the_turn_is_the_number_of_commits_and_in_a_shallow_clone_its_hash(tmp_path):
    def git(*arguments, folder=tmp_path / "whole"):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    (tmp_path / "whole").mkdir()
    assert staleness.commit_turn(tmp_path / "whole") == 0
    git("init")
    for i in range(3):
        git("commit", "--allow-empty", "-m", str(i))
    assert staleness.commit_turn(tmp_path / "whole") == 3
    git("clone", "--depth", "1", (tmp_path / "whole").as_uri(), "shallow", folder=tmp_path)
    assert staleness.commit_turn(tmp_path / "shallow") == int(git("rev-parse", "HEAD"), 16)


def test_a_reference_of_a_slow_machine_leaves_no_notebook_out_for_ever(folder):
    change_module(folder, "02_a")
    storage.write_json(folder / "outputs/reference/02_a/metrics.json", {"measured": {"notebook_seconds": 3_000.0}})
    (found,) = stale(folder)
    assert found.seconds == staleness.LONGEST_SECONDS < 40 * 60
