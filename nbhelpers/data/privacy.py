"""Personal data and secrets in text: found by pattern, confirmed by checksum, registry or context, replaced by type.

A pattern alone calls every version number an address and every long number a card. So each candidate must also pass
what makes the real thing real: a Luhn or mod-97 check digit, a valid number plan, a routable address. Names, postal
addresses and dates of birth have no such mark and are not found here; a recogniser with a language model (Presidio,
for one) can be given to `cleaning.redact` in place of `find`.
"""

import ipaddress
import re
from typing import NamedTuple

KINDS = ("EMAIL", "PHONE", "IP", "CARD", "IBAN", "KEY")


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of a text, of one of `KINDS`."""

    start: int
    end: int
    kind: str


def find(text: str) -> list[Span]:
    """The spans of personal data and secrets in a text, in order, none overlapping another (the earlier kind wins)."""
    taken: list[Span] = []
    for spans in (_keys, _emails, _ibans, _cards, _ips, _phones):
        for span in spans(text):
            if all(span.end <= other.start or span.start >= other.end for other in taken):
                taken.append(span)
    return sorted(taken)


def redact(text: str, spans: list[Span]) -> str:
    """The text with each span replaced by its kind in brackets, `[EMAIL]`."""
    for span in sorted(spans, reverse=True):
        text = f"{text[: span.start]}[{span.kind}]{text[span.end :]}"
    return text


_EMAIL = re.compile(r"(?<![\w/@])\w(?:[\w.+%'-]{0,62}\w)?@(?:[\w-]+\.)+[^\W\d_]{2,}(?![\w@-])")  # RFC 5321: 64 before @
_AT = r"(?:[\[({<]\s*(?i:at)\s*[\])}>]|(?<=\s)AT(?=\s))"
_DOT = r"(?:\.|\s*(?:[\[({<]\s*(?i:dot)\s*[\])}>]|(?<=\s)DOT(?=\s))\s*)"
_SPELT_EMAIL = re.compile(rf"(?<![\w.+-])\w[\w.+-]*\s*{_AT}\s*[\w-]+(?:{_DOT}[\w-]+)*{_DOT}[^\W\d_]{{2,}}\b")
_SPELT_AT = re.compile(r"[\[({<]\s*[aA][tT]\s*[\])}>]|\sAT\s")
_SPOKEN_EMAIL = re.compile(
    r"(?<![\w.+-])(?!(?:it|me|us|him|her|them|you) )[\w.+-]+(?: dot [\w+-]+){0,3} at [\w-]+(?: dot [\w-]+)*"
    r" dot (?:com|org|net|edu|gov|io|dev|info|ai|co|uk|de|fr|it|es|nl|ch|at|be|se|eu|us|ca|au|in|jp|br)\b"
)
_SPOKEN_CUE = re.compile(  # without it `the file at python dot org` would be an address
    r"\b(?:(?:e-?)?mail|writ(?:e|ing)|wrote|contact|reach(?:ed)?|address|send|cc|author|reported)\b[\s:]*"
    r"(?:(?:me|us|him|her|them|to|is|at|on|by|now)\b[\s:]*){0,3}$",
    re.I,
)
_RESERVED = re.compile(r"(?:^|[.@])(?:example\.(?:com|org|net|edu)|example|invalid|test|localhost)$", re.I)  # RFC 2606
_FILES = {"png", "jpg", "jpeg", "gif", "svg", "webp", "ico", "py", "js", "ts", "css", "html", "json", "so", "md"}


def _emails(text: str):
    if "@" in text:
        for match in _EMAIL.finditer(text):
            name, _, host = match[0].rpartition("@")
            service = name.lower() in ("git", "hg", "svn") or re.match(r":[\w~/]", text[match.end() : match.end() + 2])
            last = host.rpartition(".")[2].lower()
            method = host.startswith(("self.", "cls.")) or text.startswith("(", match.end())  # x@self.weight, q@k.view(
            product = method and len(last) > 3 and last != "info"
            if not (service or product or _RESERVED.search(host) or last in _FILES):
                yield Span(match.start(), match.end(), "EMAIL")
    spelt = _SPELT_EMAIL.finditer(text) if _SPELT_AT.search(text) else ()
    spoken = _SPOKEN_EMAIL.finditer(text) if " dot " in text else ()
    spoken = (match for match in spoken if _SPOKEN_CUE.search(text[max(0, match.start() - 32) : match.start()]))
    for match in (*spelt, *spoken):
        if not _RESERVED.search(re.sub(r"\W*\bdot\b\W*", ".", match[0], flags=re.I)):
            yield Span(match.start(), match.end(), "EMAIL")


_CARD = re.compile(
    r"(?<![\w./-])(?:\d{4}([ -]?)\d{4}\1\d{4}\1\d{1,4}(?:\1\d{1,3})?|3\d{3}([ -]?)\d{6}\2\d{4,5})(?![\w:/-]|\.\d)"
)
_CARD_CUE = re.compile(r"(?:card|visa|amex|maestro|unionpay|number|no\.?) ?[:#]$", re.I)
_ISSUERS = re.compile(  # ISO/IEC 7812: Visa, Mastercard, Amex, Discover, JCB, Diners Club, UnionPay, Maestro
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|6(?:011|5\d\d|4[4-9]\d)\d{12}|35\d{14}|3[068]\d{12}"
    r"|62\d{14,17}|(?:5018|5020|5038|6304|6759|676[1-3])\d{9,15}"
)
_IBAN = re.compile(r"(?<![\w-])[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}(?![\w-])", re.I)


def _cards(text: str):
    from stdnum import luhn

    for match in _CARD.finditer(text):
        before = text[max(0, match.start() - 12) : match.start()]
        if before.endswith((":", "#")) and not _CARD_CUE.search(before):  # a time, a line, an issue
            continue
        digits = re.sub(r"\D", "", match[0])
        if _ISSUERS.fullmatch(digits) and luhn.is_valid(digits) and len(set(digits)) > 1:
            yield Span(match.start(), match.end(), "CARD")


def _ibans(text: str):
    from stdnum import iban

    for match in _IBAN.finditer(text):
        end = match.end()
        while end > match.start() + 14:  # the words behind an IBAN may look like a part of it
            if iban.is_valid(re.sub(r"[ -]", "", text[match.start() : end]), check_country=False):
                yield Span(match.start(), end, "IBAN")
                break
            end = max(text.rfind(" ", 0, end), text.rfind("-", 0, end))


_IPV4 = re.compile(r"(?<![\w.\-])\d{1,3}(?:(?:\.|\[\.\]|\(\.\))\d{1,3}){3}(?!\w|\.\d|-\w)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9a-f]{1,4}:|::)[0-9a-f:]*(?:\d+(?:\.\d+){3})?(?![\w:])", re.I)
_NUMBERED = re.compile(  # what stands before a version or a section
    r"(?:\bv|\bvers?|versions?|release[ds]?(?: as)?|section|sec|chapter|clause|figure|table|build|firmware|driver"
    r"|kernel|OID|python|upgrade[ds]? to|[=<>~!^]=?|§)[.:=]?[\s\"'(]*$",
    re.I,
)
_IP_CUE = re.compile(r"(?:://|@|\bip\b|address|host|server|from|client|peer|dns|ping|gateway|proxy)", re.I)
_IP_WORD = (
    r"connect\w*|log(?:s|ged|ging)?\b|login|routes?\b|routed|ports?\b|block(?:s|ed|ing)?\b|ban(?:s|ned)?\b|attack\w*"
    r"|request(?:ed|s? (?:from|to|by|for))|visit\w*|resolvers?|resolve[sd]? to|dns|gateway"
)
_IP_CUE_BEFORE = re.compile(
    rf"\b(?:{_IP_WORD}|via|resolve|contact(?:s|ed)?|upstream)"
    r"(?: (?:to|from|on|at|by|through|the|for|in|out|is))*[\s:=\"'`(\[]*$",
    re.I,
)
_IP_CUE_BEHIND = re.compile(
    r"[\"'`)\]]?(?:,? (?:(?:is|was|are|has|have|been|had|an?|the|our|its|as|not|tried|to|public) )*"
    rf"(?:{_IP_WORD})| - \S+ \[)",
    re.I,
)


def _ips(text: str):
    for match in _IPV4.finditer(text):
        try:
            address = ipaddress.ip_address(re.sub(r"[\[\]()]", "", match[0]))
        except ValueError:
            continue
        before = text[max(0, match.start() - 32) : match.start()]
        cue = _IP_CUE.search(before) or _IP_CUE_BEFORE.search(before)
        cue = cue or _IP_CUE_BEHIND.match(text, match.end(), match.end() + 48)
        large = sum(part >= 50 for part in address.packed)  # of the four, most addresses have two or more, versions few
        numbered = _NUMBERED.search(before)
        if address.is_global and (cue or large > 1) and (not numbered or (cue and numbered[0].startswith("="))):
            yield Span(match.start(), match.end(), "IP")
    for match in _IPV6.finditer(text) if "::" in text or text.count(":") > 6 else ():
        try:
            address = ipaddress.IPv6Address(match[0])
        except ValueError:
            continue
        if address.is_global and address in _GLOBAL_UNICAST:
            yield Span(match.start(), match.end(), "IP")


_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # RFC 4291; `abc::def` in a program is outside of it
_MAYBE_PHONE = re.compile(r"(?:\d[\s().\-/\u2010-\u2015]{0,4}){7}")
_CUE = (
    r"(?:\btel\b|\bphone|telephone|\bcall(?:ed|ing|s)?\b|\bfax\b|mobile|\bcell\b|\bring\b|whatsapp|hotline|contact"
    r"|\btext\b|\bdial|reach|\bsms\b|number is|\bext\b|☎|📞"
    r"|telefon|rückruf|anruf|durchwahl|\bmobil\b|\btél\b|téléphone|joindre|\bappel(?:er|ez)?\b)[^\n]{0,24}"
)
_PHONE_CUE = re.compile(_CUE + "$", re.I)
_CUED_NUMBER = re.compile(_CUE + r"?[\d(+]|\b00[1-9]", re.I)  # 00 is dialled before a country code
_WRITTEN_NUMBER = re.compile(r"\+[\d(]|\d[-.) ]+\d{3}[-.]\d{4}")  # as in any country, or as in North America
_NORTH_AMERICAN = re.compile(r"(?:\+?1[ .-])?(?:\(\d{3}\) ?|\d{3}-|\d{3}\.)\d{3}[-.]\d{4}(?: *(?:x|ext\.?) *\d+)?")
_REGIONS = ("US", "GB", "DE", "FR")  # national formats that are tried where there is no country code


def _phones(text: str):
    if not _MAYBE_PHONE.search(text):
        return
    cued = _CUED_NUMBER.search(text)
    if not cued and not _WRITTEN_NUMBER.search(text):
        return
    import phonenumbers

    for region in _REGIONS if cued else _REGIONS[:1]:
        for match in phonenumbers.PhoneNumberMatcher(text, region):
            raw, before = match.raw_string, text[max(0, match.start - 40) : match.start]
            decimal = re.fullmatch(r"\+?[\d,]+\.\d+", raw) or before.endswith((".", "=", "#"))
            formatted = raw.startswith(("+", "00")) or _NORTH_AMERICAN.fullmatch(raw)
            if not decimal and (formatted or _PHONE_CUE.search(before)):
                yield Span(match.start, match.end, "PHONE")


_KEYS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.+?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?<![\w-])(?:"
    r"(?:AKIA|ASIA)[0-9A-Z]{16}"  # Amazon Web Services
    r"|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{22,}|glpat-[\w-]{20,}"  # GitHub, GitLab
    r"|xox[abeprs]-[\w-]{10,}|xapp-[\w-]{10,}"  # Slack
    r"|[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9]{16,}"  # Stripe
    r"|AIza[\w-]{30,}|ya29\.[\w-]{20,}"  # Google
    r"|sk-[\w-]{20,}|hf_[A-Za-z0-9]{20,}|npm_[A-Za-z0-9]{30,}|pypi-[\w-]{20,}"
    r"|SG\.[\w-]{16,}\.[\w-]{16,}"  # SendGrid
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"  # JSON Web Token
    r")(?![\w])",
    re.S,
)
_SECRET_OF = re.compile(  # the value is the group
    r"(?i:authorization[\"']?\s*[:=]\s*[\"']?(?:bearer|basic|token)\s+)(?P<bearer>[\w.~+/=-]{12,})"
    r"|://[^\s:/@\"'<>]*:(?P<url>[^\s@/\"'<>]{3,})@"
    r"|(?i:(?P<chosen>pass(?:word|wd|phrase)|pwd|secret)|pass|token|(?:api|access|account|secret|auth)[_-]?key"
    r"|private[_-]?key|credential)[\"']?\s*(?::=|=|:)\s*(?:(?P<q>[\"'])(?P<quoted>[^\"'`\s]{6,}?)(?P=q)|(?P<bare>[^\s\"'`,;(){}<>]{8,}(?<!\.)))"
)
_WORDS = re.compile(r"[A-Z]?[a-z0-9]*(?:[_-][a-z0-9]+)+|[^A-Za-z]+|.*(?i:base64|sha\d|utf-?8|md5).*")
_PLACEHOLDER = re.compile(
    r"[<>{}\[\]…]|^\$[({\w]+$|\.\.\.|^(?:your|dummy|fake|test|example|sample|change|insert|enter|todo|none|null|true"
    r"|false)(?![a-z0-9]*\d)|^(?:my|some|the|an?)(?=[-_. ]|$)|^(?:pwd|pass|user|repo|org|sha)$|xxx|\*\*\*|environ"
    r"|getenv|getpass|placeholder|redacted|secret|passw|token|key$",
    re.I,
)


def _is_secret(value: str) -> bool:
    """Whether it looks made by chance: at least two of digits, capitals and small letters, or symbols among letters."""
    kinds = (
        re.search(r"\d", value),
        re.search(r"[A-Z]", value),
        re.search(r"[a-z]", value),
        re.search(r"[^\w.]", value),
    )
    return not _PLACEHOLDER.search(value) and bool(kinds[0] or kinds[3]) and sum(map(bool, kinds)) >= 2


def _keys(text: str):
    for match in _KEYS.finditer(text):
        if match[0].startswith("-----") or re.search(r"\d|[a-z][A-Z]", match[0]):
            yield Span(match.start(), match.end(), "KEY")
    for match in _SECRET_OF.finditer(text):
        name = next(name for name in ("bearer", "url", "quoted", "bare") if match[name])
        value = match[name]
        if name == "bare" and (
            (len(value) < 16 and not match["chosen"])
            or (len(value) < 24 and match["chosen"] and _WORDS.fullmatch(value))
            or re.search(r"[.(:]", value)
            or ("/" in value and len(value) < 30)
            or text.startswith("(", match.end())
        ):  # words, an expression, a path, a type, a call
            continue
        if _is_secret(value) or (name == "url" and not _PLACEHOLDER.search(value) and value != "port"):
            yield Span(*match.span(name), "KEY")
