"""Train the embedded model three steps in this process: `measured_memory.py METHOD LENGTH BATCH` prints both peaks."""

import json
import sys
import tempfile
from pathlib import Path

import datasets
import torch
from peft import LoraConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

from small_run import run

from nbhelpers.core import memory_usage
from nbhelpers.models import loading
from nbhelpers.training import forecast, sft

MODEL = "smollm2-135m"


def rows(tokenizer, length: int, count: int) -> datasets.Dataset:
    """Rows of random tokens, the last quarter of each labelled."""
    generator = torch.Generator().manual_seed(0)
    out = []
    for _ in range(count):
        ids = [*torch.randint(100, 40_000, (length - 1,), generator=generator).tolist(), tokenizer.eos_token_id]
        out.append({"input_ids": ids, "labels": [-100] * (length - length // 4) + ids[-(length // 4) :]})
    return datasets.Dataset.from_list(out)


def main(method: str, length: int, batch: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        job = run(Path(folder), model_id=MODEL, per_device_train_batch_size=batch, lora_rank=16)
        tokenizer = loading.load_tokenizer(MODEL)
        train_rows = rows(tokenizer, length, 4 * batch)
        expected = forecast.expected(job, method, train_rows)
        with memory_usage.peak("cpu") as peak:
            four_bit = loading.four_bit("float32") if method == "qlora" else None
            model, _ = loading.load(MODEL, "float32", "cpu", four_bit)
            lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
            trainer = sft.sft_trainer(job, model, tokenizer, train_rows, None if method == "full" else lora, name="x")
            sft.train(trainer)
    print(json.dumps({"predicted": expected.peak_memory_bytes, "measured": peak.bytes}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
