"""Rows that say again what another row says: repeated exactly, nearly, or from a text they must not have seen.

Two texts are near-duplicates where the Jaccard similarity of their words reaches a threshold. Words count as often as
they occur, in any order, case and punctuation aside, so that a text whose sentences were put in another order is the
same text. A word that differs from the other text's by one keystroke counts as the same word where one of the two is
found nowhere else: a slip of the hand, not another word. MinHash and locality-sensitive hashing (Broder 1997; Indyk and
Motwani 1998) find the pairs worth comparing; every pair is then compared exactly. Two conversations are compared once
more as `conversations` does: what they share as a passage or a system prompt makes them no copies.
"""

import hashlib
import re
from array import array
from collections.abc import Collection

from nbhelpers.core import progress
from nbhelpers.core.errors import ParameterError
from nbhelpers.data import cleaning, conversations, schemas, wording
from nbhelpers.data.cleaning import Cleaned

PERMUTATIONS = 120
BANDS = 24  # of 5 rows: a pair of similarity 0.75 is compared with probability 0.998
MORE_BANDS = 40  # of 3 rows, for lower thresholds: a pair of similarity 0.5 is compared with probability 0.995
_SMALL_WORDS = frozenset((
    "an", "and", "are", "as", "at", "be", "by", "for", "from", "has", "if", "in", "is",
    "it", "its", "no", "of", "on", "or", "that", "the", "this", "to", "with",
))  # fmt: skip


class _Numbers(dict[str, int]):
    """Word -> its number, the next one where it is new; a text that repeats a word has another number for each time.

    So the numbers of a text are a set that counts repetitions.
    """

    def __init__(self):
        super().__init__()
        self.words: list[str] = []  # by number; the second time a word comes it is written `word 2`
        self.first = array("I")  # by number: that of the same word the first time
        self.again = array("I")  # by number: that of the same word once more; 0 where no text had it yet

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self.words)
        self._new(word, number)
        return number

    def _new(self, word: str, first: int) -> None:
        self.words.append(word)
        self.first.append(first)
        self.again.append(0)

    def _once_more(self, number: int) -> int:
        first = self.first[number]
        times = 2 if number == first else int(self.words[number].rpartition(" ")[2]) + 1
        self.again[number] = len(self.words)
        self._new(f"{self.words[first]} {times}", first)
        return self.again[number]

    def of(self, found: list[str]) -> array:
        """The numbers of the words of a text, in order; in `found` what is repeated becomes `word 2`, `word 3`."""
        again, words, numbers = self.again, self.words, []
        latest: dict[int, int] = {}
        for place, first in enumerate(map(self.__getitem__, found)):
            if first in latest:
                number = latest[first]
                number = latest[first] = again[number] or self._once_more(number)
                found[place] = words[number]
                numbers.append(number)
            else:
                latest[first] = first
                numbers.append(first)
        return array("I", numbers)


def _signs(words: list[str]):
    """For each word its signs as bits, three for a digit: where one word is a slip of another, at most two differ."""
    import numpy as np

    codes = np.frombuffer("".join(f"{word} " for word in words).encode("utf-32-le", "surrogatepass"), np.uint32)
    bits = np.uint64(1) << (codes % 39)  # letters and digits each have a place of their own
    digits = (codes >= ord("0")) & (codes <= ord("9"))
    bits[digits] |= bits[digits] << np.uint64(30) | bits[digits] << np.uint64(40)
    lengths = np.array([len(word) + 1 for word in words], int)
    return np.bitwise_or.reduceat(bits, np.cumsum(lengths) - lengths) if words else bits


class DuplicateIndex:
    """The texts kept so far, and which of them a new text nearly repeats.

    Args:
        threshold: least similarity of a near-duplicate, above 0.5 to 1.
        seed: of the hash functions.
        min_words: shorter texts are never near-duplicates: there, one sign can turn the meaning.

    Memory: about a kilobyte a text of 60 words, and conversations as they are.
    """

    def __init__(self, threshold: float = 0.95, seed: int = 0, min_words: int = 20):
        if not 0.5 < threshold <= 1:
            raise ParameterError(
                f"threshold={threshold!r} is outside 0.5 to 1; texts that share less are not the same."
            )
        import numpy as np
        from rensa import RMinHashLSH

        self.threshold, self.seed, self.min_words = threshold, seed, min_words
        self._lsh = RMinHashLSH(threshold, PERMUTATIONS, BANDS if threshold >= 0.75 else MORE_BANDS)
        self._numbers = _Numbers()
        self._first = np.zeros(0, np.uint32)  # by number: that of the same word the first time
        self._word_signs = np.zeros(0, np.uint64)  # by number: `_signs`
        self._frequency = np.zeros(0, int)  # by number: texts that have it
        self._ids: list[str] = []
        self._kept: list[array] = []  # of word numbers
        self._conversations: list[list[dict] | None] = []

    def similarity(self, a: Collection[int], b: set[int]) -> float:
        """Jaccard similarity of two texts as sets of word numbers, slips forgiven; 0 below the threshold.

        A word that may be a slip of two others goes to the first of them: the best pairing is not searched for.
        """
        import numpy as np

        total, most = len(a) + len(b), min(len(a), len(b))
        if most < self.threshold * (total - most):  # even if every word of the shorter were in the longer
            return 0.0
        a = set(a)
        shared = len(a & b)
        slips = max(0.3, 1 - self.threshold)  # at most: beyond that two texts are not the same, however alike the words
        if len(a) - shared > slips * len(a) + 1 or len(b) - shared > slips * len(b) + 1:
            return 0.0
        left, right = (self._first[sorted(rest)] for rest in (a - b, b - a))
        taken: set[int] = set()
        rows = 1 + 1_000_000 // (1 + len(right))  # words compared at a time
        for start in range(0, len(left), rows):
            block = left[start : start + rows]
            near = np.bitwise_count(self._word_signs[block][:, None] ^ self._word_signs[right]) <= 2
            most = shared + np.count_nonzero(near.any(axis=1)) + len(left) - start - len(block)
            if most / (total - most) < self.threshold:  # even if all of these were slips
                return 0.0
            paired = -1
            for i, j in np.argwhere(near).tolist():
                if i != paired and j not in taken and self._is_slip(block[i], right[j]):
                    paired = i
                    taken.add(j)
                    shared += 1
        value = shared / (total - shared) if total else 1.0
        return value if value >= self.threshold else 0.0

    def _is_slip(self, a: int, b: int) -> bool:
        """Whether two words are a keystroke apart, and one of them is a small word or found hardly anywhere."""
        pair = self._numbers.words[a], self._numbers.words[b]
        if not wording.is_slip(*pair):
            return False
        rare, common = sorted((self._frequency[a], self._frequency[b]))
        return rare <= max(1, common / 20) or not _SMALL_WORDS.isdisjoint(pair)

    def add(
        self, ids: list[str], texts: list[str], keep: bool = True, compare: bool = True, messages=None, is_same=None
    ) -> list[tuple[str, float] | None]:
        """For each text the `(id, similarity)` of the kept one it nearly repeats, or None: then it is kept itself.

        With `keep=False` the texts are only compared with what is in the index, and it stays as it is; with
        `compare=False` every one is kept, whatever it repeats. Where `messages` are given, the turns of each text, two
        of them must also be the same by `is_same(kept, new)`.
        """
        import numpy as np
        from rensa import RMinHash

        counted: list[array] = []

        def written():
            for text in texts:
                found = wording.words(text) or [text.strip()]
                counted.append(self._numbers.of(found))
                yield found

        sketches = RMinHash.from_token_sets(written(), PERMUTATIONS, self.seed)
        before, all_words = self._frequency, self._numbers.words
        self._first = np.array(self._numbers.first)
        self._word_signs = np.concatenate([self._word_signs, _signs(all_words[len(self._word_signs) :])])
        self._frequency = np.bincount(np.frombuffer(b"".join(counted), np.uint32), minlength=len(all_words))
        self._frequency[: len(before)] += before  # of all texts first: how rare a word is shows at the end
        found: list[tuple[str, float] | None] = []
        turns = messages or [None] * len(ids)
        compared = zip(progress.each(ids, "near-duplicates"), counted, sketches, turns, strict=True)
        for name, numbers, sketch, said in compared:
            best = None
            long = len(numbers) >= self.min_words
            keys = self._lsh.query(sketch) if long and compare else ()
            mine = set(numbers) if keys else set()
            for key in sorted(keys):
                value = self.similarity(self._kept[key], mine)
                if value and (best is None or value > best[1]) and self._agree(key, said, is_same):
                    best = (self._ids[key], value)
                    if value == 1:
                        break
            found.append(best)
            if keep and best is None and long:
                self._lsh.insert(len(self._ids), sketch)
                self._ids.append(name)
                self._kept.append(numbers)
                self._conversations.append(said)
        if not keep:
            self._frequency = before
        return found

    def _agree(self, key: int, said: list[dict] | None, is_same) -> bool:
        kept = self._conversations[key]
        return is_same is None or said is None or kept is None or is_same(kept, said)


def _fold(text: str) -> str:
    """What texts share that differ in case and white space alone."""
    return " ".join(text.casefold().split())


def repeated(rows, others: list, threshold: float = 0.95) -> list[tuple[str, float] | None]:
    """For each row the `(id, similarity)` of the row in the Datasets `others` that it repeats, exactly or nearly.

    Stricter than `drop_near`, since a leak costs more than a row: texts from five words on are compared nearly, shorter
    ones without case and punctuation, and of conversations the questions alone as well. Two conversations that share a
    passage and ask different things repeat nothing.
    """
    index, owner = DuplicateIndex(threshold, min_words=5), {}
    for other in others:
        ids, content = other["id"][:], cleaning.texts(other)
        index.add(ids, content, compare=False, messages=_turns(other))
        for keys in (map(_said, content), _questions(other)):
            for key, name in zip(keys, ids, strict=False):
                owner.setdefault(key, name)
    content = cleaning.texts(rows)

    def is_same(held_out: list[dict], row: list[dict]) -> bool:
        asked = conversations.question(row), conversations.question(held_out)
        return conversations.contains(*asked) or conversations.asks_the_same(held_out, row, threshold)

    near = index.add(rows["id"][:], content, keep=False, messages=_turns(rows), is_same=is_same)
    asked = _questions(rows) or [None] * len(content)
    exact = [owner.get(_said(text), owner.get(key)) for text, key in zip(content, asked, strict=True)]
    return [match if name is None else (name, 1.0) for name, match in zip(exact, near, strict=True)]


def _said(text: str) -> tuple[str, ...]:
    """The words and signs of a text in their order, without the punctuation of sentences."""
    return tuple(re.findall(r"\w+|[^\w\s.,;:!?'\"()`]", text.casefold()))


def _turns(rows) -> list[list[dict]] | None:
    return rows["messages"][:] if "messages" in rows.column_names else None


def _questions(rows) -> list[str]:
    """Of each conversation what stands before its answer, without the system's turn; none for plain texts."""
    return [schemas.fold([t for t in turns if t["role"] != "system"]) for turns in _turns(rows) or ()]


def drop_exact(rows, seen: dict[bytes, str] | None = None) -> Cleaned:
    """Drop rows whose text is that of an earlier row, case and white space aside; the detail is that row's id.

    In a conversation case and white space count where a turn has signs of code (`conversations.key`).

    Args:
        seen: hash of a text -> its row; pass the same dict again to continue over further rows.
    """
    seen = {} if seen is None else seen
    verdicts: list[tuple[str, str] | None] = []
    turns = _turns(rows)
    keys = ["\0".join(conversations.key(turn["content"]) for turn in said) for said in turns] if turns else None
    for name, text in zip(rows["id"][:], keys or map(_fold, cleaning.texts(rows)), strict=True):
        key = hashlib.blake2b(text.encode(), digest_size=16).digest()
        verdicts.append(("exact duplicate", seen[key]) if key in seen else None)
        seen.setdefault(key, name)
    return cleaning.filtered("exact duplicates", rows, verdicts)


def drop_near(rows, threshold: float = 0.95, seed: int = 0, index: DuplicateIndex | None = None) -> Cleaned:
    """Drop rows that nearly repeat a kept one (`DuplicateIndex`); the detail is that row's id and the similarity.

    Args:
        index: continues an earlier one, with its own threshold and seed.
    """
    index = index or DuplicateIndex(threshold, seed)

    def is_same(kept: list[dict], new: list[dict]) -> bool:
        limit = index.threshold
        return conversations.asks_the_same(kept, new, limit) and conversations.answers_the_same(kept, new, limit)

    found = index.add(rows["id"][:], cleaning.texts(rows), messages=_turns(rows), is_same=is_same)
    verdicts = [("near-duplicate", f"{match[0]} {match[1]:.3f}") if match else None for match in found]
    return cleaning.filtered("near-duplicates", rows, verdicts)
