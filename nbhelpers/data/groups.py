"""How the groups in a data set differ: their sizes and mixes of labels, and which words go with whom."""

import math
import re
from collections import Counter

from nbhelpers.core.errors import ParameterError
from nbhelpers.data import vocabulary

GROUPS = {
    "female": ["she", "her", "hers", "herself", "woman", "women", "girl", "girls", "mother", "daughter", "female"],
    "male": ["he", "him", "his", "himself", "man", "men", "boy", "boys", "father", "son", "male"],
}
TERMS = {
    "leadership": ["leader", "manager", "director", "boss", "chief", "president", "captain", "founder", "supervisor"],
    "support": ["assistant", "helper", "secretary", "nurse", "receptionist", "clerk", "maid", "caregiver", "cleaner"],
    "competence": ["expert", "skilled", "competent", "brilliant", "clever", "capable", "talented", "genius", "gifted"],
    "family": ["home", "family", "child", "children", "baby", "wedding", "marriage", "parent", "parents", "household"],
}  # English, and starting points: in technical text `manager`, `parent` and `child` are seldom people
FEWEST = 5  # fewer texts than this carry no rate


def skew(rows, group: str, label: str | None = "task"):
    """DataFrame, one line a value of the column `group` after a first line `(all)`: size, length and mix of labels.

    Columns: group, rows, share (of all rows), median_words, distance, by_chance, and `<label>: <value>` with the share
    of each label in the group; without a `label` the first four. `distance` is the total-variation distance of the
    group's labels from those of all rows, half the sum of the absolute differences: the share of its rows that would
    need another label to look like the whole (0: the same mix). `by_chance` is the distance to expect of as many rows
    drawn blindly, the sum over labels of sqrt(p (1 - p) (N - n) / (2 pi n (N - 1))) by the normal approximation: only
    a distance well above it says something about the group.

    Raises:
        ParameterError: no row has the column `group`, or `label`.
    """
    import numpy as np
    import pandas as pd

    words = [len(vocabulary.words_of(text)) for text in vocabulary.texts_of(rows)]
    rows = list(rows)
    frame = pd.DataFrame({"part": 1, "group": _column(rows, group), "words": words})
    if label:
        frame["label"] = _column(rows, label)
    by = pd.concat([frame.assign(part=0, group="(all)"), frame]).groupby(["part", "group"])
    table = by["words"].agg(rows="size", median_words="median")
    table.insert(1, "share", table["rows"] / len(rows))
    if label:
        mix = by["label"].value_counts(normalize=True).unstack(fill_value=0.0)
        whole = mix.iloc[0].sort_values(ascending=False)
        table["distance"] = (mix - whole).abs().sum(axis=1) / 2
        drawn = (len(rows) - table["rows"]) / (table["rows"] * max(1, len(rows) - 1))
        table["by_chance"] = np.sqrt(whole * (1 - whole) / (2 * np.pi)).sum() * np.sqrt(drawn)
        table = table.join(mix[whole.index].add_prefix(f"{label}: "))
    table = table.sort_values(["part", "rows"], ascending=[True, False], kind="stable")
    return table.reset_index().drop(columns="part")


def _column(rows: list[dict], name: str) -> list[str]:
    columns = sorted({key for row in rows for key in row})
    if name not in columns:
        raise ParameterError(f"The rows have no column {name!r}; they have {', '.join(columns)}.")
    return ["(none)" if row.get(name) is None else str(row[name]) for row in rows]


def co_occurrence(rows, groups: dict[str, list[str]] = GROUPS, terms: dict[str, list[str]] = TERMS, prior: float = 10):
    """DataFrame, one line a group and set of terms: how often a text that mentions the group also has such a term.

    Columns: group, terms, texts (that mention the group), count (of them, with a term), rate; others (texts that
    mention another group and not this one), others_count; log_odds with its 95 % interval low, high. The last three
    are the log-odds ratio between the two kinds of texts with an informative Dirichlet prior (Monroe, Colaresi and
    Quinn 2008, eq. 16 and 19): `prior` texts at the rate of both together are added to each side, which pulls small
    counts to 0. Above 0: the terms go with this group.

    A rate of fewer than five texts is left blank (NaN), and so is the log-odds ratio where either side has fewer than
    five texts, or fewer than five texts have (or lack) a term. Long texts mention more of everything, one interval in
    twenty misses by chance, and a co-occurrence is a reason to read the texts, not yet a bias.

    Raises:
        ParameterError: a term is not one word, or `prior` is not above 0.
    """
    import pandas as pd

    if not prior > 0:
        raise ParameterError(f"prior is {prior}; it must be above 0, the weight of the prior in texts.")
    group_words = {name: _single_words(name, words) for name, words in groups.items()}
    term_words = {name: _single_words(name, words) for name, words in terms.items()}
    texts, counts, hits = 0, Counter(), Counter()
    for text in vocabulary.texts_of(rows):
        words = set(vocabulary.words_of(text))
        mentioned = frozenset(name for name, wanted in group_words.items() if wanted & words)
        if mentioned:
            texts += 1
            counts[mentioned] += 1
            hits.update((mentioned, name) for name, wanted in term_words.items() if wanted & words)
    table = []
    for group in groups:
        n = sum(count for mentioned, count in counts.items() if group in mentioned)
        for term in terms:
            a = sum(hits[mentioned, term] for mentioned in counts if group in mentioned)
            c = sum(hits[mentioned, term] for mentioned in counts if group not in mentioned)
            odds = _log_odds(a, n, c, texts - n, prior)
            table.append((group, term, n, a, a / n if n >= FEWEST else math.nan, texts - n, c, *odds))
    names = ["group", "terms", "texts", "count", "rate", "others", "others_count", "log_odds", "low", "high"]
    return pd.DataFrame(table, columns=names)


def _single_words(name: str, words: list[str]) -> set[str]:
    for word in words:
        if not re.fullmatch(r"\w+", word):
            raise ParameterError(f"{name} has {word!r}; each entry must be a single word.")
    return {word.lower() for word in words}


def _log_odds(a: int, n: int, c: int, m: int, prior: float) -> tuple[float, float, float]:
    """Log-odds ratio of `a` in `n` against `c` in `m` with its 95 % interval; three NaN where there are too few."""
    if min(n, m, a + c, n + m - a - c) < FEWEST:
        return math.nan, math.nan, math.nan
    with_term = prior * (a + c) / (n + m)
    without = prior - with_term
    cells = (a + with_term, n - a + without, c + with_term, m - c + without)
    ratio = math.log(cells[0] / cells[1]) - math.log(cells[2] / cells[3])
    reach = 1.96 * math.sqrt(sum(1 / cell for cell in cells))
    return ratio, ratio - reach, ratio + reach
