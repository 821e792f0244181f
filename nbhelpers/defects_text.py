"""What `nbhelpers.defects` plants: passages, sentences and formats, and the small language the formats are written in.

A format is a string in which `%d4` stands for four random digits and `%{noun}` for a random entry of `WORDS`. The
letters are d (digit), h (lower-case hexadecimal), w (letter or digit), U (capital or digit), A (capital), b (base64)
and u (base64url). `⟦` and `⟧` enclose what is personal or secret; a format without them is so as a whole.
All names, hosts and numbers are invented, and secrets are random.
"""

import base64
import ipaddress
import random
import re
import string

# --- formats ------------------------------------------------------------------------------------------------------

ALPHABETS = {
    "d": string.digits,
    "h": string.digits + "abcdef",
    "w": string.ascii_letters + string.digits,
    "U": string.ascii_uppercase + string.digits,
    "A": string.ascii_uppercase,
    "b": string.ascii_letters + string.digits + "+/",
    "u": string.ascii_letters + string.digits + "-_",
}


def characters(letter: str, count: int, rng: random.Random) -> str:
    """`count` random characters of one of `ALPHABETS`."""
    return "".join(rng.choices(ALPHABETS[letter], k=count))


def expand(form: str, rng: random.Random) -> str:
    """A random text of this format; an entry of `WORDS` may itself be a format. Raises KeyError on an unknown name."""

    def value(match: re.Match) -> str:
        letter, count, name = match.groups()
        if letter:
            return characters(letter, int(count), rng)
        words = WORDS[name]
        return words(rng) if callable(words) else expand(rng.choice(words), rng)

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


BANKS = {
    "AT": "%d16", "BE": "%d12", "CH": "%d5%U12", "DE": "%d18", "DK": "%d14", "ES": "%d20", "FI": "%d14",
    "FR": "%d10%U11%d2", "GB": "%A4%d14", "IE": "%A4%d14", "IT": "%A1%d10%U12", "NL": "%A4%d10", "NO": "%d11",
    "PL": "%d24", "PT": "%d21", "SE": "%d20",
}  # country -> format of its account number, after the SWIFT registry of IBANs  # fmt: skip


def _iban(rng: random.Random, right: bool = True) -> str:
    country = rng.choice(sorted(BANKS))
    account = expand(BANKS[country], rng)
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
    return base64.b64encode(" ".join(rng.sample(FILLERS, 2)).encode()).decode()


def _password(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_letters + string.digits + "!#$*-_.", k=rng.randint(10, 18)))


WORDS = {
    "noun": [
        "array", "axis", "batch", "buffer", "cache", "callback", "channel", "chunk", "column", "config", "counter",
        "cursor", "dataset", "decoder", "device", "encoder", "field", "figure", "filter", "folder", "graph", "handler",
        "header", "image", "index", "iterator", "kernel", "key", "label", "layer", "loader", "mask", "matrix",
        "message", "model", "module", "node", "object", "option", "packet", "parser", "path", "pipeline", "plugin",
        "pool", "process", "query", "queue", "record", "request", "response", "sample", "scheduler", "schema", "score",
        "section", "session", "shape", "signal", "socket", "stream", "string", "table", "tensor", "thread", "timer",
        "token", "tree", "vector", "view", "widget", "window", "worker",
    ],
    "verb": [
        "append", "apply", "build", "cancel", "check", "clear", "close", "collect", "compare", "compile", "convert",
        "copy", "create", "decode", "delete", "draw", "encode", "evaluate", "export", "fetch", "flush", "gather",
        "import", "insert", "iterate", "join", "load", "lock", "map", "merge", "move", "normalise", "open", "pack",
        "parse", "plot", "pop", "print", "push", "read", "remove", "rename", "render", "replace", "reset", "resize",
        "restore", "sample", "save", "scan", "select", "send", "shuffle", "sort", "split", "start", "stop", "store",
        "swap", "train", "update", "validate", "wrap", "write",
    ],
    "adjective": [
        "absolute", "active", "binary", "broken", "cached", "closed", "compressed", "current", "dense", "empty",
        "external", "final", "frozen", "global", "hidden", "idle", "internal", "invalid", "large", "lazy", "linear",
        "local", "masked", "missing", "nested", "numeric", "old", "open", "optional", "outer", "padded", "parallel",
        "partial", "pending", "private", "public", "random", "raw", "recent", "relative", "remote", "shared", "sparse",
        "static", "temporary", "unique", "unused", "valid", "virtual", "visible", "weighted",
    ],
    "first": [
        "Anna", "Bela", "Carlos", "Dagmar", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kaito", "Lena",
        "Marek", "Nadia", "Olga", "Pavel", "Rosa",
    ],
    "last": [
        "Achterberg", "Brandvold", "Castellan", "Dvorsky", "Eriksdal", "Fontaine", "Grünwald", "Halvorsen", "Ibarra",
        "Kowalczuk",
    ],
    "user": [
        "anna.brandvold", "b.castellan", "dvorsky", "elif_fontaine", "hugo.ibarra%d2", "ines-kowal", "j.halvorsen",
        "lena%d3", "mkowalczuk", "o.achterberg", "pavel.d", "rosa.eriksdal", "k_%d4", "farid.n", "greta.v.h",
    ],
    "host": [
        "brightwater-labs.com", "fjordmail.net", "halvorsen.io", "kestrel-data.org", "lichtung.de", "moulin-vert.fr",
        "northgate.ac.uk", "oakridge-health.com", "pinetree.dev", "rio-claro.com.br", "sakura-net.jp", "tidewater.edu",
    ],
    "subhost": ["mail.%{host}", "cs.%{host}", "smtp-in.eu.%{host}", "physics.dept.%{host}"],
    "site": ["kestrel", "fjord", "lichtung", "tidewater", "pinetree", "halvorsen"],
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
}  # fmt: skip

# --- personal data and secrets ------------------------------------------------------------------------------------

PERSONAL = {
    "EMAIL": {
        "plain": ["%{user}@%{host}", "%{user}%d2@%{host}"],
        "plus tag": ["%{user}+lists@%{host}", "%{user}+%d4@%{host}", "%{user}+github.ci@%{subhost}"],
        "subdomain": ["%{user}@%{subhost}"],
        "angle brackets": ["%{first} %{last} <⟦%{user}@%{host}⟧>", '"%{last}, %{first}" <⟦%{user}@%{subhost}⟧>'],
        "mailto": [
            "mailto:⟦%{user}@%{host}⟧", "mailto:⟦%{user}@%{host}⟧?subject=Report", "[mail](mailto:⟦%{user}@%{host}⟧)",
        ],
        "at dot": ["%{user} (at) %{site} (dot) org", "%{user} (at) %{site} (dot) %{site} (dot) edu"],
        "brackets": ["%{user} [at] %{host}", "%{user}[at]%{site}[dot]net", "%{user} [at] %{site} [dot] com"],
        "capital words": ["%{user} AT %{site} DOT org", "%{user} AT %{site} DOT edu"],
        "upper case": ["ANNA.BRANDVOLD%d2@KESTREL-DATA.ORG", "J.Halvorsen@Tidewater.EDU", "INFO.%A5@FJORDMAIL.NET"],
        "unicode domain": ["%{user}@müller-büro.de", "%{user}@café-lyon.fr", "jürgen.%{user}@grünwald-%d2.at"],
        "quoted or assigned": [
            "'⟦%{user}@%{host}⟧'", "`⟦%{user}@%{host}⟧`", "author_email=\"⟦%{user}@%{host}⟧\"", "(⟦%{user}@%{host}⟧)",
        ],
    },
    "PHONE": {
        "US": [
            "+1 212 555 01%d2", "+1-415-555-01%d2", "+1 (206) 555-01%d2", "(312) 555-01%d2", "617-555-01%d2",
            "503.555.01%d2", "+130355501%d2", "1-646-555-01%d2", "(512)555-01%d2", "+1.702.555.01%d2",
        ],
        "UK": [
            "+44 20 7946 0%d3", "+44 (0)20 7946 0%d3", "020 7946 0%d3", "(020) 7946 0%d3", "0117 496 0%d3",
            "+442079460%d3", "07911 12%d4", "+44 7911 12%d4", "+44-161-496-0%d3",
        ],
        "German": [
            "+49 30 23125%d3", "+49 (0)30 23125-%d3", "030/23125%d3", "030 23125 %d3", "+49-171-39200%d2",
            "0171 39200%d2", "0049 30 23125%d3", "+4930 23125%d3", "(030) 23125-%d3",
        ],
        "French": [
            "+33 1 99 00 %d2 %d2", "01 99 00 %d2 %d2", "01.99.00.%d2.%d2", "+33 (0)6 12 34 %d2 %d2", "06-12-34-%d2-%d2",
            "+3319900%d4", "+33.1.99.00.%d2.%d2",
        ],
        "other countries": [
            "+61 491 570 1%d2", "+46 70 174 06 %d2", "+34 612 34 %d2 %d2", "+39 06 6982 %d4", "+91 98765 4%d4",
            "+81 3-3123-%d4", "+55 11 96123-%d4", "+86 138 1234 %d4", "+31 20 624 %d4", "+48 22 123 %d2 %d2",
            "+41 44 668 %d2 %d2",
        ],
        "extension": [
            "+1 212 555 01%d2 ext. %d2", "(312) 555-01%d2 x%d3", "+44 20 7946 0%d3 ext %d3",
            "+1-415-555-01%d2, ext. %d4",
        ],
        "tel link": [
            "tel:⟦+1-212-555-01%d2⟧", "<tel:⟦+442079460%d3⟧>", '<a href="tel:⟦+493023125%d3⟧">call</a>',
            "[call us](tel:⟦+33199001%d3⟧)",
        ],
    },
    "IP": {
        "v4": ["%{ipv4}"],
        "v4 with port": ["⟦%{ipv4}⟧:8080", "⟦%{ipv4}⟧:443", "⟦%{ipv4}⟧:5432", "⟦%{ipv4}⟧/32"],
        "v4 in a URL": ["http://⟦%{ipv4}⟧/status", "https://⟦%{ipv4}⟧:8443/v1/models?limit=5", "ssh://root@⟦%{ipv4}⟧"],
        "v4 defanged": ["%{ipv4_defanged}", "hxxp://⟦%{ipv4_defanged}⟧/a.exe"],
        "v4 in a log": ['⟦%{ipv4}⟧ - - [12/Mar/2021:10:%d2:12 +0000] "GET /index HTTP/1.1" 200 %d4', "peer=⟦%{ipv4}⟧,"],
        "v6": ["%{ipv6}", "%{ipv6_upper}", "%{ipv6_exploded}"],
        "v6 compressed": ["%{ipv6_short}", "2a00:%h4::%h2", "2607:f8b0:%h4:%h3::200e", "2a01:4f8::1"],
        "v6 in brackets": ["[⟦%{ipv6_short}⟧]:443", "http://[⟦%{ipv6}⟧]:8080/", "[⟦%{ipv6}⟧]"],
    },
    "CARD": {
        "plain": ["%{card}"],
        "spaced": ["%{card_spaced}"],
        "dashed": ["%{card_dashed}"],
        "with its details": [
            "⟦%{card_spaced}⟧ exp 09/27", "card=⟦%{card}⟧&cvc=%d3", "Visa/MC ⟦%{card_dashed}⟧,",
            '"number": "⟦%{card}⟧"',
        ],
    },
    "IBAN": {
        "plain": ["%{iban}"],
        "spaced": ["%{iban_spaced}"],
        "lower case": ["%{iban_lower}"],
        "labelled": ["IBAN: ⟦%{iban_spaced}⟧", "IBAN:⟦%{iban}⟧", "iban=⟦%{iban}⟧;", "(IBAN ⟦%{iban_spaced}⟧)"],
    },
    "KEY": {
        "AWS access key id": ["AWS_ACCESS_KEY_ID=⟦AKIA%U16⟧", 'aws_access_key_id = "⟦ASIA%U16⟧"', "⟦AKIA%U16⟧"],
        "AWS secret key": [
            "AWS_SECRET_ACCESS_KEY=⟦%b40⟧", 'aws_secret_access_key = "⟦%b40⟧"', "secretAccessKey: '⟦%b40⟧'",
        ],
        "GitHub": [
            "⟦ghp_%w36⟧", "export GITHUB_TOKEN=⟦ghp_%w36⟧", "⟦github_pat_%w22_%w59⟧", "token: ⟦gho_%w36⟧",
            "ghs=⟦ghs_%w36⟧",
        ],
        "GitLab": ["⟦glpat-%u20⟧", "PRIVATE-TOKEN: ⟦glpat-%u20⟧"],
        "Slack": ["⟦xoxb-%d12-%d12-%w24⟧", "slack_token='⟦xoxp-%d11-%d11-%d12-%h32⟧'"],
        "Stripe": ['stripe.api_key = "⟦sk_live_%w24⟧"', "⟦rk_live_%w24⟧", "STRIPE=⟦sk_live_%w99⟧"],
        "Google": ["key=⟦AIza%u35⟧", "https://maps.invalid/api?key=⟦AIza%u35⟧&v=3"],
        "OpenAI": ["OPENAI_API_KEY=⟦sk-%w48⟧", 'client = Client(api_key="⟦sk-proj-%u64⟧")', "⟦sk-%w20T3BlbkFJ%w20⟧"],
        "Hugging Face": ["login(token='⟦hf_%w34⟧')", "HF_TOKEN=⟦hf_%w34⟧", "⟦hf_%w34⟧"],
        "npm": ["//registry.npmjs.org/:_authToken=⟦npm_%w36⟧", "NPM_TOKEN=⟦npm_%w36⟧"],
        "PyPI": ["password = ⟦pypi-AgEIcHlwaS5vcmc%u99⟧", "TWINE_PASSWORD=⟦pypi-AgEIcHlwaS5vcmc%u80⟧"],
        "JWT": ["⟦%{jwt}⟧", "Authorization: Bearer ⟦%{jwt}⟧", '"id_token": "⟦%{jwt}⟧"'],
        "private key": ["\n⟦%{pem}⟧\n"],
        "password": [
            'password = "⟦%{password}⟧"', "passwd: '⟦%{password}⟧'", 'connect(user="admin", password="⟦%{password}⟧")',
            "DB_PASSWORD=⟦%w16⟧", '"secret": "⟦%w24⟧"', "export API_KEY='⟦%w32⟧'",
        ],
        "bearer": [
            "Authorization: Bearer ⟦%w40⟧", 'headers = {"Authorization": "Bearer ⟦%u48⟧"}', "-H 'X-Api-Key: ⟦%h32⟧'",
        ],
        "password in a URL": [
            "postgresql://admin:⟦%w14⟧@db.%{host}:5432/shop", "https://%{site}:⟦%w20⟧@git.%{host}/team/repo.git",
            "redis://:⟦%w24⟧@cache.%{host}:6379/0", "amqp://worker:⟦%w12⟧@queue.%{host}//",
        ],
    },
}  # kind -> family -> formats  # fmt: skip

PERSONAL_SENTENCES = {
    "EMAIL": [
        "Write to {} if the download fails.", "The maintainer can be reached at {} on weekdays.", "Author: {}",
        "My address changed last week, it is now {} and the old one bounces.",
        "Please send patches to {}, not to the list.",
        ":author: {}", "Reported by {} in the second week of the trial.", "Cc: {}",
        "Contact {} for access to the raw data.",
        "She asked me to forward the results to {} before Friday.", "Copyright 2019 by the team; questions go to {}.",
        "Configure the committer with `git config` first; mine is {} everywhere.",
    ],
    "PHONE": [
        "Call {} when the job has finished.", "Phone: {}", "You can reach the operator on {} day and night.",
        "Tel. {}", "His mobile is {}, but he rarely picks up.", "The patient asked to be called back on {} after six.",
        "Emergency contact of the data centre: {}", "Fax and phone {} are answered by the same desk.",
        "Leave a message at {} and we will send the invoice again.", "Support hotline {}, Monday to Friday.",
    ],
    "IP": [
        "Connection from {} was refused.", "The server answers at {} only.", "Blocked {} after five failed logins.",
        "Last seen address of the customer: {}", "Traffic to {} doubled over night.", "He logged in from {} at noon.",
        "Set the upstream to {} and reload.", "remote_addr: {}", "The sample contacts {} every minute.",
    ],
    "CARD": [
        "Charge it to {} please.", "The card on file is {} and it expires next year.", "Card number: {}",
        "He read out {} over the phone.", "Payment with {} was declined twice.", "Refund the amount to {} today.",
        "A test order went through with {} by mistake.",
    ],
    "IBAN": [
        "Transfer the fee to {} by Monday.", "Account: {}", "The refund goes to {} within ten days.",
        "Her account {} was closed in spring.", "Please use {} for all invoices of this project.",
        "The deposit was paid from {} last week.",
    ],
    "KEY": [
        "Set the variable before the run:\n\n    {}\n", "The log of the failed build shows\n{}",
        "I used {} and it worked.",
        "Add this line to the configuration:\n\n{}\n", "Do not commit this: {}", "# settings of the staging server\n{}",
        "curl fails when I pass {} on the command line.", ">>> {}",
    ],
}  # kind -> sentences; `{}` is where the value goes  # fmt: skip

FILLERS = [
    "The loader reads one shard after the other and keeps none of them in memory.",
    "A second pass computes the mean and the variance of every column.",
    "We met on Tuesday and agreed on the order of the remaining steps.",
    "The default is to keep the first row of each group.",
    "Nothing else changed between the two releases.",
    "Thanks again for the quick answer and for the plots.",
    "If the file exists it is overwritten without a question.",
    "The meeting room on the third floor is free in the afternoon.",
    "Each worker takes the next item from the queue until it is empty.",
    "Errors are collected and shown at the end of the run.",
    "The figure shows the loss over the first thousand steps.",
    "I will be away next week and answer when I am back.",
    "The result is cached, so that a second call returns at once.",
    "Two tests were slow and have been moved to the nightly build.",
    "Please read the guide before you open a ticket.",
    "The old behaviour can be restored with a flag.",
]

NOT_PERSONAL = {
    "version": [
        "Upgrade to version 1.2.3.4 or later.", "Fixed in v10.4.11.2 and backported.",
        "Requires libfoo>=2.%d1.%d1.%d1.",
        "driver version 535.104.05.12 is supported", "The user agent says Chrome/120.0.6099.109 on Linux.",
        "Released as 4.18.0.%d2 last spring, the successor of release 4.17.9.2.",
    ],
    "section": [
        "See section 3.1.4.2 of the standard.", "Table 2.4.1.%d1 lists the codes.", "Chapter 12.3.1.1 explains why.",
    ],
    "address of no one": [
        "The server listens on 127.0.0.1:8888.", "Bind to 0.0.0.0 inside the container.", "Router at 192.168.%d1.1.",
        "The pod got 10.244.3.%d2 from the pool.", "Set the netmask to 255.255.255.0.", "Use ::1 for the loopback.",
        "An example address is 192.0.2.%d2.", "Link-local: 169.254.%d1.%d2 or fe80::%h3.", "Docs use 2001:db8::%h4.",
        "Broadcast goes to 255.255.255.255.", "From 172.16.%d2.4 the host 203.0.113.%d2 is reachable.",
    ],
    "MAC address": ["The card has MAC 00:1b:%h2:%h2:%h2:%h2.", "Hardware address 3c-22-%h2-%h2-%h2-%h2"],
    "git hash": ["Fixed in commit %h40.", "Bisected to %h7 and %h10.", "git checkout %h40"],
    "digest": ["sha256: %h64", "The md5 of the archive is %h32.", "--hash=sha256:%h64", "etag \"%h32\""],
    "UUID": ["Request %h8-%h4-4%h3-a%h3-%h12 timed out.", "id={%h8-%h4-4%h3-9%h3-%h12}"],
    "base64 of prose": ["The body decodes to plain text: %{encoded_prose}", 'data = "%{encoded_prose}"'],
    "book or paper": [
        "See ISBN 978-0-262-03384-8.", "ISBN-10: 0-306-40615-2", "ISBN 9783161484100", "doi:10.1000/182.%d4",
        "https://doi.org/10.48550/arXiv.2106.09685", "ISSN 2049-3630", "arXiv:2305.%d4v2 describes it.",
        "isbn 0306406152",
    ],
    "number that fails Luhn": [
        "The order id is %{not_card}.", "Reference %{not_card_spaced} was closed.", "row %{not_card} of the export",
    ],
    "long integer": [
        "The offset is %d9%d9.", "seed=1234567890123", "The sum is 18446744073709551615.",
        "pi = 3.14159265358979323846",
        "It has 1,543,714,304 parameters.", "Account of bytes: 8 589 934 592.", "inode 1310%d4",
    ],
    "time": [
        "At 17000%d5 the clock jumped.", "2023-11-05T14:%d1:22.%d6Z", "20231105-%d6",
        "2021-03-04 05:06:07,123 INFO started",
        "created=1699%d9", "12/03/2021 10:15", "The window is 2015-2019.",
    ],
    "shape or range": [
        "The tensor has shape (32, 128, 4096).", "Pages 1021-1034.", "rows 100-200 and 300-400",
        "a grid of 1024x1024x3",
        "x[10:20, 3:7]", "from 0.25 to 0.75 in steps of 0.125", "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
        "array([12, 345, 678, 9012])", "[[212, 555], [123, 456]]",
    ],
    "at sign": [
        "@pytest.mark.parametrize marks it.", "Write user@ and the host.", "The product a @ b is a matrix.",
        "See logo@2x.png.",
        "C = A@B.T", "@property", "Follow @kestrel_data for news.", "pkg@1.%d1.0 is pinned", "x = w@h",
        "numpy @ https://files.invalid/numpy.whl", "actions/checkout@v4",
    ],
    "service address": [
        "git clone git@github.com:%{site}/repo.git", "Use user@host as the target.", "scp file.txt user@host:/tmp",
        "ssh://git@gitlab.com/%{site}/repo.git", "postgres://user:password@localhost:5432/db",
    ],
    "reserved address": [
        "Write to jane.doe@example.com for help.", "admin@example.org", "<noreply@example.net>",
        "test@mail.example.com",
        "someone@localhost", "user@company.invalid", "foo@bar.test",
    ],
    "no IBAN": ["Account %{not_iban} was rejected.", "GB00 TEST 0000 0000 0000 00", "DE-2024-11 is a milestone."],
    "no secret": [
        'password = os.environ["DB_PASSWORD"]', 'api_key="YOUR_API_KEY"', "token=<token>", "OPENAI_API_KEY=sk-...",
        "password : str\n    The password of the user.", "token = tokenizer.eos_token",
        "hf_hub_download(repo_id, name)",
        "GITHUB_TOKEN=ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "password=None", "secret = getpass.getpass()",
        "Authorization: Bearer $TOKEN", "api_key: ${API_KEY}", "passwd='********'", "token: {{ secrets.NPM_TOKEN }}",
        "https://user:pass@host/path", "-----BEGIN PUBLIC KEY-----", "def login(password: str = '', token=''):",
        "The secret is to keep the batch small.", "key = sorted(keys)[0]", "sk-learn and hf_transfer are packages.",
    ],
}  # family -> sentences in which nothing is personal  # fmt: skip

# --- sentences and templates in English ---------------------------------------------------------------------------

TEMPLATES = [
    "%{verb} the %{adjective} %{noun} of this object and give it back to the caller. The %{noun} has to exist before "
    "the call, and a %{adjective} %{noun} is never changed. Pass a %{noun} to %{verb} it too.",
    "This method is meant for people who have to %{verb} a %{noun} by hand. It takes one %{noun}, which must not be "
    "%{adjective}, and returns another %{noun}, or nothing if the %{adjective} %{noun} was not found.",
    "Set whether the %{noun} should %{verb} its %{adjective} %{noun} when the program ends. The default is not to do "
    "so, because a %{adjective} %{noun} may still be in use. See the %{noun} for how to %{verb} it.",
    "Raised when a %{noun} cannot %{verb} the %{adjective} %{noun} that it was given. In most cases the %{noun} is "
    "%{adjective}, and it is enough to %{verb} the %{noun} once more and to try again.",
    "The first argument is the %{noun} to %{verb}, the second is a %{adjective} %{noun} as in the other functions of "
    "this module. If both are given then the %{noun} is used to %{verb} every %{adjective} %{noun} first.",
    "An abstract base class for everything that can %{verb} a %{noun}. Classes below this one have to say how a "
    "%{adjective} %{noun} is made, what a %{noun} costs, and which %{adjective} %{noun} they %{verb}.",
]  # a quarter or more of the words are open

UNICODE = [
    "The Café example plots the naïve estimate beside the résumé of every façade.",
    "Gödel’s proof and Schrödinger’s equation are both quoted in the “further reading” part.",
    "The angle θ is measured in °, the wavelength λ in µm and the resistance in kΩ.",
    "A step of Δx ≤ 0.5 µm keeps the error below 3 ‰ – a value that Böhm et al. found too.",
    "“Hello”, said the parser — and then it stopped.",
    "The temperature rises by 4 °C ± 0.2 °C while α and β stay fixed.",
    "L’Hôpital’s rule, Poincaré maps and Ångström’s data are used in the tests.",
    "Señor Núñez and Frau Müller wrote the first version in São Paulo.",
    "Prices are given in € and £, areas in m² and volumes in cm³.",
    "The Łódź corpus holds ten thousand sentences from Kraków, Gdańsk and Poznań.",
    "Use ‘single’ or “double” quotes… but never both.",
    "The sum Σ over all i ∈ S of xᵢ² must be finite.",
    "Erdős–Rényi graphs are drawn with n nodes and a probability p for each edge.",
    "The Kübler‐Ross model is not part of this package.",
    "The Île‑de‑France data set covers the years 1990–2020.",
    "Its author’s name is spelt Dvořák, not Dvorak, and Čapek keeps his háček.",
    "Ready ✓ means that the check passed, failed ✗ that it did not.",
    "El Niño years are marked with → in the table and drawn in grey.",
    "The coöperation with Malmö’s harbour ended in the été of 2019.",
    "A Möbius strip, a Klein bottle and a Peano curve: voilà, the gallery.",
    "Ελληνικά and Русский are read as UTF‑8 like any other text.",
    "The smörgåsbord of options is déjà vu for readers of the older guide.",
]

ESCAPED = [
    "The loop ends when a < b && c > d holds.",
    "R&D costs are listed for every year.",
    'Pass the value "auto" to let x & y decide.',
    "A map of type Map<string, int> is returned.",
    "It’s the caller’s job to check that 0 <= i < n.",
]  # what HTML must write with entities; joined with sentences of UNICODE

CLEAN_MARKUP = {
    "generics": [
        "Returns a List<int> or a Map<String, List<int>>.", "vector<double> and std::pair<int, T> are supported.",
    ],
    "class in angle brackets": [
        "The type is <class 'str'> here.", "<module 'os' from '/usr/lib/os.py'>", "<built-in function len>",
    ],
    "special tokens": [
        "The text starts with <bos> and ends with <eos>.", "<|im_start|>user\nHello<|im_end|>",
        "Use <pad>, <unk> or <mask>.",
    ],
    "comparison": ["True if a < b > c.", "0 < x and y > 3 must hold.", "if i<n and n>0: stop"],
    "placeholder": [
        "Replace <name> by your own and <path/to/file> too.", "usage: tool [-h] <input> <output>",
        "https://host/<id>/rows",
    ],
    "ampersand": ["AT&T and R&D are names.", "mask = a & b", "f(&x, &&y)", "https://host.invalid/?a=1&copy=2&lt=3"],
    "pipes": [
        "x |= y | z", "cat file | sort | uniq -c", "int | str | None", "P(A|B) and P(B|A) differ; |x| is the length.",
    ],
    "accents": ["Café, naïve, résumé and Ångström are words.", "Ça dépend de l’été à Malmö, où Dvořák dînait."],
    "quotes and dashes": ["“Quotes”, ‘single’ — and a dash – stay…", "«Guillemets» and „low quotes“ stay."],
    "emoji": [
        "A family 👨\u200d👩\u200d👧 and a flag 🏳️\u200d🌈 are one sign each.",
        "A coder 👩\u200d💻 and a heart ❤️\u200d🔥.",
    ],
    "table": ["| a | b |\n|---|---|\n| 1 | 2 |", "+---+---+\n| x | y |\n+---+---+"],
    "Markdown": [
        "# Title\n\nSome **bold** and *italic* words, a [link](https://host.invalid) and `code`.",
        "1. one\n2. two\n\n> a quote", "```python\nx = {'a': 1}\n```",
    ],
    "doctest": [">>> x = [1, 2]\n>>> x[0]\n1", ">>> for i in range(2):\n...     print(i)\n0\n1"],
    "indentation": ["def f(x):\n    if x:\n        return 1\n    return 2", "Example::\n\n    a = 1\n      b = 2"],
    "address": ["Jane <a@b.c> wrote it.", "From: <list@host.invalid>"],
    "double colon": ["The block is C++ code: std::vector::push_back.", "x[::2] and y[1::3] are slices."],
    "underscores": ["The name_ and __init__ stay, and so does a_b_c.", "fit_transform(X, y_)"],
    "literal": ["Use ``axis=0`` or ``None``.", "The ``<b>`` in ``code`` is kept as ``&amp;``."],
    "math": ["The norm is :math:`|x|_2 < 1` here.", "Where :math:`\\alpha` is the rate."],
    "Greek and units": ["With α = 0.05, 10 µm and 20 °C in Ω·m²."],
}  # family -> texts that must come out as they are  # fmt: skip

INLINE = {
    "HTML: inline": [
        ("<b>{word}</b>", "{word}"), ("<i>{word}</i>", "{word}"), ("<strong>{word}</strong>", "{word}"),
        ("<EM>{word}</EM>", "{word}"), ('<span class="pre">{word}</span>', "{word}"), ("<u>{word}</u>", "{word}"),
        ("<font color='red'>{word}</font>", "{word}"),
    ],
    "HTML: link": [
        ('<a href="{url}">{word}</a>', "{word}"), ("<a href='{url}' target=_blank>{word}</a>", "{word}"),
        ('<A HREF="{url}">{word} {name}</A>', "{word} {name}"), ('<a name="{name}"></a>{word}', "{word}"),
    ],
    "HTML: code": [("<code>{word}</code>", "{word}"), ("<tt>{path}</tt>", "{path}"), ("<kbd>{word}</kbd>", "{word}")],
    "RST: role": [
        (":class:`~{path}`", "{path}"), (":class:`{path}`", "{path}"), (":func:`{name}`", "{name}"),
        (":meth:`~{path}.{name}`", "{path}.{name}"), (":py:func:`{path}`", "{path}"), (":attr:`.{name}`", "{name}"),
        (":mod:`{name}`", "{name}"), (":exc:`ValueError`", "ValueError"), (":ref:`{name}`", "{name}"),
        (":func:`{word} <{path}>`", "{word}"), (":ref:`the {word} <{name}>`", "the {word}"),
        (":py:class:`~{path}`", "{path}"), (":obj:`{name}`", "{name}"), (":data:`{path}`", "{path}"),
    ],
    "RST: substitution": [("|{name}|", "{name}"), ("|{word}|", "{word}"), ("|{word} {name}|", "{word} {name}")],
    "RST: link": [
        ("`{word} <{url}>`_", "{word} ({url})"), ("`{word} {name} <{url}>`_", "{word} {name} ({url})"),
        ("`{word} <{url}>`__", "{word} ({url})"),
    ],
}  # family -> (what is put in the place of a word, what should come out of it)  # fmt: skip

BLOCKS = {
    "HTML: paragraph": [
        ("<p>{a}</p>\n\n<p>{b}</p>", "{a}\n\n{b}"), ('<p class="first">{a}</p>\n\n<P>{b}</P>', "{a}\n\n{b}"),
        ("<p>\n{a}\n</p>\n", "{a}"), ("<h2>{c}</h2>\n\n{a}", "{c}\n\n{a}"),
    ],
    "HTML: line break": [
        ("{a}<br>{b}", "{a}\n{b}"), ("{a}<br/>{b}<br />{c}", "{a}\n{b}\n{c}"), ("{a}<BR>{b}", "{a}\n{b}"),
    ],
    "HTML: div": [
        ('<div class="note">\n{a}\n</div>', "{a}"), ("<div>{a}</div>\n\n{b}", "{a}\n\n{b}"),
        ("<div id='main'><div>\n{a}\n</div></div>", "{a}"),
    ],
    "HTML: list": [
        ("{a}\n\n<ul>\n<li>{b}</li>\n<li>{c}</li>\n</ul>", "{a}\n\n- {b}\n- {c}"),
        ("<ul>\n  <li>{a}</li>\n  <li>{b}</li>\n</ul>", "- {a}\n- {b}"),
        ("<UL>\n<LI>{a}</LI>\n<LI>{b}</LI>\n</UL>\n\n{c}", "- {a}\n- {b}\n\n{c}"),
    ],
    "RST: version": [
        ("{a}\n\n.. versionadded:: {version}\n\n{b}", "{a}\n\n{b}"), ("{a}\n\n.. versionchanged:: {version}\n", "{a}"),
        (".. deprecated:: {version}\n\n{a}", "{a}"), ("{a}\n\n   .. versionadded:: {version}\n\n{b}", "{a}\n\n{b}"),
        ("{a}\n\n.. versionadded::   {version}", "{a}"),
    ],
    "RST: admonition": [
        ("{a}\n\n.. note:: {b}", "{a}\n\nNote: {b}"), (".. warning:: {a}\n\n{b}", "Warning: {a}\n\n{b}"),
        ("{a}\n\n.. note::\n\n   {b}\n", "{a}\n\nNote:\n\n   {b}"), ("{a}\n\n.. tip:: {c}", "{a}\n\nTip: {c}"),
        ("{a}\n\n.. important::\n   {b}", "{a}\n\nImportant:\n   {b}"),
    ],
}  # family -> (text with markup, what should come out); a, b and c are texts of one line  # fmt: skip

COMMON_PHRASES = [
    "for more information see the documentation", "this function is experimental and may change without notice",
    "in other words", "the quick brown fox jumps over the lazy dog", "use it at your own risk",
    "as of the time of this writing", "one or more of the following", "it is up to the caller to close the file",
    "see the notes below for details", "the default value is used if none is given",
]  # fmt: skip

SHORT_ANSWERS = ["0", "No", "Yes.", "None", "42", "int", "It is not.", "`True`", "?", "π"]
QUESTIONS = [
    "What does this do?", "Explain the following name: {}", "How do I use it?", "Describe `{}` in a few words.",
    "Write the documentation of {}.", "When should I call {}, and what comes back?",
]  # fmt: skip

# --- text of low quality ------------------------------------------------------------------------------------------

TOO_SHORT = [
    "",
    " ",
    "TODO",
    "n/a",
    "-",
    "...",
    "See above.",
    "Ditto.",
    "foo",
    "x",
    "None",
    "42",
    "FIXME!",
    "\n",
    "tbd",
    "(c)",
]

BOILERPLATE = [
    "Copyright (c) %d4 The %{site} Authors. All rights reserved.\nUse of this source code is governed by a BSD-style "
    "license that can be found in the LICENSE file.",
    "SPDX-License-Identifier: Apache-2.0\nSPDX-FileCopyrightText: %d4 %{first} %{last}",
    "Licensed under the Apache License, Version 2.0. You may not use this file except in compliance with the License. "
    "The software is distributed on an as-is basis, without warranties of any kind.",
    "This program is free software: you can redistribute it and/or modify it under the terms of the GNU General "
    "Public License. It comes without any warranty, not even that of fitness for a purpose.",
    "The software is provided as is, without warranty of any kind, and in no event shall the authors of %{site} be "
    "liable for any claim or damages.",
    "This file was generated automatically, do not edit. Changes are lost when the generator runs again.",
    "# AUTO-GENERATED by %{site}-gen %d1.%d1. DO NOT EDIT BY HAND.\n# Source: %{noun}.proto",
    "We use cookies to give you the best experience. By continuing to use this site you accept our cookie policy. "
    "Accept all cookies | Manage preferences",
    "Subscribe to our newsletter! Enter your email address below to get the latest news. You can unsubscribe at any "
    "time.",
    "© %d4 %{site} Inc. All rights reserved. Terms of Service | Privacy Policy | Contact us | Sitemap",
    "Home | About | Products | Blog | Login | Sign up\nShare on Facebook | Share on Twitter | Print this page",
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore et dolore "
    "magna aliqua. Ut enim ad minim veniam, quis nostrud exercitation.",
    "Table of contents\n1. The %{noun} ........ 3\n2. The %{noun} ........ %d2\n3. Index ............. %d2",
    "Contents\n\n1 Introduction . . . . . . 1\n1.1 The %{noun} . . . . . . 4\n2 The %{noun} . . . . . . %d2",
    "Click here to read more. Related articles: the %{noun}, the %{noun}. Please enable JavaScript to view this page.",
    "Confidential. This message is intended only for the addressee. If you have received it in error please delete it.",
]

GOOD = {
    "short sentence": [
        "Return the %{adjective} %{noun} as a list.", "The %{noun} is closed after the %{noun} ends.",
        "%{verb} each %{noun} in place.", "Whether the %{noun} is %{adjective}.", "Get the number of %{noun} entries.",
    ],
    "parameter list": [
        "%{verb} the %{noun}.\n\nParameters\n----------\n%{noun} : int\n    The %{adjective} %{noun} to use.\n"
        "%{noun}_size : float, optional\n    How large the %{noun} may grow.\n\nReturns\n-------\nbool\n    True on "
        "success.",
        "%{verb} a %{noun}.\n\nArgs:\n    %{noun} (`str`): Name of the %{noun}.\n    %{noun} (`int`, *optional*): "
        "Size.\n\n",
        "Returns:\n    `%{noun}`: The %{adjective} one.",
        "%{verb} the %{noun}.\n\n:param %{noun}: the %{adjective} %{noun}\n:type %{noun}: int\n:returns: nothing",
    ],
    "doctest": [
        "The %{noun} is counted.\n\n>>> a = [1, 2, %d1]\n>>> len(a)\n3\n>>> sum(a[:2])\n3",
        ">>> from %{site} import %{noun}\n>>> x = %{noun}(%d2)\n>>> x.%{verb}()\n'%{adjective}'\n>>> x.%{noun} is "
        "None\nTrue",
    ],
    "formula": [
        "The loss is L = -(1/n) * sum(y_i * log(p_i)), where p_i is the probability of the %{noun} and n the size.",
        "With x' = (x - mean) / sqrt(var + 1e-%d1) the %{noun} has zero mean; its variance is then 1.",
        "It holds that (a + b)**2 = a**2 + 2*a*b + b**2, which the %{noun} uses to %{verb} faster.",
    ],
    "bullet list": [
        "The %{noun} has three states:\n\n- open: it can %{verb} a %{noun}\n- closed: it cannot\n- %{adjective}: "
        "nobody knows",
        "To %{verb} the %{noun}:\n\n* stop the %{noun}\n* %{verb} its %{noun}\n* start it again",
    ],
    "table": [
        "The codes of the %{noun} are:\n\n| code | meaning |\n|------|---------|\n| 1 | %{adjective} %{noun} |\n| 2 "
        "| no %{noun} |",
        "Supported formats:\n\n=====  ==========\nname   used by\n=====  ==========\nnpz    the %{noun}\ncsv    the "
        "%{noun}\n=====  ==========",
    ],
    "sentence twice": [
        "Call this before the session starts. The %{noun} reads its %{noun} only once, at the start, and keeps it.\n\n"
        "Call this before the session starts.",
        "Do not share a handle between threads. A %{adjective} %{noun} can %{verb} at any time and the other thread "
        "would not see it. Do not share a handle between threads.",
    ],
    "mentions a licence": [
        "Return the license of the %{noun}, such as MIT or Apache-2.0, or None when the %{noun} names no license.",
        "The %{noun} data are under a free licence, so that you may %{verb} and publish what you make of them.",
        "Check that every %{noun} carries a copyright line, and list those which do not.",
        "Write the cookie of the session to the %{noun}. A cookie that has expired is left out.",
    ],
}  # family -> formats of texts that are worth keeping  # fmt: skip

ENGLISH = {
    "code": [
        "Open the file and count its lines:\n\n    with open(path) as file:\n        n = sum(1 for _ in file)\n    "
        "print(n)",
        "Use a comprehension to build the table.\n\n```python\ntable = {k: v for k, v in zip(keys, values)}\n```",
        "The call below trains for one epoch.\n\n>>> trainer = Trainer(model, args)\n>>> trainer.train()\n>>> "
        "trainer.save('out')",
        "Run this command from the root of the project:\n\n    $ pip install -e . && pytest -q tests/unit -k 'not "
        "slow'",
        "The query selects the newest rows.\n\nSELECT id, name FROM users WHERE created > '2020-01-01' ORDER BY id "
        "DESC;",
    ],
    "formulas": [
        "The gradient is dL/dw = 2/n * X^T (Xw - y), and a step of size eta moves w against it.",
        "Since softmax(x)_i = exp(x_i) / sum_j exp(x_j), adding a constant to x changes nothing.",
        "The entropy is H(p) = -sum p_i log p_i; it is largest, log n, when all p_i = 1/n.",
        "With α = 0.05 and n = 30 the interval is x̄ ± 1.96 σ/√n, which is wide.",
        "The update reads m_t = β m_{t-1} + (1 - β) g_t, where g_t is the gradient of step t.",
    ],
    "identifiers": [
        "If `use_cache` is set then `past_key_values` is filled by `prepare_inputs_for_generation` and read by "
        "`forward`.",
        "Both `np.concatenate` and `torch.cat` join arrays; `np.stack` and `torch.stack` add a new axis first.",
        "The flags `O_RDONLY`, `O_WRONLY` and `O_CREAT` of the `os` module can be joined with the operator `|`.",
        "Set `max_length`, `truncation=True` and `return_tensors` in the call of the tokenizer, not in its config.",
        "The class `LlamaDecoderLayer` holds `self_attn`, `mlp`, `input_layernorm` and `post_attention_layernorm`.",
    ],
    "names and loan words": [
        "The doppelgänger problem was described by Müller, Škoda and Nguyễn in a Zürich workshop on Kindergarten data.",
        "A façade pattern hides the ad hoc parts, and vice versa; the raison d’être of it is to keep the client "
        "simple.",
        "Kolmogorov, Poincaré and Erdős are cited in the leitmotif section, next to the café example of García "
        "Márquez.",
        "The Bundesamt für Statistik in Neuchâtel publishes these data; the schema of the file was drawn up in Tōkyō.",
        "The gestalt of the plot matters more than the per se exact values, as Fernández and Sørensen pointed out.",
    ],
    "short": [
        "Return the number of rows that were read so far.", "The file is closed when the last reader goes away.",
        "Raise an error if the two shapes do not match.", "Whether the model should return the scores of all heads.",
        "Turn the given text into a list of token ids.", "This class is a thin wrapper around the standard queue.",
        "Compute the mean of the values along the given axis.", "Wait until all workers are done or the time is up.",
        "Draw the legend outside of the axes, on the right.", "Set the seed of the random generators on each device.",
    ],
    "list of identifiers": [
        "The following names are exported by the module: %{noun}_%{verb}, %{noun}_%{noun}, get_%{noun}, set_%{noun}, "
        "is_%{adjective}, %{verb}_%{noun}.",
        "These keys can be set in the file:\n\n- %{noun}.%{noun}\n- %{noun}.max_%{noun}\n- %{adjective}_%{noun}\n- "
        "%{verb}_on_%{noun}",
        "Subclasses have to define these methods: `_%{verb}_%{noun}`, `_%{verb}`, `%{noun}_to_%{noun}`, `__len__`.",
    ],
}  # family -> English texts, hard to tell by their letters alone  # fmt: skip

# --- passages in other languages ----------------------------------------------------------------------------------

PASSAGES = {
    "de": [
        "Die Funktion liest die Datei zeilenweise und gibt eine Liste von Wörterbüchern zurück.",
        "Wenn der Speicher nicht ausreicht, wird die Berechnung auf mehrere Prozesse verteilt.",
        "Das Modell wurde mit einer kleinen Lernrate über drei Epochen trainiert.",
        "Fehlende Werte werden durch den Mittelwert der jeweiligen Spalte ersetzt.",
        "Der Server antwortet erst, nachdem alle Anfragen in der Warteschlange bearbeitet sind.",
        "Bitte prüfen Sie vor dem Start, ob die Schnittstelle erreichbar ist.",
        "Die Größe des Puffers lässt sich in der Konfiguration einstellen.",
    ],
    "fr": [
        "La fonction lit le fichier ligne par ligne et renvoie une liste de dictionnaires.",
        "Si la mémoire ne suffit pas, le calcul est réparti entre plusieurs processus.",
        "Le modèle a été entraîné pendant trois époques avec un petit taux d'apprentissage.",
        "Les valeurs manquantes sont remplacées par la moyenne de la colonne.",
        "Le serveur ne répond qu'après avoir traité toutes les requêtes en attente.",
        "Veuillez vérifier avant le démarrage que l'interface est accessible.",
        "La taille du tampon peut être réglée dans la configuration.",
    ],
    "es": [
        "La función lee el archivo línea por línea y devuelve una lista de diccionarios.",
        "Si la memoria no alcanza, el cálculo se reparte entre varios procesos.",
        "El modelo se entrenó durante tres épocas con una tasa de aprendizaje pequeña.",
        "Los valores que faltan se sustituyen por la media de la columna.",
        "El servidor responde solo después de atender todas las peticiones de la cola.",
        "Compruebe antes de empezar que se puede acceder a la interfaz.",
        "El tamaño del búfer se puede ajustar en la configuración.",
    ],
    "it": [
        "La funzione legge il file riga per riga e restituisce una lista di dizionari.",
        "Se la memoria non basta, il calcolo viene distribuito su più processi.",
        "Il modello è stato addestrato per tre epoche con un tasso di apprendimento piccolo.",
        "I valori mancanti vengono sostituiti con la media della colonna.",
        "Il server risponde soltanto dopo aver gestito tutte le richieste in coda.",
        "Prima di cominciare verificate che l'interfaccia sia raggiungibile.",
        "La dimensione del buffer si può impostare nella configurazione.",
    ],
    "pt": [
        "A função lê o arquivo linha por linha e devolve uma lista de dicionários.",
        "Se a memória não for suficiente, o cálculo é dividido entre vários processos.",
        "O modelo foi treinado durante três épocas com uma taxa de aprendizagem pequena.",
        "Os valores que faltam são substituídos pela média da coluna.",
        "O servidor só responde depois de tratar todos os pedidos que estão na fila.",
        "Antes de começar, verifique se a interface está acessível.",
        "O tamanho do buffer pode ser ajustado na configuração.",
    ],
    "nl": [
        "De functie leest het bestand regel voor regel en geeft een lijst van woordenboeken terug.",
        "Als het geheugen niet groot genoeg is, wordt de berekening over meerdere processen verdeeld.",
        "Het model werd drie epochs lang met een kleine leersnelheid getraind.",
        "Ontbrekende waarden worden vervangen door het gemiddelde van de kolom.",
        "De server antwoordt pas nadat alle verzoeken in de wachtrij zijn verwerkt.",
        "Controleer voor het begin of de verbinding bereikbaar is.",
        "De grootte van de buffer kan in de instellingen worden gewijzigd.",
    ],
    "pl": [
        "Funkcja czyta plik wiersz po wierszu i zwraca listę słowników.",
        "Jeśli pamięci jest za mało, obliczenia są dzielone między kilka procesów.",
        "Model był uczony przez trzy epoki z małym współczynnikiem uczenia.",
        "Brakujące wartości są zastępowane średnią z danej kolumny.",
        "Serwer odpowiada dopiero po obsłużeniu wszystkich żądań w kolejce.",
        "Przed rozpoczęciem proszę sprawdzić, czy interfejs jest dostępny.",
        "Rozmiar bufora można zmienić w pliku konfiguracyjnym.",
    ],
    "ru": [
        "Функция читает файл построчно и возвращает список словарей.",
        "Если памяти не хватает, вычисление распределяется между несколькими процессами.",
        "Модель обучалась в течение трёх эпох с небольшой скоростью обучения.",
        "Пропущенные значения заменяются средним значением столбца.",
        "Сервер отвечает только после обработки всех запросов в очереди.",
        "Перед запуском проверьте, доступен ли интерфейс.",
        "Размер буфера можно изменить в настройках.",
    ],
    "zh": [
        "该函数逐行读取文件，并返回一个字典列表。",
        "如果内存不足，计算会分配到多个进程中进行。",
        "模型以较小的学习率训练了三个周期。",
        "缺失的数值用该列的平均值代替。",
        "服务器处理完队列中的所有请求之后才会回复。",
        "开始之前，请检查接口是否可以访问。",
        "缓冲区的大小可以在配置文件中设置。",
    ],
    "ja": [
        "この関数はファイルを一行ずつ読み込み、辞書のリストを返します。",
        "メモリが足りない場合、計算は複数のプロセスに分けて行われます。",
        "モデルは小さな学習率で三エポック訓練されました。",
        "欠けている値は、その列の平均値で置き換えられます。",
        "サーバーは待ち行列のすべての要求を処理してから応答します。",
        "開始する前に、接続できるかどうかを確認してください。",
        "バッファの大きさは設定ファイルで変更できます。",
    ],
    "tr": [
        "Fonksiyon dosyayı satır satır okur ve bir sözlük listesi döndürür.",
        "Bellek yeterli değilse hesaplama birkaç işlem arasında paylaştırılır.",
        "Model küçük bir öğrenme oranıyla üç dönem boyunca eğitildi.",
        "Eksik değerlerin yerine sütunun ortalaması yazılır.",
        "Sunucu ancak kuyruktaki bütün istekleri işledikten sonra yanıt verir.",
        "Başlamadan önce lütfen arayüzün erişilebilir olduğunu kontrol edin.",
        "Arabelleğin boyutu ayarlardan değiştirilebilir.",
    ],
    "sv": [
        "Funktionen läser filen rad för rad och returnerar en lista med ordböcker.",
        "Om minnet inte räcker till fördelas beräkningen på flera processer.",
        "Modellen tränades under tre epoker med en liten inlärningshastighet.",
        "Värden som saknas ersätts med kolumnens medelvärde.",
        "Servern svarar först när alla förfrågningar i kön har behandlats.",
        "Kontrollera innan du börjar att gränssnittet går att nå.",
        "Buffertens storlek kan ändras i inställningarna.",
    ],
    "ko": [
        "이 함수는 파일을 한 줄씩 읽고 사전의 목록을 돌려준다.",
        "메모리가 부족하면 계산은 여러 프로세스로 나뉘어 실행된다.",
        "모델은 작은 학습률로 세 에포크 동안 훈련되었다.",
        "빠진 값은 그 열의 평균값으로 바뀐다.",
        "서버는 대기열에 있는 모든 요청을 처리한 뒤에야 응답한다.",
        "시작하기 전에 인터페이스에 접근할 수 있는지 확인하십시오.",
        "버퍼의 크기는 설정 파일에서 바꿀 수 있다.",
    ],
    "cs": [
        "Funkce čte soubor řádek po řádku a vrací seznam slovníků.",
        "Pokud paměť nestačí, výpočet se rozdělí mezi několik procesů.",
        "Model byl trénován po tři epochy s malou rychlostí učení.",
        "Chybějící hodnoty se nahrazují průměrem daného sloupce.",
        "Server odpoví teprve poté, co zpracuje všechny požadavky ve frontě.",
        "Před spuštěním prosím zkontrolujte, zda je rozhraní dostupné.",
        "Velikost vyrovnávací paměti lze změnit v nastavení.",
    ],
}  # ISO 639-1 code -> sentences that can stand in any order
