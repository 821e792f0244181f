"""Columns under any of their usual names, and a report in which none is missing."""

import random
import string

import pytest

from nbhelpers.core.errors import DataError
from nbhelpers.data import chat, cleaning, column_names, conversion, schemas, sources


def renamed(rows, told=""):
    return column_names.mapping(rows, told).rename(rows)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"question", "answer"}, {"prompt", "completion"}),
        ({"instruction", "response", "id"}, {"prompt", "completion", "id"}),
        ({"input", "target"}, {"prompt", "completion"}),
        ({"document", "label"}, {"text", "label"}),
        ({"Prompt ", "RESPONSE", "source"}, {"prompt", "completion", "source"}),
        ({"question", "Context", "answer"}, {"prompt", "context", "completion"}),
        ({"system_prompt", "question", "response"}, {"system", "prompt", "completion"}),
        ({"system", "question", "chosen", "rejected"}, {"system", "prompt", "chosen", "rejected"}),
        ({"dialogue", "topic"}, {"messages", "topic"}),
        ({"text", "question", "answer"}, {"text", "prompt", "completion"}),
        ({"instruction", "input", "response"}, {"prompt", "input", "completion"}),
        ({"instruction", "input", "output"}, {"instruction", "input", "output"}),  # Alpaca, known as it is
        ({"question", "input", "answer"}, {"prompt", "input", "completion"}),  # the input belongs to the question
        ({"headline", "body"}, {"headline", "body"}),
    ],
)
def test_usual_column_names_are_known_where_they_make_one_whole_shape(theirs, ours):
    assert set(renamed([dict.fromkeys(theirs, "x")])[0]) == ours


def test_columns_are_renamed_as_told_and_the_rest_stays():
    rows = [{"headline": "h", "body": "b", "year": "1"}]
    assert renamed(rows, "headline=prompt, body = completion") == [{"prompt": "h", "completion": "b", "year": "1"}]


@pytest.mark.parametrize("columns", ["headline", "title=prompt", "headline=prompt=x", "=prompt", ","])
def test_columns_that_cannot_be_read_or_are_not_there_are_refused_with_those_that_are(columns):
    with pytest.raises(DataError, match="body, headline"):
        renamed([{"headline": "h", "body": "b"}], columns)


@pytest.mark.parametrize("columns", ["label=text", "label=new, text=new", "label=text, text=text"])
def test_two_columns_of_one_name_are_refused_and_both_are_named(columns):
    with pytest.raises(DataError, match=r"columns 'text' and 'label' would both be called '(text|new)'"):
        renamed([{"text": "t", "label": "l"}], columns)
    if columns == "label=text":
        with pytest.raises(DataError, match="'label' and 'text' would both"):  # also where only a later row has both
            renamed([{"label": "l"}, {"label": "l", "text": "t"}], columns)


def test_two_columns_can_change_their_names_about():
    assert renamed([{"text": "t", "label": "l"}], "label=text, text=label") == [{"label": "t", "text": "l"}]


def test_a_usual_name_never_takes_the_place_of_a_column_that_is_there_and_that_is_said():
    rows = [{"question": "q", "prompt": "p", "answer": "a"}]
    assert renamed(rows) == [{"question": "q", "prompt": "p", "completion": "a"}]
    assert column_names.mapping(rows).describe(rows) == "question: prompt; answer: answer; not used: question (1 rows)"


DOLLY = {"instruction": "Who was born in Abo?", "context": "Lo was born in Abo.", "response": "Lo", "category": "qa"}
ASK = {"role": "user", "content": "Why?"}
ANSWER = {"role": "assistant", "content": "So."}


@pytest.mark.parametrize(
    ("row", "question", "answer", "unused"),
    [
        (DOLLY, "Who was born in Abo?\n\nLo was born in Abo.", "Lo", {"category"}),
        ({"question": "Which?", "choices": ["Red", "Blue"], "answer": 1}, "Which?\n\nA. Red\nB. Blue", "B", set()),
        ({"question": "Which?", "choices": {"text": ["Red", "Blue"], "label": ["1", "2"]}, "answerKey": "2"},
         "Which?\n\n1. Red\n2. Blue", "2", set()),
        ({"question": "Which?", "options": {"A": "Red", "B": "Blue"}, "answer": "A"},
         "Which?\n\nA. Red\nB. Blue", "A", set()),
        ({"question": "Sum up.", "documents": ["One.", "Two."], "answer": "Both."}, "Sum up.\n\nOne.\n\nTwo.", "Both.",
         set()),
        ({"prompt": "Read: Lo the painter was born in Abo. Who?", "context": "Lo the painter was born in Abo.",
          "completion": "Lo"}, "Read: Lo the painter was born in Abo. Who?", "Lo", set()),  # it says so already
        ({"instruction": "Do.", "input": "x", "output": "y", "text": "Do. x y"}, "Do.\n\nx", "y", {"text"}),
        ({"messages": [ASK | {"name": "Ann"}, ANSWER], "context": "c"}, "Why?", "So.", {"context", "messages[].name"}),
        ({"messages": "[{'role': 'user', 'content': 'Why?'}, {'role': 'assistant', 'content': 'So.'}]"}, "Why?", "So.",
         set()),
        ({"conversations": [{"from": "Human", "value": "Why?"}, {"from": "GPT", "value": "So."}]}, "Why?", "So.",
         set()),
        ({"messages": [{"role": "User ", "content": [{"type": "text", "text": "Why"}, {"type": "text", "text": "?"}]},
                       {"role": "model", "content": "So."}]}, "Why?", "So.", set()),
        ({"question": "Which?", "choices": {"text": ["Red", "Blue"], "label": ["1", "2"]}, "answer": 1},
         "Which?\n\n1. Red\n2. Blue", "1", set()),  # a label goes before a place
        ({"question": "Which?", "choices": "['Red', 'Blue']", "answer": "1"}, "Which?\n\nA. Red\nB. Blue", "B", set()),
        ({"question": "Which?", "choices": [{"label": "x", "text": "Red"}, {"label": "y", "text": "Blue"}],
          "answer": "y"},
         "Which?\n\nx. Red\ny. Blue", "y", set()),
        ({"question": "Which?", "A": "Red", "B": "Blue", "answer": "A"}, "Which?\n\nA. Red\nB. Blue", "A", set()),
        ({"question": "Who?", "context": "Lo was born in Abo.",
          "answers": {"text": ["Lo", "Lo S."], "answer_start": [0, 0]}},
         "Who?\n\nLo was born in Abo.", "Lo", {"answers.text[1:]", "answers.answer_start"}),
        ({"instruction": "How?", "output": ["Step one.", "Step two."]}, "How?", "Step one.", {"output[1:]"}),
        ({"question": "Who?", "answers": ["Lo", "Lo"]}, "Who?", "Lo", set()),
        ({"question": "Which?", "choices": "['Paris 0' 'Rome'\n 'Oslo']", "answer": "1"},
         "Which?\n\nA. Paris 0\nB. Rome\nC. Oslo", "B", set()),  # as numpy prints it
        ({"question": "Which?", "options": {"A": "Red", "B": "Blue", "E": None}, "answer": "B"},
         "Which?\n\nA. Red\nB. Blue", "B", set()),
        ({"question": "Which?", "choices": '{"A": "Red", "B": "Blue"}', "answer": 1}, "Which?\n\nA. Red\nB. Blue", "B",
         set()),
        ({"question": "Which?", "choices": ["Red", "Blue"], "answer": 1.0}, "Which?\n\nA. Red\nB. Blue", "B", set()),
        ({"question": "Who?", "context": {"name": "Bob", "age": 5}, "answer": "Bob"},
         "Who?\n\nname: Bob\n\nage: 5", "Bob", set()),
        ({"instruction": "As CSV.", "input": {"name": "Ann", "age": None}, "output": "Ann,"}, "As CSV.\n\nname: Ann",
         "Ann,", set()),
        ({"instruction": "As CSV.", "input": [{"name": "Ann", "home": {"town": "Abo", "no": 7}}], "output": "Ann"},
         "As CSV.\n\nname: Ann\n\ntown: Abo\n\nno: 7", "Ann", set()),
        ({"question": "Who?", "context": {"text": "A passage.", "title": None}, "answer": "Lo"},
         "Who?\n\nA passage.", "Lo", set()),
        ({"question": "Which?", "choices": {"label": ["x", "y"], "text": ["Red", "Be"], "why": ["a", "b"]},
          "answer": "y"},
         "Which?\n\nx. Red\ny. Be", "y", {"choices[].why"}),
        ({"question": "Which?", "choices": [{"label": "x", "text": "Red", "why": "So."}, {"label": "y", "text": "Be"}],
          "answer": "y"},
         "Which?\n\nx. Red\ny. Be", "y", {"choices[].why"}),
        ({"messages": {"role": ["user", "assistant"], "content": ["Why?", "So."], "name": ["Ann", None]}}, "Why?",
         "So.", {"messages[].name"}),
        ({"messages": [ASK | {"content": [{"type": "text", "text": "Why?", "title": "t"}]}, ANSWER]}, "Why?", "So.",
         {"messages[].content[].title"}),
        ({"messages": r"[{'role': 'user', 'content': '{} {} \\frac{1} {2}'}, {'role': 'assistant', 'content': 'So.'}]"},
         r"{} {} \frac{1} {2}", "So.", set()),
        ({"question": "Who?", "context": {"title": ["Abo"], "sentences": [["Lo was born.", "He died."]]},
          "answer": "Lo"},
         "Who?\n\nAbo\n\nLo was born.\n\nHe died.", "Lo", set()),
        ({"instruction": "Sum.", "input": "<noinput>", "output": 42}, "Sum.", "42", set()),
        ({"user": "u7", "input": "Sum up.", "output": "ok", "source": "web"}, "Sum up.", "ok", {"user", "source"}),
        ({"prompt": '[{"from": "Paris", "to": "Rome"}]', "completion": "A trip."}, '[{"from": "Paris", "to": "Rome"}]',
         "A trip.", set()),
        ({"system": "Be brief.", "messages": [ASK | {"content": "Why?"}, ANSWER]}, None, "So.", set()),
        ({"messages": [{"Role": "<|user|>", "Content": "Why?"}, {"Role": "Assistant:", "Content": ["So", "."]}]},
         "Why?", "So.", set()),
        ({"messages": {"role": ["user", "assistant"], "content": ["Why?", "So."]}}, "Why?", "So.", set()),
        ({"messages": "[{'role': 'user', 'content': 'Why?'}\n {'role': 'assistant', 'content': 'So.'}]"}, "Why?", "So.",
         set()),
        ({"messages": [ASK | {"speaker": "Bob"}, ANSWER | {"text": "OTHER"}]}, "Why?", "So.",
         {"messages[].speaker", "messages[].text"}),
        ({"messages": [{"role": "", "from": "human", "content": "", "value": "Why?"}, ANSWER]}, "Why?", "So.", set()),
        ({"prompt": "List pairs.", "completion": "[[1, 2], [3, 4]]"}, "List pairs.", "[[1, 2], [3, 4]]", set()),
        ({"prompt": [ASK], "completion": "So."}, "Why?", "So.", set()),
    ],
)  # fmt: skip
def test_what_belongs_to_the_question_is_in_it_and_what_is_left_is_named(row, question, answer, unused):
    mapping = column_names.mapping([row])
    (plain,) = mapping.rename([row])
    turns = schemas.to_messages(plain, mapping.shape)
    said = [turn["content"] for turn in turns if turn["role"] != "system"]
    assert said == [question or "Why?", answer]
    table = mapping.table([row])
    assert {column for column, (becomes, _) in table.items() if becomes == "not used"} == unused
    assert table.keys() >= row.keys()


@pytest.mark.parametrize("system", ["", " ", None, []])
def test_an_empty_system_turn_is_left_out(system):
    turns = [{"role": "system", "content": system}, ASK, ANSWER]
    assert schemas.to_messages({"messages": turns}, "messages") == [ASK, ANSWER]
    assert schemas.to_messages({"messages": turns[1:], "system": system}, "messages") == [ASK, ANSWER]


def test_the_first_row_that_has_a_shape_decides_and_the_report_says_the_same():
    turns = [ASK, ANSWER]
    rows = [{"text": "plain"}, {"text": "t", "messages": turns}]
    mapping = column_names.mapping(rows)
    assert mapping.shape == "text"
    assert mapping.describe(rows, None) == "text: text; not used: messages (1 rows)"
    empty = [{"instruction": "q", "output": "a", "messages": None, "conversations": []}] * 3
    assert column_names.mapping(empty).shape == "alpaca"
    assert len(cleaning.validate(empty).rows) == 3


def test_what_is_told_goes_before_what_is_known():
    rows = [{"messages": [ASK, ANSWER], "headline": "h", "body": "b"}]
    mapping = column_names.mapping(rows, "headline=prompt, body=completion")
    (plain,) = mapping.rename(rows)
    assert [turn["content"] for turn in schemas.to_messages(plain, mapping.shape)] == ["h", "b"]
    assert "not used: messages" in mapping.describe(rows)


@pytest.mark.parametrize("written", [str, lambda json_text: json_text.replace('"', "'")], ids=["JSON", "Python"])
def test_a_key_that_comes_twice_inside_a_cell_is_refused(written):
    cell = '[{"role": "user", "content": "one", "content": "two"}, {"role": "assistant", "content": "a"}]'
    with pytest.raises(DataError, match=r"the key .*content.* twice"):
        schemas.to_messages({"messages": written(cell)}, "messages")


def test_a_role_that_is_not_known_is_named_in_a_cell_of_text_too():
    cell = '[{"role": "narrator", "content": "Once."}, {"role": "assistant", "content": "So."}]'
    with pytest.raises(DataError, match=r"turn 0 is .*narrator"):
        schemas.to_messages({"messages": cell}, "messages")


def test_a_question_whose_text_is_read_as_turns_is_told_apart():
    row = {"prompt": '[{"role": "user", "content": "Why?"}]', "completion": "So."}
    assert column_names.mapping([row]).describe([row]) == "question, its text read as turns: prompt; answer: completion"


@pytest.mark.parametrize("labels", [["A", "B"], ["A", "A", "B"], [1, "1", 2]])
def test_choices_that_do_not_fit_their_labels_are_refused_and_none_is_lost(labels):
    row = {"prompt": "Which?", "choices": {"text": ["a", "b", "c"], "label": labels}, "completion": "A"}
    with pytest.raises(DataError, match=f"{len(labels)} labels for 3 texts, or a label twice; give each its own"):
        schemas.to_messages(row, "prompt/completion")


def test_a_number_that_is_none_is_kept_as_missing_so_that_the_set_can_be_written():
    raw = [{"prompt": f"q{score}", "completion": "a", "score": score} for score in (float("nan"), 0.5)]
    rows = cleaning.validate(raw).rows
    assert rows["score"][:] == [None, 0.5]


def test_a_column_that_a_conversion_overwrites_is_counted():
    row = {"messages": [ASK, ANSWER], "input": "SECRET", "prompt": "OTHER"}
    assert conversion.convert([row], "alpaca").left_out == {"input": 1, "prompt": 1}
    assert conversion.convert([row], "prompt/completion").left_out == {"input": 1, "prompt": 1}


def random_row(rng: random.Random) -> dict:
    """A row of one of many layouts, in which every text is a word of its own."""

    def word() -> str:
        return "".join(rng.choices(string.ascii_lowercase, k=24))

    question = rng.choice(["prompt", "Question", "instruction", "query"])
    row = {question: word(), rng.choice(["completion", "answer", " Response"]): word()}
    if rng.random() < 0.3:
        turns = [{"role": "user", "content": word()}, {"role": "assistant", "content": word()}]
        turns = [turn | ({rng.choice(["name", "time"]): word()} if rng.random() < 0.5 else {}) for turn in turns]
        row = {rng.choice(["messages", "conversation"]): turns}
    for name in ("Context", "input", "system_prompt", "choices", "category", "notes", "text", "history", "tags"):
        if rng.random() < 0.35:
            lists = {"choices": [word(), word()], "history": [[word(), word()]], "tags": [word()]}
            row[name] = lists.get(name) or word()
    return row


def words_of(value) -> set[str]:
    if isinstance(value, str):
        return {value}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*map(words_of, parts))


@pytest.mark.parametrize("seed", range(10))
def test_nothing_that_a_row_holds_disappears_without_a_line_that_says_so(seed):
    rng = random.Random(seed)
    for _ in range(100):
        check_that_nothing_disappears(random_row(rng))


def check_that_nothing_disappears(row: dict) -> None:
    mapping = column_names.mapping([row])
    (plain,) = mapping.rename([row])
    turns = " ".join(turn["content"] for turn in schemas.to_messages(plain, mapping.shape))
    unused = {column for column, (becomes, _) in mapping.table([row]).items() if becomes == "not used"}
    for column, value in row.items():
        for word in words_of(value) - {"user", "assistant"}:
            keys = {f"{column}[].{key}" for key in ("name", "time")}
            assert word in turns or column in unused or unused & keys, f"{word} of {column} is in {turns}"
    cleaned = cleaning.validate([plain]).rows[0]  # notebook 01 keeps texts beside the turns
    unused = {column for column, (becomes, _) in mapping.table([row], None).items() if becomes == "not used"}
    for column, value in row.items():
        if isinstance(value, str) and column not in unused:
            assert value in str(cleaned)
    converted = conversion.convert([plain], "messages")
    assert all(
        word in str(converted.rows) or name in converted.left_out or "[]." in str(unused)
        for name, value in plain.items() for word in words_of(value) - {"user", "assistant"}
    )  # fmt: skip


def test_a_source_says_what_became_of_its_columns_and_how_many_turns_there_are(tmp_path):
    import json

    rows = [DOLLY | {"instruction": f"Who was born in {year}?"} for year in range(10)]
    (tmp_path / "dolly.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = str(sources.load(str(tmp_path / "dolly.jsonl")))
    assert "turns: 10 user, 10 assistant" in said
    assert said.endswith("columns: question: instruction + context; answer: response; not used: category (10 rows)")
    assert all(chat.is_missing(value) for value in (None, float("nan"), "", "\u200b", [], {}))


def test_an_answer_counted_from_one_is_refused_and_its_remedy_works():
    row = {"question": "Which?", "choices": ["Red", "Blue"], "answer": 2}
    with pytest.raises(DataError, match=r"choice 2 of 2, counted from 0; .* write the label \(A, B\)"):
        schemas.to_messages(renamed([row])[0], "prompt/completion")
    turns = schemas.to_messages(renamed([row | {"answer": "B"}])[0], "prompt/completion")
    assert turns[-1]["content"] == "B"
