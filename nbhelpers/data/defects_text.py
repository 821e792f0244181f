"""Planted damage to the characters of a text, and markup left in it."""

import random
import re
import unicodedata
from html.entities import codepoint2name

from nbhelpers.data.defects import Item, Planted, check, find_carriers, plant, words_of
from nbhelpers.data.planted_text import expand, texts

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


def _marked(family: str, a: str, b: str, c: str, rng: random.Random) -> tuple[str, str]:
    """One text or more with markup of this family put in, and what should come out."""
    name, module = (expand("%{noun}", rng) for _ in range(2))
    values = {
        "name": name,
        "path": f"{module}.{expand('%{noun}', rng)}.{name.capitalize()}",
        "url": f"https://{expand('%{site}', rng)}.invalid/{module}/{name}.html",
        "version": rng.choice(["1.2", "0.24", "2.0.1", "3.11"]),
        "a": " ".join(a.split()),
        "b": " ".join(b.split()),
        "c": " ".join(c.split()),
    }
    if family in texts("block_markup"):
        damaged, clean = rng.choice(texts("block_markup")[family])
        return damaged.format(**values), clean.format(**values)
    text = damaged = a
    words = list(re.finditer(r"(?<!\S)[A-Za-z]{3,}(?=[\s.,;]|$)", text))
    for word in sorted(rng.sample(words, min(len(words), rng.randint(1, 3))), key=lambda m: -m.start()):
        put, clean = (form.format(**values, word=word[0]) for form in rng.choice(texts("inline_markup")[family]))
        damaged = damaged[: word.start()] + put + damaged[word.end() :]
        text = text[: word.start()] + clean + text[word.end() :]
    return damaged, text


def dirty(rows: list[dict], seed: int, count: int) -> Planted:
    """Texts damaged in their encoding (`ENCODING`) or with markup left in them (`inline_markup`, `block_markup`).

    Only carriers of plain ASCII prose are damaged, with sentences beyond ASCII put before them. Should come out:
    wrongly decoded bytes and entities as the characters meant (a non-breaking space as a space), Unicode composed
    (NFC), zero-width spaces, marks, soft hyphens, control characters and terminal escapes as nothing, line ends as
    `\\n`, more than two blank lines as one. An HTML tag vanishes, `<br>` becomes a line break, `<li>` "- ". A role
    becomes its target without `~`, or its title where it has one; `|name|` the name; a line `.. versionadded::` (or
    changed, deprecated) vanishes; `.. note::` becomes "Note:"; a link `text <url>`_ becomes "text (url)".

    Truth: id -> the text that should come out, equal up to `comparable`. Hard negatives must come out unchanged.
    Raises DataError where no row is plain prose of 8 words, ParameterError on a count below 1.
    """
    check(rows, count)
    rng = random.Random(seed)
    plain = find_carriers(
        rows, lambda text: len(words_of(text)) >= 8 and not _ODD.search(text), "plain ASCII prose of 8 words", rng
    )
    families = [*ENCODING, *texts("inline_markup"), *texts("block_markup")]
    negatives = [(f"not: {family}", text) for family, clean in texts("clean_markup").items() for text in clean]
    rng.shuffle(negatives)
    items: list[Item] = []
    for i in range(count):
        family, row = families[i % len(families)], plain[i % len(plain)]
        if family in ENCODING:
            text = damaged = ""
            while comparable(damaged) == comparable(text):  # few sentences have no letter that can be decomposed
                lead = rng.sample(texts("unicode"), rng.randint(1, 3))
                escaped = rng.choice(texts("escaped"))
                lead += [escaped] if family == "HTML entities" else []
                text = f"{' '.join(lead)}\n\n{row['text']}"
                damaged = ENCODING[family](text, rng)
        else:
            damaged, text = _marked(family, row["text"], rng.choice(plain)["text"], rng.choice(texts("fillers")), rng)
        items.append((family, {**row, "text": damaged}, text))
    for i in range(count):
        family, text = negatives[i % len(negatives)]
        row = rng.choice(plain)
        items.append((family, {**row, "text": f"{row['text'].strip()}\n\n{text}" if i % 2 else text}, None))
    return plant("dirty", rows, seed, items, rng)
