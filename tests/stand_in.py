"""A run that has what a trainer asks of it, without a notebook."""

from types import SimpleNamespace

from nbhelpers.core.hardware import Hardware
from nbhelpers.core.profiles import PROFILES


def run(tmp_path, **changes):
    parameters = {
        "max_steps": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "learning_rate": 5e-3,
        "seed": 0, "gradient_checkpointing": False, "report_to": "none",
    } | changes  # fmt: skip
    return SimpleNamespace(
        parameters=SimpleNamespace(**parameters), hardware=Hardware("cpu", 2, 2**34, None, 0, "Linux"),
        dtype="float32", folder=tmp_path, profile=PROFILES["smoke"],
    )  # fmt: skip
