"""What every notebook promises, checked without running it."""

import ast
import json
import re

import nbformat
import pytest

from nbhelpers.core.parameters import LIMITS, declared_parameters
from nbhelpers.core.storage import repository_root
from nbhelpers.notebook import notebook_file

ROOT = repository_root()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
STUDIES = sorted((ROOT / "notebooks" / "studies").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
COMMON = {"profile", "model_id", "dataset", "seed", "run_id", "output_dir"}
TRAINING = {"resume", "force", "report_to"}  # of notebooks that train
PLANNING = ("00_start_here", "07_cost_analysis")  # they load no data set and train nothing
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


def start_call(source: str) -> ast.Call:
    """The call of `run = Run.start(...)`, before which only limits may be written down."""
    body = ast.parse(source).body
    if isinstance(body[0].value, ast.Dict):
        ast.literal_eval(body.pop(0).value)
    assert ast.unparse(body[0].targets[0]) == "run"
    assert ast.unparse(body[0].value.func) == "Run.start"
    return body[0].value


def own_limits(source: str) -> dict:
    """The limits that a notebook passes for parameters which it alone has."""
    given = start_call(source).args[2:]
    if given and isinstance(given[0], ast.Name):
        given = [ast.parse(source).body[0].value]
    return ast.literal_eval(given[0]) if given else {}


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


@pytest.mark.parametrize("path", NOTEBOOKS + STUDIES, ids=lambda path: path.stem)
def test_goes_behind_numbered_notebooks_before_it(path):
    after = notebook_file.goes_after(json.loads(path.read_text()))
    assert set(after) <= {other.stem for other in NOTEBOOKS}
    assert all(name[:2] < path.stem[:2] for name in after), "a batch would wait forever"
    code_text = "\n".join(cell.source for cell in code(read(path)))
    assert ("sft_adapter(run" in code_text) <= ("04_instruction_tuning" in after)


@pytest.mark.parametrize("path", NOTEBOOKS + STUDIES + SOLUTIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_has_one_parameters_cell_of_commented_literals(path):
    cells = code(read(path))
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    declared = declared_parameters(tagged[0].source)
    assert declared, "annotated literals only"
    trains = TRAINING if path.stem != "01_data_preparation" else set()
    least = COMMON | trains | ({"study"} if path in STUDIES else set())
    if path.stem in PLANNING:
        least = {"profile", "run_id", "output_dir"}
    if path in SOLUTIONS:
        least = {"profile", "run_id"}
    assert declared.keys() >= least
    for line in tagged[0].source.splitlines():
        assert re.search(r"  # \w", line), f"no unit, range or meaning: {line}"
    free_text = {
        "model_id",
        "dataset",
        "columns",
        "chat_template",
        "add_template_tokens",
        "split_column",
        "language",
        "benchmarks",
        "run_id",
        "output_dir",
        "force",
        "prompts",
        "labels_file",
        "labeller_name",
        "adapter",
        "served_name",
        "push_to_hub",
        "license",
        "plan_model",
        "instruct",
        "commercial",
        "gpu",
        "api",
        "prices_file",
    }
    limited = LIMITS.keys() | own_limits(next(cell.source for cell in cells if cell.id == "start")).keys()
    assert declared.keys() - free_text <= limited, "a parameter without limits"
    assert path in STUDIES or "study" not in declared


@pytest.mark.parametrize("path", NOTEBOOKS + STUDIES + SOLUTIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_checks_its_parameters_before_anything_else(path):
    """`Run.start`, which refuses an unknown one, comes right behind the parameters and gets all of them."""
    cells = code(read(path))
    (after,) = [i + 1 for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    assert cells[after].id == "start"
    call = start_call(cells[after].source)
    assert call.args[0].value == (f"solutions_{path.stem}" if path in SOLUTIONS else path.stem)
    assert ast.unparse(call.args[1]) == "globals()"


@pytest.mark.parametrize("path", NOTEBOOKS + STUDIES, ids=lambda path: path.stem)
def test_keeps_its_budgets(path):
    notebook = read(path)
    cells = code(notebook)
    assert 25 <= len(notebook.cells) <= (60 if path.stem == "01_data_preparation" else 45)
    assert len(notebook.cells) - len(cells) >= len(cells), "at least as much prose as code"
    assert not [cell.id for cell in cells if max(map(len, cell.source.splitlines())) > 110]
    nodes = {cell.id: list(ast.walk(ast.parse(cell.source))) for cell in cells}
    own = [cell for cell in cells if cell.id not in ("install", "imports", "imports-nbhelpers", "parameters")]
    assert not [cell.id for cell in own if len(cell.source.splitlines()) > 25]
    assert not [cell.id for cell in own if sum(isinstance(node, ast.stmt) for node in nodes[cell.id]) > 15]
    kinds = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
    assert sum(isinstance(node, kinds) for found in nodes.values() for node in found) <= 3


@pytest.mark.parametrize("path", NOTEBOOKS + STUDIES + SOLUTIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_cell_is_long(path):
    """Over 900 characters is only the cell of the parameters, which papermill wants in one, with a comment for each."""
    assert {cell.id for cell in code(read(path)) if len(cell.source) > 900} <= {"parameters"}


@pytest.mark.parametrize("path", NOTEBOOKS + STUDIES, ids=lambda path: path.stem)
def test_keeps_the_order_of_cells(path):
    ids = [cell.id for cell in read(path).cells if cell.id in NUMBERED]
    order = ["title", "learn", "install", "imports", "parameters", "start", "data", "checks", "finish"]
    if path.stem in PLANNING:
        order.remove("data")
    assert ids == [*order, "summary", "exercises"]


@pytest.mark.parametrize("path", NOTEBOOKS + STUDIES, ids=lambda path: path.stem)
def test_no_measured_number_stands_in_the_prose(path):
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            found = re.search(r"\d+(\.\d+)? ?(%|MiB|GiB|MB|tokens/s|minutes|seconds)|\$\d", cell.source)
            assert not found, f"{cell.id}: {found[0]}"
