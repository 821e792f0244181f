"""Peak memory that others have published, beside what `memory.predict` says of the same settings."""

import csv

from nbhelpers.core.errors import DataError
from nbhelpers.core.storage import repository_root
from nbhelpers.models import memory
from nbhelpers.models.shape import Shape

UNITS = {"GB": 1e9, "GiB": 2**30}
MODULES = {
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "o_proj",
    "g": "gate_proj",
    "u": "up_proj",
    "d": "down_proj",
}
FOUR_BITS = {"nf4": memory.FOUR_BIT_BYTES, "nf4-dq": memory.NF4_BYTES}


def _table(path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rows(path=None) -> list[dict]:
    """The rows of data/published_memory.csv, each with `measured` and `predicted` bytes, and what was assumed.

    A setting that a row does not state comes from the line of its source in data/published_memory_assumed.csv, which
    gives the reason. No number is fitted to these rows.

    Args:
        path: another table with the same columns.

    Raises:
        DataError: a source without such a line.
        ModelError: a model that data/model_shapes.json has not.
    """
    assumed = {row["source"]: row for row in _table(repository_root() / "data" / "published_memory_assumed.csv")}
    found = []
    for row in _table(path or repository_root() / "data" / "published_memory.csv"):
        if row["source"] not in assumed:
            raise DataError(
                f"No line for {row['source']!r} in data/published_memory_assumed.csv: add what it leaves out."
            )
        found.append(row | predicted(row, assumed[row["source"]]))
    return found


def predicted(row: dict, assumed: dict) -> dict:
    """Bytes `measured` and `predicted` of one published row, and the names of the settings that were `assumed`."""
    stated = {name: row[name] for name in ("lora_rank", "target_modules", "activation_checkpointing") if row[name]}
    needed = {"activation_checkpointing"} | ({"lora_rank", "target_modules"} if row["method"] == "lora" else set())
    filled = assumed | stated
    left_out = ["optimizer"] if row["optimizer"] == "not stated" else []
    left_out += ["parts of the loss"] if row["chunked_loss"] == "1" else []
    shape = Shape.named(row["model"])
    if assumed["tied"] == "0":
        shape = Shape(**{**vars(shape), "tied": False})
    length = int(row["seq_len"])
    if assumed["longest_row"] and row["packed"] == "0":
        length = min(length, int(assumed["longest_row"]))
        left_out.append("longest row")
    tokens = length * int(row["micro_batch_size"])
    plan = memory.Plan.of_row(tokens)
    method, dtype = ("qlora" if row["quantisation"] else row["method"]), row["weights_dtype"]
    dtype = "float16" if dtype == "fp16" else "bfloat16"
    parts = memory.predict(
        shape, method, dtype, plan, device="cuda", gpus=int(row["num_gpus"]), optim=row["optimizer"],
        lora_rank=int(filled["lora_rank"]), target_modules=tuple(MODULES[x] for x in filled["target_modules"]),
        adapter_dtype=assumed["adapter_dtype"], unquantised_dtype=assumed["unquantised_dtype"],
        four_bit_bytes=FOUR_BITS[assumed["four_bit"]], compiled=row["compile"] == "1",
        gradient_checkpointing=filled["activation_checkpointing"] == "1",
        logits_dtype=assumed["logits_dtype"] or None,
        loss_chunks=int(assumed["loss_chunks"]) if row["chunked_loss"] == "1" else 1,
        optimizer_in_backward="backward" in row["note"],
    )  # fmt: skip
    peak = sum(parts.values())
    if method == "qlora" and assumed["loads"] == "whole":
        peak = max(peak, shape.parameters * memory.BYTES[dtype])
    if assumed["counted"] != "allocated":
        peak = memory.reserved(peak, context=assumed["counted"] == "device")
    return {
        "measured": float(row["peak_gib"]) * UNITS[assumed["unit"]],
        "predicted": peak,
        "filled": filled,
        "assumed": sorted(needed - set(stated)) + left_out,
    }


def peer_bytes(row: dict) -> float | None:
    """What fitcheck-llm 0.3.1 says of a row of `rows`; None where it is not installed or has no such setting.

    It knows LoRA and QLoRA of models with a gated MLP on one GPU.
    """
    try:
        import fitcheck
    except ImportError:
        return None
    shape = Shape.named(row["model"])
    if row["method"] != "lora" or not shape.gated:
        return None
    assumed = row["filled"]
    nested = bool(row["quantisation"]) and assumed["four_bit"] == "nf4-dq"
    model = fitcheck.ModelConfig(
        row["model"], shape.parameters, shape.hidden_size, shape.layers, shape.heads, shape.key_value_heads,
        shape.intermediate_size, shape.vocabulary, shape.head_size, shape.tied,
    )  # fmt: skip
    config = fitcheck.TrainingConfig(
        quantization="nf4" if row["quantisation"] else "none", batch_size=int(row["micro_batch_size"]),
        seq_len=int(row["seq_len"]), lora_rank=int(assumed["lora_rank"]), flash_attn=True,
        lora_targets=[MODULES[x] for x in assumed["target_modules"]],
        grad_checkpoint=assumed["activation_checkpointing"] == "1", double_quant=nested,
    )  # fmt: skip
    return fitcheck.estimate(model, config, fitcheck.get_gpu("a100-80")).total_mib * 2**20


def errors(found: list[dict]):
    """A `pandas.DataFrame` of `rows`: source, `error` (predicted over measured, less 1), whether all was `stated`."""
    import pandas as pd

    return pd.DataFrame(
        {"source": row["source"], "error": row["predicted"] / row["measured"] - 1, "stated": not row["assumed"]}
        for row in found
    )


def peer_errors(found: list[dict]) -> list[float]:
    """The errors of `peer_bytes` on the rows that it knows; empty where fitcheck-llm is not installed."""
    return [peer / row["measured"] - 1 for row in found if (peer := peer_bytes(row)) is not None]
