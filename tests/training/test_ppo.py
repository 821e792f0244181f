import math
from dataclasses import fields

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from nbhelpers.core.errors import AuditError, DivergedError, ParameterError
from nbhelpers.training import policy_gradient, ppo

END, VOCABULARY = 2, 24
PROMPTS = [[1, 5, 6], [1, 7], [1, 8, 9, 10], [1, 11]]


class Decoder:
    """As much of a tokenizer as token ids need: id 2 both ends and pads, as in SmolLM2."""

    eos_token_id = pad_token_id = END
    chat_template = None

    def pad(self, batch, padding_side, return_tensors):
        rows = batch["input_ids"]
        longest = max(map(len, rows))
        fill = [longest - len(row) for row in rows]
        ids = [[END] * n + row for n, row in zip(fill, rows, strict=True)]
        mask = [[0] * n + [1] * len(row) for n, row in zip(fill, rows, strict=True)]
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}

    def batch_decode(self, rows, skip_special_tokens):
        return [" ".join(map(str, row)) for row in rows]


def policy(seed: int = 0):
    torch.manual_seed(seed)
    # Weights are drawn wide: with the usual ones the logits are all but equal, whatever the adapter does.
    shape = {
        "initializer_range": 0.2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, eos_token_id=END, pad_token_id=END, **shape))
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def trainer(**changes):
    config = ppo.PPOConfig(**{"max_new_tokens": 6, "learning_rate": 1e-2, "value_learning_rate": 1e-2} | changes)
    return ppo.PPO(policy(), Decoder(), config)


def test_before_the_first_update_the_policy_is_its_reference_and_the_sampler():
    training = trainer()
    rollout = training.roll_out(PROMPTS * 4)
    assert rollout.kl.abs().max() < 1e-5
    again, _ = training._evaluate_all(rollout.prompts, rollout.answers, 32)
    assert torch.allclose(again, rollout.log_probs, atol=1e-5)
    _, clipped = policy_gradient.policy_loss(again, rollout.log_probs, torch.ones_like(again), rollout.mask, 0.2)
    assert clipped == 0


def test_log_probabilities_are_those_of_the_model_on_each_row_alone():
    training = trainer()
    torch.nn.init.normal_(training.value_head.weight)
    answers = [[3, 4, END], [5, 6, 7, 8], [END], [9, END, 10]]  # an end token within an answer is a token like others
    log_probs, values = training.evaluate(PROMPTS, answers)
    for i, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
        output = training.model(torch.tensor([prompt + answer]), output_hidden_states=True)
        places = slice(len(prompt) - 1, len(prompt) + len(answer) - 1)
        expected = output.logits[0, places].log_softmax(-1)[range(len(answer)), answer]
        assert torch.allclose(log_probs[i, : len(answer)], expected, atol=1e-5)
        assert torch.allclose(
            values[i, : len(answer)], training.value_head(output.hidden_states[-1][0, places])[:, 0], atol=1e-5
        )
        assert not log_probs[i, len(answer) :].any()
        assert not values[i, len(answer) :].any()


def test_samples_come_from_the_whole_distribution():
    """Where they are cut to the most likely tokens, the mean log-probability is too high (and the KL negative)."""
    training = trainer(max_new_tokens=1)
    rollout = training.roll_out([[1, 5, 6]] * 4000, batch_size=4000)
    drawn = torch.bincount(torch.tensor([answer[0] for answer in rollout.answers]), minlength=VOCABULARY) / 4000
    with torch.no_grad():
        expected = training.model(torch.tensor([[1, 5, 6]])).logits[0, -1].softmax(-1)
    assert (drawn - expected).abs().max() < 5 * math.sqrt(0.25 / 4000)
    assert (drawn > 0).sum() == VOCABULARY


def test_a_step_of_two_passes_makes_the_ratio_leave_one_and_clipping_act():
    training = trainer(epochs=6, minibatches=2, kl_stop=math.inf)
    rollout = training.roll_out(PROMPTS * 8)
    figures = training.update(rollout, [float(5 in answer) for answer in rollout.answers])
    assert figures["steps"] == 12
    assert figures["clipped"] > 0
    assert figures["kl_from_samples"] > 0
    once = trainer(epochs=1, minibatches=1)
    assert once.update(once.roll_out(PROMPTS * 8), [1.0, 0.0] * 16)["clipped"] == 0


def test_passes_end_where_the_policy_has_gone_too_far():
    training = trainer(epochs=50, minibatches=1, kl_stop=0.01)
    rollout = training.roll_out(PROMPTS * 8)
    assert training.update(rollout, [float(5 in answer) for answer in rollout.answers])["steps"] < 50


def share_of_low(answers) -> list[float]:
    """The score of the toy task: the share of the first six places with a token below 12. The optimum is 1."""
    return [sum(token < 12 and token != END for token in answer) / 6 for answer in answers]


def learn(sign: float = 1.0, updates: int = 30, **changes) -> ppo.PPO:
    training = trainer(**{"kl_coefficient": 0.0, "learning_rate": 5e-3} | changes)
    for _ in range(updates):
        rollout = training.roll_out(PROMPTS * 8)
        training.update(rollout, [sign * score for score in share_of_low(rollout.answers)])
    return training


@pytest.fixture(scope="module")
def learned():
    return learn()


def reached(training) -> float:
    scores = share_of_low(training.roll_out(PROMPTS * 16).answers)
    return sum(scores) / len(scores)


def test_the_optimum_of_a_toy_task_is_reached_and_with_the_sign_turned_it_is_not(learned):
    begun = reached(trainer())
    assert begun < 0.6
    assert reached(learned) > 0.9
    assert reached(learn(sign=-1.0)) < begun


def test_a_large_kl_coefficient_keeps_the_policy_at_the_reference(learned):
    held = learn(kl_coefficient=5.0)
    kl = [training.roll_out(PROMPTS * 16).kl.mean() for training in (held, learned)]
    assert kl[0] < kl[1] / 5
    assert reached(held) < 0.6


def test_the_reference_stays_what_it_was_while_the_adapter_moves():
    training = learn(updates=2)
    answers = [[3, 4, END], [5], [6, 7], [8]]
    with training.model.disable_adapter():
        now, _ = training.evaluate(PROMPTS, answers)
    fresh, _ = trainer().evaluate(PROMPTS, answers)
    assert torch.equal(now, fresh)
    assert not torch.allclose(training.evaluate(PROMPTS, answers)[0], fresh, atol=1e-3)


def test_the_coefficient_follows_the_target_and_stays_without_one():
    config = ppo.PPOConfig(kl_target=5.0, kl_horizon=100)
    assert ppo.adapted_kl_coefficient(0.1, 5.0, config, 10) == pytest.approx(0.1)
    assert ppo.adapted_kl_coefficient(0.1, 50.0, config, 10) == pytest.approx(0.1 * 1.02)
    assert ppo.adapted_kl_coefficient(0.1, 0.0, config, 10) == pytest.approx(0.1 * 0.98)
    assert ppo.adapted_kl_coefficient(0.1, 50.0, ppo.PPOConfig(), 10) == 0.1


def test_an_answer_that_was_cut_is_penalised_and_one_that_ended_is_not():
    training = trainer(missing_end_penalty=3.0)
    rollout = training.roll_out(PROMPTS * 8)
    assert any(rollout.ended)
    assert not all(rollout.ended)
    assert rollout.ended == [answer[-1] == END for answer in rollout.answers]
    cut = sum(not ended for ended in rollout.ended)
    scores = [0.0] * len(rollout.ended)
    assert training.update(rollout, scores)["score"] == pytest.approx(-3 * cut / len(scores))


def test_a_constant_added_to_every_score_changes_nothing():
    adapters = []
    for constant in (0.0, 100.0):
        training = trainer()
        for _ in range(2):
            rollout = training.roll_out(PROMPTS * 4)
            training.update(rollout, [constant + score for score in share_of_low(rollout.answers)])
        adapters.append(torch.cat([weight.detach().flatten() for weight in training.trained]))
    assert torch.allclose(*adapters, atol=1e-4)


def test_answers_drawn_before_are_taken_as_they_are():
    training = trainer()
    first = training.roll_out(PROMPTS * 2)
    again = training.roll_out(first.prompts, answers=first.answers)
    assert again.answers == first.answers
    assert again.texts == first.texts
    assert torch.allclose(again.log_probs, first.log_probs, atol=1e-5)


def test_a_loss_that_is_not_finite_stops():
    training = trainer()
    rollout = training.roll_out(PROMPTS)
    rollout.log_probs[0, 0] = math.nan
    with pytest.raises(DivergedError, match=r"learning_rate=0\.01"):
        training.update(rollout, [0.0, 1.0] * 2)


def test_answers_of_another_distribution_are_refused():
    training = trainer()
    rollout = training.roll_out(PROMPTS)
    rollout.reference_log_probs[:] = rollout.log_probs + 1.0 * rollout.mask
    with pytest.raises(AuditError, match="cannot be below 0"):
        training.update(rollout, [0.0] * 4)


def test_settings_out_of_range_are_named():
    with pytest.raises(ParameterError, match=r"clip_range=2 is outside of 0 to 1; .*max_new_tokens=0"):
        ppo.PPOConfig(clip_range=2, max_new_tokens=0)


def test_the_names_of_trl_lead_to_ours():
    assert set(ppo.TRL_NAMES.values()) <= {field.name for field in fields(ppo.PPOConfig)}
