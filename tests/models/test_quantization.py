"""Fewer bits: what is quantised, how near it stays, and that what was saved is what is loaded."""

from functools import partial

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nbhelpers.core import process
from nbhelpers.core.errors import DataError, ModelError
from nbhelpers.models import loading, quantization, saving

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def shaped(hidden: int, inner: int):
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=16, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=1, num_attention_heads=1
        )
    )


@pytest.mark.parametrize(("hidden", "inner", "expected"), [(576, 1536, 64), (256, 512, 128), (96, 1536, 32)])
def test_a_group_divides_every_row(hidden, inner, expected, capsys):
    assert quantization.group_size(shaped(hidden, inner)) == expected
    assert ("groups of" in capsys.readouterr().out) == (expected < 128)


def test_no_group_size_is_an_error_that_names_the_layers():
    with pytest.raises(ModelError, match=r"16 to 128 divides the rows of gate_proj, k_proj, o_proj, q_proj, up_proj"):
        quantization.group_size(shaped(24, 64))


def test_the_head_is_not_among_the_matrices(model):
    assert len(quantization.matrices(model)) == 28
    assert not any("lm_head" in name for name in quantization.matrices(model))


@pytest.fixture(scope="module")
def saved(smoke, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    saving.save(*smoke, folder)
    return folder


FORMATS = {"int8": (quantization.int8, 0.01), "nf4": (partial(loading.four_bit, "float32"), 0.2)}


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_saved_quantised_is_loaded_as_it_was_and_smaller(name, smoke, saved, tmp_path):
    make, share = FORMATS[name]
    model, tokenizer = loading.load(str(saved), "float32", quantization_config=make())
    saving.save(model, tokenizer, tmp_path)
    again, _ = loading.load(str(tmp_path), "float32")
    exact, logits = saving.logits(smoke[0], IDS), saving.logits(model, IDS)
    assert saving.largest_difference(logits, saving.logits(again, IDS)) == 0
    assert 0 < (logits - exact).square().mean() < share * exact.square().mean()
    assert saving.folder_bytes(tmp_path) < 0.5 * saving.folder_bytes(saved)
    head = model.get_output_embeddings().weight
    assert head.data_ptr() == model.get_input_embeddings().weight.data_ptr()  # still tied
    assert head.dtype == torch.float32


def test_gptq_in_a_process_of_its_own(smoke, saved, tmp_path):
    rows = [list(range(5 * i, 5 * i + 60)) for i in range(8)]
    job = partial(quantization.gptq, str(saved), tmp_path / "gptq", rows, "float32", 64)
    assert process.call(job, tmp_path / "gptq.log", threads=1) == {"rows": 8, "tokens": 480}
    model, _ = loading.load(str(tmp_path / "gptq"), "float32")
    exact, logits = (saving.logits(one, IDS) for one in (smoke[0], model))
    assert 0 < (logits - exact).square().mean() < 0.3 * exact.square().mean()
    assert saving.folder_bytes(tmp_path / "gptq") < 0.5 * saving.folder_bytes(saved)


@pytest.mark.parametrize("rows", [[], [[1, 2], []]])
def test_gptq_without_calibration_is_refused(rows, saved, tmp_path):
    with pytest.raises(DataError, match=f"{len(rows)} rows were given"):
        quantization.gptq(str(saved), tmp_path / "x", rows, "float32", 64)
    assert not (tmp_path / "x").exists()


def test_a_thin_calibration_is_said():
    assert "fewer than 128 rows" in quantization.describe_calibration([[1, 2]] * 16)
    assert quantization.describe_calibration([[1, 2]] * 128) == "calibration: 128 rows, 256 tokens"
