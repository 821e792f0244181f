"""One form for one text: Unicode, invisible characters, HTML and reStructuredText leftovers, white space."""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable

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
    *("p", "div", "li", "ul", "ol", "td", "th", "tr", "table", "blockquote", "pre", "dt", "dd", "h1", "h2", "h3", "h4")
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


def normalise_text(text: str, strip_markup: bool = True) -> tuple[str, list[str]]:
    """A text in one form, and which of these had to be mended for it.

    `mojibake` (UTF-8 that was read as another encoding: ftfy, Speer 2019), `unicode` (NFC; other white space becomes a
    space), `invisible` (control, zero-width and direction characters, terminal colours), `html` (tags and entities),
    `rst` (roles, substitutions, links, notes), `white space` (CR, trailing blanks, more than one empty line). Markup
    in code stays where backticks or `>>>` mark the code, and so do typographic quotes and dashes. Idempotent: what one
    mend uncovers, such as a tag written with entities, is mended too.

    Args:
        strip_markup: whether `html` and `rst` go; not where markup is what a text is about.
    """
    mends = [(reason, mend) for reason, mend in _MENDS if strip_markup or reason not in ("html", "rst")]
    why: list[str] = []
    while True:  # every mend shortens the text or takes away what it looks for
        before = text
        for reason, mend in mends:
            after = mend(text)
            if after != text and reason not in why:
                why.append(reason)
            text = after
        if text == before:
            return text, why
