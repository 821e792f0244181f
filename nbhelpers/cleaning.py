"""Cleaning rows step by step, each step saying what it dropped or changed, and why.

A step takes a `datasets.Dataset` whose rows have an `id` and either `text` or `messages`, and returns a `Cleaned`: the
rows it kept and a log with one line for each row it dropped or changed. Nothing else is touched, so that for every
step rows read = rows kept + rows dropped.

    steps = [validate(raw)]
    for step in (normalise, filter_quality, redact):
        steps.append(step(steps[-1].rows))
    account(steps)
"""

import html
import itertools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from nbhelpers import chat, privacy
from nbhelpers.errors import DataError, ParameterError
from nbhelpers.formats import write_jsonl

LOG = ("id", "action", "reason", "detail")  # the columns of a log; action is `dropped`, `changed` or `added`


@dataclass(frozen=True)
class Cleaned:
    """What one step made of its rows: `rows` kept, of `read`, and a `log` of `(id, action, reason, detail)`.

    A row has one line for each reason it was changed and exactly one if it was dropped.
    """

    step: str
    rows: object  # datasets.Dataset
    read: int
    log: list[tuple[str, str, str, str]] = field(default_factory=list, repr=False)

    def __post_init__(self):
        dropped, added = sum(self.dropped.values()), sum(self._counts("added").values())
        account = f"{self.step}: {self.read} read + {added} added != {len(self.rows)} kept + {dropped} dropped"
        assert self.read + added == len(self.rows) + dropped, account

    def _counts(self, of: str) -> dict[str, int]:
        return dict(Counter(reason for _, action, reason, _ in self.log if action == of).most_common())

    @property
    def dropped(self) -> dict[str, int]:
        """Reason -> rows, the commonest first."""
        return self._counts("dropped")

    @property
    def changed(self) -> dict[str, int]:
        """Reason -> rows, the commonest first; a row changed for two reasons counts under both."""
        return self._counts("changed")

    def line(self) -> dict:
        """step, read, dropped, changed (rows, each once), kept, added (where any), why (reason -> rows)."""
        changed = len({name for name, action, *_ in self.log if action == "changed"})
        dropped = sum(self.dropped.values())
        added = self._counts("added")
        numbers = {"read": self.read, "dropped": dropped, "changed": changed, "kept": len(self.rows)}
        numbers |= {"added": sum(added.values())} if added else {}
        return {"step": self.step} | numbers | {"why": self.dropped | self.changed | added}

    def table(self):
        """The log as a `pandas.DataFrame`."""
        import pandas as pd

        return pd.DataFrame(self.log, columns=list(LOG))


def account(steps: list[Cleaned]):
    """One line a step: step, read, dropped, changed, added (where any), kept, reasons, as a `pandas.DataFrame`.

    Raises DataError: a step did not begin with what the one before it had kept.
    """
    import pandas as pd

    for before, after in itertools.pairwise(steps):
        if after.read != len(before.rows):
            raise DataError(
                f"{after.step} read {after.read} rows, but {before.step} had kept {len(before.rows)}: a step in "
                "between is missing from the list."
            )
    lines = [step.line() for step in steps]
    for line in lines:
        line["reasons"] = ", ".join(f"{reason} {count:,}" for reason, count in line.pop("why").items())
    added = ["added"] if any("added" in line for line in lines) else []
    return pd.DataFrame(lines, columns=["step", "read", "dropped", "changed", *added, "kept", "reasons"]).fillna(0)


def texts(rows) -> list[str]:
    """The text of every row, as `chat.text_of` gives it."""
    if "text" in rows.column_names:
        return rows["text"][:]  # a slice reads a column at once, an iterator row by row
    return ["\n\n".join(turn["content"] for turn in messages) for messages in rows["messages"][:]]


def filtered(step: str, rows, verdicts: list[tuple[str, str] | None]) -> Cleaned:
    """The rows whose verdict is None; the others are dropped for `(reason, detail)`."""
    kept = [i for i, verdict in enumerate(verdicts) if verdict is None]
    ids = rows["id"][:]
    log = [(ids[i], "dropped", *verdict) for i, verdict in enumerate(verdicts) if verdict is not None]
    return Cleaned(step, rows if len(kept) == len(ids) else rows.select(kept), len(ids), log)


def rewritten(
    step: str, rows, rewrite: Callable[[str], tuple[str, list[str]]], columns=("text", "reference")
) -> Cleaned:
    """All rows, the turns of their messages and the texts in `columns` through `rewrite`.

    Args:
        rewrite: gives the new text and the reasons it changed, none where it did not.
    """
    import datasets

    names, columns = columns, rows[:]
    reasons: list[set[str]] = [set() for _ in columns["id"]]

    def new(i: int, text: str) -> str:
        after, why = rewrite(text)
        reasons[i].update(why)
        return after

    for name in columns.keys() & set(names):
        columns[name] = [new(i, text) if isinstance(text, str) else text for i, text in enumerate(columns[name])]
    if "messages" in columns:
        columns["messages"] = [
            [turn | {"content": new(i, turn["content"])} for turn in messages]
            for i, messages in enumerate(columns["messages"])
        ]
    log = [(columns["id"][i], "changed", reason, "") for i, why in enumerate(reasons) for reason in sorted(why)]
    after = datasets.Dataset.from_dict(columns, features=rows.features) if log else rows
    return Cleaned(step, after, len(rows), log)


# --- schema -------------------------------------------------------------------------------------------------------

_OWN_COLUMNS = {"id", "input", "system", "history", "tools"}.union(*chat.SHAPES.values())


def shape_of(raw: Iterable) -> str:
    """The name of the shape of the first row that has one. Raises DataError with the shapes there are."""
    columns = [{key for key in row if isinstance(key, str)} for row in raw if isinstance(row, dict)]
    return next(filter(None, map(chat.known_shape, columns)), None) or chat.recognise(next(iter(columns), set()))


def validate(
    raw: Iterable[dict], shape: str | None = None, first_number: int = 1, seen: set[str] | None = None
) -> Cleaned:
    """Rows with an `id` and `text` or `messages` from rows of one shape; what is broken is dropped with its number.

    An id that is missing or was there before becomes `row-<number>`. Other columns stay where they are text, numbers
    or truth values; a column of several kinds becomes text.

    Args:
        raw: rows as they were read, in any shape that `chat.recognise` knows.
        shape: its name; that of the first 1,000 rows (`shape_of`) where None.
        first_number: number of the first row, counted from 1.
        seen: ids that are taken; pass the same set again to continue over further rows.

    Raises:
        DataError: no row has a known shape, or the rows are preference pairs.
        ParameterError: there is no such shape.
    """
    import datasets

    raw, seen = list(raw), set() if seen is None else seen
    shape = shape_of(raw[:1_000]) if shape is None else shape
    if shape not in chat.SHAPES:
        raise ParameterError(f"shape={shape!r} is not one of {', '.join(chat.SHAPES)}.")
    if shape == "preference":
        raise DataError(
            "The rows are preference pairs (chosen, rejected), of which each side would have to be cleaned alike. To "
            "clean the preferred side, name it: columns='chosen=messages', or 'chosen=completion' beside a prompt."
        )
    rows, log = [], []
    for number, row in enumerate(raw, first_number):
        name = _name(row, number, seen)
        seen.add(name)
        try:
            content = chat.content_of(row, shape)
            extra = {key: row[key] for key in row.keys() - _OWN_COLUMNS if type(row[key]) in (str, int, float, bool)}
            extra = {key: value for key, value in extra.items() if type(key) is str}
            json.dumps([extra, content], ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            log.append((name, "dropped", "half a character", f"row {number}: {error.object[error.start]!a}"))
        except DataError as error:
            log.append((name, "dropped", error.reason, f"row {number}: {error}"))
        else:
            rows.append(extra | {"id": name} | content)
    text = datasets.Value("string")
    messages = datasets.List({"role": text, "content": text})
    features = {"id": text} | ({"text": text} if shape == "text" else {"messages": messages, "reference": text})
    columns = {column: [row.get(column) for row in rows] for column in features}
    for column in sorted({key for row in rows for key in row} - features.keys()):
        values = [row.get(column) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        whole = kinds == {int} and all(value is None or abs(value) < 2**63 for value in values)
        kind = "bool" if kinds == {bool} else "int64" if whole else "float64" if kinds == {float} else "string"
        features[column] = datasets.Value(kind)
        columns[column] = [v if v is None or kind != "string" else str(v) for v in values]
    return Cleaned("schema", datasets.Dataset.from_dict(columns, datasets.Features(features)), len(raw), log)


def _name(row, number: int, seen: set[str]) -> str:
    """The id of a row as text, where it has one that nobody else has."""
    own = row.get("id") if isinstance(row, dict) else None
    name = str(own).encode(errors="backslashreplace").decode() if isinstance(own, str | int) else ""
    name = name if name and name not in seen else f"row-{number}"
    while name in seen:
        name += "+"
    return name


# --- normalise ----------------------------------------------------------------------------------------------------

_INVISIBLE = re.compile(
    "\x1b\\[[0-9;?]*[A-Za-z]|\x1b\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|[\ufeff\u00ad\u200b\u2060\u180e\u200e\u200f\u202a-\u202e\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
    "|(?<=[A-Za-z0-9_.,;: ])[\u200c\u200d]|[\u200c\u200d](?=[A-Za-z0-9_.,;: ])"
)  # joiners inside emoji and Indic or Persian words mean something and stay
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_ENTITY = re.compile(r"&(?:#\d{2,7}|#x[0-9a-f]{2,6}|[a-z]{2,31}\d{0,2});", re.I)
_PAIRED = (
    "p|b|i|u|em|strong|a|div|span|code|pre|ul|ol|li|tt|h[1-6]|table|tr|td|th|tbody|thead|sup|sub|blockquote|small|font"
    "|center|html|body|dl|dt|dd|script|style|kbd|var|samp|del|ins|mark|abbr|cite|q|s|strike"
)
_BLOCKS = {
    "p",
    "div",
    "li",
    "ul",
    "ol",
    "td",
    "th",
    "tr",
    "table",
    "blockquote",
    "pre",
    "dt",
    "dd",
    "h1",
    "h2",
    "h3",
    "h4",
}
_VALUE = r"(?:\"[^\"]*\"|'[^']*'|[^\s\"'<>]+)"
_TAG = re.compile(rf"<(/?)({_PAIRED}|br|hr|img)((?:\s+[\w:-]+(?:\s*=\s*{_VALUE})?)*)\s*/?>", re.I)
_BLOCK = re.compile(r"```.*?```|^[ \t]*>>>.*?(?=\n[ \t]*$|\Z)", re.M | re.S)  # a session ends with an empty line
_CODE = re.compile(rf"{_BLOCK.pattern}|``[^`\n]+``|`[^`\n]+`", re.M | re.S)
_ROLE = re.compile(r":(?!math:|raw:)[a-z][\w+-]*(?::[a-z][\w+-]*){0,2}:`([^`]+)`", re.I)
_LINK = re.compile(r"`([^`<>]{1,300}?)\s*<((?:https?|ftp|mailto)[^>`\s]*)>`__?")
_SUBSTITUTION = re.compile(r"(?<![\w|\\<$])\|([A-Za-z][\w.-]+(?: [\w.-]+){0,3})\|(?![\w|>])")
_VERSION_NOTE = re.compile(
    r"^[ \t]*\.\. (?:versionadded::.*|(?:versionchanged|deprecated):: *[\w.]*[ \t]*)(?:\n|\Z)", re.M
)
_ADMONITION = re.compile(
    r"^([ \t]*)\.\. (note|warning|tip|important|caution|hint|danger|attention|seealso|todo)::[ \t]*", re.M
)


def _outside(code: re.Pattern, text: str, change: Callable[[str], str]) -> str:
    """`change` applied to the pieces of a text between its code."""
    pieces, last = [], 0
    for match in code.finditer(text):
        pieces += [change(text[last : match.start()]), match[0]]
        last = match.end()
    return "".join([*pieces, change(text[last:])])


def _without_tags(text: str) -> str:
    text = re.sub(r"<(script|style)\b[^<>]*>.*?</\1\s*>|<!--.*?-->", "", text, flags=re.S | re.I)
    text = re.sub(r"(?<![ \t])[ \t]+(?=<li\b)", "", text)
    names = Counter((match[2].lower(), bool(match[1])) for match in _TAG.finditer(text))

    def replace(match: re.Match) -> str:
        closing, name, attributes = match[1], match[2].lower(), match[3]
        paired = names[name, True] and names[name, False]
        if not (paired or "=" in attributes or name in ("br", "hr", "li")):
            return match[0]  # `<p>` alone is more often a placeholder than a paragraph
        if name == "br":
            return "\n"
        if closing and name in _BLOCKS and text[match.end() : match.end() + 1].strip():  # what stood apart stays apart
            return " " if name in ("td", "th") else "\n"
        return "- " if name == "li" and not closing else ""

    return _TAG.sub(replace, text)


def _without_entities(text: str) -> str:
    return _SPACES.sub(" ", _ENTITY.sub(lambda match: html.unescape(match[0]), text))


def _without_html(text: str) -> str:
    text = _outside(_CODE, text, _without_tags) if "<" in text and ">" in text else text
    return _outside(_CODE, text, _without_entities) if "&" in text else text


def _role_target(match: re.Match) -> str:
    title = re.fullmatch(r"(.+?)\s*<[^>]+>", match[1])
    return title[1] if title else match[1].lstrip("~!.")


def _without_directives(text: str) -> str:
    text = _ADMONITION.sub(
        lambda m: f"{m[1]}{'See also' if m[2] == 'seealso' else m[2].capitalize()}: ", _VERSION_NOTE.sub("", text)
    )
    return _LINK.sub(r"\1 (\2)", _ROLE.sub(_role_target, text))


def _without_rst(text: str) -> str:
    text = _outside(_BLOCK, text, _without_directives) if "`" in text or ".. " in text else text
    return _outside(_CODE, text, lambda piece: _SUBSTITUTION.sub(r"\1", piece)) if "|" in text else text


def _repaired(text: str) -> str:
    import ftfy

    return text if text.isascii() else ftfy.fix_encoding(text)


def _composed(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", _SPACES.sub(" ", text))


def _tidy(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"(?<![ \t])[ \t]+$", "", text, flags=re.M)).strip("\n")


_MENDS = (
    ("mojibake", _repaired),
    ("white space", lambda text: re.sub(r"\r\n?", "\n", text)),
    ("invisible", lambda text: _INVISIBLE.sub("", text)),
    ("unicode", _composed),
    ("html", _without_html),
    ("rst", _without_rst),
    ("white space", _tidy),
)


def normalise_text(text: str) -> tuple[str, list[str]]:
    """A text in one form, and which of these had to be mended for it.

    `mojibake` (UTF-8 that was read as another encoding: ftfy, Speer 2019), `unicode` (NFC; other white space becomes a
    space), `invisible` (control, zero-width and direction characters, terminal colours), `html` (tags and entities),
    `rst` (roles, substitutions, links, notes), `white space` (CR, trailing blanks, more than one empty line). Markup
    in code stays where backticks or `>>>` mark the code, and so do typographic quotes and dashes. Idempotent: what one
    mend uncovers, such as a tag written with entities, is mended too.
    """
    why: list[str] = []
    while True:  # every mend shortens the text or takes away what it looks for
        before = text
        for reason, mend in _MENDS:
            after = mend(text)
            if after != text and reason not in why:
                why.append(reason)
            text = after
        if text == before:
            return text, why


def normalise(rows) -> Cleaned:
    """Every text through `normalise_text`."""
    return rewritten("normalise", rows, normalise_text)


# --- filters ------------------------------------------------------------------------------------------------------

_NOT_PROSE = re.compile(
    r"^[ \t]*(?:>>>|\.\.\. ).*$|``[^`]*``|`[^`]*`|(?<![!-~])[!-~]*[_/\\=<>{}()\[\]|#@][!-~]*|\b[a-z0-9]*\d[a-z0-9]*\b"
    r"|\b[a-z0-9]+\.[a-z0-9][!-~]*",
    re.M | re.I | re.A,
)  # code, paths, identifiers, numbers: of no language


@lru_cache(maxsize=1)
def _identifier():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def keep_language(rows, language: str = "en", min_probability: float = 0.8, min_letters: int = 40) -> Cleaned:
    """Drop rows whose prose is in another language (py3langid), and only where it is sure.

    Code, identifiers and numbers are set aside first, and the first 300 characters of what is left decide. Rows with
    fewer than `min_letters` letters of it (15 where some are not ASCII, which tells more) are kept: nobody can tell
    the language of three words.
    """
    if language not in (known := _identifier().labels):
        raise ParameterError(f"language={language!r} is not one of the ISO 639-1 codes {', '.join(sorted(known))}.")
    verdicts: list[tuple[str, str] | None] = []
    for text in texts(rows):
        prose = " ".join(_NOT_PROSE.sub(" ", text[:3_000]).split())[:300]
        verdict = None
        if sum(map(str.isalpha, prose)) >= min_letters or (not prose.isascii() and sum(map(str.isalpha, prose)) >= 15):
            found, probability = _identifier().classify(prose)
            if found != language and probability >= min_probability:
                verdict = ("language", f"{found} {probability:.2f}")
        verdicts.append(verdict)
    return filtered("language", rows, verdicts)


_BOILERPLATE = re.compile(  # in small letters
    r"\b(?:all rights reserved|licensed under the|without (?:any )?warrant(?:y|ies)|permission is hereby granted|spdx-"
    r"|general public license|merchantability|redistribution and use in source|redistribute it|the above copyright"
    r"|copyright (?:\(c\)|©|\d)|in no event shall|(?:distributed|provided) (?:under|on an|\"as is\")"
    r"|automatically generated|auto-?generated (?:by|file|code)|file was generated"
    r"|do not (?:edit|modify)(?: this| manually| by hand\.|[.!]|$)|(?:use|uses|accept|our|all) cookies"
    r"|(?:cookie|privacy) (?:policy|settings)|our newsletter|terms of (?:use|service)|click here"
    r"|sign up(?: now| today| for our|$)|(?:un)?subscribe (?:to our|at any|now|here)|enter your e-?mail"
    r"|follow us|skip to (?:main )?content|back to top"
    r"|enable javascript|javascript is disabled|lorem ipsum|dolor sit amet|consectetur"
    r"|intended only for the (?:addressee|recipient|use of)|received (?:it|this[\w ]*) in error)"
    r"|©|^\W*(?:table of )?contents\W*$|(?:\. ?){4,}\s*\d+\s*$",
    re.M,
)
_URL = re.compile(r"https?://\S+")
_DOCTEST = re.compile(r"^[ \t]*(?:>>>|\.\.\. ).*\n?", re.M)
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")  # a word, number or CJK sign
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_BLOB = re.compile(r"(?<![\w/:.])(?=\S{0,200}\d)(?:[A-Za-z0-9+/=_-]{60,}|(?:[0-9a-fA-F]{2}[ :]?){24,})(?![\w/.])")
_NO_VOWEL = re.compile(
    r"^.*(?:[bcdfghjklmnpqrstvwxz]{5}|\b[bcdfghjklmnpqrstvwxz]{4}|[bcdfghjklmnpqrstvwxz]{4}\b)", re.M
)
_MIXED = re.compile(r"\b(?=\w*[a-z])(?=\w*[A-Z])(?=\w*\d[A-Za-z])[A-Za-z0-9]{4,}\b")  # 5jRz7kQw, but not Conv2d


def quality_problem(
    text: str, min_words: int = 3, max_words: int = 20_000, max_repeated: float = 0.65, min_letters: float = 0.3
) -> tuple[str, str] | None:
    """`(reason, detail)` where a text is not worth training on, else None.

    `too short` or `too long` in words; `repetition`: a share of `max_repeated` of its 4-word runs occurred before;
    `symbols`: fewer than `min_letters` of its characters are letters; `blob`: encoded data; `gibberish`: letters that
    make no syllables; `boilerplate`: half of its lines are notices. After the rules of C4 (Raffel et al. 2020) and
    MassiveText (Rae et al. 2021, appendix A), with limits for technical text.
    """
    words = _WORD.findall(text)
    if len(words) < min_words and (tokens := len(_TOKEN.findall(text))) < min_words:
        return "too short", f"{tokens} words"
    if len(words) > max_words:
        return "too long", f"{len(words)} words"
    if len(text) > 60 and (blob := sum(len(match[0]) for match in _BLOB.finditer(text))) > 0.4 * len(text):
        return "blob", f"{blob} of {len(text)} characters"
    solid = "".join(text.split())
    if (letters := sum(map(str.isalpha, solid))) < min_letters * len(solid):
        return "symbols", f"{letters} letters of {len(solid)} characters"
    prose = _URL.sub("", _DOCTEST.sub("", text)) if ">>>" in text or "://" in text else text
    said = words if prose is text else _WORD.findall(prose)
    lower = [word.lower() for word in said]
    runs = Counter(zip(lower, lower[1:], lower[2:], lower[3:], strict=False))
    if 8 <= len(lower) < 200 and len(set(lower)) < 0.15 * len(lower):
        return "repetition", f"{len(set(lower))} different words of {len(lower)}"
    if len(lower) >= 12 and (again := sum(runs.values()) - len(runs)) > max_repeated * sum(runs.values()):
        return "repetition", f"{again} of {sum(runs.values())} four-word runs"
    plain = {word for word in said if len(word) > 3 and word.islower()}
    odd, mixed = len(_NO_VOWEL.findall("\n".join(plain))), len(_MIXED.findall(prose))
    if (odd >= 3 and odd > 0.3 * len(plain)) or (mixed >= 3 and mixed > 0.5 * sum(len(t) > 3 for t in text.split())):
        return "gibberish", f"{odd + mixed} of {len(words)} words"
    if not _BOILERPLATE.search(small := text.lower()):
        return None
    lines = [line for line in re.split(r"\n+|(?<=\w[.!?])\s+", small) if line.strip()]
    notices = [line for line in lines if _BOILERPLATE.search(line)]
    if notices and len(notices) >= 0.5 * len(lines):
        return "boilerplate", notices[0].strip()[:80]
    return None


def filter_quality(rows, **limits) -> Cleaned:
    """Drop rows with a `quality_problem`; `limits` are its arguments."""
    return filtered("quality", rows, [quality_problem(text, **limits) for text in texts(rows)])


def redact(rows, find: Callable[[str], list[privacy.Span]] = privacy.find) -> Cleaned:
    """Personal data and secrets replaced by their kind, `[EMAIL]`, in every column of text; the reasons are the kinds.

    An id with such data in it is redacted too, and numbered so that it stays the only one.
    """

    def rewrite(text: str) -> tuple[str, list[str]]:
        kinds = []
        while spans := [span for span in find(text) if not placed(text[max(0, span.start - 1) : span.end + 1], kinds)]:
            text = privacy.redact(text, spans)  # where two touch, the second may show when the first is gone
            kinds += [span.kind for span in spans]
        return text, kinds

    def placed(around: str, kinds: list[str]) -> bool:
        return any(f"[{kind}]" in around for kind in kinds)

    named = {name: f"{rewrite(name)[0]} {number}" for number, name in enumerate(rows["id"][:], 1) if find(name)}
    if named:
        ids = [named.get(name, name) for name in rows["id"][:]]
        rows = rows.remove_columns("id").add_column("id", ids).select_columns(rows.column_names)
    step = rewritten(
        "redact",
        rows,
        rewrite,
        [name for name in rows.column_names if name != "id" and getattr(rows.features[name], "dtype", "") == "string"],
    )
    return Cleaned(step.step, step.rows, step.read, [*step.log, *((n, "changed", "id", "") for n in named.values())])


# --- more rows than memory ----------------------------------------------------------------------------------------


def stream(
    raw: Iterable[dict], steps: list[Callable[[object], Cleaned]], path: Path, shard: int = 10_000
) -> list[dict]:
    """Clean rows of any number: shard by shard through `validate` and `steps`, the kept rows written as JSONL.

    A step that must remember rows of earlier shards is a closure over its memory, for example
    `partial(duplicates.drop_near, index=DuplicateIndex())`. The file appears under `path` only when it is whole. What
    stays in memory is one shard, the ids, and what the steps remember.

    Args:
        raw: rows as `validate` takes them.
        shard: rows cleaned at a time, at least 1.

    Returns:
        `Cleaned.line` of every step, summed over the shards.

    Raises:
        DataError: none of the first 1,000 rows has a known shape.
        ParameterError: `shard` is below 1.
    """
    if shard < 1:
        raise ParameterError(f"shard={shard!r}; at least one row must be cleaned at a time.")
    rows = iter(raw)
    head = list(itertools.islice(rows, 1_000))
    shape, seen, rows = shape_of(head), set(), itertools.chain(head, rows)
    shards: list[list[dict]] = []

    def kept():
        for first in itertools.count(1, shard):
            if not (block := list(itertools.islice(rows, shard))):
                return
            done = [validate(block, shape, first, seen)]
            for step in steps:
                done.append(step(done[-1].rows))
            shards.append([step.line() for step in done])
            yield from done[-1].rows

    write_jsonl(kept(), path)
    return [_sum(lines) for lines in zip(*shards, strict=True)]


def _sum(lines: tuple[dict, ...]) -> dict:
    why = sum((Counter(line["why"]) for line in lines), Counter())
    numbers = {name: sum(line[name] for line in lines) for name in ("read", "dropped", "changed", "kept")}
    return {"step": lines[0]["step"]} | numbers | {"why": dict(why.most_common())}
