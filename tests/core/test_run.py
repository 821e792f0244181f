import json
import math
import os
import random
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import nbhelpers
from nbhelpers.core import hardware, parameters, profiles, run, storage
from nbhelpers.core.errors import NotebookError, ParameterError
from nbhelpers.core.statistics import Metric

ROOT = Path(__file__).parents[2]
CELL = """\
profile: str = "smoke"  # auto, smoke, cpu, t4, ...
model_id: str | None = None
dataset: str = "pydocs"
seed: int = 0
run_id: str = "default"
output_dir: str = "outputs"
resume: str = "auto"
force: bool = False
report_to: str = "none"
study: str = "default"
max_steps: int | None = None  # optimizer steps
learning_rate: float | None = None
"""
DECLARED = parameters.declared_parameters(CELL)
DEFAULTS = {name: parameter.default for name, parameter in DECLARED.items()}


# --- the cells ----------------------------------------------------------------------------------------------------


def test_a_cell_of_annotated_literals_declares_parameters():
    assert list(DEFAULTS) == [line.partition(":")[0] for line in CELL.splitlines()]
    assert DECLARED["max_steps"] == parameters.Parameter("max_steps", "int | None", None)
    assert DECLARED["profile"] == parameters.Parameter("profile", "str", "smoke")
    assert parameters.declared_parameters("a: list = [1, -2.5, {'b': None}]")["a"].default == [1, -2.5, {"b": None}]


@pytest.mark.parametrize(
    "source",
    [
        "",
        "# only a comment",
        "x = 1",
        "x: int",
        "x: int = 2 * 3",
        "x: int = y",
        "x: int = 1\nprint(x)",
        "import os",
        "%matplotlib inline",
        "x.y: int = 1",
        "for x in y: pass",
        "x: int = 1\nx += 1",
        "x: int = f(",
        "x: str = f'{y}'",
    ],
)
def test_any_other_cell_declares_none(source):
    assert parameters.declared_parameters(source) is None


def test_the_last_parameters_cell_counts_and_only_papermills_cell_right_behind_it():
    other, injected = 'profile: str = "cpu"\nrun_id: str = "b"', "# Parameters\nmax_stepz = 5\nseed = 1\n"
    assert parameters.parameter_cells(["", "import os", CELL, injected, "run = 1"]) == (DECLARED, ["max_stepz", "seed"])
    assert parameters.parameter_cells(["", CELL, "import os", injected]) == (DECLARED, [])
    assert parameters.parameter_cells(["", CELL, "max_stepz = 5"]) == (DECLARED, [])
    assert parameters.parameter_cells(["", CELL, injected, other]) == (parameters.declared_parameters(other), [])
    assert parameters.parameter_cells(["", other, CELL, "steps: int = 3"]) == (DECLARED, [])
    assert parameters.parameter_cells(["", "x: int = 1"]) == ({}, [])
    assert parameters.parameter_cells([]) == ({}, [])


# --- checks -------------------------------------------------------------------------------------------------------


def refusal(injected: list[str] = (), limits: dict | None = None, **values) -> str:
    with pytest.raises(ParameterError) as caught:
        parameters.check_parameters(DECLARED, injected, DEFAULTS | values, limits)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_steps", 1),
        ("max_steps", 1_000_000),
        ("max_steps", None),
        ("seed", 0),
        ("seed", 2**32 - 1),
        ("learning_rate", 1),
        ("learning_rate", 1e-8),
        ("force", True),
        ("study", "default"),
        ("profile", "auto"),
    ],
)
def test_a_value_of_the_right_type_and_range_is_returned(name, value):
    checked = parameters.check_parameters(DECLARED, [name], DEFAULTS | {name: value})
    assert checked == DEFAULTS | {name: value}
    assert type(checked[name]) is type(value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_steps", "5", "max_steps='5' is str, expected int"),
        ("max_steps", 5.0, "max_steps=5.0 is float, expected int"),
        ("max_steps", True, "max_steps=True is bool, expected int"),
        ("max_steps", 0, "max_steps=0 is outside 1 to 1e+06"),
        ("max_steps", 1_000_001, "max_steps=1000001 is outside"),
        ("seed", None, "seed=None is NoneType, expected int"),
        ("seed", -1, "seed=-1 is outside 0 to"),
        ("seed", 2**32, "seed=4294967296 is outside"),
        ("learning_rate", False, "learning_rate=False is bool, expected float"),
        ("learning_rate", 1.01, "learning_rate=1.01 is outside 1e-08 to 1"),
        ("learning_rate", math.nan, "learning_rate=nan is outside"),
        ("learning_rate", [1e-4], "learning_rate=[0.0001] is list, expected float"),
        ("force", 1, "force=1 is int, expected bool"),
        (
            "run_id",
            5,
            "run_id=5 is int, expected str; papermill -p guesses types: pass -r run_id 5, which keeps it text",
        ),
        ("profile", "gpu", "profile='gpu' is not one of auto, smoke, cpu, t4, rtx4090, a100, h100"),
        ("study", None, "study=None is NoneType, expected str"),
        ("report_to", "email", "report_to='email' is not one of none, tensorboard"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(name, value, message):
    assert message in refusal(**{name: value})


@pytest.mark.parametrize("text", ["2e-5", "1E-4", "+3.e2", "1.5e+3"])
def test_a_number_that_yaml_reads_as_text_gets_the_hint(text):
    assert f"YAML reads {text} as text: write {float(text)!r}" in refusal(learning_rate=text)


@pytest.mark.parametrize("text", ["fast", "e5", "1e", ""])
def test_any_other_text_gets_no_hint(text):
    assert "YAML" not in refusal(learning_rate=text)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("max_stepz", "max_stepz is not a parameter of this notebook; did you mean max_steps?"),
        ("learningrate", "did you mean learning_rate?"),
        ("zzz", "it has profile, model_id, dataset"),
    ],
)
def test_an_unknown_injected_name_is_refused_with_the_nearest(name, message):
    assert message in refusal(injected=["seed", name])


def test_a_notebook_can_add_and_replace_limits():
    limits = {"max_steps": (1, 10), "dataset": ["pydocs", "mine"]}
    assert "max_steps=11 is outside 1 to 10" in refusal(limits=limits, max_steps=11)
    assert "dataset='other' is not one of pydocs, mine" in refusal(limits=limits, dataset="other")
    parameters.check_parameters(DECLARED, [], DEFAULTS | {"max_steps": 10, "dataset": "mine"}, limits)


@pytest.mark.parametrize("run_id", ["", ".", "..", "../x", "a/b", "/a", "a\\b", ".hidden", "a b", "a\n", "x" * 101])
def test_a_run_id_that_is_no_plain_folder_name_is_refused(run_id):
    assert f"run_id={run_id!r} names a folder" in refusal(run_id=run_id)


@pytest.mark.parametrize("run_id", ["a", "a..b", "2026-01-02_b.c", "-", "x" * 100])
def test_a_run_id_that_is_a_plain_folder_name_is_taken(run_id):
    assert parameters.check_parameters(DECLARED, [], DEFAULTS | {"run_id": run_id})["run_id"] == run_id


# --- start --------------------------------------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path, monkeypatch):
    """`Run.start` as a notebook calls it: after its parameters cell, and papermill's where `injected` is given."""
    monkeypatch.setattr(hardware, "precision", lambda _: "float32")  # the probe takes longer than all the rest

    def call(notebook="02_tiny", injected="", cell=CELL, **values):
        cells = ["", "import os", cell, *([f"# Parameters\n{injected}"] if injected else []), "run = ..."]
        monkeypatch.setattr(parameters, "executed_cells", lambda: cells)
        names: dict = {"__name__": "__main__"}
        exec(cell + injected, names)
        return run.Run.start(notebook, names | {"output_dir": str(tmp_path / "out")} | values)

    return call


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_all_that_is_wrong_is_reported_at_once_and_nothing_is_written(start, tmp_path):
    injected = 'max_stepz = 5\nlearning_rate = "2e-5"\nmax_steps = True\n'
    before = random.getstate()
    with pytest.raises(ParameterError) as caught:
        start(injected=injected, seed=-1, force=None, profile="gpu", run_id="..")
    problems = str(caught.value).split("\n  - ")[1:]
    expected = ["max_stepz", "profile", "seed", "force", "max_steps", "learning_rate", "run_id"]
    assert [re.match(r"\w+", problem)[0] for problem in problems] == expected
    assert files(tmp_path) == set()
    assert random.getstate() == before


def test_an_output_dir_that_cannot_be_written_to_is_named_with_the_remedy(start, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ParameterError, match=r"output_dir='.*file' cannot be written to: Not a directory .*Name another"
    ):
        start(output_dir=str(tmp_path / "file"))


def test_a_run_says_the_command_that_repeats_it(start):
    assert start(injected="max_steps = 7\n").command() == "papermill notebooks/02_tiny.ipynb out.ipynb -p max_steps 7"


def test_a_run_having_other_values_is_the_same_run_otherwise(start):
    started = start(max_steps=7)
    other = started.having(max_steps=3)
    assert (started.parameters.max_steps, other.parameters.max_steps) == (7, 3)
    assert (other.folder, other.parameters.seed) == (started.folder, started.parameters.seed)
    with pytest.raises(ParameterError, match="max_stepz: no parameter of this run"):
        started.having(max_stepz=3)


@pytest.mark.parametrize(
    ("given", "default"),
    [
        ({}, True),
        ({"study": "full"}, True),  # adds to the results and changes none
        ({"run_id": "a", "force": True, "profile": "smoke"}, True),
        ({"seed": 1}, False),
        ({"max_steps": 7}, False),
    ],
    ids=str,
)
def test_a_run_is_the_default_until_something_that_changes_a_result_is_set(given, default, start):
    assert start("02_peft_qlora", **given).is_default is default


def test_an_edited_cell_is_left_alone_when_it_runs_again(start, monkeypatch, tmp_path):
    start(injected="max_steps = 7\n")
    edited = CELL.replace("max_steps: int | None = None", "max_steps: int | None = 9") + "extra: int = 3\n"
    cells = ["", CELL, "# Parameters\nmax_steps = 7\n", "run = ...", edited, "run = ..."]
    monkeypatch.setattr(parameters, "executed_cells", lambda: cells)
    names: dict = {"output_dir": str(tmp_path)}
    exec(edited, names)
    again = run.Run.start("02_tiny", names | {"output_dir": str(tmp_path / "out")})
    assert (again.parameters.max_steps, again.parameters.extra) == (9, 3)


def test_a_notebook_without_a_parameters_cell_is_told_what_it_needs(start, tmp_path):
    with pytest.raises(ParameterError, match="no cell that ran declares the parameters"):
        start(cell=CELL + "n = 3\n")
    assert files(tmp_path) == set()


def test_the_values_of_a_plain_script_count(tmp_path):
    started = run.Run.start("script", DEFAULTS | {"output_dir": str(tmp_path), "max_steps": 2, "mine": "x"})
    assert (started.parameters.max_steps, started.parameters.mine) == (2, "x")
    assert started.folder == tmp_path / "default" / "script"


def test_none_takes_the_value_of_the_profile_and_any_other_is_kept(start):
    parameters = start(max_steps=3).parameters
    preset = profiles.PROFILES["smoke"]
    assert (parameters.max_steps, parameters.learning_rate) == (3, preset.learning_rate)
    assert (parameters.model_id, parameters.eval_rows) == (preset.model_id, preset.eval_rows)


def test_auto_is_resolved_for_the_notebook_as_in_the_manifest(start):
    started = start(profile="auto")
    assert started.profile.name in profiles.PROFILES
    assert started.parameters.profile == started.manifest["resolved"]["profile"] == started.profile.name
    assert started.manifest["parameters"]["profile"] == "auto"


def test_the_manifest_stands_at_the_start_with_all_that_the_run_rests_on(start, tmp_path, capsys):
    started = start(max_steps=3)
    folder = tmp_path / "out" / "default" / "02_tiny"
    assert started.folder == folder
    assert files(folder) == {"manifest.json", "figures", "artifacts"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["parameters"] == DEFAULTS | {"output_dir": str(tmp_path / "out"), "max_steps": 3}
    assert (
        manifest["resolved"].items()
        >= {"profile": "smoke", "model_id": "smoke", "max_steps": 3, "lora_rank": 4}.items()
    )
    assert manifest["versions"].keys() == {"python", *run.DISTRIBUTIONS}
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["hardware"]["cores"] > 0
    assert manifest["hardware"]["memory"] > 2**28
    assert manifest["dtype"] == started.dtype == "float32"
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert (manifest["commit"] or "").removesuffix("+changes") == head
    assert {"schema", "started_at", "notebook"} <= manifest.keys()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "profile", "hardware", "versions", "folder",
    ]  # fmt: skip


def test_a_started_run_has_not_completed_even_if_it_had_before(start):
    start().finish({"loss": 1.0})
    again = start()
    assert not (again.folder / "metrics.json").exists()


def test_facts_are_added_to_the_manifest(start):
    started = start()
    started.note(data_hash="abc")
    manifest = json.loads((started.folder / "manifest.json").read_text())
    assert (manifest["data_hash"], manifest["notebook"]) == ("abc", "02_tiny")


def test_the_seed_decides_every_draw(start):
    def draws(seed):
        start(seed=seed)
        return random.random(), np.random.rand(), torch.rand(1).item()

    first, other = draws(2**32 - 1), draws(1)
    assert draws(2**32 - 1) == first
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder that holds `notebooks/` and this package, and a working folder elsewhere."""
    root = tmp_path / "repository"
    for folder in (root / "notebooks", root / "nbhelpers", tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(nbhelpers, "__file__", str(root / "nbhelpers" / "__init__.py"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    return root


def test_a_relative_output_dir_is_under_the_repository_wherever_the_notebook_runs(start, repository, tmp_path, capsys):
    started = start(output_dir="results/a", run_id="r")
    assert started.folder == repository / "results" / "a" / "r" / "02_tiny"
    assert (started.folder / "manifest.json").exists()
    assert files(tmp_path / "elsewhere") == set()
    assert "folder    results/a/r/02_tiny\n" in capsys.readouterr().out


def test_an_installed_package_has_no_repository_and_takes_the_working_folder(start, repository, tmp_path):
    (repository / "notebooks").rmdir()
    assert start(output_dir="out").folder == tmp_path / "elsewhere" / "out" / "default" / "02_tiny"


def test_a_home_folder_is_expanded(start, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert start(output_dir="~/out").folder == tmp_path / "home" / "out" / "default" / "02_tiny"


def test_the_commit_says_whether_the_files_are_those_committed(tmp_path):
    assert run._commit(tmp_path) is None
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@localhost"]
    (tmp_path / "file").write_text("a")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        subprocess.run(git + command, cwd=tmp_path, check=True)
    commit = run._commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / "untracked").write_text("b")
    assert run._commit(tmp_path) == commit
    (tmp_path / "file").write_text("b")
    assert run._commit(tmp_path) == f"{commit}+changes"


# --- results ------------------------------------------------------------------------------------------------------


def fails(*_, **__):
    raise OSError("No space left on device")


@pytest.mark.parametrize("broken", ["replace", "fsync", "chmod"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(broken, tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    storage.write_json(path, {"a": 1})
    monkeypatch.setattr(os, broken, fails)
    with pytest.raises(OSError, match="No space left"):
        storage.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert files(tmp_path) == {"metrics.json"}


@pytest.mark.parametrize("content", [{"a": math.nan}, {"a": np.float32("inf")}, {"a": object()}])
def test_what_json_cannot_hold_is_refused_before_the_file_is_touched(content, tmp_path):
    path = tmp_path / "metrics.json"
    storage.write_json(path, {"a": 1})
    with pytest.raises((ValueError, TypeError)):
        storage.write_json(path, content)
    assert json.loads(path.read_text()) == {"a": 1}
    assert files(tmp_path) == {"metrics.json"}


def test_scalars_paths_and_dataclasses_are_written_plainly(tmp_path):
    content = {"n": np.int64(3), "t": torch.tensor(0.5), "p": Path("a") / "b", "m": Metric(1.0)}
    storage.write_json(tmp_path / "new" / "a.json", content)
    read = json.loads((tmp_path / "new" / "a.json").read_text())
    assert (read["n"], read["t"], read["p"], read["m"]["value"]) == (3, 0.5, "a/b", 1.0)
    assert (tmp_path / "new" / "a.json").stat().st_mode & 0o777 == 0o644


def test_finish_writes_everything_that_was_recorded(start):
    started = start()
    started.predict(seconds=2.0)
    started.measure(seconds=3.0)
    path = started.artifact("sft_adapter")
    content = started.finish({"rouge_l": Metric(0.5, 0.4, 0.6, 10, 0.3, "share"), "loss": 2})
    assert content == json.loads((started.folder / "metrics.json").read_text())
    assert (content["schema"], content["status"]) == (1, "completed")
    assert content["metrics"]["rouge_l"] == {
        "value": 0.5, "low": 0.4, "high": 0.6, "n": 10, "baseline": 0.3, "unit": "share", "higher_is_better": True,
    }  # fmt: skip
    assert content["metrics"]["loss"]["value"] == 2.0
    assert content["predicted"] == {"seconds": 2.0}
    assert content["measured"]["seconds"] == 3.0
    assert content["measured"]["notebook_seconds"] >= 0
    assert content["artifacts"] == {"sft_adapter": "artifacts/sft_adapter"}
    assert path == started.folder / "artifacts" / "sft_adapter"


@pytest.mark.parametrize(
    ("metrics", "predicted", "measured", "named"),
    [
        ({"loss": math.nan, "fine": 1.0}, {}, {}, "loss.value"),
        ({"loss": Metric(1.0, low=-math.inf)}, {}, {}, "loss.low"),
        ({"loss": Metric(1.0, baseline=math.nan)}, {}, {}, "loss.baseline"),
        ({"loss": Metric(np.float32("nan"))}, {}, {}, "loss.value"),
        ({"loss": 1.0}, {"seconds": math.inf}, {"seconds": 1.0}, "predicted seconds"),
        ({"loss": 1.0}, {"seconds": 1.0}, {"seconds": math.nan}, "measured seconds"),
        ({"loss": 1.0}, {}, {"seconds": torch.tensor(math.nan)}, "measured seconds"),
    ],
)
def test_a_number_that_is_not_finite_is_refused_by_name(metrics, predicted, measured, named, start):
    started = start()
    started.predict(**predicted)
    started.measure(**measured)
    with pytest.raises(NotebookError, match=f"not finite: {named}\\. "):
        started.finish(metrics)
    assert not (started.folder / "metrics.json").exists()


# --- artefacts ----------------------------------------------------------------------------------------------------


INPUTS = {"model_hash": "m", "data_hash": "d", "settings": ("r", 4)}


@pytest.fixture
def made(start):
    """A finished notebook that wrote an artefact."""

    def call(notebook="04_made", role="sft_adapter", finish=True, run_id="default", write=True, **changes):
        started = start(notebook, run_id=run_id)
        path = started.artifact(role, inputs=INPUTS | changes)
        if write:
            path.write_text(notebook)
        if finish:
            started.finish({})
        return path

    return call


def test_an_artefact_is_found_by_role_for_the_same_inputs(made, start):
    path = made()
    seeker = start("05_seeks")
    seeker.note(data_hash="of other rows")  # of the notebook that asks: it says nothing of the artefact
    assert seeker.find_artifact("sft_adapter", INPUTS) == path
    assert seeker.find_artifact("merged_model", INPUTS) is None
    assert seeker.find_artifact("sft_adapter", {"model_hash": "m"}) is None


@pytest.mark.parametrize(
    "other",
    [
        {"data_hash": "e"},
        {"model_hash": "n"},
        {"data_hash": None},
        {"finish": False},
        {"run_id": "r"},
        {"write": False},
    ],
)
def test_an_artefact_of_other_inputs_or_run_or_one_not_completed_is_not_found(other, made, start):
    made(**other)
    assert start("05_seeks").find_artifact("sft_adapter", INPUTS) is None


def test_the_newest_artefact_is_found(made, start):
    paths = [made(notebook) for notebook in ("02_a", "04_b", "03_c")]
    for i, path in enumerate((paths[0], paths[2], paths[1])):
        os.utime(path.parent.parent / "metrics.json", (1000 + i, 1000 + i))
    assert start("05_seeks").find_artifact("sft_adapter", INPUTS) == paths[1]


def test_an_artefact_kept_elsewhere_is_found_by_its_full_path(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    maker = start("04_made")
    maker.artifact("merged_model", "kept", INPUTS).write_text("x")
    maker.artifact("inside", maker.folder / "artifacts" / "deep" / "er")
    assert maker.finish({})["artifacts"]["inside"] == "artifacts/deep/er"
    assert start("05_seeks").find_artifact("merged_model", INPUTS) == tmp_path / "kept"


def test_a_claim_rests_on_a_metric(start):
    started = start()
    with pytest.raises(NotebookError, match=r"'It learns\.' rests on 'gain', which is none"):
        started.finish({"loss": 1.0}, ("It learns.", "gain"))
    assert not (started.folder / "metrics.json").exists()
    content = started.finish({"gain": Metric(0.5, 0.4, 0.6)}, ("It learns.", "gain"))
    assert content["claim"] == {"text": "It learns.", "metric": "gain"}


# --- a real kernel ------------------------------------------------------------------------------------------------


@pytest.fixture
def papermill_run(tmp_path, monkeypatch):
    """Executes a tiny notebook through papermill, with a home of its own."""
    import nbformat
    import papermill
    from nbformat.v4 import new_code_cell, new_notebook

    for name, value in (("PYTHONPATH", str(ROOT)), ("IPYTHONDIR", str(tmp_path / "ipython"))):
        monkeypatch.setenv(name, value)
    notebook = new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        cells=[
            new_code_cell("from nbhelpers.core.run import Run"),
            new_code_cell(CELL, metadata={"tags": ["parameters"]}),
            new_code_cell('run = Run.start("02_tiny", globals())'),
            new_code_cell('run.finish({"steps": run.parameters.max_steps})'),
        ],
    )
    nbformat.write(notebook, tmp_path / "02_tiny.ipynb")

    def call(**parameters):
        papermill.execute_notebook(
            tmp_path / "02_tiny.ipynb", tmp_path / "done.ipynb", progress_bar=False,
            parameters={"output_dir": str(tmp_path / "out")} | parameters,
        )  # fmt: skip
        return tmp_path / "out" / "default" / "02_tiny"

    return call


def test_papermill_sets_a_parameter_in_a_real_kernel(papermill_run):
    folder = papermill_run(max_steps=5)
    assert json.loads((folder / "manifest.json").read_text())["parameters"]["max_steps"] == 5
    assert json.loads((folder / "metrics.json").read_text())["metrics"]["steps"]["value"] == 5


def test_papermill_with_a_misspelt_parameter_fails_in_a_real_kernel(papermill_run, tmp_path):
    from papermill.exceptions import PapermillExecutionError

    with pytest.raises(PapermillExecutionError, match=r"max_stepz is not a parameter .* did you mean max_steps"):
        papermill_run(max_stepz=5)
    assert not (tmp_path / "out").exists()
