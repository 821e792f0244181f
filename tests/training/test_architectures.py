"""Tiny random models of every architecture that people bring: loaded, trained, scored, merged and loaded again.

The fine-tuning path must not know the names of Llama's layers. Each model has the small tokenizer and a few thousand
weights; what it answers means nothing.
"""

import datasets
import pytest
import torch
import transformers
from peft import LoraConfig
from small_models import ARCHITECTURES, made
from small_run import run

from nbhelpers.core import memory_usage
from nbhelpers.core.errors import ModelError
from nbhelpers.evaluation import generation, likelihood
from nbhelpers.models import encoding, loading, saving
from nbhelpers.models.shape import Shape
from nbhelpers.training import forecast, sft

LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.fixture(scope="module")
def rows(smoke):
    turns = [("read the file", "it reads"), ("write a list of values", "it writes every value"), ("open", "no path")]
    conversations = [
        [{"role": "user", "content": f"{asked} {i}"}, {"role": "assistant", "content": f"{said} {i}."}]
        for i in range(4)
        for asked, said in turns
    ]
    return datasets.Dataset.from_list([encoding.encode(messages, smoke[1]) for messages in conversations])


METHODS = [pytest.param(LORA, id="LoRA"), pytest.param(None, id="full", marks=pytest.mark.slow)]


@pytest.mark.parametrize("adapter", METHODS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_is_trained_scored_merged_and_loaded_again(name, adapter, tokenizer, rows, tmp_path):
    weights = made(tmp_path / "model", tokenizer, name)
    its_run = run(tmp_path, model_id=str(tmp_path / "model"), max_steps=2)
    shape = Shape.of(tmp_path / "model")
    assert shape.parameters == pytest.approx(weights, rel=ARCHITECTURES[name][2], abs=0)
    expected = forecast.forecast(its_run, name, "lora" if adapter else "full", rows)
    assert expected.seconds > 0
    model, _ = loading.load(str(tmp_path / "model"), "float32")
    assert len(generation.generate(model, tokenizer, [row(i) for i in range(3)], max_new_tokens=4)) == 3
    untuned = likelihood.held_out_loss(model, tokenizer, rows)
    trainer = sft.sft_trainer(its_run, model, tokenizer, rows, adapter, learning_rate=1e-2)
    with memory_usage.peak() as peak:
        done = sft.train(trainer)
    tuned = likelihood.held_out_loss(trainer.model, tokenizer, rows)
    assert sum(tuned) < sum(untuned)
    print(  # the table, with `pytest -s`: of models this small the libraries' own memory and time are the greater part
        f"\n{name:12} {'LoRA' if adapter else 'full'}  weights {shape.parameters:,.0f} predicted, {weights:,} there;"
        f"  {expected.peak_memory_bytes / 2**20:.1f} MiB predicted, {peak.bytes / 2**20:.1f} measured;"
        f"  {expected.seconds:.2f} s predicted, {done.seconds:.2f} measured"
    )
    ids = torch.tensor([rows[0]["input_ids"]])
    logits = saving.logits(trainer.model.eval(), ids)
    if adapter:
        trainer.model.save_pretrained(tmp_path / "adapter")
        attached, _ = loading.attach(str(tmp_path / "model"), tmp_path / "adapter", "float32")
        merged = attached.merge_and_unload()
    else:
        merged = trainer.model
    saving.save(merged, tokenizer, tmp_path / "merged")
    again, _ = loading.load(str(tmp_path / "merged"), "float32")
    assert saving.largest_difference(saving.logits(again.eval(), ids), logits) < 1e-4
    answers = [generation.generate(m, tokenizer, [row(0), row(1)], max_new_tokens=4) for m in (merged, again)]
    assert answers[0] == answers[1]


def row(number: int) -> list[dict]:
    return [{"role": "user", "content": "read the file " * (1 + number)}]


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_the_loss_of_a_mixture_of_experts_has_the_term_that_balances_them(name, tokenizer, rows, tmp_path):
    made(tmp_path / "model", tokenizer, name)
    model, _ = loading.load(str(tmp_path / "model"), "float32")
    trainer = sft.sft_trainer(run(tmp_path, model_id=str(tmp_path / "model")), model, tokenizer, rows)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    with torch.no_grad():
        loss = trainer.compute_loss(model, dict(batch)).item()
        theirs = model(**batch).loss.item()
        model.config.output_router_logits = False
        alone = trainer.compute_loss(model, dict(batch)).item()
    assert loss == pytest.approx(theirs, rel=1e-5)
    assert loss > alone + 1e-3
    assert shape_of_experts(tmp_path / "model") == (4, 2)


def shape_of_experts(folder) -> tuple[int, int]:
    shape = Shape.of(folder)
    assert shape.active_parameters < shape.linear_parameters
    return shape.experts, shape.experts_per_token


def test_of_an_unknown_architecture_nothing_is_predicted_and_the_training_goes_on(
    tokenizer, rows, tmp_path, monkeypatch, capsys
):
    def unknown(folder):
        raise ModelError("config.json has no 'hidden_size', so that memory and time are not known.")

    monkeypatch.setattr("nbhelpers.models.memory.Shape.of", unknown)
    made(tmp_path / "model", tokenizer, "qwen2")
    its_run = run(tmp_path, model_id=str(tmp_path / "model"), max_steps=2)
    forecasts = {"LoRA": forecast.forecast(its_run, "LoRA", "lora", rows)}
    assert "not predicted: config.json has no 'hidden_size'" in capsys.readouterr().out
    model, _ = loading.load(str(tmp_path / "model"), "float32")
    with forecast.memory_usage.peak("cpu") as peak:
        trained = sft.train(sft.sft_trainer(its_run, model, tokenizer, rows, LORA))
    table = forecast.measured(its_run, forecasts, {"LoRA": trained}, {"LoRA": peak})
    assert table.loc["LoRA", ("time (s)", "off by")] == "not predicted"


def test_a_prompt_beyond_the_learned_positions_is_refused_before_it_fails(tokenizer, tmp_path):
    made(tmp_path / "model", tokenizer, "gpt2")
    model, _ = loading.load(str(tmp_path / "model"), "float32")
    with pytest.raises(ModelError, match="more than the 2,048 positions that this model has learned"):
        generation.generate(model, tokenizer, [row(1_000)], max_new_tokens=8)


@pytest.mark.parametrize("special", [False, True])
def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused_with_a_remedy_that_works(
    special, tokenizer, tmp_path
):
    made(tmp_path / "model", tokenizer, "qwen2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.add_tokens(["<image>"] if special else ["protein", "enzyme"], special_tokens=special)
    tokenizer.save_pretrained(tmp_path / "model")
    if special:  # which no text can become by itself, and no template writes
        loading.load(str(tmp_path / "model"), "float32")
        return
    with pytest.raises(
        ModelError, match=r"2 tokens beyond .* \('enzyme', 'protein'\).*resize_token_embeddings"
    ) as caught:
        loading.load(str(tmp_path / "model"), "float32")
    rows = int(str(caught.value).partition("resize_token_embeddings(")[2].partition(")")[0])
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    model.resize_token_embeddings(rows)
    model.save_pretrained(tmp_path / "model")
    loading.load(str(tmp_path / "model"), "float32")
