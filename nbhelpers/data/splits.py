"""Which rows are trained on and which are held out, how the kinds of rows are balanced, and the proof of no leak."""

import bisect
import hashlib
import itertools
import math
from collections import Counter
from datetime import datetime
from typing import Any

from nbhelpers.core.errors import AuditError, DataError, ParameterError
from nbhelpers.data import cleaning, contamination, conversations, duplicates, schemas
from nbhelpers.data.cleaning import Cleaned

WAYS = ("random", "stratified", "group", "temporal")


def split(rows, how: str = "random", column: str | None = None, test_share: float = 0.1, seed: int = 0, held_out=()):
    """`(train, test)` of a `datasets.Dataset`, each in the order of `rows`; which rows, their own order never decides.

    Args:
        how: `random`; `stratified`: the same share of each value of `column`, to the nearest row; `group`: all rows of
            one value of `column` on one side, whole values drawn where they fit into `test_share` of the rows, the
            smallest one where none does; `temporal`: the rows with the latest values of `column` (numbers, or dates as
            ISO 8601 writes them), ties all on the test side. Conversations that ask the same are never parted by the
            first two, nor, where they fit into the share, those whose answers have 13 words in a row in common, such as
            code that differs in its indentation.
        test_share: share of the rows to hold out, above 0 and below 1.
        held_out: `group` only: these values, instead of drawing.

    Raises:
        ParameterError: an unknown way, column, share or value to hold out; a column that cannot be put into an order.
        DataError: one side would be empty; a value to sort or group by is missing.
    """
    if how not in WAYS or not 0 < test_share < 1:
        raise ParameterError(
            f"how={how!r}, test_share={test_share!r}: how is {', '.join(WAYS)}; the share between 0 and 1."
        )
    if how != "random" and column not in rows.column_names:
        raise ParameterError(f"A {how} split needs a column; {column!r} is not one of {', '.join(rows.column_names)}.")
    ids, values = rows["id"][:], rows[column][:] if how != "random" else [""] * len(rows)
    if missing := [i for i, value in enumerate(values, 1) if value is None or value != value]:
        raise DataError(f"{len(missing)} rows have no {column} (first: row {missing[0]}); fill it or drop them.")

    def rank(key: Any) -> bytes:
        return hashlib.sha256(f"{seed}\n{key}".encode()).digest()

    wanted = round(test_share * len(rows))
    if how == "group":
        sizes = Counter(values)
        if unknown := [value for value in held_out if value not in sizes]:
            raise ParameterError(f"held_out names {unknown}, which no row has as its {column}.")
        chosen, left = set(held_out), wanted
        for value in sorted(sizes, key=rank) if not held_out else ():
            if sizes[value] <= left:
                chosen.add(value)
                left -= sizes[value]
        if not chosen and sizes:
            chosen.add(min(sizes, key=lambda value: (sizes[value], rank(value))))
        held = {i for i, value in enumerate(values) if value in chosen}
    elif how == "temporal":
        values = _in_time(values, column)
        first = sorted(values)[-max(1, wanted)] if values else None
        held = {i for i, value in enumerate(values) if value >= first}
    else:
        groups = list(range(len(rows)))
        if "messages" in rows.column_names:
            sizes = Counter(values)
            groups = _bound(rows["messages"][:], [round(test_share * sizes[value]) for value in values])
        members: dict[Any, dict[int, list[int]]] = {}
        value_of: dict[int, Any] = {}  # a group with several values counts as one of them, lest it be parted
        for i in sorted(range(len(rows)), key=lambda i: rank(ids[i])):
            value = value_of.setdefault(groups[i], values[i])
            members.setdefault(value, {}).setdefault(groups[i], []).append(i)
        held = set()
        for of_value in members.values():
            share = round(test_share * sum(map(len, of_value.values()))) or (how == "random")
            for group in sorted(of_value.values(), key=lambda group: rank(min(ids[i] for i in group))):
                if len(group) <= share:
                    held.update(group)
                    share -= len(group)
    if not 0 < len(held) < len(rows):
        raise DataError(
            f"{len(held)} of {len(rows)} rows would be held out; choose another share, column or more rows."
        )
    train = [i for i in range(len(rows)) if i not in held]
    return rows.select(train), rows.select(sorted(held))


def _bound(chats: list[list[dict]], limits: list[int]) -> list[int]:
    """For each conversation the number of the group that stays together: those that ask the same, or that give away.

    One answer gives another away as `contamination.decontaminate` sees it: by `RUN` words in a row that hardly another
    answer holds, here twice `COMMON`, since they may fall on both sides, if `contamination.gives_away` says so. Where
    such a group has more rows than the least of their `limits`, those that ask the same still stay together.
    """
    import numpy as np

    first: dict[str, int] = {}
    asked = [first.setdefault(schemas.fold(turns), i) for i, turns in enumerate(chats)]
    leader = asked.copy()

    def lead(i: int) -> int:
        while leader[i] != i:
            leader[i] = i = leader[leader[i]]
        return i

    found = [np.unique(np.array(contamination.runs(conversations.answer(turns)), np.int64)) for turns in chats]
    runs = np.concatenate([np.zeros(0, np.int64), *found])
    holders = np.repeat(np.arange(len(chats)), [len(of_answer) for of_answer in found])
    order = np.argsort(runs, kind="stable")
    runs, holders = runs[order], holders[order]
    counts = np.unique(runs, return_counts=True)[1]
    rare, pairs = np.repeat(counts <= 2 * contamination.COMMON, counts), [np.zeros(0, np.int64)]
    for apart in range(1, min(2 * contamination.COMMON, len(runs))):
        linked = (runs[apart:] == runs[:-apart]) & rare[apart:]
        pairs.append(np.unique(holders[:-apart][linked] * len(chats) + holders[apart:][linked]))
    for one, other in (divmod(pair, len(chats)) for pair in np.unique(np.concatenate(pairs)).tolist()):
        if contamination.gives_away(chats[one], chats[other]):
            leader[lead(other)] = lead(one)
    leaders = [lead(i) for i in range(len(chats))]
    sizes, least = Counter(leaders), dict.fromkeys(leaders, len(chats))
    for group, limit in zip(leaders, limits, strict=True):
        least[group] = min(least[group], limit)
    return [group if sizes[group] <= least[group] else own for group, own in zip(leaders, asked, strict=True)]


def _in_time(values: list, column: str) -> list:
    """Values that can be put into an order: numbers and dates as they are, text as numbers or ISO 8601 dates."""
    if not all(isinstance(value, str) for value in values):
        return values
    for read in (float, datetime.fromisoformat):
        try:
            return [read(value) for value in values]
        except ValueError:
            continue
    raise ParameterError(f"{column} cannot be put into an order of time: give numbers, or dates like 2026-11-23.")


def leaks(train, test, threshold: float = 0.95) -> dict[str, tuple[str, float]]:
    """Id of each training row that repeats a held-out one, exactly or nearly -> `(held-out id, similarity)`."""
    matches = duplicates.repeated(train, [test], threshold)
    return {name: match for name, match in zip(train["id"], matches, strict=True) if match}


def prove_disjoint(train, test, threshold: float = 0.95) -> dict[str, int]:
    """Compare every training row with every held-out one; return how many were compared.

    Raises:
        AuditError: rows leak from one side to the other; names the first and the remedy.
    """
    found = leaks(train, test, threshold)
    if found:
        first = ", ".join(f"{a} ~ {b} ({value:.2f})" for a, (b, value) in list(found.items())[:3])
        raise AuditError(
            f"{len(found)} of {len(train)} training rows repeat a held-out row (first: {first}): the score would "
            "reward memory. Remove duplicates before splitting, split by group, or drop them with "
            "contamination.decontaminate."
        )
    return {"train": len(train), "test": len(test), "leaked": 0}


def length_class(rows, limits: tuple[int, ...] = (25, 50, 100, 200)) -> list[str]:
    """For each row the class of its length in words, `26-50`: a column to balance or stratify by."""
    bounds = [0, *sorted(limits)]
    names = [f"{low + 1}-{high}" for low, high in itertools.pairwise(bounds)] + [f"over {bounds[-1]}"]
    return [names[bisect.bisect_left(bounds[1:], len(text.split()))] for text in cleaning.texts(rows)]


def balance_table(rows, column: str, seed: int = 0):
    """Rows of each value of a column, as they are and balanced by `under` and `over`, as a `pandas.DataFrame`."""
    import pandas as pd

    sizes = {"as they are": rows[column][:]}
    sizes |= {f"balanced, {how}": balance(rows, column, how, seed=seed).rows[column][:] for how in ("under", "over")}
    return pd.DataFrame({name: pd.Series(values).value_counts() for name, values in sizes.items()})


def balance(rows, column: str, how: str = "under", most: float = 1.0, seed: int = 0) -> Cleaned:
    """Rows with the values of `column` in balance.

    A row without a value (None) counts as one of a value of its own.

    Args:
        how: `under` drops rows of the common values at random; `over` repeats rows of the rare ones, in turn, under
            ids of their own; `weights` keeps all and adds a column `weight`, the mean of which is 1.
        most: how many times as many rows as the rarest value (`under`), or as few as the commonest (`over`), a value
            may have; 1 is full balance.

    Raises:
        ParameterError: an unknown way or column, `most` below 1 or infinite, a column `weight` that is there already.
    """
    import datasets
    import numpy as np

    if how not in ("under", "over", "weights") or column not in rows.column_names or not 1 <= most < math.inf:
        raise ParameterError(
            f"how={how!r}, column={column!r}, most={most!r}: how is under, over or weights, the column one of "
            f"{', '.join(rows.column_names)}, most at least 1."
        )
    if how == "weights" and "weight" in rows.column_names:
        raise ParameterError("The rows have a column weight already; rename or remove it first.")
    values = list(rows[column])
    sizes = Counter(values)
    generator = np.random.default_rng(seed)
    if how == "weights":
        weights = [len(values) / len(sizes) / sizes[value] for value in values]
        return Cleaned("balance", rows.add_column("weight", np.array(weights, float)), len(rows))
    order = generator.permutation(len(rows)).tolist()
    if how == "under":
        limit, taken = int(most * min(sizes.values(), default=0)), Counter()
        dropped = set()
        for i in order:
            taken[values[i]] += 1
            if taken[values[i]] > limit:
                dropped.add(i)
        verdicts = [
            (f"more than {limit} of one {column}", str(values[i])) if i in dropped else None for i in range(len(rows))
        ]
        return cleaning.filtered("balance", rows, verdicts)
    target = -(-max(sizes.values(), default=0) // most)
    by_value: dict[Any, list[int]] = {}
    for i in order:
        by_value.setdefault(values[i], []).append(i)
    extra = [(members[k % len(members)], k // len(members)) for members in by_value.values()
             for k in range(len(members), int(max(target, len(members))))]  # fmt: skip
    if not extra:
        return Cleaned("balance", rows, len(rows))
    copies = rows.select([i for i, _ in extra])
    names = [f"{rows[i]['id']} copy {turn}" for i, turn in extra]
    copies = copies.remove_columns("id").add_column("id", names).select_columns(rows.column_names)
    both = datasets.concatenate_datasets([rows, copies.cast(rows.features)])
    return Cleaned(
        "balance", both, len(rows), [(name, "added", f"repeated for balance of {column}", "") for name in names]
    )
