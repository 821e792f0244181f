"""What a result was computed by: hashes of code that stay the same when imports, comments or docstrings change."""

import ast
import functools
import hashlib
import json
from pathlib import Path

import nbhelpers
from nbhelpers.core import storage

PACKAGE = "nbhelpers"


class _Bare(ast.NodeTransformer):
    """Takes imports and docstrings out of a tree."""

    def visit_Import(self, node):
        return None

    visit_ImportFrom = visit_Import

    def generic_visit(self, node):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
        super().generic_visit(node)
        if getattr(node, "body", None) == [] and not isinstance(node, ast.Module):
            node.body.append(ast.Pass())
        return node


def _without_magics(source: str) -> str:
    """A cell without lines such as `%matplotlib inline`, which are no Python."""
    return "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!")))


def code_hash(sources: list[str]) -> str:
    """sha256 over the statements of these sources, in order; imports, docstrings and comments do not count.

    Raises SyntaxError where one is no Python.
    """
    bare = [text for text in map(_statements, sources) if text.strip()]
    return hashlib.sha256(json.dumps(bare).encode()).hexdigest()


@functools.lru_cache(maxsize=256)  # a study asks for every module of the package once a job
def _statements(source: str) -> str:
    return ast.unparse(ast.fix_missing_locations(_Bare().visit(ast.parse(source))))


def notebook_sources(path: str | Path) -> list[str]:
    """The sources of a notebook's code cells, the `install` cell left out."""
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    own = [cell for cell in cells if cell["cell_type"] == "code" and cell.get("id") != "install"]
    own = [cell for cell in own if "injected-parameters" not in cell["metadata"].get("tags", [])]
    return [_without_magics("".join(cell["source"])) for cell in own]


@functools.lru_cache(maxsize=256)
def imported_names(source: str, module: str = "") -> frozenset[str]:
    """What a source imports from this package, wherever in the file, as dotted names below `nbhelpers`.

    `from nbhelpers.models import memory` gives `models` and `models.memory`, whether `memory` is a module or a name.

    Args:
        module: the dotted name below `nbhelpers` that relative imports of the source start from.
    """
    here, names = [PACKAGE, *module.split(".")], set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = here[: -node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return frozenset(name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(f"{PACKAGE}."))


def module_files() -> dict[str, Path]:
    """Every module of the package by its dotted name below `nbhelpers`; a room's own name is its `__init__`."""
    package = Path(nbhelpers.__file__).resolve().parent
    names = {file: ".".join(file.relative_to(package).with_suffix("").parts) for file in sorted(package.rglob("*.py"))}
    return {name.removesuffix(".__init__"): file for file, name in names.items()}


def module_hashes(sources: list[str] | None = None) -> dict[str, str]:
    """Hash of every module that these sources import, directly or through one another; None: of every module."""
    files, found = module_files(), {}
    waiting = list(files) if sources is None else [name for source in sources for name in imported_names(source)]
    while waiting:
        name = waiting.pop()
        if name in files and name not in found:
            source = files[name].read_text(encoding="utf-8")
            found[name] = code_hash([source])
            waiting += imported_names(source, name)
    return dict(sorted(found.items()))


def of_notebook(path: str | Path) -> dict:
    """What a notebook's results depend on: `{"notebook": hash, "modules": {name: hash}, "data": {file: hash}}`.

    `data` are the files of `data/` that its code or its modules name. Versions of libraries are in its manifest.
    """
    sources, files = notebook_sources(path), module_files()
    modules = module_hashes(sources)
    text = "".join([*sources, *(files[name].read_text(encoding="utf-8") for name in modules)])
    named = [file for file in sorted((storage.repository_root() / "data").glob("*.[cj]s*")) if file.name in text]
    return {
        "notebook": code_hash(sources),
        "modules": modules,
        "data": {file.name: storage.sha256_of(file) for file in named},
    }


def changes(made_by: dict | None, path: str | Path) -> list[str]:
    """What differs between `of_notebook` as it was and as it is: `notebook` for its own code, then modules, data files.

    A module that was moved or renamed is the same module: it is known by its hash.
    """
    now = of_notebook(path)
    if not isinstance(made_by, dict) or not {"notebook", "modules", "data"} <= made_by.keys():  # none, or damaged
        return ["notebook"]
    own = ["notebook"] if now["notebook"] != made_by["notebook"] else []
    before = set(made_by["modules"].values())
    modules = [name for name, digest in now["modules"].items() if digest not in before]
    return own + modules + [name for name, digest in now["data"].items() if digest != made_by["data"].get(name)]
