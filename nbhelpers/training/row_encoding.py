"""Rows of a source as tokens: those to train on and those to score."""

from collections import Counter

from nbhelpers.data import sources
from nbhelpers.models import encoding


def encode_source(run, source, tokenizer, tasks: list[str], count: int = 1_000):
    """`(rows to train on, rows to score)` of a source, encoded, as even over tasks and packages as they come.

    Up to `count` rows to train on, `eval_rows` a task to score; what was read, kept and dropped is printed.
    """
    p = run.parameters
    encoded = encoding.encode_rows(sources.balanced(source.train, tasks, count, p.seed), tokenizer, p.max_length)
    print(f"to train on: {encoded}")
    return encoded.dataset, encode_held_out(run, source, tokenizer, tasks)


def encode_held_out(run, source, tokenizer, tasks: list[str]):
    """The rows to score of `encode_source`, alone."""
    p = run.parameters
    wanted = p.eval_rows * len(tasks)
    held_out = encoding.encode_rows(sources.balanced(source.test, tasks, 4 * wanted, p.seed), tokenizer, p.max_length)
    scored = sources.balanced(held_out.dataset, tasks, wanted, p.seed)
    print(f"held out: {held_out}; {len(scored)} of them scored")
    return scored


def first_of_each(rows, count: int):
    """The first `count` rows of each task of a `Dataset`, in their order."""
    seen: Counter[str] = Counter()
    chosen = []
    for i, task in enumerate(rows["task"]):
        seen[task] += 1
        chosen += [i] if seen[task] <= count else []
    return rows.select(chosen)
