"""Where the memory of one training step goes, part by part."""

import torch

from nbhelpers.core import memory_usage
from nbhelpers.models import memory
from nbhelpers.studies import variant
from nbhelpers.studies.variant import Variant
from nbhelpers.training import forecast


def stages(run, rows) -> dict[str, dict[str, int]]:
    """Where the memory of full fine-tuning goes: part -> bytes `predicted` and `measured` in one step of AdamW.

    What is held is measured after loading, after the forward pass, after the backward pass, and after the step.
    """
    p, device = run.parameters, run.hardware.device
    start = memory_usage.held(device)
    made = variant.trainer(run, Variant(None, (p.learning_rate,)), rows, p.learning_rate, "stages")
    loaded = memory_usage.held(device)
    batch = made._prepare_inputs(next(iter(made.get_train_dataloader())))
    width = None if run.dtype == "float32" else getattr(torch, run.dtype)
    with torch.autocast(device, width, enabled=width is not None):
        loss = made.compute_loss(made.model.train(), batch)
    forward = memory_usage.held(device)
    loss.backward()
    del loss
    backward = memory_usage.held(device)
    made.create_optimizer().step()
    stepped = memory_usage.held(device)
    shape, plan, stored = (
        variant.shape_of(run),
        forecast.count_tokens(run, rows),
        memory.weights_dtype("full", run.dtype),
    )
    parts = memory.predict(
        shape, "full", run.dtype, plan, device=device, weights_dtype=stored, gradient_accumulation_steps=2
    )
    weights = shape.parameters * memory.BYTES[stored]
    logits = plan.largest_batch_labelled_tokens * shape.vocabulary * 8  # and their log-softmax, in float32
    predicted = {
        "weights": weights,
        "activations and logits": parts["weights"] - weights + parts["activations"] + logits,
        "gradients": weights,  # what is held; the second one of a tied embedding is gone by then
        "optimizer": parts["optimizer"],
    }
    measured = {"weights": loaded - start, "activations and logits": forward - loaded}
    measured |= {"gradients": backward - loaded, "optimizer": stepped - backward}
    return {part: {"predicted": predicted[part], "measured": found} for part, found in measured.items()}
