"""Whether two tensors are equal but for the rounding of float32, whose size depends on the kernels of the CPU."""

import torch


def assert_same(found: torch.Tensor, expected: torch.Tensor, name: str = "", share: float = 1e-4) -> None:
    """The norm of the difference is at most `share` of the norm of what was expected, where that is not zero."""
    assert found.shape == expected.shape, name
    off = (found - expected).norm().item()
    assert off <= share * expected.norm().item(), f"{name}: off by {off:.3g} of {expected.norm().item():.3g}"
