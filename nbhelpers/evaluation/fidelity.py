"""How near a changed model is to the one it was made from: its logits, its choices, and where two texts part."""

from dataclasses import dataclass

import torch

from nbhelpers.evaluation import generation, preference_task
from nbhelpers.models import saving


@dataclass(frozen=True)
class Fidelity:
    """One value for each row of text: over its positions the mean of what is named.

    `kl` is the divergence of the changed model's next token from the other's, in nats; `agreement` the share of
    positions at which both find the same token most likely; `logit_difference` the root mean square of the logits'.
    """

    kl: list[float]
    agreement: list[float]
    logit_difference: list[float]


def compare(model, reference, ids: list[list[int]]) -> Fidelity:
    """A changed model beside its reference, both loaded, on rows of token ids."""
    found: tuple[list[float], list[float], list[float]] = [], [], []
    for row in ids:
        changed, exact = (saving.logits(one, torch.tensor([row]))[0] for one in (model, reference))
        log_p, log_q = exact.log_softmax(-1), changed.log_softmax(-1)
        found[0].append((log_p.exp() * (log_p - log_q)).sum(-1).mean().item())
        found[1].append((exact.argmax(-1) == changed.argmax(-1)).float().mean().item())
        found[2].append((exact - changed).square().mean().sqrt().item())
    return Fidelity(*found)


def greedy(model, tokenizer, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """Greedy answers to prompts given as tokens, in batches of the same make-up whatever the model."""
    return generation.continue_tokens(model, tokenizer, prompts, tokens, batch_size=32)


def with_long_references(rows, tokenizer, most: int, count: int) -> tuple[list[list[dict]], list[list[int]]]:
    """`(messages, tokens)` of the `count` prompts below `most` tokens whose reference answers are the longest."""
    longest = sorted(rows, key=lambda row: len(row["reference"]), reverse=True)
    messages = [row["messages"][:-1] for row in longest]
    rendered = [(one, preference_task.render(one, tokenizer)) for one in messages]
    kept = [pair for pair in rendered if len(pair[1]) < most][:count]
    return [one for one, _ in kept], [ids for _, ids in kept]


def longest_answers(model, tokenizer, prompts: list[list[int]], tokens: int, count: int) -> dict[int, list[int]]:
    """Number of the prompt -> greedy answer: the `count` longest ones. That two short answers agree says little."""
    answers = list(enumerate(greedy(model, tokenizer, prompts, tokens)))
    return dict(sorted(answers, key=lambda pair: len(pair[1]), reverse=True)[:count])


@dataclass(frozen=True)
class Parting:
    """Where two greedy texts part: the prompt's number, the position in the answer, and the logits' margin there.

    `margin` is by how much the reference prefers its token to the one that the other chose.
    """

    prompt: int
    position: int
    margin: float


def partings(reference, prompts: list[list[int]], first: list[list[int]], second: list[list[int]]) -> list[Parting]:
    """Where answers of a model and of its copy part, with the margin of the reference at that place.

    Two models whose logits differ by less than e can part only where the margin is below 2 e: a larger one is no
    rounding.

    Args:
        reference: the model that wrote `first`.
        first, second: answers as tokens, in the order of the prompts.
    """
    found = []
    for number, (prompt, one, other) in enumerate(zip(prompts, first, second, strict=True)):
        if one == other:
            continue
        position = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
        if position is None:  # one is the beginning of the other: it was cut, which no rounding does
            found.append(Parting(number, min(len(one), len(other)), float("inf")))
            continue
        logits = saving.logits(reference, torch.tensor([prompt + one[:position]]))[0, -1]
        found.append(Parting(number, position, (logits[one[position]] - logits[other[position]]).item()))
    return found
