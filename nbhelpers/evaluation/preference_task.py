"""A task whose true score a program knows: say it in the form that was asked for, and end.

The score of an answer is 1 where it obeys its instruction to the letter (`constraints`) and the model ended it, else 0.
A policy's own samples differ in it from one draw to the next, so that there is something to prefer.
"""

import math
from dataclasses import dataclass

import numpy as np

from nbhelpers.core.errors import DataError
from nbhelpers.data import preferences
from nbhelpers.evaluation import constraints, generation
from nbhelpers.evaluation.constraint_kinds import HELD_OUT, TRAINED
from nbhelpers.models import encoding, templates

NEW_KINDS = HELD_OUT[::2][:4]  # asked of the tuned models alone: neither SFT nor a preference has shown them
KINDS = tuple(kind for kind in TRAINED + HELD_OUT if kind not in NEW_KINDS)
SPLITS = {"train": slice(0, 10), "validation": slice(10, 16), "test": slice(16, None)}  # of the ordinary requests


def questions(split: str, each: int, seed: int, kinds: tuple[str, ...] = KINDS) -> list:
    """`(prompt, constraint)`, `each` for every kind, on requests that no other split has.

    Args:
        split: `train`, `validation` or `test`.

    Raises:
        ParameterError: `each` is above the number of the split's requests.
    """
    return constraints.questions(constraints.requests()[SPLITS[split]], each, seed, kinds)


def every_split(eval_rows: int, seed: int) -> dict[str, list]:
    """`questions` of each split, sized by the held-out rows of a run; the training questions leave out `NEW_KINDS`.

    Args:
        eval_rows: about a tenth of them test questions for each kind, half as many to validate, two thirds to train.
    """
    sizes = {"train": eval_rows // 14, "validation": eval_rows // 20, "test": eval_rows // 10}
    there = constraints.requests()
    sizes = {split: min(len(there[SPLITS[split]]), max(1, size)) for split, size in sizes.items()}
    kinds = {"train": KINDS, "validation": KINDS + NEW_KINDS, "test": KINDS + NEW_KINDS}
    return {split: questions(split, size, seed, kinds[split]) for split, size in sizes.items()}


@dataclass(frozen=True)
class Sample:
    """One answer of a policy, as text and as tokens, with its true score."""

    text: str
    tokens: list[int]
    ended: bool
    score: float


def score(constraint, text: str, ended: bool) -> float:
    """1 where an answer obeys and was ended, else 0; without a constraint (None) the end alone counts."""
    return float(ended and (constraint is None or constraint.holds(text)))


def render(prompt: list[dict], tokenizer) -> list[int]:
    """A prompt as the tokens that an answer is written behind."""
    text = templates.render(prompt, tokenizer, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def sample(
    model, tokenizer, asked: list, each: int = 1, temperature: float = 1.0, max_new_tokens: int = 48,
    batch_size: int = 64, dtype: str | None = None, seed: int = 0,
) -> list[list[Sample]]:  # fmt: skip
    """`each` answers to every question, drawn from the whole distribution; greedy at temperature 0.

    Args:
        batch_size: answers at once, at most. The batches are made about equal: a small last one would take as many
            steps as a large one.
    """
    ids = [render(prompt, tokenizer) for prompt, _ in asked for _ in range(each)]
    batches = max(1, math.ceil(len(ids) / batch_size))
    size = max(1, math.ceil(len(ids) / batches))
    written = generation.continue_tokens(
        model, tokenizer, ids, max_new_tokens, size, dtype, temperature, seed, top_p=1.0
    )
    stops = encoding.stop_token_ids(tokenizer, model)
    owners = [constraint for _, constraint in asked for _ in range(each)]
    made = []
    for constraint, tokens in zip(owners, written, strict=True):
        text, ended = tokenizer.decode(tokens, skip_special_tokens=True), tokens[-1] in stops
        made.append(Sample(text, tokens, ended, score(constraint, text, ended)))
    return [made[i : i + each] for i in range(0, len(made), each)]


def shares(samples: list[list[Sample]]) -> dict[str, float]:
    """The share of right samples, of questions with right and wrong ones, and of questions with a right one."""
    scores = [[answer.score for answer in drawn] for drawn in samples]
    return {
        "right": float(np.mean(np.concatenate(scores))),
        "mixed": float(np.mean([min(of_one) < max(of_one) for of_one in scores])),
        "best of them right": float(np.mean([max(of_one) for of_one in scores])),
    }


def pairs(asked: list, samples: list[list[Sample]], most: int = 2) -> list[dict]:
    """Pairs (`data.preferences`) of a right and a wrong answer to the same question, `most` of each question.

    A pair says of which `kind` its question is, which of its answers were ended, and `both_ended`.

    Raises:
        DataError: no question has both right and wrong answers.
    """
    found = []
    for number, ((prompt, constraint), drawn) in enumerate(zip(asked, samples, strict=True)):
        rejected_ended = {answer.text: answer.ended for answer in drawn if not answer.score}
        texts, scores = [answer.text for answer in drawn], [answer.score for answer in drawn]
        for i, pair in enumerate(preferences.from_scores(prompt, texts, scores, most)):
            ended = rejected_ended[pair["rejected"]]
            facts = {"id": f"{number}-{i}", "kind": constraint.kind, "rejected_ended": ended, "both_ended": ended}
            found.append(pair | facts)
    if not found:
        scores = [answer.score for drawn in samples for answer in drawn]
        raise DataError(
            f"No question has answers of different scores (mean score {np.mean(scores):.2f}), so nothing is preferred. "
            "Draw more samples for each, raise the temperature, or ask what the model can do sometimes."
        )
    return found


def written_pairs(asked: list, samples: list[list[Sample]]) -> list[dict]:
    """Pairs for a model that is never right: chosen is the request's own reply, written so that it obeys.

    The chosen answers are not the model's own, so that it has more to learn from them and farther to go. Kinds that
    cannot be written (`constraint_kinds.HELD_OUT`) give none.
    """
    replies = {row["messages"][0]["content"]: row["reference"] for row in constraints.requests()}
    found = []
    for number, ((prompt, constraint), drawn) in enumerate(zip(asked, samples, strict=True)):
        if constraint.kind in TRAINED:
            question = prompt[-1]["content"].removesuffix(f"\n\n{constraint.instruction}")
            answers = [constraint.write(replies[question]), drawn[0].text]
            ended = {"rejected_ended": drawn[0].ended, "both_ended": drawn[0].ended}
            facts = {"id": f"{number}-0", "kind": constraint.kind} | ended
            found += [pair | facts for pair in preferences.from_scores(prompt, answers, [1, 0])]
    return found


def chosen_rows(pairs: list[dict]) -> list[dict]:
    """Rows `{id, task, messages, reference}` of the preferred answers, each different one of a prompt once."""
    rows = {(pair["group"], pair["chosen"]): pair for pair in pairs}
    return [
        {"id": pair["id"], "task": "chosen", "reference": pair["chosen"]}
        | {"messages": [*pair["prompt"], {"role": "assistant", "content": pair["chosen"]}]}
        for pair in rows.values()
    ]


def accepted(asked: list, samples: list[list[Sample]]) -> list[dict]:
    """Rows `{id, task, messages, reference}` of the answers that the rule accepts, each different one once."""
    rows = []
    for number, ((prompt, _), drawn) in enumerate(zip(asked, samples, strict=True)):
        for text in dict.fromkeys(answer.text for answer in drawn if answer.score):
            messages = [*prompt, {"role": "assistant", "content": text}]
            rows.append({"id": f"{number}-{len(rows)}", "task": "form", "messages": messages, "reference": text})
    return rows


def best_of(samples: list[list[Sample]], reward: list[list[float]]) -> list[float]:
    """The true score of the sample of each question that a reward model ranks highest."""
    return [drawn[int(np.argmax(r))].score for drawn, r in zip(samples, reward, strict=True)]
