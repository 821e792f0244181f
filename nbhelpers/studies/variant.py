"""One variant of a study: trained, measured, scored and timed, as figures that JSON can hold.

`tune` is meant to be run in a process of its own (`jobs.compute`), so that its peak is that of the variant alone.
"""

import contextlib
import math
import os
import statistics
import tempfile
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from nbhelpers.core import hardware, memory_usage
from nbhelpers.core.errors import DivergedError, ModelError, ResourceError
from nbhelpers.core.seeding import seed_everything
from nbhelpers.cost import prices
from nbhelpers.evaluation import constraints, forgetting, latency, likelihood, scoring
from nbhelpers.models import adapters, loading, memory, memory_limits, saving
from nbhelpers.training import checkpoints, forecast, sft
from nbhelpers.training.monitoring import Finding


@dataclass(frozen=True)
class Variant:
    """One way to train, compared with others at equal rows, steps and seed.

    config: what is trained: a PEFT configuration, one with an `add_to(model)` of its own, or None for every weight.
    learning_rates: those to try; the one with the lowest loss on rows kept apart is scored. Empty: nothing is trained.
    quantization: of the frozen weights, as keyword arguments of `loading.four_bit`; None: as they are.
    settings: overrides of `sft.sft_config`.
    prepare: called with the trainer before it begins, a `partial` of a function that a module defines.
    changes_training: whether `prepare` changes what is trained, so that a checkpoint without it is of another training.
    held_numbers: float32 numbers that `prepare` keeps beside each trained one.
    stop: rules of `diagnosis` at which training ends; all are applied.
    """

    config: object | None = None
    learning_rates: tuple[float, ...] = ()
    quantization: dict | None = None
    settings: dict = field(default_factory=dict)
    prepare: partial | None = None
    changes_training: bool = True
    held_numbers: int = 0
    stop: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """As `memory.predict` and `training_time.training_flops` call it: `full`, `lora` (any adapter) or `qlora`."""
        return "full" if self.config is None else "lora" if self.quantization is None else "qlora"


def load(run, variant: Variant):
    """`(model, tokenizer)` of a variant before its adapter: the base in the precision and with the bits it asks for."""
    bits = None if variant.quantization is None else loading.four_bit(run.dtype, **variant.quantization)
    dtype = memory.weights_dtype(variant.method, run.dtype) if variant.learning_rates else run.dtype
    return loading.load(run.parameters.model_id, dtype, run.hardware.device, bits)


def trainer(run, variant: Variant, rows, learning_rate: float, name: str, validation_rows=None):
    """A trainer of the variant's model with its adapter on it.

    Raises:
        ModelError: what is trained is not what the method's formula says, in a model that it is written for.
    """
    model, tokenizer = load(run, variant)
    config = variant.config
    if hasattr(config, "add_to"):
        seed_everything(run.parameters.seed)  # as `sft.sft_trainer` does before it adds PEFT's
        config.add_to(model)
        config = None
    settings = variant.settings | {"learning_rate": learning_rate}
    held_out = validation_rows if "eval_strategy" in settings else None
    made = sft.sft_trainer(run, model, tokenizer, rows, config, held_out, name, variant.stop, **settings)
    found = loading.count_parameters(made.model)["trainable"]
    known = variant.config is not None and adapters.has_formula(made.model, shape_of(run))
    if known and found != (expected := adapters.count(shape_of(run), variant.config)):
        raise ModelError(f"{name} trains {found:,} numbers; its formula says {expected:,}.")
    if variant.prepare:
        variant.prepare(made)
    if variant.prepare and variant.changes_training:
        given = {
            key: checkpoints.digest_of_rows(value) if hasattr(value, "column_names") else repr(value)
            for key, value in variant.prepare.keywords.items()
        }
        made.identity |= checkpoints.identity(made) | {"prepare": f"{variant.prepare.func.__name__} {given}"}
    return made


def shape_of(run) -> memory.Shape:
    return memory.Shape.of(loading.fetch(run.parameters.model_id))


def tune(
    run,
    name: str,
    variant: Variant,
    rows,
    validation_rows,
    test_rows=None,
    folder: Path | None = None,
    timed=True,
    asked: dict | None = None,
) -> dict:
    """Train a variant, at each of its learning rates, and measure the best.

    Args:
        rows: encoded rows to train on.
        validation_rows: encoded rows that choose the learning rate.
        test_rows: encoded rows that are answered and scored; None: the training alone is measured.
        folder: where the adapter is saved; None: nowhere.
        timed: whether the latency is measured too.
        asked: as for `measure`.

    Returns: figures of the training (of the first rate, which had the process to itself, its cost; of the chosen one
    the rest) and what `measure` finds. Where training broke at every rate, the losses and findings of the last one.
    `left_out` with the reason where it would not fit in memory, or was to be scored and broke.

    Raises:
        NotebookError: as `sft.train`.
    """
    expected = _expected(run, variant, rows) if variant.learning_rates else None
    found: dict = {"validation_loss": {}}
    if expected:
        try:
            memory_limits.check(
                expected.peak_memory_bytes, hardware.memory_free(run.hardware.device), run.parameters.force
            )
        except ResourceError as error:
            return {"left_out": str(error)}
        found |= {"predicted_peak_memory_bytes": expected.peak_memory_bytes, "predicted_seconds": expected.seconds}
    cores = run.hardware.cores
    share = min(1.0, int(os.environ.get(hardware.CORES, cores)) / cores)  # of what is paid for, see `process.call`
    best, model, made = math.inf, None, None
    for rate in variant.learning_rates:
        memory_usage.free()
        try:
            with memory_usage.peak(run.hardware.device) as peak:
                made = trainer(run, variant, rows, rate, name, validation_rows)
                done = sft.train(made)
        except DivergedError as error:  # this rate is too high
            print(error)
            ended = Finding("divergence", made.state.global_step, str(error).partition(". ")[0])
            made.diagnosis.findings.append(ended)
            found["validation_loss"][f"{rate:g}"] = None
            found |= _course(made) if model is None else {}
            made = None
            continue
        if "seconds" not in found:  # the first alone had the process to itself
            found |= {"peak_memory_bytes": peak.bytes, "seconds": done.seconds}
            found |= {"tokens_per_second": done.tokens_per_second}
            found |= {
                "dollars": share * prices.dollars(done.seconds, prices.prices()[run.profile.price].dollars_per_hour)
            }
        losses = likelihood.held_out_loss(made.model, made.processing_class, validation_rows)
        loss = statistics.fmean(losses)
        found["validation_loss"][f"{rate:g}"] = loss if math.isfinite(loss) else None
        if loss < best:
            best, model = loss, made.model
            found |= {"learning_rate": rate} | _course(made)
        made = None
    if model is not None:
        counted = loading.count_parameters(model)
        trained, added = counted["trainable"], 0 if variant.config is None else counted["trainable"]
        share_of = counted["total"] - added  # of the model without what a method adds to it
        found |= {"trained_parameters": trained, "trained_share": trained / share_of}
        found |= {"saved_bytes": _save(model, folder)}
    elif variant.learning_rates:
        broke = {"left_out": f"training broke at every learning rate of {variant.learning_rates}"}
        return found | (broke if test_rows is not None else {})
    else:
        model, _ = load(run, variant)
    return found | (measure(run, model, test_rows, timed, asked) if test_rows is not None else {})


def _course(made) -> dict:
    """The finite losses that a training logged, its gradient norms (None: not finite), and what the rules said."""
    losses, norms, held_out = (
        [float(entry[key]) for entry in made.state.log_history if key in entry]
        for key in ("loss", "grad_norm", "eval_loss")
    )
    return {
        "losses": [loss for loss in losses if math.isfinite(loss)],
        "gradient_norms": [norm if math.isfinite(norm) else None for norm in norms],
        "held_out": [loss for loss in held_out if math.isfinite(loss)],
        "findings": [asdict(finding) for finding in made.diagnosis.findings],
    }


def _expected(run, variant: Variant, rows) -> forecast.Forecast:
    """The forecast of a variant: LoRA's, with what its own method trains and has autograd keep."""
    known = {name: value for name, value in variant.settings.items() if hasattr(run.parameters, name)}
    shape, config = shape_of(run), variant.config
    bits = memory.NF4_BYTES if (variant.quantization or {}).get("double_quant", True) else memory.FOUR_BIT_BYTES
    found = forecast.expected(
        run.having(**known), variant.method, rows, adapter_parameters=adapters.count(shape, config),
        adapter_width=None if config is None else adapters.kept_width(shape, config), four_bit_bytes=bits,
        optim=variant.settings.get("optim", "adamw_torch_fused"),
    )  # fmt: skip
    found.parts["held beside"] = variant.held_numbers * adapters.count(shape, config) * memory.BYTES["float32"]
    return found


def _save(model, folder: Path | None) -> int:
    """Write what was trained and return its bytes on disk."""
    with contextlib.ExitStack() as stack:
        folder = Path(folder or stack.enter_context(tempfile.TemporaryDirectory()))
        adapters.save(model, folder)
        return saving.folder_bytes(folder)


def measure(run, model, test_rows, timed: bool = True, asked: dict | None = None) -> dict:
    """A tuned model on rows and probes: one value a row, in order.

    Args:
        timed: its latency too, merged where it can be.
        asked: group -> `constraints.questions`; the scores then have `<group>.strict` and `answers.ended`.
    """
    p = run.parameters
    tokenizer, model = loading.load_tokenizer(p.model_id), loading.for_inference(model, run.dtype)
    scored = scoring.evaluate(
        "", model, tokenizer, test_rows, max_new_tokens=p.max_new_tokens, batch_size=p.eval_batch_size
    )
    found = {
        "held_out_loss": likelihood.held_out_loss(model, tokenizer, test_rows),
        "scores": {f"{task}.{score}": scored.values(task, score) for task, score in scored.scores},
        "forgetting": forgetting.measure(model, tokenizer, p.eval_batch_size),
    }
    longer = {"max_new_tokens": 2 * p.max_new_tokens, "batch_size": p.eval_batch_size}
    obeyed = {group: constraints.measure(model, tokenizer, those, **longer) for group, those in (asked or {}).items()}
    found["scores"] |= {f"{group}.strict": [float(x) for x in those.strict] for group, those in obeyed.items()}
    if obeyed:
        found["scores"]["answers.ended"] = [float(x) for those in obeyed.values() for x in those.stopped]
    if not timed:
        return found
    memory_usage.free()
    base, _ = loading.load(p.model_id, run.dtype, run.hardware.device)
    prompt = [{"role": "user", "content": "Hello"}]  # short: the tokens that are written are timed, not those read
    found["latency"] = latency.latency({"base": base, "as it is": model}, tokenizer, prompt)
    if _mergeable(model):
        if getattr(model, "is_loaded_in_4bit", False):  # onto the unquantised base, as it would be served
            model = _moved(model, run)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # and from a file, as the base was
            saving.save(model.merge_and_unload(), tokenizer, folder)
            model, _ = loading.load(folder, run.dtype, run.hardware.device)
        merged = latency.latency({"base": base, "merged": model}, tokenizer, prompt)
        found["latency"] |= {"merged": merged["merged"], "base, again": merged["base"]}
    return found


def _mergeable(model) -> bool:
    configs = getattr(model, "peft_config", {}).values()
    return bool(configs) and not any(config.is_prompt_learning for config in configs)


def _moved(model, run):
    """The adapter of a model on a quantised base, on the base as it is."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return loading.attach(run.parameters.model_id, folder, run.dtype, run.hardware.device)[0]


def combine(run, folders: list[Path], weights: list[float], test_rows, made_by: list[partial]) -> dict:
    """What several saved LoRA adapters do when they are added up: sum of weight x update, exactly (`cat`).

    The sum of two adapters of rank r is one of rank 2 r, whose factors are theirs side by side. Where one of them was
    left out, so is the sum.

    Args:
        made_by: the jobs that filled the folders; where one of them changes, so does this one.
    """
    from peft import PeftModel

    if missing := [folder.name for folder in map(Path, folders) if not any(folder.glob("*"))]:
        return {"left_out": f"there is no adapter in {', '.join(missing)}"}
    model, _ = loading.load(run.parameters.model_id, run.dtype, run.hardware.device)
    names = [f"part_{number}" for number in range(len(folders))]
    model = PeftModel.from_pretrained(model, folders[0], adapter_name=names[0])
    for name, folder in zip(names[1:], folders[1:], strict=True):
        model.load_adapter(folder, adapter_name=name)
    model.add_weighted_adapter(names, weights, "default", combination_type="cat")
    model.set_adapter("default")
    for name in names:
        model.delete_adapter(name)
    return {"saved_bytes": _save(model, None)} | measure(run, model, test_rows)
