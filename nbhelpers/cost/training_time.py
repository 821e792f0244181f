"""How long a training takes: its operations, and how fast this machine does them."""

import time
from functools import cache

from nbhelpers.core.errors import ParameterError
from nbhelpers.models.memory import Plan
from nbhelpers.models.shape import Shape

# How often an elementwise operation, as `elementwise_rate` times it, passes over what `elementwise_numbers` counts.
# Measured with SmolLM2-135M in float32 and bfloat16 on two cores of a Xeon with AMX, on no other CPU and no GPU: norms,
# rotations, residual sums, the gated activation, softmax and casts of a block, forward and back, 24 times over its
# widths; four-bit weights to unpack 8 times; AdamW with the clipping of the gradient 9 times over a trained number.
BLOCK_PASSES, UNPACK_PASSES, OPTIMIZER_PASSES = 24, 8, 9


def training_flops(
    shape: Shape, method: str, plan: Plan, gradient_checkpointing: bool = False, row_tokens: float = 0
) -> float:
    """Floating-point operations of a training.

    Two operations a weight and token forward, two backward for the gradient of the activations, two more for the
    gradient of the weights, which frozen weights do not need (Kaplan et al. 2020, section 2.1: 6N in all, so 4N under
    LoRA); of a mixture of experts the weights that a token goes through count. Checkpointing repeats the forward pass.
    The vocabulary projection counts for labelled tokens only.

    Args:
        row_tokens: of an average row, for causal attention: 2 x heads x head size x its length a block and token
            forward, and twice that backward whatever is frozen; 0 leaves it out, which for rows of some hundred tokens
            it may be.
    """
    passes = {"full": 6, "lora": 4, "qlora": 4}[method] + (2 if gradient_checkpointing else 0)
    attention = 2 * shape.layers * shape.heads * shape.head_size * row_tokens * plan.tokens
    attention *= 4 if gradient_checkpointing else 3
    return attention + passes * (shape.active_parameters * plan.tokens + shape.head_parameters * plan.labelled_tokens)


def elementwise_numbers(
    shape: Shape, method: str, plan: Plan, trained: int, steps: int, batches: int, gradient_checkpointing: bool = False
) -> float:
    """Numbers that a training passes over one by one, beside its matrix products.

    Args:
        trained: numbers that are trained.
        steps: of the optimizer.
        batches: micro-batches in all; for each, four-bit weights are unpacked forward and back.
    """
    again = 4 / 3 if gradient_checkpointing else 1  # the forward pass is a third of it
    queries, values = shape.heads * shape.head_size, shape.key_value_heads * shape.head_size
    widths = 6 * shape.hidden_size + 3 * shape.intermediate_size + 2 * queries + 2 * values
    numbers = BLOCK_PASSES * again * shape.layers * widths * plan.tokens + OPTIMIZER_PASSES * trained * steps
    unpacked = (3 if gradient_checkpointing else 2) * shape.linear_parameters * batches if method == "qlora" else 0
    return numbers + UNPACK_PASSES * unpacked


def _rate(operation, work: float, device: str, seconds: float) -> float:
    """`work` a second, the best within `seconds`: a shared machine can be held up for tenths of a second."""
    import torch

    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        operation()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return work / best


@cache
def matrix_product_rate(dtype: str, device: str = "cpu", size: int = 1024, seconds: float = 0.5) -> float:
    """Floating-point operations a second of a square matrix product on this machine, measured once a process."""
    import torch

    a = torch.ones(size, size, dtype=getattr(torch, dtype), device=device)
    return _rate(lambda: a @ a, 2 * size**3, device, seconds)


@cache
def elementwise_rate(device: str = "cpu", size: int = 2**20, seconds: float = 0.25) -> float:
    """Numbers a second of an elementwise product in float32 on this machine, of tensors like those of a small model."""
    import torch

    a, b, out = (torch.ones(size, device=device) for _ in range(3))
    return _rate(lambda: torch.mul(a, b, out=out), size, device, seconds)


def training_seconds(flops: float, product_rate: float, numbers: float, elementwise_rate: float) -> float:
    """Time of the products and of what is done number by number: `flops` and `numbers`, each at its measured rate.

    Where products are fast, as on tensor cores, the second term decides: a share of the peak would not carry over.
    """
    return flops / product_rate + numbers / elementwise_rate


def steady_seconds(step_seconds: list[float], steps: int) -> float:
    """Time of `steps` steps from the first few: the first, which compiles and warms up, counts once, as it was.

    Raises:
        ParameterError: fewer than two measured steps, or fewer steps than were measured.
    """
    if len(step_seconds) < 2 or steps < len(step_seconds):
        raise ParameterError(
            f"{len(step_seconds)} steps measured of {steps}: measure at least 2, and no more than all."
        )
    later = sorted(step_seconds[1:])
    return step_seconds[0] + (steps - 1) * later[len(later) // 2]
