"""A run against the reference, and two runs against each other."""

import json

import pytest

from nbhelpers.core.errors import NotebookError
from nbhelpers.notebook import command_line, verdicts


def write(run, name: str, metrics: dict, **resolved):
    folder = run / name
    folder.mkdir(parents=True, exist_ok=True)
    entries = {
        key: {"value": value[0], "low": value[1], "high": value[2]} if isinstance(value, tuple) else {"value": value}
        for key, value in metrics.items()
    }
    (folder / "metrics.json").write_text(json.dumps({"status": "completed", "metrics": entries}))
    (folder / "manifest.json").write_text(json.dumps({"resolved": {"profile": "cpu", "seed": 0} | resolved}))
    return folder


@pytest.mark.parametrize(
    ("mine", "theirs", "beyond"),
    [
        ((0.45, 0.36, 0.54), (0.50, 0.41, 0.59), 0),
        ((0.45, 0.36, 0.54), (0.80, 0.70, 0.90), 0.16),
        ((0.80, 0.70, 0.90), (0.45, 0.36, 0.54), 0.16),
        (100, 100.05, 0),
        (100, 101, 0.799),
        (0.0, 0.0, 0),
        ((0.45, 0.36, 0.54), 0.6, 0.0594),
    ],
)
def test_spans_that_overlap_agree_and_others_say_how_far_they_are_apart(mine, theirs, beyond, tmp_path):
    folders = [write(tmp_path / run, "02", {"score": value}) for run, value in (("a", mine), ("b", theirs))]
    (found,) = verdicts.differences(*folders)
    assert found.beyond == pytest.approx(beyond, abs=1e-3)


def test_a_check_names_what_is_outside_and_what_cannot_be_compared(tmp_path):
    run, reference = tmp_path / "run", tmp_path / "reference"
    write(run, "01", {"rows": 7, "recall": (0.9, 0.8, 1.0)})
    write(reference, "01", {"rows": 7, "recall": (0.95, 0.9, 1.0), "gone": 1})
    assert verdicts.check(run, reference) == (["01: 2 of 2 metrics as expected", "  gone is not in this run"], False)
    write(reference, "01", {"rows": 7, "recall": (0.95, 0.9, 1.0)})
    assert verdicts.check(run, reference) == (["01: 2 of 2 metrics as expected"], True)
    write(run, "02", {"score": (0.1, 0.0, 0.2)})
    write(reference, "02", {"score": (0.5, 0.4, 0.6)})
    write(run, "03", {"score": 1}, seed=5)
    write(reference, "03", {"score": 2})
    write(run, "own", {"score": 1})
    lines, good = verdicts.check(run, reference)
    assert not good
    assert lines[1:] == [
        "02: 0 of 1 metrics as expected",
        "  02  score: 0.1, expected 0.5: outside by 0.2",
        "03: not compared, it ran with seed 5 instead of 0",
        "own: no reference",
    ]
    with pytest.raises(NotebookError, match="no completed notebook"):
        verdicts.check(tmp_path, reference)


def test_speeds_are_a_machine_s_and_a_smaller_error_is_as_expected(tmp_path):
    entries = {"LoRA.tokens_per_second": {"value": 100}, "difference": {"value": 1e-4, "higher_is_better": False}}
    for run, scale in (("a", 1), ("b", 3)):
        folder = write(tmp_path / run, "02", {})
        scaled = {name: entry | {"value": scale * entry["value"]} for name, entry in entries.items()}
        (folder / "metrics.json").write_text(json.dumps({"status": "completed", "metrics": scaled}))
    folders = tmp_path / "a" / "02", tmp_path / "b" / "02"
    assert [d.beyond for d in verdicts.differences(*folders)] == [0]
    assert verdicts.differences(*reversed(folders))[0].beyond > 0


def test_a_run_of_which_nothing_was_compared_or_one_part_failed_is_not_as_expected(tmp_path):
    write(tmp_path / "own", "mine", {"score": 1})
    assert verdicts.check(tmp_path / "own", tmp_path) == (["mine: no reference", "nothing could be compared"], False)
    write(tmp_path / "reference", "02", {"score": 1})
    sweep = write(tmp_path / "sweep", "lora_rank-8/02", {"score": 1}).parents[1]
    entry = {"notebook": "02", "point": "lora_rank-8", "status": "completed"}
    (sweep / "suite.json").write_text(json.dumps([entry]))
    assert verdicts.check(sweep, tmp_path / "reference") == (["lora_rank-8/02: 1 of 1 metrics as expected"], True)
    assert verdicts.compare(sweep, sweep)[0].startswith("lora_rank-8/02: 0 of 1 metrics differ")
    failed = {"notebook": "02", "point": "lora_rank-16", "status": "failed"}
    (sweep / "suite.json").write_text(json.dumps([entry, failed]))
    lines, good = verdicts.check(sweep, tmp_path / "reference")
    assert lines[0] == "lora_rank-16/02: failed"
    assert not good


def test_two_runs_are_compared_on_what_they_share(tmp_path, capsys):
    write(tmp_path / "a", "02", {"x": (1, 0.5, 1.5), "y": 3}, lora_rank=8, run_id="a")
    write(tmp_path / "b", "02", {"x": (4, 3.5, 4.5), "y": 3}, lora_rank=64, run_id="b")
    write(tmp_path / "c", "03", {"x": 1})
    assert command_line.main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "02: 1 of 2 metrics differ beyond noise; lora_rank: 8 and 64",
        "  x: 1 and 4",
    ]
    assert command_line.main(["compare", str(tmp_path / "a"), str(tmp_path / "c")]) == 2
    assert "have no completed notebook in common" in capsys.readouterr().err
