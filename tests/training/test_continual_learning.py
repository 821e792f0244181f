import copy
import json
import re
from types import SimpleNamespace

import datasets
import pytest
import torch
from closeness import assert_same
from test_sft import rows, run  # noqa: F401 (a fixture)

from nbhelpers.core.errors import ParameterError
from nbhelpers.core.storage import repository_root
from nbhelpers.evaluation import forgetting, generation
from nbhelpers.evaluation.generation import Answer
from nbhelpers.models import audits, encoding
from nbhelpers.training import continual_learning, sft


def requests():
    return json.loads((repository_root() / "data" / "replay.json").read_text(encoding="utf-8"))["requests"]


def words(text):
    return set(re.findall(r"[a-z]+|[0-9]+", text.lower()))


def asks_for(request, group):
    """Whether a request asks for what a group of probes asks: of one of its pairs, or for any sum."""
    if group["kind"] == "arithmetic":
        return bool(re.search(r"\d+ *([-+*/x×]|plus|minus|times) *\d+", request.lower()))
    about = words(group["question"]) - {"what", "is", "the", "of", "a", "which", "comes"}
    return any(words(request) & about and words(x) <= words(request) for pair in group["pairs"] for x in pair)


def test_what_is_rehearsed_is_not_what_is_probed():
    assert len(set(requests())) == 72
    probed = {probe.question.lower() for probe in forgetting.probes()}
    assert not {request.lower() for request in requests()} & probed
    groups = json.loads((repository_root() / "data" / "probes.json").read_text(encoding="utf-8"))["choices"]
    for forbidden in ("Tell me the capital of Italy.", "Name the opposite of hot.", "How much is 3 plus 4?"):
        assert any(asks_for(forbidden, group) for group in groups)
    assert not [request for request in requests() if any(asks_for(request, group) for group in groups)]


@pytest.fixture(scope="module")
def rehearsed(smoke):
    """What the smoke model answers to the first requests, where an answer ends: few do."""
    return continual_learning.rehearsal(*smoke, seed=1, count=24)


def test_rehearsed_rows_are_the_model_s_own_ended_answers(smoke, rehearsed):
    assert 0 < len(rehearsed) < 24
    audits.audit(rehearsed, smoke[1])
    again = continual_learning.rehearsal(*smoke, seed=1, count=24)
    assert rehearsed["input_ids"] == again["input_ids"]
    texts = [smoke[1].decode(ids) for ids in rehearsed["input_ids"]]
    assert all(any(request in text for request in requests()) for text in texts)


def test_a_hint_is_asked_and_not_kept(monkeypatch):
    seen = {}

    def generate(model, tokenizer, prompts, *_, **options):
        seen.update(prompts=prompts, **options)
        return [Answer("Yes.", 2, True), Answer("No", 1, False), Answer("Well.", 2, True)]

    monkeypatch.setattr(generation, "generate", generate)
    found = continual_learning.own_answers(None, None, count=3, hint="Be brief.", temperature=0.3)
    assert [prompt[0]["content"] for prompt in seen["prompts"]] == [f"{r} Be brief." for r in requests()[:3]]
    assert seen["temperature"] == 0.3
    assert [[turn["content"] for turn in row["messages"]] for row in found] == [
        [requests()[0], "Yes."], [requests()[2], "Well."],
    ]  # fmt: skip


def test_a_model_that_never_ends_has_nothing_to_rehearse(smoke):
    with pytest.raises(ParameterError, match="None of 2 answers ended within max_new_tokens=1"):
        continual_learning.rehearsal(*smoke, max_new_tokens=1, count=2)


def reader(read, seed: int):
    return SimpleNamespace(train_dataset=read, args=SimpleNamespace(seed=seed))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.5])
def test_replayed_rows_take_the_place_of_their_share_and_the_others_stay_where_they_were(share):
    new = datasets.Dataset.from_list([{"input_ids": [i], "labels": [i]} for i in range(90)])
    old = datasets.Dataset.from_list([{"input_ids": [1_000 + i], "labels": [i]} for i in range(7)])
    trainer = reader(new, seed=3)
    continual_learning.rehearse(trainer, old, share)
    found = [ids[0] for ids in trainer.train_dataset["input_ids"]]
    kept = [i for i, ids in enumerate(found) if ids < 1_000]
    assert len(found) == 90
    assert len(found) - len(kept) == share * 90
    assert all(found[i] == i for i in kept)
    assert {ids for ids in found if ids >= 1_000} == (set(range(1_000, 1_007)) if share else set())


def test_the_seed_of_the_training_decides_what_is_replaced():
    new = datasets.Dataset.from_list([{"input_ids": [i], "labels": [i]} for i in range(90)])
    drawn = []
    for seed in (0, 0, 1):
        trainer = reader(new, seed)
        continual_learning.rehearse(trainer, new, 0.2)
        drawn.append(trainer.train_dataset["input_ids"][:])
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_trainer_reads_what_is_replayed(tmp_path, rows, smoke, rehearsed):  # noqa: F811
    trainer = sft.sft_trainer(run(tmp_path), *(copy.deepcopy(part) for part in smoke), rows)
    before = [batch["input_ids"] for batch in trainer.get_train_dataloader()]
    continual_learning.rehearse(trainer, rehearsed, 0.25)
    after = [batch["input_ids"] for batch in trainer.get_train_dataloader()]
    assert len(after) == len(before)
    read = {tuple(ids[ids != smoke[1].pad_token_id].tolist()) for batch in after for ids in batch}
    said = {tuple(i for i in ids if i != smoke[1].pad_token_id) for ids in rehearsed["input_ids"]}
    assert read & said


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_cannot_be_is_refused(share):
    new = datasets.Dataset.from_list([{"input_ids": [1], "labels": [1]}])
    with pytest.raises(ParameterError, match="give 0 <= share < 1 and rows to replay"):
        continual_learning.rehearse(reader(new, 0), new, share)


def log_likelihood(model, row):
    """Of the labelled tokens of one row, by the plain model."""
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])[1:]
    logits = model(input_ids=ids).logits[0, :-1].float()
    learned = labels != encoding.IGNORE
    return torch.log_softmax(logits, -1)[learned].gather(1, labels[learned, None]).sum(), int(learned.sum())


def test_fisher_is_the_mean_squared_gradient_of_a_token_s_log_probability(model, rows):  # noqa: F811
    few = rows.select(range(3))
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)  # as an optimizer's step leaves it
    found = continual_learning.fisher(model, few)
    weights = dict(model.named_parameters())
    assert found.keys() == weights.keys()
    expected, tokens = {name: torch.zeros_like(w) for name, w in weights.items()}, 0
    for row in few:
        value, count = log_likelihood(model, row)
        for (name, _), gradient in zip(weights.items(), torch.autograd.grad(value, weights.values()), strict=True):
            expected[name] += gradient**2
        tokens += count
    for name, total in expected.items():
        assert_same(found[name], total / tokens, name, share=1e-3)
    assert all(weight.grad is None for weight in weights.values())


def test_the_gradient_that_is_added_is_that_of_the_penalty(model):
    generator = torch.Generator().manual_seed(0)
    weights = dict(model.named_parameters())
    importance = {name: torch.rand(w.shape, generator=generator) for name, w in weights.items()}
    start = {name: w.detach().clone() for name, w in weights.items()}
    elastic = continual_learning.ElasticWeights(model, importance, strength=3.0)
    assert elastic.penalty() == 0
    for w in weights.values():
        w.data += 0.01 * torch.randn(w.shape, generator=generator)
        w.grad = torch.zeros_like(w)
    elastic.on_pre_optimizer_step(None, None, None)
    penalty = 3.0 / 2 * sum((importance[name] * (w - start[name]) ** 2).sum() for name, w in weights.items())
    assert elastic.penalty() == pytest.approx(penalty.item(), rel=1e-4)
    for w, expected in zip(weights.values(), torch.autograd.grad(penalty, weights.values()), strict=True):
        assert_same(w.grad, expected)


def test_a_strong_hold_keeps_important_weights_where_they_were(smoke, tokenizer, rows, tmp_path):  # noqa: F811
    moved = {}
    for strength in (0.0, 1e6):
        model = copy.deepcopy(smoke[0])
        start = {name: w.detach().clone() for name, w in model.named_parameters()}
        trainer = sft.sft_trainer(run(tmp_path, max_steps=6), model, tokenizer, rows)
        continual_learning.hold_on(trainer, rows.select(range(8)), strength)
        importance = continual_learning.fisher(model, rows.select(range(8)))
        sft.train(trainer)
        moved[strength] = sum((importance[n] * (w - start[n]) ** 2).sum().item() for n, w in model.named_parameters())
    assert moved[1e6] < 0.2 * moved[0.0]


def test_weights_without_a_gradient_are_left_alone():
    weight = torch.nn.Parameter(torch.ones(2))
    elastic = continual_learning.ElasticWeights(torch.nn.ParameterDict({"w": weight}), {"w": torch.ones(2)}, 1.0)
    elastic.on_pre_optimizer_step(None, SimpleNamespace(), None)
    assert weight.grad is None
