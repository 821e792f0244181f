"""The probes are fair, and what is measured is what the model does."""

import calendar
from collections import Counter

import pytest
import torch

from nbhelpers.data import pydocs, sources
from nbhelpers.evaluation import forgetting
from nbhelpers.evaluation.forgetting import Probe
from nbhelpers.models import encoding

PROBES = forgetting.probes()
CHOICES = [probe for probe in PROBES if probe.wrong]


def test_there_are_enough_of_each_kind_and_no_two_alike():
    counts = Counter(probe.kind for probe in PROBES)
    assert counts["facts"] >= 50
    assert counts["arithmetic"] >= 30
    assert counts["chat"] >= 20
    assert len(forgetting._content()["prose"]) >= 12
    assert len({probe.question for probe in PROBES}) == len(PROBES)
    assert len(set(forgetting._content()["prose"])) == len(forgetting._content()["prose"])


def test_the_four_replies_of_a_question_differ():
    assert all(len({probe.reply, *probe.wrong}) == forgetting.CHOICES for probe in CHOICES)


@pytest.mark.parametrize("answers", [group["pairs"] for group in forgetting._content()["choices"]])
def test_each_answer_is_right_once_and_wrong_three_times(answers):
    right = Counter(answer for _, answer in answers)
    assert set(right.values()) == {1}
    wrong = Counter(answers[(i + k) % len(answers)][1] for i in range(len(answers)) for k in (1, 2, 3))
    assert set(wrong.values()) == {3}
    assert wrong.keys() == right.keys()


MONTHS = [month for month in calendar.month_name if month]
TRICKS = {
    "short": lambda answer: -len(answer),
    "long": len,
    "early in the alphabet": lambda answer: [-ord(letter) for letter in answer],
    "late in the alphabet": lambda answer: answer,
    "a small number": lambda answer: -int(answer) if answer.isdigit() else 0,
    "a large number": lambda answer: int(answer) if answer.isdigit() else 0,
    "early in the year": lambda answer: -MONTHS.index(answer) if answer in MONTHS else 0,
    "late in the year": lambda answer: MONTHS.index(answer) if answer in MONTHS else 0,
}


@pytest.mark.parametrize("trick", TRICKS)
def test_to_prefer_some_answers_is_as_good_as_guessing(trick):
    prefer, shares = TRICKS[trick], []
    for group in forgetting._content()["choices"]:
        answers = [answer for _, answer in group["pairs"]]
        right = 0.0
        for i, answer in enumerate(answers):
            offered = [answers[(i + k) % len(answers)] for k in range(forgetting.CHOICES)]
            best = max(map(prefer, offered))
            tied = [other for other in offered if prefer(other) == best]
            right += (answer in tied) / len(tied)
        shares.append(right / len(answers))
    assert all(0.05 < share < 0.5 for share in shares), shares
    assert sum(shares) / len(shares) == pytest.approx(0.25, abs=0.07)


def test_the_sums_are_right():
    sums = [probe for probe in PROBES if probe.kind == "arithmetic"]
    for probe in sums:
        expression, _, result = probe.reply.rstrip(".").partition(" is ")
        assert eval(expression, {"__builtins__": {}}) == int(result)


def assert_not_in(taught: str) -> None:
    assert len(taught) > 1_000_000
    assert not [probe.reply for probe in PROBES if probe.kind != "arithmetic" and probe.reply in taught]
    assert not [text for text in forgetting._content()["prose"] if text[:40] in taught]


def test_the_training_rows_do_not_teach_them():
    rows = sources.load("pydocs").train
    assert_not_in(" ".join(turn["content"] for messages in rows["messages"] for turn in messages))


@pytest.mark.slow
def test_no_docstring_that_rows_are_made_of_teaches_them():
    assert_not_in(" ".join(entry["text"] for entry in pydocs.corpus()))


def test_a_choice_is_the_reply_with_the_highest_probability(model, tokenizer, monkeypatch):
    asked = [
        Probe("facts", "Which one?", "It is the first one.", ("It is the second one.", "It is the third one.")),
        Probe("arithmetic", "What is it?", "six", ("one hundred and twenty-five thousand", "seven hundred and six")),
        Probe("chat", "Hello!", "Hello, and good morning to you."),
    ]
    monkeypatch.setattr(forgetting, "probes", lambda: asked)

    def log_probability(probe, reply):
        turns = [{"role": "user", "content": probe.question}, {"role": "assistant", "content": reply}]
        row = encoding.encode(turns, tokenizer)
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        logs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        learned = labels[1:] != encoding.IGNORE
        return logs[learned, labels[1:][learned]].sum().item(), int(learned.sum())

    found = forgetting.measure(model, tokenizer)
    for probe in asked[:2]:
        right, *wrong = (log_probability(probe, reply)[0] for reply in (probe.reply, *probe.wrong))
        assert found[probe.kind] == [float(right > max(wrong))]
    total, tokens = log_probability(asked[2], asked[2].reply)
    assert found["chat"] == pytest.approx([-total / tokens], abs=1e-4)
    assert found["arithmetic"] == [1.0], "the whole reply counts, so that the shorter one is likelier here"
    assert len(found["prose"]) == len(forgetting._content()["prose"])


def test_a_model_that_knows_nothing_is_right_one_time_in_four(smoke):
    found = forgetting.measure(*smoke)
    share = sum(found["facts"] + found["arithmetic"]) / len(found["facts"] + found["arithmetic"])
    assert 0.1 < share < 0.42


def test_change_is_paired_and_says_which_way_is_better():
    untuned = {"facts": [1.0, 0.0] * 20, "arithmetic": [1.0] * 4, "chat": [2.0, 5.0] * 9, "prose": [3.0, 4.0] * 9}
    tuned = untuned | {"facts": [0.0] * 40, "chat": [2.5, 5.5] * 9}
    moved = forgetting.change(tuned, untuned, "chat")
    assert (moved.value, moved.low, moved.high) == pytest.approx((0.5, 0.5, 0.5))
    assert not moved.higher_is_better
    assert forgetting.change(tuned, untuned, "facts").value == -0.5
    named = forgetting.estimates(tuned, untuned)
    assert named["forgetting.facts"].baseline == 0.5
    assert named["forgetting.prose"].unit == "nats a token"
    table = forgetting.table({"untuned": untuned, "tuned": tuned})
    assert table.loc["chat (nats a token)", "untuned"] == "3.50"
    assert table.loc["chat (nats a token)", "tuned"] == "4.00 (+0.50 [+0.50, +0.50])"
