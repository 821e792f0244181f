"""Planted defects: families of damage done to clean text in known ways, to measure recall and precision of cleaning.

Each function takes clean rows `{"id", "text", ...}` (the carriers), leaves them as they are and adds `count` defective
rows with ids of their own and as many hard negatives: rows that look defective and are not. A carrier of real text
may have a natural defect or a natural twin, so recall and precision are taken over the planted ids (`Planted.family`),
or over carriers known to be clean. The same rows, count and seed give the same result.
"""

import random
import re
import string
import textwrap
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from html.entities import codepoint2name

from nbhelpers.defects_text import (
    ALPHABETS,
    BLOCKS,
    BOILERPLATE,
    CLEAN_MARKUP,
    COMMON_PHRASES,
    ENGLISH,
    ESCAPED,
    FILLERS,
    GOOD,
    INLINE,
    NOT_PERSONAL,
    PASSAGES,
    PERSONAL,
    PERSONAL_SENTENCES,
    QUESTIONS,
    SHORT_ANSWERS,
    TEMPLATES,
    TOO_SHORT,
    UNICODE,
    WORDS,
    characters,
    expand,
)
from nbhelpers.errors import DataError, ParameterError


@dataclass(frozen=True)
class Planted:
    """Rows with defects among them, and what a perfect step would do to each defective one."""

    rows: list[dict]  # carriers, defective rows and hard negatives, shuffled
    truth: dict[str, object]  # id of a defective row -> the answer, described at each function
    family: dict[str, str]  # id -> family, of defective rows and ("not: ...") of hard negatives


Item = tuple[str, dict, object]  # family, the row without its id, truth (None for a hard negative)


def _check(rows: list[dict], count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ParameterError(f"count is {count!r}, expected a whole number from 1: how many defective rows to plant.")
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("id"), str) or not isinstance(row.get("text"), str):
            raise DataError(
                f"Row {number} has no string `id` and `text`: {row!r:.80}. Defects are planted in text rows."
            )
    if len({row["id"] for row in rows}) < len(rows):
        raise DataError("Two rows have the same id. Give every row an id of its own before planting defects.")


def _planted(name: str, rows: list[dict], seed: int, items: list[Item], rng: random.Random) -> Planted:
    out, truth, family = list(rows), {}, {}
    taken = {row["id"] for row in rows}
    for number, (kind, row, answer) in enumerate(items):
        id = f"{name}-{seed}-{number}"
        if id in taken:
            raise DataError(f"The id {id} is taken: these rows went through {name} with seed {seed} already.")
        out.append({**row, "id": id})
        family[id] = kind
        if not kind.startswith("not: "):
            truth[id] = answer
    rng.shuffle(out)
    return Planted(out, truth, family)


def _carriers(rows: list[dict], fits: Callable[[str], bool], what: str, rng: random.Random) -> list[dict]:
    """The rows whose text fits, in random order. Raises DataError when there is none."""
    found = [row for row in rows if fits(row["text"])]
    if not found:
        raise DataError(f"None of the {len(rows)} rows is {what}. Pass more rows, or longer ones.")
    rng.shuffle(found)
    return found


def _words(text: str) -> list[str]:
    return [word for word in text.split() if any(map(str.isalnum, word))]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# --- copies -------------------------------------------------------------------------------------------------------

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


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", text.strip())


def _reorder(text: str, rng: random.Random) -> str:
    sentences = _sentences(text)
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
    long = _carriers(rows, lambda text: len(_words(text)) >= 20, "a text of 20 words", rng)
    orderly = [row for row in long if len(set(_sentences(row["text"]))) >= 3]
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
    _check(rows, count)
    rng = random.Random(seed)
    items = _copies(rows, count, list(COPIES), rng)
    long = _carriers(rows, lambda text: len(_words(text)) >= 20, "a text of 20 words", rng)
    vocabulary = sorted({word for row in long for word in _words(row["text"])})
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
            words = _capital(expand(TEMPLATES[i // 6 % len(TEMPLATES)], rng)).split()  # two rows running, then the next
        items.append((family, {**row, "text": " ".join(words)}, None))
    return _planted("duplicate", rows, seed, items, rng)


def leaks(train: list[dict], test: list[dict], seed: int, count: int) -> tuple[list[dict], dict[str, str]]:
    """The training rows with `count` copies of test rows among them, and the truth: id of the copy -> id in `test`.

    Families: exact, case, whitespace, word swaps and edits at 1, 2 and 5 %, sentence reorder.

    Raises DataError where no test row has 20 words or three sentences, ParameterError on a count below 1.
    """
    _check(train, count)
    _check(test, count)
    rng = random.Random(seed)
    families = [family for family in COPIES if family != "punctuation" and "10 %" not in family]
    planted = _planted("leak", train, seed, _copies(test, count, families, rng), rng)
    return planted.rows, planted.truth


def _grams(text: str) -> set[tuple[str, ...]]:
    """All runs of 13 words, without case and punctuation."""
    words = re.findall(r"\w+", text.lower())
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
    _check(rows, count)
    _check(evaluation, count)
    rng = random.Random(seed)
    known = {gram for row in evaluation for gram in _grams(row["text"])}
    hosts = _carriers(
        rows,
        lambda text: len(_words(text)) >= 8 and not known & _grams(text),
        "a text of 8 words that shares no 13 words with an evaluation text",
        rng,
    )
    sources = _carriers(evaluation, lambda text: len(_words(text)) >= 13, "an evaluation text of 13 words", rng)
    forms = {"as it is": lambda text, rng: text, "case": _case, "punctuation": _punctuation, "whitespace": _whitespace}
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
        insert(family, forms[family](span, rng), source["id"])
    for i in range(count):
        if i % 4 == 3:
            insert("not: common phrase", _capital(rng.choice(COMMON_PHRASES)) + ".", None)
            continue
        words = re.findall(r"[^\W_]+", sources[i % len(sources)]["text"])
        size = rng.randint(8, 11)
        first = rng.randint(0, len(words) - size)
        insert("not: short span", " ".join(words[first : first + size]), None)
    return _planted("contaminated", rows, seed, items, rng)


# --- encoding and markup ------------------------------------------------------------------------------------------

_ODD = re.compile(r"[^A-Za-z0-9\s.,;:()'\"/=+-]|[^\S\n ]|  | $|:\w|::|\n{3}|^\W+$|\w_\b|\.\.", re.MULTILINE)


def comparable(text: str) -> str:
    """The form in which `dirty` texts are compared: no blanks at line ends, no blank lines around the text, and two
    blank lines between paragraphs as good as one. Carriage returns and longer gaps stay: they are defects."""
    lines = "\n".join(line.rstrip(" \t") for line in text.split("\n"))
    return re.sub(r"(?<!\n)\n{3}(?!\n)", "\n\n", lines.strip("\n"))


def _mojibake(text: str, encoding: str) -> str:
    """The text's UTF-8 bytes read in another encoding; a byte that cp1252 lacks is read as Latin-1, as browsers do."""
    return "".join(
        bytes([byte]).decode(encoding, "ignore") or bytes([byte]).decode("latin-1") for byte in text.encode()
    )


def _entities(text: str, rng: random.Random) -> str:
    style = rng.choice(["named", "decimal", "hexadecimal"])

    def entity(match: re.Match) -> str:
        point = ord(match[0])
        if match[0] in "<>&" or (style == "named" and point in codepoint2name):
            return f"&{codepoint2name[point]};"
        return f"&#x{point:x};" if style == "hexadecimal" else f"&#{point};"

    spaces = re.sub(" ", lambda _: rng.choice([" "] * 9 + ["\xa0"]), text)
    return re.sub('[^\x00-\x7f]|[<>&"]', entity, spaces)


def _sprinkle(text: str, marks: list[str], rng: random.Random, where: str = r"(?<=\w)(?=\w)") -> str:
    """One to four of the marks put inside words (or where the pattern matches)."""
    places = [match.start() for match in re.finditer(where, text)]
    for place in sorted(rng.sample(places, min(len(places), rng.randint(1, 4))), reverse=True):
        text = text[:place] + rng.choice(marks) + text[place:]
    return text


def _spaces(text: str, rng: random.Random) -> str:
    return re.sub(" ", lambda _: rng.choice([" ", "\xa0", "\xa0", "\u202f"]), text)


ANSI = (
    ("\x1b[31m", "\x1b[0m"), ("\x1b[1;32m", "\x1b[0m"), ("\x1b[38;5;208m", "\x1b[39m"), ("\x1b[4m", "\x1b[24m"),
    ("\x1b[2K", ""), ("\x1b]8;;https://host.invalid\x1b\\", "\x1b]8;;\x1b\\"), ("\x1b[?25l", "\x1b[?25h"),
)  # fmt: skip


def _ansi(text: str, rng: random.Random) -> str:
    start, end = rng.choice(ANSI)
    words = [match.span() for match in re.finditer(r"\w+", text)]
    for first, last in sorted(rng.sample(words, min(len(words), 3)), reverse=True):
        text = f"{text[:first]}{start}{text[first:last]}{end}{text[last:]}"
    return text


def _blanks(text: str, rng: random.Random) -> str:
    lines = [line + rng.choice(["", " ", "   ", "\t"]) for line in text.split("\n")]
    return "\n".join(lines).replace("\n\n", "\n\n" + "\n" * rng.randint(2, 5)) + "\n" * rng.randint(0, 4)


ENCODING = {
    "mojibake Latin-1": lambda text, rng: _mojibake(text, "latin-1"),
    "mojibake cp1252": lambda text, rng: _mojibake(text, "cp1252"),
    "mojibake twice": lambda text, rng: _mojibake(_mojibake(text, "cp1252"), "cp1252"),
    "decomposed": lambda text, rng: unicodedata.normalize("NFD", text),
    "non-breaking spaces": _spaces,
    "zero-width spaces": lambda text, rng: _sprinkle(text, ["\u200b", "\u2060", "\ufeff"], rng),
    "byte order mark": lambda text, rng: "\ufeff" + text,
    "soft hyphens": lambda text, rng: _sprinkle(text, ["\xad"], rng),
    "control characters": lambda text, rng: _sprinkle(text, ["\x00", "\x01", "\x07", "\x08", "\x1a", "\x7f"], rng),
    "ANSI escapes": _ansi,
    "carriage returns": lambda text, rng: text.replace("\n", rng.choice(["\r\n", "\r\n", "\r"])),
    "blanks and blank lines": _blanks,
    "HTML entities": _entities,
}  # family -> function(text, rng) giving the damaged text; the truth is the text itself


def _marked(family: str, texts: list[str], rng: random.Random) -> tuple[str, str]:
    """The texts with markup of this family put in, and what should come out."""
    name, module = (rng.choice(WORDS["noun"]) for _ in range(2))
    values = {
        "name": name,
        "path": f"{module}.{rng.choice(WORDS['noun'])}.{name.capitalize()}",
        "url": f"https://{rng.choice(WORDS['site'])}.invalid/{module}/{name}.html",
        "version": rng.choice(["1.2", "0.24", "2.0.1", "3.11"]),
        **dict(zip("abc", (" ".join(text.split()) for text in texts), strict=True)),
    }
    if family in BLOCKS:
        damaged, clean = rng.choice(BLOCKS[family])
        return damaged.format(**values), clean.format(**values)
    text = damaged = texts[0]
    words = list(re.finditer(r"(?<!\S)[A-Za-z]{3,}(?=[\s.,;]|$)", text))
    for word in sorted(rng.sample(words, min(len(words), rng.randint(1, 3))), key=lambda m: -m.start()):
        put, clean = (form.format(**values, word=word[0]) for form in rng.choice(INLINE[family]))
        damaged = damaged[: word.start()] + put + damaged[word.end() :]
        text = text[: word.start()] + clean + text[word.end() :]
    return damaged, text


def dirty(rows: list[dict], seed: int, count: int) -> Planted:
    """Texts damaged in their encoding (`ENCODING`) or with markup left in them (`INLINE`, `BLOCKS` of defects_text).

    Only carriers of plain ASCII prose are damaged, with sentences beyond ASCII put before them. Should come out:
    wrongly decoded bytes and entities as the characters meant (a non-breaking space as a space), Unicode composed
    (NFC), zero-width spaces, marks, soft hyphens, control characters and terminal escapes as nothing, line ends as
    `\\n`, more than two blank lines as one. An HTML tag vanishes, `<br>` becomes a line break, `<li>` "- ". A role
    becomes its target without `~`, or its title where it has one; `|name|` the name; a line `.. versionadded::` (or
    changed, deprecated) vanishes; `.. note::` becomes "Note:"; a link `text <url>`_ becomes "text (url)".

    Truth: id -> the text that should come out, equal up to `comparable`. Hard negatives must come out unchanged.
    Raises DataError where no row is plain prose of 8 words, ParameterError on a count below 1.
    """
    _check(rows, count)
    rng = random.Random(seed)
    plain = _carriers(
        rows, lambda text: len(_words(text)) >= 8 and not _ODD.search(text), "plain ASCII prose of 8 words", rng
    )
    families = [*ENCODING, *INLINE, *BLOCKS]
    negatives = [(f"not: {family}", text) for family, texts in CLEAN_MARKUP.items() for text in texts]
    rng.shuffle(negatives)
    items: list[Item] = []
    for i in range(count):
        family, row = families[i % len(families)], plain[i % len(plain)]
        if family in ENCODING:
            text = damaged = ""
            while comparable(damaged) == comparable(text):  # few sentences have no letter that can be decomposed
                lead = rng.sample(UNICODE, rng.randint(1, 3)) + [rng.choice(ESCAPED)] * (family == "HTML entities")
                text = f"{' '.join(lead)}\n\n{row['text']}"
                damaged = ENCODING[family](text, rng)
        else:
            others = [rng.choice(plain)["text"], rng.choice(FILLERS)]
            damaged, text = _marked(family, [row["text"], *others], rng)
        items.append((family, {**row, "text": damaged}, text))
    for i in range(count):
        family, text = negatives[i % len(negatives)]
        row = rng.choice(plain)
        items.append((family, {**row, "text": f"{row['text'].strip()}\n\n{text}" if i % 2 else text}, None))
    return _planted("dirty", rows, seed, items, rng)


# --- broken rows --------------------------------------------------------------------------------------------------


def _turns(text: str, rng: random.Random) -> list[dict]:
    question = rng.choice(QUESTIONS).format(rng.choice(WORDS["noun"]))
    return [{"role": "user", "content": question}, {"role": "assistant", "content": text}]


def _break(kind: str, turns: list[dict], rng: random.Random) -> dict:
    """The row `{"messages"}`, or `{}`, that these two turns become when broken in this way."""
    place = rng.randrange(len(turns))
    user, assistant = turns
    if kind == "messages missing":
        return rng.choice([{}, {"messages": None}])
    if kind == "no turns":
        return {"messages": []}
    if kind == "turn is no dict":
        turns[place] = rng.choice([turns[place]["content"], None, ["user", "Hello"], 7])
    elif kind == "unknown role":
        turns[place] = {**turns[place], "role": rng.choice(["moderator", "bot", "narrator", "", None, "Assistant ", 1])}
        if rng.random() < 0.2:
            del turns[place]["role"]
    elif kind == "content is None":
        turns[place] = {**turns[place], "content": None}
        if rng.random() < 0.3:
            del turns[place]["content"]
    elif kind == "content is no text":
        turns[place] = {**turns[place], "content": rng.choice([3, 0.5, True, ["Hello"], {"text": "Hello"}, []])}
    elif kind == "content is blank":
        turns[place] = {**turns[place], "content": rng.choice(["", " ", "\n\t", "\xa0", "\u3000", "\u200b", "\r\n"])}
    elif kind == "last turn is the user's":
        turns = rng.choice([[user], [user, assistant, {"role": "user", "content": "Thanks. And then?"}]])
    elif kind == "two user turns":
        turns = [
            user,
            {"role": "user", "content": rng.choice(["Hello?", "Please answer.", user["content"]])},
            assistant,
        ]
    else:
        system = {"role": "system", "content": "Answer briefly."}
        turns = rng.choice([[user, system, assistant], [user, assistant, system, user, assistant]])
    return {"messages": turns}


BROKEN = (
    "messages missing", "no turns", "turn is no dict", "unknown role", "content is None", "content is no text",
    "content is blank", "last turn is the user's", "two user turns", "system turn not first",
)  # fmt: skip


def broken(rows: list[dict], seed: int, count: int) -> Planted:
    """Rows `{"id", "messages"}` broken in the ten ways of `BROKEN`; every carrier becomes a question with its answer.

    Hard negatives, which are valid: a system turn first, several turns, an answer of code only, an answer such as
    "0" or "No", tool turns between assistant turns. A blank carrier can be no answer and is left out.

    Truth: id -> the way it is broken.

    Raises DataError where all rows are blank, ParameterError on a count below 1.
    """
    _check(rows, count)
    rng = random.Random(seed)
    carriers = _carriers(rows, lambda text: bool(text.strip()), "a text that is not blank", rng)
    items: list[Item] = []
    for i in range(count):
        kind = BROKEN[i % len(BROKEN)]
        items.append((kind, _break(kind, _turns(carriers[i % len(carriers)]["text"], rng), rng), kind))
    for i in range(count):
        turns = _turns(carriers[-1 - i % len(carriers)]["text"], rng)
        answer = {"role": "assistant", "content": rng.choice(SHORT_ANSWERS)}
        family, messages = (
            ("system first", [{"role": "system", "content": "Answer briefly."}, *turns]),
            ("several turns", [*turns, {"role": "user", "content": "And then?"}, answer]),
            ("code only", [turns[0], {"role": "assistant", "content": "```python\nx = [1]\n```"}]),
            ("short answer", [turns[0], answer]),
            ("tool turn", [turns[0], answer, {"role": "tool", "content": '{"n": 3}'}, turns[1]]),
        )[i % 5]
        items.append((f"not: {family}", {"messages": messages}, None))
    clean = [{"id": row["id"], "messages": _turns(row["text"], rng)} for row in carriers]
    return _planted("broken", clean, seed, items, rng)


# --- language and quality -----------------------------------------------------------------------------------------


def foreign(rows: list[dict], seed: int, count: int) -> Planted:
    """Passages of 3 to 6 technical sentences in the 14 languages of `PASSAGES`, every third after an English sentence.

    Hard negatives, which are English: with code, formulas, identifiers, foreign names and loan words, of 8 to 12
    words, or a list of identifiers after an English lead. Truth: id -> ISO 639-1 code.

    Raises DataError where there are no rows, ParameterError on a count below 1.
    """
    _check(rows, count)
    rng = random.Random(seed)
    carriers = _carriers(rows, lambda text: True, "there", rng)
    items: list[Item] = []
    for i in range(count):
        code = list(PASSAGES)[i % len(PASSAGES)]
        sentences = rng.sample(PASSAGES[code], rng.randint(4 if i % 3 == 2 else 3, 6))
        text = ("" if code in ("zh", "ja") else " ").join(sentences)
        if i % 3 == 2:
            text = f"{rng.choice(FILLERS)} {text}"
        family = f"{code} after English" if i % 3 == 2 else code
        items.append((family, {**carriers[i % len(carriers)], "text": text}, code))
    for i in range(count):
        family = list(ENGLISH)[i % len(ENGLISH)]
        text = expand(rng.choice(ENGLISH[family]), rng)
        if family != "short" and rng.random() < 0.5:
            text = f"{rng.choice(FILLERS)}\n\n{text}"
        items.append((f"not: {family}", {**carriers[i % len(carriers)], "text": text}, None))
    return _planted("foreign", rows, seed, items, rng)


def _worthless(kind: str, text: str, rng: random.Random) -> str:
    if kind == "too short":
        return rng.choice(TOO_SHORT)
    if kind == "repetition":
        line = rng.choice(
            [" ".join(text.split()[:8]), rng.choice(FILLERS), rng.choice(WORDS["noun"]), "ha", "Error 404"]
        )
        return rng.choice(["\n", " ", ", ", ""]).join([line] * rng.randint(8, 40))
    if kind == "symbols":
        signs = rng.choice(["=-_*#~", "|+-", "!@#$%^&*()", "{}[]<>;:,./\\", "▒░█◆●", "0123456789.,- "])
        return "".join(rng.choice(signs + " ") for _ in range(rng.randint(60, 400)))
    if kind == "blob":
        width = rng.choice([64, 76, 10_000])
        blob = characters(rng.choice("hb"), rng.randint(120, 800), rng)
        return rng.choice(["", "data:image/png;base64,"]) + "\n".join(textwrap.wrap(blob, width))
    if kind == "gibberish":
        keys = rng.choice([string.ascii_lowercase, "asdfghjkl", "qwertyuiopasdfghjklzxcvbnm;", ALPHABETS["w"]])
        words = ["".join(rng.choices(keys, k=rng.randint(2, 14))) for _ in range(rng.randint(8, 60))]
        return " ".join(words)
    return expand(rng.choice(BOILERPLATE), rng)


WORTHLESS = ("too short", "repetition", "symbols", "blob", "gibberish", "boilerplate")


def low_quality(rows: list[dict], seed: int, count: int) -> Planted:
    """Texts from which nothing can be learnt, in the six kinds of `WORTHLESS`.

    Hard negatives, which must be kept: short but whole sentences, parameter lists, doctest sessions, formulas, bullet
    lists, tables, a text that says one sentence twice, a sentence that mentions a licence. Truth: id -> kind.

    Raises DataError where all rows are blank, ParameterError on a count below 1.
    """
    _check(rows, count)
    rng = random.Random(seed)
    carriers = _carriers(rows, lambda text: bool(text.strip()), "a text that is not blank", rng)
    items: list[Item] = []
    for i in range(count):
        kind, row = WORTHLESS[i % len(WORTHLESS)], carriers[i % len(carriers)]
        items.append((kind, {**row, "text": _worthless(kind, row["text"], rng)}, kind))
    for i in range(count):
        family = list(GOOD)[i % len(GOOD)]
        text = _capital(expand(rng.choice(GOOD[family]), rng))
        items.append((f"not: {family}", {**carriers[i % len(carriers)], "text": text}, None))
    return _planted("low_quality", rows, seed, items, rng)


# --- personal data ------------------------------------------------------------------------------------------------


def _value(kind: str, form: str, rng: random.Random) -> str:
    """A random value of this format, its personal part enclosed as ⟦KIND:value⟧."""
    value = expand(form if "⟦" in form else f"⟦{form}⟧", rng)
    return value.replace("⟦", f"⟦{kind}:")


def _spans(marked: str) -> tuple[str, list[tuple[int, int, str]]]:
    """The text without its marks, and where they were: (start, end, kind)."""
    text, spans, last = "", [], 0
    for match in re.finditer(r"⟦([A-Z]+):(.*?)⟧", marked, re.DOTALL):
        text += marked[last : match.start()] + match[2]
        spans.append((len(text) - len(match[2]), len(text), match[1]))
        last = match.end()
    return text + marked[last:], spans


def pii(seed: int, count: int) -> Planted:
    """Texts of one to four sentences with personal data or a secret in them, in the families of `PERSONAL`.

    A row holds one value, or two to four in the family "several: kinds"; every third has a hard negative beside it.
    Hard negatives alone (no span) are the families of `NOT_PERSONAL`: versions, hashes, ISBNs, reserved addresses and
    so on.

    Truth: id -> list of (start, end, kind), the characters `text[start:end]` of one value, kind EMAIL, PHONE, IP, CARD,
    IBAN or KEY. A span is the value alone: no `mailto:` or `tel:`, no quotes or brackets, no port, of an assignment its
    right side, of a URL the password; an extension belongs to its telephone number, the BEGIN and END lines to a key.

    Raises ParameterError on a count below 1.
    """
    _check([], count)
    rng = random.Random(seed)
    single = [(kind, family) for kind, found in PERSONAL.items() for family in found]
    families = rng.sample([*single, ("several", "kinds")], len(single) + 1)

    def sentence(kind: str, family: str) -> str:
        value = _value(kind, rng.choice(PERSONAL[kind][family]), rng)
        return rng.choice(PERSONAL_SENTENCES[kind]).replace("{}", value)

    def harmless() -> tuple[str, str]:
        family = rng.choice(list(NOT_PERSONAL))
        return family, expand(rng.choice(NOT_PERSONAL[family]), rng)

    def row(parts: list[str]) -> tuple[dict, list[tuple[int, int, str]]]:
        parts = parts + rng.sample(FILLERS, rng.randint(0, 2))
        rng.shuffle(parts)
        prose = all(part.endswith(".") and "\n" not in part for part in parts[:-1])
        text, spans = _spans((rng.choice([" ", "\n"]) if prose else "\n").join(parts))
        return {"text": text}, spans

    items: list[Item] = []
    for i in range(count):
        kind, family = families[i % len(families)]
        if kind == "several":
            parts = [sentence(*rng.choice(single)) for _ in range(rng.randint(2, 4))]
        else:
            parts = [sentence(kind, family)]
        if i % 3 == 2:
            parts.append(harmless()[1])
        items.append((f"{kind}: {family}", *row(parts)))
    for _ in range(count):
        family, text = harmless()
        items.append((f"not: {family}", row([text])[0], None))
    return _planted("pii", [], seed, items, rng)
