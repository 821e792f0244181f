"""A base model made to speak a template: rendered, stopped and answered alike as adapter, merged and loaded again."""

from types import SimpleNamespace

import datasets
import pytest
import torch
from peft import LoraConfig
from small_run import run
from transformers import AutoTokenizer, GenerationConfig

from nbhelpers.core.errors import AuditError, ModelError
from nbhelpers.evaluation import generation
from nbhelpers.models import audits, base_models, encoding, loading, saving, templates
from nbhelpers.training import sft

TURNS = [{"role": "user", "content": "read the file"}, {"role": "assistant", "content": "a list"}]


@pytest.fixture
def base(tmp_path) -> str:
    """The small model without its template, ending texts with `<|endoftext|>`, as a base model does."""
    model, tokenizer = loading.load("smoke", "float32")
    tokenizer.chat_template, tokenizer.eos_token = None, "<|endoftext|>"
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    table = model.get_input_embeddings().weight.data
    table[table.norm(dim=1) == 0] = 2 * table.std()  # the row of padding, which is the end token of chatml, begins as 0
    saving.save(model, tokenizer, tmp_path / "base")
    return str(tmp_path / "base")


def asked(folder, model_id: str, chat_template: str | None, add: bool = False):
    """A run of this model and template, with the little of `Run` that is needed."""
    its_run = run(folder, model_id=model_id, chat_template=chat_template, add_template_tokens=add, max_steps=30)
    its_run.artifact = lambda role: folder / role
    its_run.having = lambda **values: SimpleNamespace(
        **vars(its_run) | {"parameters": SimpleNamespace(**vars(its_run.parameters) | values)}
    )
    return its_run


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("wanted", ["chatml", "llama-3", "gemma", "zephyr", "plain"])
def test_every_known_template_is_spoken_or_its_missing_tokens_are_named(wanted, add, base, tmp_path, capsys):
    its_run = asked(tmp_path, base, wanted, add)
    if wanted in ("llama-3", "gemma") and not add:
        with pytest.raises(ModelError, match=r"has not the tokens .*add_template_tokens=True.*zephyr or plain"):
            base_models.prepare(its_run)
        return
    prepared = base_models.prepare(its_run).parameters.model_id
    end = {"chatml": "<|im_end|>", "llama-3": "<|eot_id|>", "gemma": "<end_of_turn>"}.get(wanted, "<|endoftext|>")
    assert f"chat template {wanted}; answers end with {end}" in capsys.readouterr().out
    model, tokenizer = loading.load(prepared, "float32")
    if wanted == "llama-3":  # two line breaks before the answer are other tokens once it follows, for this tokenizer
        with pytest.raises(AuditError, match="make other tokens together"):
            encoding.encode(TURNS, tokenizer)
        return
    row = encoding.encode(TURNS, tokenizer)
    audits.audit(datasets.Dataset.from_list([row]), tokenizer, model)
    assert encoding.stop_token_ids(tokenizer, model) == {tokenizer.eos_token_id}
    assert GenerationConfig.from_pretrained(prepared).eos_token_id in (tokenizer.eos_token_id, [tokenizer.eos_token_id])
    assert AutoTokenizer.from_pretrained(prepared).chat_template == tokenizer.chat_template


def end_probability(model, ids) -> float:
    """How likely a model finds the token that ends the answer, which a line break follows."""
    place = ids.shape[1] - 2
    return saving.logits(model.eval(), ids)[0, place - 1].softmax(0)[ids[0, place]].item()


@pytest.mark.parametrize(("wanted", "add"), [("chatml", False), ("gemma", True)])
def test_adapter_merged_and_reloaded_model_render_stop_and_answer_alike(wanted, add, base, tmp_path):
    its_run = base_models.prepare(asked(tmp_path, base, wanted, add))
    prepared = its_run.parameters.model_id
    model, tokenizer = loading.load(prepared, "float32")
    untuned = end_probability(model, torch.tensor([encoding.encode(TURNS, tokenizer)["input_ids"]]))
    before = model.get_input_embeddings().weight.detach().clone()
    rows = datasets.Dataset.from_list([encoding.encode(TURNS, tokenizer)] * 8)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = sft.sft_trainer(its_run, model, tokenizer, rows, lora, learning_rate=5e-3)
    sft.train(trainer)
    saving.save_adapter(trainer.model, tokenizer, tmp_path / "adapter")
    attached, with_adapter = loading.attach(prepared, tmp_path / "adapter", "float32")
    ids = torch.tensor([rows[0]["input_ids"]])
    answers = {"adapter": generation.generate(attached, with_adapter, [TURNS[:1]], max_new_tokens=12)}
    logits = saving.logits(attached, ids)
    merged = attached.merge_and_unload()
    saving.save(merged, with_adapter, tmp_path / "merged")
    again, its_tokenizer = loading.load(str(tmp_path / "merged"), "float32")
    answers["reloaded"] = generation.generate(again, its_tokenizer, [TURNS[:1]], max_new_tokens=12)
    assert answers["adapter"] == answers["reloaded"]
    assert end_probability(again, ids) > 3 * untuned, "the end of an answer is not learned"
    assert saving.largest_difference(saving.logits(again, ids), logits) < 1e-4
    rendered = {
        templates.render(TURNS, t)
        for t in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "adapter"), its_tokenizer)
    }
    assert len(rendered) == 1
    moved = (merged.get_input_embeddings().weight - before).abs().amax(1).nonzero().flatten().tolist()
    assert moved == base_models.added_tokens(model)
    assert bool(moved) == add


def test_another_model_or_a_file_gives_its_template_and_its_end(base, tmp_path):
    prepared = base_models.prepare(asked(tmp_path, base, "smoke")).parameters.model_id
    theirs, ours = (loading.load_tokenizer(name) for name in ("smoke", prepared))
    assert (ours.chat_template, ours.eos_token) == (theirs.chat_template, "<|im_end|>")
    file = tmp_path / "own.jinja"
    file.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
                    "{% if add_generation_prompt %}assistant: {% endif %}")  # fmt: skip
    prepared = base_models.prepare(asked(tmp_path, base, str(file))).parameters.model_id
    assert loading.load_tokenizer(prepared).eos_token == "<|endoftext|>"
    file.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    with pytest.raises(
        ModelError, match=r"nothing is a special token of this tokenizer.*Write \{\{ eos_token \}\} there"
    ):
        base_models.prepare(asked(tmp_path, base, str(file)))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("chat-ml", r"none of chatml, llama-3, gemma"),
        ("gone.jinja", "there is no such file"),
        ("base", "no chat template"),
    ],
)
def test_a_template_that_cannot_be_found_is_refused_with_those_there_are(wanted, message, base, tmp_path):
    with pytest.raises(ModelError, match=message):
        base_models.prepare(asked(tmp_path, base, base if wanted == "base" else wanted))


def test_without_the_parameter_nothing_is_changed(tmp_path):
    its_run = asked(tmp_path, "smoke", None)
    assert base_models.prepare(its_run) is its_run


def test_a_template_that_writes_the_date_writes_one_day_so_that_a_training_can_go_on_tomorrow(base, tmp_path, capsys):
    dated = (
        "{% if strftime_now is defined %}{% set day = strftime_now('%d %b %Y') %}"
        "{% else %}{% set day = 'never' %}{% endif %}"
        "Today: {{ day }}\n{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template, tokenizer.eos_token = dated, "<|im_end|>"
    tokenizer.save_pretrained(base)
    fixed = loading.load_tokenizer(base)
    assert "here it always writes 26 July 2024" in capsys.readouterr().out
    assert templates.render(TURNS, fixed).startswith("Today: 26 Jul 2024\n")
    assert "never" not in templates.render(TURNS, fixed)
    fixed.save_pretrained(tmp_path / "saved")
    assert templates.render(TURNS, AutoTokenizer.from_pretrained(tmp_path / "saved")).startswith("Today: 26 Jul 2024")
