"""What a batch will run: every notebook with every point of a sweep, checked before anything starts."""

import contextlib
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from nbhelpers.core import hardware, profiles, storage
from nbhelpers.core.errors import NotebookError, ParameterError
from nbhelpers.core.parameters import Parameter, check_parameters
from nbhelpers.core.progress import duration
from nbhelpers.core.redaction import SECRET_NAME, holds_secret
from nbhelpers.notebook import launch, notebook_file, runner
from nbhelpers.notebook.reference import reference_cells, reference_peak, reference_seconds

_GIVEN = {name: Parameter(name, "str", "") for name in ("profile", "run_id", "output_dir")}


@dataclass(frozen=True)
class Task:
    """One notebook with one set of parameters.

    `point` is the name of its point of a sweep, empty without one; `after` are the notebooks of the same point that go
    before it; `sized_for` is the profile that `auto` means here; `seconds` and `memory_bytes` are what its reference
    took, None where there is none of this profile, and `cells` has the seconds of each of its cells by id.
    """

    notebook: str
    path: Path
    folder: Path
    values: dict[str, Any]
    declared: dict[str, Any]
    point: str = ""
    after: tuple[str, ...] = ()
    sized_for: str = ""
    seconds: float | None = None
    memory_bytes: int | None = None
    cells: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The notebook, with its point in front where there is one."""
        return notebook_file.name_at(self.point, self.notebook)

    @property
    def before(self) -> set[str]:
        """The names of the tasks that go before it."""
        return {notebook_file.name_at(self.point, notebook) for notebook in self.after}

    def left(self, begun: dict[str, float], seconds: float, in_cell: float) -> float | None:
        """Seconds still to go at the pace of the cells so far; None without a reference.

        Args:
            begun: id -> seconds of each cell that was begun; the last of them is at work.
            seconds: since its first cell was begun; `in_cell` since the last one was.
        """
        if self.seconds is None or self.cells.keys().isdisjoint(begun):
            return None if self.seconds is None else max(0.0, self.seconds - seconds)
        now = list(begun)[-1]
        took = {name: x for name, x in begun.items() if name != now}
        done, reference = sum(self.cells.get(name, 0.0) for name in took), self.cells.get(now, 0.0)
        whole, pace = max(self.seconds, math.fsum(self.cells.values())), self.pace(took)
        to_come = pace * (whole - done - reference)
        return max(to_come if now in self.cells else 0.0, to_come + pace * reference - in_cell)

    def pace(self, took: dict[str, float]) -> float:
        """How many times as long as in the reference the cells took; 1 while they are less than a tenth of it.

        A cell that took less than half of what the pace of the others says does not count: it found what the reference
        computed, such as answers of the untuned model or a checkpoint.
        """
        both = [(self.cells[name], seconds) for name, seconds in took.items() if self.cells.get(name)]
        expected, spent = (math.fsum(column) for column in zip(*both, strict=True)) if both else (0.0, 0.0)
        whole = max(self.seconds, math.fsum(self.cells.values()))
        if expected <= whole / 10:
            return 1.0
        counted = [(r, s) for r, s in both if s * (expected - r) >= r * (spent - s) / 2]
        return math.fsum(s for _, s in counted) / math.fsum(r for r, _ in counted)

    def forecast(self, notebook: dict | None) -> float | None:
        """Seconds of all its cells, forecast when they had done a quarter of the reference; None where none had.

        Args:
            notebook: as it was executed.
        """
        took: dict[str, float] = {}
        for _, cell in runner.started_cells(notebook):
            if sum(self.cells.get(name, 0.0) for name in took) >= (self.seconds or math.inf) / 4:
                seconds = sum(took.values())
                return seconds + self.left(took | {cell.get("id"): 0.0}, seconds, 0.0)
            took[cell.get("id")] = runner.seconds_of(cell)
        return None

    def facts(self) -> dict[str, Any]:
        """What its result depends on, as it is now: `launch.facts`."""
        values = self.values | ({"profile": self.sized_for} if "profile" in self.declared and self.sized_for else {})
        return launch.facts(self.path, self.declared, values, [self.folder.parent / name for name in self.after])

    def __str__(self) -> str:
        took = "time not known" if self.seconds is None else duration(self.seconds)
        peak = "memory not known" if self.memory_bytes is None else f"{self.memory_bytes / 2**30:.1f} GiB"
        return f"{self.name}  {took}  {peak}"


class _Loader(yaml.SafeLoader):
    """YAML in which a name may be there once."""

    def construct_mapping(self, node, deep=False):
        names = [self.construct_object(key, deep) for key, _ in node.value]
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def value_of(text: Any, annotation: str) -> Any:
    """What a text stands for, of a parameter declared with this type: `2e-5` is a number unless it may be text.

    `None` is None where that is allowed. A value that is no text stays as it is.
    """
    allowed = {part.strip() for part in annotation.split("|")}
    if not isinstance(text, str) or (text == "None" and "None" in allowed):
        return None if text == "None" else text
    if "str" in allowed:
        return text
    if text.casefold() in ("true", "false"):
        return text.casefold() == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _read(path: Path, kind: type) -> Any:
    """The content of a YAML or JSON file."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeError) as error:
        raise NotebookError(f"{path} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        raise NotebookError(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}.") from None
    if not isinstance(content, kind):
        wanted = "name: value, a line for each parameter" if kind is dict else "a list of such lines, one for each run"
        raise NotebookError(f"{path} holds {type(content).__name__}; it should have {wanted}.")
    return content


def parameters_file(path: Path) -> dict[str, Any]:
    """Name -> value of a YAML or JSON file. Raises NotebookError where it cannot be read as that."""
    return {str(name): value for name, value in _read(path, dict).items()}


def grid(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Every combination of `["learning_rate=1e-4,2e-4", "lora_rank=8,16"]`, the last name changing first.

    Raises ParameterError where a text is no `name=value,value`, or a name is there twice.
    """
    axes: dict[str, list] = {}
    for text in texts:
        name, sign, values = text.partition("=")
        if not sign or not name or not values or name in axes:
            raise ParameterError(f"--grid {text!r} should read like learning_rate=1e-4,2e-4, each name once.")
        axes[name] = values.split(",")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())] if axes else []


def sweep_file(path: Path) -> list[dict[str, Any]]:
    """The points of a YAML or JSON file: a list of `{name: value}`. Raises NotebookError where it is none."""
    points = _read(path, list)
    if not points or not all(isinstance(point, dict) and point for point in points):
        raise NotebookError(f"{path} should be a list with the parameters of one run in each of its items.")
    return [{str(name): value for name, value in point.items()} for point in points]


def point_name(point: dict[str, Any]) -> str:
    """What the folder of a point is called: `lora_rank-8_learning_rate-1e-4`, at most 100 characters."""
    parts = [re.sub(r"[^\w.-]+", "-", f"{name}-{value}") for name, value in point.items()]
    return "_".join(parts)[:100]


def _check(name: str, declared: dict[str, Parameter], values: dict[str, Any]) -> list[str]:
    """What is wrong with these values for a notebook, in words. A secret is not shown."""
    secret = {key for key, x in values.items() if SECRET_NAME.search(key) or holds_secret(str(x))}
    problems = [
        f"{name}: {key} looks like a secret, and every parameter is written into the executed notebook. Set it in the "
        "environment (HF_TOKEN, ...) instead"
        for key in sorted(secret)
    ]
    shown = {key: x for key, x in values.items() if key not in secret}
    try:
        check_parameters(declared, list(shown), shown)
    except ParameterError as error:
        problems += [f"{name}: {line.strip(' -')}" for line in str(error).splitlines()[1:]]
    return problems


def _refuse_circles(sources: dict[str, dict]) -> None:
    """Raises NotebookError where notebooks go behind each other in a circle: a batch would wait forever."""
    try:
        TopologicalSorter({name: notebook_file.goes_after(notebook) for name, notebook in sources.items()}).prepare()
    except CycleError as error:
        circle = " behind ".join(error.args[1])
        raise NotebookError(f"The notebooks go behind each other in a circle: {circle}. Mend 'after'.") from None


def _output_folder(root: Path, output_dir: str | Path) -> Path:
    try:
        return Path(root, Path(output_dir).expanduser())
    except RuntimeError as error:  # no such user
        raise ParameterError(f"output_dir={str(output_dir)!r} cannot be used: {error}.") from None


def tasks(
    notebooks: Sequence[str | Path],
    profile: str,
    run_id: str,
    output_dir: str | Path,
    parameters: dict[str, Any],
    points: Sequence[dict[str, Any]],
    reference_folder: Path,
) -> list[Task]:
    """Every notebook at every point, in the order to run them.

    Without points a notebook's folder is `<output_dir>/<run_id>/<notebook>`; with them each point is a run of its own
    in `<output_dir>/<run_id>`.

    Raises:
        NotebookError: a notebook is missing, or two have one name.
        ParameterError: lists all that is wrong with the parameters, of every notebook and point.
    """
    given = {"profile": profile, "run_id": run_id, "output_dir": str(output_dir)}
    check_parameters(_GIVEN, [], given)
    paths = {notebook_file.name_of(path): path for path in (Path(path).resolve() for path in notebooks)}
    if len(paths) < len(notebooks):
        raise NotebookError("Two of the notebooks have the same file name; each names a folder of the run.")
    sources = {name: notebook_file.read_notebook(path) for name, path in paths.items()}
    named = {point_name(point): point for point in points}
    if len(named) < len(points):
        raise ParameterError("Two points of the sweep are the same, or too long to tell their folders apart.")
    problems, out = [], []
    sized_for = profiles.choose(profile, hardware.detect()).name
    root = storage.repository_root()
    base = _output_folder(root, output_dir) / run_id
    if base == root / "outputs" / "reference":
        raise ParameterError("run_id='reference' is the folder of the committed results; take another.")
    _refuse_circles(sources)
    for point, own_values in (named or {"": {}}).items():
        own = {"run_id": point, "output_dir": Path(output_dir, run_id).as_posix()} if point else {}
        for name, notebook in sources.items():
            declared, both = notebook_file.declared(notebook), parameters | own_values
            if fixed := given.keys() & both.keys():
                problems.append(f"{', '.join(sorted(fixed))}: set with --profile, --run-id and --output-dir")
                continue
            both = {key: value_of(x, declared[key].annotation) if key in declared else x for key, x in both.items()}
            problems += _check(name, declared, both)
            placed = {key: x for key, x in (given | own).items() if key in declared}
            folder = base / point / name
            seconds = reference_seconds(name, sized_for, reference_folder, both.get("max_steps"))
            took = [of(name, sized_for, reference_folder) for of in (reference_peak, reference_cells)]
            defaults = {key: parameter.default for key, parameter in declared.items()}
            after = tuple(other for other in notebook_file.goes_after(notebook) if other in paths)
            values = placed | both
            out.append(Task(name, paths[name], folder, values, defaults, point, after, sized_for, seconds, *took))
    if problems:
        lines = "\n  - ".join(dict.fromkeys(problems))
        raise ParameterError(f"Nothing was started; these parameters are wrong:\n  - {lines}")
    return out


def summary(planned: Sequence[Task], done: set[str], dollars_per_hour: float) -> str:
    """A line for each task and one for all: what their references took, in time, memory and money.

    Args:
        done: names of the tasks whose earlier result stands.
    """
    lines = [f"{task}  is done" if task.name in done else str(task) for task in planned]
    left = [task for task in planned if task.name not in done]
    known = [task.seconds for task in left if task.seconds is not None]
    total = math.fsum(known)
    left_out = f", {len(left) - len(known)} of unknown time not counted" if len(known) < len(left) else ""
    took = f"{duration(total)} and ${total / 3600 * dollars_per_hour:.4f} one after the other, as the references took"
    return "\n".join([*lines, f"{len(left)} to run: {took}{left_out}"])
