"""How well the cleaning steps find what they are for: each runs on planted defects and on look-alikes to be spared."""

from collections import Counter

from nbhelpers.data import (
    cleaning,
    contamination,
    defects_copies,
    defects_rows,
    duplicates,
    normalisation,
    privacy,
    splits,
)
from nbhelpers.data.defects import Planted
from nbhelpers.data.defects_personal import pii
from nbhelpers.data.defects_text import comparable, dirty


def _dataset(rows: list[dict]):
    import datasets

    return datasets.Dataset.from_list(rows)


def _lines(step: str, planted: Planted, flagged: set[str], seed: int) -> list[dict]:
    counts = Counter(planted.family.values())
    hits = Counter(family for name, family in planted.family.items() if name in flagged)
    return [
        {"step": step, "family": family, "defective": not family.startswith("not: ")}
        | {"seed": seed, "n": n, "flagged": hits[family]}
        for family, n in sorted(counts.items())
    ]


def _dropped(*steps: cleaning.Cleaned) -> set[str]:
    return {name for step in steps for name, action, *_ in step.log if action == "dropped"}


def _of_duplicates(rows: list[dict], seed: int, count: int, threshold: float) -> list[dict]:
    planted = defects_copies.duplicates(rows, seed, count)
    # a copy must be found as such: carriers come first, as the row that is there already
    order = sorted(planted.rows, key=lambda row: row["id"] in planted.family)
    exact = duplicates.drop_exact(_dataset(order))
    near = duplicates.drop_near(exact.rows, threshold)
    return _lines("duplicates", planted, _dropped(exact, near), seed)


def _of_normalise(rows: list[dict], seed: int, count: int) -> list[dict]:
    planted = dirty(rows, seed, count)
    flagged = set()
    for row in planted.rows:
        after = normalisation.normalise_text(row["text"])[0]
        if row["id"] in planted.truth:
            right = comparable(after) == comparable(planted.truth[row["id"]])
        else:
            right = comparable(after) != comparable(row["text"])
        flagged |= {row["id"]} if right else set()
    return _lines("normalise", planted, flagged, seed)


def _of_redact(seed: int, count: int) -> list[dict]:
    planted = pii(seed, count)
    total, hit, wrong = Counter(), Counter(), Counter()
    for row in planted.rows:
        family, truth = planted.family[row["id"]], planted.truth.get(row["id"], [])
        found = privacy.find(row["text"])
        total[family] += len(truth) or 1
        for start, end, kind in truth:
            hit[family] += (start, end, kind) in {(s.start, s.end, s.kind) for s in found}
        false = [s for s in found if not any(s.start < end and s.end > start for start, end, _ in truth)]
        wrong[family if family.startswith("not: ") else "not: beside a planted span"] += len(false)
    total["not: beside a planted span"] = len(planted.truth)
    return [
        {"step": "redact", "family": family, "defective": not family.startswith("not: ")}
        | {"seed": seed, "n": n, "flagged": (wrong if family.startswith("not: ") else hit)[family]}
        for family, n in sorted(total.items())
    ]


def measure(rows: list[dict], seed: int, count: int, threshold: float = 0.95):
    """Each step on `count` planted defects and as many look-alikes, on half of `rows` each for train and evaluation.

    Args:
        rows: clean texts `{"id", "text"}`, a few hundred or more.
        threshold: of near-duplicates.

    Returns:
        `pandas.DataFrame` with one line a step and family: step, family, defective (a look-alike has False), seed,
        n (rows; for `redact`, spans), flagged (rows found and mended rightly, or flagged in error).
    """
    import pandas as pd

    lines = _of_duplicates(rows, seed, count, threshold) + _of_normalise(rows, seed, count) + _of_redact(seed, count)
    planted = defects_rows.broken(rows, seed, count)
    lines += _lines("schema", planted, _dropped(cleaning.validate(planted.rows)), seed)
    planted = defects_rows.foreign(rows, seed, count)
    lines += _lines("language", planted, _dropped(cleaning.keep_language(_dataset(planted.rows))), seed)
    planted = defects_rows.low_quality(rows, seed, count)
    lines += _lines("quality", planted, _dropped(cleaning.filter_quality(_dataset(planted.rows))), seed)
    train, evaluation = rows[::2], rows[1::2]
    clean = contamination.decontaminate(_dataset(train), _dataset(evaluation), threshold=threshold).rows.to_list()
    planted = defects_copies.contaminated(clean, evaluation, seed, count)
    found = contamination.decontaminate(_dataset(planted.rows), _dataset(evaluation), threshold=threshold)
    lines += _lines("decontaminate", planted, _dropped(found), seed)
    leaked, truth = defects_copies.leaks(clean, evaluation, seed, count)
    found = set(splits.leaks(_dataset(leaked), _dataset(evaluation), threshold))
    lines += [
        {"step": "leakage proof", "family": family, "defective": defective, "seed": seed, "n": len(ids)}
        | {"flagged": len(ids & found)}
        for family, defective, ids in (
            ("leaked", True, set(truth)),
            ("not: other training rows", False, {row["id"] for row in leaked} - set(truth)),
        )
    ]
    return pd.DataFrame(lines)


def summary(table):
    """Recall and precision of each step over the lines of `measure`, with the numbers they rest on.

    Recall is the share of the planted defects that were flagged, precision the share of what was flagged that was a
    defect. `worst family` is that of the lowest recall.
    """
    import pandas as pd

    out = []
    for step, lines in table.groupby("step", sort=False):
        bad, good = lines[lines.defective], lines[~lines.defective]
        by_family = bad.groupby("family")[["flagged", "n"]].sum()
        recalls = by_family.flagged / by_family.n
        hits, errors = int(bad.flagged.sum()), int(good.flagged.sum())
        out.append(
            {"step": step, "recall": hits / bad.n.sum(), "precision": hits / max(1, hits + errors)}
            | {"defects": int(bad.n.sum()), "look-alikes": int(good.n.sum()), "flagged in error": errors}
            | {"worst family": recalls.idxmin(), "its recall": recalls.min()}
        )
    return pd.DataFrame(out).set_index("step")
