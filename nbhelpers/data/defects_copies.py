"""Planted copies: duplicates, training rows leaked from the test set, and evaluation text inside rows."""

import random
import re
import textwrap
from collections.abc import Callable

from nbhelpers.core.errors import DataError
from nbhelpers.data import vocabulary
from nbhelpers.data.defects import Item, Planted, capitalise, check, find_carriers, plant, words_of
from nbhelpers.data.planted_text import expand, texts

WHOLE_WORDS = {"break_long_words": False, "break_on_hyphens": False}
KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _other(text: str, variants: list[str], rng: random.Random) -> str:
    """One of the variants that differ from the text; the text followed by a blank where none does."""
    return rng.choice([variant for variant in variants if variant != text] or [text + " "])


def _case(text: str, rng: random.Random) -> str:
    title = re.sub(r"\S+", lambda word: word[0].capitalize(), text)
    return _other(text, [text.upper(), text.lower(), title, text.swapcase()], rng)


def _whitespace(text: str, rng: random.Random) -> str:
    runs = re.sub(r"(?<=\S) (?=\S)", lambda _: " " * rng.choice([1, 1, 2, 3]), text)
    tabs = re.sub(r"(?<=\S) (?=\S)", lambda _: rng.choice([" ", " ", "\t"]), text)
    wrapped = textwrap.fill(" ".join(text.split()), rng.choice([40, 60, 100, 10_000]), **WHOLE_WORDS)
    trailing = re.sub("$", lambda _: " " * rng.randint(1, 4), text, flags=re.MULTILINE)
    return _other(text, [runs, tabs, wrapped, trailing, text.replace("\n", "\r\n"), text.replace("\n", "\n\n")], rng)


def _punctuation(text: str, rng: random.Random) -> str:
    typographic = re.sub(r"'(\w[^']*)'", "‘\\1’", re.sub(r'"([^"]*)"', "“\\1”", text)).replace("--", "–")
    none = re.sub(r"[.,;:!?](?=\s|$)", "", text)
    variants = [none, re.sub(r"[,;](?=\s)", "", text), re.sub(r"\.(?=\s|$)", "!", text), text.rstrip(".") + " ..."]
    return _other(text, [*variants, typographic, re.sub(r"(?<=\w)([.,;:!?])(?=\s|$)", r" \1", text)], rng)


def _swap(share: float) -> Callable[[str, random.Random], str]:
    """Neighbouring words exchanged, so that this share of the words (one pair at least) has moved."""

    def swap(text: str, rng: random.Random) -> str:
        parts = re.split(r"(\s+)", text)  # words at even places
        places = list(range(0, len(parts) - 2, 2))
        rng.shuffle(places)
        left, moved = max(1, round(share * (len(parts) + 1) / 4)), set()
        for i in places:
            if left and parts[i] != parts[i + 2] and parts[i] and parts[i + 2] and not {i, i + 2} & moved:
                parts[i], parts[i + 2] = parts[i + 2], parts[i]
                moved |= {i, i + 2}
                left -= 1
        return "".join(parts)

    return swap


def _typo(word: str, rng: random.Random) -> str:
    """One keystroke wrong: a character inserted, deleted, replaced by its neighbour on the keyboard or transposed."""
    while True:
        i = rng.randrange(len(word))
        row = next((row for row in KEYBOARD if word[i].lower() in row), KEYBOARD[0])
        j = row.find(word[i].lower())
        near = rng.choice([row[k] for k in (j - 1, j + 1) if 0 <= k < len(row)])
        middle, rest = rng.choice([(near + word[i], 1), ("", 1), (near, 1), (word[i : i + 2][::-1], 2)])
        typo = word[:i] + middle + word[i + rest :]
        if typo not in ("", word):
            return typo


def _edit(share: float) -> Callable[[str, random.Random], str]:
    """A typing mistake in this share of the words, in one at least."""

    def edit(text: str, rng: random.Random) -> str:
        parts = re.split(r"(\s+)", text)
        words = [i for i, part in enumerate(parts) if any(map(str.isalnum, part))]
        for i in rng.sample(words, max(1, round(share * len(words)))):
            parts[i] = _typo(parts[i], rng)
        return "".join(parts)

    return edit


def sentences_of(text: str) -> list[str]:
    """The text cut where a full stop, `!` or `?` is followed by white space and a capital."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", text.strip())


def _reorder(text: str, rng: random.Random) -> str:
    sentences = sentences_of(text)
    shuffled = sentences
    while shuffled == sentences:
        shuffled = rng.sample(sentences, len(sentences))
    return " ".join(shuffled)


COPIES = {
    "exact": lambda text, rng: text,
    "case": _case,
    "whitespace": _whitespace,
    "punctuation": _punctuation,
    **{f"word swaps {percent} %": _swap(percent / 100) for percent in (1, 2, 5, 10)},
    **{f"edits {percent} %": _edit(percent / 100) for percent in (1, 2, 5, 10)},
    "sentence reorder": _reorder,
}  # family -> function(text, rng) giving another form of the same text


def _copies(rows: list[dict], count: int, families: list[str], rng: random.Random) -> list[Item]:
    """`count` copies of rows of at least 20 words, family by family; the truth is the id of the row copied."""
    long = find_carriers(rows, lambda text: len(words_of(text)) >= 20, "a text of 20 words", rng)
    orderly = [row for row in long if len(set(sentences_of(row["text"]))) >= 3]
    items = []
    for i in range(count):
        family = families[i % len(families)]
        if family == "sentence reorder" and not orderly:
            raise DataError(f"None of the {len(rows)} rows has three sentences to reorder. Pass more rows.")
        row = orderly[i % len(orderly)] if family == "sentence reorder" else long[i % len(long)]
        items.append((family, {**row, "text": COPIES[family](row["text"], rng)}, row["id"]))
    return items


def duplicates(rows: list[dict], seed: int, count: int) -> Planted:
    """Copies of rows in the 13 families of `COPIES`, and texts that only resemble a row.

    Word swaps and edits come at 1, 2, 5 and 10 % of the words, at least one, after the perturbations of EDA (Wei and
    Zou 2019). Hard negatives, which must be kept: a row in which 30 to 50 %, or 8 to 15 % of the words are others of
    the corpus; the first half of one row with the second half of another; one template with other words in a quarter
    of its places.

    Truth: id of the copy -> id of the row it copies. A step may just as well drop the row and keep its copy.

    Raises:
        DataError: no row has 20 words or three sentences.
        ParameterError: count below 1.
    """
    check(rows, count)
    rng = random.Random(seed)
    items = _copies(rows, count, list(COPIES), rng)
    long = find_carriers(rows, lambda text: len(words_of(text)) >= 20, "a text of 20 words", rng)
    vocabulary = sorted({word for row in long for word in words_of(row["text"])})
    templates = texts("templates")
    by_length = sorted(long, key=lambda row: len(row["text"].split()))
    places = rng.sample(range(len(by_length)), len(by_length))
    for i in range(count):
        place = places[i % len(places)]
        row = by_length[place]
        words = row["text"].split()
        if i % 3 == 0:
            family, share = ("not: many other words", (0.3, 0.5)) if i % 2 else ("not: some other words", (0.08, 0.15))
            for j in rng.sample(range(len(words)), max(2, round(rng.uniform(*share) * len(words)))):
                words[j] = rng.choice([w for w in rng.sample(vocabulary, 2) if w != words[j]])
        elif i % 3 == 1:
            family, half = "not: same first half", len(words) // 2
            other = by_length[place - 1 if place else min(1, len(by_length) - 1)]["text"].split()
            words = words[:half] + other[len(other) // 2 :]
        else:
            family = "not: same template"
            form = templates[i // 6 % len(templates)]  # two rows running, then the next
            words = capitalise(expand(form, rng)).split()
        items.append((family, {**row, "text": " ".join(words)}, None))
    return plant("duplicate", rows, seed, items, rng)


def leaks(train: list[dict], test: list[dict], seed: int, count: int) -> tuple[list[dict], dict[str, str]]:
    """The training rows with `count` copies of test rows among them, and the truth: id of the copy -> id in `test`.

    Families: exact, case, whitespace, word swaps and edits at 1, 2 and 5 %, sentence reorder.

    Raises DataError where no test row has 20 words or three sentences, ParameterError on a count below 1.
    """
    check(train, count)
    check(test, count)
    rng = random.Random(seed)
    families = [family for family in COPIES if family != "punctuation" and "10 %" not in family]
    planted = plant("leak", train, seed, _copies(test, count, families, rng), rng)
    return planted.rows, planted.truth


def _grams(text: str) -> set[tuple[str, ...]]:
    """All runs of 13 words, without case and punctuation."""
    words = vocabulary.words_of(text)
    return {tuple(words[i : i + 13]) for i in range(len(words) - 12)}


def contaminated(rows: list[dict], evaluation: list[dict], seed: int, count: int) -> Planted:
    """Rows into which a span of 13 to 40 words of an evaluation text was put: as it is, or with other case,
    punctuation or white space.

    Hard negatives: spans of 8 to 11 words without their punctuation, and phrases that everybody uses. A word is what
    stands between white space and has a letter or a digit in it; in a short span `a.b` counts as two. Rows that share
    13 words with an evaluation text by nature stay in, but no span is put into them.

    Truth: id -> id of the evaluation row. Raises DataError where no evaluation text has 13 words or no row can take a
    span, ParameterError on a count below 1.
    """
    check(rows, count)
    check(evaluation, count)
    rng = random.Random(seed)
    known = {gram for row in evaluation for gram in _grams(row["text"])}
    hosts = find_carriers(
        rows,
        lambda text: len(words_of(text)) >= 8 and not known & _grams(text),
        "a text of 8 words that shares no 13 words with an evaluation text",
        rng,
    )
    sources = find_carriers(evaluation, lambda text: len(words_of(text)) >= 13, "an evaluation text of 13 words", rng)
    forms = {"as it is": "exact", "case": "case", "punctuation": "punctuation", "whitespace": "whitespace"}
    items = []

    def insert(family: str, span: str, answer) -> None:
        host = hosts[len(items) % len(hosts)]
        parts = re.split(r"(\s+)", host["text"])
        place = 2 * rng.randrange(len(parts) // 2 + 1)
        text = "".join([*parts[:place], span, rng.choice([" ", "\n", "\n\n"]), *parts[place:]])
        items.append((family, {**host, "text": text}, answer))

    for i in range(count):
        source, family = sources[i % len(sources)], list(forms)[i % len(forms)]
        spans = [match.span() for match in re.finditer(r"\S+", source["text"]) if any(map(str.isalnum, match[0]))]
        size = rng.randint(13, min(40, len(spans)))
        first = rng.randint(0, len(spans) - size)
        span = source["text"][spans[first][0] : spans[first + size - 1][1]]
        insert(family, COPIES[forms[family]](span, rng), source["id"])
    for i in range(count):
        if i % 4 == 3:
            insert("not: common phrase", capitalise(rng.choice(texts("common_phrases"))) + ".", None)
            continue
        words = re.findall(r"[^\W_]+", sources[i % len(sources)]["text"])
        size = rng.randint(8, 11)
        first = rng.randint(0, len(words) - size)
        insert("not: short span", " ".join(words[first : first + size]), None)
    return plant("contaminated", rows, seed, items, rng)
