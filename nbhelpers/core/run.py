"""One execution of one notebook: its parameters checked, its folder made, its facts and results written.

    run = Run.start("02_peft_qlora", globals())
    ...
    run.finish({"rouge_l": estimate(...)})

`<output_dir>/<run_id>/<notebook>/` then holds `manifest.json` (written at the start) and `metrics.json` (written
last, in one step: a run without it has not completed), `figures/` and `artifacts/`.
"""

import dataclasses
import json
import math
import subprocess
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nbhelpers.core import environment, hardware, parameters, profiles, seeding, storage
from nbhelpers.core.errors import NotebookError, ParameterError
from nbhelpers.core.parameters import BOOKKEEPING, Parameter
from nbhelpers.core.statistics import Metric

SCHEMA = 1
DISTRIBUTIONS = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate", "papermill")


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
    hardware: hardware.Hardware
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
        declared, injected = parameters.parameter_cells(parameters.executed_cells())
        if not declared and "__name__" in values:
            raise ParameterError(
                "Nothing was started; no cell that ran declares the parameters. One cell must hold lines like "
                "`max_steps: int | None = None`, literals only, and nothing else; profile and run_id are among them."
            )
        if not declared:  # a plain script: every value given counts, typed by itself
            declared = {name: Parameter(name, type(value).__name__, value) for name, value in values.items()}
        checked = parameters.check_parameters(declared, injected, values, limits)
        machine = hardware.detect()
        profile = profiles.choose(checked["profile"], machine)
        presets = dataclasses.asdict(profile)
        resolved = {name: presets.get(name) if value is None else value for name, value in checked.items()}
        resolved = presets | resolved | {"profile": profile.name}
        root = storage.repository_root()
        folder = Path(root, Path(resolved["output_dir"]).expanduser(), resolved["run_id"], notebook)
        try:
            for stale in (folder / "metrics.json", *folder.glob("figures/*.png")):
                stale.unlink(missing_ok=True)
            for name in ("figures", "artifacts"):
                (folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ParameterError(
                f"Nothing was started; output_dir={resolved['output_dir']!r} cannot be written to: {error.strerror} "
                f"({error.filename}). Name another folder, or make that one writable."
            ) from error
        if "seed" in resolved:  # a notebook that only plans draws nothing
            seeding.seed_everything(resolved["seed"])
        manifest = {
            "schema": SCHEMA,
            "notebook": notebook,
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "parameters": checked,
            "declared": {name: parameter.default for name, parameter in declared.items()},
            "resolved": resolved,
            "versions": environment.versions(DISTRIBUTIONS),
            "commit": _commit(root),
            "hardware": dataclasses.asdict(machine),
            "dtype": hardware.precision(machine),
        }
        run = cls(notebook, SimpleNamespace(**resolved), profile, machine, manifest["dtype"], folder, manifest)
        run.note()
        print(run.summary())
        return run

    def summary(self) -> str:
        """Profile and model, hardware, versions, folder, and what the reference run took where there is one."""
        machine, versions = self.hardware, self.manifest["versions"]
        gpu = f"{machine.gpu} {machine.gpu_memory / 2**30:.0f} GiB" if machine.gpu else "no GPU"
        reference = storage.repository_root() / "outputs" / "reference" / self.notebook
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

    def command(self) -> str:
        """The papermill command that gives this result again, with what differs from the notebook's own parameters."""
        declared, given = self.manifest["declared"], self.manifest["parameters"]
        changed = [
            f"-p {name} {value!r}"
            for name, value in given.items()
            if value != declared[name] and name not in BOOKKEEPING
        ]
        return " ".join((f"papermill notebooks/{self.notebook}.ipynb out.ipynb", *changed))

    def having(self, **values: Any) -> "Run":
        """The same run with other values of some parameters, for a part of the notebook that needs them."""
        unknown = values.keys() - vars(self.parameters).keys()
        if unknown:
            raise ParameterError(f"{', '.join(sorted(unknown))}: no parameter of this run.")
        return dataclasses.replace(self, parameters=SimpleNamespace(**vars(self.parameters) | values))

    @staticmethod
    def _shown(path: Path) -> str:
        """A path as printed in a notebook: relative to the repository where it lies inside."""
        root = storage.repository_root()
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()

    def note(self, **facts: Any) -> None:
        """Add facts to the manifest (`data_hash`, `model_hash`, ...) and write it again."""
        self.manifest |= facts
        storage.write_json(self.folder / "manifest.json", self.manifest)

    def predict(self, **values: float) -> None:
        """Record what is expected, before it happens: `peak_memory_bytes=...`, `seconds=...`, `dollars=...`."""
        self._predicted |= values

    def measure(self, **values: float) -> None:
        """Record what happened, under the same names as `predict`."""
        self._measured |= values

    def artifact(self, role: str, path: str | Path | None = None, inputs: dict[str, Any] | None = None) -> Path:
        """The path for an artefact of this role, registered for `metrics.json`; by default `artifacts/<role>`.

        Args:
            inputs: what the artefact follows from, as JSON: who looks for it must name the same (`find_artifact`).
        """
        path = Path(path).absolute() if path else self.folder / "artifacts" / role
        relative = path.relative_to(self.folder) if path.is_relative_to(self.folder) else path
        self._artifacts[role] = relative.as_posix()
        if inputs is not None:
            self.note(inputs=self.manifest.get("inputs", {}) | {role: inputs})
        return path

    def find_artifact(self, role: str, inputs: dict[str, Any]) -> Path | None:
        """The newest artefact of this role that a completed notebook of this run made from the same inputs."""
        wanted, found = json.loads(json.dumps(inputs)), []
        for file in self.folder.parent.glob("*/metrics.json"):
            made_from = (storage.read_json(file.parent / "manifest.json") or {}).get("inputs", {}).get(role)
            path = (storage.read_json(file) or {}).get("artifacts", {}).get(role)
            if path and made_from == wanted and (file.parent / path).exists():
                found.append((file.stat().st_mtime, file.parent / path))
        return max(found)[1] if found else None

    def save_figure(self, figure, name: str) -> None:
        """Save a matplotlib figure as `figures/<name>.png`, with what its axes show as alternative text."""
        axes = [(ax.get_title(), ax.get_ylabel(), ax.get_xlabel()) for ax in figure.axes]
        shown = [": ".join(filter(None, (title, " against ".join(filter(None, labels))))) for title, *labels in axes]
        facts = {"Description": "; ".join(filter(None, shown)).replace("\n", " ")}
        figure.savefig(self.folder / "figures" / f"{name}.png", dpi=120, bbox_inches="tight", metadata=facts)

    def finish(self, metrics: dict[str, Metric | float], claim: tuple[str, str] | None = None) -> dict:
        """Write metrics.json in one step and return its content. A value that is not finite is refused by name.

        Args:
            claim: what the notebook claims, as one sentence, and the name of the metric that bears it out.

        Raises:
            NotebookError: a value is not finite, or the claim names no metric; nothing was written.
        """
        if claim is not None and claim[1] not in metrics:
            raise NotebookError(f"The claim {claim[0]!r} rests on {claim[1]!r}, which is none of the metrics.")
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
            "claim": None if claim is None else {"text": claim[0], "metric": claim[1]},
            "metrics": entries,
            "predicted": self._predicted,
            "measured": self._measured,
            "artifacts": self._artifacts,
        }
        storage.write_json(self.folder / "metrics.json", content)
        print(f"completed in {self._measured['notebook_seconds']:.0f} s: {self._shown(self.folder)}/metrics.json")
        return content
