"""A TRL trainer from a run's parameters, and what one training cost: losses, tokens/s, peak memory.

`SFTTrainer` here is TRL's with the loss computed on the labelled tokens only, and with the audits run before the
first step. Everything else (LoRA, data collation, optimizer, schedule, logging) is TRL's and transformers' own.
"""

import contextlib
import math
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig
from trl import SFTTrainer as TRLSFTTrainer

from nbhelpers import (
    adapters,
    batching,
    chat,
    checkpoints,
    cost,
    diagnosis,
    evaluation,
    forward,
    memory,
    models,
    profiles,
    sources,
)
from nbhelpers.errors import AuditError, DivergedError, NotebookError, ResourceError
from nbhelpers.run import seed_everything

SKIPPED = 20  # logs in a row of skipped float16 steps that stop: the loss scale, 65,536 at first, is below 1 after 17
RECORDED = ("peak_memory_bytes", "seconds", "dollars")  # predicted and measured under the same names


@dataclass(frozen=True)
class Training:
    """What one training did.

    `losses` has one mean negative log-likelihood (nats a labelled token) an optimizer step; `tokens` counts real
    tokens, padding left out; `seconds` is wall time of the steps.
    """

    losses: list[float]
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


class Watch(TrainerCallback):
    """Prints a line ten times a training, and stops it on a loss that is not finite before a checkpoint can hold it.

    In float16 a norm that is not finite is how the loss scale is found: that step is skipped and the scale halved.
    `SKIPPED` of them in a row stop the training, and so does its end if every step was skipped.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        self.started, self.first = time.perf_counter(), state.global_step
        self.skipped = self.logged = 0

    def on_train_end(self, args, state, control, **kwargs):
        if self.skipped and self.skipped == self.logged:
            raise DivergedError(
                f"All {self.logged} steps were skipped, for in float16 their gradients are not finite: nothing was "
                "learned. Train for more steps, so that the loss scale can fall, or compute in float32."
            )

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}) and state.global_step % max(1, state.max_steps // 10) == 0:
            a_step = (time.perf_counter() - self.started) / max(1, state.global_step - self.first)
            left = a_step * (state.max_steps - state.global_step)
            print(f"step {state.global_step}/{state.max_steps}  loss {float(logs['loss']):.3f}  {left:.0f} s to go")
        loss, norm = (logs or {}).get("loss"), (logs or {}).get("grad_norm")
        if norm is not None:
            self.logged += 1
            self.skipped = 0 if math.isfinite(float(norm)) else self.skipped + 1
        scaling = args.fp16 and self.skipped < SKIPPED
        for name, value in (("loss", loss), ("gradient norm", None if scaling else norm)):
            if value is not None and not math.isfinite(float(value)):
                raise DivergedError(
                    f"The {name} is {value} at step {state.global_step} (learning_rate={args.learning_rate:g}). "
                    "Training was stopped: every later step would be lost. Lower learning_rate, or compute in "
                    "bfloat16 instead of float16."
                )


class SFTTrainer(TRLSFTTrainer):
    """TRL's SFT trainer without the work that its step does for nothing; loss and gradients are the same to rounding.

    - The vocabulary projection is applied to labelled tokens only: the answer is often a tenth of a row, and tens of
      thousands of logits a token, with their softmax and backward pass, are the most expensive part of a small model.
    - No mask for padding on the right, which a causal model never looks at (`forward.labelled_logits` does both).
    - LoRA's update is computed in place (`adapters.in_place_lora`).
    - Entropy and token accuracy are not computed.
    """

    real_tokens = 0
    before = checkpoints.Progress()
    started = 0.0
    identity: dict[str, str] | None = None

    def progress(self) -> checkpoints.Progress:
        """Real tokens and seconds so far, those of earlier sessions included."""
        seconds = time.perf_counter() - self.started
        return checkpoints.Progress(self.before.tokens + self.real_tokens, self.before.seconds + seconds)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        logits, targets = forward.labelled_logits(model, head, inputs)
        smoothing = self.args.label_smoothing_factor
        total = torch.nn.functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
        loss = total / (max(1, len(targets)) if num_items_in_batch is None else num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # the count is that of all processes; DDP takes the mean
        if self.model.training:
            mask = inputs.get("attention_mask")
            self.real_tokens += inputs["input_ids"].numel() if mask is None else int(mask.sum())
        return (loss, {"logits": logits}) if return_outputs else loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """The held-out loss, every labelled token counting alike; the Trainer takes the mean of its batches' means."""
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        size = self.args.per_device_eval_batch_size
        losses = evaluation.held_out_loss(self.model, self.processing_class, rows, size, computing_dtype(self.args))
        counts = [sum(label != chat.IGNORE for label in labels[1:]) for labels in rows["labels"]]
        found = {f"{metric_key_prefix}_loss": float(np.average(losses, weights=counts))}
        self.log(found)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def _load_best_model(self):
        """As transformers does, which takes a damaged checkpoint as it is, and of a missing one only logs a warning."""
        best = Path(self.state.best_model_checkpoint)
        if self.identity and (reason := checkpoints.fault(best, self.identity)):
            raise NotebookError(
                f"The best checkpoint, {best.name}, cannot be used: {reason}. The weights in memory are those of the "
                "last step. Train anew (resume='never'), or take the last weights by training without keep_best."
            )
        super()._load_best_model()

    def train(self, *args, **kwargs):
        with adapters.in_place_lora(self.model), forward.float32_attention(self.model.device.type):
            return super().train(*args, **kwargs)


def computing_dtype(args) -> str:
    """The precision that a Trainer with these arguments computes in."""
    return "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"


def sft_config(run, **overrides) -> SFTConfig:
    """TRL's configuration from a run's parameters; any field of it can be overridden by keyword."""
    p = run.parameters
    on_cpu, steps = run.hardware.device == "cpu", overrides.get("max_steps", p.max_steps)
    values = {
        "output_dir": str(run.folder / "artifacts" / "checkpoints"),
        "max_steps": p.max_steps,
        "per_device_train_batch_size": p.per_device_train_batch_size,
        "gradient_accumulation_steps": p.gradient_accumulation_steps,
        "learning_rate": p.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1 if steps >= 20 else 0,  # a share; of a few steps it would be one without effect
        "max_length": None,  # rows are cut to length, or rather dropped, when they are encoded
        "train_sampling_strategy": "sequential",  # the rows come ordered by `batching`
        "gradient_checkpointing": p.gradient_checkpointing,
        "bf16": run.dtype == "bfloat16",
        "fp16": run.dtype == "float16",
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "optim": "adamw_torch_fused",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # transformers would replace a NaN loss by the last good one
        "save_strategy": "no",  # `checkpoints.Keeper` saves by time, and removes old ones
        "report_to": p.report_to,
        "seed": p.seed,
        "disable_tqdm": True,
    }
    return SFTConfig(**(values | overrides))


def keep_best(steps: int) -> dict:
    """Overrides of `sft_config`: held-out loss and a checkpoint every `steps` steps, and the best model at the end.

    On disk stay the newest two checkpoints and the best one.
    """
    return {
        "eval_strategy": "steps",
        "eval_steps": steps,
        "save_strategy": "steps",
        "save_steps": steps,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
    }


def encoded_rows(run, source, tokenizer, tasks: list[str], count: int = 1_000):
    """`(rows to train on, rows to score)` of a source, encoded, as even over tasks and packages as they come.

    Up to `count` rows to train on, `eval_rows` a task to score; what was read, kept and dropped is printed.
    """
    p = run.parameters
    encoded = chat.encode_rows(sources.balanced(source.train, tasks, count, p.seed), tokenizer, p.max_length)
    wanted = p.eval_rows * len(tasks)
    held_out = chat.encode_rows(sources.balanced(source.test, tasks, 4 * wanted, p.seed), tokenizer, p.max_length)
    scored = sources.balanced(held_out.dataset, tasks, wanted, p.seed)
    print(f"to train on: {encoded}\nheld out:    {held_out}; {len(scored)} of them scored")
    return encoded.dataset, scored


def count_tokens(run, train_dataset) -> memory.Plan:
    """Count, without training, what `sft_trainer` will feed the model from these rows."""
    p = run.parameters
    size, parts = p.per_device_train_batch_size, p.gradient_accumulation_steps
    return _plan(batching.length_grouped(train_dataset, size, p.max_steps * parts, p.seed, parts), size)


def _plan(rows, batch_size: int) -> memory.Plan:
    """Count what a training reads from encoded rows in the order they come, `batch_size` at a time."""
    size = min(batch_size, len(rows))
    rows = rows.select(range(len(rows) // size * size))
    lengths = np.array([len(ids) for ids in rows["input_ids"]]).reshape(-1, size)
    labelled = np.array([sum(label != chat.IGNORE for label in row) for row in rows["labels"]]).reshape(-1, size)
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
    shape, plan = memory.Shape.of(models.fetch(p.model_id)), count_tokens(run, train_dataset)
    parts = memory.predict(
        shape, method, run.dtype, plan, p.lora_rank, p.gradient_checkpointing, device, p.gradient_accumulation_steps,
        weights_dtype=memory.weights_dtype(method, run.dtype), **options,
    )  # fmt: skip
    lean, steps, batches = p.gradient_checkpointing, p.max_steps, p.max_steps * p.gradient_accumulation_steps
    adapter = options.get("adapter_parameters") or shape.lora_parameters(p.lora_rank)
    trained = shape.parameters if method == "full" else adapter
    flops = cost.training_flops(shape, method, plan, lean)
    numbers = cost.elementwise_numbers(shape, method, plan, trained, steps, batches, lean)
    rates = cost.matrix_product_rate(run.dtype, device), cost.elementwise_rate(device)
    seconds = cost.training_seconds(flops, rates[0], numbers, rates[1])
    return Forecast(parts, seconds, cost.dollars(seconds, cost.prices()[run.profile.price].dollars_per_hour))


def forecast(run, name: str, method: str, train_dataset) -> Forecast:
    """`expected`, recorded in the run and printed beside the free memory.

    Args:
        name: the variant, under which the prediction and later the measurement are recorded.

    Raises:
        ResourceError: it would not fit even if the prediction were too high by its error margin (`force` overrides).
    """
    p, found = run.parameters, expected(run, method, train_dataset)
    fits = memory.check(found.peak_memory_bytes, profiles.memory_free(run.hardware.device), p.force)
    tokens = count_tokens(run, train_dataset).tokens
    print(f"{name:8} {fits}; {tokens:,} tokens in about {found.seconds:.0f} s, ${found.dollars:.4f}")
    run.predict(**{f"{name}.{key}": getattr(found, key) for key in RECORDED})
    return found


def sft_trainer(
    run, model, tokenizer, train_dataset, peft_config=None, eval_dataset=None, name: str = "", stop=(), **overrides
) -> SFTTrainer:
    """A trainer for encoded rows (`input_ids`, `labels`). The audits run first and stop on a silent mistake.

    Args:
        eval_dataset: held-out rows, encoded alike, for `keep_best`.
        name: of the variant, where a run has several: its checkpoints have a folder of that name.
        stop: rules of `diagnosis` at which training ends; what they find is printed in any case.
        overrides: of `sft_config`.

    Raises:
        AuditError: as `chat.audit`.
    """
    chat.audit(train_dataset, tokenizer, model)
    seed_everything(run.parameters.seed)  # an adapter begins with random numbers, whatever ran before
    config = sft_config(run, **overrides)
    config.output_dir = str(Path(config.output_dir, name))
    size, parts = config.per_device_train_batch_size, config.gradient_accumulation_steps
    ordered = batching.length_grouped(train_dataset, size, config.max_steps * parts, config.seed, parts)
    trainer = SFTTrainer(
        model,
        config,
        train_dataset=ordered.select_columns(["input_ids", "labels"]),
        eval_dataset=eval_dataset.select_columns(["input_ids", "labels"]) if eval_dataset else None,
        processing_class=tokenizer,
        peft_config=peft_config,
        callbacks=[Watch()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.diagnosis = diagnosis.Diagnosis(stop)
    trainer.add_callback(trainer.diagnosis)
    for parameter in trainer.model.parameters():  # TRL puts QLoRA's adapters in bfloat16, which a T4 has not, and
        if parameter.requires_grad and peft_config is not None:  # leaves LoRA's in float32: one precision for both
            parameter.data = parameter.data.float()
    trainer.identity = checkpoints.identity(trainer)
    trainer.add_callback(checkpoints.Keeper(trainer.identity, trainer.progress))
    return trainer


def audit_batch(trainer) -> None:
    """Check on the first batch that the collator hands on every label.

    Raises:
        AuditError: it takes some away. Where the padding token is the end token, a collator that masks padding masks
            every end too, and the model never learns to stop.
    """
    size = min(trainer.args.per_device_train_batch_size, len(trainer.train_dataset))
    rows = [trainer.train_dataset[i] for i in range(size)]
    wanted = Counter(label for row in rows for label in row["labels"] if label != chat.IGNORE)
    found = Counter(trainer.data_collator(rows)["labels"].flatten().tolist())
    if lost := wanted - found:
        names = ", ".join(repr(trainer.processing_class.decode([token])) for token in list(lost)[:3])
        raise AuditError(
            f"The collator takes {lost.total()} of {wanted.total()} labels of the first batch away: {names}. One that "
            "masks padding masks the end of every answer where both are one token: use TRL's own, or give the "
            "tokenizer a padding token of its own."
        )


def train(trainer: SFTTrainer, resume: str = "never") -> Training:
    """Run the trainer and report what its steps took.

    Args:
        resume: `auto` goes on from the newest whole checkpoint of this very training, where there is one: weights,
            optimizer, schedule, random state and place in the data are restored. `never` begins anew, and what it
            saves takes the place of older checkpoints in the same folder.

    Raises:
        AuditError: as `audit_batch`.
        DivergedError: a loss or the norm of a gradient is not finite.
        NotebookError: with `keep_best`, the best checkpoint cannot be used.
        ResourceError: out of memory; names what the batch was and what would lower the peak.
    """
    audit_batch(trainer)
    found = checkpoints.newest(trainer.args.output_dir, trainer.identity) if resume == "auto" else None
    folder, trainer.before = found or (None, checkpoints.Progress())
    if folder:
        print(f"going on from {folder.name} of {trainer.args.max_steps} steps")
    trainer.real_tokens, trainer.started = 0, time.perf_counter()
    try:
        trainer.train(resume_from_checkpoint=str(folder) if folder else None)
    except (RuntimeError, MemoryError) as error:
        if not memory.is_exhausted(error):
            raise
        raise ResourceError(_what_would_fit(trainer)) from error
    done = trainer.progress()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return Training([float(loss) for loss in losses], done.tokens, done.seconds)


def _what_would_fit(trainer: SFTTrainer) -> str:
    """The message after running out of memory: the batch, and the cheapest changes with their predicted peaks."""
    args, model = trainer.args, trainer.model
    size = args.per_device_train_batch_size
    config = next(iter(getattr(model, "peft_config", {}).values()), None) or adapters.bottlenecks_of(model)
    frozen = not all(parameter.requires_grad for parameter in model.parameters())
    method = "qlora" if getattr(model, "is_loaded_in_4bit", False) else "lora" if frozen else "full"
    reads = _plan(trainer.train_dataset, size)
    longest = max(len(ids) for ids in trainer.train_dataset["input_ids"])
    lines = [
        f"Out of memory at step {trainer.state.global_step + 1}: {size} rows a batch, the longest of {longest} tokens, "
        f"{reads.largest_batch_tokens:,} tokens at once."
    ]
    with contextlib.suppress(KeyError, AttributeError):  # a model of another shape has no prediction
        shape = memory.Shape.from_config(model.config.to_dict())
        now, changes = memory.remedies(
            shape, method, computing_dtype(args), reads, size, device=model.device.type, optim=str(args.optim.value),
            gradient_checkpointing=args.gradient_checkpointing, lora_rank=getattr(config, "r", None) or 16,
            gradient_accumulation_steps=args.gradient_accumulation_steps,
            adapter_parameters=models.count_parameters(model)["trainable"],
            adapter_width=None if config is None else adapters.kept_width(shape, config),
        )  # fmt: skip
        lines[0] += f" Predicted peak {now / 2**20:,.0f} MiB. Cheapest first, what would lower it:"
        lines += [f"  - {change}: {peak / 2**20:,.0f} MiB ({peak / now - 1:+.0%})" for change, peak in changes[:3]]
    return "\n".join(lines)


def _off(expected: float, found: float) -> str:
    """How far a prediction was off; a rise of nothing happens where a process reuses memory that it holds already."""
    return f"{expected / found - 1:+.0%}" if found else "nothing to compare"


def measured(run, forecasts: dict[str, Forecast], trainings: dict[str, Training], peaks: dict[str, memory.Peak]):
    """Record what each training took, and return a `pandas.DataFrame` that sets it beside the forecast."""
    import pandas as pd

    price = cost.prices()[run.profile.price].dollars_per_hour
    rows = {}
    for name, training in trainings.items():
        found = (peaks[name].bytes, training.seconds, cost.dollars(training.seconds, price))
        run.measure(**{f"{name}.{key}": value for key, value in zip(RECORDED, found, strict=True)})
        run.measure(**{f"{name}.tokens_per_second": training.tokens_per_second})
        expected = forecasts[name]
        rows[name] = {
            ("peak memory (MiB)", "predicted"): round(expected.peak_memory_bytes / 2**20),
            ("peak memory (MiB)", "measured"): round(found[0] / 2**20),
            ("peak memory (MiB)", "off by"): _off(expected.peak_memory_bytes, found[0]),
            ("time (s)", "predicted"): round(expected.seconds),
            ("time (s)", "measured"): round(training.seconds),
            ("time (s)", "off by"): _off(expected.seconds, training.seconds),
            ("", "tokens/s"): round(training.tokens_per_second),
            ("", "dollars"): f"{found[2]:.4f}",
        }
    return pd.DataFrame(rows).T
