"""The command line, `python -m nbhelpers COMMAND`; each command says more with `--help`."""

import argparse
import math
import os
import subprocess
import sys
from pathlib import Path

from nbhelpers.core import hardware, profiles, storage
from nbhelpers.core.errors import NotebookError
from nbhelpers.cost import prices
from nbhelpers.notebook import copies, plan, reference, report, staleness, suite, verdicts
from nbhelpers.notebook.attempts import Options

INTERRUPTED = 130  # what a shell reports after Ctrl-C


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


def _above_0(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _from_1(text: str, lowest: int = 1) -> int:
    if not text.isdecimal() or int(text) < lowest:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from {lowest} on")
    return int(text)


def _from_0(text: str) -> int:
    return _from_1(text, 0)


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
    add(
        "--parameters",
        type=Path,
        dest="file",
        metavar="FILE",
        help="parameters in a YAML or JSON file; -p wins",
    )
    text = "run every combination, such as: --grid learning_rate=1e-4,2e-4 lora_rank=8,16; it wins over the above"
    add("--grid", nargs="+", action="extend", default=[], metavar="NAME=VALUE,VALUE", help=text)
    add("--sweep", type=Path, metavar="FILE", help="run every item of a YAML or JSON list, each with its parameters")
    text = (
        "notebooks at a time, within the free memory; they share the cores (default: 1). For the same last digits as "
    )
    text += "one at a time, set OMP_NUM_THREADS=1 for both"
    add("--jobs", type=_from_1, default=1, metavar="N", help=text)
    add("--timeout", type=_above_0, metavar="S", help="kill a notebook after this many seconds (default: never)")
    add(
        "--memory-limit",
        type=_above_0,
        metavar="GIB",
        help="kill a notebook that holds more memory (default: never)",
    )
    add(
        "--retry",
        type=_from_0,
        default=0,
        metavar="N",
        help="start a failed notebook again, up to N times (default: 0)",
    )
    add("--fail-fast", action="store_true", help="leave out what has not begun when a notebook has failed")
    add("--anew", action="store_true", help="run also what is done already, each from its beginning")
    add("--max-dollars", type=_above_0, metavar="X", help="stop when this call has cost so much of the machine's time")
    add(
        "--on-end",
        metavar="COMMAND",
        help="a shell command for the end; NBHELPERS_STATUS is completed or failed",
    )
    text = "where: threads of this machine, or the machines of the Ray cluster at RAY_ADDRESS (default: threads)"
    add("--executor", choices=["threads", "ray"], default="threads", help=text)
    text = "copy results there as they come, and bring back what a fresh machine lacks: a folder, or an address that "
    text += "fsspec knows, such as s3://bucket/runs"
    add("--copy-to", metavar="ADDRESS", help=text)
    add("--dry-run", action="store_true", help="print what would run and what is done, with the references' times")

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


def _planned(options: argparse.Namespace) -> list[plan.Task]:
    notebooks = find_notebooks(options.notebooks, storage.repository_root() / "notebooks")
    parameters = plan.parameters_file(options.file) if options.file else {}
    parameters |= dict(options.parameters)
    points = plan.grid(options.grid)
    if options.sweep:
        points = [one | other for one in plan.sweep_file(options.sweep) for other in points or [{}]]
    where = (options.profile, options.run_id, options.output_dir)
    return plan.tasks(notebooks, *where, parameters, points, storage.repository_root() / "outputs" / "reference")


def _run(options: argparse.Namespace) -> int:
    statuses = {"failed"}
    try:
        tasks = _planned(options)
        profile = profiles.choose(options.profile, hardware.detect())
        dollars_per_hour = prices.prices()[profile.price].dollars_per_hour
        if options.dry_run:
            done = set() if options.anew else {task.name for task in tasks if not suite.why_again(task)}
            print(plan.summary(tasks, done, dollars_per_hour))
            return 0
        statuses = _batch(options, tasks, dollars_per_hour)
    finally:
        if options.on_end and not options.dry_run:
            status = "completed" if statuses == {"completed"} else "failed"
            subprocess.run(options.on_end, shell=True, check=False, env=os.environ | {"NBHELPERS_STATUS": status})
    return INTERRUPTED if "interrupted" in statuses else 0 if statuses == {"completed"} else 1


def _batch(options: argparse.Namespace, tasks: list[plan.Task], dollars_per_hour: float) -> set[str]:
    """Run the tasks, write the page, print what became of each; how they ended."""
    folder = Path(storage.repository_root(), Path(options.output_dir).expanduser(), options.run_id)
    address = f"{options.copy_to.rstrip('/')}/{options.run_id}" if options.copy_to else None
    if address:
        copies.check(address)  # before hours of work
    how = Options(
        jobs=min(options.jobs, len(tasks)),
        timeout=options.timeout,
        memory_bytes=None if options.memory_limit is None else int(options.memory_limit * 2**30),
        retry=options.retry,
        anew=options.anew,
        fail_fast=options.fail_fast,
        max_dollars=options.max_dollars,
        dollars_per_hour=dollars_per_hour,
        executor=options.executor,
        copy_to=address,
    )
    results = suite.run_suite(tasks, folder, how)
    page = report.write_index(folder)
    if address:
        copies.copy(folder, address, without="artifacts")  # those were copied as they came
    lines = [report.describe(vars(result)) for result in results]
    try:
        print("", *lines, f"\n{page}", sep="\n", flush=True)
    except BrokenPipeError:  # nobody reads any more: the batch has ended as it has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return {result.status for result in results}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit code: 0 good, 1 a notebook failed or differs, 2 wrong input, 130 interrupted."""
    options = _parser().parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a name that the terminal cannot show is no reason to stop
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
    except OSError as error:
        print(f"error: {error.filename or ''} {error.strerror or error}".strip(), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0
