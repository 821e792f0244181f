"""Measures of a data set that help decide whether it is fit to train on; none of them needs a model.

A row is a mapping with `text` or `messages` (`chat.text_of` reads either); `rows` is a `datasets.Dataset` or a list.
A word is a run of letters, digits and underscores, in lower case: a script without spaces has few, long ones.
"""

import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from nbhelpers import chat, templates
from nbhelpers.errors import DataError, ParameterError

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


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _texts(rows) -> list[str]:
    texts = [chat.text_of(row) for row in rows]
    if not texts:
        raise DataError("There are no rows to measure. Check the filters and the path of the data set.")
    return texts


# --- text -----------------------------------------------------------------------------------------------------------


def relevance(rows, reference):
    """How close each row is to the reference: array of shape (rows,), from 0 (no word in common) to 1.

    Cosine between the row's TF-IDF vector and the mean of the reference's unit vectors (Rocchio's centroid), with
    weights (1 + ln count) * idf (Salton and Buckley 1988) and idf = 1 + ln((1 + n) / (1 + df)) over the n reference
    texts, so that a row's value does not depend on the other rows. Even a row of the reference stays below 1, and
    short rows score lower: use it to rank, not as a threshold carried from one set to another.

    Raises:
        DataError: either set is empty, or the reference has no word.
    """
    import numpy as np

    counted = [Counter(_words(text)) for text in _texts(reference)]
    document_frequency = Counter(word for counts in counted for word in counts)
    if not document_frequency:
        raise DataError("The reference has no word, so nothing can be close to it. Give texts of the wanted kind.")
    unseen = 1 + math.log(1 + len(counted))
    idf = {word: unseen - math.log(1 + df) for word, df in document_frequency.items()}

    def weights(counts: Counter) -> dict[str, float]:
        return {word: (1 + math.log(count)) * idf.get(word, unseen) for word, count in counts.items()}

    def norm(vector: dict[str, float]) -> float:
        return math.sqrt(sum(value * value for value in vector.values())) or 1.0

    centroid: dict[str, float] = dict.fromkeys(idf, 0.0)
    for counts in counted:
        vector = weights(counts)
        length = norm(vector)
        for word, value in vector.items():
            centroid[word] += value / length
    size = norm(centroid)
    values = np.empty(len(rows))
    for i, text in enumerate(_texts(rows)):
        vector = weights(Counter(_words(text)))
        values[i] = sum(value * centroid.get(word, 0.0) for word, value in vector.items()) / (norm(vector) * size)
    return values.clip(0, 1)


def diversity(rows, seed: int = 0, sample_words: int = 10_000) -> dict[str, float | None]:
    """Variety of the wording: distinct-n for n = 1, 2, 3, the same on a sample of fixed size, and compression.

    `distinct_n` is the number of different word n-grams over the number of all, from 0 to 1 (Li et al. 2016, who divide
    by words). It falls as a set grows, so sets of different size are compared by `distinct_n_sample`: the first
    `sample_words` words of the texts in an order drawn with `seed`; None where the set has fewer.
    `compression_ratio` is bytes over bytes compressed by zlib (Shaib et al. 2024), 1 and up for real text, higher for
    more repetitive sets; zlib looks back 32 KiB, so the order of the rows counts.

    Raises:
        DataError: there is no row, or no word in any.
    """
    import numpy as np

    texts = _texts(rows)
    vocabulary: dict[str, int] = {}
    words, owners = [], []
    for i in np.random.default_rng(seed).permutation(len(texts)):
        found = [vocabulary.setdefault(word, len(vocabulary)) for word in _words(texts[i])]
        words.append(np.array(found, dtype=np.int64))
        owners.append(np.full(len(found), i))
    words, owners = np.concatenate(words), np.concatenate(owners)
    if not len(words):
        raise DataError(f"None of the {len(texts)} rows has a word, so there is nothing to measure.")
    enough = len(words) >= sample_words
    sample = _distinct(words[:sample_words], owners[:sample_words]) if enough else [None] * 3
    compressor = zlib.compressobj(9)
    texts = [f"{text}\n".encode("utf-8", "surrogatepass") for text in texts]
    compressed = sum(len(compressor.compress(text)) for text in texts) + len(compressor.flush())
    return {
        "rows": len(texts),
        "words": len(words),
        **{f"distinct_{n}": value for n, value in enumerate(_distinct(words, owners), 1)},
        **{f"distinct_{n}_sample": value for n, value in enumerate(sample, 1)},
        "sample_words": sample_words,
        "compression_ratio": sum(map(len, texts)) / compressed,
    }


def _distinct(words, owners) -> list[float | None]:
    """distinct-1, -2 and -3 of word numbers of shape (n,); an n-gram lies within one text. None: no text has one."""
    import numpy as np

    values, grams = [], words
    for n in (1, 2, 3):
        if n > 1:  # number the n-grams by their first n - 1 words and their last one
            grams = grams[:-1] * (words.max() + 1) + words[n - 1 :]
        whole = owners[: len(grams)] == owners[n - 1 :]
        grams = np.unique(grams, return_inverse=True)[1]
        values.append(float(np.count_nonzero(np.bincount(grams[whole])) / whole.sum()) if whole.any() else None)
    return values


def coverage(rows, reference) -> float:
    """Share of the reference's word bigrams, each counted as often as it occurs, that occur in the rows: 0 to 1.

    Raises:
        DataError: either set is empty, or no reference text has two words.
    """
    wanted = Counter(pair for text in _texts(reference) for pair in _bigrams(text))
    if not wanted:
        raise DataError("No text of the reference has two words. Give texts of the kind that the model will meet.")
    found = set()
    for text in _texts(rows):
        found |= wanted.keys() & set(_bigrams(text))
    return sum(wanted[pair] for pair in found) / wanted.total()


def _bigrams(text: str):
    return pairwise(_words(text))


# --- form -----------------------------------------------------------------------------------------------------------

_NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?([eE][-+]?\d+)?\s?%?")
_LIKE_JSON = re.compile(r"\{.*\}|\[.*\]|[{\[]\s*[\"'{\[].*", re.DOTALL)
_CALL = re.compile(r"[A-Za-z_][\w.]*\((?:[^()]|\([^()]*\))*\)(\s*->\s*[\w.]+(\[.*\])?)?", re.DOTALL)
_CODE = re.compile(
    r"^[ \t]*(```|>>> |(async )?def \w+\(|class \w+.*:$|from [\w.]+ import |import [\w.]+( as \w+)?$|[\w.]+ = \S.*$)",
    re.MULTILINE,
)
_BULLET = re.compile(r"\s*([-*+•]|\d+[.)])\s+\S")


def form(answer: str) -> str:
    """What an answer looks like, by the first rule that fits.

    empty, JSON object, JSON list, number, broken JSON (it begins like an object or list and does not parse), code,
    bullet list, call signature, single word, one line, several lines.
    """
    text = answer.strip()
    if not text:
        return "empty"
    if _NUMBER.fullmatch(text):
        return "number"
    if _LIKE_JSON.fullmatch(text):
        try:
            return "JSON object" if isinstance(json.loads(text), dict) else "JSON list"
        except (ValueError, RecursionError):
            return "broken JSON"
    lines = [line for line in text.splitlines() if line.strip()]
    if _CODE.search(text):
        return "code"
    if len(lines) > 1 and sum(bool(_BULLET.match(line)) for line in lines) > len(lines) / 2:
        return "bullet list"
    if _CALL.fullmatch(text):
        return "call signature"
    if len(lines) > 1:
        return "several lines"
    return "one line" if re.search(r"\s", text) else "single word"


def format_consistency(rows):
    """DataFrame, one line a `task`: the commonest form of its answers, its share, and rows that deviate from it.

    The answer is the last message's content, or the row's `text`; rows without a task are one task `(none)`.
    Columns: task, rows, form (see `form`), share (0 to 1), forms (how many different ones), deviating (up to five ids).
    """
    import pandas as pd

    _texts(rows)
    found: dict[str, list[tuple[str, str]]] = {}
    for number, row in enumerate(rows, 1):
        answer = row["text"] if "text" in row else row["messages"][-1]["content"]
        task = "(none)" if row.get("task") is None else str(row["task"])
        found.setdefault(task, []).append((form(answer), row.get("id", f"row {number}")))
    table = []
    for task, answers in found.items():
        counts = Counter(name for name, _ in answers)
        commonest, count = counts.most_common(1)[0]
        others = [name for kind, name in answers if kind != commonest][:5]
        table.append((task, len(answers), commonest, count / len(answers), len(counts), others))
    return pd.DataFrame(table, columns=["task", "rows", "form", "share", "forms", "deviating"])


# --- groups ---------------------------------------------------------------------------------------------------------


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

    words = [len(_words(text)) for text in _texts(rows)]
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
    for text in _texts(rows):
        words = set(_words(text))
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


# --- tokens ---------------------------------------------------------------------------------------------------------


def token_lengths(rows, tokenizer, batch_size: int = 1_000):
    """Tokens of each row, array of shape (rows,): messages as the chat template renders them, text as it is.

    As in `chat.encode` no special token is added; count one more a row where a trainer appends BOS or EOS to text.
    """
    import numpy as np

    texts = [row["text"] if "text" in row else templates.render(row["messages"], tokenizer) for row in rows]
    lengths = []
    for begin in range(0, len(texts), batch_size):
        batch = tokenizer(texts[begin : begin + batch_size], add_special_tokens=False, verbose=False)["input_ids"]
        lengths += map(len, batch)
    return np.array(lengths, dtype=np.int64)


def _lengths(lengths: Sequence[int]):
    import numpy as np

    lengths = np.asarray(lengths, dtype=np.int64)
    if lengths.ndim != 1 or not lengths.any() or lengths.min() < 0:
        raise DataError(f"lengths must be a list of tokens a row, 0 or more and not all 0, got {lengths!r:.60}.")
    return lengths


def truncation(lengths, candidates: Sequence[int], answer_lengths=None, batch_size: int = 8, seed: int = 0):
    """DataFrame, one line a candidate `max_length`: what it costs in tokens cut and in padding.

    Args:
        lengths: tokens a row, shape (rows,).
        candidates: values of `max_length`, in tokens.
        answer_lengths: how many tokens at the end of each row are its answer, shape (rows,).
        batch_size: rows a step, for the padding.
        seed: of the order in which the rows are drawn.

    Columns: max_length; rows_over and share_over; tokens_cut when these rows are cut; kept_if_cut and kept_if_dropped,
    the share of all tokens left when they are cut at the end and when they are dropped; of the rows cut to max_length,
    padded_random and padded_grouped, the share of a batch's tokens that is padding with rows drawn at random and with
    `group_by_length` of transformers, and packing, see `packing_efficiency`. With answers also answers_cut, rows whose
    answer loses its end; answers_lost, rows that lose all of it; and answer_tokens_kept, a share.

    Raises:
        DataError: no tokens at all, or answers that do not fit the rows.
        ParameterError: a candidate or the batch size is not 1 or more.
    """
    import numpy as np
    import pandas as pd

    lengths = _lengths(lengths)
    if answer_lengths is not None:
        answers = np.asarray(answer_lengths, dtype=np.int64)
        if answers.shape != lengths.shape or (answers > lengths).any() or not answers.any():
            raise DataError("answer_lengths must be one number a row, at most the row's length, and not all 0.")
    if batch_size < 1:
        raise ParameterError(f"batch_size is {batch_size}; it must be 1 or more.")
    table = []
    for limit in candidates:
        packing = packing_efficiency(lengths, limit)
        over, cut = lengths > limit, np.minimum(lengths, limit)
        line = {
            "max_length": limit,
            "rows_over": int(over.sum()),
            "share_over": over.mean(),
            "tokens_cut": int((lengths - cut).sum()),
            "kept_if_cut": cut.sum() / lengths.sum(),
            "kept_if_dropped": lengths[~over].sum() / lengths.sum(),
            **_padding(cut, batch_size, seed),
            "packing": packing,
        }
        if answer_lengths is not None:
            left = np.clip(limit - (lengths - answers), 0, answers)
            line["answers_cut"] = int((left < answers).sum())
            line["answers_lost"] = int(((left == 0) & (answers > 0)).sum())
            line["answer_tokens_kept"] = left.sum() / answers.sum()
        table.append(line)
    return pd.DataFrame(table)


def _padding(lengths, batch_size: int, seed: int) -> dict[str, float]:
    """Share of padding in batches padded to their longest row, drawn at random and grouped by length."""
    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    generator = torch.Generator().manual_seed(seed)
    orders = {
        "padded_random": torch.randperm(len(lengths), generator=generator).tolist(),
        "padded_grouped": get_length_grouped_indices(lengths.tolist(), batch_size, generator=generator),
    }
    shares = {}
    for name, order in orders.items():
        batches = [lengths[order[i : i + batch_size]] for i in range(0, len(order), batch_size)]
        shares[name] = 1 - lengths.sum() / sum(len(batch) * batch.max() for batch in batches)
    return shares


def packing_efficiency(lengths, max_length: int) -> float:
    """Share of real tokens when rows are packed into sequences of `max_length` by TRL (strategy `bfd`): 0 to 1.

    Best-fit decreasing bin packing (Ding et al. 2024), which TRL does over 1,000 rows at a time; a row over
    `max_length` is cut to it, as there.

    Raises:
        DataError: no tokens at all. ParameterError: `max_length` is not 1 or more.
    """
    packed = pack(lengths, max_length)
    return sum(map(sum, packed)) / (len(packed) * max_length)


def pack(lengths, max_length: int) -> list[list[int]]:
    """The lengths of the rows in each packed sequence, as `trl.pack_dataset` with strategy `bfd` makes them."""
    import datasets
    import numpy as np
    import pyarrow
    from trl.data_utils import pack_dataset

    if max_length < 1:
        raise ParameterError(f"max_length is {max_length}; it must be 1 or more tokens.")
    ends = np.cumsum(np.minimum(_lengths(lengths), max_length))
    ids = pyarrow.LargeListArray.from_arrays(np.append(0, ends), np.zeros(ends[-1], dtype=np.int8))
    shown = datasets.utils.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        packed = pack_dataset(datasets.Dataset(pyarrow.table({"input_ids": ids})), max_length, "bfd")
    finally:
        if shown:
            datasets.enable_progress_bars()
    return packed["seq_lengths"][:]
