"""Which GPU, method and batch for a model, its data and a deadline: every option, ranked, with why the others lose."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from nbhelpers.core.errors import ParameterError
from nbhelpers.cost import prices, project, training_time
from nbhelpers.cost.project import positive
from nbhelpers.models import memory
from nbhelpers.models.memory import Plan
from nbhelpers.models.shape import Shape

METHODS = ("full", "lora", "qlora")
UTILISATION = 0.35  # share of a GPU's peak that a training reaches; of a given machine, measure it
# Median of the training runtimes of QLoRA over LoRA, of 8 models on an A10G: 1.08 to 2.05 (litgpt,
# config_hub/finetune/README.md, read 2026-11-29).
QLORA_SLOWDOWN = 1.4
GPUS, EFFICIENCY = (1, 2, 4, 8), 0.9  # of one machine; share of the speed that is left each time their number doubles
SPOT_INTERRUPTION = (30, 4)  # seconds for a checkpoint, hours between two interruptions


@dataclass(frozen=True)
class Job:
    """What is to be trained: `rows` of `tokens_per_row` on average, the longest of `max_length`, for some epochs."""

    model: str
    rows: int
    tokens_per_row: float
    max_length: int
    epochs: float = 3
    batch_rows: int = 16  # an optimizer step sees
    lora_rank: int = 16

    def __post_init__(self):
        """Raises ParameterError for a number below 1, or rows longer on average than the longest."""
        positive(
            rows=self.rows, tokens_per_row=self.tokens_per_row, max_length=self.max_length, epochs=self.epochs,
            batch_rows=self.batch_rows, lora_rank=self.lora_rank,
        )  # fmt: skip
        if self.tokens_per_row > self.max_length:
            raise ParameterError(f"tokens_per_row={self.tokens_per_row:g} exceeds max_length={self.max_length}.")

    @property
    def tokens(self) -> float:
        return self.rows * self.tokens_per_row * self.epochs

    @property
    def steps(self) -> int:
        """Optimizer steps: the last batch of an epoch counts as one although it is not full."""
        return math.ceil(math.ceil(self.rows / self.batch_rows) * self.epochs)


@dataclass(frozen=True)
class Option:
    """One way to do a job. `lost` is empty for the winner, and says for each of the others why it is not."""

    offer: str
    gpu: str
    method: str
    micro_batch: int
    gradient_checkpointing: bool
    peak_bytes: int
    gpu_bytes: int
    hours: float
    dollars: float
    gpus: int = 1
    lost: str = ""

    @property
    def fits(self) -> bool:
        return self.peak_bytes <= self.gpu_bytes


def peak(job: Job, shape: Shape, method: str, dtype: str, rows: int, checkpointing: bool, gpus: int = 1) -> int:
    """Bytes that a GPU shows as used while it trains `rows` at once; the model is sharded over several GPUs (FSDP)."""
    tokens = rows * job.max_length
    parts = memory.predict(
        shape, method, dtype, Plan.of_row(tokens), job.lora_rank, checkpointing, "cuda",
        max(1, job.batch_rows // rows // gpus), memory.weights_dtype(method, dtype), gpus=gpus, sharding="fsdp",
    )  # fmt: skip
    return memory.reserved(sum(parts.values()))


def hours(job: Job, shape: Shape, method: str, tflops: float, checkpointing: bool, utilisation: float) -> float:
    """Operations of the training over what the GPU does in an hour at this utilisation of its peak."""
    positive(tflops=tflops, utilisation=utilisation)
    if utilisation > 1:
        raise ParameterError(f"utilisation={utilisation:g}: at most 1, the whole peak.")
    slower = QLORA_SLOWDOWN if method == "qlora" else 1
    return slower * flops(job, shape, method, checkpointing) / (tflops * 1e12 * utilisation) / 3600


def flops(job: Job, shape: Shape, method: str, checkpointing: bool) -> float:
    """Operations of the training, attention over rows of the average length included."""
    plan = Plan.of_row(int(job.tokens))
    return training_time.training_flops(shape, method, plan, checkpointing, job.tokens_per_row)


def option(
    job: Job, shape: Shape, offer: prices.Price, method: str, utilisation: float, deadline_hours: float
) -> Option:
    """The fewest GPUs of an offer that do a job in time, with the fastest setting that fits.

    The largest micro-batch that fits, with checkpointing where it must be. Spot machines also lose the time that
    `project.spot` says, at SPOT_INTERRUPTION.
    """
    gpu = prices.gpu(offer.gpu)
    dtype = "bfloat16" if gpu.bfloat16 else "float16"
    for count in GPUS:
        sizes = [n for n in range(min(64, job.batch_rows), 0, -1) if job.batch_rows % (n * count) == 0] or [1]
        for lean, rows in [(lean, rows) for lean in (False, True) for rows in sizes]:
            needed = peak(job, shape, method, dtype, rows, lean, count)
            if needed <= gpu.memory_bytes:
                break
        alone = hours(job, shape, method, gpu.tflops, lean, utilisation)
        if offer.kind == "spot":
            alone = project.spot(alone, *SPOT_INTERRUPTION).hours
        efficiency = EFFICIENCY ** math.log2(count)
        took, cost = project.several_gpus(3600 * alone, offer.dollars_per_hour, count, efficiency)
        took /= 3600
        if needed <= gpu.memory_bytes and took <= deadline_hours:
            break
    return Option(offer.name, gpu.gpu, method, rows, lean, needed, gpu.memory_bytes, took, cost, count)


def rank(
    job: Job, deadline_hours: float, budget: float = math.inf, methods=METHODS, utilisation=UTILISATION, path=None,
    gpu: str = "all",
) -> list[Option]:  # fmt: skip
    """Every offer and every method, the best first: the cheapest of those that fit in memory, time and budget.

    Of each offer as few GPUs as do it. Workers that are billed all day (`active`) are for serving and left out.

    Args:
        path: another price table, as `prices.prices`.
        gpu: offers with this GPU alone; `all`: every offer.

    Raises:
        ParameterError: a deadline, budget or size that is not above 0, an unknown method or GPU, or no offer.
        ModelError: an unknown model.
    """
    positive(deadline_hours=deadline_hours)
    if not budget > 0:
        raise ParameterError(f"budget={budget!r}: a number above 0 is needed.")
    if unknown := [method for method in methods if method not in METHODS]:
        raise ParameterError(f"methods={unknown!r}: choose of {', '.join(METHODS)}.")
    shape = Shape.named(job.model)
    single = [offer for offer in prices.offers(path) if offer.gpus == 1 and offer.kind != "active"]
    rented = sorted({offer.gpu for offer in single})
    single = [offer for offer in single if gpu in ("all", offer.gpu)]
    if not single:
        raise ParameterError(f"gpu={gpu!r}: the price table has offers of one {', '.join(rented) or 'GPU: none'}.")
    options = [option(job, shape, offer, m, utilisation, deadline_hours) for offer in single for m in methods]

    def reason(one: Option) -> str:
        if not one.fits:
            each = f" on each of {one.gpus}" if one.gpus > 1 else ""
            return f"needs {one.peak_bytes / 2**30:.0f} GiB{each}, the GPU has {one.gpu_bytes / 2**30:.0f}"
        if one.hours > deadline_hours:
            return f"takes {one.hours:.1f} h, the deadline is {deadline_hours:g}"
        return f"costs ${one.dollars:.2f}, the budget is ${budget:g}" if one.dollars > budget else ""

    judged = [replace(one, lost=reason(one)) for one in options]
    good = sorted((one for one in judged if not one.lost), key=lambda one: (one.dollars, one.hours))
    bad = sorted((one for one in judged if one.lost), key=lambda one: (not one.fits, one.dollars))
    best = good[:1]
    dearer = [replace(one, lost=_beside(one, best[0])) for one in good[1:]]
    return best + dearer + bad


def best(options: list[Option]) -> Option:
    """The winner of `rank`. Raises ParameterError that names the nearest option where none qualifies."""
    if options[0].lost:
        near = options[0]
        raise ParameterError(
            f"No option qualifies. The nearest, {near.gpus} x {near.gpu} with {near.method}, {near.lost}. Allow more "
            "time or money, or take a smaller model or shorter rows."
        )
    return options[0]


def _beside(one: Option, best: Option) -> str:
    if not best.dollars:
        return f"${one.dollars:.2f} more"
    faster = f", {best.hours / one.hours:.1f} times as fast" if one.hours < 0.9 * best.hours else ""
    return f"{one.dollars / best.dollars:.1f} times the price{faster}"


def pareto(options: list[Option]) -> list[Option]:
    """Those that fit and that no other beats in both time and price, the fastest first."""
    found: list[Option] = []
    for one in sorted((one for one in options if one.fits), key=lambda one: (one.hours, one.dollars)):
        if not found or one.dollars < found[-1].dollars:
            found.append(one)
    return found


def tornado(
    cost: Callable[..., float], base: dict[str, float], ranges: dict[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """How far each input moves a cost: input -> the cost at its low and at its high end, the widest first."""
    spans = {name: tuple(cost(**(base | {name: value})) for value in ends) for name, ends in ranges.items()}
    return dict(sorted(spans.items(), key=lambda item: -abs(item[1][1] - item[1][0])))


def implied_utilisation(job: Job, method: str, gpu: str, took_hours: float) -> float:
    """The share of a GPU's peak that a published time means, if the job was this one."""
    positive(took_hours=took_hours)
    return flops(job, Shape.named(job.model), method, True) / (prices.gpu(gpu).tflops * 1e12 * 3600) / took_hours


def rules_of_thumb(tokens_per_row: int = 512, epochs: float = 3):
    """A `pandas.DataFrame` of data/published_hours.csv, whose times name neither length nor epochs.

    Beside each rule stand the share of one GPU's memory that a single row needs, with gradient checkpointing, and the
    share of its peak that the time would mean if rows had `tokens_per_row` and were read `epochs` times.
    """
    import pandas as pd

    found = []
    for row in prices.table("published_hours", "rows", "hours_low", "hours_high"):
        job = Job(row["model"], int(row["rows"]), tokens_per_row, tokens_per_row, epochs)
        needed = peak(job, Shape.named(job.model), row["method"], "bfloat16", 1, True)
        slow, fast = (
            implied_utilisation(job, row["method"], row["gpu"], row[end]) for end in ("hours_high", "hours_low")
        )
        found.append(
            {
                "job": f"{row['method']} {job.model}, {job.rows:,} rows, {row['gpu']}",
                "hours": f"{row['hours_low']:g} to {row['hours_high']:g}",
                "memory of one GPU": f"{needed / prices.gpu(row['gpu']).memory_bytes:.0%}",
                "implied share of the peak": f"{slow:.0%} to {fast:.0%}",
            }
        )
    return pd.DataFrame(found)
