"""Random numbers that a seed decides."""

import random


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (CPU and GPU) alike."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
