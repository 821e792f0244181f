"""How near two models are, and where their texts part."""

import copy

import pytest
import torch

from nbhelpers.evaluation import fidelity, latency

ROWS = [[5, 6, 7, 8], [9, 10, 11, 12, 13]]


def test_a_model_is_itself(model):
    found = fidelity.compare(model, model, ROWS)
    assert found.agreement == [1.0, 1.0]
    assert max(map(abs, found.kl)) < 1e-6
    assert found.logit_difference == [0.0, 0.0]


def test_the_farther_the_weights_the_farther_the_model(model):
    found = []
    for scale in (0.01, 0.1):
        other = copy.deepcopy(model)
        with torch.no_grad():
            weight = other.model.layers[0].mlp.up_proj.weight
            weight += scale * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        found.append(fidelity.compare(other, model, ROWS))
    assert 0 < sum(found[0].kl) < sum(found[1].kl)
    assert 0 < sum(found[0].logit_difference) < sum(found[1].logit_difference)


def test_the_divergence_is_that_of_two_distributions(model):
    other = copy.deepcopy(model)
    other.lm_head = torch.nn.Linear(128, 2048, bias=False)
    p, q = (one(input_ids=torch.tensor([ROWS[0]])).logits[0].double().softmax(-1) for one in (model, other))
    expected = (p * (p / q).log()).sum(-1).mean().item()
    assert fidelity.compare(other, model, ROWS[:1]).kl[0] == pytest.approx(expected, rel=1e-4)


def test_texts_part_where_the_first_token_differs_and_the_margin_is_the_references(model, tokenizer):
    prompts = [[5, 6, 7], [8, 9, 10]]
    first = fidelity.greedy(model, tokenizer, prompts, 6)
    assert fidelity.partings(model, prompts, first, first) == []
    other = [list(first[0]), list(first[1])]
    other[1][3] = (other[1][3] + 1) % 2048
    (parting,) = fidelity.partings(model, prompts, first, other)
    logits = model(input_ids=torch.tensor([prompts[1] + first[1][:3]])).logits[0, -1]
    assert (parting.prompt, parting.position) == (1, 3)
    assert parting.margin == pytest.approx((logits[first[1][3]] - logits[other[1][3]]).item(), abs=1e-5)
    assert parting.margin > 0


def test_an_answer_that_was_cut_is_a_parting_that_no_rounding_explains(model):
    (parting,) = fidelity.partings(model, [[5]], [[6, 7, 8]], [[6, 7]])
    assert (parting.position, parting.margin) == (2, float("inf"))


def test_speeds_count_what_was_read_and_what_was_written(model):
    prefill, decode = latency.speeds(model, list(range(5, 69)), tokens=4, rounds=1)
    assert prefill > decode > 0


def test_the_longest_answers_come_first_with_their_prompts(model, tokenizer, monkeypatch):
    monkeypatch.setattr(fidelity, "greedy", lambda *_: [[1], [1, 2, 3], [1, 2]])
    assert fidelity.longest_answers(model, tokenizer, [[5], [6], [7]], 8, 2) == {1: [1, 2, 3], 2: [1, 2]}


def test_prompts_with_long_references_come_first_and_long_prompts_not_at_all(tokenizer):
    asked = [("a", "1"), ("b", "1234"), ("c", "123"), ("long " * 50, "12345")]
    rows = [
        {
            "reference": answer,
            "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}],
        }
        for prompt, answer in asked
    ]
    messages, prompts = fidelity.with_long_references(rows, tokenizer, 60, 2)
    assert [one[-1]["content"] for one in messages] == ["b", "c"]
    assert all(len(one) == 1 for one in messages)
    assert len(prompts) == 2
    assert max(map(len, prompts)) < 60
