"""`pydocs`: real text that is on every machine, the docstrings of the installed Python packages.

The files are read with `ast`: nothing is imported and nothing is executed. The packages are a fixed list
(the standard library and the pinned core set), so that an extra installed package never changes the corpus;
the same Python version and the same requirements give the same corpus hash.

Four instruction tasks come out of it by rule, each with an answer that can be checked:

    summary      the body of a docstring -> its one-line summary          (scored by ROUGE-L)
    parameters   a docstring             -> its parameters as JSON        (valid JSON, exact match);
                                            only where every type is given and the code confirms every name
    signature    a name and a docstring  -> the call, `name(a, b, *, c)`  (exact match)
    package      a docstring             -> the package it comes from     (exact match)
"""

import ast
import gc
import hashlib
import inspect
import os
import platform
import sys
import sysconfig
import warnings
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path

from nbhelpers.core.fingerprint import code_hash, module_files

HELD_OUT = ("networkx", "huggingface_hub", "datasets", "accelerate")
PACKAGES = (
    *("torch", "transformers", "peft", "trl", "tokenizers", "safetensors", "evaluate", "papermill", "nbclient"),
    *("nbformat", "nbconvert", "numpy", "pandas", "matplotlib", "ipywidgets", "IPython", "jupyter_client", "traitlets"),
    *("sympy", "fsspec", "jinja2", "requests", "httpx", "yaml", "PIL", "pyarrow", "regex", "rich", "tornado", "zmq"),
    *HELD_OUT,
)
TASKS = ("summary", "parameters", "signature", "package")
_SKIP = {"tests", "test", "testing", "_vendor", "vendored", "site-packages", "idlelib", "lib2to3", "turtledemo"}


def packages_on_disk() -> dict[str, Path]:
    """Name -> folder or file of every package of the corpus that is installed, without importing any."""
    purelib = Path(sysconfig.get_paths()["purelib"])
    found = {name: purelib / name for name in PACKAGES if (purelib / name).is_dir()}
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    for name in sorted(sys.stdlib_module_names):
        for path in (stdlib / name, stdlib / f"{name}.py"):
            if name not in _SKIP and path.exists():
                found[name] = path
    return found


def fingerprint() -> str:
    """Changes with whatever the rows come from: these rules, Python's version and the packages' own file hashes."""
    owners = metadata.packages_distributions()
    rules = code_hash(
        [module_files()[name].read_text(encoding="utf-8") for name in ("data.pydocs", "data.pydocs_tasks")]
    )
    parts = [rules, platform.python_version()]
    for name in PACKAGES:
        for owner in sorted(set(owners.get(name, []))):
            record = metadata.distribution(owner).read_text("RECORD") or ""
            lines = sorted(line for line in record.splitlines() if ".py,sha256=" in line)
            parts.append(f"{owner} {hashlib.sha256(''.join(lines).encode()).hexdigest()}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _public(name: str) -> bool:
    return not name.startswith("_")


def _arguments(node: ast.AST) -> list[str] | None:
    """The argument names of a function, or of a class's `__init__`, as written in a call, without `self` and `cls`."""
    if isinstance(node, ast.ClassDef):
        inits = [child for child in node.body if getattr(child, "name", None) == "__init__"]
        return _arguments(inits[0]) if inits else None
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    a = node.args
    names = [arg.arg for arg in a.posonlyargs + a.args]
    names = names[1:] if names[:1] in (["self"], ["cls"]) else names
    names += [f"*{a.vararg.arg}"] if a.vararg else ["*"] if a.kwonlyargs else []
    names += [arg.arg for arg in a.kwonlyargs]
    return names + ([f"**{a.kwarg.arg}"] if a.kwarg else [])


def read_docstrings(path: Path, package: str, module: str) -> list[dict]:
    """Every public docstring of one source file: `{package, module, name, kind, arguments, text}`.

    `kind` is module, class or function; `arguments` is None for a module and for a class without `__init__`.
    A file that is not valid Python for this interpreter gives an empty list.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escape sequences in other people's files
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return []
    rows = []

    def visit(node: ast.AST, prefix: str) -> None:
        doc = ast.get_docstring(node, clean=False)
        if doc and doc.strip():
            kind = {ast.Module: "module", ast.ClassDef: "class"}.get(type(node), "function")
            arguments = _arguments(node)
            text = inspect.cleandoc(doc).encode("utf-8", "replace").decode()  # lone surrogates cannot be stored
            rows.append(
                {"package": package, "module": module, "name": prefix, "kind": kind, "arguments": arguments}
                | {"text": text}
            )
        if isinstance(node, ast.Module | ast.ClassDef):
            for child in node.body:
                if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and _public(child.name):
                    visit(child, f"{prefix}.{child.name}" if prefix else child.name)

    visit(tree, "")
    return rows


def _files(package: str, root: Path) -> list[tuple[str, str, str]]:
    if root.is_file():
        return [(str(root), package, package)]
    out = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(d for d in folders if d not in _SKIP and _public(d))
        for file in sorted(files):
            if file.endswith(".py") and (_public(file) or file == "__init__.py"):
                path = Path(folder, file)
                parts = (package, *path.relative_to(root).with_suffix("").parts)
                out.append((str(path), package, ".".join(p for p in parts if p != "__init__")))
    return out


def _read_many(files: list[tuple[str, str, str]]) -> list[dict]:
    collected = gc.isenabled()
    gc.disable()  # syntax trees hold no cycles, and looking for some takes 40 % of the time
    try:
        return [row for path, package, module in files for row in read_docstrings(Path(path), package, module)]
    finally:
        if collected:
            gc.enable()


def read_package(package: str, root: Path) -> list[dict]:
    """Every public docstring of one package, in the order of its files."""
    return _read_many(_files(package, root))


def corpus(workers: int | None = None) -> list[dict]:
    """The docstrings of every package on the list, in a fixed order; read by `workers` processes (default: cores)."""
    files = [item for name, root in sorted(packages_on_disk().items()) for item in _files(name, root)]
    workers = workers or min(8, os.cpu_count() or 1)
    chunks = [files[i : i + 100] for i in range(0, len(files), 100)]
    if workers == 1:
        return [row for chunk in chunks for row in _read_many(chunk)]
    with ProcessPoolExecutor(workers) as pool:
        return [row for rows in pool.map(_read_many, chunks) for row in rows]
