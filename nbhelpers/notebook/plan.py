"""What a batch will run: every notebook with every point of a sweep, checked before anything starts."""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nbhelpers.core import hardware, profiles, storage
from nbhelpers.core.errors import NotebookError, ParameterError
from nbhelpers.core.parameters import Parameter, check_parameters
from nbhelpers.core.progress import duration
from nbhelpers.notebook import notebook_file
from nbhelpers.notebook.reference import reference_peak, reference_seconds

_GIVEN = {name: Parameter(name, "str", "") for name in ("profile", "run_id", "output_dir")}
_SECRET = re.compile(r"\b(hf_|sk-|ghp_|github_pat_|AKIA|xox[abp]-|eyJ)[\w-]{8,}")


def name_of(point: str, notebook: str) -> str:
    """A notebook with its point of a sweep in front, where there is one."""
    return f"{point}/{notebook}" if point else notebook


@dataclass(frozen=True)
class Task:
    """One notebook with one set of parameters.

    `point` is the name of its point of a sweep, empty without one; `after` are the notebooks of the same point that go
    before it; `seconds` and `memory_bytes` are what its reference took, None where there is none of this profile.
    """

    notebook: str
    path: Path
    folder: Path
    values: dict[str, Any]
    declared: dict[str, Any]
    point: str = ""
    after: tuple[str, ...] = ()
    seconds: float | None = None
    memory_bytes: int | None = None

    @property
    def name(self) -> str:
        """The notebook, with its point in front where there is one."""
        return name_of(self.point, self.notebook)

    @property
    def before(self) -> set[str]:
        """The names of the tasks that go before it."""
        return {name_of(self.point, notebook) for notebook in self.after}

    def __str__(self) -> str:
        took = "time not known" if self.seconds is None else duration(self.seconds)
        peak = "memory not known" if self.memory_bytes is None else f"{self.memory_bytes / 2**30:.1f} GiB"
        return f"{self.name}  {took}  {peak}"


def value_of(text: str) -> Any:
    """The value papermill's `-p` makes of a text; `true` and `false` count as well (`none` is a name: report_to)."""
    words = {"True": True, "true": True, "False": False, "false": False, "None": None}
    if text in words:
        return words[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _read(path: Path, kind: type) -> Any:
    """The content of a YAML or JSON file, in which `2e-5` is a number."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise NotebookError(f"{path} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        raise NotebookError(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}.") from None
    if not isinstance(content, kind):
        wanted = "name: value, a line for each parameter" if kind is dict else "a list of such lines, one for each run"
        raise NotebookError(f"{path} holds {type(content).__name__}; it should have {wanted}.")
    return content


def _numbers(values: dict) -> dict[str, Any]:
    """YAML reads `2e-5` as text: here it is the number."""
    exponent = re.compile(r"[+-]?\d+(\.\d*)?e[+-]?\d+", re.I)
    return {str(name): float(x) if isinstance(x, str) and exponent.fullmatch(x) else x for name, x in values.items()}


def parameters_file(path: Path) -> dict[str, Any]:
    """Name -> value of a YAML or JSON file. Raises NotebookError where it cannot be read as that."""
    return _numbers(_read(path, dict))


def grid(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Every combination of `["learning_rate=1e-4,2e-4", "lora_rank=8,16"]`, the last name changing first.

    Raises ParameterError where a text is no `name=value,value`, or a name is there twice.
    """
    axes: dict[str, list] = {}
    for text in texts:
        name, sign, values = text.partition("=")
        if not sign or not name or not values or name in axes:
            raise ParameterError(f"--grid {text!r} should read like learning_rate=1e-4,2e-4, each name once.")
        axes[name] = [value_of(value) for value in values.split(",")]
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())] if axes else []


def sweep_file(path: Path) -> list[dict[str, Any]]:
    """The points of a YAML or JSON file: a list of `{name: value}`. Raises NotebookError where it is none."""
    points = _read(path, list)
    if not points or not all(isinstance(point, dict) and point for point in points):
        raise NotebookError(f"{path} should be a list with the parameters of one run in each of its items.")
    return [_numbers(point) for point in points]


def point_name(point: dict[str, Any]) -> str:
    """What the folder of a point is called: `lora_rank-8_learning_rate-0.0001`, at most 100 characters."""
    parts = [re.sub(r"[^\w.-]+", "-", f"{name}-{value}") for name, value in point.items()]
    return "_".join(parts)[:100]


def _check(name: str, declared: dict[str, Parameter], values: dict[str, Any]) -> list[str]:
    """What is wrong with these values for a notebook, in words."""
    problems = []
    for key, value in values.items():
        if isinstance(value, str) and _SECRET.search(value):
            problems.append(
                f"{name}: {key} looks like a secret, and every parameter is written into the executed notebook. Set it "
                "in the environment (HF_TOKEN, ...) instead"
            )
    try:
        check_parameters(declared, list(values), values)
    except ParameterError as error:
        problems += [f"{name}: {line.strip(' -')}" for line in str(error).splitlines()[1:]]
    return problems


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
    for point, values in (named or {"": {}}).items():
        own = {"run_id": point, "output_dir": Path(output_dir, run_id).as_posix()} if point else {}
        for name, notebook in sources.items():
            declared, both = notebook_file.declared(notebook), parameters | values
            if fixed := given.keys() & both.keys():
                problems.append(f"{', '.join(sorted(fixed))}: set with --profile, --run-id and --output-dir")
                continue
            problems += _check(name, declared, both)
            placed = {key: x for key, x in (given | own).items() if key in declared}
            folder = Path(root, Path(output_dir).expanduser(), run_id, point, name)
            took = [measured(name, sized_for, reference_folder) for measured in (reference_seconds, reference_peak)]
            defaults = {key: parameter.default for key, parameter in declared.items()}
            after = tuple(other for other in notebook_file.goes_after(notebook) if other in paths)
            out.append(Task(name, paths[name], folder, placed | both, defaults, point, after, *took))
    if problems:
        lines = "\n  - ".join(dict.fromkeys(problems))
        raise ParameterError(f"Nothing was started; these parameters are wrong:\n  - {lines}")
    return out


def summary(planned: Sequence[Task], jobs: int, dollars_per_hour: float) -> str:
    """A line for each task and one for all: what their references took, in time, memory and money."""
    lines = [str(task) for task in planned]
    known = [task.seconds for task in planned if task.seconds is not None]
    total = math.fsum(known) / jobs
    left_out = f", {len(planned) - len(known)} of unknown time not counted" if len(known) < len(planned) else ""
    took = f"{duration(total)} and ${total / 3600 * dollars_per_hour:.4f} as the references took{left_out}"
    return "\n".join([*lines, f"{len(planned)} runs, {jobs} at a time: {took}"])
