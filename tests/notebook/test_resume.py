"""What stands of an earlier run, and what a run that was disturbed comes to when the same command is given again."""

import io
import json
import shutil
import signal
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from small_notebooks import FINISH, count_runs, run, runs, write
from test_batches import metrics, mounted, start, statuses, wait_for  # noqa: F401 - a fixture

from nbhelpers.core import storage
from nbhelpers.core.errors import NotebookError
from nbhelpers.notebook import attempts, copies, executors, launch, notebook_page, plan, report, runner, suite

NOTEBOOK = storage.repository_root() / "notebooks" / "02_peft_qlora.ipynb"


def test_what_failed_after_it_wrote_its_metrics_is_not_done(tmp_path):
    path = write(tmp_path, "01_a", FINISH.format(name="01_a").strip(), "1 / 0", finish=False)
    for _ in range(2):
        (result,) = run([path], tmp_path / "out")
        assert (result.status, result.reason) == ("failed", "ZeroDivisionError: division by zero")
        assert metrics(tmp_path / "out" / "default" / "01_a")


def test_metrics_of_a_run_by_hand_are_not_those_of_the_batch(tmp_path):
    path, stream = write(tmp_path, "01_a", "1"), io.StringIO()
    run([path], tmp_path / "out")
    by_hand = {"status": "completed", "metrics": {"result": {"value": 64}}}
    storage.write_json(tmp_path / "out" / "default" / "01_a" / "metrics.json", by_hand)
    run([path], tmp_path / "out", stream=stream)
    assert "01_a runs again: its metrics.json is of a run by hand" in stream.getvalue()
    assert metrics(tmp_path / "out" / "default" / "01_a")["result"]["value"] == 1e-3


def test_auto_counts_as_the_profile_that_it_means(tmp_path):
    path = write(tmp_path, "01_a", "1")
    (task,) = plan.tasks([path], "auto", "default", tmp_path, {}, [], tmp_path)
    assert task.facts()["parameters"]["profile"] == "cpu"


def test_a_fresh_machine_finds_what_another_has_copied(tmp_path):
    ran, address = tmp_path / "ran", (tmp_path / "bucket").as_uri()
    paths = [write(tmp_path, "01_a", count_runs(ran)), write(tmp_path, "02_b", "1", after=("01_a",))]
    assert statuses(run(paths[:1], tmp_path / "out", copy_to=address)) == ["completed"]
    shutil.rmtree(tmp_path / "out")
    stream = io.StringIO()
    assert statuses(run(paths, tmp_path / "out", copy_to=address, stream=stream)) == ["completed"] * 2
    assert "01_a is done" in stream.getvalue()
    assert runs(ran) == 1


def test_an_executed_notebook_links_to_no_folder_outside_of_the_repository(tmp_path):
    path = write(tmp_path, "01_a", "1")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = "[next](02_peft_qlora.ipynb)"
    nbformat.write(notebook, path)
    html = notebook_page.write_html(path).read_text()
    assert "next" in html
    assert "02_peft_qlora.ipynb" not in html


def test_what_was_not_copied_has_failed(tmp_path, monkeypatch):
    def copy(folder, address):
        raise NotebookError(f"{address} cannot be copied to")

    monkeypatch.setattr(copies, "copy", copy)
    task = SimpleNamespace(folder=tmp_path, name="01_a")
    result = attempts.copied(task, runner.Result("01_a", "completed"), "s3://me:passw0rd@bucket")
    assert result.status == "failed"
    assert attempts.copied(task, runner.Result("01_a", "interrupted"), "s3://bucket").status == "interrupted"
    assert "not copied" in result.reason
    assert "passw0rd" not in result.reason


def test_a_training_goes_on_with_the_same_code_only(tmp_path):
    path, told = write(tmp_path, "01_a", "print(resume)"), []

    def again(**options) -> None:
        run([path], tmp_path / "out", **options)
        cells = nbformat.read(tmp_path / "out" / "default" / "01_a" / "01_a.ipynb", as_version=4).cells
        told.append(next(cell.outputs[0].text.strip() for cell in cells if cell.id == "cell-0"))

    again()
    again(parameters={"max_steps": 2})
    again(anew=True)
    write(tmp_path, "01_a", "print(resume), 1")
    again()
    again(parameters={"resume": "auto", "max_steps": 3}, anew=True)
    assert told == ["auto", "auto", "never", "never", "auto"]


def test_a_page_names_no_folder_or_user_of_any_machine(tmp_path):
    folder = tmp_path / "01_a"
    values = {"dataset": "/mnt/project-x/rows.csv", "model_id": "/home/alice/models/mine"}
    manifest = {"declared": dict.fromkeys(values), "parameters": values, "resolved": values}
    storage.write_json(folder / "manifest.json", manifest)
    storage.write_json(folder / "metrics.json", {"status": "completed", "metrics": {"x": {"value": 1}}})
    report.write_index(tmp_path)
    text = (tmp_path / "index.html").read_text() + (tmp_path / "results.csv").read_text()
    assert "rows.csv" in text
    for hidden in ("alice", "/mnt", "project-x"):
        assert hidden not in text


def test_on_ray_every_machine_that_works_costs(monkeypatch):
    batch = object.__new__(suite._Batch)
    batch.stop, batch.failed, batch.spent, batch.looked = runner.Stop(), False, 0.0, 0.0
    monkeypatch.setattr(suite.time, "monotonic", lambda: 3600.0)
    batch.options = attempts.Options(executor="ray", max_dollars=5.0, dollars_per_hour=2.0)
    batch.running = dict.fromkeys(range(3))
    assert batch._end() == "the batch has cost $6.00, more than the limit of $5"


def test_what_a_ray_worker_did_takes_the_place_of_an_earlier_result(tmp_path):
    task = plan.Task("01_a", tmp_path / "01_a.ipynb", tmp_path / "out", {}, {})
    storage.write_json(task.folder / "metrics.json", {"status": "completed"})
    failed, future = runner.Result("01_a", "failed", "ValueError"), Future()
    buffer = io.BytesIO()
    with executors.zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(launch.FILE, "{}")
    future.set_result((failed, buffer.getvalue()))
    ray = object.__new__(executors.Ray)
    ray.references, ray.stop = {future: None}, runner.Stop()
    assert ray.result(future, task) == failed
    assert [file.name for file in task.folder.iterdir()] == [launch.FILE]


def test_a_reader_that_went_away_is_no_failure(tmp_path):
    command = [sys.executable, "-m", "nbhelpers", "run", str(write(tmp_path, "01_a", "1"))]
    command += ["--output-dir", str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=storage.repository_root(), stdout=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.wait() == 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The values of notebook 02 under smoke, with real training, of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert statuses(run([NOTEBOOK], folder, "smoke")) == ["completed"]
    return values(folder)


def values(folder: Path) -> dict[str, float]:
    return {name: entry["value"] for name, entry in metrics(folder / "default" / NOTEBOOK.stem).items()}


def kill_kernel(folder: Path, disk: Path) -> str:
    """A SIGKILL of the kernel when it has begun its third cell."""
    process = start([NOTEBOOK], folder, "--profile", "smoke")
    executed = folder / "default" / NOTEBOOK.stem / f"{NOTEBOOK.stem}.ipynb"
    wait_for(lambda: executed.exists() and len(runner.started_cells(storage.read_json(executed))) > 2, process)
    for child in psutil.Process(process.pid).children(recursive=True):
        if "ipykernel_launcher" in child.cmdline():
            child.kill()
    process.wait(timeout=600)
    return recorded(folder)


def kill_runner(folder: Path, disk: Path) -> str:
    process = start([NOTEBOOK], folder, "--profile", "smoke")
    wait_for(lambda: (folder / "default" / NOTEBOOK.stem / "manifest.json").exists(), process)
    left = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=600)
    psutil.wait_procs(left, timeout=600)
    return recorded(folder)


def run_out_of_time(folder: Path, disk: Path) -> str:
    return run([NOTEBOOK], folder, "smoke", timeout=4.0)[0].reason


def run_out_of_memory(folder: Path, disk: Path) -> str:
    return run([NOTEBOOK], folder, "smoke", memory_bytes=int(3e8))[0].reason


def fill_the_disk(folder: Path, disk: Path) -> str:
    (disk / "fill").write_bytes(b"x" * 1_900_000)
    (result,) = run([NOTEBOOK], disk, "smoke", parameters={"force": True})  # it would refuse so small a disk
    (disk / "fill").unlink()
    subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
    return result.reason


def forbid_writing(folder: Path, disk: Path) -> str:
    subprocess.run(["mount", "-o", "remount,ro,size=1g", str(disk)], check=True)
    with pytest.raises(NotebookError) as error:
        run([NOTEBOOK], disk, "smoke")
    subprocess.run(["mount", "-o", "remount,rw,size=1g", str(disk)], check=True)
    return str(error.value)


def recorded(folder: Path) -> str:
    (entry,) = json.loads((folder / "default" / "suite.json").read_text())
    assert entry["status"] != "completed"
    return entry["reason"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("disturb", "reason"),
    [
        (kill_kernel, "kernel died"),
        (kill_runner, "the batch ended before it did"),
        (run_out_of_time, "timed out"),
        (run_out_of_memory, "more than the limit"),
        (fill_the_disk, "No space left"),
        (forbid_writing, "Read-only file system"),
    ],
)
def test_after_a_fault_the_same_command_ends_as_if_nothing_had_been(disturb, reason, undisturbed, tmp_path, request):
    on_disk = disturb in (fill_the_disk, forbid_writing)
    folder = request.getfixturevalue("mounted") if on_disk else tmp_path / "out"
    assert reason in disturb(folder, folder)
    assert not (folder / "default" / NOTEBOOK.stem / "metrics.json").exists()
    assert statuses(run([NOTEBOOK], folder, "smoke")) == ["completed"]
    assert values(folder) == undisturbed
