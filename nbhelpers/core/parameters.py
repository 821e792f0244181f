"""The parameters of a notebook: read from its `parameters` cell, and checked all at once."""

import ast
import difflib
import re
from dataclasses import dataclass
from typing import Any

from nbhelpers.core import profiles
from nbhelpers.core.errors import ParameterError

# What every notebook means by a name: (lowest, highest), or the values to choose from. The type is in the notebook,
# and limits of parameters that only one notebook has are passed by it to `Run.start`.
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
    "per_device_train_batch_size": (1, 4_096),
    "gradient_accumulation_steps": (1, 4_096),
    "lora_rank": (1, 1_024),
    "eval_rows": (2, 100_000),
    "eval_batch_size": (1, 4_096),
}
BOOKKEEPING = {"run_id", "output_dir", "resume", "force", "report_to", "study"}  # parameters that change no result


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


def executed_cells() -> list[str]:
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
    if kind in ("int", "float", "bool") and allowed - {"None"} == {"str"}:
        hint = f"; papermill -p guesses types: pass -r {parameter.name} {value}, which keeps it text"
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
