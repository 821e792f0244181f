"""Rows to train on that repeat rows of a test set, found and dropped."""

from collections import Counter

from nbhelpers.data import chat, cleaning, column_names, conversations, duplicates, sources, wording
from nbhelpers.data.cleaning import Cleaned

RUN = 13  # words in a row that two texts share by copying
COMMON = 3  # rows that hold such a run, at most; beyond that it is the wording of a template


def runs(text: str, size: int = RUN) -> list[int]:
    """Hashes of every run of `size` words of a text, in order; none where it is shorter."""
    found = wording.words(text)
    return [hash(tuple(found[i : i + size])) for i in range(len(found) - size + 1)]


def gives_away(first: list[dict], second: list[dict], size: int = RUN) -> bool:
    """Whether two answers that share a rare run hold one text; two programs, when half of the shorter's runs agree."""
    texts = conversations.answer(first), conversations.answer(second)
    if not all(map(conversations.is_program, texts)):
        return True
    one, other = (set(runs(text, size)) for text in texts)
    return 2 * len(one & other) >= min(len(one), len(other))


def benchmarks(names: str) -> list:
    """The Datasets to decontaminate against: files or Hub sets, parted by commas, as `cleaning.validate` reads them."""
    return [
        cleaning.validate(column_names.mapping(rows).rename(rows)).rows
        for rows in (sources.read(name.strip()) for name in names.split(",") if name.strip())
    ]


def decontaminate(rows, evaluation, size: int = RUN, threshold: float = 0.95, common: int = COMMON) -> Cleaned:
    """Drop rows that hold a run of `size` words of an evaluation row or half of its runs, or that repeat one.

    Runs of 13 words are the measure of Brown et al. (2020, appendix C). What is left passes `splits.prove_disjoint`.
    Of conversations the system prompt is no sign of a leak, nor is a passage that two questions share which ask
    different things about it (`conversations.own`). A question that holds a held-out one whole is a leak. Two programs
    share runs by their grammar: an answer of code leaks as `gives_away` says.

    Args:
        rows: without duplicates, so that `common` counts different texts.
        evaluation: a Dataset or a list of Datasets, benchmarks and held-out rows alike.
        common: a run that more than so many of `rows` hold is the wording of a template, such as the instruction of a
            task or the headings of a form, and alone no sign of a leak; half of an evaluation row always is one, but
            where conversations share it in their answers alone, such as a disclaimer under each.
    """
    sets = evaluation if isinstance(evaluation, list) else [evaluation]
    held_out = [(name, row) for one in sets for name, row in zip(one["id"][:], _contents(one), strict=True)]
    owners: dict[int, list[int]] = {}  # run -> the first rows of the evaluation that hold it
    for number, (_, row) in enumerate(held_out):
        for run in set(runs(_text(row), size)):
            if len(found := owners.setdefault(run, [])) <= common:
                found.append(number)
    shared = [{run for run in runs(_text(row), size) if run in owners} for row in _contents(rows)]
    held_by = Counter(run for found in shared for run in found)
    verdicts: list[tuple[str, str] | None] = []
    for row, found, match in zip(_contents(rows), shared, duplicates.repeated(rows, sets, threshold), strict=True):
        suspects = {number: None for run in found for number in owners[run]}
        leak = None
        for name, other in (held_out[number] for number in suspects):
            mine, theirs = _differing(row, other)
            whole = set(runs(theirs, size))
            both = whole & set(runs(mine, size))
            asked, most = both.intersection(runs(_asked(other), size)), len(both) >= 0.5 * len(whole)
            rare = {run for run in both if held_by[run] <= common}
            if not (isinstance(row, str) or isinstance(other, str) or gives_away(row, other, size)):
                rare &= asked
            if rare or (asked and most):
                leak = max(leak or (0, ""), (len(both), name))
        if leak:
            verdicts.append((f"{size} words of an evaluation row", f"{leak[1]}, {leak[0]} runs"))
        else:
            verdicts.append(("repeats an evaluation row", f"{match[0]} {match[1]:.3f}") if match else None)
    return cleaning.filtered("decontaminate", rows, verdicts)


def _contents(rows) -> list:
    """The turns of every conversation, or the texts."""
    return rows["messages"][:] if "messages" in rows.column_names else cleaning.texts(rows)


def _text(row: str | list[dict]) -> str:
    """A text, or the turns of a conversation without the system's."""
    return row if isinstance(row, str) else "\n\n".join((conversations.question(row), conversations.answer(row)))


def _asked(row: str | list[dict]) -> str:
    """What a row asks; all of a plain text."""
    return row if isinstance(row, str) else conversations.question(row)


def _differing(row, other) -> tuple[str, str]:
    """Two texts as they are; of two conversations what each asks itself, with its answer."""
    if isinstance(row, str) or isinstance(other, str):
        return _text(row), _text(other)
    questions = conversations.own(conversations.question(row), conversations.question(other))
    if all(chat.is_blank(text) for text in questions) or _contains(row, other):
        return _text(row), _text(other)
    return tuple(
        f"{text}\n\n{conversations.answer(turns)}" for text, turns in zip(questions, (row, other), strict=True)
    )


def _contains(row, other) -> bool:
    return conversations.contains(conversations.question(row), conversations.question(other))
