"""Rows to train on that repeat rows of a test set, found and dropped."""

from collections import Counter

from nbhelpers.data import cleaning, duplicates
from nbhelpers.data.cleaning import Cleaned


def runs(text: str, size: int) -> list[int]:
    """Hashes of every run of `size` words of a text, in order; none where it is shorter."""
    found = duplicates.words(text)
    return [hash(tuple(found[i : i + size])) for i in range(len(found) - size + 1)]


def decontaminate(rows, evaluation, size: int = 13, threshold: float = 0.95, common: int = 3) -> Cleaned:
    """Drop rows that hold a run of `size` words of an evaluation row or half of its runs, or that repeat one.

    Runs of 13 words are the measure of Brown et al. (2020, appendix C). What is left passes `splits.prove_disjoint`.

    Args:
        rows: without duplicates, so that `common` counts different texts.
        evaluation: a Dataset or a list of Datasets, benchmarks and held-out rows alike.
        common: a run that more than so many of `rows` hold is the wording of a template, such as the instruction of a
            task or the headings of a form, and alone no sign of a leak; half of an evaluation row always is one.
    """
    sets = evaluation if isinstance(evaluation, list) else [evaluation]
    owner: dict[int, str] = {}
    for held_out in sets:
        for name, text in zip(held_out["id"][:], cleaning.texts(held_out), strict=True):
            for run in runs(text, size):
                owner.setdefault(run, name)
    shared = [{run for run in runs(text, size) if run in owner} for text in cleaning.texts(rows)]
    held_by = Counter(run for found in shared for run in found)
    verdicts: list[tuple[str, str] | None] = []
    size_of = Counter(owner.values())
    for found, match in zip(shared, duplicates.repeated(rows, sets, threshold), strict=True):
        owners = Counter(owner[run] for run in found if held_by[run] <= common)
        owners += Counter({n: k for n, k in Counter(owner[run] for run in found).items() if k >= 0.5 * size_of[n]})
        if owners:
            name, count = owners.most_common(1)[0]
            verdicts.append((f"{size} words of an evaluation row", f"{name}, {count} runs"))
        else:
            verdicts.append(("repeats an evaluation row", f"{match[0]} {match[1]:.3f}") if match else None)
    return cleaning.filtered("decontaminate", rows, verdicts)
