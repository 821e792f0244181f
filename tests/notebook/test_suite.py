"""The batch runner on real faults: every notebook here is executed by papermill in a child process."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from small_notebooks import FINISH, alive, note_pid, run, write

from nbhelpers.core import storage
from nbhelpers.core.errors import NotebookError, ParameterError
from nbhelpers.core.storage import read_json
from nbhelpers.notebook import executors, plan, reference, runner, staleness, suite
from nbhelpers.notebook.command_line import find_notebooks, main


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """One run of five notebooks, three of which fail, each in its own way: (results by name, run folder, output)."""
    folder = tmp_path_factory.mktemp("suite{batch}")  # papermill formats its paths: braces must survive
    values = "print(repr([profile, run_id, learning_rate, max_steps, force, label]))"
    paths = [
        write(folder, "01_good", values, "", "import nbhelpers; print(nbhelpers.__file__)"),
        write(folder, "02_raises", "print('before')", "\n# a comment\nint('many')", "print('after')"),
        write(folder, "03_killed", "print('before')", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "1"),
        write(folder, "04_silent", "print('nothing written')", finish=False),
    ]
    (folder / "solutions").mkdir()
    solutions = write(folder / "solutions", "01_good", "print('runs after the failures')", finish=False)
    notebook = nbformat.read(solutions, as_version=4)
    notebook.cells.append(new_code_cell(FINISH.format(name="solutions_01_good").strip(), id="finish"))
    nbformat.write(notebook, solutions)
    paths.append(solutions)  # of the same file name as the first
    stale = folder / "out" / "7" / "04_silent" / "metrics.json"
    storage.write_json(stale, {"status": "completed", "metrics": {}})
    storage.write_json(folder / "out" / "7" / "suite.json", [{"notebook": "00_earlier", "status": "completed"}])
    stream = io.StringIO()
    parameters = {"learning_rate": 2e-5, "max_steps": 5, "force": True, "label": "2e-5"}
    options = {"profile": "smoke", "run_id": "7", "output_dir": folder / "out", "stream": stream}
    results = run(paths, parameters=parameters, **options)
    return {result.notebook: result for result in results}, folder / "out" / "7", stream.getvalue()


@pytest.mark.parametrize(("name", "value"), [("max_stepz", 5), ("max_steps", "five")])
def test_a_wrong_parameter_is_refused_before_an_earlier_run_is_replaced(tmp_path, name, value):
    path = write(tmp_path, "01_good", "1")
    earlier = tmp_path / "out" / "default" / "01_good" / "metrics.json"
    storage.write_json(earlier, {"status": "completed"})
    with pytest.raises(ParameterError, match=r"wrong:\n.*01_good: .*max_steps"):
        run([path], tmp_path / "out", parameters={name: value})
    assert earlier.exists()


def test_success(batch):
    results, folder, _ = batch
    for name in ("01_good", "solutions_01_good"):
        assert (results[name].status, results[name].reason, results[name].exit_code) == ("completed", None, 0)
        assert results[name].seconds > 0
        assert not (folder / name / "papermill.log").exists()
        assert (folder / name / f"{name}.ipynb").exists()  # where its page and the links look for it


def test_parameters_keep_their_types_and_the_package_is_this_one(batch):
    _, folder, _ = batch
    notebook = nbformat.read(folder / "01_good" / "01_good.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = [output["text"].strip() for output in outputs if output["output_type"] == "stream"]
    assert printed == [repr(["smoke", "7", 2e-5, 5, True, "2e-5"]), "nbhelpers/__init__.py"]


def test_a_cell_that_raises_is_named(batch):
    result = batch[0]["02_raises"]
    assert (result.status, result.exit_code) == ("failed", 1)
    assert result.reason == "ValueError: invalid literal for int() with base 10: 'many'"
    assert result.cell == {"index": 3, "id": "cell-1", "source": "# a comment"}


def test_a_killed_kernel_is_not_completed(batch):
    results, folder, _ = batch
    notebook = nbformat.read(folder / "03_killed" / "03_killed.ipynb", as_version=4)
    marks = {cell.metadata.papermill.status for cell in notebook.cells}
    assert marks == {"completed"}, "papermill now tells a killed kernel: suite may believe its marks"
    result = results["03_killed"]
    assert (result.status, result.exit_code) == ("failed", runner.KERNEL_DIED)
    assert "kernel died" in result.reason
    assert result.cell == {"index": 3, "id": "cell-1", "source": "import os, signal"}


def test_metrics_of_an_earlier_run_do_not_count(batch):
    result = batch[0]["04_silent"]
    assert (result.status, result.exit_code, result.cell) == ("failed", 0, None)
    assert result.reason == "ran to the end without writing metrics.json"
    assert not (batch[1] / "04_silent" / "metrics.json").exists()  # a report would show its numbers


def test_suite_json_has_every_result_and_keeps_the_other_notebooks(batch):
    results, folder, _ = batch
    entries = json.loads((folder / "suite.json").read_text())
    assert (entries[0]["notebook"], entries[0]["status"]) == ("00_earlier", "completed")
    assert entries[1:] == [vars(results[name]) for name in sorted(results)]
    assert {"notebook", "status", "reason", "cell", "seconds", "exit_code", "point", "attempts"} <= entries[1].keys()


def test_progress_has_cells_and_times(batch):
    lines = batch[2].splitlines()
    assert any(line.startswith("01_good  cell ") and " of 4 " in line for line in lines)
    assert all(line.endswith("no reference") for line in lines if "  cell " in line and not line.startswith("failed"))
    assert sum(line.startswith("completed") for line in lines) == 2
    assert sum(line.startswith("failed") for line in lines) == 3


def test_fail_fast_and_exit_codes(tmp_path, capsys):
    paths = [write(tmp_path, "01_raises", "1 / 0"), write(tmp_path, "02_never", "print('never')")]
    options = ["--output-dir", str(tmp_path / "out"), "--profile", "smoke", "--fail-fast", "-p", "label", "x"]
    assert main(["run", *options, *map(str, paths)]) == 1
    entries = json.loads((tmp_path / "out" / "default" / "suite.json").read_text())
    assert [entry["status"] for entry in entries] == ["failed", "not run"]
    assert not (tmp_path / "out" / "default" / "02_never").exists()
    printed = capsys.readouterr().out
    assert "ZeroDivisionError: division by zero" in printed
    assert str(tmp_path / "out" / "default" / "index.html") in printed


@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("failed", 1), ("not run", 1), ("interrupted", 130)])
def test_the_exit_code_is_0_only_when_all_completed(tmp_path, monkeypatch, status, code):
    results = [runner.Result("01_a", "completed"), runner.Result("02_b", status)]
    storage.write_json(tmp_path / "default" / "suite.json", [vars(result) for result in results])
    monkeypatch.setattr(suite, "run_suite", lambda *_, **__: results)
    assert main(["run", str(write(tmp_path, "01_a", "1")), "--output-dir", str(tmp_path)]) == code


def test_timeout_kills_the_kernel_and_all_it_started(tmp_path, monkeypatch):
    """Once the last cell runs, the runner's clock leaps an hour ahead, however long it took to get there."""
    child = "import subprocess\nchild = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    child += f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))"
    reached = tmp_path / "reached"
    last = f"open({str(reached)!r}, 'w'), time.sleep(600)"
    path = write(tmp_path, "01_slow", note_pid(tmp_path / "kernel"), child, last)
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 3600 * reached.exists())
    (result,) = run([path], tmp_path / "out", timeout=3600)
    assert (result.status, result.reason) == ("failed", "timed out after 3600 s")
    assert result.cell == {"index": 4, "id": "cell-2", "source": last}
    assert result.seconds >= 3600
    assert not alive(tmp_path / "kernel")
    assert not alive(tmp_path / "child")
    nbformat.read(tmp_path / "out" / "default" / "01_slow" / "01_slow.ipynb", as_version=4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_notebook_and_the_rest_does_not_run(tmp_path, number):
    slow = write(tmp_path, "01_slow", note_pid(tmp_path / "kernel") + "\ntime.sleep(1200)")
    later = write(tmp_path, "02_later", "print('never')")
    command = [sys.executable, "-m", "nbhelpers", "run", str(slow), str(later), "--output-dir", str(tmp_path / "out")]
    process = subprocess.Popen(
        command,
        cwd=storage.repository_root(),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )
    deadline = time.monotonic() + 600
    while not (tmp_path / "kernel").exists() or not (tmp_path / "kernel").read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 130
    assert not alive(tmp_path / "kernel")
    entries = json.loads((tmp_path / "out" / "default" / "suite.json").read_text())
    assert [entry["status"] for entry in entries] == ["interrupted", "not run"]
    assert entries[0]["cell"]["id"] == "cell-0"
    assert "index.html" in printed


def test_a_half_written_notebook_is_no_notebook(tmp_path):
    path = write(tmp_path, "01_half", "print(1)")
    whole = path.read_bytes()
    assert read_json(path)["nbformat"] == 4
    path.write_bytes(whole[: len(whole) // 2])
    assert read_json(path) is None
    assert read_json(tmp_path / "missing.json") is None


def judged(tmp_path: Path, cells: list, metrics: dict | None = None, exit_code: int = 0):
    """The verdict on an executed notebook with these cells, whose run began at time 1 (ns)."""
    if metrics is not None:
        storage.write_json(tmp_path / "metrics.json", metrics)
    for cell in cells:
        cell.metadata["papermill"] = {"start_time": "2025-01-01T00:00:00"}
    return runner._judge(new_notebook(cells=cells), exit_code, tmp_path, "first\nRuntimeError: no kernel\n", begun=1)


def test_judge(tmp_path):
    ran = new_code_cell("1", execution_count=1)
    assert judged(tmp_path, [ran], {"status": "completed"}) == (None, None)
    skipped = new_code_cell("x = 2", id="two")
    reason, cell = judged(tmp_path, [ran, skipped], {"status": "completed"})
    assert (reason, cell["id"]) == ("not every cell was executed", "two")
    assert judged(tmp_path, [ran], {"status": "started"})[0] == "wrote a metrics.json whose status is not completed"
    assert judged(tmp_path, [ran], exit_code=1)[0] == "papermill ended with code 1: RuntimeError: no kernel"
    assert judged(tmp_path, [ran], exit_code=-9)[0] == "papermill was killed by SIGKILL: RuntimeError: no kernel"
    error = new_output("error", ename="KeyError", evalue="'a'", traceback=[])
    assert judged(tmp_path, [new_code_cell("2", execution_count=1, outputs=[error])])[0] == "KeyError: 'a'"
    storage.write_json(tmp_path / "metrics.json", {"status": "completed"})
    os.utime(tmp_path / "metrics.json", ns=(0, 0))  # copied in from an earlier run
    assert judged(tmp_path, [ran])[0] == "ran to the end without writing metrics.json"


def test_the_eta_needs_a_reference_of_the_same_profile(tmp_path):
    storage.write_json(tmp_path / "01_a" / "metrics.json", {"measured": {"notebook_seconds": 100.0}})
    storage.write_json(tmp_path / "01_a" / "manifest.json", {"resolved": {"profile": "cpu"}})
    assert reference.reference_seconds("01_a", "cpu", tmp_path) == 100.0
    trained = {"notebook_seconds": 100.0, "LoRA.seconds": 30.0, "LoRA.probed_seconds": 30.0, "LoRA.dollars": 1.0}
    storage.write_json(tmp_path / "03_c" / "metrics.json", {"measured": trained})
    storage.write_json(tmp_path / "03_c" / "manifest.json", {"resolved": {"profile": "cpu", "max_steps": 28}})
    assert reference.reference_seconds("03_c", "cpu", tmp_path, 280) == 100.0 + 9 * 30.0
    assert reference.reference_seconds("03_c", "cpu", tmp_path, None) == 100.0
    assert reference.reference_seconds("01_a", "smoke", tmp_path) is None
    assert reference.reference_seconds("01_a", None, tmp_path) is None
    assert reference.reference_seconds("02_b", "cpu", tmp_path) is None
    cells = [new_code_cell("1", metadata={"papermill": {"start_time": "2025-01-01"}})]
    path, stream = write(tmp_path, "01_a", *"1234567"), io.StringIO()
    (task,) = plan.tasks([path], "cpu", "default", tmp_path / "out", {}, [], tmp_path)
    show = executors.Printer(stream, True).progress(task)
    show(None, 1.0)
    show(new_notebook(cells=cells), 30.0)
    show(new_notebook(cells=cells), 31.0)
    assert stream.getvalue() == "01_a  cell 1 of 9  30 s  ETA 1 min 40 s\n"
    show(new_notebook(cells=cells * 3), 40.0)
    show(new_notebook(cells=cells), 5.0)  # a second attempt
    show(new_notebook(cells=cells), 5.3)
    assert stream.getvalue().splitlines()[1:] == [
        "01_a  cell 3 of 9  40 s  ETA 1 min 30 s", "01_a  cell 1 of 9  5.0 s  ETA 1 min 40 s"
    ]  # fmt: skip


def test_the_eta_follows_the_pace_of_the_cells_that_are_done(tmp_path):
    cells = {"import": 4.0, "ask": 20.0, "train": 60.0, "page": 10.0}
    task = plan.Task("01_a", tmp_path, tmp_path, {}, {}, seconds=100.0, cells=cells)
    slow = {"import": 8.0, "ask": 40.0, "train": 0.0}
    assert task.left({"import": 0.0}, 3.0, 1.0) == 99, "too early to tell: as the reference"
    assert task.left(slow, 48.0, 0.0) == pytest.approx(2 * 76)
    assert task.left(slow, 58.0, 10.0) == pytest.approx(2 * 76 - 10)
    assert task.left(slow, 348.0, 300.0) == pytest.approx(2 * 16), "late: what comes after it"
    assert task.left({"import": 4.0, "own": 0.0}, 14.0, 10.0) == 86, "a cell that the reference does not have"
    assert task.left({"import": 4.0, "own": 0.0}, 214.0, 210.0) == 0
    assert task.left({"other": 4.0, "own": 0.0}, 14.0, 10.0) == 86, "none that it has"


def test_a_cell_that_found_its_results_says_nothing_of_the_pace(tmp_path):
    cells = {"import": 10.0, "read": 10.0, "ask": 30.0, "train": 50.0}
    task = plan.Task("01_a", tmp_path, tmp_path, {}, {}, seconds=100.0, cells=cells)
    assert task.pace({"import": 15.0, "read": 15.0, "ask": 1.0}) == pytest.approx(1.5)
    assert task.pace({"import": 15.0, "read": 15.0, "ask": 30.0}) == pytest.approx(60 / 50), "slow, but computed"
    assert task.pace({"import": 10.0, "read": 1.0}) == pytest.approx(1.0)
    assert task.pace({"import": 1.0}) == 1.0, "too early to tell"


def test_the_whole_notebook_is_forecast_after_a_quarter_of_it(tmp_path):
    reference = {"import": 4.0, "ask": 20.0, "read": 6.0, "train": 60.0, "page": 10.0}
    task = plan.Task("01_a", tmp_path, tmp_path, {}, {}, seconds=100.0, cells=reference)

    def executed(**took):
        cells = [
            new_code_cell("1", id=name, metadata={"papermill": {"start_time": "2025-01-01", "duration": seconds}})
            for name, seconds in took.items()
        ]
        return new_notebook(cells=cells)

    slower = {name: 1.5 * seconds for name, seconds in reference.items()} | {"train": 300.0}
    assert task.forecast(executed(**slower)) == pytest.approx(1.5 * 30 + 1.5 * 70), "train was not yet seen"
    assert task.forecast(executed(**{name: slower[name] for name in ("import", "ask")})) is None
    assert plan.Task("01_a", tmp_path, tmp_path, {}, {}).forecast(executed(**slower)) is None, "no reference"
    assert task.forecast(None) is None


def test_wrong_input_starts_nothing(tmp_path, capsys, monkeypatch):
    path = write(tmp_path, "01_a", "1")
    other = tmp_path / "other"
    other.mkdir()
    for options, error in (
        ({"run_id": "../up"}, ParameterError),
        ({"profile": "huge"}, ParameterError),
        ({"parameters": {"run_id": "x"}}, ParameterError),
    ):
        with pytest.raises(error):
            run([path], tmp_path / "out", **options)
    with pytest.raises(NotebookError, match="same file name"):
        run([path, write(other, "01_a", "1")], tmp_path / "out")
    with pytest.raises(NotebookError, match="missing"):
        run([tmp_path / "09_gone.ipynb"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "notebooks").mkdir()
    for name in ("01_a", "02_b"):
        write(tmp_path / "notebooks", name, "1")
    monkeypatch.setattr(storage, "repository_root", lambda: tmp_path)
    assert main(["run", "77"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: 77 ")
    assert "01_a, 02_b" in message
    assert message.count("\n") == 1


def test_find_notebooks_and_parameter_values(tmp_path):
    paths = [write(tmp_path, name, "1") for name in ("00_a", "01_b", "10_c")]
    (tmp_path / "draft.ipynb").touch()
    (tmp_path / "studies").mkdir()
    studies = [write(tmp_path / "studies", name, "1") for name in ("01_methods", "05_more")]
    assert find_notebooks([], tmp_path) == paths
    assert find_notebooks(["01", "0"], tmp_path) == [paths[1], paths[0]]
    assert find_notebooks([str(paths[2])], Path("elsewhere")) == [paths[2]]
    assert find_notebooks(["01_m", "05", "01"], tmp_path) == [*studies, paths[1]]
    with pytest.raises(NotebookError, match="00_a, 01_b, 10_c, 01_methods, 05_more"):
        find_notebooks(["02"], tmp_path)
    texts = [("2e-5", "float"), ("5", "int | None"), ("true", "bool"), ("None", "str | None"), ("5", "str"), (7, "str")]
    values = [plan.value_of(*text) for text in texts]
    assert values == [2e-5, 5, True, None, "5", 7]
    assert [type(value) for value in values[:3]] == [float, int, bool]
    assert plan.value_of("many", "int") == "many"  # refused by its type


@pytest.fixture
def executed(tmp_path):
    """A run folder whose one notebook was executed and completed; `(run folder, notebook as an object, save)`."""
    folder = tmp_path / "run"
    storage.write_json(folder / "suite.json", [{"notebook": "01_a", "status": "completed"}])
    artifacts = {"model": str(storage.repository_root() / "outputs" / "m"), "cache": str(Path.home() / "c")}
    storage.write_json(folder / "01_a" / "metrics.json", {"status": "completed", "artifacts": artifacts})
    resolved = {"output_dir": str(tmp_path), "profile": "cpu", "files": ["a", str(tmp_path / "b")]}
    storage.write_json(folder / "01_a" / "manifest.json", {"resolved": resolved, "hostname": "box", "commit": "abc"})
    widget = {reference.WIDGET_VIEW: {"model_id": "1"}, "text/plain": "50%"}
    outputs = [
        new_output("display_data", data=widget),
        new_output("display_data", data={reference.WIDGET_VIEW: {"model_id": "2"}}),
        new_output("display_data", data={"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"}),
        new_output("stream", name="stdout", text="outputs/run/01_a and https://example.org/tmp\n"),
    ]
    timing = {"papermill": {"duration": 1.0, "start_time": "2025"}, "execution": {"iopub.status.idle": "2025"}}
    cells = [
        new_code_cell("profile: str = 'auto'", id="parameters", metadata={"tags": ["parameters"]}),
        new_code_cell(f"output_dir = '{tmp_path}'", id="injected", metadata={"tags": ["injected-parameters"]}),
        new_markdown_cell("prose", id="prose"),
        new_code_cell("print(1)", id="code", outputs=outputs, execution_count=3, metadata=timing),
    ]
    notebook = new_notebook(cells=cells)
    notebook.metadata = {"papermill": {"input_path": str(tmp_path)}, "widgets": {"state": {}}}
    path = folder / "01_a" / "01_a.ipynb"

    def save() -> Path:
        nbformat.write(notebook, path)
        return path

    save()
    return folder, notebook, save


def test_the_reference_names_no_machine(executed, tmp_path):
    folder, _, _ = executed
    (folder / "01_a" / "artifacts").mkdir()
    (folder / "01_a" / "artifacts" / "weights").write_text("large")
    target = tmp_path / "reference"
    assert reference.make_reference(folder, target) == ["01_a"]
    files = {path.name for path in (target / "01_a").iterdir()}
    assert files == {"metrics.json", "manifest.json", "01_a.ipynb", "code.json", "seconds.json"}
    assert json.loads((target / "01_a" / "seconds.json").read_text()) == {"code": 1.0}
    manifest = json.loads((target / "01_a" / "manifest.json").read_text())
    assert manifest == {"commit": "abc", "resolved": {"files": ["a"], "profile": "cpu"}}
    assert json.loads((target / "01_a" / "metrics.json").read_text())["artifacts"] == {"model": "outputs/m"}
    notebook = nbformat.read(target / "01_a" / "01_a.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert [cell.id for cell in notebook.cells] == ["parameters", "prose", "code"]
    assert notebook.metadata == {}
    assert notebook.cells[2].metadata == {}
    first, second, third = notebook.cells[2].outputs
    assert first.data == {"text/plain": "50%"}
    assert second.data["image/png"].strip() == "iVBORw0KGgo="
    assert third.text.startswith("outputs/run")


@pytest.mark.parametrize("place", ["root", "home", "tmp", "prefix"])
def test_a_machine_path_in_an_output_is_refused(executed, tmp_path, place):
    folder, notebook, save = executed
    roots = {"root": storage.repository_root(), "home": Path.home(), "tmp": Path("/tmp"), "prefix": Path(sys.prefix)}
    text = f"saved to={roots[place]}/x"
    notebook.cells[3].outputs = [new_output("display_data", data={"text/html": [text]})]
    save()
    with pytest.raises(NotebookError, match=r"01_a .* cell 2 \(code\) prints /"):
        reference.make_reference(folder, tmp_path / "reference")
    assert not (tmp_path / "reference").exists()


def test_a_large_notebook_and_an_empty_run_are_refused(executed, tmp_path):
    folder, notebook, save = executed
    notebook.cells[3].outputs = [new_output("display_data", data={"image/png": "A" * reference.REFERENCE_BYTES})]
    save()
    with pytest.raises(NotebookError, match=r"1\.5 MB"):
        reference.make_reference(folder, tmp_path / "reference")
    storage.write_json(folder / "suite.json", [{"notebook": "01_a", "status": "failed"}])
    with pytest.raises(NotebookError, match="completed notebook"):
        reference.make_reference(folder, tmp_path / "reference")


def test_a_reference_is_current_until_its_code_changes(executed, tmp_path):
    folder, notebook, save = executed
    reference.make_reference(folder, tmp_path / "reference")

    def changed(folder="reference"):
        return [x.changed for x in staleness.stale_notebooks([save()], tmp_path / folder)]

    notebook.cells[2].source = "other prose"
    notebook.cells[3].outputs = []
    notebook.cells[3].execution_count = 9
    del notebook.cells[1]  # what papermill injected: the author's notebook has it not
    assert changed() == []
    for i, source in ((0, "profile: str = 'cpu'"), (2, "print(2)")):
        kept, notebook.cells[i].source = notebook.cells[i].source, source
        assert changed() == [["notebook"]]
        notebook.cells[i].source = kept
    assert changed() == []
    assert changed("no-reference") == [["notebook"]]


def test_of_a_study_that_this_run_computed_only_its_results_are_copied(executed, tmp_path):
    folder, _, _ = executed
    (folder / "01_a" / "artifacts").mkdir()
    (folder / "01_a" / "artifacts" / "study.json").write_text('{"LoRA": {"seconds": 1.5}}')
    reference.make_reference(folder, tmp_path / "earlier")
    assert not (tmp_path / "earlier" / "01_a" / "study.json").exists(), "it was there before"
    metrics = json.loads((folder / "01_a" / "metrics.json").read_text())
    metrics["artifacts"]["study"] = "artifacts/study.json"
    (folder / "01_a" / "metrics.json").write_text(json.dumps(metrics))
    reference.make_reference(folder, tmp_path / "own")
    assert (tmp_path / "own" / "01_a" / "study.json").read_text() == '{"LoRA": {"seconds": 1.5}}\n'
    assert {path.name for path in (tmp_path / "own" / "01_a").iterdir()} == {"manifest.json", "study.json"}
