"""What holds for the whole of nbhelpers: its rooms, imports that do nothing, and tests without a network."""

import ast
import graphlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nbhelpers.core.fingerprint import imported_names, module_files

ROOT = Path(__file__).parent.parent
ROOMS = ("core", "data", "models", "cost", "evaluation", "training", "serving", "studies", "notebook")  # top to bottom
FILES = module_files()
SOURCES = {name: file.read_text(encoding="utf-8") for name, file in FILES.items()}
MODULES = [name for name in SOURCES if name not in ("__init__", "__main__", *ROOMS)]


def imports(name: str, source: str) -> set[str]:
    """The modules of the package that a module's source imports, wherever in it; a name of none is an error."""
    found = imported_names(source, name)
    modules = {x for x in found if x in SOURCES and x not in ROOMS}
    whole = {x for x in found if x in ROOMS and not any(y.startswith(f"{x}.") for y in found)}
    assert not whole, f"{name} imports the room {', '.join(whole)}: name the module"
    parents = {module.rpartition(".")[0] for module in found}
    unknown = {x for x in found if x not in SOURCES and x.rpartition(".")[0] not in modules and x not in parents}
    assert not unknown, f"{name} imports {', '.join(sorted(unknown))}, which is not there"
    return modules


def upward(name: str, source: str) -> set[str]:
    """What a module imports from rooms below its own."""
    own = ROOMS.index(name.split(".")[0])
    return {x for x in imports(name, source) if ROOMS.index(x.split(".")[0]) > own}


@pytest.mark.parametrize(
    "statement",
    [
        "import nbhelpers.notebook.suite",
        "import nbhelpers.notebook.suite as s",
        "from nbhelpers.notebook import report, suite",
        "from nbhelpers.notebook.suite import run_suite",
        "from ..notebook import suite",
        "from ..notebook.suite import run_suite",
    ],
)
@pytest.mark.parametrize("where", ["{}", "def inside():\n    if True:\n        {}\n"], ids=["on top", "lazy"])
def test_an_upward_import_is_seen_in_every_form(statement, where):
    assert "notebook.suite" in upward("data.splits", where.format(statement))
    assert not upward("notebook.report", where.format(statement))


def test_an_unknown_name_is_refused():
    with pytest.raises(AssertionError, match=r"imports data\.nothing"):
        imports("data.splits", "from nbhelpers.data.nothing import x")
    with pytest.raises(AssertionError, match="imports nothing"):
        imports("data.splits", "from nbhelpers import nothing")


@pytest.mark.parametrize("statement", ["from nbhelpers import notebook", "import nbhelpers.notebook"])
def test_a_room_is_not_imported_as_a_whole(statement):
    with pytest.raises(AssertionError, match="imports the room notebook"):
        imports("data.splits", statement)


@pytest.mark.parametrize("module", MODULES)
def test_no_import_is_hidden_in_a_string(module):
    calls = [x.func for x in ast.walk(ast.parse(SOURCES[module])) if isinstance(x, ast.Call)]
    called = {getattr(f, "attr", getattr(f, "id", None)) for f in calls}
    assert not called & {"import_module", "__import__"}


def test_every_module_has_a_room():
    assert {name.split(".")[0] for name in MODULES} <= set(ROOMS)
    assert all(name.count(".") == 1 for name in MODULES)
    assert len(MODULES) > 60


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_room_and_those_above(module):
    assert not upward(module, SOURCES[module])


def test_no_imports_in_a_circle():
    graphlib.TopologicalSorter({name: imports(name, SOURCES[name]) for name in MODULES}).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_small_and_keeps_its_private_names(module):
    assert SOURCES[module].count("\n") <= 300
    documented = ast.get_docstring(ast.parse(SOURCES[module])) or ""
    assert len(documented) > 20, "its docstring says what its one job is"
    assert "TODO" not in documented
    others = {}
    for node in ast.walk(ast.parse(SOURCES[module])):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("nbhelpers")):
            others |= {alias.asname or alias.name: alias.name for alias in node.names}
    assert not [name for name in others.values() if name.startswith("_")]
    for node in ast.walk(ast.parse(SOURCES[module])):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in others:
            assert not node.attr.startswith("_") or node.attr.startswith("__"), f"{node.value.id}.{node.attr}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_lists_its_modules_and_holds_no_code(room):
    tree = ast.parse(SOURCES[room])
    listed = re.findall(r"^- `(\w+)`: \S", ast.get_docstring(tree), re.M)
    assert listed == sorted(name.split(".")[1] for name in MODULES if name.split(".")[0] == room)
    assert len(tree.body) == 1


def child(code: str, folder: Path) -> subprocess.CompletedProcess:
    """Run code in a Python of its own whose home and working folder are `folder`."""
    own = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    inherited = {k: v for k, v in os.environ.items() if k not in ("NBHELPERS_CACHE", "HF_HOME", "MPLCONFIGDIR")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=inherited | own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_importing_the_package_loads_no_other_module(tmp_path):
    code = "import sys; before = set(sys.modules); import nbhelpers; print(*sys.modules.keys() - before)"
    assert child(code, tmp_path).stdout.split() == ["nbhelpers"]


IMPORT_ALL = """
import importlib, logging, os, random, sys
from pathlib import Path

import accelerate, datasets, matplotlib, numpy, torch, transformers, trl.trainer.sft_trainer

def state():
    return {
        "python seed": hash(random.getstate()),
        "numpy seed": hash(numpy.random.get_state()[1].tobytes()),
        "torch seed": [torch.initial_seed(), hash(torch.get_rng_state().numpy().tobytes())],
        "logging": [len(logging.root.handlers), logging.root.level, logging.getLogger("nbhelpers").handlers],
        "level": transformers.utils.logging.get_verbosity(),
        "style": hash(str(sorted(matplotlib.rcParams.copy().items(), key=str))),
        "environment": hash(str(sorted(os.environ.items()))),
        "folder": os.getcwd(),
        "files": sorted(map(str, Path.home().rglob("*"))),
    }

before = state()
for name in %r:
    importlib.import_module(f"nbhelpers.{name}")
    after = state()
    changed = [key for key in before if before[key] != after[key]]
    if changed:
        print(name, changed)
        break
"""


def test_importing_every_module_changes_nothing(tmp_path):
    assert child(IMPORT_ALL % sorted(MODULES), tmp_path).stdout == ""


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: socket.socket().connect(("192.0.2.1", 80)),
        lambda: socket.socket().connect_ex(("192.0.2.1", 80)),
        lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
        lambda: socket.getaddrinfo("example.org", 80),
        lambda: socket.gethostbyname("example.org"),
    ],
    ids=["connect", "connect_ex", "create_connection", "getaddrinfo", "gethostbyname"],
)
def test_no_test_can_leave_this_machine(attempt, no_network):
    with pytest.raises(AssertionError, match=r"A test tried to reach '(192\.0\.2\.1|example\.org)'"):
        attempt()
    assert len(no_network) == 1  # kept, so that a test fails even where the refusal was caught
    no_network.clear()


def test_a_test_can_reach_this_machine():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for host in ("127.0.0.1", "localhost"):
            socket.create_connection((host, port), timeout=60).close()
