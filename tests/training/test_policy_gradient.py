import math

import pytest
import torch

from nbhelpers.core.errors import AuditError, DataError
from nbhelpers.training import policy_gradient


@pytest.fixture
def drawn():
    """Log-probabilities of two models, values and scores of three answers of 4, 2 and 1 tokens."""
    draw = torch.Generator().manual_seed(0)
    mask = policy_gradient.answer_mask([4, 2, 1])
    log_probs, reference, values = (torch.randn(3, 4, generator=draw) * mask for _ in range(3))
    return log_probs, reference, values, torch.tensor([1.0, -2.0, 0.5]), mask


def test_the_score_is_given_at_the_last_token_of_an_answer_and_the_penalty_at_each(drawn):
    log_probs, reference, _, scores, mask = drawn
    rewards = policy_gradient.token_rewards(scores, log_probs, reference, mask, 0.5)
    expected = -0.5 * (log_probs - reference) * mask
    expected[0, 3] += 1
    expected[1, 1] -= 2
    expected[2, 0] += 0.5
    assert torch.allclose(rewards, expected)


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (1.0, 0.0)])
def test_gae_is_the_direct_sum(gamma, gae_lambda, drawn):
    log_probs, reference, values, scores, mask = drawn
    rewards = policy_gradient.token_rewards(scores, log_probs, reference, mask, 0.1)
    advantages, returns = policy_gradient.gae(rewards, values, mask, gamma, gae_lambda)
    for i, length in enumerate(mask.sum(1).tolist()):
        following = [*values[i, :length].tolist(), 0.0]
        deltas = [rewards[i, t] + gamma * following[t + 1] - following[t] for t in range(length)]
        for t in range(length):
            direct = sum((gamma * gae_lambda) ** (k - t) * deltas[k] for k in range(t, length))
            assert advantages[i, t] == pytest.approx(float(direct), abs=1e-5)
            assert returns[i, t] == pytest.approx(float(direct) + following[t], abs=1e-5)
    assert not advantages[~mask].any()
    assert not returns[~mask].any()


def test_what_is_behind_the_end_changes_nothing():
    """Rewards [0, 0, 1] with values of 0 give advantages [1, 1, 1], whatever stands behind them."""
    mask = torch.tensor([[True, True, True, False, False]])
    rewards, values = torch.tensor([[0, 0, 1.0, -5, -5]]), torch.tensor([[0, 0, 0.0, 9, 9]])
    advantages, returns = policy_gradient.gae(rewards, values, mask, 1.0, 1.0)
    assert advantages.tolist() == returns.tolist() == [[1, 1, 1, 0, 0]]
    new, old = torch.randn(2, 1, 5)
    spoilt = new.clone()
    spoilt[0, 3:] = 50
    for loss in (
        lambda x: policy_gradient.policy_loss(x, old, advantages, mask, 0.2)[0],
        lambda x: policy_gradient.value_loss(x, old, returns, mask, 0.2),
        lambda x: policy_gradient.whiten(x, mask)[mask].sum(),
    ):
        x = spoilt.clone().requires_grad_()
        value = loss(x)
        assert value == loss(new)
        value.backward()
        assert not x.grad[~mask].any()


def test_whitening_covers_real_tokens_alone(drawn):
    *_, values, _, mask = drawn
    white = policy_gradient.whiten(values + 3, mask)
    assert white[mask].mean().abs() < 1e-6
    assert white[mask].std(correction=0) == pytest.approx(1, abs=1e-5)
    assert not policy_gradient.whiten(torch.ones(3, 4), mask).any()


def test_clipping_takes_the_gradient_where_the_ratio_went_too_far_and_only_there():
    mask, old = torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 4)
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    new = torch.tensor([[0.5, -0.5, 0.5, -0.5]], requires_grad=True)
    loss, clipped = policy_gradient.policy_loss(new, old, advantages, mask, 0.2)
    loss.backward()
    assert (new.grad == 0).tolist() == [[True, False, False, True]]
    assert clipped == 0.5


def test_one_update_on_a_two_armed_bandit_moves_as_the_policy_gradient_says():
    """d/d logit_a of E[reward] is p_a (r_a - E[r]): the loss, differentiated at ratio 1, must agree."""
    logits = torch.tensor([0.3, -0.2], requires_grad=True)
    probabilities, rewards = logits.softmax(0).detach(), torch.tensor([1.0, 0.0])
    expected = probabilities * (rewards - (probabilities * rewards).sum())
    arms = torch.multinomial(probabilities, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    log_probs = logits.log_softmax(0)[arms][:, None]
    advantages = (rewards - (probabilities * rewards).sum())[arms][:, None]
    mask = torch.ones_like(advantages, dtype=torch.bool)
    loss, _ = policy_gradient.policy_loss(log_probs, log_probs.detach(), advantages, mask, 0.2)
    loss.backward()
    assert torch.allclose(-logits.grad, expected, atol=5e-3)
    assert expected[0] > 0.2


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ([1.0, None, 0.0], "1 of 3 answers is no finite number, first that of answer 1"),
        ([1.0, 0.0, math.nan], "first that of answer 2"),
        ([math.inf] * 3, "3 of 3"),
        ([1.0, 0.0], "2 scores for 3 answers"),
    ],
)
def test_a_reward_that_is_no_score_is_refused(scores, says):
    with pytest.raises(DataError, match=says):
        policy_gradient.check_scores(scores, [True, True, False])


def test_answers_that_were_all_cut_and_score_alike_stop_the_run():
    with pytest.raises(AuditError, match=r"All 3 answers were cut.*Raise max_new_tokens"):
        policy_gradient.check_scores([0.5, 0.5, 0.5], [False] * 3)
    assert policy_gradient.check_scores([0.5, 0.5, 0.4], [False] * 3) == [0.5, 0.5, 0.4]
    assert policy_gradient.check_scores([0.5, 0.5, 0.5], [False, True, False]) == [0.5] * 3


def test_the_advantages_of_a_group_are_those_of_the_papers():
    """Three of eight answers are right (allocations worked out by hand)."""
    scores = torch.tensor([[1.0] * 3 + [0.0] * 5])
    for advantages, right, wrong in (
        (policy_gradient.leave_one_out(scores), 5 / 7, -3 / 7),
        (policy_gradient.group_relative(scores, scaled=False), 0.625, -0.375),
        (policy_gradient.group_relative(scores), 1.2076, -0.7246),
    ):
        assert advantages[0].tolist() == pytest.approx([right] * 3 + [wrong] * 5, abs=5e-4)
    assert not policy_gradient.group_relative(torch.ones(2, 4)).any()
    assert not policy_gradient.leave_one_out(torch.ones(2, 4)).any()
