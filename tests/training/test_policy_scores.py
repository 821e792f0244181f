import pytest
import torch
from peft import LoraConfig, get_peft_model

from nbhelpers.data import labels
from nbhelpers.evaluation import preference_task
from nbhelpers.training import policy_scores, ppo
from nbhelpers.training.policy_scores import PolicyScores

LORA = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")


def moved(model):
    """The model with an adapter that changes what it says."""
    torch.manual_seed(0)
    tuned = get_peft_model(model, LORA)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return tuned.eval()


def scores(values, **others) -> PolicyScores:
    fields = {"proxy": [], "tokens": [3] * len(values), "ended": [1.0] * len(values), "kl": [0.0]} | others
    return PolicyScores(score=values, answers=[f"answer {i}" for i in range(len(values))], **fields)


def test_log_probabilities_are_the_sums_over_the_answer(model, tokenizer):
    prompts, answers = [[1, 5, 6], [1, 7]], [[3, 4, 2], [9]]
    found = policy_scores.log_probs(model, tokenizer, prompts, answers)
    for prompt, answer, value in zip(prompts, answers, found.tolist(), strict=True):
        with torch.no_grad():
            predicted = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        assert value == pytest.approx(predicted[range(len(answer)), answer].sum().item(), abs=1e-4)


def test_the_kl_is_that_of_a_rollout(model, tokenizer):
    prompts, answers = [[1, 5, 6], [1, 7], [1, 8]], [[3, 4, 2], [9, 8], [4]]
    tuned = moved(model)
    rollout = ppo.PPO(tuned, tokenizer).roll_out(prompts, answers=answers)
    found = policy_scores.divergence(tuned, tokenizer, prompts, answers)
    assert found.abs().min() > 1e-3
    assert torch.allclose(found.float(), rollout.kl, atol=1e-4)


def test_a_policy_is_measured_question_by_question(model, tokenizer):
    asked = preference_task.every_split(4, 0)["test"]
    assert policy_scores.measure(model, tokenizer, asked, drawn=5, max_new_tokens=6).kl == [0] * 5, "of itself"
    found = policy_scores.measure(moved(model), tokenizer, asked, drawn=5, max_new_tokens=6)
    assert len(found.score) == len(found.tokens) == len(found.answers) == len(asked)
    assert len(found.kl) == 5
    assert any(found.kl)
    assert found.proxy == []
    assert set(found.score) <= {0.0, 1.0}


def test_gains_and_win_rates_are_paired():
    before, after = scores([0.0, 1.0, 1.0, 0.0]), scores([1.0, 1.0, 0.0, 1.0], tokens=[2, 2, 2, 2])
    assert policy_scores.gain(after, before).value == pytest.approx(0.25)
    assert policy_scores.gain(after, before, "tokens").value == -1
    assert policy_scores.win_rate(after, before).value == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    table = policy_scores.table({"SFT": before, "DPO": after})
    assert table.loc["SFT", "gain"] == ""
    assert table.loc["DPO", "gain"].startswith("+0.25")


def test_only_answers_in_other_words_are_compared():
    before, after = scores([0.0, 1.0, 1.0]), scores([1.0, 0.0, 1.0])
    object.__setattr__(after, "answers", ["answer 0 ", "other", "more"])
    asked = [([{"role": "user", "content": str(i)}], None) for i in range(3)]
    items, true = policy_scores.different_answers(asked, before, after)
    assert [item["id"].rsplit("-", 1)[0] for item in items] == ["test-1", "test-2"]
    object.__setattr__(after, "answers", ["answer 0 ", "another", "more"])
    others, _ = policy_scores.different_answers(asked, before, after)
    assert [a["id"] == b["id"] for a, b in zip(items, others, strict=True)] == [False, True]
    assert labels.of_items([{"item": items[0]["id"]}], others) == []
    assert items[0]["answers"] == ["answer 1", "other"]
    assert true == [(1.0, 0.0), (1.0, 1.0)]
    assert len(policy_scores.different_answers(asked, before, after, most=1)[0]) == 1
