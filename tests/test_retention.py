import copy
import json
from types import SimpleNamespace

import datasets
import pytest
import torch
from test_training import rows, run  # noqa: F401 (a fixture)

from nbhelpers import chat, forgetting, retention, training
from nbhelpers.errors import ParameterError
from nbhelpers.run import repository_root


def requests():
    return json.loads((repository_root() / "data" / "replay.json").read_text(encoding="utf-8"))["requests"]


def test_what_is_rehearsed_is_not_what_is_probed():
    asked = {request.lower() for request in requests()}
    assert len(asked) == 72
    probed = {probe.question.lower() for probe in forgetting.probes()}
    assert not asked & probed
    pairs = [probe for probe in forgetting.probes() if probe.wrong]
    for request in asked:  # nor is a probe's subject asked for in other words
        for probe in pairs:
            words = set(probe.question.lower().strip("?").replace('"', "").split())
            assert len(words & set(request.strip("?.").split())) < max(4, len(words)), (request, probe.question)


def test_rehearsed_rows_are_the_model_s_own_ended_answers(smoke):
    model, tokenizer = smoke
    found = retention.rehearsal(model, tokenizer, seed=1)
    assert 0 < len(found) < 72
    chat.audit(found, tokenizer)
    again = retention.rehearsal(model, tokenizer, seed=1)
    assert found["input_ids"] == again["input_ids"]
    texts = [tokenizer.decode(ids) for ids in found["input_ids"]]
    assert all(any(request in text for request in requests()) for text in texts)


def test_a_model_that_never_ends_has_nothing_to_rehearse(smoke):
    with pytest.raises(ParameterError, match="None of 2 answers ended within max_new_tokens=1"):
        retention.rehearsal(*smoke, max_new_tokens=1, count=2)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.5])
def test_replayed_rows_have_their_share(share):
    new = datasets.Dataset.from_list([{"input_ids": [i], "labels": [i]} for i in range(90)])
    old = datasets.Dataset.from_list([{"input_ids": [1_000 + i], "labels": [i]} for i in range(7)])
    found = retention.mixed(new, old, share, seed=0)
    replayed = [ids[0] - 1_000 for ids in found["input_ids"] if ids[0] >= 1_000]
    assert len(replayed) == pytest.approx(share * len(found), abs=0.51)
    assert sorted(ids[0] for ids in found["input_ids"] if ids[0] < 1_000) == list(range(90)), "no new row is lost"
    assert set(replayed) == (set(range(7)) if share else set())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.5])
def test_replayed_tokens_have_their_share(share):
    new = datasets.Dataset.from_list([{"input_ids": [i] * 9, "labels": [-100] * 6 + [i] * 3} for i in range(90)])
    old = datasets.Dataset.from_list([{"input_ids": [1_000] * n, "labels": [-100] + [7] * (n - 1)} for n in (8, 20, 5)])
    found = retention.mixed(new, old, share, seed=0, of="tokens")
    labelled = {True: 0, False: 0}
    for row in found:
        labelled[row["input_ids"][0] == 1_000] += sum(label != -100 for label in row["labels"])
    assert labelled[False] == 270, "no new row is lost"
    assert labelled[True] == pytest.approx(270 * share / (1 - share), abs=19 / 2), "to the nearest row"


def test_a_share_of_something_else_is_refused():
    new = datasets.Dataset.from_list([{"input_ids": [1], "labels": [1]}])
    with pytest.raises(ParameterError, match="of='words' is neither"):
        retention.mixed(new, new, 0.1, 0, of="words")


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_cannot_be_is_refused(share):
    new = datasets.Dataset.from_list([{"input_ids": [1], "labels": [1]}])
    with pytest.raises(ParameterError, match="0 <= share < 1"):
        retention.mixed(new, new, share, seed=0)


def log_likelihood(model, row):
    """Of the labelled tokens of one row, by the plain model."""
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
    logits = model(input_ids=ids).logits[0, :-1].float()
    learned = labels != chat.IGNORE
    return torch.log_softmax(logits, -1)[learned].gather(1, labels[learned, None]).sum(), int(learned.sum())


def test_fisher_is_the_mean_squared_gradient_of_a_token_s_log_probability(model, rows):  # noqa: F811
    few = rows.select(range(3))
    found = retention.fisher(model, few)
    weights = dict(model.named_parameters())
    assert found.keys() == weights.keys()
    expected, tokens = {name: torch.zeros_like(w) for name, w in weights.items()}, 0
    for row in few:
        value, count = log_likelihood(model, row)
        for (name, _), gradient in zip(weights.items(), torch.autograd.grad(value, weights.values()), strict=True):
            expected[name] += gradient**2
        tokens += count
    for name, total in expected.items():
        torch.testing.assert_close(found[name], total / tokens, rtol=1e-3, atol=1e-9, msg=name)
    assert all(weight.grad is None for weight in weights.values())


def test_the_gradient_that_is_added_is_that_of_the_penalty(model):
    generator = torch.Generator().manual_seed(0)
    weights = dict(model.named_parameters())
    importance = {name: torch.rand(w.shape, generator=generator) for name, w in weights.items()}
    start = {name: w.detach().clone() for name, w in weights.items()}
    elastic = retention.ElasticWeights(model, importance, strength=3.0)
    assert elastic.penalty() == 0
    for w in weights.values():
        w.data += 0.01 * torch.randn(w.shape, generator=generator)
        w.grad = torch.zeros_like(w)
    elastic.on_pre_optimizer_step(None, None, None)
    penalty = 3.0 / 2 * sum((importance[name] * (w - start[name]) ** 2).sum() for name, w in weights.items())
    assert elastic.penalty() == pytest.approx(penalty.item(), rel=1e-4)
    for w, expected in zip(weights.values(), torch.autograd.grad(penalty, weights.values()), strict=True):
        torch.testing.assert_close(w.grad, expected, rtol=1e-4, atol=1e-8)


def test_a_strong_hold_keeps_important_weights_where_they_were(smoke, tokenizer, rows, tmp_path):  # noqa: F811
    moved = {}
    for strength in (0.0, 1e6):
        model = copy.deepcopy(smoke[0])
        start = {name: w.detach().clone() for name, w in model.named_parameters()}
        trainer = training.sft_trainer(run(tmp_path, max_steps=6), model, tokenizer, rows)
        retention.hold_on(trainer, rows.select(range(8)), strength)
        importance = retention.fisher(model, rows.select(range(8)))
        training.train(trainer)
        moved[strength] = sum((importance[n] * (w - start[n]) ** 2).sum().item() for n, w in model.named_parameters())
    assert moved[1e6] < 0.2 * moved[0.0]


def test_weights_without_a_gradient_are_left_alone():
    weight = torch.nn.Parameter(torch.ones(2))
    elastic = retention.ElasticWeights(torch.nn.ParameterDict({"w": weight}), {"w": torch.ones(2)}, 1.0)
    elastic.on_pre_optimizer_step(None, SimpleNamespace(), None)
    assert weight.grad is None
