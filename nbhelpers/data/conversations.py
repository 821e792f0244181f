"""Whether two conversations ask and answer the same.

What many conversations share, a system prompt, an instruction or a passage with several questions, makes them look
alike without repeating one another. So the lines and sentences that two questions have in common are set aside first,
and what is left is compared. Code that differs at all is another text: `a + b` is not `a - b`, and indentation means
something.
"""

import re
from collections import Counter

from nbhelpers.data import wording

_MARKS = re.compile(r"^[ \t]+(?=\S)|(?<=\w)\(|[^\w\s.,;:!?'\"()\u2018-\u201d\u2013\u2014-]", re.M)
_LAYOUT = re.compile(r"^[ \t]+|[*#`|>~]", re.M)  # of lists and other Markdown


def question(messages: list[dict]) -> str:
    """The turns between the system's and the last answer, a blank line between them."""
    return "\n\n".join(turn["content"] for turn in messages[:-1] if turn["role"] != "system")


def answer(messages: list[dict]) -> str:
    """The last turn."""
    return messages[-1]["content"]


def marks(text: str) -> list[str]:
    """The indentations and the signs of a text, without those of sentences; none in plain prose."""
    return _MARKS.findall(text)


def is_code(text: str) -> bool:
    """Whether lines are indented or mostly end as statements do, or one sign comes on eight words or fewer."""
    found, lines = marks(text), [line.rstrip() for line in text.splitlines() if line.strip()]
    if 2 * sum(line.endswith((";", "{", "}")) for line in lines) > len(lines):
        return True
    return bool(found) and (any(map(str.isspace, found)) or 8 * len(found) >= len(text.split()))


def is_program(text: str) -> bool:
    """Whether a text is code by its signs or the ends of its lines, and not by indentation and signs of Markdown."""
    return is_code(_LAYOUT.sub("", text))


def key(text: str) -> str:
    """What texts share that say the same exactly: white space and case are folded, but not in code."""
    if is_code(text):
        return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
    return " ".join(text.casefold().split())


def similarity(first: str, second: str) -> float:
    """Jaccard similarity of the words of two texts, each as often as it occurs; a slip of the hand is forgiven."""
    left, right = Counter(wording.words(first)), Counter(wording.words(second))
    shared = sum((left & right).values())
    rest = list((right - left).elements())
    for word in (left - right).elements() if len(rest) <= 50 else ():
        if match := next((other for other in rest if wording.is_slip(word, other)), None):
            rest.remove(match)
            shared += 1
    total = left.total() + right.total() - shared
    return shared / total if total else 1.0


def is_same(first: str, second: str, threshold: float) -> bool:
    """Whether two texts say the same: code by its `key`, prose by a similarity of `threshold` and the same marks."""
    if is_code(first) or is_code(second):
        return key(first) == key(second)
    return key(first) == key(second) or (marks(first) == marks(second) and similarity(first, second) >= threshold)


def _units(text: str) -> dict[str, str]:
    """The lines and sentences of a text by their keys."""
    parts = (part for part in re.split(r"\n+|(?<=[.!?])\s+", text) if part.strip())
    return {key(part): part for part in parts}


def own(first: str, second: str) -> tuple[str, str]:
    """What each of two questions says that the other does not: their lines and sentences without those of both."""
    left, right = _units(first), _units(second)
    return tuple(
        "\n".join(part for name, part in mine.items() if name not in others)
        for mine, others in ((left, right), (right, left))
    )


def contains(asked: str, question: str) -> bool:
    """Whether one question says all of the other, or is said by it whole with at least half of its words.

    What is said must be eight words or more: to share "Explain." is not to ask the same.
    """
    mine, theirs = own(asked, question)
    shared = len(wording.words(question)) - len(wording.words(theirs))
    return shared >= 8 and (not theirs or (not mine and 2 * shared >= len(wording.words(question))))


def asks_the_same(first: list[dict], second: list[dict], threshold: float = 0.95) -> bool:
    """Whether what is left of two questions without their common lines and sentences says the same."""
    return is_same(*own(question(first), question(second)), threshold)


def answers_the_same(first: list[dict], second: list[dict], threshold: float = 0.95) -> bool:
    """Whether two last turns say the same."""
    return is_same(answer(first), answer(second), threshold)
