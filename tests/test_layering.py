"""What holds for the whole of nbhelpers: its floors, imports that do nothing, and tests without a network."""

import ast
import graphlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {
    **dict.fromkeys(("__init__", "errors", "profiles", "fingerprint"), 0),
    **dict.fromkeys(
        ("run", "sources", "files", "pydocs", "shapes", "chat", "templates", "formats", "metrics", "memory", "cost"), 1
    ),
    **dict.fromkeys(("measures", "normalisation", "quality", "privacy", "datacard"), 1),
    **dict.fromkeys(
        ("defects", "defects_copies", "defects_personal", "defects_rows", "defects_text", "planted_text"), 1
    ),
    "templates": 1,
    **dict.fromkeys(("cleaning", "duplicates", "splits", "detection"), 2),
    **dict.fromkeys(("models", "forward", "batching", "checkpoints"), 2),
    **dict.fromkeys(("training", "evaluation", "adapters", "constraints", "preferences", "ppo", "rewards"), 3),
    **dict.fromkeys(("augmentation", "selection", "forgetting", "retention", "diagnosis", "rates"), 3),
    **dict.fromkeys(("quantization", "serving"), 3),
    **dict.fromkeys(("plots", "widgets", "variants", "comparison"), 4),
    **dict.fromkeys(("suite", "report", "study", "__main__"), 5),
}
SOURCES = {file.stem: file.read_text(encoding="utf-8") for file in sorted((ROOT / "nbhelpers").rglob("*.py"))}


def imported(source: str) -> set[str]:
    """The modules of the package that a source imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, ("nbhelpers" if node.level else "", node.module)))
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("nbhelpers.")} & FLOORS.keys()


IMPORTS = {module: imported(source) for module, source in SOURCES.items()}


@pytest.mark.parametrize(
    "statement",
    [
        "import nbhelpers.suite",
        "import nbhelpers.suite as s",
        "from nbhelpers import errors, suite",
        "from nbhelpers.suite import Suite",
        "from . import suite",
        "from .suite import Suite",
    ],
)
def test_every_form_of_import_is_seen(statement):
    assert "suite" in imported(f"def inside():\n    if True:\n        {statement}\n")


def test_every_module_has_a_floor():
    assert "run" in SOURCES
    assert SOURCES.keys() <= FLOORS.keys()


@pytest.mark.parametrize("module", SOURCES)
def test_no_import_runs_upward(module):
    assert not {name for name in IMPORTS[module] if FLOORS[name] > FLOORS[module]}


def test_no_imports_in_a_circle():
    graphlib.TopologicalSorter(IMPORTS).prepare()


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
    assert child(IMPORT_ALL % sorted(SOURCES.keys() - {"__init__"}), tmp_path).stdout == ""


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
