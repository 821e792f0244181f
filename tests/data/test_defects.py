import collections
import difflib
import html
import ipaddress
import itertools
import json
import random
import re
import unicodedata
from pathlib import Path

import phonenumbers
import pytest

from nbhelpers.core.errors import DataError, ParameterError
from nbhelpers.data import chat, defects, defects_copies, defects_personal, defects_rows, defects_text, planted_text
from nbhelpers.data.planted_text import GENERATORS, expand, iban_checks, luhn, texts


def carriers(count: int, seed: int = 0, prefix: str = "row") -> list[dict]:
    """Rows of invented plain prose, three to six sentences each."""
    rng = random.Random(seed)
    words = texts("words")["noun"] + texts("words")["verb"] + texts("words")["adjective"]
    rows = []
    for i in range(count):
        sentences = [" ".join(rng.choices(words, k=rng.randint(8, 14))) for _ in range(rng.randint(3, 6))]
        text = " ".join(f"{sentence.capitalize()}, so-called {rng.choice(words)}." for sentence in sentences)
        rows.append({"id": f"{prefix}-{i}", "text": text.replace(". ", ".\n\n", 1), "task": "text"})
    return rows


ROWS, EVALUATION = carriers(60), carriers(30, seed=1, prefix="test")
FUNCTIONS = {
    "duplicates": lambda seed, count: defects_copies.duplicates(ROWS, seed, count),
    "dirty": lambda seed, count: defects_text.dirty(ROWS, seed, count),
    "broken": lambda seed, count: defects_rows.broken(ROWS, seed, count),
    "foreign": lambda seed, count: defects_rows.foreign(ROWS, seed, count),
    "low_quality": lambda seed, count: defects_rows.low_quality(ROWS, seed, count),
    "pii": defects_personal.pii,
    "contaminated": lambda seed, count: defects_copies.contaminated(ROWS, EVALUATION, seed, count),
}


def pairs(planted: defects.Planted, negatives: bool = False) -> list[tuple[str, dict, object]]:
    """(family, row, truth) of the defective rows, or of the hard negatives."""
    by_id = {row["id"]: row for row in planted.rows}
    chosen = [(id, f) for id, f in planted.family.items() if f.startswith("not: ") == negatives]
    return [(family, by_id[id], planted.truth.get(id)) for id, family in chosen]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_row_is_a_carrier_a_defect_or_a_hard_negative(name):
    planted = FUNCTIONS[name](0, 70)
    ids = [row["id"] for row in planted.rows]
    clean = [] if name == "pii" else [row["id"] for row in ROWS]
    assert len(set(ids)) == len(ids)
    assert sorted(ids) == sorted([*planted.family, *clean])
    assert len(planted.truth) == 70
    assert planted.truth.keys() == {id for id, family in planted.family.items() if not family.startswith("not: ")}
    assert len(planted.family) == 140
    assert ids != [*clean, *planted.family]  # shuffled


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_seed_alone_decides(name):
    before = json.dumps(ROWS)
    first, again, other = (FUNCTIONS[name](seed, 40) for seed in (3, 3, 4))
    assert first == again
    assert first.rows != other.rows
    assert json.dumps(ROWS) == before


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("count", [0, -1, 2.0, True, "3"])
def test_a_count_that_is_none_is_refused(name, count):
    with pytest.raises(ParameterError, match="whole number"):
        FUNCTIONS[name](0, count)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a"}], "Row 1 has no string"),
        ([{"id": 3, "text": "x"}], "Row 1 has no string"),
        ([*ROWS, ROWS[0]], "same id"),
        ([{"id": "a", "text": "too few words"}], "None of the 1 rows"),
    ],
)
def test_rows_that_can_carry_nothing_are_refused(rows, message):
    with pytest.raises(DataError, match=message):
        defects_copies.duplicates(rows, 0, 3)


def test_the_same_seed_twice_on_the_same_rows_is_refused():
    once = defects_rows.foreign(ROWS, 0, 5)
    with pytest.raises(DataError, match="is taken"):
        defects_rows.foreign(once.rows, 0, 5)


# --- copies -------------------------------------------------------------------------------------------------------


def letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text)


def same_up_to(family: str, copy: str, original: str) -> bool:
    """Whether the copy differs from the original in what the family names, by definition."""
    if family == "exact":
        return copy == original
    if family == "case":
        return copy != original and copy.casefold() == original.casefold()
    if family == "whitespace":
        return copy != original and copy.split() == original.split()
    if family == "punctuation":
        return copy != original and letters(copy) == letters(original)
    if family == "sentence reorder":
        return copy.split() != original.split() and sorted(copy.split()) == sorted(original.split())
    share = int(re.search(r"\d+", family)[0]) / 100
    old, new = original.split(), copy.split()
    if family.startswith("word swaps"):
        changed = sum(a != b for a, b in zip(old, new, strict=True))
        return sorted(old) == sorted(new) and changed == 2 * max(1, round(share * len(old) / 2))
    gone = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
    return len(gone) == max(1, round(share * len(old))) and all(one_keystroke(a, b) for a, b in gone)


def one_keystroke(a: str, b: str) -> bool:
    ends = range(len(a) + 1)
    if any(a[:i] + a[i + 1 :] == b or a[:i] + a[i : i + 2][::-1] + a[i + 2 :] == b for i in ends):
        return True
    return any(b[:i] + b[i + 1 :] in (a, a[:i] + a[i + 1 :]) for i in range(len(b)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_copy_differs_from_its_row_in_what_its_family_names(seed):
    originals = {row["id"]: row["text"] for row in ROWS}
    found = pairs(defects_copies.duplicates(ROWS, seed, 260))
    assert {family for family, *_ in found} == set(defects_copies.COPIES)
    wrong = [(family, row["text"], originals[answer]) for family, row, answer in found
             if not same_up_to(family, row["text"], originals[answer])]  # fmt: skip
    assert not wrong


def test_hard_negatives_of_duplicates_share_what_they_should_and_no_more():
    shares = collections.defaultdict(list)
    texts = [row["text"].split() for row in ROWS]
    templates = []
    for family, row, _ in pairs(defects_copies.duplicates(ROWS, 0, 180), negatives=True):
        found = row["text"].split()
        if family == "not: same template":
            templates.append(found)
            continue
        if family.endswith("other words"):
            same = [sum(a == b for a, b in zip(found, t, strict=True)) for t in texts if len(t) == len(found)]
        else:
            same = [len(t[: len(t) // 2]) for t in texts if found[: len(t) // 2] == t[: len(t) // 2]]
        shares[family].append(max(same) / len(found))
    assert all(0.48 < share < 0.72 for share in shares["not: many other words"])
    assert all(0.8 < share < 0.95 for share in shares["not: some other words"])
    assert all(0.3 < share < 0.7 for share in shares["not: same first half"])
    for one, other in zip(templates[::2], templates[1::2], strict=True):
        assert 0.6 < sum(a == b for a, b in zip(one, other, strict=True)) / len(one) < 0.9


def test_leaks_are_copies_of_test_rows_in_the_training_rows():
    rows, truth = defects_copies.leaks(ROWS, EVALUATION, 0, 40)
    assert len(rows) == len(ROWS) + 40
    assert len(truth) == 40
    by_id, originals = {row["id"]: row for row in rows}, {row["id"]: row["text"] for row in EVALUATION}
    for id, source in truth.items():
        found, wanted = sorted(words(by_id[id]["text"])), sorted(words(originals[source]))
        assert difflib.SequenceMatcher(None, found, wanted, autojunk=False).ratio() > 0.85
    assert {row["id"] for row in ROWS} <= by_id.keys()
    assert any(by_id[id]["text"] == originals[source] for id, source in truth.items())


def longest_common_run(first: list[str], second: list[str]) -> int:
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    return matcher.find_longest_match().size


def test_contaminated_rows_share_13_words_with_an_evaluation_text_and_hard_negatives_do_not():
    planted = defects_copies.contaminated(ROWS, EVALUATION, 0, 48)
    texts = {row["id"]: words(row["text"]) for row in EVALUATION}
    for _, row, answer in pairs(planted):
        assert 13 <= longest_common_run(words(row["text"]), texts[answer]) <= 48  # `so-called` is two
    runs = collections.defaultdict(list)
    for family, row, _ in pairs(planted, negatives=True):
        runs[family].append(max(longest_common_run(words(row["text"]), text) for text in texts.values()))
    assert all(8 <= run <= 12 for run in runs["not: short span"])
    assert max(runs["not: common phrase"]) < 8
    assert {family for family, *_ in pairs(planted)} == {"as it is", "case", "punctuation", "whitespace"}


def test_rows_that_are_contaminated_by_nature_carry_no_span():
    natural = [{**row, "id": f"natural-{row['id']}"} for row in EVALUATION]
    planted = defects_copies.contaminated([*ROWS, *natural], EVALUATION, 0, 80)
    assert {row["id"] for row in natural} <= {row["id"] for row in planted.rows}
    openings = tuple(" ".join(row["text"].split()[:3]) for row in natural)
    negatives = [row["text"] for _, row, _ in pairs(planted, negatives=True)]
    assert not [text for text in negatives if text.startswith(openings)]
    with pytest.raises(DataError, match="shares no 13 words"):
        defects_copies.contaminated(natural, EVALUATION, 0, 3)


# --- encoding and markup ------------------------------------------------------------------------------------------


def undo(family: str, text: str) -> str:
    """The inverse of a family of damage, from its definition."""
    if family.startswith("mojibake"):
        for _ in range(2 if "twice" in family else 1):
            latin = {bytes([b]).decode("cp1252", "ignore") or chr(b): b for b in range(256)}
            table = {chr(b): b for b in range(256)} if "Latin" in family else latin
            text = bytes(table[character] for character in text).decode()
    if family == "HTML entities":
        text = html.unescape(text)
    text = re.sub("[\u200b\u2060\ufeff\xad\x00-\x08\x0e-\x1a\x7f]", "", re.sub("[\xa0\u202f]", " ", text))
    text = re.sub(r"\x1b\[[?\d;]*[A-Za-z]|\x1b\]8;;[^\x1b]*\x1b\\", "", text)
    return re.sub("\n{3,}", "\n\n", re.sub("[ \t]+\n", "\n", re.sub("\r\n?", "\n", unicodedata.normalize("NFC", text))))


def test_damage_to_the_encoding_is_undone_by_its_inverse():
    found = [item for item in pairs(defects_text.dirty(ROWS, 0, 500)) if item[0] in defects_text.ENCODING]
    assert {family for family, *_ in found} == set(defects_text.ENCODING)
    for family, row, answer in found:
        assert defects_text.comparable(row["text"]) != defects_text.comparable(answer), family
        assert defects_text.comparable(undo(family, row["text"])) == defects_text.comparable(answer), family


MARKUP = re.compile(
    r"</?(?:p|br|b|i|u|a|em|strong|span|font|code|tt|kbd|div|ul|li|h2)\b[^>]*>|:\w+:`|`_|\|\w|^ *\.\. ", re.I | re.M
)


def test_markup_is_in_the_damaged_text_and_not_in_the_answer():
    found = [item for item in pairs(defects_text.dirty(ROWS, 0, 700)) if item[0] not in defects_text.ENCODING]
    assert {family for family, *_ in found} == {*texts("inline_markup"), *texts("block_markup")}
    for family, row, answer in found:
        assert MARKUP.search(row["text"]), family
        assert not MARKUP.search(answer), family
        assert set(words(answer)) - {"note", "warning", "tip", "important"} <= set(words(row["text"]))


@pytest.mark.parametrize(
    ("family", "damaged", "clean"),
    [
        ("RST: role", ":class:`~{path}`", "{path}"),
        ("RST: link", "`{word} <{url}>`_", "{word} ({url})"),
        ("HTML: line break", "{a}<br>{b}", "{a}\n{b}"),
        ("HTML: list", "<ul>\n  <li>{a}</li>\n  <li>{b}</li>\n</ul>", "- {a}\n- {b}"),
        ("RST: admonition", "{a}\n\n.. note:: {b}", "{a}\n\nNote: {b}"),
        ("RST: version", ".. deprecated:: {version}\n\n{a}", "{a}"),
    ],
)
def test_what_should_come_out_of_markup(family, damaged, clean):
    assert [damaged, clean] in {**texts("inline_markup"), **texts("block_markup")}[family]


def test_only_plain_carriers_are_damaged():
    marked = [{"id": f"odd-{i}", "text": f"{ROWS[i]['text']} {odd}"} for i, odd in enumerate(
        [":class:`x`", "<b>", "caf\xe9", "a  b", "|x|", "\tx", "&amp;", "\n.. note::", "link_ here", "*optional*"]
    )]  # fmt: skip
    with pytest.raises(DataError, match="plain ASCII prose"):
        defects_text.dirty(marked, 0, 3)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("a  \nb\t\n\n", "a\nb", True),
        ("a\n\n\nb", "a\n\nb", True),
        ("a\n\n\n\nb", "a\n\nb", False),
        ("a\r\nb", "a\nb", False),
        ("a\nb", "a\n\nb", False),
        (" a", "a", False),
    ],
)
def test_texts_are_compared_up_to_white_space_at_line_ends(first, second, same):
    assert (defects_text.comparable(first) == defects_text.comparable(second)) is same


def test_hard_negatives_of_dirty_are_clean_characters():
    planted = defects_text.dirty(ROWS, 0, 200)
    found = pairs(planted, negatives=True)
    assert {family for family, *_ in found} == {f"not: {family}" for family in texts("clean_markup")}
    for _, row, _ in found:
        assert unicodedata.is_normalized("NFC", row["text"])
        assert not re.search("[\x00-\x08\x0b-\x1f\xa0\xad\u200b\ufeff]", row["text"])
    assert all(unicodedata.is_normalized("NFC", text) for text in texts("unicode"))


# --- broken, foreign, low quality ---------------------------------------------------------------------------------


def test_broken_rows_are_broken_in_ten_ways_and_the_others_are_valid():
    planted = defects_rows.broken(ROWS, 0, 200)
    assert collections.Counter(planted.truth.values()) == dict.fromkeys(defects_rows.BROKEN, 20)
    assert len(defects_rows.BROKEN) == 10
    forgiven = set()  # what check_messages lets pass: it looks at no order but the last turn's
    for kind, row, _ in pairs(planted):
        try:
            chat.check_messages(row.get("messages"))
            forgiven.add(kind)
        except DataError:
            pass
    assert forgiven <= {"two user turns", "system turn not first", "content is blank"}
    for row in planted.rows:
        if row["id"] not in planted.truth:
            assert chat.check_messages(row["messages"])
            roles = [turn["role"] for turn in row["messages"]]
            assert "system" not in roles[1:]
            assert ("user", "user") not in itertools.pairwise(roles)


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("messages missing", lambda row: row.get("messages") is None),
        ("no turns", lambda row: row["messages"] == []),
        ("turn is no dict", lambda row: not all(isinstance(turn, dict) for turn in row["messages"])),
        ("unknown role", lambda row: {turn.get("role") for turn in row["messages"]} - {"user", "assistant"}),
        ("content is None", lambda row: None in [turn.get("content") for turn in row["messages"]]),
        ("content is no text", lambda row: any(type(t["content"]) not in (str, type(None)) for t in row["messages"])),
        ("content is blank", lambda row: any(not re.sub("[\\s\u200b]", "", t["content"]) for t in row["messages"])),
        ("last turn is the user's", lambda row: row["messages"][-1]["role"] == "user"),
        ("two user turns", lambda row: [turn["role"] for turn in row["messages"]][:2] == ["user", "user"]),
        ("system turn not first", lambda row: "system" in [turn["role"] for turn in row["messages"]][1:]),
    ],
)
def test_each_way_of_breaking_a_row_has_its_fault(kind, fault):
    found = [row for family, row, _ in pairs(defects_rows.broken(ROWS, 1, 300)) if family == kind]
    assert len(found) == 30
    assert all(fault(row) for row in found)


def test_foreign_rows_are_in_the_language_that_their_truth_names():
    import py3langid

    planted = defects_rows.foreign(ROWS, 0, 84)
    found = pairs(planted)
    assert set(planted.truth.values()) == set(texts("passages"))
    assert len(texts("passages")) == 14
    named = [(py3langid.classify(row["text"])[0], code) for family, row, code in found if "English" not in family]
    assert sum(a == b for a, b in named) / len(named) > 0.98
    assert {f"not: {family}" for family in texts("english")} == {f for f, *_ in pairs(planted, negatives=True)}
    assert all(8 <= len(text.split()) <= 12 for text in texts("english")["short"])
    assert all(len(set(sentences)) == 7 for sentences in texts("passages").values())


def test_low_quality_rows_are_what_their_kind_says():
    found = collections.defaultdict(list)
    for kind, row, answer in pairs(defects_rows.low_quality(ROWS, 0, 240)):
        assert kind == answer
        found[kind].append(row["text"])
    assert found.keys() == set(defects_rows.WORTHLESS)
    assert all(len(text.split()) <= 2 for text in found["too short"])
    assert all(sum(map(str.isalpha, text)) == 0 for text in found["symbols"])
    assert all(len(text) >= 120 and len(max(text.split(), key=len)) >= 60 for text in found["blob"])
    assert all(len(text.split()) >= 8 for text in found["gibberish"])
    for text in found["repetition"]:
        assert re.search(r"(.{2,}?)(?:[\n, ]*\1){7}", text, re.DOTALL)


def test_hard_negatives_of_quality_are_sentences():
    found = pairs(defects_rows.low_quality(ROWS, 0, 160), negatives=True)
    assert {family for family, *_ in found} == {f"not: {family}" for family in texts("worthwhile")}
    assert all(len(row["text"].split()) >= 4 and "%{" not in row["text"] for _, row, _ in found)


# --- personal data ------------------------------------------------------------------------------------------------

PII = [pair for seed in range(3) for pair in pairs(defects_personal.pii(seed, 400))]
VALUES = [(family, kind, row["text"][start:end]) for family, row, spans in PII for start, end, kind in spans]


def values(kind: str) -> list[str]:
    return [value for _, found, value in VALUES if found == kind]


def test_every_format_is_planted_and_no_mark_is_left():
    wanted = {f"{kind}: {family}" for kind, families in texts("personal").items() for family in families}
    assert {family for family, *_ in PII} == wanted | {"several: kinds"}
    for family, row, spans in PII:
        assert not re.search(r"[⟦⟧]|%\{|\{\}", row["text"])
        assert len(spans) == 1 or (family == "several: kinds" and 2 <= len(spans) <= 4)
        assert all(0 <= start < end <= len(row["text"]) for start, end, _ in spans)
        assert spans == sorted(spans)


def test_spans_are_counted_in_the_text_without_marks():
    assert defects_personal.unmark("a ⟦IP:1⟧ b ⟦KEY:x\ny⟧.") == ("a 1 b x\ny.", [(2, 3, "IP"), (6, 9, "KEY")])


def test_telephone_numbers_are_valid():
    for number in values("PHONE"):
        parsed = []
        for region in ("US", "GB", "DE", "FR"):
            try:
                parsed.append(phonenumbers.is_valid_number(phonenumbers.parse(number, region)))
            except phonenumbers.NumberParseException:
                parsed.append(False)
        assert any(parsed), number
    assert len(set(values("PHONE"))) > 150


def test_addresses_are_public():
    for address in values("IP"):
        assert ipaddress.ip_address(address.replace("[.]", ".")).is_global, address


def test_card_numbers_pass_luhn_and_accounts_modulus_97():
    for number in values("CARD"):
        digits = [int(digit) for digit in re.sub("[ -]", "", number)]
        doubled = [2 * digit - 9 * (digit > 4) for digit in digits[-2::-2]]
        assert (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
        assert len(digits) == (15 if digits[0] == 3 else 16)
    countries = set()
    for iban in values("IBAN"):
        compact = iban.replace(" ", "").upper()
        countries.add(compact[:2])
        digits = "".join(str(int(character, 36)) for character in compact[4:] + compact[:4])
        assert int(digits) % 97 == 1
    assert len(countries) >= 8


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (luhn, "4111111111111111", "4111111111111112"),
        (luhn, "378282246310005", "378282246310006"),
        (iban_checks, "GB82WEST12345698765432", "GB83WEST12345698765432"),
        (iban_checks, "DE89370400440532013000", "DE89370400440532013001"),
    ],
)
def test_check_digits_of_published_examples(check, right, wrong):
    assert check(right)
    assert not check(wrong)


def test_mail_addresses_have_a_user_and_a_host_that_is_not_reserved():
    for address in values("EMAIL"):
        plain = re.sub(r"\s*[(\[]at[)\]]\s*|\s+AT\s+", "@", address)
        plain = re.sub(r"\s*[(\[]dot[)\]]\s*|\s+DOT\s+", ".", plain)
        assert re.fullmatch(r"[\w.+-]*[\w]@[\w-]+(\.[\w-]+)+", plain), address
        assert not re.search(r"@(.*\.)?(example\.|test$|invalid$|localhost)", plain)


def test_keys_are_random_and_alone_in_their_span():
    keys = values("KEY")
    assert len(set(keys)) == len(keys)
    for key in keys:
        if not key.startswith("-----BEGIN"):
            assert len(key) >= 10
            assert not re.search(r"[\s\"'=]", key.rstrip("=")), key
        else:
            assert re.fullmatch(r"-----BEGIN ([A-Z ]+)-----\n.*\n-----END \1-----", key, re.DOTALL)


def test_hard_negatives_hold_no_card_and_no_account():
    for seed in range(3):
        for family, row, answer in pairs(defects_personal.pii(seed, 400), negatives=True):
            assert answer is None
            text = row["text"]
            for run in re.findall(r"(?<![\d.])\d{4}[ -]?\d{4,6}[ -]?\d{4,5}(?:[ -]?\d{4})?(?![\d.])", text):
                digits = re.sub("[ -]", "", run)
                if family in ("not: number that fails Luhn", "not: long integer"):
                    assert len(digits) not in (15, 16) or not luhn(digits), text
            for iban in re.findall(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{1,4}){3,8}\b", text):
                compact = iban.replace(" ", "")
                assert not (compact.isalnum() and iban_checks(compact)), text
    families = {family for family, *_ in pairs(defects_personal.pii(0, 400), negatives=True)}
    assert families == {f"not: {family}" for family in texts("not_personal")}


def test_formats_expand_to_their_alphabet_and_length():
    rng = random.Random(0)
    assert re.fullmatch(r"\d{4}-[0-9a-f]{6}-\w{3}", expand("%d4-%h6-%w3", rng))
    assert expand("100 % of %{first}", rng) in {f"100 % of {name}" for name in texts("words")["first"]}
    with pytest.raises(KeyError):
        expand("%{nothing}", rng)


def test_every_name_in_braces_is_known():
    file = Path(planted_text.__file__).with_name("planted_texts.json")
    names = set(re.findall(r"%\{(\w+)\}", file.read_text(encoding="utf-8")))
    assert len(names) > 20
    assert not names - texts("words").keys() - GENERATORS.keys()
    assert not texts("words").keys() & GENERATORS.keys()
