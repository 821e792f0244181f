"""What beside one training step takes memory or disk: a KV cache, the models of RLHF, checkpoints and exports."""

from dataclasses import replace
from pathlib import Path

from nbhelpers.core import environment
from nbhelpers.core.errors import ParameterError, ResourceError
from nbhelpers.models import memory
from nbhelpers.models.memory import BYTES, Plan
from nbhelpers.models.shape import Shape


def kv_cache_bytes(shape: Shape, tokens: int, sequences: int = 1, dtype: str = "bfloat16") -> int:
    """Keys and values of every block: 2 x layers x key-value heads x head size x bytes, a token and sequence.

    The heads are those of keys and values, fewer than those of queries under grouped-query attention (Ainslie et al.
    2023).

    Raises:
        ParameterError: tokens or sequences below 1, or an unknown dtype.
    """
    if tokens < 1 or sequences < 1:
        raise ParameterError(f"tokens={tokens!r}, sequences={sequences!r}: at least 1 of each.")
    if dtype not in BYTES:
        raise ParameterError(f"dtype={dtype!r} is not known; choose {', '.join(BYTES)}.")
    return 2 * shape.layers * shape.key_value_heads * shape.head_size * BYTES[dtype] * tokens * sequences


def weight_bytes(shape: Shape, dtype: str, four_bit: bool = False) -> int:
    """Bytes of a loaded model; with `four_bit` its linear layers are in NF4 with double quantisation, not in `dtype`.

    Raises:
        ParameterError: an unknown dtype.
    """
    if dtype not in BYTES:
        raise ParameterError(f"dtype={dtype!r} is not known; choose {', '.join(BYTES)}.")
    rest = shape.parameters - shape.linear_parameters
    return int(shape.linear_parameters * (memory.NF4_BYTES if four_bit else BYTES[dtype]) + rest * BYTES[dtype])


def inference(shape: Shape, tokens: int, sequences: int = 1, dtype: str = "bfloat16", four_bit: bool = False) -> dict:
    """Peak bytes of serving, by part: weights, KV cache of all sequences at full length, logits of one step."""
    cache = kv_cache_bytes(shape, tokens, sequences, dtype)
    logits = sequences * shape.vocabulary * (BYTES[dtype] + 4)
    return {"weights": weight_bytes(shape, dtype, four_bit), "KV cache": cache, "logits": logits}


def preference_tuning(
    shape: Shape,
    method: str,
    dtype: str,
    plan: Plan,
    algorithm: str,
    answers: int = 0,
    answer_tokens: int = 0,
    **options,
) -> dict[str, int]:
    """Peak bytes of training on preferences, by part: the policy's step, and what lies beside it.

    DPO reads both answers of a pair in one batch, so `plan` counts both. Its reference, like PPO's, is the same model
    with the adapter off where one is trained, which costs nothing; under full fine-tuning it is a second copy. PPO has
    a reward model and a value head besides (Ouyang et al. 2022), and writes rollouts, whose KV cache is there while no
    step is computed: the larger of the two counts.

    Args:
        algorithm: `dpo`, `orpo` (no reference), `reward`, `ppo`, `grpo` or `rloo` (no value head).
        answers: written at once in a rollout, each of `answer_tokens` with its prompt.
        options: of `memory.predict`.

    Raises:
        ParameterError: an unknown algorithm, or a rollout without its size.
    """
    known = ("dpo", "orpo", "reward", "ppo", "grpo", "rloo")
    if algorithm not in known:
        raise ParameterError(f"algorithm={algorithm!r} is not known; choose {', '.join(known)}.")
    rollouts = algorithm in ("ppo", "grpo", "rloo")
    if rollouts and (answers < 1 or answer_tokens < 1):
        raise ParameterError(f"{algorithm} writes rollouts: give answers and answer_tokens, at least 1 each.")
    if algorithm == "reward":  # one score a row instead of logits
        plan = replace(plan, labelled_tokens=0, largest_batch_labelled_tokens=0)
    parts = memory.predict(shape, method, dtype, plan, **options)
    sharded = "weights" in memory.SHARDED[options.get("sharding", "ddp")]
    another = weight_bytes(shape, dtype) // (options.get("gpus", 1) if sharded else 1)
    if algorithm not in ("orpo", "reward") and method == "full":
        parts["reference"] = another
    if rollouts:
        parts["reward model"] = another
        step = sum(parts[name] for name in ("activations", "logits", "gradients"))
        parts["KV cache beyond the step"] = max(0, kv_cache_bytes(shape, answer_tokens, answers, dtype) - step)
    if algorithm == "ppo":
        parts["value head"] = 4 * 4 * shape.hidden_size  # float32, its gradient and two moments
    return parts


def disk(
    shape: Shape, method: str, dtype: str = "bfloat16", lora_rank: int = 16, checkpoints: int = 2, exports: int = 1
) -> dict[str, int]:
    """Bytes on disk of a project, by part.

    Args:
        dtype: of the download and of a merged model.
        checkpoints: kept at once, each the trained numbers and two moments in float32.
        exports: copies of the merged model, such as quantised ones at most as large as it.
    """
    if checkpoints < 0 or exports < 0 or lora_rank < 1:
        raise ParameterError(
            f"checkpoints={checkpoints!r}, exports={exports!r}, lora_rank={lora_rank!r}: not negative."
        )
    model = weight_bytes(shape, dtype)
    trained = shape.parameters if method == "full" else shape.lora_parameters(lora_rank)
    parts = {"download": model, "checkpoints": checkpoints * 3 * 4 * trained}
    parts["merged model" if method != "full" else "tuned model"] = model
    return parts | {"exports": exports * model}


def check_disk(needed_bytes: int, folder: Path | str) -> str:
    """One line that sets bytes beside those free where `folder` is or will be.

    Raises:
        ResourceError: they are not free. Nothing has been written.
    """
    free = environment.disk_free(folder)
    unit, name = (2**30, "GiB") if min(needed_bytes, free) >= 2**30 else (2**20, "MiB")
    line = f"needs {needed_bytes / unit:,.1f} {name} of disk, {free / unit:,.1f} {name} are free"
    if needed_bytes > free:
        raise ResourceError(
            f"{line}. Free some, keep fewer checkpoints (save_total_limit), or set output_dir elsewhere."
        )
    return line
