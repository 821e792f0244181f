"""A run as trainers see it: a few parameters, a folder, and what was predicted and measured kept in `recorded`."""

from types import SimpleNamespace

from nbhelpers.core.hardware import Hardware
from nbhelpers.core.profiles import PROFILES

CPU = Hardware("cpu", 2, 2**34, None, 0, "Linux")


def run(folder, hardware=CPU, dtype="float32", **changes):
    parameters = SimpleNamespace(
        max_steps=3, per_device_train_batch_size=4, gradient_accumulation_steps=1, learning_rate=1e-3, seed=0,
        gradient_checkpointing=False, report_to="none", lora_rank=4, model_id="smoke", force=False,
    )  # fmt: skip
    parameters.__dict__.update(changes)
    recorded = {}
    return SimpleNamespace(
        parameters=parameters, hardware=hardware, dtype=dtype, folder=folder, profile=PROFILES["smoke"],
        predict=lambda **kw: recorded.update(kw), measure=lambda **kw: recorded.update(kw), recorded=recorded,
    )  # fmt: skip
