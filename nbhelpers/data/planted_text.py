"""The texts that are planted (`planted_texts.json`) and the small language that their formats are written in.

A format is a string in which `%d4` stands for four random digits and `%{noun}` for a random noun. The letters are d
(digit), h (lower-case hexadecimal), w (letter or digit), U (capital or digit), A (capital), b (base64) and u
(base64url). A name in braces is a list of `words` in the data file, whose entries may be formats themselves, or one
of `GENERATORS`. `⟦` and `⟧` enclose what is personal or secret; a format without them is so as a whole.

All names, hosts and numbers are invented, and secrets are random.
"""

import base64
import functools
import ipaddress
import json
import random
import re
import string
from pathlib import Path

ALPHABETS = {
    "d": string.digits,
    "h": string.digits + "abcdef",
    "w": string.ascii_letters + string.digits,
    "U": string.ascii_uppercase + string.digits,
    "A": string.ascii_uppercase,
    "b": string.ascii_letters + string.digits + "+/",
    "u": string.ascii_letters + string.digits + "-_",
}


@functools.cache
def _data() -> dict:
    return json.loads(Path(__file__).with_name("planted_texts.json").read_text(encoding="utf-8"))


def texts(section: str) -> dict | list:
    """One section of the data file, read once and shared: do not change it. Raises KeyError on an unknown section.

    Lists of words and of formats:
        words: name -> words, what `%{name}` stands for.
        bank_accounts: country -> format of its account number, after the SWIFT registry of IBANs.
        templates: paragraphs in which a quarter or more of the words are open.
        boilerplate: licences, notices and navigation that teach nothing.
    Personal data:
        personal: kind -> family -> formats.
        personal_sentences: kind -> sentences; `{}` is where the value goes.
        not_personal: family -> formats of sentences in which nothing is personal.
    Characters and markup:
        unicode: sentences beyond ASCII, in composed form (NFC).
        escaped: what HTML must write with entities.
        inline_markup: family -> pairs (what is put in the place of a word, what should come out of it).
        block_markup: family -> pairs (text with markup, what should come out); a, b and c are texts of one line.
        clean_markup: family -> texts that must come out as they are.
    Prose:
        fillers, common_phrases, questions, short_answers, too_short: lists of texts.
        passages: ISO 639-1 code -> sentences that can stand in any order.
        english: family -> formats of English texts, hard to tell by their letters alone.
        worthwhile: family -> formats of texts that are worth keeping.
    """
    return _data()[section]


def characters(letter: str, count: int, rng: random.Random) -> str:
    """`count` random characters of one of `ALPHABETS`."""
    return "".join(rng.choices(ALPHABETS[letter], k=count))


def expand(form: str, rng: random.Random) -> str:
    """A random text of this format. Raises KeyError on an unknown name in braces."""

    def value(match: re.Match) -> str:
        letter, count, name = match.groups()
        if letter:
            return characters(letter, int(count), rng)
        if name in GENERATORS:
            return GENERATORS[name](rng)
        return expand(rng.choice(texts("words")[name]), rng)

    return re.sub(r"%(?:([dhwUAbu])(\d+)|\{(\w+)\})", value, form)


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of ISO/IEC 7812-1 (Luhn 1960)."""
    doubled = [sum(divmod(int(digit) * (1 + i % 2), 10)) for i, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def iban_checks(iban: str) -> bool:
    """Whether the check digits of an IBAN without spaces are right: ISO 7064, modulus 97."""
    moved = iban[4:] + iban[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def _card(rng: random.Random, right: bool = True) -> str:
    """A card number of an issuer's prefix and length, its Luhn digit right or one too high."""
    prefix, length = rng.choice(
        [("4", 16), ("4", 16), ("51", 16), ("54", 16), ("2230", 16), ("34", 15), ("37", 15), ("6011", 16), ("65", 16)]
    )
    body = prefix + characters("d", length - len(prefix) - 1, rng)
    check = next(digit for digit in string.digits if luhn(body + digit))
    return body + (check if right else str((int(check) + 1) % 10))


def _grouped(number: str, separator: str) -> str:
    groups = (4, 6, 5) if len(number) == 15 else (4, 4, 4, 4)
    starts = [sum(groups[:i]) for i in range(len(groups))]
    return separator.join(number[start : start + size] for start, size in zip(starts, groups, strict=True))


def _iban(rng: random.Random, right: bool = True) -> str:
    country, form = rng.choice(sorted(texts("bank_accounts").items()))
    account = expand(form, rng)
    check = next(i for i in range(2, 99) if iban_checks(f"{country}{i:02}{account}"))
    return f"{country}{check if right else 2 + (check - 1) % 97:02}{account}"


def _fours(iban: str) -> str:
    return " ".join(iban[i : i + 4] for i in range(0, len(iban), 4))


def _ipv4(rng: random.Random) -> str:
    while True:
        address = ipaddress.IPv4Address(rng.randrange(1 << 24, 224 << 24))
        if address.is_global:
            return str(address)


def _ipv6(rng: random.Random, zeros: bool = False) -> str:
    start = rng.choice(["2a00", "2a01", "2600", "2607", "2c0f", "2400"])
    groups = [start, *(f"{rng.randrange(1, 1 << 16):x}" for _ in range(7))]
    if zeros:
        groups[4:7] = ["0"] * 3
    return str(ipaddress.IPv6Address(":".join(groups)))


def _jwt(rng: random.Random) -> str:
    header = '{"alg":"HS256","typ":"JWT"}'
    claims = f'{{"sub":"{characters("d", 10, rng)}","iat":17{characters("d", 8, rng)}}}'
    first, second = (base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in (header, claims))
    return f"{first}.{second}.{characters('u', 43, rng)}"


def _pem(rng: random.Random) -> str:
    name = rng.choice(["RSA PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY"])
    lines = "\n".join(characters("b", 64, rng) for _ in range(rng.randint(3, 12)))
    return f"-----BEGIN {name}-----\n{lines}\n{characters('b', 22, rng)}==\n-----END {name}-----"


def _encoded_prose(rng: random.Random) -> str:
    return base64.b64encode(" ".join(rng.sample(texts("fillers"), 2)).encode()).decode()


def _password(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_letters + string.digits + "!#$*-_.", k=rng.randint(10, 18)))


GENERATORS = {
    "card": _card,
    "card_spaced": lambda rng: _grouped(_card(rng), " "),
    "card_dashed": lambda rng: _grouped(_card(rng), "-"),
    "not_card": lambda rng: _card(rng, right=False),
    "not_card_spaced": lambda rng: _grouped(_card(rng, right=False), " "),
    "iban": _iban,
    "iban_spaced": lambda rng: _fours(_iban(rng)),
    "iban_lower": lambda rng: rng.choice([_iban, lambda r: _fours(_iban(r))])(rng).lower(),
    "not_iban": lambda rng: rng.choice([str, _fours])(_iban(rng, right=False)),
    "ipv4": _ipv4,
    "ipv4_defanged": lambda rng: rng.choice(["{}[.]{}[.]{}[.]{}", "{}.{}.{}[.]{}"]).format(*_ipv4(rng).split(".")),
    "ipv6": _ipv6,
    "ipv6_upper": lambda rng: _ipv6(rng).upper(),
    "ipv6_exploded": lambda rng: ipaddress.IPv6Address(_ipv6(rng, zeros=True)).exploded,
    "ipv6_short": lambda rng: _ipv6(rng, zeros=True),
    "jwt": _jwt,
    "pem": _pem,
    "encoded_prose": _encoded_prose,
    "password": _password,
}  # name -> function(rng) giving a random value
