"""The formats of study 06 on the smoke model: made, measured, and what each of them must be."""

import pytest
import torch

from nbhelpers.core.run import Run
from nbhelpers.models import encoding, loading, saving
from nbhelpers.studies import formats
from nbhelpers.studies.formats import Format, Material


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    values = {"profile": "smoke", "run_id": "test", "output_dir": str(tmp_path_factory.mktemp("study")), "seed": 0}
    values |= {"model_id": "smoke", "report_to": "none", "resume": "never", "force": False}
    return Run.start("06_test", values)


@pytest.fixture(scope="module")
def material(run):
    import datasets

    model, tokenizer = loading.load("smoke", "float32")
    saving.save(model, tokenizer, run.artifact("merged_model"))
    rows = [
        {"id": str(i), "task": "summary", "reference": f"Return {i}."}
        | {"messages": [{"role": "user", "content": f"What is {i}?"}, {"role": "assistant", "content": f"Return {i}."}]}
        for i in range(8)
    ]
    encoded = encoding.encode_rows(datasets.Dataset.from_list(rows), tokenizer, 128).dataset
    ids = encoded["input_ids"][:]
    return Material(run.artifact("merged_model"), ids, encoded, encoded, ids[:2], encoded)


GROUP = {"group_size": 32}
FORMATS = {
    "unquantised": Format("unquantised"),
    "LLM int8": Format("bitsandbytes"),
    "NF4": Format("bitsandbytes", {"quant_type": "nf4", "double_quant": True}),
    "int8 weights": Format("torchao", {"kind": "int8"}),
    "unquantised, compiled": Format("unquantised", compiled=True, needs="a C++ compiler"),
    "int8 dynamic": Format("torchao", {"kind": "int8 dynamic"}),
    "int4 weights": Format("torchao", {"kind": "int4"} | GROUP),
    "int4 dynamic": Format("torchao", {"kind": "int4 dynamic"} | GROUP),
    "FP4": Format("bitsandbytes", {"quant_type": "fp4", "double_quant": False}),
    "W4 GPTQ": Format("compressed", {"method": "GPTQ", "bits": 4, "rows": 4} | GROUP),
    "W4 nearest": Format("compressed", {"method": "nearest", "bits": 4} | GROUP),
    "W8A8 static": Format("compressed", {"method": "nearest", "bits": 8, "activations": "static"}),
    "W8A8 dynamic": Format("compressed", {"method": "nearest", "bits": 8, "activations": "dynamic"}),
    "int4 in training": Format("trained", {"aware": True, "kind": "int4", "learning_rate": 1e-3} | GROUP),
    "int4 after training": Format("trained", {"aware": False, "kind": "int4", "learning_rate": 1e-3} | GROUP),
    "GGUF Q8_0": Format("gguf", {"kind": "Q8_0"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_made_and_measured(name, run, material, tmp_path):
    found = formats.measure(run, FORMATS[name], material, tmp_path / "made")
    if "left_out" in found:
        pytest.skip(found["left_out"])
    assert len(found["held_out_loss"]) == len(material.held_out)
    assert len(found["kl"]) == len(material.texts)
    assert set(found["scores"]) == {"summary.rouge_l"}
    assert found["prefill"] > 0
    assert found["decode"] > 0
    if "unquantised" in name:
        assert max(found["logit_difference"]) == 0
    else:
        assert max(found["logit_difference"]) > 0, "nothing was rounded"
    program = {"gguf": "llama.cpp", "compressed": "PyTorch, unpacked"}.get(FORMATS[name].way, "PyTorch")
    assert found["program"] == program
    assert ("saved_bytes" in found) == (FORMATS[name].way in ("unquantised", "bitsandbytes", "compressed", "gguf"))


def test_what_a_machine_lacks_is_a_row_that_says_why(run, material, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    found = formats.measure(run, Format("compressed", needs="an accelerator"), material, tmp_path)
    assert found == {"left_out": "it needs an accelerator, which is not there"}


def test_an_error_of_measuring_is_no_format_that_is_left_out(run, material, tmp_path):
    with pytest.raises(KeyError):
        formats.measure(run, Format("no such way"), material, tmp_path)
