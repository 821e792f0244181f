"""Notebooks of a few cells for the batch runner, and a batch of them."""

import io
from pathlib import Path

import nbformat
import psutil
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from nbhelpers.core import storage
from nbhelpers.notebook import plan, suite
from nbhelpers.notebook.attempts import Options

PARAMETERS = """
profile: str = "auto"
run_id: str = "default"
output_dir: str = "outputs"
learning_rate: float = 1e-3
max_steps: int = 1
force: bool = False
resume: str = "auto"
label: str = "a"
"""
FINISH = """
import json, pathlib
folder = pathlib.Path(output_dir, run_id, {name!r})
metrics = {{"result": {{"value": learning_rate * max_steps}}}}
folder.joinpath("metrics.json").write_text(json.dumps({{"status": "completed", "metrics": metrics}}))
"""


def write(folder: Path, name: str, *sources: str, finish: bool = True, after: tuple = ()) -> Path:
    """A notebook with a title, a parameters cell and these code cells; `finish` writes metrics.json at the end."""
    parameters = new_code_cell(PARAMETERS.strip(), id="parameters", metadata={"tags": ["parameters"]})
    sources = (*sources, FINISH.format(name=name).strip()) if finish else sources
    cells = [new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(sources)]
    notebook = new_notebook(cells=[new_markdown_cell("# Title", id="title"), parameters, *cells])
    if after:
        notebook.metadata["nbhelpers"] = {"after": list(after)}
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def run(paths, output_dir, profile="auto", run_id="default", parameters=None, points=(), stream=None, **options):
    """The results of a batch of these notebooks."""
    root = storage.repository_root() / "outputs" / "reference"
    tasks = plan.tasks(paths, profile, run_id, output_dir, parameters or {}, points, root)
    return suite.run_suite(tasks, Path(output_dir, run_id), Options(**options), stream or io.StringIO())


def alive(pid_file: Path) -> bool:
    """Whether the process whose id a notebook noted is there and not a zombie."""
    pid = int(pid_file.read_text())
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def note_pid(path: Path) -> str:
    return f"import os, pathlib, time\npathlib.Path({str(path)!r}).write_text(str(os.getpid()))"


def count_runs(path: Path) -> str:
    """A cell that adds a line to a file, so that a test sees how often it ran."""
    return f"with open({str(path)!r}, 'a') as file:\n    file.write('ran\\n')"


def runs(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0
