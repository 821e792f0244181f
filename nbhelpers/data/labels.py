"""Which of two answers people prefer: their labels as lines of a file, how far they agree, and the pairs that follow.

An item is `{"id", "prompt", "answers"}` with two answers. A label is `{"item", "labeller", "left", "choice"}`: `left`
is the number (0 or 1) of the answer that was shown on the left, `choice` is `left`, `right` or `tie`.
"""

import itertools
import json
import os
import random
from collections import Counter
from pathlib import Path

from nbhelpers.core.errors import DataError
from nbhelpers.core.statistics import Metric, share
from nbhelpers.data import files, preferences

CHOICES = ("left", "right", "tie")


def shown_left(item: dict, labeller: str, seed: int) -> int:
    """Which answer (0 or 1) this labeller sees on the left: drawn, so that a habit of one side is no preference."""
    return random.Random(f"{seed} {labeller} {item['id']}").randrange(2)


def order(items: list[dict], labeller: str, seed: int) -> list[dict]:
    """The items in the order in which this labeller sees them."""
    return random.Random(f"{seed} {labeller}").sample(items, len(items))


def preferred(label: dict) -> int | None:
    """The number of the preferred answer; None for a tie."""
    return None if label["choice"] == "tie" else label["left"] ^ (label["choice"] == "right")


def of_items(labels: list[dict], items: list[dict]) -> list[dict]:
    """The labels of these items alone: a file may hold those of an earlier run too."""
    known = {item["id"] for item in items}
    return [label for label in labels if label["item"] in known]


def read(path: str | Path) -> list[dict]:
    """The labels of a file, checked; an empty list where there is none yet.

    Raises:
        DataError: a line is no label, or one labeller has labelled an item twice; names the line.
    """
    path = Path(path)
    if not path.exists() or path.stat().st_size == 0:
        return []
    labels, seen = files.read(path), set()
    for number, label in enumerate(labels, 1):
        lacks = {"item", "labeller", "left", "choice"} - label.keys()
        if lacks or label["choice"] not in CHOICES or label["left"] not in (0, 1):
            raise DataError(
                f"{path}, line {number} is no label: {json.dumps(label):.100}. It needs item, labeller, left (0 or 1) "
                f"and choice ({', '.join(CHOICES)})."
            )
        key = label["item"], label["labeller"]
        if key in seen:
            raise DataError(
                f"{path}, line {number}: {key[1]} has labelled item {key[0]} before. Remove one of the two."
            )
        seen.add(key)
    return labels


def append(path: str | Path, label: dict) -> bool:
    """Add a label to a file, on disk when this returns. False where this labeller has labelled the item already."""
    path = Path(path)
    if any((old["item"], old["labeller"]) == (label["item"], label["labeller"]) for old in read(path)):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(label, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return True


def by_score(items: list[dict], scores: list[tuple[float, float]], labeller: str) -> list[dict]:
    """The labels of a rule: of each item the answer with the higher score, equal ones a tie; sides are drawn."""
    made = []
    for item, (first, second) in zip(items, scores, strict=True):
        left = shown_left(item, labeller, 0)
        choice = "tie" if first == second else "left" if (first > second) == (left == 0) else "right"
        made.append({"item": item["id"], "labeller": labeller, "left": left, "choice": choice})
    return made


def left_rate(labels: list[dict]) -> Metric | None:
    """How often the left answer was chosen, of those without a tie: 0.5 where nobody has a habit of one side."""
    sides = Counter(label["choice"] for label in labels)
    decided = sides["left"] + sides["right"]
    return share(sides["left"], decided) if decided else None


def table(labels: list[dict]):
    """A `pandas.DataFrame`, a row a labeller: labels, how often the second answer is preferred, and the left one."""
    import pandas as pd

    by_labeller: dict[str, list[dict]] = {}
    for label in labels:
        by_labeller.setdefault(label["labeller"], []).append(label)
    value = {1: 1.0, 0: 0.0, None: 0.5}
    rows = {
        name: {
            "labels": len(given),
            "prefers the second": sum(value[preferred(label)] for label in given) / len(given),
            "takes the left": left.value if (left := left_rate(given)) else float("nan"),
        }
        for name, given in by_labeller.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def agreement(labels: list[dict]) -> dict[str, float]:
    """Krippendorff's alpha of all labellers, and Cohen's kappa of every two, a tie being a value like the others.

    1 is full agreement and 0 that of chance. Alpha takes items that not everybody labelled (Krippendorff 2004); kappa
    is of the items that both did. A value is NaN where it is not defined: no item in common, or one and the same answer
    throughout.

    Raises:
        DataError: fewer than two labellers.
    """
    import krippendorff
    import numpy as np
    from sklearn.metrics import cohen_kappa_score

    values = {(label["labeller"], label["item"]): preferred(label) for label in labels}
    coded = {key: 2 if value is None else value for key, value in values.items()}
    people, items = (sorted({key[i] for key in coded}) for i in (0, 1))
    if len(people) < 2:
        raise DataError(f"Agreement needs two labellers; the labels are of {', '.join(people) or 'nobody'}.")
    table = np.array([[coded.get((person, item), np.nan) for item in items] for person in people], dtype=float)
    judged_twice = [column[~np.isnan(column)] for column in table.T if (~np.isnan(column)).sum() > 1]
    varied = len({value for column in judged_twice for value in column.tolist()}) > 1
    found = {
        "Krippendorff's alpha": float(krippendorff.alpha(table, level_of_measurement="nominal")) if varied else np.nan
    }
    for (i, first), (j, second) in itertools.combinations(enumerate(people), 2):
        both = ~np.isnan(table[[i, j]]).any(0)
        a, b = table[i, both], table[j, both]
        defined = len({*a.tolist(), *b.tolist()}) > 1
        found[f"Cohen's kappa, {first} and {second}"] = float(cohen_kappa_score(a, b)) if defined else float("nan")
    return found


def to_pairs(items: list[dict], labels: list[dict]) -> preferences.Preferences:
    """A pair for each item of which more labels prefer one answer than the other; the rest is dropped and counted.

    Raises:
        DataError: no item gives a pair, or a label is of an item that there is not.
    """
    known = {item["id"] for item in items}
    if strange := sorted({label["item"] for label in labels} - known):
        raise DataError(f"{len(strange)} labels are of items that there are not, such as {strange[0]}: another file?")
    votes: dict[str, Counter] = {}
    for label in labels:
        votes.setdefault(label["item"], Counter())[preferred(label)] += 1
    rows, undecided = [], 0
    for item in items:
        count = votes.get(item["id"], Counter())
        if count[0] == count[1]:
            undecided += 1
            continue
        best = int(count[1] > count[0])
        chosen, rejected = item["answers"][best], item["answers"][1 - best]
        rows.append({"id": item["id"], "prompt": item["prompt"], "chosen": chosen, "rejected": rejected})
    found = preferences.from_rows(rows)
    dropped = found.dropped + Counter({"without a label or tied": undecided})
    return preferences.Preferences(found.pairs, +dropped)
