import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import datasets
import psutil
import pytest
from peft import LoraConfig
from study_jobs import after, die, fail, here, leave, meet, note, told

from nbhelpers.core import fingerprint, process
from nbhelpers.core.errors import NotebookError, ParameterError
from nbhelpers.core.hardware import CORES
from nbhelpers.core.storage import repository_root
from nbhelpers.studies import jobs

ONE, TWO = (SimpleNamespace(gpu=None, cores=cores, memory=32 * 2**30) for cores in (1, 2))


def run(tmp_path, hardware=ONE, **changes):
    parameters = SimpleNamespace(**{"resume": "auto", "seed": 0, "run_id": "a", "learning_rate": 1e-3} | changes)
    return SimpleNamespace(
        parameters=parameters, folder=tmp_path, hardware=hardware, manifest={"model_hash": "m", "data_hash": "d"},
        artifact=here,
    )  # fmt: skip


def ran(folder):
    path = folder / "ran.txt"
    return path.read_text().split() if path.exists() else []


def two_jobs(folder, **changes):
    values = {"one": 1, "two": 2} | changes
    return {name: partial(note, folder, name, value) for name, value in values.items()}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """A child process imports `study_jobs` by its name."""
    monkeypatch.setenv("PYTHONPATH", str(repository_root() / "tests"))


def test_each_job_runs_in_a_process_of_its_own_and_once(tmp_path, capsys):
    first = jobs.compute(run(tmp_path), two_jobs(tmp_path))
    assert {name: result["value"] for name, result in first.items()} == {"one": 1, "two": 2}
    assert len({os.getpid(), *(result["process"] for result in first.values())}) == 3
    assert jobs.compute(run(tmp_path), two_jobs(tmp_path)) == first
    assert ran(tmp_path) == ["one", "two"]
    assert "computed before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cores", "gib", "gpu", "expected"),
    [(2, 24, None, 2), (2, 12, None, 1), (1, 64, None, 1), (2, 4, None, 1), (16, 64, None, 8), (16, 64, "A100", 1)],
)
def test_as_many_jobs_at_a_time_as_cores_and_memory_allow(cores, gib, gpu, expected):
    assert jobs.at_once(SimpleNamespace(cores=cores, memory=gib * 2**30, gpu=gpu)) == expected


def test_two_jobs_at_a_time_share_the_cores(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    work = {name: partial(meet, tmp_path, name, other) for name, other in (("one", "two"), ("two", "one"))}
    four = SimpleNamespace(gpu=None, cores=4, memory=16 * 2**30)
    assert jobs.compute(run(tmp_path, four), work) == {name: {"OMP_NUM_THREADS": "2", CORES: "2"} for name in work}
    assert "2 jobs at a time, 2 of 4 cores each" in capsys.readouterr().out
    alone = jobs.compute(run(tmp_path), {"alone": partial(meet, tmp_path, "alone", "alone")})
    assert alone == {"alone": {"OMP_NUM_THREADS": None, CORES: None}}, "a job that runs alone has all cores"


def test_results_keep_the_order_of_the_jobs_and_what_needs_another_waits_for_it(tmp_path):
    second = partial(leave, tmp_path, folder=tmp_path / "second")
    parts = {"first": partial(leave, tmp_path, folder=tmp_path / "first", behind=tmp_path / "second"), "second": second}
    work = parts | {"sum": partial(after, tmp_path, "sum", list(parts.values()))}
    found = jobs.compute(run(tmp_path, TWO), work)
    assert list(found) == ["first", "second", "sum"], "although the second ended before the first"
    assert found["sum"]["value"] == [True, True]
    assert ran(tmp_path) == ["leave", "leave", "sum"]


@pytest.mark.parametrize("changes", [{"seed": 1}, {"learning_rate": 2e-3}], ids=lambda changes: next(iter(changes)))
def test_what_another_run_asked_for_is_computed_again_and_its_name_is_not(changes, tmp_path):
    for its_run in (run(tmp_path), run(tmp_path, run_id="b"), run(tmp_path, **changes)):
        jobs.compute(its_run, {"one": partial(told, tmp_path, "one", its_run)})
    assert ran(tmp_path) == ["one", "one"]


def test_other_seeds_are_other_jobs_of_one_study(tmp_path):
    work = {f"seed {seed}": partial(told, tmp_path, f"{seed}", run(tmp_path, seed=seed)) for seed in (0, 1)}
    assert jobs.compute(run(tmp_path), work) == {"seed 0": {"seed": 0}, "seed 1": {"seed": 1}}
    jobs.compute(run(tmp_path), work)
    assert ran(tmp_path) == ["0", "1"]


def test_without_resuming_all_is_computed_again(tmp_path):
    for resume in ("auto", "auto", "never"):
        jobs.compute(run(tmp_path, resume=resume), two_jobs(tmp_path))
    assert ran(tmp_path) == ["one", "two", "one", "two"]


def test_another_machine_computes_anew(tmp_path):
    for cores in (2, 2, 4):
        its_run = run(tmp_path)
        its_run.manifest["hardware"] = {"cores": cores}
        jobs.compute(its_run, two_jobs(tmp_path))
    assert ran(tmp_path) == ["one", "two", "one", "two"]


def test_files_that_a_job_left_and_that_are_gone_are_made_again(tmp_path):
    work = {"one": partial(leave, tmp_path, folder=tmp_path / "left")}
    jobs.compute(run(tmp_path), work)
    jobs.compute(run(tmp_path), work)
    shutil.rmtree(tmp_path / "left")
    jobs.compute(run(tmp_path), work)
    assert ran(tmp_path) == ["leave", "leave"]


def test_only_the_job_whose_arguments_changed_is_computed_again(tmp_path):
    jobs.compute(run(tmp_path), two_jobs(tmp_path))
    found = jobs.compute(run(tmp_path), two_jobs(tmp_path, two=3))
    assert found["two"]["value"] == 3
    assert ran(tmp_path) == ["one", "two", "two"]


def test_a_job_is_computed_again_when_any_module_of_the_package_changed(tmp_path, monkeypatch):
    module = tmp_path / "retention.py"
    monkeypatch.setattr(fingerprint, "module_files", lambda: {"a_room.retention": module})
    for share in (0.15, 0.15, 0.2):
        module.write_text(f"share = {share}")
        jobs.compute(run(tmp_path), two_jobs(tmp_path))
    assert ran(tmp_path) == ["one", "two", "one", "two"]


def test_a_probe_that_was_changed_is_another_input(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "repository_root", lambda: tmp_path)
    (tmp_path / "data").mkdir()
    digests = []
    for text in ("[1]", "[1]", "[2]"):
        (tmp_path / "data" / "probes.json").write_text(text)
        digests.append(jobs._digest(run(None), partial(note, 1)))
    assert digests[0] == digests[1] != digests[2]


def test_what_was_left_out_is_said(tmp_path, capsys):
    jobs.compute(run(tmp_path), {"large": partial(note, tmp_path, "large", 0, left_out="will not fit")})
    assert "large is left out: will not fit" in capsys.readouterr().out


def test_arguments_are_told_apart_by_what_they_say():
    def digest(*arguments):
        return jobs._digest(run(None), partial(note, *arguments))

    rows = [datasets.Dataset.from_list([{"x": x}]) for x in (1, 1, 2)]
    assert digest(rows[0]) == digest(rows[1]) != digest(rows[2])
    targets = [["q_proj", "v_proj"], ["v_proj", "q_proj"], ["q_proj"]]
    one, same, other = (digest(LoraConfig(target_modules=names)) for names in targets)
    assert one == same != other
    assert digest(partial(note, rows[0])) == digest(partial(note, rows[1])) != digest(partial(fail, rows[0]))
    with pytest.raises(TypeError, match="cannot be an argument of a job"):
        digest(object())


@pytest.mark.parametrize("hardware", [ONE, TWO], ids=["one at a time", "two"])
def test_a_failed_job_is_named_with_its_reason_and_the_others_are_computed(hardware, tmp_path):
    work = {"bad": partial(fail, "no such luck")} | two_jobs(tmp_path)
    with pytest.raises(NotebookError, match="bad: fail failed in its process: ValueError: no such luck") as caught:
        jobs.compute(run(tmp_path, hardware), work)
    log = next((tmp_path / "artifacts" / "study").glob("bad-*.log"))
    assert str(log) in str(caught.value)
    assert "Traceback" in log.read_text()
    assert not (tmp_path / "artifacts" / "study.json").exists()
    jobs.compute(run(tmp_path, hardware), two_jobs(tmp_path))
    assert sorted(ran(tmp_path)) == ["one", "two"]


def test_a_name_with_a_dot_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ParameterError, match=r"with a dot: rank 0\.5"):
        jobs.compute(run(tmp_path), two_jobs(tmp_path) | {"rank 0.5": partial(fail, "no")})
    assert ran(tmp_path) == []


def test_names_in_another_script_have_files_of_their_own():
    names = ["LoRA, \u6458\u8981 only", "LoRA, \u53c2\u6570 only", "LoRA, only", "lora only"]
    assert len({jobs.slug(name) for name in names}) == 4
    assert all(jobs.slug(name).isascii() for name in names)


def test_a_killed_job_is_told(tmp_path):
    with pytest.raises(NotebookError, match=r"killed by signal 9, .* memory runs out: .* lower per_device_train_batch"):
        process.call(partial(die), tmp_path / "log.txt")


def test_what_a_failed_job_says_is_told_whole(tmp_path):
    with pytest.raises(NotebookError, match=r"ValueError: Out of memory:\n  - halve the batch\. What it printed"):
        process.call(partial(fail, "Out of memory:\n  - halve the batch"), tmp_path / "log.txt")
    assert not list(tmp_path.glob("*.pickle"))


def test_a_process_that_ends_before_it_was_given_its_job_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(NotebookError, match="note failed in its process: it printed nothing"):
        process.call(partial(note, tmp_path, "x" * 2**20), tmp_path / "log.txt")


def test_a_job_ends_with_the_process_that_began_it(tmp_path):
    """A kernel that is restarted or killed must not leave its trainings behind, on memory that the next one needs."""
    begin = (
        "import functools, pathlib, sys, study_jobs; from nbhelpers.core import process; "
        "folder = pathlib.Path(sys.argv[1]); "
        "process.call(functools.partial(study_jobs.linger, folder), folder / 'log.txt')"
    )
    parent = subprocess.Popen([sys.executable, "-c", begin, str(tmp_path)], cwd=repository_root())
    job = int(soon(lambda: ran(tmp_path))[0])
    assert not gone(job)
    parent.kill()
    parent.wait()
    assert soon(lambda: gone(job))


def gone(process):
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def soon(what, seconds=600):
    """What a function returns once that is something; what it returned last if it takes too long."""
    end = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def test_a_result_that_is_half_written_is_computed_again(tmp_path):
    jobs.compute(run(tmp_path), two_jobs(tmp_path))
    path = next((tmp_path / "artifacts" / "study").glob("one-*.json"))
    path.write_text(path.read_text()[:-20])
    jobs.compute(run(tmp_path), two_jobs(tmp_path))
    assert ran(tmp_path) == ["one", "two", "one"]


def test_a_result_that_json_cannot_hold_leaves_nothing_behind(tmp_path):
    work = {"bad": partial(note, tmp_path, "bad", float("nan"))}
    with pytest.raises(ValueError, match="JSON"):
        jobs.compute(run(tmp_path), work)
    assert not list((tmp_path / "artifacts" / "study").glob("*.json"))


def test_the_results_of_a_study_come_back_from_its_reference(tmp_path, monkeypatch, capsys):
    work = {"one": partial(note, tmp_path, "one", 1 / 3, scores=[0.123456789, 1.0])}
    jobs.compute(run(tmp_path, model_id="m", dataset="d", max_steps=7), work)
    kept = json.loads((tmp_path / "artifacts" / "study.json").read_text())["results"]
    assert kept["one"]["value"] == 0.333333
    assert kept["one"]["scores"] == [0.123457, 1.0]
    folder = tmp_path / "outputs" / "reference" / "studies" / "02"
    folder.mkdir(parents=True)
    (tmp_path / "artifacts" / "study.json").rename(folder / "study.json")
    manifest = {"started_at": "2026-01-02T03", "resolved": {"max_steps": 14}, "dtype": "float32"}
    manifest["hardware"] = {"cpu": "a CPU", "cores": 2}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(jobs, "repository_root", lambda: tmp_path)
    assert jobs.reference("02") == kept
    assert "2026-01-02: m on d, 7 steps, None rows a task scored, float32, a CPU, 2 cores\n" in capsys.readouterr().out
    (folder / "manifest.json").write_text(json.dumps(manifest | {"note": "before x was mended"}))
    assert jobs.reference("02") == kept
    assert "a CPU, 2 cores; before x was mended\n" in capsys.readouterr().out
    with pytest.raises(NotebookError, match="study='full'"):
        jobs.reference("03")
