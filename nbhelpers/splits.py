"""Which rows are trained on and which are held out, how the kinds of rows are balanced, and the proof of no leak."""

import hashlib
from collections import Counter
from typing import Any

from nbhelpers import cleaning
from nbhelpers.cleaning import Cleaned
from nbhelpers.duplicates import DuplicateIndex, drop_exact
from nbhelpers.errors import AuditError, DataError, ParameterError

WAYS = ("random", "stratified", "group", "temporal")


def split(rows, how: str = "random", column: str | None = None, test_share: float = 0.1, seed: int = 0, held_out=()):
    """`(train, test)` of a `datasets.Dataset`, each in the order of `rows`.

    Args:
        how: `random`; `stratified`: the same share of each value of `column`; `group`: all rows of one value of
            `column` on one side, whole values drawn until `test_share` of the rows is reached; `temporal`: the rows
            with the largest values of `column`, ties all on the test side.
        test_share: share of the rows to hold out, above 0 and below 1.
        held_out: `group` only: these values, instead of drawing.

    Raises:
        ParameterError: an unknown way, column or share.
        DataError: one side would be empty; a value to sort or group by is missing.
    """
    if how not in WAYS or not 0 < test_share < 1:
        raise ParameterError(
            f"how={how!r}, test_share={test_share!r}: how is {', '.join(WAYS)}; the share between 0 and 1."
        )
    if how != "random" and column not in rows.column_names:
        raise ParameterError(f"A {how} split needs a column; {column!r} is not one of {', '.join(rows.column_names)}.")
    values = list(rows[column]) if how != "random" else [""] * len(rows)
    if missing := [i for i, value in enumerate(values, 1) if value is None]:
        raise DataError(f"{len(missing)} rows have no {column} (first: row {missing[0]}); fill it or drop them.")

    def rank(key: Any) -> bytes:
        return hashlib.sha256(f"{seed}\n{key}".encode()).digest()

    by_rank = sorted(range(len(rows)), key=lambda i: rank(rows[i]["id"])) if how in ("random", "stratified") else []
    if how == "group":
        sizes = Counter(values)
        chosen, count = set(held_out), 0
        for value in sorted(sizes, key=rank) if not held_out else ():
            if count and count + sizes[value] > test_share * len(rows):
                continue
            chosen.add(value)
            count += sizes[value]
        test = [i for i, value in enumerate(values) if value in chosen]
    elif how == "temporal":
        border = sorted(values)[min(len(rows) - 1, round((1 - test_share) * len(rows)))]
        test = [i for i, value in enumerate(values) if value >= border]
    else:
        members: dict[Any, list[int]] = {}
        for i in by_rank:
            members.setdefault(values[i], []).append(i)
        test = [i for of_value in members.values() for i in of_value[: round(test_share * len(of_value))]]
    held = set(test)
    if not 0 < len(held) < len(rows):
        raise DataError(
            f"{len(held)} of {len(rows)} rows would be held out; choose another share, column or more rows."
        )
    train = [i for i in range(len(rows)) if i not in held]
    return rows.select(train), rows.select(sorted(held))


def leaks(train, test, threshold: float = 0.95) -> dict[str, tuple[str, float]]:
    """Id of each training row that repeats a held-out one, exactly or nearly -> `(held-out id, similarity)`."""
    seen: dict[str, str] = {}
    drop_exact(test, seen)
    exact = drop_exact(_renamed(train), dict(seen))
    owners = set(seen.values())
    found = {name.removeprefix("train "): (other, 1.0) for name, _, _, other in exact.log if other in owners}
    index = DuplicateIndex(threshold)
    index.add(list(test["id"]), cleaning.texts(test))
    near = index.add(list(train["id"]), cleaning.texts(train), keep=False)
    return {name: match for name, match in zip(train["id"], near, strict=True) if match} | found


def _renamed(rows):
    """The same rows under ids that no held-out row has: both sides may count theirs from 1."""
    return rows.remove_columns("id").add_column("id", [f"train {name}" for name in rows["id"]])


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
            "duplicates.decontaminate."
        )
    return {"train": len(train), "test": len(test), "leaked": 0}


def balance(rows, column: str, how: str = "under", most: float = 1.0, seed: int = 0) -> Cleaned:
    """Rows with the values of `column` in balance.

    Args:
        how: `under` drops rows of the common values at random; `over` repeats rows of the rare ones, in turn, under
            ids of their own; `weights` keeps all and adds a column `weight`, the mean of which is 1.
        most: how many times as many rows as the rarest value (`under`), or as few as the commonest (`over`), a value
            may have; 1 is full balance.

    Raises:
        ParameterError: an unknown way or column, `most` below 1.
    """
    import datasets
    import numpy as np

    if how not in ("under", "over", "weights") or column not in rows.column_names or most < 1:
        raise ParameterError(
            f"how={how!r}, column={column!r}, most={most!r}: how is under, over or weights, the column one of "
            f"{', '.join(rows.column_names)}, most at least 1."
        )
    values = list(rows[column])
    sizes = Counter(values)
    generator = np.random.default_rng(seed)
    if how == "weights":
        weights = [len(values) / len(sizes) / sizes[value] for value in values]
        return Cleaned("balance", rows.add_column("weight", weights), len(rows))
    order = generator.permutation(len(rows)).tolist()
    if how == "under":
        limit, taken = int(most * min(sizes.values())), Counter()
        dropped = set()
        for i in order:
            taken[values[i]] += 1
            if taken[values[i]] > limit:
                dropped.add(i)
        verdicts = [
            (f"more than {limit} of one {column}", str(values[i])) if i in dropped else None for i in range(len(rows))
        ]
        return cleaning.filtered("balance", rows, verdicts)
    target = -(-max(sizes.values()) // most)
    by_value: dict[Any, list[int]] = {}
    for i in order:
        by_value.setdefault(values[i], []).append(i)
    extra = [(members[k % len(members)], k // len(members)) for members in by_value.values()
             for k in range(len(members), int(max(target, len(members))))]  # fmt: skip
    copies = rows.select([i for i, _ in extra])
    names = [f"{rows[i]['id']} copy {turn}" for i, turn in extra]
    copies = copies.remove_columns("id").add_column("id", names).select_columns(rows.column_names)
    both = datasets.concatenate_datasets([rows, copies.cast(rows.features)]) if extra else rows
    return Cleaned(
        "balance", both, len(both), [(name, "changed", f"repeated for balance of {column}", "") for name in names]
    )
