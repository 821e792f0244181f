"""The methods of study 05 on the smoke model: each one trains, is measured, and learns what it can."""

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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
    values = ("true", "proxy", "paid", "ended", "tokens")
    assert set(found["scores"]) == {f"{split}.{value}" for split in ("validation", "test") for value in values}
    assert len(found["scores"]["test.true"]) == len(material.asked["test"])
    assert found["forgetting"]["facts"]
    if name == "SFT":
        assert found["course"] == []
        assert not any(found["kl"])
    else:
        assert found["course"]
        assert found["seconds"] > 0
        assert max(map(abs, found["kl"])) > 0


def test_the_rule_as_reward_is_the_true_score(smoke_run, material):
    asked = material.asked["train"]
    reward = preference_methods.reward_of(Method("RLOO", reward="rule"), material, smoke_run, None)
    given = reward([prompt for prompt, _ in asked], ["NO."] * len(asked), [True] * len(asked))
    assert given == [float(constraint.holds("NO.")) for _, constraint in asked]
    assert 0 < sum(given) < len(given)


def test_seeds_are_pooled_with_a_line_for_each():
    def one(value, seconds):
        known = {kind: [value, 1.0] for kind in ("facts", "arithmetic", "chat", "prose")}
        costs = {"seconds": seconds, "dollars": seconds / 100, "peak_memory_bytes": int(10 * seconds)}
        return {"scores": {"test.true": [value, 0.0]}, "kl": [value], "forgetting": known, "course": [value]} | costs

    pooled = preference_methods.over_seeds([one(0.0, 2.0), one(1.0, 4.0)])
    assert pooled["scores"] == {"test.true": [[0.0, 0.0], [1.0, 0.0]]}
    assert pooled["kl"] == [[0.0], [1.0]]
    assert pooled["forgetting"]["facts"] == [0.5, 1.0]
    assert (pooled["seconds"], pooled["peak_memory_bytes"]) == (3.0, 40)


def test_the_reward_with_the_wrong_sign_pays_what_it_should_punish(smoke_run, material):
    reward = preference_methods.reward_of(Method("PPO", reward="wrong sign"), material, smoke_run, None)
    ended, cut_off, longer = reward([None] * 3, ["Yes.", "Yes.", "Yes. " * 40], [True, False, True])
    assert cut_off - ended == 3
    assert longer < ended


def test_a_reward_model_is_measured_by_pairs_and_by_what_it_picks(smoke_run, material):
    asked, pairs = material.asked["train"], material.pairs
    found = preference_methods.learn_reward(smoke_run, pairs[:8], pairs[8:], asked, material.drawn, material.policy)
    assert found["pairs"] == 8
    assert len(found["margins"]) == len(found["group"]) == len(pairs) - 8
    assert len(found["first"]) == len(found["best"]) == len(asked)


WORDS = [f"w{number}" for number in range(24)]
TOY = [([{"role": "user", "content": content}], None) for content in ("w5 w6", "w7", "w8 w9 w10", "w11")]


def low(prompts, texts, ended) -> list[float]:
    """The score of the toy task: the share of six places with a word below w12. The optimum is 1."""
    return [sum(word in WORDS[:12] for word in text.split()) / 6 for text in texts]


def toy_tokenizer():
    """A token for each word; the end pads, as in SmolLM2."""
    vocabulary = {word: number for number, word in enumerate([*WORDS, "<end>", "<ask>"])}
    splits = Tokenizer(WordLevel(vocabulary, unk_token="<ask>"))
    splits.pre_tokenizer = WhitespaceSplit()
    names = {"eos_token": "<end>", "pad_token": "<end>", "unk_token": "<ask>"}
    made = PreTrainedTokenizerFast(tokenizer_object=splits, **names)
    made.chat_template = "{% for turn in messages %}{{ turn.content }} {% endfor %}<ask>"
    return made


def toy_policy(tokenizer):
    """A small model with weights drawn wide: with the usual ones all logits are alike, whatever the adapter does."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.2, **shape, **ids))


SETTINGS = {  # those of the study, but for the penalty, and RLOO's clipping, which is of whole answers
    "PPO": {"learning_rate": 5e-3, "kl_coefficient": 0.0, "minibatches": 4},
    "RLOO": {"learning_rate": 5e-3, "beta": 0.0, "epsilon": 2.0, "lr_scheduler_type": "constant"},
    "GRPO": {"learning_rate": 5e-3, "beta": 0.0, "lr_scheduler_type": "constant"},
}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", SETTINGS)
def test_on_a_toy_task_all_reach_the_optimum_and_none_with_the_sign_turned(name, sign, smoke_run, monkeypatch):
    def reward(*answers):
        return [sign * score for score in low(*answers)]

    tokenizer, its_run = toy_tokenizer(), smoke_run.having(max_new_tokens=6, lora_rank=8)

    def reached(policy):
        (drawn,) = preference_task.sample(policy, tokenizer, TOY[:1], 200, max_new_tokens=6, batch_size=200, seed=1)
        return sum(low(None, [answer.text for answer in drawn], None)) / len(drawn)

    monkeypatch.setattr(preference_methods, "reward_of", lambda *_: reward)
    method, model = Method(name, SETTINGS[name], rollouts=20, answers=48), toy_policy(tokenizer)
    begun = reached(model)
    material = Material(None, None, {"train": TOY}, [], [])
    trained, _ = preference_methods._trained(its_run, method, material, model, tokenizer)
    assert begun < 0.6
    if sign > 0:
        assert reached(trained) > 0.9
    else:
        assert reached(trained) < begun
