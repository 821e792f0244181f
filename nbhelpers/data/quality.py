"""Whether one text is worth training on: its language, and the faults that a rule can see."""

import re
from collections import Counter
from functools import lru_cache

from nbhelpers.core.errors import ParameterError

_NOT_PROSE = re.compile(
    r"^[ \t]*(?:>>>|\.\.\. ).*$|``[^`]*``|`[^`]*`|(?<![!-~])[!-~]*[_/\\=<>{}()\[\]|#@][!-~]*|\b[a-z0-9]*\d[a-z0-9]*\b"
    r"|\b[a-z0-9]+\.[a-z0-9][!-~]*",
    re.M | re.I | re.A,
)  # code, paths, identifiers, numbers: of no language


@lru_cache(maxsize=1)
def _identifier():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def language_problem(
    text: str, language: str = "en", min_probability: float = 0.8, min_letters: int = 40
) -> tuple[str, str] | None:
    """`("language", detail)` where the prose of a text is surely in another language (py3langid), else None.

    Code, identifiers and numbers are set aside first, and the first 300 characters of what is left decide. A text with
    fewer than `min_letters` letters of it (15 where some are not ASCII, which tells more) passes: nobody can tell the
    language of three words.

    Raises ParameterError: the language is not one of py3langid's.
    """
    if language not in (known := _identifier().labels):
        raise ParameterError(f"language={language!r} is not one of the ISO 639-1 codes {', '.join(sorted(known))}.")
    found, probability = _language(text, min_letters)
    return ("language", f"{found} {probability:.2f}") if found != language and probability >= min_probability else None


def is_surely_in(text: str, language: str, min_probability: float = 0.8, min_letters: int = 40) -> bool:
    """Whether the prose of a text is surely in a language, by the same measure."""
    found, probability = _language(text, min_letters)
    return found == language and probability >= min_probability


def _language(text: str, min_letters: int) -> tuple[str, float]:
    """The language of the prose of a text and how probable it is; 0 where there is too little of it to tell."""
    prose = " ".join(_NOT_PROSE.sub(" ", text[:3_000]).split())[:300]
    letters = sum(map(str.isalpha, prose))
    if letters >= min_letters or (not prose.isascii() and letters >= 15):
        return _identifier().classify(prose)
    return "", 0.0


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
