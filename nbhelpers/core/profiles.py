"""The defaults sized for each kind of machine."""

from dataclasses import dataclass

from nbhelpers.core.errors import ParameterError
from nbhelpers.core.hardware import Hardware


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Defaults of one kind of machine. A notebook parameter left at None takes the value of the same name here."""

    name: str
    model_id: str  # Hub id, or one of the embedded aliases `smoke` and `smollm2-135m`
    max_length: int  # tokens a row, prompt and answer together
    max_steps: int  # optimizer steps
    per_device_train_batch_size: int  # rows a forward pass
    gradient_accumulation_steps: int = 1  # forward passes an optimizer step
    learning_rate: float  # of LoRA: the peak of its schedule
    lora_rank: int  # r
    gradient_checkpointing: bool  # about a third more compute for far less activation memory
    eval_rows: int  # held-out rows a task
    eval_batch_size: int  # prompts generated at once
    max_new_tokens: int  # tokens an answer may take
    check_dtype: str  # precision of a merge and of its equality checks
    price: str  # row of data/gpu_prices.csv at which a run is billed


_GPU = {"max_length": 1024, "max_steps": 200, "learning_rate": 2e-4, "lora_rank": 16, "gradient_checkpointing": True}


_GPU |= {"eval_rows": 200, "eval_batch_size": 32, "max_new_tokens": 128}


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="smoke", model_id="smoke", max_length=512, max_steps=4, per_device_train_batch_size=4,
            learning_rate=5e-3, lora_rank=4, gradient_checkpointing=False, eval_rows=4, eval_batch_size=8,
            max_new_tokens=12, check_dtype="float32", price="cpu-2-cores",
        ),
        Profile(
            name="cpu", model_id="smollm2-135m", max_length=256, max_steps=28, per_device_train_batch_size=8,
            learning_rate=1e-3, lora_rank=16, gradient_checkpointing=False, eval_rows=100, eval_batch_size=50,
            max_new_tokens=48, check_dtype="float32", price="cpu-2-cores",
        ),
        Profile(
            name="t4", model_id="HuggingFaceTB/SmolLM2-1.7B-Instruct", per_device_train_batch_size=4,
            gradient_accumulation_steps=4, check_dtype="float16", price="t4", **_GPU,
        ),
        Profile(
            name="rtx4090", model_id="Qwen/Qwen3-4B-Instruct-2507", per_device_train_batch_size=4,
            gradient_accumulation_steps=4, check_dtype="bfloat16", price="rtx4090", **_GPU,
        ),
        Profile(
            name="a100", model_id="meta-llama/Llama-3.1-8B-Instruct", per_device_train_batch_size=16,
            check_dtype="bfloat16", price="a100", **_GPU,
        ),
        Profile(
            name="h100", model_id="meta-llama/Llama-3.1-8B-Instruct", per_device_train_batch_size=16,
            check_dtype="bfloat16", price="h100", **_GPU,
        ),
    )
}  # fmt: skip


def choose(name: str, machine: Hardware) -> Profile:
    """The profile called `name`; `auto` takes the largest one that the machine's GPU memory carries."""
    if name != "auto":
        if name not in PROFILES:
            raise ParameterError(f"profile={name!r} is not known; choose auto, {', '.join(PROFILES)}.")
        return PROFILES[name]
    if not machine.gpu:
        return PROFILES["cpu"]
    gigabytes = machine.gpu_memory / 1e9
    if gigabytes > 75 and any(name in machine.gpu for name in ("H100", "H200", "B200")):  # not a slice of one (MIG)
        return PROFILES["h100"]
    return PROFILES["a100" if gigabytes > 39 else "rtx4090" if gigabytes > 22 else "t4"]
