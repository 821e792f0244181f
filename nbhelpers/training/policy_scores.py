"""What a policy does on questions that a program can check: true score, reward model's score, length, and KL."""

import hashlib
import json
from dataclasses import dataclass

import datasets
import torch

from nbhelpers.core.statistics import Metric, estimate
from nbhelpers.evaluation import likelihood, preference_task
from nbhelpers.models import encoding
from nbhelpers.training import reward_model


@dataclass(frozen=True)
class PolicyScores:
    """One value a question: of greedy answers, and the KL of answers that were drawn (fewer, one value each).

    score: the true score (`preference_task.score`), 0 or 1. proxy: the reward model's. tokens: of the answer.
    kl: log p - log p_reference of the whole answer, in nats; its mean estimates the KL divergence from the reference.
    """

    score: list[float]
    proxy: list[float]
    tokens: list[int]
    ended: list[float]
    kl: list[float]
    answers: list[str]


def log_probs(model, tokenizer, prompts: list[list[int]], answers: list[list[int]], dtype: str | None = None):
    """log p(answer | prompt) in nats of each pair of token ids, float64, shape (rows,)."""
    rows = [
        {"input_ids": prompt + answer, "labels": [encoding.IGNORE] * len(prompt) + answer}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    means = likelihood.held_out_loss(model, tokenizer, datasets.Dataset.from_list(rows), dtype=dtype)
    return -torch.tensor(means, dtype=torch.float64) * torch.tensor([len(answer) for answer in answers])


def divergence(model, tokenizer, prompts: list[list[int]], answers: list[list[int]], dtype: str | None = None):
    """`log_probs` of a `PeftModel` less those of its reference, shape (rows,): the answers must be its own draws."""
    policy = log_probs(model, tokenizer, prompts, answers, dtype)
    with model.disable_adapter():
        return policy - log_probs(model, tokenizer, prompts, answers, dtype)


def measure(
    model, tokenizer, asked: list, reward=None, drawn: int = 64, max_new_tokens: int = 48, batch_size: int = 64,
    seed: int = 0,
) -> PolicyScores:  # fmt: skip
    """Ask a policy, and see how far it has moved from its reference: itself with the adapter off.

    Args:
        asked: as `preference_task.questions`.
        reward: a reward model of the same tokenizer; None: no proxy scores.
        drawn: questions, spread over all, to which an answer is drawn at temperature 1 for the KL.
    """
    options = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    greedy = [given[0] for given in preference_task.sample(model, tokenizer, asked, 1, 0.0, **options)]
    proxy = []
    if reward is not None:
        texts, ended = [answer.text for answer in greedy], [answer.ended for answer in greedy]
        proxy = reward_model.score_answers(reward, tokenizer, [prompt for prompt, _ in asked], texts, ended)
    few = asked[:: max(1, len(asked) // drawn)][:drawn]
    kl = [0.0] * len(few)  # of the reference from itself
    if hasattr(model, "peft_config"):
        draws = preference_task.sample(model, tokenizer, few, 1, 1.0, seed=seed, **options)
        prompts = [preference_task.render(prompt, tokenizer) for prompt, _ in few]
        kl = divergence(model, tokenizer, prompts, [given[0].tokens for given in draws]).tolist()
    return PolicyScores(
        [answer.score for answer in greedy],
        proxy,
        [len(answer.tokens) for answer in greedy],
        [float(answer.ended) for answer in greedy],
        kl,
        [answer.text for answer in greedy],
    )


def gain(tuned: PolicyScores, before: PolicyScores, name: str = "score") -> Metric:
    """The mean of the paired differences of one value (`score`, `proxy`, `tokens`, `ended`), with its interval."""
    return estimate([a - b for a, b in zip(getattr(tuned, name), getattr(before, name), strict=True)])


def win_rate(tuned: PolicyScores, before: PolicyScores) -> Metric:
    """The share of questions on which the true score is higher than before; a tie counts half."""
    pairs = zip(tuned.score, before.score, strict=True)
    return estimate([0.5 if a == b else float(a > b) for a, b in pairs], unit="share")


def different_answers(asked: list, before: PolicyScores, after: PolicyScores, most: int = 40):
    """`(items, scores)` of the first questions that two policies answer in other words, for `data.labels`.

    The answer of `before` is the first of an item; `scores` has the true scores of both. The id of an item stands for
    its answers, so that labels of other policies' answers to the same question are not taken for these.
    """
    both = zip(before.answers, after.answers, strict=True)
    numbers = [i for i, (first, second) in enumerate(both) if first.split() != second.split()][:most]
    items = []
    for i in numbers:
        answers = [before.answers[i], after.answers[i]]
        digest = hashlib.sha256(json.dumps(answers).encode()).hexdigest()[:8]
        items.append({"id": f"test-{i}-{digest}", "prompt": asked[i][0], "answers": answers})
    return items, [(before.score[i], after.score[i]) for i in numbers]


def table(measured: dict[str, PolicyScores]):
    """A `pandas.DataFrame`: a row a policy, the reference first, the others with what they gained over it."""
    import pandas as pd

    def shown(m: Metric, sign: str = "") -> str:
        return f"{m.value:{sign}.2f} [{m.low:{sign}.2f}, {m.high:{sign}.2f}]"

    first, rows = next(iter(measured.values())), {}
    for name, found in measured.items():
        moved = found is not first
        rows[name] = {
            "true score": shown(estimate(found.score, unit="share")),
            "gain": shown(gain(found, first), "+") if moved else "",
            "win rate": shown(win_rate(found, first)) if moved else "",
            "proxy gain": shown(gain(found, first, "proxy"), "+") if moved and found.proxy else "",
            "KL (nats)": shown(estimate(found.kl)) if moved else "0",
            "ended": f"{sum(found.ended) / len(found.ended):.2f}",
            "tokens": f"{sum(found.tokens) / len(found.tokens):.1f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")
