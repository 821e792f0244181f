"""The kinds of instruction that a program can check: what each says, checks and rewrites."""

import itertools
import json
import random
import re
import string
from collections.abc import Callable
from dataclasses import dataclass

OPENERS = ("In short:", "Here it is:", "Summary:", "Answer:")
CLOSERS = ("That is all.", "End of answer.", "I hope this helps.")
RARE_WORDS = ("lantern", "harbor", "copper", "meadow", "velvet", "orchard", "thunder", "pebble")
_WORD = re.compile(r"\w+")
_COMMA = re.compile(r"(?<!\d),|,(?!\d)")  # but that of a number
_NO_END = r"(?<![.\s][A-HJ-Za-z]\.)(?<!\b[DM]r\.)(?<!\bMrs\.)(?<!\bvs\.)"  # behind the point of e.g., Dr., ...
_SENTENCE_END = re.compile(_NO_END + r"(?<=[.!?])[\"')\]]*(?:\s+|$)|\n+")


@dataclass(frozen=True)
class Kind:
    """One kind of constraint. All functions take its arguments by keyword.

    draw: `(rng, answer) -> arguments`, chosen so that some answer like this one can obey.
    say: arguments -> the instruction.
    holds: `(answer, **arguments)`: whether an answer obeys.
    write: `(answer, **arguments)` -> the same answer, obeying; None: this kind is held out from training.
    """

    draw: Callable[[random.Random, str], dict]
    say: Callable[..., str]
    holds: Callable[..., bool]
    write: Callable[..., str] | None = None


def words(text: str) -> int:
    """How many words a text has: runs of letters, digits and underscores."""
    return len(_WORD.findall(text))


def sentences(text: str) -> int:
    """How many sentences: pieces that end with a full stop, question or exclamation mark, or with their line.

    The mark counts before a space or the end; the point of `e.g.`, of a title and of a single letter ends none.
    """
    return sum(bool(_WORD.search(piece)) for piece in _SENTENCE_END.split(text.strip()))


def bullets(text: str) -> int:
    """How many lines are bullet points that begin with `*` (not bold) or `-`."""
    return len(re.findall(r"^\s*(?:\*[^*].*|-.*)$", text, re.M))


def _occurrences(word: str, text: str) -> int:
    return len(re.findall(re.escape(word), text, re.I))


def _is_json(text: str) -> bool:
    try:
        json.loads(re.sub(r"\A```(?:json)?|```\Z", "", text.strip(), flags=re.I))
    except (ValueError, RecursionError):
        return False
    return True


def _numbered(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"^\s*(\d+)[.)]\s+\S", text, re.M)]


def _highlights(text: str) -> int:
    found = re.findall(r"\*[^\n*]*\*", text) + re.findall(r"\*\*[^\n*]*\*\*", text)
    return sum(bool(part.strip("*").strip()) for part in found)


def _two_answers(text: str) -> bool:
    first, *between, last = [part.strip() for part in text.split("******")]
    parts = [*filter(None, [first]), *between, *filter(None, [last])]
    return len(parts) == 2 == len(set(parts) - {""})


def _paragraphs(text: str) -> list[str]:
    return [part for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]


def _split_evenly(text: str, parts: int) -> list[str]:
    """A text in `parts` pieces of about as many words each, none empty where there are words enough."""
    found = text.split()
    cuts = [round(i * len(found) / parts) for i in range(parts + 1)]
    return [" ".join(found[a:b]) for a, b in itertools.pairwise(cuts)]


def _keyword(rng: random.Random, answer: str) -> str:
    """A longer word of the answer itself, so that including it is no trick; else a rare one."""
    long = sorted({word.lower() for word in re.findall(r"[A-Za-z]{5,}", answer)})
    return rng.choice(long or list(RARE_WORDS))


def _shorten(answer: str, count: int) -> str:
    """The first `count` words, and what stands between them."""
    found = list(_WORD.finditer(answer))
    return answer if len(found) <= count else answer[: found[count - 1].end()]


def _plain(text: str) -> str:
    """Without the marks that other kinds count: asterisks, double quotation marks, and commas but those in numbers."""
    return _COMMA.sub("", re.sub(r"[*\"]", "", text))


def _nothing(rng: random.Random, answer: str) -> dict:
    return {}


KINDS: dict[str, Kind] = {
    # --- trained ---------------------------------------------------------------------------------------------------
    "at most words": Kind(
        lambda rng, answer: {"count": words(answer) + rng.randint(1, 4)},
        lambda count: f"Use at most {count} words.",
        lambda answer, count: words(answer) <= count,
        lambda answer, count: _shorten(answer, count),
    ),
    "lowercase": Kind(
        _nothing,
        lambda: "Write everything in lowercase letters.",
        lambda answer: answer.islower(),
        lambda answer: answer.lower(),
    ),
    "uppercase": Kind(
        _nothing,
        lambda: "Write everything in capital letters.",
        lambda answer: answer.isupper(),
        lambda answer: answer.upper(),
    ),
    "starts with": Kind(
        lambda rng, answer: {"phrase": rng.choice(OPENERS)},
        lambda phrase: f'Begin your answer with "{phrase}"',
        lambda answer, phrase: answer.lstrip().startswith(phrase),
        lambda answer, phrase: f"{phrase} {answer}",
    ),
    "ends with": Kind(
        lambda rng, answer: {"phrase": rng.choice(CLOSERS)},
        lambda phrase: f'End your answer with "{phrase}" and write nothing behind it.',
        lambda answer, phrase: answer.strip().strip('"').lower().endswith(phrase.lower()),
        lambda answer, phrase: f"{answer} {phrase}",
    ),
    "quoted": Kind(
        _nothing,
        lambda: "Put your whole answer between double quotation marks.",
        lambda answer: len(answer.strip()) > 1 and answer.strip()[0] == answer.strip()[-1] == '"',
        lambda answer: f'"{answer}"',
    ),
    "no commas": Kind(
        _nothing,
        lambda: "Do not use any commas.",
        lambda answer: "," not in answer,
        lambda answer: _COMMA.sub("", answer),  # of 3,5 nothing else can be made: such an answer does not obey
    ),
    "bullets": Kind(
        lambda rng, answer: {"count": rng.randint(2, 3)},
        lambda count: f"Write exactly {count} bullet points, each on a line that begins with *.",
        lambda answer, count: bullets(answer) == count,
        lambda answer, count: "\n".join(f"* {part}" for part in _split_evenly(_plain(answer), count) if part),
    ),
    "json": Kind(
        _nothing,
        lambda: "Give your whole answer as JSON.",
        _is_json,
        lambda answer: json.dumps({"answer": answer}, ensure_ascii=False),
    ),
    "title": Kind(
        _nothing,
        lambda: "Put a title above your answer, in double angle brackets like <<a title>>.",
        lambda answer: any(found.strip("<> ") for found in re.findall(r"<<[^\n]+>>", answer)),
        lambda answer: f"<<{_shorten(answer, 3)}>>\n{answer}",
    ),
    "include": Kind(
        lambda rng, answer: {"word": _keyword(rng, answer)},
        lambda word: f'Use the word "{word}".',
        lambda answer, word: _occurrences(word, answer) > 0,
        lambda answer, word: answer if _occurrences(word, answer) else f"{answer} ({word})",
    ),
    "postscript": Kind(
        _nothing,
        lambda: "Add a postscript at the end that begins with P.S.",
        lambda answer: re.search(r"p\.\s?s\.", answer.lower()) is not None,
        lambda answer: f"{answer}\nP.S. {CLOSERS[0]}",
    ),
    "one sentence": Kind(
        _nothing,
        lambda: "Answer in exactly one sentence.",
        lambda answer: sentences(answer) == 1,
        lambda answer: re.sub(rf"[.!?]+{_NO_END}(?=[\"')\]]*\s)", ";", " ".join(answer.split())),
    ),
    # --- held out: asked, never trained ----------------------------------------------------------------------------
    "at least words": Kind(
        lambda rng, answer: {"count": rng.randint(15, 30)},
        lambda count: f"Use at least {count} words.",
        lambda answer, count: words(answer) >= count,
    ),
    "avoid": Kind(
        lambda rng, answer: {"word": _keyword(rng, answer)},
        lambda word: f'Do not use the word "{word}".',
        lambda answer, word: re.search(rf"\b{re.escape(word)}\b", answer, re.I) is None,
    ),
    "word count": Kind(
        lambda rng, answer: {"word": rng.choice(RARE_WORDS), "count": rng.randint(2, 3)},
        lambda word, count: f'The word "{word}" must appear at least {count} times.',
        lambda answer, word, count: _occurrences(word, answer) >= count,
    ),
    "letter count": Kind(
        lambda rng, answer: {"letter": rng.choice(string.ascii_lowercase), "count": rng.randint(3, 6)},
        lambda letter, count: f"The letter {letter} must appear fewer than {count} times.",
        lambda answer, letter, count: answer.lower().count(letter) < count,
    ),
    "numbered": Kind(
        lambda rng, answer: {"count": rng.randint(2, 4)},
        lambda count: f"Write a numbered list of exactly {count} items, from 1. to {count}.",
        lambda answer, count: _numbered(answer) == list(range(1, count + 1)),
    ),
    "highlighted": Kind(
        lambda rng, answer: {"count": rng.randint(1, 2)},
        lambda count: f"Highlight at least {count} part{'s' * (count > 1)} of your answer with asterisks, *like this*.",
        lambda answer, count: _highlights(answer) >= count,
    ),
    "paragraphs": Kind(
        lambda rng, answer: {"count": rng.randint(2, 3)},
        lambda count: f"Write exactly {count} paragraphs with an empty line between them.",
        lambda answer, count: len(_paragraphs(answer)) == count,
    ),
    "placeholders": Kind(
        lambda rng, answer: {"count": rng.randint(1, 2)},
        lambda count: f"Use at least {count} placeholder{'s' * (count > 1)} in square brackets, such as [name].",
        lambda answer, count: len(re.findall(r"\[.*?\]", answer)) >= count,
    ),
    "two answers": Kind(
        _nothing,
        lambda: "Give two different answers with a line of six asterisks (******) between them.",
        lambda answer: "******" in answer and _two_answers(answer),
    ),
}
TRAINED = tuple(name for name, kind in KINDS.items() if kind.write)
HELD_OUT = tuple(name for name, kind in KINDS.items() if not kind.write)
