"""Learning rates beyond one schedule for all: a range test, and a rate for every block."""

import re

import numpy as np
import torch

from nbhelpers.core.errors import ModelError


def rate_range(trainer, low: float, high: float) -> None:
    """Have the learning rate rise from `low` to `high` by the same factor every step.

    A range test (Smith 2017, section 3.3, where it rises linearly). The losses show below which rate
    nothing is learned, and above which training breaks. `steepest` reads them.
    """
    optimizer, steps = trainer.create_optimizer(), trainer.args.max_steps
    for group in optimizer.param_groups:
        group["lr"] = low
    rise = (high / low) ** (1 / max(1, steps - 1))
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rise**step)


def steepest(rates, gained, window: int = 3) -> float:
    """The rate at which the loss of a `rate_range` training fell fastest: by a straight line through `window` points.

    Args:
        rates: those of the steps, shape (n,).
        gained: the loss at each step less that of the untuned model on the same batch, shape (n,). The losses alone do
            not tell: they differ more from batch to batch than from rate to rate. What comes after the lowest is left
            aside: a model that breaks jumps up and down by more than it ever learned.
    """
    gained = gained[: max(window, int(np.argmin(gained)) + 1)]
    steps = np.arange(window) - (window - 1) / 2
    slopes = np.convolve(gained, steps[::-1], mode="valid") / (steps**2).sum()
    return float(rates[int(np.argmin(slopes)) + window // 2])


def layerwise(trainer, decay: float) -> None:
    """A learning rate for every block, `decay` times that of the block above it (Howard and Ruder 2018, section 3.2).

    What lies above all blocks gets the whole rate, the embedding the lowest. A head that shares its weights with the
    embedding counts as the embedding. The optimizer is AdamW.

    Raises:
        ModelError: the blocks are not named as in Llama-like models.
    """
    blocks = trainer.model.config.num_hidden_layers
    groups: dict[int, list] = {}
    for name, weight in trainer.model.named_parameters():
        if weight.requires_grad:
            number = re.search(r"\.layers\.(\d+)\.", name)
            depth = int(number[1]) + 1 if number else 0 if "embed" in name else blocks + 1
            groups.setdefault(depth, []).append(weight)
    rate, args = trainer.args.learning_rate, trainer.args
    if not set(range(1, blocks + 1)) <= groups.keys():
        raise ModelError(f"{type(trainer.model).__name__} does not name its {blocks} blocks `layers.<number>`.")
    trainer.optimizer = torch.optim.AdamW(
        [{"params": found, "lr": rate * decay ** (blocks + 1 - depth)} for depth, found in sorted(groups.items())],
        lr=rate, betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon, weight_decay=args.weight_decay,
        fused=True,
    )  # fmt: skip
