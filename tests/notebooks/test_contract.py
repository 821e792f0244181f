"""What every notebook promises, checked without running it."""

import ast
import re

import nbformat
import pytest

from nbhelpers.core.parameters import LIMITS, declared_parameters
from nbhelpers.core.storage import repository_root

ROOT = repository_root()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
STUDIES = sorted((ROOT / "notebooks" / "studies").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
COMMON = {"profile", "model_id", "dataset", "seed", "run_id", "output_dir", "resume", "force", "report_to"}
NUMBERED = {
    "title",
    "learn",
    "install",
    "imports",
    "parameters",
    "start",
    "data",
    "checks",
    "finish",
    "summary",
    "exercises",
}  # ids of the cells that give every notebook its order


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebooks_are_found():
    assert len(NOTEBOOKS) >= 1
    assert len(STUDIES) >= 1
    assert {path.name for path in SOLUTIONS} == {path.name for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS + STUDIES + SOLUTIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_is_stripped_valid_and_installs_only_in_its_install_cell(path):
    notebook = read(path)
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in code(notebook):
        assert not cell.outputs, cell.id
        assert cell.execution_count is None, cell.id
        installs = re.search(r"^\s*[!%]\s*(pip|conda)|pip.*install", cell.source, re.M)
        assert not installs or cell.id == "install", cell.id


@pytest.mark.parametrize("path", NOTEBOOKS + STUDIES + SOLUTIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_has_one_parameters_cell_of_commented_literals(path):
    tagged = [cell for cell in code(read(path)) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    declared = declared_parameters(tagged[0].source)
    assert declared, "annotated literals only"
    least = COMMON if path in NOTEBOOKS else COMMON | {"study"} if path in STUDIES else {"profile", "run_id"}
    assert declared.keys() >= least
    for line in tagged[0].source.splitlines():
        assert re.search(r"  # \w", line), f"no unit, range or meaning: {line}"
    free_text = {
        "model_id",
        "dataset",
        "columns",
        "split_column",
        "language",
        "benchmarks",
        "run_id",
        "output_dir",
        "force",
        "prompts",
    }
    assert declared.keys() - free_text <= LIMITS.keys(), "a parameter without limits"


@pytest.mark.parametrize("path", NOTEBOOKS + STUDIES, ids=lambda path: path.stem)
def test_keeps_its_budgets(path):
    notebook = read(path)
    cells = code(notebook)
    assert 25 <= len(notebook.cells) <= (45 if path in STUDIES else 60)
    assert len(notebook.cells) - len(cells) >= len(cells), "at least as much prose as code"
    longest = max(cells, key=lambda cell: len(cell.source.splitlines()))
    assert len(longest.source.splitlines()) <= 25, longest.id
    dense = [cell.id for cell in cells if cell.id != "parameters" and len(cell.source) > 900]
    assert path not in STUDIES or not dense
    trees = [ast.parse(cell.source) for cell in cells]
    kinds = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
    assert sum(isinstance(node, kinds) for tree in trees for node in ast.walk(tree)) <= 3


@pytest.mark.parametrize("path", NOTEBOOKS + STUDIES, ids=lambda path: path.stem)
def test_keeps_the_order_of_cells(path):
    ids = [cell.id for cell in read(path).cells if cell.id in NUMBERED]
    order = ["title", "learn", "install", "imports", "parameters", "start", "data", "checks", "finish"]
    assert ids == [*order, "summary", "exercises"]


@pytest.mark.parametrize("path", NOTEBOOKS + STUDIES, ids=lambda path: path.stem)
def test_no_measured_number_stands_in_the_prose(path):
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            found = re.search(r"\d+(\.\d+)? ?(%|MiB|GiB|MB|tokens/s|minutes|seconds)|\$\d", cell.source)
            assert not found, f"{cell.id}: {found[0]}"
