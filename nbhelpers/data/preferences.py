"""Pairs of answers of which one is preferred: from files of every common shape, and from scored samples.

A pair is `{"id", "group", "prompt", "chosen", "rejected"}`: the prompt a list of turns that ends with the user's, the
answers plain text. Pairs of one prompt have one `group`, which `splits.split(how="group")` never parts.
"""

import hashlib
import itertools
import json
import math
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from nbhelpers.core.errors import DataError
from nbhelpers.core.statistics import Metric, share
from nbhelpers.data import chat, column_names, files, schemas, splits

_LONG = 40  # characters of a prompt with which an answer does not begin by chance
_OPENAI = {"input": "prompt", "preferred_output": "chosen", "non_preferred_output": "rejected"}
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \n]?")  # of Anthropic's HH-RLHF


@dataclass(frozen=True)
class Preferences:
    """Pairs, how many rows gave none, by reason, and what each column of a file became."""

    pairs: list[dict]
    dropped: Counter = field(default_factory=Counter)
    columns: str = ""

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
        prompts = len({pair["group"] for pair in self.pairs})
        counts = f"{len(self.pairs)} pairs of {prompts} prompts" + (f"; dropped: {reasons}" if reasons else "")
        return counts + (f"\n  columns: {self.columns}" if self.columns else "")


def read(path: str | Path) -> Preferences:
    """Pairs of a file with columns of the usual names, those of OpenAI and LLaMA-Factory among them.

    Raises DataError as `files.stream` and `from_rows`.
    """
    rows = files.read(Path(path))
    mapping = column_names.ColumnMapping(_names(rows), "preference")
    return replace(from_rows(mapping.rename(rows)), columns=mapping.describe(rows, kept=("id",)))


def _names(rows: list[dict]) -> dict[str, str]:
    """Column -> our name, as `column_names.mapping` has it; a list of turns beside the answers is the prompt."""
    columns = set().union(*rows)
    if _OPENAI.keys() <= columns:
        return _OPENAI
    names = column_names.mapping(rows).names
    ours = {names.get(column, column) for column in columns}
    turns = next((name for name in ("messages", "conversations") if name in columns), None)
    if turns and {"chosen", "rejected"} <= ours and "prompt" not in ours:
        return names | {turns: "prompt"}
    return names


def from_rows(rows: list[dict]) -> Preferences:
    """Pairs of rows of any of these shapes, told apart row by row.

    - `prompt`, `chosen`, `rejected`: text, or turns. Answers that begin with the prompt lose it. A `system` column and
      those of `schemas.CONTEXTS` belong to the prompt.
    - `chosen`, `rejected`: whole conversations, as turns or as HH-RLHF's text; the prompt is what they share.
    - `prompt`, `answers`, `scores`: every two answers of different scores make a pair. A score of None is missing.

    Raises:
        DataError: no row gives a pair.
    """
    pairs, dropped = [], Counter()
    for number, row in enumerate(rows, 1):
        try:
            found = _pairs_of(row)
            pairs += [{"id": f"{row.get('id', number)}-{i}"} | pair for i, pair in enumerate(found)]
        except DataError as error:
            dropped[error.reason or str(error)] += 1
    if not pairs:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
        raise DataError(
            f"None of {len(rows)} rows is a preference ({reasons or 'there are no rows'}). A row needs chosen and "
            "rejected, two different answers to one prompt; or prompt, answers and scores, not all alike."
        )
    return Preferences(pairs, dropped)


def from_scores(prompt: list[dict], answers: list[str], scores: list, most: int | None = None) -> list[dict]:
    """Pairs of one prompt's answers: the higher score is chosen, equal ones and missing ones make no pair.

    Args:
        scores: numbers, or text that holds one; None or NaN is missing.
        most: pairs that are kept, those of the largest difference first, an answer as seldom again as can be.

    Raises DataError: not one score per answer, or one that is no number.
    """
    if len(answers) != len(scores):
        raise DataError(f"{len(answers)} answers have {len(scores)} scores; each needs one.", "scores do not fit")
    numbers = [_number(score) for score in scores]
    if bad := [answer for answer in answers if not isinstance(answer, str)]:
        raise DataError(f"An answer is {bad[0]!r:.40}, expected text.", "with an answer that is no text")
    known = [i for i, number in enumerate(numbers) if not math.isnan(number)]
    ranked = [(i, j) for i, j in itertools.permutations(known, 2) if numbers[i] > numbers[j]]
    ranked = [(i, j) for i, j in ranked if not _alike(answers[i], answers[j])]
    ranked.sort(key=lambda pair: numbers[pair[1]] - numbers[pair[0]])
    kept, used = [], Counter()
    while ranked and (most is None or len(kept) < most):
        best = min(ranked, key=lambda pair: used[pair[0]] + used[pair[1]])  # of equal ones the first
        ranked.remove(best)
        used.update(best)
        kept.append(best)
    return [_pair(prompt, answers[i], answers[j]) for i, j in kept]


def shared_prompt(chosen: str, rejected: str) -> str:
    """What two texts begin with, up to the last white space: no word is cut in two."""
    pairs = itertools.takewhile(lambda signs: signs[0] == signs[1], zip(chosen, rejected, strict=False))
    prefix = "".join(sign for sign, _ in pairs)
    rests = [text[len(prefix) :] for text in (chosen, rejected)]
    if all(not rest or rest[0].isspace() for rest in rests):
        return prefix
    return prefix[: max((i + 1 for i, sign in enumerate(prefix) if sign.isspace()), default=0)]


def longer_chosen(pairs: list[dict]) -> Metric:
    """The share of pairs whose chosen answer has more characters, of those where they differ; 0.5 is no length bias."""
    lengths = [(len(pair["chosen"]), len(pair["rejected"])) for pair in pairs]
    different = [chosen > rejected for chosen, rejected in lengths if chosen != rejected]
    return share(sum(different), len(different)) if different else Metric(0.5, n=0)


def hold_out(pairs: list[dict], test_share: float, seed: int) -> tuple[list[dict], list[dict]]:
    """`(train, held out)`: all pairs of a prompt on one side (`splits.split`)."""
    import datasets

    both = splits.split(datasets.Dataset.from_list(pairs), "group", "group", test_share, seed)
    return both[0].to_list(), both[1].to_list()


def conversational(pairs: list[dict]) -> list[dict]:
    """The pairs in TRL's conversational format."""
    return [
        {"prompt": pair["prompt"]}
        | {side: [{"role": "assistant", "content": pair[side]}] for side in ("chosen", "rejected")}
        for pair in pairs
    ]


def _pair(prompt: list[dict], chosen: str, rejected: str) -> dict:
    group = hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:12]
    return {"group": group, "prompt": prompt, "chosen": chosen, "rejected": rejected}


def _alike(first: str, second: str) -> bool:
    return first.split() == second.split()


def _number(score) -> float:
    try:
        return math.nan if score is None else float(score)
    except (TypeError, ValueError):
        raise DataError(f"score {score!r:.40} is no number; None stands for a missing one.", "bad score") from None


def _pairs_of(row: dict) -> list[dict]:
    schemas.refuse_more_than_text(row)
    if isinstance(row.get("prompt"), dict) and "messages" in row["prompt"]:  # OpenAI's input
        return _pairs_of(row["prompt"] | row | {"prompt": row["prompt"]["messages"]})
    if {"prompt", "answers", "scores"} <= row.keys():
        if not isinstance(row["answers"], list) or not isinstance(row["scores"], list):
            raise DataError("answers and scores must be lists.", "answers or scores are no lists")
        found = from_scores(_prompt(row), row["answers"], row["scores"])
        if not found:
            raise DataError("No two answers have different scores.", "scores are all alike")
        return found
    if not {"chosen", "rejected"} <= row.keys():
        raise DataError("A row needs chosen and rejected.", "without chosen and rejected")
    chosen, rejected = (_answer(row[name]) for name in ("chosen", "rejected"))
    if row.get("prompt") is not None:
        prompt = _prompt(row)
        chosen, rejected = _without_prompt(chat.unpacked(row["prompt"]), chosen, rejected)
    else:
        prompt, chosen, rejected = _split_conversations(chosen, rejected)
    if chat.is_blank(chosen) or chat.is_blank(rejected):
        raise DataError("One of the answers is empty.", "with an empty answer")
    if _alike(chosen, rejected):
        raise DataError("Both answers are the same.", "with two answers alike")
    return [_pair(prompt, chosen, rejected)]


def _answer(answer):
    """An answer as text or plain turns; one turn alone becomes a list of it."""
    answer = [answer] if isinstance(answer, dict) and {"content", "value"} & answer.keys() else answer
    turns = chat.turns_in(answer)
    return turns if isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns) else answer


def _prompt(row: dict) -> list[dict]:
    """The turns before a row's answers. Raises DataError where they do not end with the user's."""
    try:
        checked = chat.check_messages([*schemas.question_turns(row, "prompt"), chat.turn_of("assistant", "answer")])
    except (DataError, TypeError) as error:
        raise DataError(f"The prompt cannot be used: {error}.", "with a prompt that no user ends") from None
    return checked[:-1]


def _without_prompt(prompt, chosen, rejected) -> tuple[str, str]:
    """The two answers alone. Both may begin with the prompt, as text or as turns; where one does, it is no pair."""
    texts = []
    for answer in (chosen, rejected):
        if isinstance(answer, list):
            turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
            answer = answer[len(turns) :] if answer[: len(turns)] == turns else answer
            if len(answer) != 1 or not isinstance(answer[0], dict) or answer[0].get("role") != "assistant":
                raise DataError("An answer must be one turn of the assistant.", "with an answer of several turns")
            answer = answer[0].get("content")
        if not isinstance(answer, str):
            raise DataError(f"An answer is {answer!r:.40}, expected text.", "with an answer that is no text")
        texts.append(answer)
    repeats = [isinstance(prompt, str) and bool(prompt.strip()) and _begins_with(text, prompt) for text in texts]
    if any(repeats) and not all(repeats) and len(prompt) >= _LONG:
        raise DataError("One answer begins with the prompt, the other does not.", "with the prompt in one answer")
    return tuple(text[len(prompt) :].lstrip() if all(repeats) else text for text in texts)


def _begins_with(text: str, prompt: str) -> bool:
    """Whether a text begins with the prompt and goes on behind it: the border is no place within a word or sentence."""
    rest = text[len(prompt) :]
    return text.startswith(prompt) and (not rest or rest[0].isspace() or prompt[-1:].isspace())


def _split_conversations(chosen, rejected) -> tuple[list[dict], str, str]:
    """`(prompt, chosen, rejected)` of two whole conversations that must differ in their last answer alone."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        if not _TURN.match(chosen):
            prompt = shared_prompt(chosen, rejected)
            if chat.is_blank(prompt):
                raise DataError("The two texts share no prompt.", "without a prompt")
            return _prompt({"prompt": prompt.strip()}), chosen[len(prompt) :].strip(), rejected[len(prompt) :].strip()
        chosen, rejected = _transcript(chosen), _transcript(rejected)
    if not (isinstance(chosen, list) and isinstance(rejected, list) and chosen and rejected):
        raise DataError("chosen and rejected must both be text or both be turns.", "of two kinds of answers")
    if chosen[:-1] != rejected[:-1]:
        raise DataError("The conversations differ before their last answers.", "whose earlier turns differ")
    return _prompt({"prompt": chosen[:-1]}), *_without_prompt([], chosen[-1:], rejected[-1:])


def _transcript(text: str) -> list[dict]:
    """The turns of HH-RLHF's text. Two of one speaker in a row are one turn: the second sign is part of its text."""
    starts = list(_TURN.finditer(text))
    turns = []
    for match, following in itertools.zip_longest(starts, starts[1:]):
        content = text[match.end() : following.start() if following else len(text)]
        role = {"Human": "user", "Assistant": "assistant"}[match[1]]
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += text[match.start() : match.end()] + content
        else:
            turns.append({"role": role, "content": content})
    return [turn | {"content": turn["content"].strip()} for turn in turns]
