import pytest

from nbhelpers.core.errors import DataError
from nbhelpers.evaluation import constraints, preference_task
from nbhelpers.evaluation.constraint_kinds import HELD_OUT, TRAINED
from nbhelpers.evaluation.constraints import Constraint
from nbhelpers.evaluation.preference_task import Sample

LOWER = Constraint("lowercase")
ASKED = [([{"role": "user", "content": f"Say {word}. Use lower case."}], LOWER) for word in ("yes", "no", "so")]


def drawn(*texts: str) -> list[Sample]:
    """An answer that ends with `|` was cut."""
    answers = [(text.rstrip("|"), not text.endswith("|")) for text in texts]
    return [Sample(text, [5], ended, preference_task.score(LOWER, text, ended)) for text, ended in answers]


def test_no_request_and_no_new_kind_is_in_two_splits():
    requests = constraints.requests()
    asked = {
        split: preference_task.questions(split, len(requests[part]), 0)
        for split, part in preference_task.SPLITS.items()
    }
    read = {
        split: {
            row["id"] for row in requests if any(row["messages"][0]["content"] in p[0]["content"] for p, _ in those)
        }
        for split, those in asked.items()
    }
    assert sum(map(len, read.values())) == len(requests) == len(set.union(*read.values()))
    assert {constraint.kind for _, constraint in asked["train"]} == set(preference_task.KINDS)
    assert set(preference_task.KINDS) | set(preference_task.NEW_KINDS) == set(TRAINED + HELD_OUT)
    assert not set(preference_task.KINDS) & set(preference_task.NEW_KINDS)
    assert not set(TRAINED) & set(preference_task.NEW_KINDS)


def test_an_answer_counts_where_it_obeys_and_was_ended():
    assert [answer.score for answer in drawn("yes", "Yes", "yes|", " |")] == [1, 0, 0, 0]


def test_pairs_set_right_answers_against_wrong_ones_and_know_which_ended():
    samples = [drawn("yes", "Yes", "yes|"), drawn("no", "no"), drawn("So", "SO|")]
    found = preference_task.pairs(ASKED, samples, most=5)
    assert [(p["chosen"], p["rejected"], p["both_ended"]) for p in found] == [("yes", "Yes", True)]
    samples[2] = drawn("so it is", "SO|", "sO|")
    found = preference_task.pairs(ASKED, samples, most=1)
    assert [(p["chosen"], p["rejected_ended"]) for p in found] == [("yes", True), ("so it is", False)]
    assert found[0]["group"] != found[1]["group"]


def test_nothing_to_prefer_is_one_clear_error():
    with pytest.raises(DataError, match=r"mean score 0\.50.*Draw more samples"):
        preference_task.pairs(ASKED[:2], [drawn("yes", "yes"), drawn("No", "NO")])


def test_accepted_answers_are_rows_to_train_on():
    rows = preference_task.accepted(ASKED, [drawn("yes", "yes", "Yes"), drawn("No"), drawn("so", "thus")])
    assert [row["reference"] for row in rows] == ["yes", "so", "thus"]
    assert rows[0]["messages"][-1] == {"role": "assistant", "content": "yes"}
    assert len({row["id"] for row in rows}) == 3


def test_best_of_n_by_the_rule_and_by_a_reward():
    samples = [drawn("yes", "Yes"), drawn("No", "NO")]
    assert preference_task.best_of(samples) == 0.5
    assert preference_task.best_of(samples, [[0.1, 0.9], [1.0, 0.0]]) == 0.0


def test_samples_come_in_the_order_of_their_questions(smoke):
    model, tokenizer = smoke
    samples = preference_task.sample(model, tokenizer, ASKED, each=4, max_new_tokens=6, batch_size=5)
    assert [len(group) for group in samples] == [4, 4, 4]
    assert len({tuple(answer.tokens) for group in samples for answer in group}) > 6
    greedy = preference_task.sample(model, tokenizer, ASKED, temperature=0, max_new_tokens=6)
    alone = [preference_task.sample(model, tokenizer, [one], temperature=0, max_new_tokens=6)[0] for one in ASKED]
    assert greedy == alone
