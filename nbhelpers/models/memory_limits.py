"""Whether a predicted peak fits into what is free, and what would lower it."""

from nbhelpers.core.errors import ResourceError
from nbhelpers.models import memory
from nbhelpers.models.memory import Plan, Shape

OF_THE_METHOD = ("adapter_parameters", "adapter_width", "optim")  # options of `predict` that an adapter has not of full
ERROR_MARGIN = 0.3  # share by which a prediction may be off; Run refuses only beyond it


def check(predicted_bytes: int, free_bytes: int, force: bool = False, changes=()) -> str:
    """One line that sets a prediction beside the free memory.

    Args:
        changes: of `remedies`: a refusal names the three cheapest of them that fit.

    Raises:
        ResourceError: even with the error margin taken off the prediction does not fit, and `force` is not set.
    """
    line = f"predicted peak {predicted_bytes / 2**30:.2f} GiB, free {free_bytes / 2**30:.2f} GiB"
    if predicted_bytes * (1 - ERROR_MARGIN) > free_bytes and not force:
        fitting = [f"{change}: {peak / 2**30:.2f} GiB" for change, peak in changes if peak <= free_bytes][:3]
        advice = "What would fit, the cheapest first: " + "; ".join(fitting)
        if not fitting:
            advice = "Lower per_device_train_batch_size and max_length, and switch gradient_checkpointing on"
        raise ResourceError(f"This will not fit: {line}. {advice}, or set force=True to try all the same.")
    return line if predicted_bytes <= free_bytes else f"WARNING: {line}; it may run out of memory"


def remedies(
    shape: Shape, method: str, dtype: str, plan: Plan, batch_size: int, thorough: bool = False, **options
) -> tuple[int, list[tuple[str, int]]]:
    """The predicted peak as it is, and what would lower it: `(change, predicted peak bytes)`, the cheapest first.

    Smaller micro-batches and as many more of them cost next to no time, and a step still sees as many rows;
    activations computed twice (Chen et al. 2016) cost a third more time, half more where the weights are frozen; LoRA
    and four-bit weights change what is learned; shorter rows lose data.

    Args:
        batch_size: rows a micro-batch.
        thorough: also smaller micro-batches down to one row, and changes together, behind the single ones.
        options: of `memory.predict`.
    """

    def peak_of(method=method, plan=plan, **changed):
        another = own == "full" != method
        kept = {name: x for name, x in options.items() if not (another and name in OF_THE_METHOD)}
        stored = memory.weights_dtype(method, dtype)
        return sum(memory.predict(shape, method, dtype, plan, weights_dtype=stored, **(kept | changed)).values())

    def parted(by: int) -> Plan:
        tokens, labelled = plan.largest_batch_tokens // by, plan.largest_batch_labelled_tokens // by
        return Plan(plan.tokens, plan.labelled_tokens, tokens, labelled)

    own, changes = method, []
    if batch_size > 1:
        by = next(n for n in range(2, batch_size + 1) if batch_size % n == 0)
        steps = by * options.get("gradient_accumulation_steps", 1)
        batch = f"per_device_train_batch_size={batch_size // by}, gradient_accumulation_steps={steps}"
        changes.append((f"{batch} (as many rows a step)", peak_of(plan=parted(by), gradient_accumulation_steps=steps)))
    if not options.get("gradient_checkpointing"):
        longer = "a third" if method == "full" else "half"
        changes.append((f"gradient_checkpointing=True ({longer} more time)", peak_of(gradient_checkpointing=True)))
    if method == "full":
        changes.append(("LoRA instead of full fine-tuning", peak_of("lora")))
    if method != "qlora":
        changes.append(("QLoRA: the base in four bits", peak_of("qlora")))
    changes.append(("half of max_length (longer rows are dropped)", peak_of(plan=parted(2))))
    if thorough:
        smaller = [n for n in range(2, batch_size + 1) if batch_size % n == 0]
        least, lean = smaller[-1] if smaller else 1, {"gradient_checkpointing": True}
        steps = options.get("gradient_accumulation_steps", 1)
        split = [(f"per_device_train_batch_size={batch_size // n}", n) for n in smaller[1:]]
        changes += [(name, peak_of(plan=parted(n), gradient_accumulation_steps=n * steps)) for name, n in split]
        one = {"plan": parted(least), "gradient_accumulation_steps": least * steps}
        both = f"per_device_train_batch_size={batch_size // least}, gradient_checkpointing=True"
        changes += [(both, peak_of(**one, **lean))]
        if method != "qlora":
            changes += [(f"QLoRA, {both}", peak_of("qlora", **one, **lean))]
    now = peak_of()
    return now, [(change, peak) for change, peak in changes if peak < now]


def fitting_batch_size(predicted, free_bytes: int, largest: int = 64) -> int:
    """The largest power of two up to `largest` whose predicted peak fits; 0 where not even one row does.

    Args:
        predicted: `rows at once -> peak bytes`.
    """
    size, found = 1, 0
    while size <= largest and predicted(size) <= free_bytes:
        size, found = 2 * size, size
    return found
