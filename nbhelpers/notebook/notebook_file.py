"""Notebooks as files: their cells, tags and declared parameters."""

from pathlib import Path

from nbhelpers.core import parameters
from nbhelpers.core.errors import NotebookError
from nbhelpers.core.storage import read_json

ADDED_BY_PAPERMILL = {"injected-parameters", "papermill-error-cell-tag"}


def name_of(path: Path) -> str:
    """What a notebook is called in a run, as it calls itself at its start: solutions are not their notebook."""
    return f"solutions_{path.stem}" if path.parent.name == "solutions" else path.stem


def name_at(point: str | None, notebook: str) -> str:
    """A notebook with its point of a sweep in front, where there is one."""
    return f"{point}/{notebook}" if point else notebook


def source_of(cell: dict) -> str:
    return "".join(cell["source"])


def tags_of(cell: dict) -> set[str]:
    return set(cell["metadata"].get("tags", []))


def code_cells(notebook: dict | None) -> list[tuple[int, dict]]:
    """`(index, cell)` of the code cells its author wrote; those papermill adds neither count nor shift the index."""
    own = [cell for cell in (notebook or {"cells": []})["cells"] if not tags_of(cell) & ADDED_BY_PAPERMILL]
    return [(i, cell) for i, cell in enumerate(own) if cell["cell_type"] == "code" and source_of(cell).strip()]


def is_notebook(path: Path) -> bool:
    """Whether a file is there and a notebook in Jupyter's format 4: cells with sources and metadata."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("nbformat") != 4 or not isinstance(content.get("metadata"), dict):
        return False
    cells = content.get("cells")
    whole = {"cell_type", "source", "metadata"}
    return isinstance(cells, list) and all(isinstance(cell, dict) and whole <= cell.keys() for cell in cells)


def read_notebook(path: Path) -> dict:
    if not is_notebook(path):
        raise NotebookError(f"{path} is missing or is not a notebook in Jupyter's format 4.")
    return read_json(path)


def declared(notebook: dict) -> dict[str, parameters.Parameter]:
    cells = [cell for _, cell in code_cells(notebook) if "parameters" in tags_of(cell)]
    return (parameters.declared_parameters(source_of(cells[0])) or {}) if cells else {}


def goes_after(notebook: dict) -> list[str]:
    """The notebooks that this one goes behind in a batch, as its metadata names them: it uses what they made."""
    names = (notebook["metadata"].get("nbhelpers") or {}).get("after") or []
    return [names] if isinstance(names, str) else list(names)
