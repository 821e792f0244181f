import datasets
import pytest
import torch

from nbhelpers.core.errors import AuditError
from nbhelpers.core.statistics import Metric
from nbhelpers.evaluation import generation, likelihood, scoring
from nbhelpers.models import encoding


def question(text):
    return [{"role": "user", "content": text}]


def row(i, task, text, answer):
    messages = [*question(text), {"role": "assistant", "content": answer}]
    return {"id": str(i), "task": task, "messages": messages, "reference": answer}


@pytest.fixture
def prompts():
    words = [
        "the",
        "parser",
        "reads",
        "a",
        "file",
        "and",
        "returns",
        "every",
        "line",
        "of",
        "it",
        "that",
        "holds",
        "a",
        "name",
    ]
    return [question(" ".join(words[: n % 14 + 1])) for n in (3, 13, 0, 8, 5, 21, 11)]


def test_batched_answers_equal_those_one_by_one(smoke, prompts):
    model, tokenizer = smoke
    one_by_one = [generation.generate(model, tokenizer, [prompt], 12)[0] for prompt in prompts]
    assert generation.generate(model, tokenizer, prompts, 12, batch_size=3) == one_by_one
    assert len({answer.text for answer in one_by_one}) > 1, "equal answers would hide a mixed-up order"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_that_have_stopped_are_computed_no_more(model, tokenizer, prompts, monkeypatch, temperature):
    monkeypatch.setattr(encoding, "stop_token_ids", lambda *_: set(range(0, 2_048, 5)))
    generator = torch.Generator().manual_seed(1)  # a head of its own: the tied one repeats the token before
    model.lm_head.weight = torch.nn.Parameter(torch.randn(2_048, 128, generator=generator))
    computed = []

    def note(module, arguments, options):
        computed.append((len(options["input_ids"]), options["input_ids"].shape[1]))

    model.register_forward_pre_hook(note, with_kwargs=True)
    answers = generation.generate(model, tokenizer, prompts, 20, temperature=temperature)
    lengths = [answer.tokens for answer in answers]
    assert len(set(lengths)) > 3
    _, first, *later = computed  # what all prompts share, their rest, and then token by token
    assert first[0] == len(prompts)
    assert all(new == 1 for _, new in later), "nothing is computed twice"
    for step, (rows, _) in enumerate(later, start=2):
        assert rows < 2 * sum(length >= step for length in lengths) + 1
    if temperature == 0:
        alone = [generation.generate(model, tokenizer, [prompt], 20)[0] for prompt in prompts]
        assert answers == alone


@pytest.mark.parametrize("stop", [True, False])
def test_an_answer_ends_at_the_stop_token(model, tokenizer, prompts, stop):
    always = tokenizer.eos_token_id if stop else 100

    def says(module, inputs, logits):
        return torch.nn.functional.one_hot(torch.full(logits.shape[:-1], always), logits.shape[-1]).float()

    model.get_output_embeddings().register_forward_hook(says)
    answers = generation.generate(model, tokenizer, prompts, 5)
    assert {answer.tokens for answer in answers} == {1 if stop else 5}
    assert {answer.stopped for answer in answers} == {stop}
    assert {answer.text for answer in answers} == {"" if stop else tokenizer.decode([100] * 5)}


def test_generation_leaves_the_model_as_it_was(model, tokenizer, prompts):
    model.train()
    generation.generate(model, tokenizer, prompts[:2], 2)
    assert model.training
    assert not model.get_output_embeddings()._forward_pre_hooks


def test_evaluate_keeps_rows_in_order_and_scores_each(smoke):
    rows = datasets.Dataset.from_list(
        [
            row(i, task, f"question {i}", "x")
            for i, task in enumerate(["summary", "parameters", "summary", "parameters"])
        ]
    )
    result = scoring.evaluate("m", *smoke, rows, max_new_tokens=3)
    assert [r["id"] for r in result.rows] == ["0", "1", "2", "3"]
    assert result.scores[0] == ("summary", "rouge_l")
    assert len(result.values("parameters", "json_validity")) == 2
    alone = scoring.evaluate("m", *smoke, rows.select([2]), max_new_tokens=3)
    assert alone.rows[0]["answer"] == result.rows[2]["answer"]


def test_examples_change_the_prompt_of_their_task_alone(smoke):
    rows = datasets.Dataset.from_list([row(0, "summary", "q", "x"), row(1, "package", "q", "x")])
    example = [*question("an example"), {"role": "assistant", "content": "its answer"}]
    zero = scoring.evaluate("zero", *smoke, rows, max_new_tokens=8)
    shot = scoring.evaluate("shot", *smoke, rows, {"summary": [example] * 3}, max_new_tokens=8)
    assert zero.rows[1]["answer"] == shot.rows[1]["answer"]
    assert zero.rows[0]["answer"] != shot.rows[0]["answer"]


def test_held_out_loss_is_the_model_s_own_loss_row_by_row(smoke):
    model, tokenizer = smoke
    messages = [[*question("a" * n), {"role": "assistant", "content": "b" * n}] for n in (1, 9, 4)]
    encoded = datasets.Dataset.from_list([encoding.encode(m, tokenizer) for m in messages])
    expected = [
        model(input_ids=torch.tensor([r["input_ids"]]), labels=torch.tensor([r["labels"]])).loss.item() for r in encoded
    ]
    assert likelihood.held_out_loss(model, tokenizer, encoded, batch_size=2) == pytest.approx(expected, abs=1e-4)


def test_what_all_rows_begin_with_is_computed_once_for_the_loss(model, tokenizer):
    system = {"role": "system", "content": "always the same words before the question, whatever it is about"}
    messages = [[system, *question("a" * n), {"role": "assistant", "content": "b" * n}] for n in (3, 9, 4, 6)]
    encoded = datasets.Dataset.from_list([encoding.encode(m, tokenizer) for m in messages])
    expected = [
        model(input_ids=torch.tensor([r["input_ids"]]), labels=torch.tensor([r["labels"]])).loss.item() for r in encoded
    ]
    widths = []
    model.register_forward_pre_hook(lambda _, args, kw: widths.append(kw["input_ids"].shape[1]), with_kwargs=True)
    assert likelihood.held_out_loss(model, tokenizer, encoded, batch_size=2) == pytest.approx(expected, abs=1e-4)
    shared, *rest = widths
    assert shared > 10
    assert max(rest) + shared == max(map(len, encoded["input_ids"]))
    labelled_from_the_start = encoded.map(lambda row: {"labels": row["input_ids"]})
    widths.clear()
    likelihood.held_out_loss(model, tokenizer, labelled_from_the_start, batch_size=2)
    assert max(widths) == max(map(len, encoded["input_ids"])), "what is labelled cannot be left to a cache"


def test_solved_examples_are_short_and_of_their_task(smoke):
    rows = [row(i, ("summary", "parameters")[i % 2], "word " * (i + 1), "x") for i in range(24)]
    rows = [r | {"input_ids": list(range(len(r["messages"][0]["content"])))} for r in rows]
    found = scoring.solved_examples(rows, ["parameters", "summary"], 2)
    assert [m[0]["content"].count("word") for m in found["summary"]] == [7, 9]
    assert [m[0]["content"].count("word") for m in found["parameters"]] == [8, 10]


def test_a_model_with_a_sliding_window_answers_in_batches_as_alone(tokenizer, prompts):
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=2_048, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=24, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    model = MistralForCausalLM(config).eval()
    model.lm_head.weight = torch.nn.Parameter(torch.randn(2_048, 64))
    answers = generation.generate(model, tokenizer, prompts, 10)
    assert answers == [generation.generate(model, tokenizer, [prompt], 10)[0] for prompt in prompts]


def test_no_rows_have_no_losses(smoke):
    rows = datasets.Dataset.from_dict({"input_ids": [], "labels": []})
    assert likelihood.held_out_loss(*smoke, rows) == []
    assert generation.generate(*smoke, []) == []


def test_text_rows_label_every_token(smoke):
    rows = likelihood.text_rows(["some prose to read", "x"], smoke[1], max_length=3)
    assert all(r["labels"] == r["input_ids"] and 1 < len(r["input_ids"]) <= 3 for r in rows)


def fake(name, values):
    return scoring.Evaluation(name, [{"task": "t", "scores": {"s": v}} for v in values])


def test_gain_pairs_the_rows():
    base = [float(i % 2) for i in range(200)]
    tuned = [v + 0.1 for v in base]
    gain = scoring.gain(fake("tuned", tuned), fake("base", base), "t", "s")
    assert gain.value == pytest.approx(0.1)
    assert gain.high - gain.low < 1e-9, "the spread between rows cancels in pairs"


def test_compare_sets_the_baseline_beside():
    found = scoring.compare(fake("tuned", [1.0, 0.0]), fake("base", [0.0, 0.0]))
    assert found["t.s"].value == 0.5
    assert found["t.s"].baseline == 0.0


@pytest.mark.parametrize("metric", [Metric(0.4, 0.3, 0.5), Metric(0.6, -0.1, 0.9)])
def test_an_effect_that_misses_stops_a_strict_run_and_warns_in_another(metric, capsys):
    with pytest.raises(AuditError, match="json"):
        scoring.require_effect({"json": metric}, {"json": 0.5}, strict=True)
    scoring.require_effect({"json": metric}, {"json": 0.5}, strict=False)
    assert capsys.readouterr().out.startswith("WARNING: json")


def test_an_effect_that_is_there_says_nothing(capsys):
    scoring.require_effect({"json": Metric(0.9, 0.8, 1.0)}, {"json": 0.5}, strict=True)
    assert not capsys.readouterr().out


def test_the_table_has_a_column_a_model():
    frame = scoring.table([fake("base", [0.0, 0.0]), fake("tuned", [1.0, 1.0])])
    assert list(frame.columns) == ["base", "tuned"]
    assert frame.loc[("t", "s"), "tuned"] == "1.00 [1.00, 1.00]"
