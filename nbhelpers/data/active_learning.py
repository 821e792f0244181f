"""Which unlabelled rows to label next (active learning): by the model's uncertainty, by diversity, or by both.

Random choice is always among the answers, because it is what the others have to beat.
"""

import hashlib
import math
from collections import Counter

from nbhelpers.core.errors import DataError, ParameterError
from nbhelpers.data import schemas
from nbhelpers.data.vocabulary import diversity, words_of


def question(row: dict) -> list[dict]:
    """The turns of a row without an answer at their end; a plain text counts as the user's turn."""
    turns = row["messages"] if "messages" in row else [{"role": "user", "content": row["text"]}]
    return turns[:-1] if turns[-1]["role"] == "assistant" else turns


def question_texts(rows) -> list[str]:
    """What is known of each row before it is labelled, as one string: its text, or its turns without the answer."""
    return [schemas.text_of({"messages": question(row)}) for row in rows]


def text_vectors(texts: list[str], dimensions: int = 1024):
    """Hashed TF-IDF vectors of length 1 (0 for a text without a word); float32 array of shape (texts, dimensions).

    A word's weight is (1 + log tf) (log((1 + n) / (1 + df)) + 1); it is added with a sign to one of `dimensions`
    places, both taken from a hash of the word (feature hashing, Weinberger et al. 2009), so that no vocabulary is
    kept and every machine computes the same. 50,000 texts take 200 MB.

    Raises ParameterError: fewer than 2 dimensions.
    """
    import numpy as np

    if dimensions < 2:
        raise ParameterError(f"dimensions={dimensions} is below 2: all texts would be alike. The default is 1024.")
    counts = [Counter(words_of(text)) for text in texts]
    documents = Counter(word for words in counts for word in words)
    place, weight = {}, {}
    for word, df in documents.items():
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        number = int.from_bytes(digest, "little")
        place[word] = (number >> 1) % dimensions
        weight[word] = (math.log((1 + len(texts)) / (1 + df)) + 1) * (1 if number & 1 else -1)
    vectors = np.zeros((len(texts), dimensions), dtype=np.float32)
    for vector, words in zip(vectors, counts, strict=True):
        for word, tf in words.items():
            vector[place[word]] += (1 + math.log(tf)) * weight[word]
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths, lengths, 1)


def _distances(vectors, centre):
    """Euclidean distance of every vector to one, shape (n,), without a copy of all vectors."""
    import numpy as np

    squares = np.einsum("ij,ij->i", vectors, vectors) + centre @ centre - 2 * (vectors @ centre)
    return np.sqrt(np.maximum(squares, 0))


def k_center(vectors, count: int, seed: int) -> list[int]:
    """Indices of `count` vectors, each the farthest from all picked before it; the first is drawn by the seed.

    Greedy k-center (Sener & Savarese 2018, algorithm 1): no other choice of as many has less than half of its
    coverage radius. Equal distances are broken by the lower index.

    Args:
        vectors: array of shape (n, dimensions).
        count: 1 to n.

    Raises ParameterError: `count` is out of range.
    """
    import numpy as np

    _check_count(count, len(vectors))
    picks = [int(np.random.default_rng(seed).integers(len(vectors)))]
    nearest = _distances(vectors, vectors[picks[0]])
    nearest[picks[0]] = -1  # below every distance: equal vectors must not be picked twice
    while len(picks) < count:
        picks.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, _distances(vectors, vectors[picks[-1]]))
        nearest[picks[-1]] = -1
    return picks


def _check_count(count: int, rows: int) -> None:
    if not 1 <= count <= rows:
        raise ParameterError(f"count={count} is outside 1 to {rows}, the rows there are to pick from.")


def _check_scores(rows, scores):
    import numpy as np

    scores = np.asarray(scores, dtype=float)
    if scores.shape != (len(rows),) or not np.isfinite(scores).all():
        raise DataError(
            f"scores has the shape {scores.shape} and {int((~np.isfinite(scores)).sum())} values that are not finite; "
            f"expected one number for each of {len(rows)} rows, as `uncertainty` gives."
        )
    return scores


def select(rows, count: int, seed: int, scores, vectors=None) -> dict[str, list[int]]:
    """Which rows each way of choosing would label: way -> `count` row indices in the order of the choice.

    random     drawn by the seed
    uncertain  highest score first; equal scores by the lower index
    diverse    `k_center` over all rows
    both       `k_center` over the half of the rows with the highest scores (over `count` rows where that is more)

    Args:
        rows: rows with `messages` or `text`.
        scores: one number a row, shape (rows,), higher is less certain: what `uncertainty` gives.
        vectors: array (rows, dimensions); by default `text_vectors` of the questions.

    Raises:
        ParameterError: `count` is outside 1 to the number of rows.
        DataError: not one finite score a row.
    """
    import numpy as np

    _check_count(count, len(rows))
    scores = _check_scores(rows, scores)
    vectors = text_vectors(question_texts(rows)) if vectors is None else vectors
    ranked = np.argsort(-scores, kind="stable")
    half = np.sort(ranked[: max(count, math.ceil(len(rows) / 2))])
    return {
        "random": np.random.default_rng(seed).permutation(len(rows))[:count].tolist(),
        "uncertain": ranked[:count].tolist(),
        "diverse": k_center(vectors, count, seed),
        "both": half[k_center(vectors[half], count, seed)].tolist(),
    }


def describe(picks: dict[str, list[int]], rows, scores, vectors=None):
    """What each way of choosing picked, a `pandas.DataFrame` with one line a way.

    rows              rows picked
    mean_uncertainty  mean of their scores (nats, where the scores are those of `uncertainty`)
    distinct_2        different pairs of neighbouring words over all pairs of their questions, 0 to 1
    coverage_radius   largest distance of any row to the nearest pick, 0 to 2 for vectors of length 1: lower covers more
    tasks             how many of each task; empty where rows have none

    Args are those of `select`, and `picks` is what it gave. Raises DataError as `select`.
    """
    import numpy as np
    import pandas as pd

    scores, texts = _check_scores(rows, scores), question_texts(rows)
    vectors = text_vectors(texts) if vectors is None else vectors
    lines = {}
    for way, indices in picks.items():
        tasks = Counter(task for i in indices if (task := rows[i].get("task")))
        lines[way] = {
            "rows": len(indices),
            "mean_uncertainty": float(scores[indices].mean()),
            "distinct_2": diversity([{"text": texts[i]} for i in indices])["distinct_2"],
            "coverage_radius": float(np.min([_distances(vectors, vectors[i]) for i in indices], axis=0).max()),
            "tasks": ", ".join(f"{task} {number}" for task, number in sorted(tasks.items())),
        }
    return pd.DataFrame.from_dict(lines, orient="index")
