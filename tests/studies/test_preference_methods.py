"""The methods of study 05 on the smoke model: each one trains, is measured, and learns what it can."""

import pytest
import torch

from nbhelpers.core.run import Run
from nbhelpers.evaluation import preference_task
from nbhelpers.models import loading, saving
from nbhelpers.studies import preference_methods
from nbhelpers.studies.preference_methods import Material, Method
from nbhelpers.training import reward_model, session

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    values = {"profile": "smoke", "run_id": "test", "output_dir": str(folder), "seed": 0, "force": False}
    values |= {"model_id": "smoke", "report_to": "none", "resume": "never"}
    return Run.start("05_test", values)


@pytest.fixture(scope="module")
def material(smoke_run):
    model, tokenizer = loading.load("smoke", "float32")
    policy, reward = smoke_run.artifact("policy"), smoke_run.artifact("reward_model")
    saving.save(model, tokenizer, policy)
    asked = preference_task.every_split(4, 0)
    drawn = preference_task.sample(model, tokenizer, asked["train"], 2, max_new_tokens=12)
    pairs = preference_task.written_pairs(asked["train"], drawn)
    rows = reward_model.encode_pairs(pairs, tokenizer, 512)
    trainer = reward_model.trainer(smoke_run, reward_model.load(policy, "float32"), tokenizer, rows, 4)
    session.train(trainer)
    trainer.model.save_pretrained(reward)
    return Material(policy, reward, asked, drawn, pairs)


@pytest.mark.parametrize("name", ["SFT", "rejection", "DPO", "KTO", "ORPO", "PPO", "RLOO", "GRPO"])
def test_each_method_trains_and_is_measured(name, smoke_run, material):
    found = preference_methods.learn(smoke_run, Method(name, rollouts=1, answers=24), material)
    assert {
        f"{split}.{value}" for split in ("validation", "test") for value in ("true", "proxy", "ended", "tokens")
    } == set(found["scores"])
    assert len(found["scores"]["test.true"]) == len(material.asked["test"])
    assert found["forgetting"]["facts"]
    if name == "SFT":
        assert found["course"] == []
        assert not any(found["kl"])
    else:
        assert found["course"]
        assert found["seconds"] > 0
        assert max(map(abs, found["kl"])) > 0


def test_a_reward_model_is_measured_by_pairs_and_by_what_it_picks(smoke_run, material):
    asked, pairs = material.asked["train"], material.pairs
    found = preference_methods.learn_reward(smoke_run, pairs[:8], pairs[8:], asked, material.drawn, material.policy)
    assert found["pairs"] == 8
    assert len(found["margins"]) == len(found["groups"]) == len(pairs) - 8
    assert len(found["first"]) == len(found["best"]) == len(asked)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ["PPO", "RLOO", "GRPO"])
def test_on_a_toy_task_all_reach_the_optimum_and_none_with_the_sign_turned(
    name, sign, smoke_run, material, monkeypatch
):
    """The score is the share of letters among the signs of an answer; 1 is the optimum."""

    def letters(prompts, texts, ended):
        return [sum(sign_.isalpha() for sign_ in text) / max(1, len(text)) for text in texts]

    monkeypatch.setattr(
        preference_methods, "reward_of", lambda *_: lambda p, t, e: [sign * x for x in letters(p, t, e)]
    )
    method = Method(name, {"learning_rate": 2e-2}, rollouts=12, answers=48)
    model, tokenizer = loading.load("smoke", "float32")
    torch.manual_seed(0)
    options = {"each": 4, "max_new_tokens": 12, "seed": 1}

    def reached(policy):
        drawn = preference_task.sample(policy, tokenizer, material.asked["train"], **options)
        texts = [answer.text for several in drawn for answer in several]
        return sum(letters(None, texts, None)) / len(texts)

    begun = reached(model)
    trained, _ = preference_methods._trained(smoke_run, method, material, model, tokenizer)
    if sign > 0:
        assert reached(trained) > max(0.9, begun)
    else:
        assert reached(trained) < begun - 0.1
