"""What words a data set uses: how varied they are, how close to a reference, and what of it they cover.

A row is a mapping with `text` or `messages`. A word is a run of letters, digits and underscores, in lower case: a
script without spaces has few, long ones.
"""

import math
import re
import zlib
from collections import Counter
from itertools import pairwise

from nbhelpers.core.errors import DataError
from nbhelpers.data import schemas


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def texts_of(rows) -> list[str]:
    texts = [schemas.text_of(row) for row in rows]
    if not texts:
        raise DataError("There are no rows to measure. Check the filters and the path of the data set.")
    return texts


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

    counted = [Counter(words(text)) for text in texts_of(reference)]
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
    for i, text in enumerate(texts_of(rows)):
        vector = weights(Counter(words(text)))
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

    texts = texts_of(rows)
    vocabulary: dict[str, int] = {}
    tokens, owners = [], []
    for i in np.random.default_rng(seed).permutation(len(texts)):
        found = [vocabulary.setdefault(word, len(vocabulary)) for word in words(texts[i])]
        tokens.append(np.array(found, dtype=np.int64))
        owners.append(np.full(len(found), i))
    tokens, owners = np.concatenate(tokens), np.concatenate(owners)
    if not len(tokens):
        raise DataError(f"None of the {len(texts)} rows has a word, so there is nothing to measure.")
    enough = len(tokens) >= sample_words
    sample = _distinct(tokens[:sample_words], owners[:sample_words]) if enough else [None] * 3
    compressor = zlib.compressobj(9)
    texts = [f"{text}\n".encode("utf-8", "surrogatepass") for text in texts]
    compressed = sum(len(compressor.compress(text)) for text in texts) + len(compressor.flush())
    return {
        "rows": len(texts),
        "words": len(tokens),
        **{f"distinct_{n}": value for n, value in enumerate(_distinct(tokens, owners), 1)},
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
    wanted = Counter(pair for text in texts_of(reference) for pair in _bigrams(text))
    if not wanted:
        raise DataError("No text of the reference has two words. Give texts of the kind that the model will meet.")
    found = set()
    for text in texts_of(rows):
        found |= wanted.keys() & set(_bigrams(text))
    return sum(wanted[pair] for pair in found) / wanted.total()


def _bigrams(text: str):
    return pairwise(words(text))
