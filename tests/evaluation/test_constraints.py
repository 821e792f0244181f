"""Each kind of constraint: what obeys, what does not, what is written obeys, and agreement with lm-eval's checkers."""

import json
import random
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nbhelpers.core.errors import ParameterError
from nbhelpers.core.storage import repository_root
from nbhelpers.data import chat
from nbhelpers.evaluation import constraint_kinds, constraints, generation
from nbhelpers.evaluation.constraint_kinds import HELD_OUT, KINDS, TRAINED
from nbhelpers.evaluation.constraints import Constraint
from nbhelpers.evaluation.generation import Answer

GOOD_AND_BAD = {  # kind -> arguments, answers that obey, answers that do not
    "at most words": ({"count": 3}, ["one two three", "One, two."], ["one two three four"]),
    "lowercase": ({}, ["all small, 3 words"], ["Not small", "123"]),
    "uppercase": ({}, ["ALL LARGE, 3 WORDS"], ["Not LARGE", "123"]),
    "starts with": ({"phrase": "In short:"}, ["In short: yes", "  In short:"], ["in short: yes", "Yes. In short: no"]),
    "ends with": ({"phrase": "That is all."}, ["Yes. That is all.", "that is all.\n"], ["That is all. Bye"]),
    "quoted": ({}, ['"all of it"', ' "x" '], ['"half" of it', '"', "none"]),
    "no commas": ({}, ["none here; really"], ["one, two"]),
    "bullets": ({"count": 2}, ["* a\n* b", "Look:\n- a\n- b"], ["* a", "* a\n* b\n* c", "**a**\n**b**"]),
    "json": (
        {},
        ['{"a": 1}', "[1]", '```json\n{"a": 1}\n```', '```json\n{"a": 1}'],
        ["{'a': 1}", 'Here: {"a": 1}', "```\n"],
    ),
    "title": ({}, ["<<On files>>\nIt reads."], ["<<>> nothing", "<On files>", "<<   >>"]),
    "include": ({"word": "file"}, ["It opens FILES."], ["It opens doors."]),
    "postscript": ({}, ["Yes.\nP.S. Thanks.", "yes\np. s. more"], ["Yes. PS thanks"]),
    "one sentence": (
        {},
        ["It reads.", "It reads version 1.5 of it!", "No stop at all", "Use a tool, e.g. pip.", "Dr. Smith is right."],
        ["It reads. It writes.", "...", "* read\n* write", "So do I. You do not."],
    ),
    "at least words": ({"count": 3}, ["one two three four"], ["one two"]),
    "avoid": ({"word": "file"}, ["It opens doors.", "a profiler"], ["The File.", "file"]),
    "word count": ({"word": "copper", "count": 2}, ["copper, Copper"], ["copper"]),
    "letter count": ({"letter": "e", "count": 3}, ["Eve", "x"], ["Eve eats"]),
    "numbered": ({"count": 2}, ["1. a\n2. b", "List:\n1) a\n2) b"], ["1. a", "1. a\n3. b", "1. a\n2. b\n3. c"]),
    "highlighted": ({"count": 2}, ["*a* and *b*", "**a** and **b**"], ["*a* and b", "** and **"]),
    "paragraphs": ({"count": 2}, ["a\n\nb", "a\nb\n \nc"], ["a\nb", "a\n\nb\n\nc"]),
    "placeholders": ({"count": 1}, ["Dear [name]"], ["Dear (name)"]),
    "two answers": (
        {},
        ["a\n******\nb", "a\n******\nb\n******"],
        ["a ****** a", "a", "a ****** b ****** c", "****** b", "a ****** ****** b"],
    ),
}


def test_there_are_kinds_enough_and_some_are_never_trained():
    assert GOOD_AND_BAD.keys() == KINDS.keys()
    assert len(KINDS) >= 15
    assert len(HELD_OUT) >= 5
    assert set(TRAINED).isdisjoint(HELD_OUT)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_obeys_or_does_not(kind):
    arguments, good, bad = GOOD_AND_BAD[kind]
    constraint = Constraint(kind, arguments)
    for answer in good:
        assert constraint.holds(answer), answer
    for answer in [*bad, "", " \n"]:
        assert not constraint.holds(answer), answer
    assert all(str(value) in constraint.instruction for value in arguments.values())


TEXT = st.lists(
    st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=1, max_size=9),
    min_size=4,
    max_size=25,
).map(" ".join)


@pytest.mark.parametrize("kind", TRAINED)
@given(answer=TEXT, seed=st.integers(0, 50))
@example(answer='0 0 0 ?"', seed=0)
@example(answer="0 0 0 ,0", seed=0)
@example(answer="0 0 0 3,5", seed=0)
@settings(max_examples=60)
def test_what_is_written_obeys(kind, answer, seed):
    answer = f"Returns {answer} of the file"  # as an answer has: letters and words
    constraint = constraints.draw(kind, answer, seed)
    written = constraint.write(answer)
    numbers = kind == "no commas" and re.search(r"\d,\d", answer)  # nothing else can be made of 3,5
    assert constraint.holds(written) or numbers, (constraint, written)


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_is_the_seed_s_and_can_be_stored(kind):
    answer = "Return the number of open files in this folder."
    assert constraints.draw(kind, answer, 3) == constraints.draw(kind, answer, 3)
    stored = json.loads(json.dumps(vars(constraints.draw(kind, answer, 3))))
    assert Constraint(**stored) == constraints.draw(kind, answer, 3)
    different = {json.dumps(vars(constraints.draw(kind, answer, seed))) for seed in range(40)}
    assert len(different) > 1 or not constraints.draw(kind, answer, 3).arguments


def test_loosely_an_opening_line_or_bold_letters_are_forgiven():
    upper = Constraint("uppercase")
    assert not upper.holds("Sure!\nIT READS A FILE.")
    assert upper.holds_loosely("Sure!\nIT READS A FILE.")
    assert upper.holds_loosely("IT READS A FILE.\nHope this helps")
    assert not upper.holds_loosely("It reads a file.")
    assert Constraint("starts with", {"phrase": "In short:"}).holds_loosely("**In short:** it reads")
    assert not Constraint("json").holds_loosely("nothing\nof\nthe kind")


def test_a_constrained_row_asks_for_it_and_its_answer_obeys():
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What?"},
        {"role": "assistant", "content": "Read the whole file."},
    ]
    row = {"id": "a", "task": "summary", "messages": turns, "reference": "Read the whole file."}
    made, constraint = constraints.constrained(row, "uppercase", seed=0)
    assert made["messages"][1]["content"] == "What?\n\nWrite everything in capital letters."
    assert made["messages"][2]["content"] == made["reference"] == "READ THE WHOLE FILE."
    assert constraint.holds(made["reference"])
    assert row["messages"] == turns, "the row itself is left as it was"
    made, constraint = constraints.constrained(row, "numbered", seed=0)
    assert made["reference"] == "Read the whole file."
    assert constraint.instruction in made["messages"][1]["content"]


@pytest.mark.parametrize("kind", ["uppercase", "numbered"])
def test_an_instruction_stands_where_it_was_asked_for(kind):
    turns = [{"role": "system", "content": "Be brief."}, *one("What?", "Read it all.")["messages"]]
    row = one("What?", "Read it all.") | {"messages": turns}
    asked = {where: constraints.constrained(row, kind, 0, where) for where in ("behind", "system", "later")}
    instruction = asked["system"][1].instruction
    written = "READ IT ALL." if kind == "uppercase" else "Read it all."
    contents = {where: [turn["content"] for turn in made["messages"]] for where, (made, _) in asked.items()}
    assert contents["system"] == [f"Be brief.\n\n{instruction}", "What?", written]
    assert contents["later"] == [
        "Be brief.", "What?", "Read it all.", f"Give that answer again. {instruction}", written,
    ]  # fmt: skip
    assert {made["messages"][-1]["role"] for made, _ in asked.values()} == {"assistant"}
    for made, _ in asked.values():
        chat.check_messages(made["messages"])
    with pytest.raises(ParameterError, match="where='before' is neither behind, system nor later"):
        constraints.constrained(row, kind, 0, "before")
    assert constraints.questions([row], 1, 0, (kind,), "later")[0][0] == asked["later"][0]["messages"][:-1]
    if kind == "uppercase":
        assert constraints.mixture([row], 1.0, 0, (kind,), "system") == [asked["system"][0]]


def one(question: str, answer: str) -> dict:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": question, "task": "summary", "messages": turns, "reference": answer}


ROWS = [one(f"Question {i}?", f"Read, then write, the whole file number {i} to the other folder.") for i in range(40)]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_a_mixture_asks_for_trained_kinds_in_turn_and_obeys(share):
    found = constraints.mixture(ROWS, share, seed=1)
    assert [row["id"] for row in found] == [row["id"] for row in ROWS]
    changed = [new for new, old in zip(found, ROWS, strict=True) if new["messages"] != old["messages"]]
    assert len(changed) == 40 * share
    said = [row["messages"][0]["content"].partition("\n\n")[2] for row in changed]
    assert all(said)
    assert found == constraints.mixture(ROWS, share, seed=1)
    if share == 1:
        assert found[0]["messages"][-1]["content"] != found[13]["messages"][-1]["content"]
        by_turn = [constraints.draw(constraint_kinds.TRAINED[i % 13], ROWS[i]["reference"], 1) for i in range(40)]
        assert said == [constraint.instruction for constraint in by_turn]
        assert all(c.holds(row["reference"]) for c, row in zip(by_turn, found, strict=True))
    elif share:
        assert changed != [n for n in constraints.mixture(ROWS, share, seed=2) if n not in ROWS]


def test_a_kind_that_an_answer_cannot_obey_is_passed_over_and_what_is_written_is_whole():
    rows = [one("How much?", "42"), one("How far?", "3,5 km"), one("Where?", "Paris.")]
    kinds = ("uppercase", "no commas", "bullets")
    written = [row["messages"][-1]["content"] for row in constraints.mixture(rows, 1.0, 0, kinds)]
    assert written == ["42", "* 3,5\n* km", "PARIS."]  # capitals passed over, then kind after kind in turn
    assert constraints.mixture(rows[1:2], 1.0, 0, ("no commas", "bullets")) == constraints.mixture(
        rows[1:2], 1.0, 0, ("bullets",)
    )
    assert constraints.mixture([one("How much?", "42")], 1.0, 0, ("uppercase",)) == [one("How much?", "42")]


def test_ordinary_requests_are_none_that_are_trained_on_or_probed():
    from nbhelpers.evaluation import forgetting

    rows = constraints.requests()
    asked = {row["messages"][0]["content"] for row in rows}
    assert len(asked) == len(rows) == 40
    replayed = json.loads((repository_root() / "data" / "replay.json").read_text(encoding="utf-8"))["requests"]
    assert not asked & {*replayed, *(probe.question for probe in forgetting.probes())}
    assert all(row["reference"] == row["messages"][1]["content"] for row in rows)


def test_every_kind_is_asked_as_often_and_no_answer_is_shown():
    asked = constraints.questions(ROWS, 3, seed=0)
    assert [constraint.kind for _, constraint in asked] == [kind for kind in constraint_kinds.KINDS for _ in range(3)]
    assert all(prompt[-1]["role"] == "user" and c.instruction in prompt[-1]["content"] for prompt, c in asked)
    assert len({prompt[-1]["content"] for prompt, _ in asked}) == len(asked), "no question twice"


def test_what_cannot_be_mixed_or_asked_is_refused():
    with pytest.raises(ParameterError, match=r"share=1\.5 is outside"):
        constraints.mixture(ROWS, 1.5, 0)
    with pytest.raises(ParameterError, match="2 rows are too few to ask every kind of constraint 3 times"):
        constraints.questions(ROWS[:2], 3, 0)


def test_a_model_is_measured_by_what_it_writes(monkeypatch):
    asked = [([{"role": "user", "content": "?"}], Constraint(kind)) for kind in ("uppercase", "quoted", "two answers")]
    said = [Answer("SURE!", 2, True), Answer('Here:\n"a cat"', 4, True), Answer("one", 1, False)]
    monkeypatch.setattr(generation, "generate", lambda *_, **__: said)
    found = constraints.measure(None, None, asked)
    assert (found.strict, found.loose, found.stopped) == (
        [True, False, False],
        [True, True, False],
        [True, True, False],
    )
    assert found.values(constraint_kinds.TRAINED) == [1.0, 0.0]
    assert found.values(constraint_kinds.HELD_OUT, "stopped") == [0.0]
    table = constraints.table({"tuned": found})
    assert list(table.index) == ["uppercase", "quoted", "two answers (held out)"]
    assert list(table["tuned"]) == [1, 0, 0]


def test_held_out_kinds_write_nothing_and_unknown_ones_are_named():
    with pytest.raises(ParameterError, match="numbered is held out"):
        Constraint("numbered", {"count": 2}).write("text")
    with pytest.raises(ParameterError, match="'rhymed' is not one of at most words"):
        constraints.draw("rhymed", "text", 0)


SHARED = {  # kind -> lm-eval's class and its arguments from ours
    "at most words": ("NumberOfWords", lambda count: {"num_words": count + 1, "relation": "less than"}),
    "at least words": ("NumberOfWords", lambda count: {"num_words": count, "relation": "at least"}),
    "no commas": ("CommaChecker", dict),
    "quoted": ("QuotationChecker", dict),
    "bullets": ("BulletListChecker", lambda count: {"num_bullets": count}),
    "json": ("JsonFormat", dict),
    "title": ("TitleChecker", dict),
    "ends with": ("EndChecker", lambda phrase: {"end_phrase": phrase}),
    "include": ("KeywordChecker", lambda word: {"keywords": [word]}),
    "avoid": ("ForbiddenWords", lambda word: {"forbidden_words": [word]}),
    "word count": (
        "KeywordFrequencyChecker",
        lambda word, count: {"keyword": word, "frequency": count, "relation": "at least"},
    ),
    "letter count": (
        "LetterFrequencyChecker",
        lambda letter, count: {"letter": letter, "let_frequency": count, "let_relation": "less than"},
    ),
    "highlighted": ("HighlightSectionChecker", lambda count: {"num_highlights": count}),
    "placeholders": ("PlaceholderChecker", lambda count: {"num_placeholders": count}),
    "postscript": ("PostscriptChecker", lambda: {"postscript_marker": "P.S."}),
    "two answers": ("TwoResponsesChecker", dict),
}


@pytest.mark.parametrize("kind", SHARED)
def test_shared_kinds_agree_with_lm_eval(kind, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "find", lambda *names: None)  # else it reaches for a download when it is imported
    from lm_eval.tasks.ifeval import instructions

    name, translated = SHARED[kind]
    rng, disagree = random.Random(0), []
    pieces = [
        "It reads",
        "a file",
        ",",
        "\n",
        '"',
        "*",
        "* one",
        "- two",
        "<<T>>",
        "[x]",
        "P.S.",
        "copper",
        "**bold**",
        "******",
        "```json",
        "```",
        "That is all.",
    ]
    for trial in range(400):
        answer = " ".join(rng.choices(pieces, k=rng.randint(1, 12)))
        answer = rng.choice([answer, f'"{answer}"', json.dumps({"a": answer}), f"{answer} ****** {answer} x"])
        if not answer.strip():
            continue
        constraint = constraints.draw(kind, answer, trial)
        checker = getattr(instructions, name)("")
        checker.build_description(**translated(**constraint.arguments))
        if constraint.holds(answer) != bool(checker.check_following(answer)):
            disagree.append((constraint, answer))
    assert not disagree
