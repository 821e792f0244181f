"""One execution of one notebook: its parameters checked, its folder made, its facts and results written.

    run = Run.start("02_peft_qlora", globals())
    ...
    run.finish({"rouge_l": estimate(...)})

`<output_dir>/<run_id>/<notebook>/` then holds `manifest.json` (written at the start) and `metrics.json` (written
last, in one step: a run without it has not completed), `figures/` and `artifacts/`.
"""

import ast
import dataclasses
import difflib
import hashlib
import json
import math
import os
import platform
import random
import re
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nbhelpers import profiles
from nbhelpers.errors import NotebookError, ParameterError
from nbhelpers.metrics import Metric

SCHEMA = 1
DISTRIBUTIONS = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate", "papermill")

# What every notebook means by a name: (lowest, highest), or the values to choose from. The type is in the notebook.
LIMITS: dict[str, tuple[float, float] | list[str]] = {
    "profile": ["auto", *profiles.PROFILES],
    "study": ["default", "full"],
    "resume": ["auto", "never"],
    "report_to": ["none", "tensorboard", "trackio", "mlflow", "wandb"],
    "seed": (0, 2**32 - 1),
    "max_steps": (1, 1_000_000),
    "max_length": (16, 1_048_576),
    "max_new_tokens": (1, 32_768),
    "learning_rate": (1e-8, 1.0),
    "full_learning_rate": (1e-8, 1.0),
    "per_device_train_batch_size": (1, 4_096),
    "gradient_accumulation_steps": (1, 4_096),
    "lora_rank": (1, 1_024),
    "eval_rows": (2, 100_000),
    "eval_batch_size": (1, 4_096),
    "dollars_per_hour": (0.0, 10_000.0),
    "max_rows": (10, 100_000_000),
    "near_duplicate_threshold": (0.51, 1.0),
    "split": ["random", "stratified", "group", "temporal"],
    "test_share": (0.001, 0.9),
    "synthetic_share": (0.0, 0.5),
    "planted_defects": (20, 10_000),
    "model_rows": (4, 10_000),
}

BOOKKEEPING = {"run_id", "output_dir", "resume", "force", "report_to", "study"}  # parameters that change no result
FULL_STUDIES = ("02_peft_qlora", "03_full_fine_tuning", "04_instruction_tuning")  # which can do more than the default


@dataclass(frozen=True)
class Parameter:
    """One line of a notebook's `parameters` cell: `name: annotation = default`."""

    name: str
    annotation: str
    default: Any


def declared_parameters(source: str) -> dict[str, Parameter] | None:
    """The parameters a cell declares, by name; None unless it holds annotated literals and nothing else."""
    try:
        body = ast.parse(source).body
        found = {
            node.target.id: Parameter(node.target.id, ast.unparse(node.annotation), ast.literal_eval(node.value))
            for node in body
        }
    except (SyntaxError, AttributeError, ValueError, TypeError):
        return None
    return found or None


def _injected_names(source: str) -> list[str]:
    """The names that papermill's injected cell sets, in order."""
    targets = (node.targets[0] for node in ast.parse(source).body if isinstance(node, ast.Assign))
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _cells() -> list[str]:
    """The source of the cells executed so far, oldest first; empty outside IPython."""
    try:
        from IPython import get_ipython
    except ImportError:
        return []
    shell = get_ipython()
    return list(shell.user_ns.get("In", [])) if shell else []


def parameter_cells(cells: list[str]) -> tuple[dict[str, Parameter], list[str]]:
    """`(declared, injected names)` of the last `parameters` cell that ran and of papermill's cell right behind it."""
    for i in range(len(cells) - 1, -1, -1):
        declared = declared_parameters(cells[i])
        if declared and {"profile", "run_id"} <= declared.keys():
            following = cells[i + 1] if i + 1 < len(cells) else ""
            return declared, _injected_names(following) if following.startswith("# Parameters\n") else []
    return {}, []


def _type_problem(parameter: Parameter, value: Any) -> str | None:
    allowed = {part.strip() for part in parameter.annotation.split("|")}
    if value is None and "None" in allowed:
        return None
    kind = type(value).__name__
    if kind in allowed or (kind == "int" and "float" in allowed):
        return None
    wanted = " or ".join(sorted(allowed - {"None"}))
    hint = ""
    if kind == "str" and "float" in allowed and re.fullmatch(r"[+-]?\d+(\.\d*)?e[+-]?\d+", value, re.I):
        hint = f"; YAML reads {value} as text: write {float(value)!r} with a decimal point, or pass it with -p"
    return f"{parameter.name}={value!r} is {kind}, expected {wanted}{hint}"


def _limit_problem(name: str, value: Any, limits: dict) -> str | None:
    limit = limits.get(name)
    if limit is None or value is None or isinstance(value, bool):
        return None
    if isinstance(limit, list):
        return None if value in limit else f"{name}={value!r} is not one of {', '.join(limit)}"
    low, high = limit
    return None if low <= value <= high else f"{name}={value!r} is outside {low:g} to {high:g}"


def check_parameters(
    declared: dict[str, Parameter], injected: list[str], values: dict[str, Any], limits: dict | None = None
) -> dict[str, Any]:
    """The value of every declared parameter, or one ParameterError that lists all that is wrong.

    Args:
        declared: what the notebook's `parameters` cell declares.
        injected: names that papermill set; one that is not declared is refused with the nearest declared name.
        values: the notebook's variables.
        limits: ranges or choices that add to or replace `LIMITS`.
    """
    problems = []
    for name in injected:
        if name not in declared:
            near = difflib.get_close_matches(name, declared, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(declared)}"
            problems.append(f"{name} is not a parameter of this notebook; {hint}")
    for name, parameter in declared.items():
        value = values.get(name, parameter.default)
        problem = _type_problem(parameter, value) or _limit_problem(name, value, {**LIMITS, **(limits or {})})
        if problem:
            problems.append(problem)
    run_id = values.get("run_id", "default")
    if isinstance(run_id, str) and not re.fullmatch(r"[\w-][\w.-]{0,99}", run_id):
        problems.append(
            f"run_id={run_id!r} names a folder: use letters, digits, '-', '_' and '.' (not first), at most 100"
        )
    if problems:
        raise ParameterError("Nothing was started; these parameters are wrong:\n  - " + "\n  - ".join(problems))
    return {name: values.get(name, parameter.default) for name, parameter in declared.items()}


def repository_root() -> Path:
    """The folder that holds `notebooks/` and `nbhelpers/`; the working folder where the package stands alone."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "notebooks").is_dir() else Path.cwd()


@contextmanager
def replaced(path: str | Path):
    """A text file (UTF-8) that takes its place under `path` when the block ends well; else nothing is left of it.

    A reader sees the old file or the whole new one, never a part. Missing folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any:
    """The content of a JSON file; None while it is missing or only partly written (papermill writes in place)."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write JSON in one step (`replaced`). NaN and infinity raise."""
    text = json.dumps(content, indent=indent, allow_nan=False, default=_plain) + "\n"
    with replaced(path) as file:
        file.write(text)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "item"):  # a numpy or torch scalar
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be written as JSON.")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (CPU and GPU) alike."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _commit(root: Path) -> str | None:
    """The checked-out commit, with `+changes` behind it where the work tree differs; None outside a checkout."""
    try:
        call = {"cwd": root, "capture_output": True, "text": True, "timeout": 10}
        head = subprocess.run(["git", "rev-parse", "HEAD"], **call)
        changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], **call).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None
    return head.stdout.strip() + ("+changes" if changed else "") if head.returncode == 0 else None


@dataclass
class Run:
    """A started run. `parameters` has every resolved parameter as an attribute; `folder` is where its files go."""

    notebook: str
    parameters: SimpleNamespace
    profile: profiles.Profile
    hardware: profiles.Hardware
    dtype: str
    folder: Path
    manifest: dict
    started: float = field(default_factory=time.monotonic)
    _artifacts: dict[str, str] = field(default_factory=dict)
    _predicted: dict[str, float] = field(default_factory=dict)
    _measured: dict[str, float] = field(default_factory=dict)

    @classmethod
    def start(cls, notebook: str, values: dict[str, Any], limits: dict | None = None) -> "Run":
        """Check the parameters, seed, make the run folder, write the manifest and print what this run stands on.

        Args:
            notebook: its file name without `.ipynb`.
            values: `globals()` of the notebook. Which of them are parameters is read from the cells that ran.
            limits: ranges `(low, high)` or lists of choices for parameters of this notebook alone.

        Raises:
            ParameterError: lists every unknown name, wrong type and value out of range; nothing has been written.
        """
        declared, injected = parameter_cells(_cells())
        if not declared and "__name__" in values:
            raise ParameterError(
                "Nothing was started; no cell that ran declares the parameters. One cell must hold lines like "
                "`max_steps: int | None = None`, literals only, and nothing else; profile and run_id are among them."
            )
        if not declared:  # a plain script: every value given counts, typed by itself
            declared = {name: Parameter(name, type(value).__name__, value) for name, value in values.items()}
        checked = check_parameters(declared, injected, values, limits)
        if checked.get("study") == "full" and notebook not in FULL_STUDIES:
            raise ParameterError(f"Nothing was started; {notebook} has no study='full', only 'default'.")
        machine = profiles.hardware()
        profile = profiles.choose(checked["profile"], machine)
        presets = dataclasses.asdict(profile)
        resolved = {name: presets.get(name) if value is None else value for name, value in checked.items()}
        resolved = presets | resolved | {"profile": profile.name}
        root = repository_root()
        folder = Path(root, Path(resolved["output_dir"]).expanduser(), resolved["run_id"], notebook)
        for stale in (folder / "metrics.json", *folder.glob("figures/*.png")):
            stale.unlink(missing_ok=True)
        for name in ("figures", "artifacts"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        seed_everything(resolved["seed"])
        manifest = {
            "schema": SCHEMA,
            "notebook": notebook,
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "parameters": checked,
            "declared": {name: parameter.default for name, parameter in declared.items()},
            "resolved": resolved,
            "versions": _versions(),
            "commit": _commit(root),
            "hardware": dataclasses.asdict(machine),
            "dtype": profiles.precision(machine),
        }
        run = cls(notebook, SimpleNamespace(**resolved), profile, machine, manifest["dtype"], folder, manifest)
        run.note()
        print(run.summary())
        return run

    def summary(self) -> str:
        """Profile and model, hardware, versions, folder, and what the reference run took where there is one."""
        machine, versions = self.hardware, self.manifest["versions"]
        gpu = f"{machine.gpu} {machine.gpu_memory / 2**30:.0f} GiB" if machine.gpu else "no GPU"
        reference = repository_root() / "outputs" / "reference" / self.notebook
        took = ""
        if (reference / "metrics.json").exists():
            seconds = json.loads((reference / "metrics.json").read_text())["measured"]["notebook_seconds"]
            made = json.loads((reference / "manifest.json").read_text())
            where = f"{made['hardware']['cpu']}, {made['hardware']['cores']} cores"
            took = f"\nreference {seconds / 60:.1f} minutes under {made['resolved']['profile']} on {where}"
        return "\n".join(
            (
                f"profile   {self.profile.name}, model {self.parameters.model_id}, computing in {self.dtype}",
                f"hardware  {machine.cpu}, {machine.cores} cores, {machine.memory / 2**30:.0f} GiB, {gpu}",
                "versions  " + ", ".join(f"{name} {version}" for name, version in versions.items()),
                f"folder    {self._shown(self.folder)}{took}",
            )
        )

    @property
    def is_default(self) -> bool:
        """Whether this is the profile's own run: nothing that changes a result was set by the user."""
        declared, given = self.manifest["declared"], self.manifest["parameters"]
        return all(given[name] == declared[name] for name in declared.keys() - BOOKKEEPING - {"profile"})

    def having(self, **values: Any) -> "Run":
        """The same run with other values of some parameters, for a part of the notebook that needs them."""
        unknown = values.keys() - vars(self.parameters).keys()
        if unknown:
            raise ParameterError(f"{', '.join(sorted(unknown))}: no parameter of this run.")
        return dataclasses.replace(self, parameters=SimpleNamespace(**vars(self.parameters) | values))

    @staticmethod
    def _shown(path: Path) -> str:
        """A path as printed in a notebook: relative to the repository where it lies inside."""
        root = repository_root()
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()

    def note(self, **facts: Any) -> None:
        """Add facts to the manifest (`data_hash`, `model_hash`, ...) and write it again."""
        self.manifest |= facts
        write_json(self.folder / "manifest.json", self.manifest)

    def predict(self, **values: float) -> None:
        """Record what is expected, before it happens: `peak_memory_bytes=...`, `seconds=...`, `dollars=...`."""
        self._predicted |= values

    def measure(self, **values: float) -> None:
        """Record what happened, under the same names as `predict`."""
        self._measured |= values

    def artifact(self, role: str, path: str | Path | None = None) -> Path:
        """The path for an artefact of this role, registered for `metrics.json`; by default `artifacts/<role>`."""
        path = Path(path).absolute() if path else self.folder / "artifacts" / role
        relative = path.relative_to(self.folder) if path.is_relative_to(self.folder) else path
        self._artifacts[role] = relative.as_posix()
        return path

    def find_artifact(self, role: str) -> Path | None:
        """The newest artefact of this role from a completed notebook of this run, for the same model and data."""
        same = ("model_hash", "data_hash")
        found = []
        for file in self.folder.parent.glob("*/metrics.json"):
            manifest = json.loads((file.parent / "manifest.json").read_text())
            path = json.loads(file.read_text())["artifacts"].get(role)
            matches = all(key in manifest and manifest[key] == self.manifest.get(key) for key in same)
            if path and matches and (file.parent / path).exists():
                found.append((file.stat().st_mtime, file.parent / path))
        return max(found)[1] if found else None

    def save_figure(self, figure, name: str) -> None:
        """Save a matplotlib figure as `figures/<name>.png`."""
        figure.savefig(self.folder / "figures" / f"{name}.png", dpi=120, bbox_inches="tight")

    def finish(self, metrics: dict[str, Metric | float]) -> dict:
        """Write metrics.json in one step and return its content. A value that is not finite is refused by name."""
        entries = {
            name: dataclasses.asdict(m if isinstance(m, Metric) else Metric(float(m))) for name, m in metrics.items()
        }
        numbers = {f"{name}.{key}": x for name, entry in entries.items() for key, x in entry.items()}
        for kind, values in (("predicted", self._predicted), ("measured", self._measured)):
            numbers |= {f"{kind} {name}": x for name, x in values.items()}
        bad = [name for name, x in numbers.items() if not isinstance(x, str | None) and not math.isfinite(x)]
        if bad:
            raise NotebookError(
                f"These metrics are not finite: {', '.join(bad)}. A run with them is not completed; look at the cell "
                "that computed them (an empty evaluation set and a diverged training are the usual causes)."
            )
        self.measure(notebook_seconds=round(time.monotonic() - self.started, 1))
        content = {
            "schema": SCHEMA,
            "status": "completed",
            "metrics": entries,
            "predicted": self._predicted,
            "measured": self._measured,
            "artifacts": self._artifacts,
        }
        write_json(self.folder / "metrics.json", content)
        print(f"completed in {self._measured['notebook_seconds']:.0f} s: {self._shown(self.folder)}/metrics.json")
        return content


def sha256_of(path: Path) -> str:
    """The sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
