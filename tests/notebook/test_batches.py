"""Batches on real faults: sweeps, several notebooks at a time, what is done already, and what goes wrong."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from small_notebooks import alive, count_runs, note_pid, run, runs, write

from nbhelpers.core import redaction, storage
from nbhelpers.core.errors import NotebookError, ParameterError
from nbhelpers.notebook import copies, launch, plan, report, suite, usage
from nbhelpers.notebook.command_line import main


def statuses(results) -> list[str]:
    return [result.status for result in results]


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())["metrics"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A grid of four points, two at a time: (results, folder of the sweep)."""
    folder = tmp_path_factory.mktemp("sweep")
    path = write(folder, "01_a", "import os; print(os.environ['OMP_NUM_THREADS'])")
    points = plan.grid(["learning_rate=1e-4,2e-4", "max_steps=8,16"])
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS", raising=False)
        results = run([path], folder / "out", "smoke", "sweep", points=points, jobs=2)
    return results, folder / "out" / "sweep"


def test_every_point_of_a_grid_is_a_run_of_its_own(sweep):
    results, folder = sweep
    assert statuses(results) == ["completed"] * 4, results
    for rate in ("1e-4", "2e-4"):
        for steps in (8, 16):
            place = folder / f"learning_rate-{rate}_max_steps-{steps}" / "01_a"
            assert metrics(place)["result"]["value"] == pytest.approx(float(rate) * steps)
    entries = json.loads((folder / "suite.json").read_text())
    assert len({entry["point"] for entry in entries}) == 4


def test_notebooks_at_a_time_share_the_cores(sweep):
    _, folder = sweep
    printed = set()
    for path in folder.glob("*/01_a/01_a.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        (cell,) = [cell for cell in cells if cell.id == "cell-0"]
        printed |= {output.text.strip() for output in cell.outputs}
    assert printed == {str(max(1, os.cpu_count() // 2))}


def test_a_result_says_what_its_processes_used(sweep):
    for result in sweep[0]:
        assert result.peak_memory_bytes > 20e6  # Python alone
        assert result.cores_used > 0


def test_what_is_done_is_not_run_again_and_each_change_says_why(tmp_path):
    ran, file = tmp_path / "ran", tmp_path / "rows.txt"
    file.write_text("one")
    path = write(tmp_path, "01_a", count_runs(ran))

    def again(**changes) -> str:
        stream = io.StringIO()
        (result,) = run([path], tmp_path / "out", parameters={"label": str(file)} | changes, stream=stream)
        assert result.status == "completed"
        return stream.getvalue()

    assert "again" not in again()
    assert "01_a is done: same code" in again()
    assert runs(ran) == 1
    assert "runs again: max_steps 1 -> 2" in again(max_steps=2)
    assert "runs again: max_steps 2 -> 1" in again()
    file.write_text("two")
    assert "runs again: the content of label" in again()
    path = write(tmp_path, "01_a", count_runs(ran), "1 + 1")
    assert "runs again: the notebook's code" in again()
    (tmp_path / "out" / "default" / "01_a" / "metrics.json").unlink()
    assert "runs again: it has not completed" in again()
    assert runs(ran) == 6
    assert "is done" in again()


def test_another_version_of_a_library_is_named():
    before = {"code": {"cells": "a", "modules": {"core.run": "1"}, "data": {}}, "parameters": {},
              "versions": {"torch": "2.12.0"}, "inputs": {}, "before": {}}  # fmt: skip
    now = json.loads(json.dumps(before))
    assert launch.differences(before, now) == []
    now["versions"]["torch"], now["code"]["modules"]["core.run"] = "2.13.0", "2"
    assert launch.differences(before, now) == ["torch '2.12.0' -> '2.13.0'", "module core.run"]
    for unknown in (None, {}, {"versions": {}}):
        assert launch.differences(unknown, now) == ["what it was started with is not known"]


@pytest.mark.slow
def test_what_uses_a_notebook_goes_behind_it_and_runs_again_with_it(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    order = tmp_path / "order"
    paths = [
        write(tmp_path, "02_b", count_runs(second), f"print(open({str(order)!r}).read())", after=("01_a", "00_gone")),
        write(tmp_path, "01_a", count_runs(first), f"import time; time.sleep(1); open({str(order)!r}, 'w').write('x')"),
    ]
    assert statuses(run(paths, tmp_path / "out", jobs=2)) == ["completed", "completed"]
    write(tmp_path, "01_a", count_runs(first), "2")
    stream = io.StringIO()
    run(paths, tmp_path / "out", stream=stream)
    assert "02_b runs again: 01_a ran again" in stream.getvalue()
    assert (runs(first), runs(second)) == (2, 2)


@pytest.mark.slow
def test_a_notebook_that_failed_is_tried_again_as_often_as_asked(tmp_path):
    ran = tmp_path / "ran"
    third = f"assert len(open({str(ran)!r}).readlines()) == 3"
    path = write(tmp_path, "01_a", count_runs(ran), third)
    (result,) = run([path], tmp_path / "out", retry=1)
    assert (result.status, result.attempts, runs(ran)) == ("failed", 2, 2)
    stream = io.StringIO()
    (result,) = run([path], tmp_path / "out", retry=1, stream=stream)
    assert (result.status, result.attempts) == ("completed", 1)
    assert "01_a runs again: it has not completed" in stream.getvalue()


@pytest.mark.slow
def test_a_notebook_that_holds_too_much_memory_is_stopped(tmp_path):
    hungry = (
        note_pid(tmp_path / "kernel") + "\nheld = []\nwhile True:\n    held.append(b'x' * 50_000_000); time.sleep(0.05)"
    )
    paths = [write(tmp_path, "01_hungry", hungry), write(tmp_path, "02_modest", "print(1)")]
    first, second = run(paths, tmp_path / "out", memory_bytes=int(1.5e9))
    assert (first.status, second.status) == ("failed", "completed")
    assert "more than the limit of 1.40 GiB" in first.reason
    assert first.cell["id"] == "cell-0"
    assert first.peak_memory_bytes > 1.5e9
    assert not alive(tmp_path / "kernel")


@pytest.mark.slow
def test_a_batch_ends_when_it_has_cost_too_much(tmp_path):
    paths = [write(tmp_path, name, "import time; time.sleep(1200)") for name in ("01_a", "02_b")]
    results = run(paths, tmp_path / "out", max_dollars=0.01, dollars_per_hour=36.0)  # a cent is a second
    assert statuses(results) == ["interrupted", "not run"]
    assert all("more than the limit of $0.01" in result.reason for result in results)


def start(paths: list[Path], folder: Path, *options: str) -> subprocess.Popen:
    """The command line as a process of its own."""
    command = [sys.executable, "-m", "nbhelpers", "run", *map(str, paths), "--output-dir", str(folder), *options]
    return subprocess.Popen(command, cwd=storage.repository_root(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for(condition, process=None, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_runner_leaves_nothing_running_and_the_same_command_finishes(tmp_path):
    ran, kernel = tmp_path / "ran", tmp_path / "kernel"
    waits = f"if len(open({str(ran)!r}).readlines()) == 1: time.sleep(1200)"
    done = write(tmp_path, "01_done", count_runs(tmp_path / "done"))
    path = write(tmp_path, "02_a", note_pid(kernel), count_runs(ran), waits)
    process = start([done, path], tmp_path / "out")
    wait_for(lambda: runs(ran) == 1, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not alive(kernel))
    partial = nbformat.read(tmp_path / "out" / "default" / "02_a" / "02_a.ipynb", as_version=4)
    assert partial.cells[2].execution_count or partial.cells[3].execution_count
    assert not (tmp_path / "out" / "default" / "02_a" / "metrics.json").exists()
    assert statuses(run([done, path], tmp_path / "out")) == ["completed", "completed"]
    assert (runs(tmp_path / "done"), runs(ran)) == (1, 2)


@pytest.mark.slow
def test_a_notebook_that_is_interrupted_may_save_what_it_has(tmp_path):
    saves = f"""
import signal
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
pathlib.Path({str(tmp_path / "ready")!r}).touch()
while not told:
    time.sleep(0.05)
time.sleep(1)
pathlib.Path({str(tmp_path / "saved")!r}).write_text("whole")
"""
    path = write(tmp_path, "01_a", note_pid(tmp_path / "kernel") + saves, "raise ValueError('stopped')")
    process = start([path], tmp_path / "out")
    wait_for(lambda: (tmp_path / "ready").exists(), process)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=600)
    assert process.returncode == 130
    assert (tmp_path / "saved").read_text() == "whole"
    (entry,) = json.loads((tmp_path / "out" / "default" / "suite.json").read_text())
    assert (entry["status"], entry["reason"]) == ("interrupted", "interrupted by the user")
    assert not alive(tmp_path / "kernel")


def catches_sigterm(process: psutil.Process) -> bool:
    caught = Path(f"/proc/{process.pid}/status").read_text().split("SigCgt:")[1].split()[0]
    return bool(int(caught, 16) >> signal.SIGTERM - 1 & 1)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc says what signals a process catches")
def test_a_notebook_that_is_taken_away_while_it_trains_ends_like_one_that_was_not(tmp_path):
    notebook = storage.repository_root() / "notebooks" / "02_peft_qlora.ipynb"
    process = start([notebook], tmp_path, "--profile", "smoke", "--run-id", "again")

    def trains() -> bool:  # only a training catches SIGTERM
        with contextlib.suppress(psutil.Error, OSError):  # one that has ended while it is looked at
            kernels = psutil.Process(process.pid).children(recursive=True)
            return any("ipykernel_launcher" in kernel.cmdline() and catches_sigterm(kernel) for kernel in kernels)
        return False

    wait_for(trains, process)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=600)
    folder = tmp_path / "again" / notebook.stem
    assert not (folder / "metrics.json").exists()
    assert list(folder.glob("artifacts/checkpoints/LoRA/checkpoint-*"))
    for run_id in ("again", "whole"):
        assert statuses(run([notebook], tmp_path, "smoke", run_id)) == ["completed"]
    again, whole = metrics(folder), metrics(tmp_path / "whole" / notebook.stem)
    assert {name: x["value"] for name, x in again.items()} == {name: x["value"] for name, x in whole.items()}


@pytest.mark.slow
def test_two_batches_do_not_share_a_folder(tmp_path):
    path = write(tmp_path, "01_a", note_pid(tmp_path / "kernel") + "\ntime.sleep(1200)")
    process = start([path], tmp_path / "out")
    try:
        wait_for(lambda: (tmp_path / "kernel").exists(), process)
        with pytest.raises(NotebookError, match=r"Another batch is running in .*give another --run-id"):
            run([path], tmp_path / "out")
        other = write(tmp_path, "02_b", "1")
        assert statuses(run([other], tmp_path / "out", run_id="other")) == ["completed"]
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=600)
    assert process.returncode == 130


@pytest.fixture
def mounted(tmp_path):
    """Mounts a file system of two megabytes; a machine that allows no mounts cannot try this."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_a_failed_run_with_its_reason_and_spares_the_others(tmp_path, mounted):
    fills = f"open({str(mounted / 'fill')!r}, 'wb').write(b'x' * 10_000_000)"
    full = write(tmp_path, "02_full", "print('before')", fills)
    keeps = f"import os\nif os.path.exists({str(mounted / 'fill')!r}): os.remove({str(mounted / 'fill')!r})"
    paths = [write(tmp_path, "01_good", "print(1)"), full, write(tmp_path, "03_good", "print(3)")]
    results = run(paths[:2], mounted / "out")
    assert statuses(results) == ["completed", "failed"]
    assert "No space left on device" in results[1].reason
    partial = nbformat.read(mounted / "out" / "default" / "02_full" / "02_full.ipynb", as_version=4)
    assert [cell.outputs[0].text for cell in partial.cells if cell.id == "cell-0"] == ["before\n"]
    assert metrics(mounted / "out" / "default" / "01_good")
    (mounted / "fill").unlink()
    write(tmp_path, "02_full", "print('before')", keeps)
    assert statuses(run(paths, mounted / "out")) == ["completed"] * 3


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, mounted):
    path = write(tmp_path, "01_a", "1")
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    with pytest.raises(NotebookError, match="disk/out/default cannot be written to: Read-only file system"):
        run([path], mounted / "out")
    subprocess.run(["mount", "-o", "remount,rw", str(mounted)], check=True)
    (mounted / "out" / "default").mkdir(parents=True)
    (mounted / "out" / "default" / "01_a").write_text("a file in the way")
    results = run([path, write(tmp_path, "02_b", "1")], mounted / "out")
    assert statuses(results) == ["failed", "completed"]
    assert "cannot be written to" in results[0].reason


def test_a_corrupt_notebook_starts_nothing(tmp_path):
    path = write(tmp_path, "02_cut", "1")
    path.write_text(path.read_text()[:-40])
    with pytest.raises(NotebookError, match=r"02_cut.*is not a notebook"):
        run([write(tmp_path, "01_a", "1"), path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_all_that_is_wrong_with_the_points_is_said_at_once(tmp_path, monkeypatch):
    paths = [write(tmp_path, "01_a", "1"), write(tmp_path, "02_b", "1")]
    points = [{"max_stepz": 1}, {"learning_rate": 5.0}, {"label": "hf_abcdefghijklmnop"}, {"run_id": "x"}]
    with pytest.raises(ParameterError) as error:
        run(paths, tmp_path / "out", points=points)
    said = str(error.value)
    for part in ("01_a: max_stepz", "did you mean max_steps", "02_b: learning_rate=5.0 is outside", "01_a: label looks",
                 "HF_TOKEN", "run_id: set with"):  # fmt: skip
        assert part in said
    assert "abcdefgh" not in said
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")  # no form of its own tells it
    with pytest.raises(ParameterError, match="label looks like a secret"):
        run(paths, tmp_path / "out", points=[{"label": "0123456789abcdef"}])
    assert not (tmp_path / "out").exists()


def test_files_of_parameters_and_sweeps(tmp_path, capsys):
    path = write(tmp_path, "01_a", "1")
    (tmp_path / "given.yaml").write_text("learning_rate: 2e-5\nlabel: from file\n")
    (tmp_path / "sweep.json").write_text('[{"max_steps": 1}, {"max_steps": 2, "label": "own"}]')
    assert plan.parameters_file(tmp_path / "given.yaml") == {"learning_rate": "2e-5", "label": "from file"}
    options = ["--output-dir", str(tmp_path / "out"), "--parameters", str(tmp_path / "given.yaml"), "--dry-run"]
    options += ["--sweep", str(tmp_path / "sweep.json"), "--grid", "force=true,false", "--profile", "smoke"]
    assert main(["run", str(path), *options]) == 0
    printed = capsys.readouterr().out
    for point in ("max_steps-1_force-true/01_a", "max_steps-2_label-own_force-false/01_a", "4 to run: "):
        assert point in printed
    assert not (tmp_path / "out").exists()
    for content, message in (("- 1\n", "a list"), ("a: [", "neither YAML nor JSON"), ("a: 1\n", "should have a list")):
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(NotebookError, match=message):
            plan.sweep_file(tmp_path / "bad.yaml")
    with pytest.raises(NotebookError, match="cannot be read"):
        plan.parameters_file(tmp_path / "gone.yaml")
    for text in ("learning_rate", "=1", "a="):
        with pytest.raises(ParameterError, match="should read like"):
            plan.grid([text])


@pytest.mark.slow
def test_the_end_of_a_batch_calls_a_command_and_has_copied_the_results(tmp_path):
    path = write(tmp_path, "01_a", "1 / 0")
    options = ["--output-dir", str(tmp_path / "out"), "--on-end", f"echo $NBHELPERS_STATUS > {tmp_path / 'ended'}"]
    options += ["--copy-to", (tmp_path / "bucket").as_uri()]
    assert main(["run", str(path), *options]) == 1
    assert (tmp_path / "ended").read_text() == "failed\n"
    names = {file.relative_to(tmp_path / "bucket").as_posix() for file in (tmp_path / "bucket").rglob("*.*")}
    assert {"default/index.html", "default/results.csv", "default/suite.json", "default/01_a/01_a.ipynb"} <= names


def test_an_address_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "01_a").mkdir()
    (tmp_path / "01_a" / "metrics.json").write_text("{}")
    (tmp_path / "01_a" / "artifacts" / "checkpoints" / "checkpoint-8").mkdir(parents=True)
    (tmp_path / "01_a" / "artifacts" / "checkpoints" / "checkpoint-8" / "optimizer.pt").write_text("large")
    with pytest.raises(NotebookError, match="nosuch://bucket cannot be copied to"):
        copies.copy(tmp_path / "01_a", "nosuch://bucket")
    assert copies.copy(tmp_path / "01_a", "memory://bucket/run") == 1
    with pytest.raises(NotebookError, match="cannot be copied to"):
        copies.copy(tmp_path / "01_a", "/proc/nowhere")
    assert copies.fetch("memory://bucket/run", tmp_path / "back") == 1
    assert (tmp_path / "back" / "metrics.json").read_text() == "{}"
    assert copies.fetch("memory://bucket/nothing", tmp_path / "back") == 0
    with pytest.raises(NotebookError, match="nosuch://bucket cannot be read"):
        copies.fetch("nosuch://bucket", tmp_path / "back")


def test_a_notebook_names_no_folder_of_this_machine(tmp_path):
    root, home = storage.repository_root(), Path.home()
    text = f'"{root}/nbhelpers/a.py", "{root}", "{root}-other/b", "{home}/.cache/x", "/srv{home}/y"'
    expected = f'"nbhelpers/a.py", ".", "{root}-other/b", "~/.cache/x", "/srv{home}/y"'
    if not root.is_relative_to(home) and home != Path("/") and not root.is_relative_to(tempfile.gettempdir()):
        assert redaction.redact(text) == expected
    path = write(
        tmp_path,
        "01_a",
        "import pathlib, nbhelpers\nprint(pathlib.Path.home())\nraise ValueError(pathlib.Path(nbhelpers.__file__))",
    )
    (result,) = run([path], tmp_path / "out")
    texts = [file.read_text() for file in (tmp_path / "out" / "default").rglob("*") if file.is_file()]
    assert result.reason == "ValueError: nbhelpers/__init__.py"
    assert not [text for text in texts if f"{root}/" in text or f"{home}/" in text]


def test_the_gpu_is_asked_where_there_is_one(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 40; echo 60\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert shutil.which("nvidia-smi")
    assert usage.gpu_use() == [0.5]
    meter = usage.Meter()
    meter.look(os.getpid())
    assert meter.means(1.0)["gpu_used"] == 0.5


def test_what_goes_wrong_with_one_notebook_ends_no_other(tmp_path, monkeypatch):
    """A cell that is no Python, a value no path can have, a thread that raises: each is its own notebook's failure."""
    paths = [
        write(tmp_path, "01_shell", "found = !echo shell"),
        write(tmp_path, "02_b", "1"),
        write(tmp_path, "03_c", "1"),
    ]
    begin = suite.launch.facts

    def facts(path, *arguments):
        if path.stem == "02_b":
            raise RuntimeError("damaged")
        return begin(path, *arguments)

    monkeypatch.setattr(plan.launch, "facts", facts)
    results = run(paths, tmp_path / "out", parameters={"label": "~nobody/" + "x" * 400})
    assert statuses(results) == ["completed", "failed", "completed"]
    assert results[1].reason == "RuntimeError: damaged"
    assert len(json.loads((tmp_path / "out" / "default" / "suite.json").read_text())) == 3


def test_what_is_done_stays_done_when_another_notebook_stops_the_batch(tmp_path):
    ran = tmp_path / "ran"
    paths = [write(tmp_path, "01_a", "1"), write(tmp_path, "02_b", count_runs(ran))]
    run(paths, tmp_path / "out")
    write(tmp_path, "01_a", "1 / 0")
    assert statuses(run(paths, tmp_path / "out", fail_fast=True)) == ["failed", "completed"]
    write(tmp_path, "01_a", "2")
    assert statuses(run(paths, tmp_path / "out")) == ["completed", "completed"]
    assert runs(ran) == 1


@pytest.mark.parametrize("content", ["{}", "[1]", '[{"status": "completed"}]', '[{"notebook": "01_a", "sta', ""])
def test_a_damaged_record_costs_nothing(content, tmp_path):
    folder = tmp_path / "out" / "default"
    path, ran = write(tmp_path, "01_a", "1"), io.StringIO()
    folder.joinpath("01_a").mkdir(parents=True)
    storage.write_json(folder / "01_a" / "metrics.json", {"status": "completed", "measured": {"notebook_seconds": 7.0}})
    (task,) = plan.tasks([path], "auto", "default", tmp_path / "out", {}, [], tmp_path)
    storage.write_json(folder / "01_a" / launch.FILE, task.facts())
    launch.seal(folder / "01_a")
    (folder / "suite.json").write_text(content)
    (result,) = run([path], tmp_path / "out", stream=ran)
    assert (result.status, result.seconds) == ("completed", 7.0)
    assert "01_a is done" in ran.getvalue()
    assert report.write_index(folder).exists()


def test_notebooks_in_a_circle_are_refused(tmp_path):
    paths = [write(tmp_path, "01_a", "1", after=("02_b",)), write(tmp_path, "02_b", "1", after=("01_a",))]
    with pytest.raises(NotebookError, match="behind each other in a circle"):
        run(paths, tmp_path / "out")
    with pytest.raises(ParameterError, match="committed results"):
        plan.tasks(paths[:1], "auto", "reference", "outputs", {}, [], tmp_path)


def test_a_closed_pipe_does_not_end_a_batch(tmp_path):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    assert statuses(run([write(tmp_path, "01_a", "1")], tmp_path / "out", stream=Closed())) == ["completed"]


def test_secrets_are_not_in_results_whatever_printed_them(tmp_path, monkeypatch):
    root = storage.repository_root()
    monkeypatch.setenv("HF_TOKEN", "plain-but-secret")
    token = "hf_" + "Q" * 30
    prints = (
        f"import os\nprint(os.environ['HF_TOKEN'], '{token[:5]}' + '{token[5:]}', 'https://me:passw' + '0rd@host/x')"
    )
    fails = "from nbhelpers.core import statistics\nstatistics.estimate([])"
    (result,) = run([write(tmp_path, "01_a", prints, fails)], tmp_path / "out")
    assert result.status == "failed"
    report.write_index(tmp_path / "out" / "default")
    text = "".join(file.read_text() for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert text.count("<secret> <secret> https://<secret>@host/x") >= 1
    for hidden in ("plain-but-secret", token, "passw0rd", f"{root}/", f"{tmp_path}/"):
        assert hidden not in text, hidden
    assert "nbhelpers/core/statistics.py" in text  # the traceback is still of use
    assert redaction.redact(f"\x1b[32m{root}/a.py\x1b[39m") == "\x1b[32ma.py\x1b[39m"


def test_wrong_options_are_refused_and_the_end_is_called_all_the_same(tmp_path, capsys):
    path = str(write(tmp_path, "01_a", "1"))
    for options in (["--retry", "-1"], ["--jobs", "0"], ["--timeout", "nan"], ["--max-dollars", "0"]):
        with pytest.raises(SystemExit):
            main(["run", path, "--output-dir", str(tmp_path / "out"), *options])
        assert "is not a" in capsys.readouterr().err
    ended = ["--on-end", f"echo $NBHELPERS_STATUS > {tmp_path / 'ended'}", "--output-dir", str(tmp_path / "out")]
    assert main(["run", path, "-p", "nope", "1", *ended]) == 2
    assert (tmp_path / "ended").read_text() == "failed\n"
    twice = ["--grid", "max_steps=1,2", "--grid", "force=true,false", "--dry-run"]
    assert main(["run", path, "--output-dir", str(tmp_path / "out"), *twice]) == 0
    assert "4 to run" in capsys.readouterr().out
    (tmp_path / "twice.yaml").write_text("max_steps: 1\nmax_steps: 2\n")
    with pytest.raises(NotebookError, match="'max_steps' is there twice"):
        plan.parameters_file(tmp_path / "twice.yaml")


@pytest.mark.slow
def test_a_hundred_launches_four_at_a_time_all_complete(tmp_path):
    path = write(tmp_path, "01_a", "print(1)")
    points = [{"max_steps": 1 + i} for i in range(100)]
    results = run([path], tmp_path / "out", points=points, jobs=4)
    assert statuses(results) == ["completed"] * 100
    values = [
        metrics(tmp_path / "out" / "default" / f"max_steps-{1 + i}" / "01_a")["result"]["value"] for i in range(100)
    ]
    assert values == [pytest.approx(1e-3 * (1 + i)) for i in range(100)]
