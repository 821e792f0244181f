"""The words of a text as comparisons see them, and which of them are one keystroke apart."""

import re

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")  # scripts without spaces: by sign
_WITHIN = re.compile(r"['\u2019](?<=\w.)(?=\w)")  # an apostrophe within a word
_SPACED = "".join(sign.lower() if re.match(r"\w", sign) else " " for sign in map(chr, range(128)))


def words(text: str) -> list[str]:
    """The words of a text, in order, in small letters, without punctuation."""
    if text.isascii():  # the same, three times as fast
        return (_WITHIN.sub("", text) if "'" in text else text).translate(_SPACED).split()
    return _WORD.findall(_WITHIN.sub("", text.casefold()))


def is_slip(a: str, b: str) -> bool:
    """Whether one keystroke makes one word of the other: a sign inserted, deleted, replaced or two transposed.

    That is a Damerau-Levenshtein distance of 1; but another digit, or another word of one sign, is no slip.
    """
    if len(a) > len(b):
        a, b = b, a
    if len(b) - len(a) > 1 or a == b or len(b) == 1:
        return False
    if len(b) > 2 and a[:1] != b[:1] and a[-1:] != b[-1:]:  # a keystroke spares one end of all but the shortest words
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    if len(a) < len(b):
        moved, same = b[start], a[start:] == b[start + 1 :]
    elif a[start + 1 :] == b[start + 1 :]:
        moved, same = a[start] + b[start], True
    else:
        moved = a[start : start + 2]
        same = moved == b[start : start + 2][::-1] and a[start + 2 :] == b[start + 2 :]
    return same and not any(map(str.isdigit, moved))
