"""The benchmark of GPU memory, on this machine with a tiny model."""

import csv
import subprocess
import sys

import pytest

from nbhelpers.core.storage import repository_root


@pytest.mark.slow
def test_it_measures_beside_the_prediction_and_writes_a_table(tmp_path):
    script = repository_root() / "benchmarks" / "gpu_memory.py"
    command = [sys.executable, str(script), "--models", "tiny", "--rows", "2", "--minutes", "30", "--out", "m.csv"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1_800)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "m.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["lora", "full"]
    assert all(int(row["measured"]) > 0 and int(row["predicted"]) > 0 for row in rows)
    assert rows[0].keys() >= {"model", "attention", "length", "batch", "device", "torch"}
    assert all(float(row["tokens_per_second"]) > 0 for row in rows)
    assert {row["checkpointing"] for row in rows} == {"True"}


def test_the_settings_tell_tokens_kernels_and_checkpointing_apart(monkeypatch):
    monkeypatch.syspath_prepend(str(repository_root() / "benchmarks"))
    import gpu_memory

    found = gpu_memory.settings(("Llama-3.1-8B",), gpu=True)
    assert {row["attention"] for row in found} >= {"sdpa", "eager"}
    assert {row["checkpointing"] for row in found} == {True, False}
    assert len({row["length"] * row["batch"] for row in found}) >= 3
    peaks = [
        gpu_memory.predicted(row, "cuda") for row in found if (row["method"], row["attention"]) == ("lora", "sdpa")
    ]
    assert len(set(peaks)) == len(peaks), "two settings that cannot be told apart"


def test_four_bits_replace_the_weights_one_by_one(monkeypatch):
    monkeypatch.syspath_prepend(str(repository_root() / "benchmarks"))
    import bitsandbytes
    import gpu_memory
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**gpu_memory.TINY)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    before = {name: module.weight.clone() for name, module in model.named_modules() if hasattr(module, "weight")}
    gpu_memory.quantise(model)
    layer = model.model.layers[0].mlp.up_proj
    assert layer.weight.dtype == torch.uint8
    back = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    original = before["model.layers.0.mlp.up_proj"]
    assert (back - original).abs().mean() < 0.2 * original.abs().mean()
    assert model(input_ids=torch.tensor([[3, 4, 5]])).logits.isfinite().all()
