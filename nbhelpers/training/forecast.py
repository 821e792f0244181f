"""What a training is expected to take, in memory, time and money, and what it took."""

import math
from dataclasses import dataclass

import numpy as np

from nbhelpers.core import hardware, memory_usage
from nbhelpers.core.errors import ModelError
from nbhelpers.cost import prices, training_time
from nbhelpers.models import adapters, budget, encoding, loading, memory, memory_limits
from nbhelpers.training import batching

RECORDED = ("peak_memory_bytes", "seconds", "dollars")  # predicted and measured under the same names


def count_tokens(run, train_dataset) -> memory.Plan:
    """Count, without training, what `sft_trainer` will feed the model from these rows."""
    p = run.parameters
    size, parts = p.per_device_train_batch_size, p.gradient_accumulation_steps
    return plan_of(batching.length_grouped(train_dataset, size, p.max_steps * parts, p.seed, parts), size)


def plan_of(rows, batch_size: int) -> memory.Plan:
    """Count what a training reads from encoded rows in the order they come, `batch_size` at a time."""
    size = min(batch_size, len(rows))
    rows = rows.select(range(len(rows) // size * size))
    lengths = np.array([len(ids) for ids in rows["input_ids"]]).reshape(-1, size)
    labelled = np.array([sum(label != encoding.IGNORE for label in row) for row in rows["labels"]]).reshape(-1, size)
    largest, most_labelled = (lengths.max(1) * size).max(), labelled.sum(1).max()
    return memory.Plan(int(lengths.sum()), int(labelled.sum()), int(largest), int(most_labelled))


@dataclass(frozen=True)
class Forecast:
    """What a training is expected to take: peak bytes by part, seconds of its steps, and their price."""

    parts: dict[str, int]
    seconds: float
    dollars: float

    @property
    def peak_memory_bytes(self) -> int:
        return sum(self.parts.values())


def expected(run, method: str, train_dataset, **options) -> Forecast:
    """Predict a training before it starts.

    Args:
        method: `full`, `lora` or `qlora`.
        options: of `memory.predict`, where it is not a LoRA of the run's rank with AdamW.
    """
    p, device = run.parameters, run.hardware.device
    shape, plan = memory.Shape.of(loading.fetch(p.model_id)), count_tokens(run, train_dataset)
    parts = memory.predict(
        shape, method, run.dtype, plan, p.lora_rank, p.gradient_checkpointing, device, p.gradient_accumulation_steps,
        weights_dtype=memory.weights_dtype(method, run.dtype), **options,
    )  # fmt: skip
    lean, steps, batches = p.gradient_checkpointing, p.max_steps, p.max_steps * p.gradient_accumulation_steps
    adapter = options.get("adapter_parameters") or shape.lora_parameters(p.lora_rank)
    trained = shape.parameters if method == "full" else adapter
    flops = training_time.training_flops(shape, method, plan, lean)
    numbers = training_time.elementwise_numbers(shape, method, plan, trained, steps, batches, lean)
    rates = training_time.matrix_product_rate(run.dtype, device), training_time.elementwise_rate(device)
    seconds = training_time.training_seconds(flops, rates[0], numbers, rates[1])
    return Forecast(parts, seconds, prices.dollars(seconds, prices.prices()[run.profile.price].dollars_per_hour))


def forecast(run, name: str, method: str, train_dataset) -> Forecast:
    """`expected`, recorded in the run and printed beside the free memory.

    Of an architecture that `Shape` does not know, nothing is predicted; that is said, and the training goes on.

    Args:
        name: the variant, under which the prediction and later the measurement are recorded.

    Raises:
        ResourceError: it would not fit even if the prediction were too high by its error margin, or the disk has no
            room for what it will write (`force` overrides both).
    """
    p, plan = run.parameters, count_tokens(run, train_dataset)
    try:
        shape = memory.Shape.of(loading.fetch(p.model_id))
    except ModelError as error:
        print(f"{name:8} {plan.tokens:,} tokens; not predicted: {error}")
        return Forecast({}, math.nan, math.nan)
    found = expected(run, method, train_dataset)
    _, changes = memory_limits.remedies(
        shape, method, run.dtype, plan, p.per_device_train_batch_size, thorough=True, device=run.hardware.device,
        lora_rank=p.lora_rank, gradient_checkpointing=p.gradient_checkpointing,
        gradient_accumulation_steps=p.gradient_accumulation_steps,
    )  # fmt: skip
    fits = memory_limits.check(found.peak_memory_bytes, hardware.memory_free(run.hardware.device), p.force, changes)
    if not p.force:
        written = budget.disk(shape, method, run.dtype, p.lora_rank, exports=0)
        budget.check_disk(sum(written.values()) - written["download"], run.folder)
    print(f"{name:8} {fits}; {plan.tokens:,} tokens in about {found.seconds:.0f} s, ${found.dollars:.4f}")
    run.predict(**{f"{name}.{key}": getattr(found, key) for key in RECORDED})
    return found


def saved_activations(run, methods: dict):
    """Bytes that autograd keeps per token and block, by tensor: a `pandas.DataFrame` with a column for each method.

    Args:
        methods: name -> the PEFT configuration, or None for full fine-tuning.

    An empty table of an architecture that `Shape` does not know.
    """
    import pandas as pd

    try:
        shape = memory.Shape.of(loading.fetch(run.parameters.model_id))
    except ModelError:
        return pd.DataFrame(columns=list(methods))
    on_cpu, mixed = run.hardware.device == "cpu", run.dtype != "float32"
    kept = {
        name: memory.kept_tensors(shape, run.dtype, *((None, mixed) if config is None else (width, False)), on_cpu)
        for name, config in methods.items()
        for width in [None if config is None else adapters.kept_width(shape, config)]
    }
    return pd.DataFrame(kept).fillna(0).astype(int).rename_axis("bytes per token and block")


def _off(expected: float, found: float) -> str:
    """How far a prediction was off; a rise of nothing happens where a process reuses memory that it holds already."""
    if not expected or math.isnan(expected):
        return "not predicted"
    return f"{expected / found - 1:+.0%}" if found else "nothing to compare"


def measured(run, forecasts: dict[str, Forecast], trainings: dict, peaks: dict[str, memory_usage.Peak]):
    """Record what each training took, and return a `pandas.DataFrame` that sets it beside the forecast.

    Args:
        trainings: name -> `sft.Training`, with forecast and peak under the same name.
    """
    import pandas as pd

    price = prices.prices()[run.profile.price].dollars_per_hour
    rows = {}
    for name, training in trainings.items():
        found = (peaks[name].bytes, training.seconds, prices.dollars(training.seconds, price))
        run.measure(**{f"{name}.{key}": value for key, value in zip(RECORDED, found, strict=True)})
        run.measure(**{f"{name}.tokens_per_second": training.tokens_per_second})
        expected, probe = forecasts[name], training.probed_seconds
        if probe:  # predicted while it ran, so that what it took is recorded beside it under the same name
            run.predict(**{f"{name}.probed_seconds": probe})
            run.measure(**{f"{name}.probed_seconds": training.seconds})
        rows[name] = {
            ("peak memory (MiB)", "predicted"): round(expected.peak_memory_bytes / 2**20),
            ("peak memory (MiB)", "measured"): round(found[0] / 2**20),
            ("peak memory (MiB)", "off by"): _off(expected.peak_memory_bytes, found[0]),
            ("time (s)", "predicted"): "" if math.isnan(expected.seconds) else round(expected.seconds),
            ("time (s)", "after 3 steps"): round(probe) if probe else "",
            ("time (s)", "measured"): round(training.seconds),
            ("time (s)", "off by"): _off(expected.seconds, training.seconds),
            ("time (s)", "then off by"): _off(probe, training.seconds) if probe else "",
            ("", "tokens/s"): round(training.tokens_per_second),
            ("", "dollars"): f"{found[2]:.4f}",
        }
    return pd.DataFrame(rows).T
