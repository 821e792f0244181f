"""The formulas of policy gradients for text: rewards of tokens, advantages, and PPO's two losses.

Every tensor of shape (rows, tokens) is about answers alone, padded on the right; `mask` is True for the tokens of an
answer, its stop token included. Lengths come from what was generated and never from a comparison with the padding
token, which is the stop token of many models.
"""

import math

import torch

from nbhelpers.core.errors import AuditError, DataError


def answer_mask(lengths: list[int]):
    """Shape (rows, longest): True for the tokens that there are."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def check_scores(scores, ended: list[bool]) -> list[float]:
    """What a reward gave, as one finite float for each answer.

    Args:
        ended: whether the model ended the answer; there are as many answers.

    Raises:
        AuditError: all answers were cut and all scores are equal, so that nothing can be learned.
        DataError: it gave another number of scores, or one that is missing, NaN or infinite.
    """
    answers = len(ended)
    scores = [math.nan if score is None else float(score) for score in scores]
    if len(scores) != answers:
        raise DataError(f"The reward gave {len(scores)} scores for {answers} answers. It must give one for each.")
    if wrong := [i for i, score in enumerate(scores) if not math.isfinite(score)]:
        raise DataError(
            f"The reward of {len(wrong)} of {answers} answers is no finite number, first that of answer {wrong[0]} "
            "(None counts as missing). Give such an answer the lowest score, or leave its prompt out."
        )
    if len(scores) > 1 and not any(ended) and min(scores) == max(scores):
        raise AuditError(
            f"All {answers} answers were cut by the limit and all score {scores[0]:g}: there is nothing to learn from "
            "them. Raise max_new_tokens."
        )
    return scores


def masked_mean(values, mask):
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whiten(values, mask):
    """Mean 0 and variance 1 over the masked places; 0 at all others. Equal values become 0."""
    centred = (values - masked_mean(values, mask)) * mask
    return centred / (masked_mean(centred**2, mask).sqrt() + 1e-8)


def token_rewards(scores, log_probs, reference_log_probs, mask, kl_coefficient: float):
    """The reward of each token, shape (rows, tokens): the KL penalty, and at the last token the score of the answer.

    r_t = -beta (log p(a_t) - log p_reference(a_t)), plus the score where t is the last (Ziegler et al. 2019, eq. 2).
    """
    rewards = -kl_coefficient * (log_probs - reference_log_probs) * mask
    rewards[torch.arange(len(rewards)), mask.sum(1) - 1] += scores
    return rewards


def gae(rewards, values, mask, gamma: float, gae_lambda: float):
    """Generalized advantage estimation (Schulman et al. 2016, eq. 16): `(advantages, returns)`, (rows, tokens).

    A_t = sum_k (gamma lambda)^k delta_{t+k} with delta_t = r_t + gamma V_{t+1} - V_t, and V = 0 behind the last token.
    Returns are A_t + V_t. Both are 0 where the mask is.
    """
    advantages = torch.zeros_like(rewards)
    following = next_value = torch.zeros(len(rewards), device=rewards.device)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * gae_lambda * following) * mask[:, t]
        next_value = values[:, t] * mask[:, t]
        advantages[:, t] = following
    return advantages, (advantages + values) * mask


def policy_loss(log_probs, old_log_probs, advantages, mask, clip_range: float):
    """`(loss, share of tokens that were clipped)`; the clipped objective of Schulman et al. 2017, eq. 7, negated."""
    ratio = torch.exp((log_probs - old_log_probs) * mask)
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    loss = masked_mean(-torch.minimum(ratio * advantages, clipped * advantages), mask)
    return loss, masked_mean((clipped * advantages < ratio * advantages).float(), mask)


def value_loss(values, old_values, returns, mask, clip_range: float):
    """Half of the squared error, of the value or of the value clipped to the old one's neighbourhood: the larger."""
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * masked_mean(torch.maximum((values - returns) ** 2, (clipped - returns) ** 2), mask)


def leave_one_out(scores):
    """Each score minus the mean of the others to the same prompt (RLOO; Ahmadian et al. 2024, eq. 6): (prompts, k)."""
    others = (scores.sum(1, keepdim=True) - scores) / (scores.shape[1] - 1)
    return scores - others


def group_relative(scores, scaled: bool = True):
    """Each score minus the mean of its prompt's, over their standard deviation (GRPO; Shao et al. 2024): (prompts, k).

    Answers of one prompt that score alike get 0: they teach nothing. `scaled=False` leaves the deviation out (Liu et
    al. 2025), which weighs easy and hard prompts alike.
    """
    centred = scores - scores.mean(1, keepdim=True)
    return centred / (scores.std(1, keepdim=True) + 1e-4) if scaled else centred
