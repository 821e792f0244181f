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
    assert [preference_task.score(None, "Yes", ended) for ended in (True, False)] == [1, 0]


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


def test_best_of_n_is_the_answer_that_a_reward_ranks_first():
    samples = [drawn("yes", "Yes"), drawn("NO", "no")]
    assert preference_task.best_of(samples, [[0.1, 0.9], [0.2, 0.3]]) == [0.0, 1.0]


def test_shares_say_what_there_is_to_learn_from():
    shares = preference_task.shares([drawn("yes", "Yes"), drawn("No", "NO"), drawn("so", "so"), drawn("So", "so")])
    assert shares == {"right": 0.5, "mixed": 0.5, "best of them right": 0.75}


def test_splits_grow_with_the_rows_of_a_run_as_far_as_there_are_requests():
    for rows in (4, 100, 10_000):
        asked = preference_task.every_split(rows, 0)
        assert {constraint.kind for _, constraint in asked["train"]} == set(preference_task.KINDS)
        assert {constraint.kind for _, constraint in asked["test"]} == set(TRAINED + HELD_OUT)
    assert len(asked["test"]) == 24 * len(TRAINED + HELD_OUT)


def test_a_model_that_is_never_right_is_shown_answers_that_the_rule_wrote():
    asked = preference_task.questions("train", 2, 0)
    found = preference_task.written_pairs(asked, [drawn("XY|")] * len(asked))
    kinds = {constraint.kind for _, constraint in asked}
    assert {pair["kind"] for pair in found} == kinds & set(TRAINED)
    by_prompt = {prompt[-1]["content"]: constraint for prompt, constraint in asked}
    assert all(by_prompt[pair["prompt"][-1]["content"]].holds(pair["chosen"]) for pair in found)
    assert not any(pair["both_ended"] for pair in found)


def test_chosen_answers_are_rows_to_train_on_each_once():
    pairs = preference_task.pairs(ASKED, [drawn("yes", "Yes", "YES"), drawn("no", "no"), drawn("so", "SO|")], most=5)
    rows = preference_task.chosen_rows(pairs)
    assert [row["reference"] for row in rows] == ["yes", "so"]
    assert rows[0]["messages"] == [*ASKED[0][0], {"role": "assistant", "content": "yes"}]


def test_samples_come_in_the_order_of_their_questions(smoke):
    model, tokenizer = smoke
    samples = preference_task.sample(model, tokenizer, ASKED, each=4, max_new_tokens=6, batch_size=5)
    assert [len(group) for group in samples] == [4, 4, 4]
    assert len({tuple(answer.tokens) for group in samples for answer in group}) > 6
    greedy = preference_task.sample(model, tokenizer, ASKED, temperature=0, max_new_tokens=6)
    alone = [preference_task.sample(model, tokenizer, [one], temperature=0, max_new_tokens=6)[0] for one in ASKED]
    assert greedy == alone


@pytest.mark.parametrize(("answers", "most", "size"), [(12, 5, 4), (12, 12, 12), (12, 11, 6), (12, 100, 12)])
def test_answers_are_drawn_in_batches_of_one_size(smoke, monkeypatch, answers, most, size):
    sizes, real = [], preference_task.generation.continue_tokens
    monkeypatch.setattr(
        preference_task.generation,
        "continue_tokens",
        lambda *args, **named: sizes.append(args[4]) or real(*args, **named),
    )
    assert preference_task.sample(*smoke, [], max_new_tokens=2, batch_size=5) == []
    assert len(preference_task.sample(*smoke, ASKED, answers // 3, max_new_tokens=2, batch_size=most)) == 3
    assert sizes[1] == size
