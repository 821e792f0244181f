"""Every name of nbhelpers that package, notebooks, solutions, benchmarks or tests use is there."""

import ast
import builtins
import contextlib
import json
import re
from pathlib import Path

import pytest

from nbhelpers.core.fingerprint import module_files, notebook_sources

ROOT = Path(__file__).parent.parent
MODULES = {f"nbhelpers.{name}" if name != "__init__" else "nbhelpers": file for name, file in module_files().items()}


def bound(tree: ast.Module) -> set[str]:
    """The names that a module binds at its top level."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        else:
            found |= {x.id for x in ast.walk(node) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)}
    return found | {"__file__", "__name__", "__doc__"}


NAMES = {name: bound(ast.parse(file.read_text(encoding="utf-8"))) for name, file in MODULES.items()}


def unresolved(source: str) -> list[str]:
    """The names of nbhelpers that a source imports, or reads from a module it imported, and that are not there."""
    tree, aliases, missing = ast.parse(source), {}, []
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if re.search(r"^ *(from|import) nbhelpers", text, re.M):
            with contextlib.suppress(SyntaxError):  # else it is what a test has another process run
                missing += unresolved(text.replace("%r", "0"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nbhelpers":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in MODULES:
                    aliases[alias.asname or alias.name] = whole
                elif alias.name not in NAMES.get(node.module, ()):
                    missing.append(whole)
        elif isinstance(node, ast.Import):
            missing += [x.name for x in node.names if x.name.split(".")[0] == "nbhelpers" and x.name not in MODULES]
    shadowed = {
        x.arg if isinstance(x, ast.arg) else x.id
        for x in ast.walk(tree)
        if isinstance(x, ast.arg) or (isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store))
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id not in shadowed:
            module = aliases.get(node.value.id)
            if module and node.attr not in NAMES[module] and f"{module}.{node.attr}" not in MODULES:
                missing.append(f"{module}.{node.attr}")
    return missing


def sources(path: Path) -> str:
    return "\n".join(notebook_sources(path)) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")


FILES = [
    file
    for top in ("nbhelpers", "notebooks", "benchmarks", "tests")
    for file in sorted((ROOT / top).rglob("*"))
    if file.suffix in (".py", ".ipynb") and ".ipynb_checkpoints" not in file.parts
    if file.stem not in ("test_names", "test_layering", "test_fingerprint")  # which name what is not there, on purpose
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_name_is_there(file):
    assert unresolved(sources(file)) == []


@pytest.mark.parametrize(
    "source",
    [
        "from nbhelpers import nothing",
        "from nbhelpers.core.run import nothing",
        "import nbhelpers.nothing",
        "from nbhelpers.core import run\nrun.nothing()",
        "def f():\n    from nbhelpers.core import run as r\n    r.nothing()",
    ],
)
def test_a_name_that_is_not_there_is_found(source):
    assert len(unresolved(source)) == 1


def mentioned(tree: ast.Module) -> set[str]:
    """All names that a module defines, stores or reads, at any depth."""
    kinds = {ast.FunctionDef: "name", ast.ClassDef: "name", ast.Name: "id", ast.Attribute: "attr", ast.arg: "arg"}
    return {getattr(x, kinds[type(x)]) for x in ast.walk(tree) if type(x) in kinds}


def wrong_references(text: str) -> list[str]:
    """The `module.name` in backticks, in prose, that are not there; of `room.name` too, where that is no module."""
    wrong = []
    for first, second in re.findall(r"`(?:nbhelpers\.)?([a-z_]+)\.([A-Za-z_]\w*)", text):
        rooms, stems = f"nbhelpers.{first}" in MODULES, [name for name in MODULES if name.endswith(f".{first}")]
        there = f"nbhelpers.{first}.{second}" in MODULES
        there |= any(second in MENTIONED[stem] for stem in stems if stem.count(".") == 2)
        if (rooms or stems) and not there:
            wrong.append(f"{first}.{second}")
    return wrong


MENTIONED = {name: mentioned(ast.parse(file.read_text(encoding="utf-8"))) for name, file in MODULES.items()}
PROSE = [
    *FILES,
    *(ROOT / name for name in ("README.md", "data/README.md", "benchmarks/UPSTREAM.md", "benchmarks/README.md")),
]


@pytest.mark.parametrize("file", PROSE, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_what_prose_refers_to_is_there(file):
    assert wrong_references(file.read_text(encoding="utf-8")) == []


def test_a_reference_to_what_is_not_there_is_found():
    text = "`training.keep_best`, `sft.nothing(x)`, `sft.keep_best`, `core.run`, `torch.compile`"
    assert wrong_references(text) == ["training.keep_best", "sft.nothing"]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").rglob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_uses_no_name_that_no_cell_binds(path):
    tree = ast.parse(sources(path))
    stored = {x.id for x in ast.walk(tree) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)}
    stored |= {x.arg for x in ast.walk(tree) if isinstance(x, ast.arg)}
    stored |= {x.name for x in ast.walk(tree) if isinstance(x, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler)}
    stored |= {
        (alias.asname or alias.name).split(".")[0]
        for x in ast.walk(tree)
        if isinstance(x, ast.Import | ast.ImportFrom)
        for alias in x.names
    }
    modules = {
        alias.asname or alias.name
        for x in ast.walk(tree)
        if isinstance(x, ast.ImportFrom) and (x.module or "").split(".")[0] == "nbhelpers"
        for alias in x.names
        if f"{x.module}.{alias.name}" in MODULES
    }
    names = {x.id for x in ast.walk(tree) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)}
    assert not modules & names, "a module's name is given to something else"
    read = {x.id for x in ast.walk(tree) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Load)}
    assert read - stored - set(dir(builtins)) - {"display", "get_ipython"} == set()


def test_the_files_are_found():
    assert json.dumps(sorted(MODULES)).count("nbhelpers.") >= 60
    assert len(FILES) > len(MODULES)
