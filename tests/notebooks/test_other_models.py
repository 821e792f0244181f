"""Whole notebooks under `smoke` with models that are not Llama-like, and with a base model that has no template."""

import json

import pytest
from small_models import ARCHITECTURES, made
from test_execution import NOTEBOOKS, papermill

from nbhelpers.models import loading, saving, templates

BY_NUMBER = {path.stem[:2]: path for path in NOTEBOOKS}


def metrics_of(number: str, folder, *arguments) -> dict:
    done, _ = papermill(BY_NUMBER[number], folder, "-p", "profile", "smoke", *arguments)
    assert done.returncode == 0, done.stderr[-3_000:]
    return json.loads((folder / "outputs" / "test" / BY_NUMBER[number].stem / "metrics.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(("number", "name"), [("02", "gpt2"), ("03", "mixtral"), ("04", "phi3")])
def test_a_model_that_is_not_like_llama_goes_through_a_whole_notebook(number, name, tokenizer, tmp_path):
    assert name in ARCHITECTURES
    made(tmp_path / name, tokenizer, name)
    assert metrics_of(number, tmp_path, "-p", "model_id", str(tmp_path / name))["status"] == "completed"


@pytest.mark.slow
def test_a_base_model_is_tuned_to_a_template_and_all_that_is_saved_speaks_it(tmp_path):
    model, tokenizer = loading.load("smoke", "float32")
    tokenizer.chat_template, tokenizer.eos_token = None, "<|endoftext|>"
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    saving.save(model, tokenizer, tmp_path / "base")
    found = metrics_of("02", tmp_path, "-p", "model_id", str(tmp_path / "base"), "-p", "chat_template", "chatml")
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    merged = loading.load_tokenizer(
        str(tmp_path / "outputs" / "test" / BY_NUMBER["02"].stem / found["artifacts"]["merged_model"])
    )
    assert merged.eos_token == "<|im_end|>"
    assert templates.render(turns, merged).endswith("<|im_start|>assistant\nYes<|im_end|>\n")
