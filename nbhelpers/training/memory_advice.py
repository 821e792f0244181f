"""What to change when a training does not fit into memory."""

import contextlib

from nbhelpers.models import adapters, loading, memory, memory_limits
from nbhelpers.training import forecast


def what_would_fit(trainer, dtype: str) -> str:
    """The message after running out of memory: the batch, and the cheapest changes with their predicted peaks."""
    args, model = trainer.args, trainer.model
    size = args.per_device_train_batch_size
    if "input_ids" not in trainer.train_dataset.column_names:  # pairs: there is no prediction of their peak
        return (
            f"Out of memory at step {trainer.state.global_step + 1}: {size} pairs a batch. Lower "
            "per_device_train_batch_size and raise gradient_accumulation_steps by as much, or lower max_length."
        )
    config = next(iter(getattr(model, "peft_config", {}).values()), None) or adapters.bottlenecks_of(model)
    frozen = not all(parameter.requires_grad for parameter in model.parameters())
    method = "qlora" if getattr(model, "is_loaded_in_4bit", False) else "lora" if frozen else "full"
    reads = forecast.plan_of(trainer.train_dataset, size)
    longest = max(len(ids) for ids in trainer.train_dataset["input_ids"])
    lines = [
        f"Out of memory at step {trainer.state.global_step + 1}: {size} rows a batch, the longest of {longest} tokens, "
        f"{reads.largest_batch_tokens:,} tokens at once."
    ]
    with contextlib.suppress(KeyError, AttributeError):  # a model of another shape has no prediction
        shape = memory.Shape.from_config(model.config.to_dict())
        now, changes = memory_limits.remedies(
            shape, method, dtype, reads, size, device=model.device.type, optim=str(args.optim.value),
            gradient_checkpointing=args.gradient_checkpointing, lora_rank=getattr(config, "r", None) or 16,
            gradient_accumulation_steps=args.gradient_accumulation_steps,
            adapter_parameters=loading.count_parameters(model)["trainable"],
            adapter_width=None if config is None else adapters.kept_width(shape, config),
        )  # fmt: skip
        lines[0] += f" Predicted peak {now / 2**20:,.0f} MiB. Cheapest first, what would lower it:"
        lines += [f"  - {change}: {peak / 2**20:,.0f} MiB ({peak / now - 1:+.0%})" for change, peak in changes[:3]]
    return "\n".join(lines)
