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
import json
import os
import platform
import re
import sys
import sysconfig
import warnings
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path

HELD_OUT = ("networkx", "huggingface_hub", "datasets", "accelerate")
PACKAGES = (
    *("torch", "transformers", "peft", "trl", "tokenizers", "safetensors", "evaluate", "papermill", "nbclient"),
    *("nbformat", "nbconvert", "numpy", "pandas", "matplotlib", "ipywidgets", "IPython", "jupyter_client", "traitlets"),
    *("sympy", "fsspec", "jinja2", "requests", "httpx", "yaml", "PIL", "pyarrow", "regex", "rich", "tornado", "zmq"),
    *HELD_OUT,
)
TASKS = ("summary", "parameters", "signature", "package")
INSTRUCTIONS = {
    "summary": "Write the one-line summary of this Python docstring.",
    "parameters": "List the parameters that this Python docstring documents as a JSON object from each name to its "
    "type, without defaults. Answer with the JSON alone.",
    "signature": "Write the call signature that this Python docstring documents, without types or default values.",
    "package": "Name the Python package that this docstring comes from. Answer with the name alone.",
}
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
    rules = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
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


# --- from a docstring to tasks ------------------------------------------------------------------------------------

_NAME = r"\*{0,2}[A-Za-z_]\w*"
_SPHINX = re.compile(rf"^:param(?:eter)?\s+(?:(?P<type>[\w.\[\], |]+?)\s+)?(?P<name>{_NAME})\s*:", re.M)
_GOOGLE_ENTRY = re.compile(rf"^(?P<name>{_NAME})\s*(?:\((?P<type>.+?)\))?\s*:(?:\s|$)")
_NUMPY_ENTRY = re.compile(rf"^(?P<name>{_NAME}(?:\s*,\s*{_NAME})*)\s*(?::\s*(?P<type>.+?))?\s*$")


def _block(lines: list[str], start: int) -> list[str]:
    """The lines after `start` up to the next line that is not indented and is not empty."""
    out = []
    for line in lines[start:]:
        if line.strip() and not line[0].isspace():
            break
        out.append(line)
    return out


def _entries(lines: list[str]) -> list[str]:
    """The least indented lines of a block: where each documented parameter begins."""
    indents = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    return [line.strip() for line in lines if line.strip() and len(line) - len(line.lstrip()) == min(indents)]


_LINK = re.compile(r"(?<![\w\[])\[[~!]?([\w.]+)\]")  # a cross-reference, `[~state.DistributedType]`; not `list[int]`
_ROLE = re.compile(r":[\w:]+:(?=`)|(?<=`)[~.!]+")  # Sphinx marks, as in :class:`~torch.Tensor`
_NOT_TYPE = re.compile(r"[\s,(\[]*\*?\b(?:optional|defaults?|keyword[- ]only)\b.*$", re.I)


def _clean_type(text: str | None) -> str | None:
    """A documented type without its code and link marks, without `optional` and without a default value.

    None where a bracket stays open: that is a part of a type.
    """
    text = _LINK.sub(r"\1", _ROLE.sub("", text or "").replace("`", ""))
    text = _NOT_TYPE.sub("", text).strip(" ,*:")
    whole = all(text.count(a) == text.count(b) for a, b in ("()", "[]", "{}"))
    return text if text and whole else None


def documented_parameters(text: str) -> dict[str, str | None] | None:
    """The parameters a docstring documents, name -> type or None, in order; None where it has no such section.

    Reads the numpydoc, Google and Sphinx conventions. A section with a line it cannot read gives None,
    because an answer that is only partly right is no reference.
    """
    lines = text.splitlines()
    found: dict[str, str | None] = {}
    for i, line in enumerate(lines):
        head = line.strip()
        if head == "Parameters" and i + 1 < len(lines) and set(lines[i + 1].strip()) == {"-"}:
            section = []
            for j in range(i + 2, len(lines)):
                if j + 1 < len(lines) and len(lines[j + 1].strip()) > 2 and set(lines[j + 1].strip()) == {"-"}:
                    break
                section.append(lines[j])
            for entry in _entries(section):
                match = _NUMPY_ENTRY.match(entry)
                if not match:
                    return None
                for name in re.split(r"\s*,\s*", match["name"]):
                    found[name.lstrip("*")] = _clean_type(match["type"])
            return found or None
        if head in ("Args:", "Arguments:", "Parameters:"):
            for entry in _entries(_block(lines, i + 1)):
                match = _GOOGLE_ENTRY.match(entry.replace("`", "", 2) if entry.startswith("`") else entry)
                if not match:
                    return None
                found[match["name"].lstrip("*")] = _clean_type(match["type"])
            return found or None
    for line in lines:
        if line.startswith(":param"):
            match = _SPHINX.match(line)
            if not match:
                return None
            found[match["name"].lstrip("*")] = _clean_type(match["type"])
    return found or None


def split_summary(text: str) -> tuple[str, str] | None:
    """`(summary, body)` where the first line is a sentence of its own and prose follows it; else None."""
    first, _, rest = text.partition("\n\n")
    first, body = first.strip(), rest.strip()
    prose = bool(re.match(r"[A-Z`\"']", body)) and not re.match(r"[^\n]*\n[-=~^]{3,}|\w+:\n", body)
    if "\n" in first or not first.endswith(".") or not prose or len(body) < 80:
        return None
    return (first, body) if 4 <= len(first.split()) <= 25 else None


def make_rows(entries: list[dict], max_characters: int = 1_500) -> list[dict]:
    """Instruction rows `{id, task, package, module, messages, reference}` from `corpus()`, by rule and in order.

    A docstring longer than `max_characters` gives none: cutting it could cut the answer out of the question. A space is
    set into signs such as `<|endoftext|>`, of which docstrings of tokenizers speak.
    """
    rows, seen = [], set()

    def add(task: str, entry: dict, content: str, answer: str) -> None:
        key = hashlib.sha256(f"{task}\n{content}".encode()).hexdigest()[:16]
        if key in seen:
            return
        seen.add(key)
        content, answer = (re.sub(r"<\|(?=\S+?\|>)", "< |", text) for text in (content, answer))  # forges no turn
        prompt = {"role": "user", "content": f"{INSTRUCTIONS[task]}\n\n{content}"}
        rows.append(
            {"id": f"{task}-{key}", "task": task, "package": entry["package"], "module": entry["module"]}
            | {"messages": [prompt, {"role": "assistant", "content": answer}], "reference": answer}
        )

    for entry in entries:
        text = entry["text"]
        if len(text) > max_characters:
            continue
        summary = split_summary(text)
        if summary:
            add("summary", entry, summary[1], summary[0])
            if entry["package"].lower() not in text.lower():
                add("package", entry, text, entry["package"])
        parameters, arguments = documented_parameters(text), entry["arguments"] or []
        names = [argument.lstrip("*") for argument in arguments if argument != "*"]
        if parameters and set(parameters) <= set(names):  # the code itself confirms what was read
            if all(kind and len(kind) <= 60 for kind in parameters.values()):
                add("parameters", entry, text, json.dumps(parameters, ensure_ascii=False))
            if names == list(parameters) and entry["kind"] == "function":
                call = f"{entry['name'].rpartition('.')[2]}({', '.join(arguments)})"
                add("signature", entry, f"{entry['name'].rpartition('.')[2]}\n\n{text}", call)
    return rows


NOT_DOCUMENTED = "This docstring documents no parameters."


def unanswerable(rows: list[dict]) -> list[dict]:
    """Rows of the task `unanswerable`: `parameters` asked of docstrings that document none, which the answer says.

    Args:
        rows: as `make_rows` returns them; those of the task `package` have whole docstrings to ask about.
    """
    head, made = INSTRUCTIONS["package"] + "\n\n", []
    for row in rows:
        text = row["messages"][0]["content"].removeprefix(head)
        if row["task"] != "package" or re.search(r"(?i)param|args|arguments", text):
            continue
        turns = [{"role": "user", "content": f"{INSTRUCTIONS['parameters']}\n\n{text}"}]
        turns += [{"role": "assistant", "content": NOT_DOCUMENTED}]
        own = {"id": row["id"].replace("package", "unanswerable"), "task": "unanswerable", "reference": NOT_DOCUMENTED}
        made.append(row | own | {"messages": turns})
    return made
