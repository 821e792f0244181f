import itertools
import json
import os
import random
import time
import tracemalloc
from functools import partial
from types import NoneType

import datasets
import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from nbhelpers.core import storage
from nbhelpers.core.errors import DataError, ParameterError
from nbhelpers.data import chat, cleaning, duplicates, normalisation, quality, schemas, splits, streaming
from nbhelpers.data.cleaning import Cleaned
from nbhelpers.data.privacy import Span


def table(*texts: str):
    return datasets.Dataset.from_dict({"id": [str(i) for i in range(len(texts))], "text": list(texts)})


def turns(question: str, answer: str) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


STEPS = {
    "normalise": cleaning.normalise,
    "language": cleaning.keep_language,
    "quality": cleaning.filter_quality,
    "exact": duplicates.drop_exact,
    "redact": cleaning.redact,
}
FILTERS = ("language", "quality", "exact")

# --- the account --------------------------------------------------------------------------------------------------


def test_an_account_has_one_line_a_step_and_every_row_in_it():
    raw = [{"text": "a\u200bb&amp;c"}, {"text": None}, {"text": "one more row\r\n"}, {"text": " "}, {"text": "one"}]
    steps = [cleaning.validate(raw)]
    for step in (cleaning.normalise, partial(cleaning.filter_quality, min_words=2)):
        steps.append(step(steps[-1].rows))
    assert cleaning.account(steps).to_dict("records") == [
        {"step": "schema", "read": 5, "dropped": 2, "changed": 0, "kept": 3}
        | {"reasons": "a column is missing 1, no text 1"},
        {"step": "normalise", "read": 3, "dropped": 0, "changed": 2, "kept": 3}
        | {"reasons": "html 1, invisible 1, white space 1"},
        {"step": "quality", "read": 3, "dropped": 1, "changed": 0, "kept": 2} | {"reasons": "too short 1"},
    ]


def test_an_account_with_a_step_left_out_is_refused():
    raw = cleaning.validate([{"text": "one two three"}, {"text": "one"}])
    short = cleaning.filter_quality(raw.rows)
    with pytest.raises(DataError, match="normalise read 1 rows, but schema had kept 2"):
        cleaning.account([raw, cleaning.normalise(short.rows)])


def test_a_step_that_loses_a_row_cannot_be_made():
    with pytest.raises(AssertionError, match=r"3 read .* != 2 kept"):
        Cleaned("lossy", table("a", "b"), 3)
    with pytest.raises(AssertionError, match=r"2 read .* != 2 kept .* 1 dropped"):
        Cleaned("double", table("a", "b"), 2, [("0", "dropped", "reason", "")])


def test_the_log_counts_a_row_under_every_reason_and_is_a_table():
    done = Cleaned(
        "x", table("a"), 2, [("0", "changed", "b", ""), ("0", "changed", "a", ""), ("1", "dropped", "c", "d")]
    )
    assert (done.changed, done.dropped) == ({"b": 1, "a": 1}, {"c": 1})
    assert done.line() == {
        "step": "x",
        "read": 2,
        "dropped": 1,
        "changed": 1,
        "kept": 1,
        "why": {"c": 1, "b": 1, "a": 1},
    }
    assert list(done.table().columns) == list(cleaning.LOG)
    assert done.table().values.tolist()[2] == ["1", "dropped", "c", "d"]


# --- every step on any rows ---------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
PIECES = [
    "&amp;", "&lt;", "b&gt;", "&#96;", "<b>", "</b>", "<br/>", ":func:`~a.b`", "`a <http://x>`_", "``", "```\n",
    "|x y|", "\r", "\n\n\n", " \t\n", "\n.. note:: ", "\n.. versionadded:: 1\n", "\u200b", "\u00a0", "e\u0301",
    "Ã©", "â€™", "\n>>> ", "\x1b[0m", "&", "<li>", "anna@kestrel.org", "..", "@", "+1 212 555 0123", "8.8.8.8",
    "password=", "hunter2!x", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "2001:4860:4860::8888", "://u:",
    "[EMAIL]", "the list of words ", "Das ist die erste Zeile eines Textes, und sie ist nicht auf Englisch. ", "\ud800",
    "字", "All rights reserved. ",
]  # fmt: skip
TEXT = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=8).map("".join)
TURN = st.fixed_dictionaries({"role": st.sampled_from([*chat.ROLES, "bot"]), "content": TEXT | JSON}) | JSON
GOOD = st.builds(turns, TEXT, TEXT)
ROW = st.one_of(
    st.fixed_dictionaries({"text": TEXT | JSON}, optional={"id": TEXT | JSON, "task": TEXT | JSON, "": TEXT}),
    st.fixed_dictionaries({"messages": GOOD | st.lists(TURN, max_size=3) | JSON}, optional={"id": TEXT, "text": TEXT}),
    st.fixed_dictionaries({"instruction": TEXT | JSON, "output": TEXT | JSON}, optional={"input": TEXT | JSON}),
    st.fixed_dictionaries({"conversations": st.lists(TURN | JSON, max_size=3) | JSON}),
    JSON,
)


@settings(max_examples=60)
@given(st.lists(ROW, max_size=6))
@example([{"text": "x"}, {"text": "y", "messages": "z", "reference": "w"}])
@example([{"instruction": "a", "output": "b", "text": "a b", "input": "anna@kestrel.org"}])
def test_every_row_of_any_kind_is_kept_or_dropped_once_and_nothing_but_a_notebook_error_is_raised(raw):
    if not any(isinstance(row, dict) and schemas.known_shape(set(row)) for row in raw):
        with pytest.raises(DataError, match="no known shape"):
            cleaning.validate(raw)
        return
    done = [cleaning.validate(raw)]
    ids = {*done[0].rows["id"], *(name for name, *_ in done[0].log)}
    assert len(ids) == len(raw)
    for step in STEPS.values():
        done.append(step(done[-1].rows))
    done.append(duplicates.drop_near(done[-1].rows))
    cleaning.account(done)
    for before, after in itertools.pairwise(done):
        assert after.read == len(after.rows) + sum(after.dropped.values()) == len(before.rows)
        assert after.rows.column_names == before.rows.column_names
        assert after.rows.features == before.rows.features
        gone = {name for name, action, *_ in after.log if action == "dropped"}
        if after.step != "redact":  # which redacts ids too
            assert list(after.rows["id"]) == [name for name in before.rows["id"] if name not in gone]
        if after.step not in ("normalise", "redact"):
            kept = [row for row in before.rows.to_list() if row["id"] not in gone]
            assert repr(after.rows.to_list()) == repr(kept)  # NaN is not equal to itself, but printed alike
        changed = {name for name, action, *_ in after.log if action == "changed"}
        assert changed == {
            b["id"]
            for a, b in zip(before.rows.to_list(), after.rows.to_list(), strict=False)
            if after.step in ("normalise", "redact") and repr(a) != repr(b)
        }
    for row in done[0].rows.to_list():
        assert all(type(value) in (str, int, float, bool, NoneType) for key, value in row.items() if key != "messages")
        assert ("text" in row) != ("messages" in row)


@settings(max_examples=200)
@given(TEXT.filter(lambda text: "\ud800" not in text))
@example("&amp;lt;b&amp;gt;x&amp;lt;/b&amp;gt;")
@example("anna@kestrel.org[at]2001:4860:4860::8888áT%anna@kestrel.org[at]")
def test_what_was_normalised_and_redacted_stays_as_it_is(text):
    once, why = normalisation.normalise_text(text)
    assert normalisation.normalise_text(once) == (once, [])
    assert bool(why) == (once != text)
    redacted = cleaning.redact(table(text)).rows
    again = cleaning.redact(redacted)
    assert (again.rows["text"][0], again.log) == (redacted["text"][0], [])


def empty_rows():
    raw = [{"text": None}], [{"messages": None}]
    return [*(cleaning.validate(rows).rows for rows in raw), table("a b c", "d e f").select([])]


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("rows", empty_rows(), ids=["text", "messages", "selected"])
def test_a_step_on_no_rows_gives_none_of_the_same_columns(name, rows):
    done = STEPS[name](rows)
    assert (done.read, len(done.rows), done.log) == (0, 0, [])
    assert done.rows.features == rows.features
    assert len(cleaning.account([done])) == 1


@pytest.mark.parametrize("name", STEPS)
def test_a_step_after_select_and_filter_sees_those_rows_alone(name):
    rows = table("no", "Mail anna@kestrel.org&amp;co the words ", "x", "no", "Mail anna@kestrel.org&amp;co the words ")
    chosen = rows.select([4, 3, 1, 0]).filter(lambda row: row["id"] != "0")
    plain = datasets.Dataset.from_list(chosen.to_list())
    done, expected = STEPS[name](chosen), STEPS[name](plain)
    assert (done.rows.to_list(), done.log) == (expected.rows.to_list(), expected.log)
    assert done.log or name == "language"


def test_a_rewrite_keeps_columns_types_and_order_and_mends_the_reference_with_the_answer():
    rows = datasets.Dataset.from_list(
        [
            {"year": 7, "reference": "a&amp;b", "id": "x", "messages": turns("q&lt;", "a&amp;b"), "score": 0.5},
            {"year": 8, "reference": None, "id": "y", "messages": turns("q", "a"), "score": None},
        ]
    )
    done = cleaning.normalise(rows, strip_markup=True)
    assert done.rows.features == rows.features
    assert done.rows.column_names == ["year", "reference", "id", "messages", "score"]
    assert done.rows[0] == {"year": 7, "reference": "a&b", "id": "x", "messages": turns("q<", "a&b"), "score": 0.5}
    assert done.rows[1] == rows[1]
    assert done.log == [("x", "changed", "html", "")]


def test_the_text_of_messages_is_that_of_all_turns():
    rows = cleaning.validate([{"messages": turns("a", "b")}, {"messages": turns("c\n", "d")}]).rows
    assert cleaning.texts(rows) == ["a\n\nb", "c\n\n\nd"] == [schemas.text_of(row) for row in rows]


# --- schema -------------------------------------------------------------------------------------------------------


def test_a_broken_row_is_dropped_under_its_number_and_reason():
    raw = [
        {"id": "a", "messages": turns("q", "a"), "task": "x", "score": 3},
        {"id": "b", "messages": []},
        {"id": "c"},
        {"messages": turns("q", " \u200b")},
        [1],
        {"id": "f", "messages": [{"role": "judge", "content": "x"}]},
        {"id": "g", "messages": turns("q", "\ud83d")},
        {"id": "h", "messages": turns("q", 5)},
    ]
    done = cleaning.validate(raw, first_number=11)
    kept = {"id": "a", "messages": turns("q", "a"), "reference": "a", "score": 3, "task": "x"}
    assert done.rows.to_list() == [kept]
    assert [(name, reason) for name, _, reason, _ in done.log] == [
        ("b", "no messages"),
        ("c", "a column is missing"),
        ("row-14", "empty turn"),
        ("row-15", "not an object"),
        ("f", "unknown role"),
        ("g", "half a character"),
        ("h", "content is not text"),
    ]
    assert [detail.split(":")[0] for *_, detail in done.log] == [f"row {number}" for number in range(12, 19)]
    assert done.log[5][3] == "row 17: '\\ud83d'"


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "sharegpt"),
        ({"prompt": "q", "completion": "a"}, "prompt/completion"),
        ({"instruction": "q", "output": "a", "text": "q and a", "input": ""}, "alpaca"),
        ({"messages": turns("q", "a")}, "messages"),
    ],
)
def test_every_shape_becomes_messages_and_leaves_no_column_of_its_own(row, shape):
    expected = [{"id": "row-1", "messages": turns("q", "a"), "reference": "a"}]
    assert cleaning.shape_of([None, {}, row]) == shape
    assert cleaning.validate([row]).rows.to_list() == expected
    assert cleaning.validate([row], shape).rows.to_list() == expected


def test_ids_are_text_and_no_two_rows_have_the_same():
    ids = ["row-2", None, "a", "a", 17, "", "row-6", "\ud800", ["x"]]
    rows = cleaning.validate([{"id": name, "text": "x"} for name in ids]).rows
    expected = ["row-2", "row-2+", "a", "row-4", "17", "row-6", "row-7", "\\ud800", "row-9"]
    assert list(rows["id"]) == expected
    seen = {"a"}
    assert list(cleaning.validate([{"id": "a", "text": "x"}], first_number=3, seen=seen).rows["id"]) == ["row-3"]
    assert seen == {"a", "row-3"}


@pytest.mark.parametrize("raw", [[], [None, 3], [{"question": "x"}, {}], [{"text": "x"}] * 0])
def test_rows_of_no_known_shape_are_refused_with_the_known(raw):
    with pytest.raises(DataError, match=r"no known shape.*alpaca"):
        cleaning.validate(raw)


def test_an_unknown_shape_is_refused():
    with pytest.raises(ParameterError, match="shape='csv' is not one of messages"):
        cleaning.validate([{"text": "x"}], "csv")


# --- normalise ----------------------------------------------------------------------------------------------------

MENDED = [
    ("It isnâ€™t cafÃ©.", "It isn’t café.", "mojibake"),
    ("cafe\u0301 a\u00a0b\u2009c\u3000d", "café a b c d", "unicode"),
    ("\ufeffa\u200bb\u00adc\x00d\u202ee", "abcde", "invisible"),
    ("\x1b[31mred\x1b[0m \x1b]0;title\x07on", "red on", "invisible"),
    ("a\r\nb\rc", "a\nb\nc", "white space"),
    ("\n\na  \nb\t\n\n\n\nc\n", "a\nb\n\nc", "white space"),
    ("  a b", "  a b", None),
    ("a &lt; b &amp;&amp; c&nbsp;d &#39;e&#x27;", "a < b && c d 'e'", "html"),
    ("&amp;amp;", "&", "html"),
    ("&lt;b&gt;bold&lt;/b&gt;", "bold", "html"),
    ("<p>one</p>\n<p class='x'>two</p>", "one\ntwo", "html"),
    ('See <a href="https://x.org">here</a>.<br/>Or <b>there</b>.', "See here.\nOr there.", "html"),
    ("<ul>\n  <li>one</li>\n  <li>two</li>\n</ul>", "- one\n- two", "html white space"),
    (":class:`~torch.Tensor`, :py:func:`!run` and :ref:`the title <label>`", "torch.Tensor, run and the title", "rst"),
    (
        "`docs <https://x.org/a>`_ and `more <https://x.org>`__",
        "docs (https://x.org/a) and more (https://x.org)",
        "rst",
    ),
    ("Runs on |version| of |the name|.", "Runs on version of the name.", "rst"),
    (".. versionadded:: 1.2\n\ntext\n\n.. deprecated:: 3\n", "text", "rst white space"),
    (".. note:: Mind.\n\n  .. seealso::\n     x", "Note: Mind.\n\n  See also:\n     x", "rst white space"),
]
STAYS = [
    "Returns a List<int> or a Map<String, List<int>>; <class 'str'>, <bos>, <name>, <path/to/file>.",
    "True if a < b > c; AT&T, R&D, f(&x, &&y), https://host.invalid/?a=1&copy=2&lt=3",
    "`<b>x</b>` and ``&amp; |x|`` and ```\n<p>one</p> :func:`f`\n.. note:: x\n```",
    ">>> print('<b>&amp;</b>')  # :func:`f`\n<b>&amp;</b>\n... |x|",
    "x |= y | z, int | str | None, P(A|B), |x| is the length, | a | b |\n|---|---|, $|a_i| < M$",
    "“Quotes”, ‘single’ — a dash – stay… naïve Ångström 字",
    "A family 👨\u200d👩\u200d👧, می\u200cخواهم",
    "<p> alone, <a statement>, a <i index",
    "Example::\n\n    a = 1\n      b = 2",
    ".. math:: x\n\n:math:`x_i` and `plain`_ and **bold**",
    "# Title\n\n1. one\n2. two\n\n> a [link](https://x.org)",
]


@pytest.mark.parametrize(("text", "expected", "why"), MENDED)
def test_a_text_is_mended_to_the_letter_and_for_the_reason(text, expected, why):
    found, reasons = normalisation.normalise_text(text)
    assert found == expected
    assert " ".join(reasons) == (why or "")


@pytest.mark.parametrize("text", STAYS)
def test_what_only_looks_like_markup_stays(text):
    assert normalisation.normalise_text(text) == (text, [])


def test_after_a_doctest_session_prose_is_prose_again():
    text = ">>> f('<b>x</b>')\n<b>x</b>\n\nIt is <b>bold</b> &amp; more."
    assert normalisation.normalise_text(text)[0] == ">>> f('<b>x</b>')\n<b>x</b>\n\nIt is bold & more."


def test_a_code_span_does_not_swallow_what_stands_between_two():
    assert normalisation.normalise_text("`a` &amp; `b` &lt; ``c``")[0] == "`a` & `b` < ``c``"


# --- language -----------------------------------------------------------------------------------------------------

ENGLISH = "Return the mean of the values along the given axis, or None where there are no values at all."
FOREIGN = {
    "de": "Gibt den Mittelwert der Werte zurück, oder nichts, wenn es überhaupt keine Werte gibt.",
    "fr": "Renvoie la moyenne des valeurs le long de cet axe, ou rien quand il n'y a pas de valeurs.",
    "es": "Devuelve la media de los valores a lo largo del eje, o nada cuando no hay ningún valor.",
    "ru": "Возвращает среднее значение вдоль указанной оси или ничего, если значений нет.",
    "zh": "返回给定轴上所有数值的平均值,如果没有任何数值则返回空值。请注意数据类型的变化。",
}


def test_rows_in_another_language_are_dropped_and_named():
    done = cleaning.keep_language(table(ENGLISH, *FOREIGN.values()))
    assert list(done.rows["text"]) == [ENGLISH]
    assert [detail.split()[0] for *_, detail in done.log] == list(FOREIGN)
    assert all(0.8 <= float(detail.split()[1]) <= 1 for *_, detail in done.log)
    assert done.dropped == {"language": 5}


@pytest.mark.parametrize(
    "text",
    [
        "Der Wert.",
        "``gib den Wert zurück, wenn es einen Wert gibt`` und_so_weiter=1 /der/die/das x1 y2",
        ">>> der = die.das(und='nicht', oder='doch')\n>>> wenn.es.ist(der, die, das)",
        "conv2d max_pool2d relu6 layer.weight /usr/lib/x86_64 0x1f 3.14",
        "",
    ],
)
def test_short_prose_and_code_are_of_no_language_and_kept(text):
    assert len(cleaning.keep_language(table(text)).rows) == 1


def test_the_language_kept_and_the_certainty_are_parameters():
    rows = table(ENGLISH, FOREIGN["de"])
    assert list(cleaning.keep_language(rows, "de").rows["id"]) == ["1"]
    assert len(cleaning.keep_language(rows, min_probability=1.1).rows) == 2
    short = table("Der Wert ist nicht da.", "Значений нет совсем нигде")
    assert list(cleaning.keep_language(short).rows["id"]) == ["0"]
    assert list(cleaning.keep_language(short, min_letters=10).rows["id"]) == []


# --- quality ------------------------------------------------------------------------------------------------------

WORDS = list(map("".join, itertools.product("bdfgklmnprst", "aeiou", "dlmnrst", "aeiou", "lmnt", "aeio")))
SENTENCE = "The default value of this option is read from the file. "
BAD = {
    "too short": ["", "one two", "3 4", "n/a."],
    "too long": [" ".join(WORDS[:20_001])],
    "repetition": [SENTENCE * 8, "ha " * 20, "Error 404\n" * 12],
    "symbols": ["=-_*#~ ab cd ef " + "=-_*#~ " * 10, "| a | b | c |\n" + "|---|---|---|\n" * 5],
    "blob": ["data:image/png;base64, the image is " + "iVBORw0KGgo9" * 12, "Here are bytes: " + "3f a9 00 7b " * 12],
    "gibberish": ["sdfgh jklqw zxcvb wrtpl the kjhgf", "5jRz7kQw a7Bq9Zx Kp3xR8vT qW9e2Rt the and"],
    "boilerplate": [
        "Copyright (c) 2020 The Authors. All rights reserved.",
        "We use cookies on this site. Subscribe to our newsletter.",
        "# This file was generated by a tool. Do not edit.",
    ],
}
FINE = {
    "too short": ["Return the name.", "Close it now"],
    "too long": [" ".join(WORDS[:20_000])],
    "repetition": [SENTENCE * 2, ">>> a b c d e f\n" * 12 + "This shows the same line twelve times over."],
    "symbols": ["f(x) = x**2 + 2*x*y - y**2 for all x and y of the field", "`a` -> `b`: one maps to the other"],
    "blob": [f"Its digest is {'9f86d081' * 8}, as published in the list of the files. {SENTENCE}"],
    "gibberish": [
        "The nth sqrt of rhythm strengths, a Conv2d and a BatchNorm2d",
        "The html and the kwargs of a file are passed on.",
    ],
    "boilerplate": [f"{SENTENCE}It comes without warranty.\n{SENTENCE}", "Return the cookies of a session as a list."],
}


@pytest.mark.parametrize(("reason", "text"), [(reason, text) for reason, texts in BAD.items() for text in texts])
def test_a_worthless_text_is_named_by_its_fault(reason, text):
    assert quality.quality_problem(text)[0] == reason


@pytest.mark.parametrize(("reason", "text"), [(reason, text) for reason, texts in FINE.items() for text in texts])
def test_its_look_alike_has_no_fault(reason, text):
    assert quality.quality_problem(text) is None, reason


@pytest.mark.parametrize(
    ("limit", "value", "text", "reason"),
    [
        ("min_words", 4, "Return the name.", "too short"),
        ("max_words", 2, "Return the name.", "too long"),
        ("max_repeated", 0.05, SENTENCE + "And then " + SENTENCE, "repetition"),
        ("min_letters", 0.99, "Return the name.", "symbols"),
    ],
)
def test_every_limit_of_quality_is_a_parameter(limit, value, text, reason):
    assert quality.quality_problem(text) is None
    done = cleaning.filter_quality(table(text, "and the"), **{limit: value})
    assert ("0", "dropped", reason) in {line[:3] for line in done.log}


def test_the_detail_of_a_fault_is_its_measure():
    assert quality.quality_problem("one two") == ("too short", "2 words")
    assert quality.quality_problem("ha " * 20) == ("repetition", "1 different words of 20")
    assert quality.quality_problem("a b c =====" + "=" * 50) == ("symbols", "3 letters of 58 characters")


SLOW = ("a" + " " * 40_000 + "b<li>`", "<a x=" * 8_000 + ">", "acgt" * 10_000, "-a" * 20_000, "\n " * 20_000)
SLOW += (":a" * 20_000 + "`", "&amp;" * 8_000, "`" + " \n" * 20_000 + "<")


@pytest.mark.slow
@pytest.mark.parametrize("text", SLOW, ids=lambda text: repr(text[:6]))
def test_a_long_text_made_to_be_slow_is_not(text):
    """Most take half a second of processor time; in quadratic time they would take minutes."""
    text, began = 4 * text, time.process_time()
    normalisation.normalise_text(text)
    quality.quality_problem(text)
    cleaning.keep_language(table(text))
    assert time.process_time() - began < 20


# --- redact -------------------------------------------------------------------------------------------------------


def test_redact_replaces_in_every_turn_and_counts_a_row_once_a_kind():
    row = {"messages": turns("I am anna@kestrel.org", "Hello anna@kestrel.org or bert@kestrel.org at 93.184.216.34")}
    done = cleaning.redact(cleaning.validate([row, {"messages": turns("Who?", "Nobody.")}]).rows)
    answer = "Hello [EMAIL] or [EMAIL] at [IP]"
    assert done.rows[0] == {"id": "row-1", "messages": turns("I am [EMAIL]", answer), "reference": answer}
    assert done.log == [("row-1", "changed", "EMAIL", ""), ("row-1", "changed", "IP", "")]
    assert done.rows[1]["messages"] == turns("Who?", "Nobody.")


def test_what_shows_only_when_its_neighbour_is_gone_is_redacted_too():
    text = "anna@kestrel.org[at]2001:4860:4860::8888áT%anna@kestrel.org[at]"
    assert cleaning.redact(table(text)).rows["text"][0].count("[IP]") == 1


@pytest.mark.parametrize("inner", [False, True])
def test_a_finder_of_ones_own_is_not_fooled_by_its_placeholders(inner):
    def find(text: str) -> list[Span]:
        words = ("ANNA", "NAME") if inner else ("ANNA", "[NAME]")
        return sorted(Span(text.index(w), text.index(w) + len(w), "NAME") for w in words if w in text)

    assert cleaning.redact(table("ANNA and [API]"), find).rows["text"][0] == "[NAME] and [API]"


# --- more rows than memory ----------------------------------------------------------------------------------------


def many(count: int, seed: int = 0) -> list[dict]:
    """Raw rows with faults: broken ones, duplicates exact and near, repeated ids, addresses, entities."""
    rng = random.Random(seed)
    vocabulary = [f"{a}{b}{c}" for a in "bdfgk" for b in ("ar", "el", "im", "on") for c in ("ta", "mo", "li")]
    rows, texts = [], []
    for i in range(count):
        kind = i % 8
        text = " ".join(rng.choices(vocabulary, k=40)) + f" &amp; mail anna{i}@kestrel.org"
        if kind == 1 and texts:
            text = rng.choice(texts)
        elif kind == 2 and texts:
            text = rng.choice(texts).replace(" ", ", ", 1)
        texts.append(text)
        row = {"id": f"id-{i % 50}" if kind == 3 else f"id-{i}", "task": str(kind), "text": text}
        rows.append({5: row | {"text": None}, 6: {"id": row["id"], "task": "6", "text": "no"}}.get(kind, row))
    return rows


def with_memory() -> list:
    plain = [cleaning.normalise, cleaning.filter_quality]
    seen, index = {}, duplicates.DuplicateIndex(0.9)
    return [
        *plain,
        partial(duplicates.drop_exact, seen=seen),
        partial(duplicates.drop_near, index=index),
        cleaning.redact,
    ]


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("shard", [1, 7, 64, 200, 1_000])
def test_a_stream_of_shards_gives_the_rows_and_counts_of_the_whole(shard, tmp_path):
    raw = many(200)
    whole = [cleaning.validate(raw)]
    for step in with_memory():
        whole.append(step(whole[-1].rows))
    found = streaming.stream(iter(raw), with_memory(), tmp_path / "new" / "clean.jsonl", shard)
    assert lines(tmp_path / "new" / "clean.jsonl") == whole[-1].rows.to_list()
    assert found == [step.line() for step in whole]
    assert [line["dropped"] > 0 for line in found] == [True, False, True, True, True, False]
    assert os.listdir(tmp_path / "new") == ["clean.jsonl"]


def test_a_stream_whose_first_shard_has_no_valid_row_goes_on(tmp_path):
    raw = [{"messages": None}, {"messages": []}, {}, {"messages": turns("Who is there?", "It is only me.")}]
    found = streaming.stream(raw, list(STEPS.values()), tmp_path / "a.jsonl", 2)
    assert [row["id"] for row in lines(tmp_path / "a.jsonl")] == ["row-4"]
    assert found[0] == {"step": "schema", "read": 4, "dropped": 3, "changed": 0, "kept": 1} | {
        "why": {"a column is missing": 2, "no messages": 1}
    }


def test_the_shape_of_a_stream_is_that_of_its_first_raw_rows(tmp_path):
    raw = [{"prompt": "What is it?", "completion": "It is this."}] * 3 + [{"messages": turns("q", "a")}]
    found = streaming.stream(raw, [], tmp_path / "a.jsonl", 2)
    assert (found[0]["kept"], found[0]["why"]) == (3, {"a column is missing": 1})


def broken_step(rows):
    if "12" in rows["task"]:
        raise OSError("No space left on device")
    return cleaning.normalise(rows)


@pytest.mark.parametrize(
    ("raw", "steps", "shard", "error"),
    [
        ([{"text": "a", "task": str(i)} for i in range(30)], [broken_step], 5, OSError),
        ([{"question": "a"}] * 3, [], 2, DataError),
        ([], [], 2, DataError),
        ([{"text": "a"}], [], 0, ParameterError),
        ((1 / 0 if i == 1_500 else {"text": "a"} for i in range(2_000)), [], 100, ZeroDivisionError),
    ],
)
def test_an_error_leaves_the_old_file_and_nothing_else(raw, steps, shard, error, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("old")
    with pytest.raises(error):
        streaming.stream(raw, steps, path, shard)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_the_memory_of_a_stream_does_not_grow_with_its_rows(tmp_path):
    def rows(count: int):
        return ({"text": f"{i} {'x' * 8_000}"} for i in range(count))

    def peak(count: int) -> int:
        tracemalloc.start()
        found = streaming.stream(rows(count), [duplicates.drop_exact], tmp_path / "a.jsonl", 100)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found[-1]["kept"] == count
        return size

    assert peak(5_000) < peak(1_500) + 3_000_000  # the 28 MB more that it read went through


# --- atomic writes ------------------------------------------------------------------------------------------------


def test_a_replaced_file_shows_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with storage.replaced(path) as file:
        file.write("ö\n")
        assert not path.exists()
    assert path.read_bytes() == "ö\n".encode()

    def half():
        with storage.replaced(path) as file:
            file.write("half")
            raise KeyError

    with pytest.raises(KeyError):
        half()
    assert path.read_bytes() == "ö\n".encode()
    assert os.listdir(path.parent) == ["a.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_stream_counts_what_a_step_adds(tmp_path):
    raw = [{"text": f"Text number {i}.", "task": "a" if i % 4 else "b"} for i in range(8)]
    found = streaming.stream(raw, [lambda rows: splits.balance(rows, "task", how="over")], tmp_path / "a.jsonl", 4)
    assert found[-1]["read"] + found[-1]["added"] == found[-1]["kept"] + found[-1]["dropped"] > 8
