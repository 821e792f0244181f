"""Peak memory and speed of training on this machine, measured beside the prediction: `python benchmarks/gpu_memory.py`.

Each row trains a few steps of a model that is built from its config with random weights (nothing is downloaded) in the
plain way of transformers and peft, in a process of its own. It stops after `--minutes` and writes what it has: a CSV
with the hardware in each row. Measured rows go to data/measured_memory.csv.

Full, LoRA and, where bitsandbytes is, QLoRA; with and without gradient checkpointing; eager, SDPA and FlashAttention
where it is installed; torch's fused loss; two lengths and batches. What is measured is what the loaded model holds and
the peak beyond it.
torch, transformers and peft suffice. On a CPU a tiny config runs (`--models tiny`), and peaks are those of the process:
they hold what the C library keeps, and lie above the prediction.
"""

import argparse
import csv
import importlib.util
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nbhelpers.models import memory  # noqa: E402
from nbhelpers.models.shape import Shape  # noqa: E402

MODELS = ("Llama-3.2-1B", "Qwen2.5-1.5B", "Mistral-7B", "Llama-3.1-8B")
TINY = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512, "tie_word_embeddings": True,
}  # fmt: skip
STEPS = 4  # the first is not timed
FUSED_TOKENS = 256  # whose logits are there at a time under the fused loss


def config_of(name: str) -> dict:
    return TINY if name == "tiny" else json.loads((ROOT / "data" / "model_shapes.json").read_text())[name]


def settings(models: tuple[str, ...], gpu: bool) -> list[dict]:
    """What is measured, the most telling first: each model with each method, then what changes memory."""
    methods = ["lora", "full"] + (["qlora"] if gpu and importlib.util.find_spec("bitsandbytes") else [])
    flash = ["flash_attention_2"] if importlib.util.find_spec("flash_attn") else []
    short, long = ((512, 2), (2048, 2)) if gpu else ((32, 2), (128, 2))
    longer = (long[0], 2 * long[1])
    changes = [("sdpa", True, short, False), ("sdpa", True, long, False)]
    if hasattr(torch.nn.functional, "linear_cross_entropy"):  # since torch 2.13
        changes.append(("sdpa", True, long, True))
    changes += [("sdpa", False, short, False), ("eager", False, short, False)]
    changes += [(kernel, True, long, False) for kernel in flash]
    changes += [("sdpa", True, longer, False), ("eager", True, long, False), ("sdpa", False, long, False)]
    keys = ("model", "method", "checkpointing", "attention", "length", "batch", "fused_loss")
    return [
        dict(zip(keys, (model, method, lean, kernel, length, batch, loss), strict=True))
        for kernel, lean, (length, batch), loss in changes
        for model, method in itertools.product(models, methods)
    ]


def predicted(row: dict, device: str) -> int:
    """`memory.predict` of one row, in bytes."""
    shape, tokens = Shape.from_config(config_of(row["model"])), row["length"] * row["batch"]
    attention = "flash" if row["attention"].startswith("flash") else row["attention"]
    dtype = "bfloat16" if device == "cuda" else "float32"
    parts = memory.predict(
        shape, row["method"], dtype, memory.Plan(tokens, tokens, tokens, tokens), 16, row["checkpointing"], device,
        attention=attention, max_length=row["length"], fused_loss_tokens=FUSED_TOKENS if row["fused_loss"] else None,
    )  # fmt: skip
    return sum(parts.values())


def measure(row: dict) -> dict:
    """Train a few steps of one row in this process: peak bytes over what was held before, and tokens a second."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from nbhelpers.core import memory_usage

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    stated = {key: value for key, value in config_of(row["model"]).items() if key not in ("hub", "license")}
    config = AutoConfig.for_model(stated.pop("model_type"), **stated)
    torch.manual_seed(0)
    before = memory_usage.held(device)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=row["attention"])
    if row["method"] == "qlora":
        quantise(model)
    if row["checkpointing"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if row["method"] != "full":
        model.requires_grad_(False)
        model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
        model.enable_input_require_grads()
    loaded = memory_usage.held(device) - before
    ids = torch.randint(3, config.vocab_size, (row["batch"], row["length"]), device=device)
    seconds = []
    with memory_usage.peak(device) as peak:
        optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-5)
        for _ in range(STEPS):
            start = time.perf_counter()
            model.train()
            loss = fused_loss(model, ids) if row["fused_loss"] else model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    rate = ids.numel() / min(seconds[1:])
    result = row | {
        "measured": loaded + peak.bytes,
        "predicted": predicted(row, device),
        "tokens_per_second": round(rate),
    }
    return result | {"device": name, "torch": torch.__version__}


def fused_loss(model, ids):
    """The loss that `model(input_ids=ids, labels=ids)` gives, with the logits of FUSED_TOKENS tokens at a time."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = causal.base_model(input_ids=ids, use_cache=False).last_hidden_state
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=FUSED_TOKENS, chunking_method=None)
    rows, targets = hidden[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    head = causal.get_output_embeddings().weight
    return torch.nn.functional.linear_cross_entropy(rows, head, targets, options=options)


def quantise(model) -> None:
    """Put NF4 in the place of every linear layer but the head, one after the other: the old weights are let go of."""
    import bitsandbytes

    for name in [name for name, x in model.named_modules() if isinstance(x, torch.nn.Linear) and "lm_head" not in name]:
        above, _, last = name.rpartition(".")
        old = model.get_submodule(name)
        new = bitsandbytes.nn.Linear4bit(
            old.in_features, old.out_features, old.bias is not None, torch.bfloat16, quant_type="nf4", device="meta"
        )
        new.weight = bitsandbytes.nn.Params4bit(
            old.weight.data.cpu(), requires_grad=False, quant_type="nf4", compress_statistics=True
        ).to(old.weight.device)
        new.bias = old.bias
        setattr(model.get_submodule(above), last, new)
    model.is_loaded_in_4bit = True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--rows", type=int, default=None, help="at most; all within --minutes where it is left out")
    parser.add_argument("--out", type=Path, default=Path("gpu_memory.csv"))
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a row as JSON, in a process of its own
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(json.loads(asked.one))))
        return
    begun, done = time.monotonic(), []
    for row in settings(tuple(asked.models), torch.cuda.is_available())[: asked.rows]:
        left = 60 * asked.minutes - (time.monotonic() - begun)
        if left < 5:
            print("stopped: the time is up")
            break
        command = [sys.executable, __file__, "--one", json.dumps(row)]
        try:
            child = subprocess.run(command, capture_output=True, text=True, timeout=left)
        except subprocess.TimeoutExpired:
            print("stopped: the time is up")
            break
        if child.returncode:
            why = child.stderr.strip().splitlines()[-1:] or ["no word"]
            print({**row, "failed": why[0][:120]})
            continue
        done.append(json.loads(child.stdout.splitlines()[-1]))
        error = done[-1]["predicted"] / done[-1]["measured"] - 1
        print(*row.values(), f"{done[-1]['measured'] / 2**30:.2f} GiB, predicted {error:+.0%}", flush=True)
    if not done:
        sys.exit("nothing was measured")
    with open(asked.out, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, done[0])
        writer.writeheader()
        writer.writerows(done)
    print(f"{len(done)} rows: {asked.out}")


if __name__ == "__main__":
    main()
