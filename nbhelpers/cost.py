"""What a training will take: floating-point operations from the model's shape, time from a measured rate, money."""

import csv
import time
from dataclasses import dataclass

from nbhelpers.errors import NotebookError
from nbhelpers.memory import Plan, Shape
from nbhelpers.run import repository_root

# Share of this machine's own matrix-product rate that a training step reaches, by precision. Attention, normalisation,
# casts and Python are the rest, and weigh more where the products are fast. Measured with SmolLM2-135M under LoRA on
# two cores, float32 and, on another machine, bfloat16 with AVX512_BF16; float16 (a T4) has not been measured.
SHARE_OF_PEAK = {"float32": 0.55, "bfloat16": 0.34, "float16": 0.34}


@dataclass(frozen=True)
class Price:
    """One row of data/prices.csv."""

    name: str
    dollars_per_hour: float
    what: str
    source: str
    date: str


def table(name: str, number: str) -> list[dict]:
    """The rows of `data/<name>.csv`, its column `number` as floats. Raises NotebookError where it is missing."""
    path = repository_root() / "data" / f"{name}.csv"
    if not path.exists():
        raise NotebookError(f"{path} is missing. It comes with the repository: run from a clone.")
    with open(path, encoding="utf-8", newline="") as file:
        return [row | {number: float(row[number])} for row in csv.DictReader(file)]


def prices() -> dict[str, Price]:
    """The price table by name. Raises NotebookError where data/prices.csv is not there."""
    return {row["name"]: Price(**row) for row in table("prices", "dollars_per_hour")}


def dollars(seconds: float, dollars_per_hour: float) -> float:
    """Price of `seconds` of machine time, billed by the second."""
    return seconds / 3600 * dollars_per_hour


def training_flops(shape: Shape, method: str, plan: Plan, gradient_checkpointing: bool = False) -> float:
    """Floating-point operations of a training.

    Two operations a weight and token forward, two backward for the gradient of the activations, two more for the
    gradient of the weights, which frozen weights do not need (Kaplan et al. 2020, section 2.1: 6N in all, so 4N under
    LoRA); checkpointing repeats the forward pass. The vocabulary projection counts for labelled tokens only.
    """
    passes = {"full": 6, "lora": 4, "qlora": 4}[method] + (2 if gradient_checkpointing else 0)
    return passes * (shape.linear_parameters * plan.tokens + shape.head_parameters * plan.labelled_tokens)


def matrix_product_rate(dtype: str, device: str = "cpu", size: int = 1024, seconds: float = 0.5) -> float:
    """Floating-point operations a second of a square matrix product on this machine, the best within `seconds`.

    A shared machine can be held up for tenths of a second: the best of a moment would be that of a bad one.
    """
    import torch

    a = torch.ones(size, size, dtype=getattr(torch, dtype), device=device)
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        b = a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    del b
    return 2 * size**3 / best


def training_seconds(flops: float, rate: float, share_of_peak: float) -> float:
    """Time of `flops` operations on a machine whose matrix products run at `rate` operations a second."""
    return flops / (rate * share_of_peak)
