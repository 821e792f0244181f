"""Cleaning more rows than memory holds, shard by shard."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from nbhelpers.core.errors import ParameterError
from nbhelpers.data import cleaning
from nbhelpers.data.cleaning import Cleaned
from nbhelpers.data.conversion import write_jsonl


def stream(
    raw: Iterable[dict], steps: list[Callable[[object], Cleaned]], path: Path, shard: int = 10_000
) -> list[dict]:
    """Clean rows of any number: shard by shard through `validate` and `steps`, the kept rows written as JSONL.

    A step that must remember rows of earlier shards is a closure over its memory, for example
    `partial(duplicates.drop_near, index=DuplicateIndex())`. The file appears under `path` only when it is whole. What
    stays in memory is one shard, the ids, and what the steps remember.

    Args:
        raw: rows as `validate` takes them.
        shard: rows cleaned at a time, at least 1.

    Returns:
        `Cleaned.line` of every step, summed over the shards.

    Raises:
        DataError: none of the first 1,000 rows has a known shape.
        ParameterError: `shard` is below 1.
    """
    if shard < 1:
        raise ParameterError(f"shard={shard!r}; at least one row must be cleaned at a time.")
    rows = iter(raw)
    head = list(itertools.islice(rows, 1_000))
    shape, seen, rows = cleaning.shape_of(head), set(), itertools.chain(head, rows)
    shards: list[list[dict]] = []

    def kept():
        for first in itertools.count(1, shard):
            if not (block := list(itertools.islice(rows, shard))):
                return
            done = [cleaning.validate(block, shape, first, seen)]
            for step in steps:
                done.append(step(done[-1].rows))
            shards.append([step.line() for step in done])
            yield from done[-1].rows

    write_jsonl(kept(), path)
    return [_sum(lines) for lines in zip(*shards, strict=True)]


def _sum(lines: tuple[dict, ...]) -> dict:
    why = sum((Counter(line["why"]) for line in lines), Counter())
    names = [name for name in ("read", "dropped", "changed", "added", "kept") if any(name in line for line in lines)]
    numbers = {name: sum(line.get(name, 0) for line in lines) for name in names}
    return {"step": lines[0]["step"]} | numbers | {"why": dict(why.most_common())}
