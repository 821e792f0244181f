"""The command line, `python -m nbhelpers COMMAND`; each command says more with `--help`."""

import argparse
import contextlib
import math
import sys
from pathlib import Path
from typing import Any

from nbhelpers.core import profiles, storage
from nbhelpers.core.errors import NotebookError
from nbhelpers.notebook import reference, report, staleness, suite, verdicts

INTERRUPTED = 130  # what a shell reports after Ctrl-C


def parameter_value(text: str) -> Any:
    """The value papermill's `-p` makes of a text; `true` and `false` count as well (`none` is a name: report_to)."""
    words = {"True": True, "true": True, "False": False, "false": False, "None": None}
    if text in words:
        return words[text]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def find_notebooks(names: list[str], folder: Path) -> list[Path]:
    """The notebooks with these names, each a path or the beginning of a name in `folder`; without names all numbered.

    A name that no numbered notebook has is looked for among the studies: `02` is the notebook, `02_peft_methods` the
    study.
    """
    available, studies = (sorted(folder.glob(pattern)) for pattern in ("[0-9]*.ipynb", "studies/[0-9]*.ipynb"))
    found: list[Path] = []
    for name in names:
        is_path = name.endswith(".ipynb") and Path(name).is_file()
        numbered, others = ([path for path in paths if path.name.startswith(name)] for paths in (available, studies))
        matches = [Path(name)] if is_path else numbered or others
        if not matches:
            there = ", ".join(path.stem for path in available + studies) or "nothing"
            raise NotebookError(f"{name} is neither a notebook file nor the beginning of one in {folder}: {there}.")
        found += [path for path in matches if path not in found]
    if not names and not available:
        raise NotebookError(f"There is no notebook in {folder}.")
    return found or available


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nbhelpers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    text = "run notebooks in order, each in a process of its own, and write one page about the run"
    add = commands.add_parser("run", help=text, description=text).add_argument
    add(
        "notebooks",
        nargs="*",
        metavar="NOTEBOOK",
        help="a path, or how a name begins: 02, or 02_peft_methods for a study; by default every numbered notebook",
    )
    add("--profile", default="auto", choices=["auto", *profiles.PROFILES], help="size of the run (default: auto)")
    add("--run-id", default="default", metavar="ID", help="folder of the run in the output folder (default: default)")
    add("--output-dir", default="outputs", metavar="FOLDER", help="where runs are kept, under the repository (outputs)")
    add(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter for every notebook; can be given again",
    )
    add("--timeout", type=_seconds, metavar="S", help="kill a notebook after this many seconds (default: never)")
    add("--fail-fast", action="store_true", help="leave out the notebooks behind one that failed")

    text = "write index.html, one self-contained page, into the folder of a run"
    add = commands.add_parser("report", help=text, description=text).add_argument
    add("folder", metavar="RUN_FOLDER", help="for example outputs/default")

    text = "say whether a run gave what the committed reference did, metric by metric; exit with 1 where it did not"
    add = commands.add_parser("check", help=text, description=text).add_argument
    add("folder", metavar="RUN_FOLDER", help="for example outputs/default")

    text = "say which parameters differ between two runs, and which metrics beyond noise"
    add = commands.add_parser("compare", help=text, description=text).add_argument
    add("folders", nargs=2, metavar="RUN_FOLDER", help="for example outputs/rank-8 outputs/rank-64")

    text = "make the completed notebooks of a run the committed reference"
    add = commands.add_parser("reference", help=text, description=text).add_argument
    add("folder", metavar="RUN_FOLDER", help="for example outputs/default")
    add("--reference-folder", type=Path, metavar="FOLDER", help="where it is kept (default: outputs/reference)")

    text = (
        "name the numbered notebooks that changed, or whose modules did, since their reference was made, as many as a "
        "budget has room for; the reasons, and what is left for the next time, go to standard error"
    )
    add = commands.add_parser("stale", help="name the notebooks to run again", description=text).add_argument
    add(
        "--budget", type=float, default=math.inf, metavar="MIN", help="minutes they may take (default: without a limit)"
    )
    return parser


def _stale(budget: float) -> None:
    root = storage.repository_root()
    notebooks = find_notebooks([], root / "notebooks")
    stale = staleness.stale_notebooks(notebooks, root / "outputs" / "reference", staleness.commit_turn(root))
    chosen, left = staleness.within(stale, 60 * budget)
    if not stale:
        print("Every reference was made by the code as it is: nothing to run.", file=sys.stderr)
    for title, group in (("to run", chosen), ("left for the next time", left)):
        for notebook in group:
            print(f"{title}: {notebook}", file=sys.stderr)
    print(*(notebook.path.stem for notebook in chosen))


def _run(options: argparse.Namespace) -> int:
    notebooks = find_notebooks(options.notebooks, storage.repository_root() / "notebooks")
    results = suite.run_suite(
        notebooks,
        profile=options.profile,
        run_id=options.run_id,
        output_dir=options.output_dir,
        parameters={name: parameter_value(text) for name, text in options.parameters},
        timeout=options.timeout,
        fail_fast=options.fail_fast,
    )
    page = report.write_index(Path(storage.repository_root(), Path(options.output_dir).expanduser(), options.run_id))
    print()
    for result in results:
        print(report.describe(vars(result)))
    print(f"\n{page}")
    statuses = {result.status for result in results}
    return INTERRUPTED if "interrupted" in statuses else 0 if statuses == {"completed"} else 1


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit code: 0 good, 1 a notebook failed or differs, 2 wrong input, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "run":
            return _run(options)
        if options.command == "report":
            print(report.write_index(options.folder))
        elif options.command == "check":
            reference_folder = storage.repository_root() / "outputs" / "reference"
            lines, good = verdicts.check(Path(options.folder), reference_folder)
            print(*lines, sep="\n")
            return 0 if good else 1
        elif options.command == "compare":
            print(*verdicts.compare(*map(Path, options.folders)), sep="\n")
        elif options.command == "stale":
            _stale(options.budget)
        else:
            folder = options.reference_folder or storage.repository_root() / "outputs" / "reference"
            print(f"{folder}: {', '.join(reference.make_reference(options.folder, folder))}")
    except NotebookError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0
