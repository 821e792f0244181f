"""The benchmark of GPU memory, on this machine with a tiny model."""

import csv
import subprocess
import sys

import pytest
import torch

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


@pytest.mark.skipif(not hasattr(torch.nn.functional, "linear_cross_entropy"), reason="torch has it since 2.13")
def test_the_fused_loss_is_the_plain_one(monkeypatch):
    monkeypatch.syspath_prepend(str(repository_root() / "benchmarks"))
    import gpu_memory
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**gpu_memory.TINY), dtype=torch.float32).train()
    ids = torch.randint(3, 512, (3, 200))
    gradients = []
    for loss in (model(input_ids=ids, labels=ids).loss, gpu_memory.fused_loss(model, ids)):
        loss.backward()
        gradients.append((loss.item(), model.get_output_embeddings().weight.grad.clone()))
        model.zero_grad()
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    assert torch.allclose(gradients[0][1], gradients[1][1], atol=1e-6)
    plain = {"model": "Llama-3.1-8B", "method": "lora", "checkpointing": True, "attention": "sdpa", "length": 2048}
    plain, fused = (plain | {"batch": 2, "fused_loss": fused} for fused in (False, True))
    assert gpu_memory.predicted(plain, "cuda") - gpu_memory.predicted(fused, "cuda") > 5 * 2**30, "nearly all logits"


def test_four_bits_replace_the_weights_one_by_one(monkeypatch):
    monkeypatch.syspath_prepend(str(repository_root() / "benchmarks"))
    import bitsandbytes
    import gpu_memory
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
