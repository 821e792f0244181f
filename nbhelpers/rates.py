"""Learning rates beyond one schedule for all: a range test, and a rate for every block."""

import re

import numpy as np
import torch


def rate_range(trainer, low: float, high: float) -> None:
    """Have the learning rate rise from `low` to `high` by the same factor every step (Smith 2017, section 3.3).

    The losses then show below which rate nothing is learned, and above which training breaks: `steepest` reads them.
    """
    optimizer, steps = trainer.create_optimizer(), trainer.args.max_steps
    for group in optimizer.param_groups:
        group["lr"] = low
    rise = (high / low) ** (1 / max(1, steps - 1))
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rise**step)


def steepest(low: float, high: float, losses: list[float], window: int = 5) -> float:
    """The rate at which the running mean of a `rate_range` training's losses fell fastest."""
    rates = np.geomspace(low, high, len(losses))
    mean = np.convolve(losses, np.ones(window) / window, mode="valid")
    middle = int(np.argmin(np.diff(mean))) + (window + 1) // 2
    return float(rates[middle])


def layerwise(trainer, decay: float) -> None:
    """A learning rate for every block, `decay` times that of the block above it (Howard and Ruder 2018, section 3.1).

    What lies above all blocks gets the whole rate, the embedding the lowest. A head that shares its weights with the
    embedding counts as the embedding.
    """
    blocks = trainer.model.config.num_hidden_layers
    groups: dict[int, list] = {}
    for name, weight in trainer.model.named_parameters():
        if weight.requires_grad:
            number = re.search(r"\.layers\.(\d+)\.", name)
            depth = int(number[1]) + 1 if number else 0 if "embed" in name else blocks + 1
            groups.setdefault(depth, []).append(weight)
    rate, args = trainer.args.learning_rate, trainer.args
    trainer.optimizer = torch.optim.AdamW(
        [{"params": found, "lr": rate * decay ** (blocks + 1 - depth)} for depth, found in sorted(groups.items())],
        lr=rate, betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon, weight_decay=args.weight_decay,
        fused=True,
    )  # fmt: skip
