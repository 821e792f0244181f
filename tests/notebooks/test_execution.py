"""Every notebook and every solution runs from end to end under `smoke`, offline, as a user would run it.

`02_peft_qlora` always does; all others are slow, for each takes a minute.
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from nbhelpers.core.profiles import PROFILES
from nbhelpers.core.storage import repository_root
from nbhelpers.data import sources

ROOT = repository_root()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
STUDIES = sorted((ROOT / "notebooks" / "studies").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
ALWAYS = ROOT / "notebooks" / "02_peft_qlora.ipynb"
OFFLINE = Path(__file__).parent / "offline"


def papermill(notebook, folder, *arguments):
    """Run a notebook from an unrelated folder, its kernel without a network; the finished process and its output."""
    environment = os.environ | {"PYTHONPATH": str(OFFLINE)}
    out = folder / "out.ipynb"
    command = [sys.executable, "-m", "papermill", str(notebook), str(out), "-k", "python3", "--no-progress-bar"]
    command += ["-p", "output_dir", str(folder / "outputs"), "-p", "run_id", "test", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1_800)
    return done, out


def processor_seconds() -> float:
    """Processor time of the child processes that have ended, and of theirs: what else runs does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[] if path == ALWAYS else pytest.mark.slow, id=path.stem) for path in NOTEBOOKS],
)
def test_runs_under_smoke_without_a_network_and_in_little_processor_time(path, tmp_path):
    before = processor_seconds()
    done, out = papermill(path, tmp_path, "-p", "profile", "smoke")
    assert done.returncode == 0, done.stderr[-3_000:]
    assert processor_seconds() - before < 240  # twice what two cores have in the minute that is promised
    metrics = json.loads((tmp_path / "outputs" / "test" / path.stem / "metrics.json").read_text())
    assert metrics["status"] == "completed"
    assert metrics["metrics"]
    assert metrics["predicted"].keys() <= metrics["measured"].keys()
    for cell in nbformat.read(out, as_version=4).cells:
        for output in cell.get("outputs", []):
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {}), cell.id
            assert output.get("name") != "stderr", f"{cell.id}: {output.get('text', '')[:300]}"


QUESTIONS = [
    (f"How does part {i} of machine {i * 7} work?", f"It turns wheel {i} by {i * 3} degrees.") for i in range(60)
]


def csv_with_names_of_its_own(folder):
    lines = ["id,headline,body,year", *(f'{i},"{q}","{a}",{1900 + i}' for i, (q, a) in enumerate(QUESTIONS))]
    (folder / "rows.csv").write_text("\n".join([*lines, '60,"",no question,1960', '61,"How?","",1961']) + "\n")
    return "rows.csv", (
        "-p",
        "columns",
        "headline=prompt, body=completion",
        "-p",
        "split",
        "temporal",
        "-p",
        "split_column",
        "year",
    )


def sharegpt_with_broken_rows(folder):
    rows = [[{"from": "human", "value": q}, {"from": "gpt", "value": a}] for q, a in QUESTIONS]
    broken = [rows[0][:1], [], [{"from": "nobody", "value": "?"}], "text", None]
    (folder / "rows.jsonl").write_text("".join(json.dumps({"conversations": r}) + "\n" for r in rows + broken))
    return "rows.jsonl", ()


def rows_of_one_length(folder):
    rows = [{"prompt": f"Which number follows {i} in counting?", "completion": str(i + 1)} for i in range(1_000, 1_060)]
    rows = [row | {"origin": "", "source_id": "x"} for row in rows]
    (folder / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "rows.json", ()


def turns_of_tools(folder):
    rows = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": f"look up {i}"},
                      {"role": "tool", "content": f"wheel {i}"}, {"role": "assistant", "content": a}]}
        for i, (q, a) in enumerate(QUESTIONS)
    ]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "rows.jsonl", ()


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [csv_with_names_of_its_own, sharegpt_with_broken_rows, rows_of_one_length, turns_of_tools],
    ids=lambda make: make.__name__,
)
def test_a_file_of_ones_own_is_cleaned_by_parameter_alone(make, tmp_path):
    name, arguments = make(tmp_path)
    arguments = (
        "-p",
        "profile",
        "smoke",
        "-p",
        "planted_defects",
        "20",
        "-p",
        "dataset",
        str(tmp_path / name),
        *arguments,
    )
    done, _ = papermill(ROOT / "notebooks" / "01_data_preparation.ipynb", tmp_path, *arguments)
    assert done.returncode == 0, done.stderr[-3_000:]
    folder = tmp_path / "outputs" / "test" / "01_data_preparation"
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert metrics["rows.schema"]["value"] == len(QUESTIONS)  # the broken rows were dropped, and counted:
    broken = {csv_with_names_of_its_own: 2, sharegpt_with_broken_rows: 5}.get(make, 0)
    assert metrics["rows.schema"]["n"] == len(QUESTIONS) + broken
    source = sources.load(str(folder / "artifacts" / "dataset"))
    assert len(source.train) > len(source.test) > 0


def with_cell_after_imports(path, source, folder):
    """A copy of the notebook in `folder` that runs `source` after its imports."""
    notebook = nbformat.read(path, as_version=4)
    after_imports = [cell.id for cell in notebook.cells].index("imports") + 1
    notebook.cells.insert(after_imports, nbformat.v4.new_code_cell(source))
    nbformat.write(notebook, folder / path.name)
    return folder / path.name


NOTHING_LOADED = """
from nbhelpers.data import sources as data_module
from nbhelpers.models import loading as models_module

def refused(*arguments, **keywords):
    raise AssertionError("the reference study needs neither model nor data")

data_module.load = models_module.load = models_module.load_tokenizer = models_module.fetch = refused
"""


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_shows_its_reference_without_model_and_data(path, tmp_path):
    copy = with_cell_after_imports(path, NOTHING_LOADED, tmp_path)
    done, _ = papermill(copy, tmp_path, "-p", "profile", "smoke")
    assert done.returncode == 0, done.stderr[-3_000:]
    metrics = json.loads((tmp_path / "outputs" / "test" / path.stem / "metrics.json").read_text())
    assert metrics["status"] == "completed"
    assert metrics["metrics"]


PLANNED = """
import inspect
import pickle
from nbhelpers.studies import jobs as jobs_module

def planned(run, jobs):
    for job in map(pickle.loads, [pickle.dumps(job) for job in jobs.values()]):
        inspect.signature(job.func).bind(*job.args, **job.keywords)
    kept = jobs_module.reference(run.notebook)
    lowered = {"products in float32"}  # there where the machine computes in another precision
    planned, found = ([name for name in names if name not in lowered] for names in (jobs, kept))
    assert found == planned, sorted(kept.keys() ^ jobs.keys())
    return kept

jobs_module.compute = planned
"""


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_whole_study_plans_the_jobs_whose_results_are_kept(path, tmp_path):
    """All of `study="full"` runs but the jobs themselves: each must be one that its function takes in a new process."""
    copy = with_cell_after_imports(path, PLANNED, tmp_path)
    rank = str(PROFILES["cpu"].lora_rank)  # stands in the names of variants
    arguments = ("-p", "profile", "smoke", "-p", "study", "full")
    if "lora_rank: int" in path.read_text():
        arguments += ("-p", "lora_rank", rank)
    done, _ = papermill(copy, tmp_path, *arguments)
    assert done.returncode == 0, done.stderr[-3_000:]


@pytest.mark.slow
@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_solutions_run(path, tmp_path):
    done, _ = papermill(path, tmp_path, "-p", "profile", "smoke")
    assert done.returncode == 0, done.stderr[-3_000:]


def test_an_unknown_parameter_is_refused_and_nothing_written(tmp_path):
    """Where it is refused, `Run.start`, all notebooks are the same: test_contract.py."""
    done, _ = papermill(ALWAYS, tmp_path, "-p", "profile", "smoke", "-p", "seedz", "5")
    assert done.returncode != 0
    assert "seedz is not a parameter of this notebook; did you mean seed?" in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_the_offline_kernel_really_has_no_network(tmp_path):
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    source = "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=1)"
    notebook.cells = [nbformat.v4.new_code_cell(source)]
    nbformat.write(notebook, tmp_path / "reach.ipynb")
    done, _ = papermill(tmp_path / "reach.ipynb", tmp_path)
    assert done.returncode != 0
    assert "reached for the network" in done.stderr
