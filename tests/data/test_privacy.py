import itertools
import time

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from nbhelpers.data import privacy
from nbhelpers.data.privacy import Span

# Made up here: nobody's. « and » enclose what must be found, and nothing else may be.
GITHUB = "ghp_" + "a1B2c3D4e5" * 3 + "f6G7h8"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSMeKKF2QT4"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIB+x/y==\n-----END RSA PRIVATE KEY-----"
FOUND = {
    "EMAIL": [
        "Write to «anna@kestrel.org».",
        "«anna.k+lists@mail.kestrel-data.co.uk», please",
        "'«anna@kestrel.org»' and `«bert@kestrel.org»`",
        "Anna <«anna@kestrel.org»>",
        "mailto:«anna@kestrel.org»?subject=x",
        "«anna@kestrel.org»(Anna) or «anna@self.com», «anna@kestrel.info»(home)",
        'author_email="«anna@kestrel.org»"',
        "«O'Brien@kestrel.org»",
        "«ANNA@KESTREL.ORG»",
        "«jürgen@müller-büro.de»",
        "«anna@kestrel.org»,«bert@kestrel.org»;«carl@kestrel.org»",
        "«anna@kestrel.org»..«bert@kestrel.org»",
        "Ask «anna@kestrel.org»: she knows.",
        "-«anna@kestrel.org»",
        "«anna (at) kestrel (dot) org»",
        "«anna[at]kestrel.org»",
        "«anna AT kestrel DOT org»",
        "Write to «anna at kestrel dot org» today.",
        "e-mail: «anna dot berg at kestrel dot co dot uk»",
    ],
    "PHONE": [
        "It is «+1 212 555 0123» now",
        "«(312) 555-0123»",
        "«617-555-0123»",
        "«503.555.0123»",
        "call «020 7946 0123».",
        "Tel.: «030/23125123»",
        "«+49 (0)30 23125-123»",
        "«0049 30 23125123»",
        "phone «01 99 00 12 34»",
        "«+1 212 555 0123 ext. 45»",
        "«(312) 555-0123 x456»",
        "<tel:«+442079460123»>",
        "The patient was called back on «01 99 00 10 97».",
        "Rückruf unter «030 23125123» erbeten",
        "On peut la joindre au «01 99 00 10 97».",
        "Telefon: «030 23125123», Durchwahl «030 23125124»",
        "Téléphone «01 99 00 10 97», mobile «06 39 98 10 97»",
    ],
    "IP": [
        "«93.184.216.34» - - [12/Mar/2021]",
        "http://«93.184.216.34»:8080/x",
        "peer=«93.184.216.34»,",
        "from «8.8.8.8» port 53",
        "«93[.]184[.]216[.]34»",
        "«93(.)184(.)216(.)34»",
        "«2001:4860:4860::8888»",
        "«2001:4860:4860:0000:0000:0000:0000:8888»",
        "[«2A00:1450::200E»]:443",
        "«8.8.8.8» is a resolver",
        "connect to «8.8.4.4»",
        "«5.9.12.33» logged in",
        "«5.9.12.33» - - [12/Mar/2021]",
        "Visits: «5.9.12.33» has been blocked",
        "server=«8.8.8.8»",
        "resolved via «8.8.8.8»",
        "an attack by «5.9.12.33», request from «5.9.12.34»",
    ],
    "CARD": [
        "«4111 1111 1111 1111»",
        "«4111-1111-1111-1111».",
        "card=«4111111111111111»&cvc=123",
        "«5555555555554444»,",
        "«378282246310005»",
        "«3782 822463 10005» exp 09/27",
        "card:«4111111111111111»",
        "Card #«4111 1111 1111 1111»",
        "«6200 0000 0000 0005»",
        "«6212 3456 7890 0000 003»",
        "«6759 6498 2643 8453»",
    ],
    "IBAN": [
        "IBAN «GB82 WEST 1234 5698 7654 32» and more",
        "iban=«DE89370400440532013000»;",
        "«gb82west12345698765432»",
        "«NO93 8601 1117 947»",
        "«DE89 3704 0044 0532 0130 00» IS THE ACCOUNT",
    ],
    "KEY": [
        "AWS_ACCESS_KEY_ID=«AKIAIOSFODNN7EXAMPLQ»",
        f"git clone with «{GITHUB}»!",
        "«sk-proj-abc123def456ghi789jkl»",
        f"«{TOKEN}».",
        f"a\n«{PEM}»\nb",
        "«-----BEGIN PRIVATE KEY-----\nMIIB",
        "Authorization: Bearer «abc123DEF456ghi»",
        'password="«hunter2!x»"',
        'password="«aXk!93kd»"',
        "api_key: «0123456789abcdef0123»",
        "https://anna:«s3cr3tPw»@kestrel.org/x",
        "postgres://app:«hunter2zz»@db:5432/x",
        "password: «Tr0ub4dor&3»",
        "The password: «Tr0ub4dor&3».",
        "DB_PASSWORD=«s3cr3tP4ss»",
        "pwd=«hunter22»",
        "password: «s3cr3t-P4ss»",
        "client_secret=«123e4567-e89b-12d3-a456-426614174000»",
        "SENDGRID=«SG.abcDEF123456ghiJKL_-78.mnoPQR123456stuVWX_-90»",
        f"AccountName=x;AccountKey=«{'aB3/' * 21}aA==»;EndpointSuffix=y",
    ],
}
NOTHING = {
    "EMAIL": [
        "git@github.com:org/x.git",
        "anna@kestrel.org:8080 and host@kestrel.org:~/file",
        "@pytest.mark.parametrize",
        "logo@2x.png",
        "user@example.com, user@mail.example.org, root@localhost, anna@host.test",
        "a @ b.c",
        "pkg@1.2.0",
        "C = A@B.T",
        "y = x@self.weight",
        "scores = q@k.transpose(-2, -1)",
        "Meet at noon, a dot on the map.",
        "Take a look at this dot product of two vectors.",
        "meet at noon dot then go",
        "Download the file at python dot org, or buy it at amazon dot com.",
        "Write a review at amazon dot com or reach us at kestrel dot org.",
        "Write to anna at kestrel dot product",
    ],
    "PHONE": [
        "020 7946 0123",
        "+999 123 456 789",
        "2019-11-05 12:00:00",
        "created 1700000000",
        "3.14159265358979",
        "shape (32, 128, 4096)",
        "ISBN 978-0-262-03384-8",
        "call f(123, 456, 7890)",
        "01 99 00 10 97",
    ],
    "IP": [
        "version 93.184.216.34",
        "libfoo>=93.184.216.34",
        "127.0.0.1, 10.0.0.1, 192.168.1.1 and 203.0.113.7",
        "1.2.3.4",
        "numpy 1.26.4.200",
        "support for numpy 1.26.4.200 via pip",
        "numpy 1.26.4.200 resolves the issue",
        "requests 1.26.4.200",
        "AssemblyVersion 4.0.200.1",
        'AssemblyVersion("100.200.3.4")',
        "server_version=100.200.3.4",
        "Released as 4.18.0.88 last spring",
        "Released as 104.180.0.88 last spring",
        "see section 3.1.4.2",
        "999.1.1.1",
        "93.184.216.34.5",
        "2001:db8::1 and fe80::1 and ::1",
        "std::vector, abc::def, 00:1b:44:11:3a:b7",
    ],
    "CARD": [
        "4111 1111 1111 1112",
        "4111-1111 1111-1111",
        "0000 0000 0000 0000",
        "order 9111111111111111",
        "0.4111111111111111",
        "4111111111111111/x",
        "41111111111111111111",
        "12:4111111111111111",
        "issue #4111111111111111",
        "6200 0000 0000 0006",
        "5019 0000 0000 0000",
    ],
    "IBAN": ["GB83WEST12345698765432", "GB82WEST1234569876543", "x-GB82WEST12345698765432", "commit ab12" + "c3d4" * 9],
    "KEY": [
        "sk-learn-compatible-estimators",
        f"x-{GITHUB}",
        "sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "Authorization: Bearer <token>",
        'password = os.environ["PASSWORD"]',
        'password="your_password"',
        'password="a-password-of-9"',
        "secret_key = get_secret(name.of.it)",
        "https://user:pass@host/x",
        "max_tokens=1234567890",
        "token=s3cr3tP4ss",
        "api_key: s3cr3tP4ss",
        "secret_key=s3cr3tP4ss",
        "password=b64_of(x)",
        "password=hashOf12(x)",
        "password=user1_name",
        "password: at-least-8-chars",
        "secret: 2024-01-15",
        "password: sha256Hex",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    ],
}


def marked(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text without its marks, and what they enclose; the last may go to the end of the text."""
    plain, spans = "", []
    for i, piece in enumerate(text.replace("»", "«").split("«")):
        if i % 2:
            spans.append((len(plain), len(plain) + len(piece)))
        plain += piece
    return plain, spans


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FOUND.items() for text in texts])
def test_a_value_is_found_from_its_first_to_its_last_character(kind, text):
    plain, spans = marked(text)
    assert privacy.find(plain) == [Span(start, end, kind) for start, end in spans]
    assert spans


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in NOTHING.items() for text in texts])
def test_a_look_alike_is_left_alone(kind, text):
    assert [span for span in privacy.find(text) if span.kind == kind] == []


@pytest.mark.parametrize("kind", privacy.KINDS)
def test_each_kind_has_examples_of_both(kind):
    assert len(FOUND[kind]) > 4
    assert len(NOTHING[kind]) > 3


def test_a_changed_digit_makes_no_card_and_no_account():
    for text, kind in (("4111111111111111", "CARD"), ("DE89370400440532013000", "IBAN")):
        for i, sign in enumerate(text):
            if i > 1:
                other = text[:i] + str((int(sign) + 1) % 10) + text[i + 1 :]
                assert kind not in {span.kind for span in privacy.find(other)}, other


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://anna:s3cr3tPw@kestrel.org", [("s3cr3tPw", "KEY")]),  # and not `s3cr3tPw@kestrel.org`
        ("password='anna@kestrel.org1!'", [("anna@kestrel.org1!", "KEY")]),
        ("call +4111 1111 1111 1111", [("4111 1111 1111 1111", "CARD")]),
        (f"token={GITHUB}", [(GITHUB, "KEY")]),  # by its form and by its name: once
    ],
)
def test_where_two_candidates_overlap_one_is_taken(text, expected):
    assert [(text[start:end], kind) for start, end, kind in privacy.find(text)] == expected


def test_a_text_of_every_kind_is_found_and_redacted_in_order():
    text = (
        "anna@kestrel.org, +1 212 555 0123, from 8.8.8.8, 4111 1111 1111 1111, DE89370400440532013000, "
        "AKIAIOSFODNN7EXAMPLQ."
    )
    spans = privacy.find(text)
    assert [span.kind for span in spans] == ["EMAIL", "PHONE", "IP", "CARD", "IBAN", "KEY"]
    assert spans == sorted(spans)
    assert privacy.redact(text, spans) == "[EMAIL], [PHONE], from [IP], [CARD], [IBAN], [KEY]."


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], "abcdef"),
        ([Span(0, 6, "X")], "[X]"),
        ([Span(1, 2, "X"), Span(2, 4, "YY")], "a[X][YY]ef"),
        ([Span(5, 6, "X"), Span(0, 1, "Y")], "[Y]bcde[X]"),
    ],
)
def test_redact_puts_kinds_in_the_place_of_spans_in_any_order(spans, expected):
    assert privacy.redact("abcdef", spans) == expected


PIECES = [plain for texts in (*FOUND.values(), *NOTHING.values()) for plain, _ in map(marked, texts)]
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=6).map("".join)


@settings(max_examples=150)
@given(TEXTS)
@example("")
def test_spans_of_any_text_are_in_order_within_it_and_never_overlap(text):
    spans = privacy.find(text)
    assert all(0 <= span.start < span.end <= len(text) and span.kind in privacy.KINDS for span in spans)
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans))
    left = privacy.redact(text, spans)
    assert len(left) == len(text) + sum(len(kind) + 2 - (end - start) for start, end, kind in spans)


SLOW = ("@" + "%'" * 20_000, " dot " + "a-" * 20_000, "a AT " + "x." * 20_000, "tel " + "1 " * 10_000)
SLOW += ("::" + "a:" * 20_000, "GB82" * 10_000, "anna@kestrel.org " * 1_000, "password=" + "a" * 40_000, "@a." * 10_000)
SLOW += ("a dot " * 10_000, "mail a at " + "b dot " * 10_000, "at a dot " * 10_000, "8.8.8.8 is a " * 1_000)
SLOW += ("SG." + "a-" * 20_000, "password=" + "." * 40_000, "pwd=" + "a-1" * 10_000)


@pytest.mark.slow
@pytest.mark.parametrize("text", SLOW, ids=lambda text: text[:8])
def test_a_long_text_made_to_be_slow_is_not(text):
    """Most take a tenth of a second of processor time, none five; in quadratic time they would take minutes."""
    text, began = 4 * text, time.process_time()
    privacy.find(text)
    assert time.process_time() - began < 20
