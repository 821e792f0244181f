"""Planted defects: families of damage done to clean text in known ways, to measure recall and precision of cleaning.

Each function takes clean rows `{"id", "text", ...}` (the carriers), leaves them as they are and adds `count` defective
rows with ids of their own and as many hard negatives: rows that look defective and are not. A carrier of real text
may have a natural defect or a natural twin, so recall and precision are taken over the planted ids (`Planted.family`),
or over carriers known to be clean. The same rows, count and seed give the same result.

    defects_copies     duplicates, rows leaked from the test set, evaluation text inside rows
    defects_text       damaged encoding, markup left in the text
    defects_rows       broken conversations, foreign languages, texts from which nothing can be learnt
    defects_personal   personal data and secrets

Here is what they share. The texts that they plant are the sections of `planted_text.texts`.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from nbhelpers.core.errors import DataError, ParameterError


@dataclass(frozen=True)
class Planted:
    """Rows with defects among them, and what a perfect step would do to each defective one."""

    rows: list[dict]  # carriers, defective rows and hard negatives, shuffled
    truth: dict[str, object]  # id of a defective row -> the answer, described at each function
    family: dict[str, str]  # id -> family, of defective rows and ("not: ...") of hard negatives


Item = tuple[str, dict, object]  # family, the row without its id, truth (None for a hard negative)


def check(rows: list[dict], count: int) -> None:
    """Raise DataError unless each row has a string `text` and an `id` of its own, ParameterError on a count below 1."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ParameterError(f"count is {count!r}, expected a whole number from 1: how many defective rows to plant.")
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("id"), str) or not isinstance(row.get("text"), str):
            raise DataError(
                f"Row {number} has no string `id` and `text`: {row!r:.80}. Defects are planted in text rows."
            )
    if len({row["id"] for row in rows}) < len(rows):
        raise DataError("Two rows have the same id. Give every row an id of its own before planting defects.")


def plant(name: str, rows: list[dict], seed: int, items: list[Item], rng: random.Random) -> Planted:
    """The rows and the items in random order, each item with the id `{name}-{seed}-{number}`.

    Raises DataError where a row has such an id already.
    """
    out, truth, family = list(rows), {}, {}
    taken = {row["id"] for row in rows}
    for number, (kind, row, answer) in enumerate(items):
        id = f"{name}-{seed}-{number}"
        if id in taken:
            raise DataError(f"The id {id} is taken: these rows went through {name} with seed {seed} already.")
        out.append({**row, "id": id})
        family[id] = kind
        if not kind.startswith("not: "):
            truth[id] = answer
    rng.shuffle(out)
    return Planted(out, truth, family)


def find_carriers(rows: list[dict], fits: Callable[[str], bool], what: str, rng: random.Random) -> list[dict]:
    """The rows whose text fits, in random order. Raises DataError saying that no row is `what` when there is none."""
    found = [row for row in rows if fits(row["text"])]
    if not found:
        raise DataError(f"None of the {len(rows)} rows is {what}. Pass more rows, or longer ones.")
    rng.shuffle(found)
    return found


def words_of(text: str) -> list[str]:
    """What stands between white space and has a letter or a digit in it."""
    return [word for word in text.split() if any(map(str.isalnum, word))]


def capitalise(text: str) -> str:
    """The text with its first letter a capital and the others as they are."""
    return text[:1].upper() + text[1:]
