"""Copies among conversations: what many rows share as context makes none; case and indentation count in code."""

import inspect
import random
import textwrap

import pytest
from datasets import Dataset

from nbhelpers.data import cleaning, contamination, conversations, duplicates, splits

SYSTEM = "You are a careful assistant who answers every question of the customer in one short polite sentence."
PASSAGE = " ".join(f"In the year {1800 + i} the town of Abo{i} built its bridge number {i * 7}." for i in range(30))


def chat(question: str, answer: str, system: str = "") -> list[dict]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [{"role": "system", "content": system}, *turns] if system else turns


def rows(conversations: list[list[dict]], name: str = "row") -> Dataset:
    return Dataset.from_list([{"id": f"{name}-{i}", "messages": turns} for i, turns in enumerate(conversations)])


NOTICE = (
    "This is general information and no medical advice. Ask your doctor or pharmacist before you take or stop a "
    "medicine, and call the emergency number of your country at once if you feel very unwell or are in doubt."
)
HEADER = (
    "# Part of the exercises of the course\nimport collections\nimport math\nimport os\nimport random\nimport re\n" * 2
)


SHARED = {
    "a system prompt": [chat(f"What is boat number {i} called?", f"It is the swan {i}.", SYSTEM) for i in range(40)],
    "a passage": [chat(f"{PASSAGE}\n\nWhen was bridge {i} built?", f"In {1800 + i}.") for i in range(40)],
    "a passage after the question": [chat(f"Who built bridge {i}?\n\n{PASSAGE}", f"Abo{i}.") for i in range(40)],
    "one answer": [chat(f"{PASSAGE}\n\nHas the town Abo{i} a bridge?", "Yes.") for i in range(30)],
    "a notice under each answer": [
        chat(f"May I take medicine {i} with milk?", f"Number {i} goes well with {i * 3} cups. {NOTICE}")
        for i in range(30)
    ],
    "a header of each answer": [
        chat(f"Write exercise {i}.", f"{HEADER}\n\ndef exercise_{i}(x):\n    return x + {i * 7}\n") for i in range(30)
    ],
    "an instruction": [chat(f"{SYSTEM} {SYSTEM}\n\nboat {i} swan", "A short polite sentence.") for i in range(40)],
}


@pytest.mark.parametrize("what", SHARED)
def test_rows_that_share_a_context_and_ask_different_things_are_no_copies_and_no_leak(what):
    data = rows(SHARED[what])
    assert duplicates.drop_exact(data).dropped == duplicates.drop_near(data).dropped == {}
    train, test = splits.split(data, test_share=0.2)
    assert contamination.decontaminate(train, test).dropped == {}
    assert splits.prove_disjoint(train, test)["leaked"] == 0


@pytest.mark.parametrize("what", SHARED)
def test_a_real_copy_among_them_is_still_found(what):
    first = SHARED[what][3]
    question = first[-2]["content"]
    typed = question.replace("bridge", "brigde") if what == "a passage" else question.upper()
    asked_again = [*first[:-2], {"role": "user", "content": typed}, first[-1]]
    data = rows([*SHARED[what], asked_again])
    once = duplicates.drop_exact(data)
    copies = once.log + duplicates.drop_near(once.rows, 0.9).log
    if "passage" in what or what == "one answer":  # the others are shorter than near-duplicates may be
        assert [(name, detail.split()[0]) for name, _, _, detail in copies] == [("row-" + str(len(data) - 1), "row-3")]
    leaked = contamination.decontaminate(rows([asked_again], "new"), rows(SHARED[what]))
    assert [name for name, *_ in leaked.log] == ["new-0"]


QUESTION = "A train leaves Paris at eight and travels at ninety kilometres an hour towards Lyon. When does it arrive?"


@pytest.mark.parametrize(
    "messages",
    [
        chat(f"Solve this problem.\n\n{QUESTION}", "At one."),
        chat(f"{QUESTION}\n\nThink step by step.", "At one."),
        chat(QUESTION, "At one.", SYSTEM),
        chat(QUESTION, "At one.") + chat("Thanks.", "Welcome."),
        chat(f"Here is a task: {QUESTION}", "Thirteen."),
    ],
)
def test_a_held_out_question_with_more_around_it_is_a_leak(messages):
    train, test = rows([messages]), rows([chat(QUESTION, "At one o'clock.")], "test")
    assert len(contamination.decontaminate(train, test).rows) == 0
    assert bool(splits.leaks(train, test)) == (messages[0]["role"] == "system")  # the proof compares whole questions


@pytest.mark.parametrize(
    "joined", ["{passage}\n{question}", "{passage} {question}", "Q: {question}\nContext: {passage}"]
)
def test_a_passage_with_several_questions_is_no_leak_however_it_is_joined(joined):
    data = [chat(joined.format(passage=PASSAGE, question=f"When was bridge {i} of the north built?"), f"In {i}.")
            for i in range(12)]  # fmt: skip
    assert len(duplicates.drop_near(rows(data)).rows) == 12
    assert len(contamination.decontaminate(rows(data[4:]), rows(data[:4], "test")).rows) == 8


def test_word_problems_that_differ_in_a_number_are_no_copies():
    story = (
        "A farmer keeps {} hens in a large barn behind the old mill. Each hen lays two eggs a day, summer and winter. "
    )
    story += "He sells all of them on Sunday. How many eggs are that in a week?"
    data = [chat(story.format(hens), f"{14 * hens} eggs.") for hens in (12, 15, 31, 48, 77)]
    assert len(duplicates.drop_near(rows(data)).rows) == 5


def test_a_held_out_question_inside_a_longer_one_and_a_held_out_answer_are_leaks():
    long = "the quick brown fox jumps over the lazy dog while nobody in the garden looks at it"
    held_out = rows(
        [chat(f"Is it true that {long}?", "It is."), chat("Tell a tale.", f"Once {long}, and so on.")], "test"
    )
    train = rows([chat(f"They ask: is it true that {long}? Say it.", "Yes."), chat("What then?", f"So {long}."),
                  chat("Tell another tale.", "No.")])  # fmt: skip
    assert [name for name, *_ in contamination.decontaminate(train, held_out).log] == ["row-0", "row-1"]


CODE = "def total(values):\n    out = 0\n    for value in values:\n        out += value\n    return out"


@pytest.mark.parametrize(
    "other",
    [
        CODE.replace("    return", "        return"),  # another function: it returns in the loop
        CODE.replace("+=", "-="),
        CODE.replace("total", "Total"),
        CODE.replace("out = 0", "out = 1"),
        CODE.replace("value in values", "values in value"),
    ],
)
def test_code_that_differs_in_a_sign_in_case_or_in_indentation_is_another_answer(other):
    data = rows([chat("Write a function.", CODE), chat("Write a function.", other)])
    assert duplicates.drop_exact(data).dropped == {}
    assert len(duplicates.drop_near(data, index=duplicates.DuplicateIndex(0.8, min_words=5)).rows) == 2


def functions() -> list[list[dict]]:
    """Questions and answers whose answers are functions of the standard library, each with twins as in exercises."""
    out = []
    for name, function in inspect.getmembers(textwrap, inspect.isfunction) + inspect.getmembers(
        random, inspect.isroutine
    ):
        try:
            source = textwrap.dedent(inspect.getsource(function))
        except (OSError, TypeError):
            continue
        out.append(chat(f"Write the function {name}.", source))
        out.append(chat(f"Write {name} with two blanks instead of four.", source.replace("    ", "  ")))
    return out


def statements() -> list[list[dict]]:
    """Tables whose columns are drawn from the same few, each with a statement that holds it."""
    columns = [
        "id INTEGER PRIMARY KEY", "name TEXT NOT NULL", "price REAL", "made TIMESTAMP DEFAULT CURRENT_TIMESTAMP",
        "owner_id INTEGER REFERENCES owners(id)",
    ]  # fmt: skip
    out, draw = [], random.Random(0)
    for name in (f"town_{i}" for i in range(16)):
        table = f"CREATE TABLE {name} ({', '.join(draw.sample(columns, 4))});"
        out.append(chat(f"Write the table of {name}.", table))
        log = f"CREATE TABLE {name}_log ({', '.join(draw.sample(columns, 3))});"
        out.append(chat(f"Write the table of {name} and its log in one line.", f"{log} {table}"))
    return out


HTML = [
    "Use <b>word</b>, for example:\n<p>This is <b>bold</b>.</p>",
    "<ul>\n  <li>One</li>\n  <li>Two</li>\n</ul>",
    "Write &lt; instead of <.",
    '<script>alert("hi")</script> shows a box; `<br>` breaks a line.',
    "<!-- a comment --> is not shown.",
    ":ref:`target` is a reference of reStructuredText, |name| a substitution.",
]


MARKUP = [chat(f"How is it written, number {i}?", text) for i, text in enumerate(HTML)]


@pytest.mark.parametrize("asked", [functions(), statements(), MARKUP], ids=["functions", "statements", "markup"])
def test_a_set_whose_answers_are_code_comes_through_cleaning_as_it_is(asked):
    assert len(asked) >= 6
    steps = [cleaning.validate([{"messages": turns} for turns in asked])]
    for step in (cleaning.normalise, cleaning.keep_language, cleaning.filter_quality):
        steps.append(step(steps[-1].rows))
    steps += [duplicates.drop_exact(steps[-1].rows)]
    steps += [duplicates.drop_near(steps[-1].rows), cleaning.redact(steps[-1].rows)]
    assert cleaning.account(steps)["dropped"].sum() == 0, cleaning.account(steps)[["step", "reasons"]].to_string()
    for before, after in zip(asked, steps[-1].rows["messages"][:], strict=True):
        plain = [line.rstrip() for line in before[-1]["content"].strip("\n").splitlines()]
        assert after[-1]["content"].splitlines() == plain
    for seed in range(5):
        train, test = splits.split(steps[-1].rows, test_share=0.2, seed=seed)
        lost = contamination.decontaminate(train, test).dropped
        assert lost == {}, lost
        splits.prove_disjoint(train, test)


LONG = "Write a function that wraps one paragraph of text, so that each line is at most of a given width. " * 8


@pytest.mark.parametrize("asked", ["Write fill.", LONG])
def test_a_program_leaks_by_half_of_its_runs(asked):
    source, other = inspect.getsource(random.Random.shuffle), inspect.getsource(random.Random.sample)
    part = "\n".join([*other.splitlines()[-12:], *source.splitlines()[-3:]])
    shared = len(set(contamination.runs(part)) & set(contamination.runs(source)))
    assert 0 < shared < len(contamination.runs(source)) / 2
    held_out = rows([chat(asked, source)], "test")
    told = [chat("Do both.", f"{source}\n{other}"), chat("Do it.", source), chat("Write.", part), chat("Go.", other)]
    assert [name for name, *_ in contamination.decontaminate(rows(told), held_out).log] == ["row-0", "row-1"]


def test_layout_makes_no_program_of_prose_and_plain_text_none_at_all():
    words = [f"word{i}" for i in range(80)]
    copied = " ".join(words[:40])
    one, two = (f"Steps:\n{copied}.\n* First\n  * {' '.join(words[i : i + 20])}." for i in (40, 60))
    assert contamination.decontaminate(rows([chat("How?", one)]), rows([chat("And so?", two)], "test")).dropped
    source = inspect.getsource(random.Random.shuffle)
    text = Dataset.from_list([{"id": "t", "text": source}])
    assert contamination.decontaminate(rows([chat("Write.", source)]), text).dropped


@pytest.mark.parametrize(
    "answer",
    [
        "<table>\n" + "".join(f"  <tr><td>{i}</td><td>{i * i}</td></tr>\n" for i in range(12)) + "</table>",
        "".join(f"INSERT INTO towns (id, name, bridge) VALUES ({i}, 'Abo', {i * 7});\n" for i in range(12)),
        "# Copyright (c) 2020 Bob. All rights reserved.\n# Licensed under the MIT License.\ndef f():\n    return 1",
        "<footer>\n  <p>© 2020. All rights reserved.</p>\n</footer>",
    ],
)
def test_code_that_repeats_itself_or_begins_with_a_notice_is_kept_where_it_is_the_answer(answer):
    assert len(cleaning.filter_quality(rows([chat("Write it.", answer)])).rows) == 1
    assert cleaning.filter_quality(rows([chat("Go on.", "click here to sign up now " * 9)])).dropped


def test_code_with_words_of_another_language_or_of_none_is_kept_where_it_is_the_answer():
    filler = "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore."
    page = f'<div class="card">\n  <p>{filler}</p>\n  <p>{filler}</p>\n</div>'
    copy = "strcpy(dst, src);\nstrncpy(a, b, n);\nif (strcmp(a, b) == 0) {\n    len = strlen(a);\n}\nmemcpy(p, q, n);"
    given = rows([chat("Bootstrap card", page), chat("Copy it in C.", copy)])
    assert len(cleaning.filter_quality(cleaning.keep_language(given).rows).rows) == 2
    german = "Wie schreibt man in dieser Sprache eine Schleife, die jede Zeile einer Datei liest und ausgibt?"
    prose = rows([chat("Bootstrap card", filler * 3), chat(german, copy)])
    assert cleaning.keep_language(prose).dropped == {"language": 2}


def test_markup_goes_from_plain_text_and_from_answers_only_where_that_is_asked_for():
    text = "<p>Read the <b>manual</b> first.</p>"
    plain = "Read the manual first."
    assert cleaning.normalise(cleaning.validate([{"text": text}]).rows).rows["text"][:] == [plain]
    messages = cleaning.validate([{"messages": chat("What first?", text)}]).rows
    assert conversations.answer(cleaning.normalise(messages).rows["messages"][0]) == text
    assert conversations.answer(cleaning.normalise(messages, strip_markup=True).rows["messages"][0]) == plain


def test_a_translation_stays_and_a_conversation_in_another_language_goes():
    english = "How would you say in French that the meeting was moved to Thursday because of the strike?"
    french = "La réunion a été déplacée à jeudi en raison de la grève, et tout le monde a été prévenu par courrier."
    ask_in_french = "Pourquoi la réunion a-t-elle été déplacée à jeudi, et qui a été prévenu par courrier hier soir ?"
    data = cleaning.validate([{"messages": chat(english, french)}, {"messages": chat(ask_in_french, french)}]).rows
    assert [name for name, *_ in cleaning.keep_language(data).log] == ["row-2"]
    assert len(cleaning.keep_language(data, "fr").rows) == 2
