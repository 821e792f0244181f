"""Notebooks run one after the other, and what became of each."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from nbhelpers.core import storage
from nbhelpers.core.errors import NotebookError, ParameterError
from nbhelpers.core.parameters import Parameter, check_parameters
from nbhelpers.core.progress import duration
from nbhelpers.core.storage import read_json
from nbhelpers.notebook import notebook_file, runner
from nbhelpers.notebook.reference import reference_seconds
from nbhelpers.notebook.report import describe
from nbhelpers.notebook.runner import Result

_GIVEN = {name: Parameter(name, "str", "") for name in ("profile", "run_id", "output_dir")}


def _progress(
    name: str, total: int, profile: str, folder: Path, reference_folder: Path, stream: TextIO
) -> Callable[[dict | None, float], None]:
    """A function that prints how far a notebook is: a line for each new cell, or one line kept fresh on a terminal."""
    shown = 0

    def show(notebook: dict | None, seconds: float) -> None:
        nonlocal shown
        count = len(runner.started_cells(notebook))
        if count == 0 or (count == shown and not stream.isatty()):
            return
        shown, known = count, profile
        if profile == "auto":  # resolved inside the notebook, which notes it in its manifest
            known = (read_json(folder / "manifest.json") or {}).get("resolved", {}).get("profile")
        expected = reference_seconds(name, known, reference_folder)
        eta = "no reference" if expected is None else f"ETA {duration(max(0.0, expected - seconds))}"
        line = f"{name}  cell {count} of {total}  {duration(seconds)}  {eta}"
        start, end = ("\r\x1b[2K", "") if stream.isatty() else ("", "\n")
        print(start + line, end=end, file=stream, flush=True)

    return show


def run_suite(
    notebooks: Sequence[str | Path],
    profile: str = "auto",
    run_id: str = "default",
    output_dir: str | Path = "outputs",
    parameters: dict[str, Any] | None = None,
    timeout: float | None = None,
    fail_fast: bool = False,
    stream: TextIO | None = None,
    reference_folder: Path | None = None,
) -> list[Result]:
    """Run notebooks in order; write `<output_dir>/<run_id>/suite.json` after each; return one result a notebook.

    Args:
        notebooks: paths; their file names must differ, for each names a folder of the run.
        profile, run_id, output_dir: injected into every notebook that declares them.
        parameters: the user's own, injected into every notebook, each of which must declare them.
        timeout: seconds after which a notebook is killed with all that it started.
        fail_fast: leave out the notebooks behind one that failed.
        stream: where progress is printed, standard output by default.
        reference_folder: whose times the ETA is taken from, `outputs/reference` by default.

    Raises:
        NotebookError: nothing was started: a notebook is missing, papermill is not installed, a parameter is wrong.
    """
    given = {"profile": profile, "run_id": run_id, "output_dir": str(output_dir)}
    check_parameters(_GIVEN, [], given)
    for name in given.keys() & (parameters or {}).keys():
        raise ParameterError(f"{name} is not set with -p but with --{name.replace('_', '-')}.")
    for module in ("papermill", "ipykernel"):
        if importlib.util.find_spec(module) is None:
            raise NotebookError(f"{module} is not installed; pip install '.[notebooks]' in the repository brings it.")
    paths = {notebook_file.name_of(path): path for path in (Path(path).resolve() for path in notebooks)}
    if len(paths) < len(notebooks):
        raise NotebookError("Two of the notebooks have the same file name; each names a folder of the run.")
    sources = {name: notebook_file.read_notebook(path) for name, path in paths.items()}
    for name, notebook in sources.items():  # before anything of an earlier run is replaced
        try:
            check_parameters(notebook_file.declared(notebook), list(parameters or {}), parameters or {})
        except ParameterError as error:
            raise ParameterError(f"{name}: {error}") from None
    stream, root = stream or sys.stdout, storage.repository_root()
    reference_folder = reference_folder or root / "outputs" / "reference"
    folder = Path(root, Path(output_dir).expanduser(), run_id)
    earlier = [entry for entry in read_json(folder / "suite.json") or [] if entry["notebook"] not in paths]
    results: list[Result] = []
    for name, path in paths.items():
        ended = {result.status for result in results}
        if "interrupted" in ended or (fail_fast and "failed" in ended):
            results.append(Result(name, "not run", "an earlier notebook failed or was interrupted"))
        else:
            values = {key: x for key, x in given.items() if key in notebook_file.declared(sources[name])} | (
                parameters or {}
            )
            total = len(notebook_file.code_cells(sources[name]))
            show = _progress(name, total, profile, folder / name, reference_folder, stream)
            results.append(runner.run_one(path, folder / name, values, timeout, show))
        print(("\r\x1b[2K" if stream.isatty() else "") + describe(asdict(results[-1])), file=stream, flush=True)
        entries = earlier + [asdict(result) for result in results]
        storage.write_json(folder / "suite.json", sorted(entries, key=lambda entry: entry["notebook"]))
    return results
