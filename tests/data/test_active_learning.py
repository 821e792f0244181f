import itertools
import math

import datasets
import numpy as np
import pytest
import torch

from nbhelpers.core.errors import DataError, ParameterError
from nbhelpers.data import active_learning
from nbhelpers.evaluation import uncertainty
from nbhelpers.models import encoding, templates


def row(i, text, task="summary", answer=None):
    messages = [{"role": "user", "content": text}]
    return {
        "id": f"r{i}",
        "task": task,
        "messages": messages + [{"role": "assistant", "content": answer}] * bool(answer),
    }


TEXTS = [
    "a",
    "read a file and return its lines",
    "the parser",
    "open the socket, send what is left, close it",
    "list of it",
]


# --- uncertainty --------------------------------------------------------------------------------------------------


def by_hand(model, tokenizer, text, steps):
    """Mean entropy of a greedy answer, by its definition: one forward pass a token, no cache, no batch."""
    prompt = templates.render([{"role": "user", "content": text}], tokenizer, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    entropies = []
    while len(entropies) < steps:
        with torch.inference_mode():
            p = model(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(0)
        entropies.append(-(p * p.clamp_min(1e-300).log()).sum().item())
        ids.append(int(p.argmax()))
        if ids[-1] in encoding.stop_token_ids(tokenizer, model):
            break
    return sum(entropies) / len(entropies), len(entropies)


def test_uncertainty_is_the_mean_token_entropy_whatever_the_batch(smoke):
    rows = datasets.Dataset.from_list([row(i, text) for i, text in enumerate(TEXTS)])
    expected = [by_hand(*smoke, text, 4)[0] for text in TEXTS]
    for batch_size in (1, 2, 8):
        found = uncertainty.uncertainty(rows, *smoke, max_new_tokens=4, batch_size=batch_size)
        assert found == pytest.approx(expected, abs=1e-4)
    assert np.ptp(expected) > 1e-3, "equal values would hide a mixed-up order"


def test_what_follows_the_stop_token_does_not_count(model, tokenizer):
    stops = sorted(encoding.stop_token_ids(tokenizer, model))

    def says(module, inputs, logits):  # an uncertain word, then a nearly sure end for the even prompts alone
        logits = torch.zeros_like(logits)
        logits[..., 100] = 1.0
        if says.calls:
            logits[::2, -1, stops[0]] = 9.0
        says.calls += 1
        return logits

    says.calls = 0
    model.get_output_embeddings().register_forward_hook(says)
    found = uncertainty.uncertainty([row(0, "a b"), row(1, "a b")], model, tokenizer, max_new_tokens=6)

    def entropy(*high):
        p = torch.tensor([*high, *[0.0] * (2_048 - len(high))], dtype=torch.float64).softmax(0)
        return -(p * p.log()).sum().item()

    assert found == pytest.approx([(entropy(1.0) + entropy(1.0, 9.0)) / 2, entropy(1.0)], abs=1e-3)


def test_the_answer_of_a_labelled_row_is_not_looked_at_and_a_text_is_a_question(smoke):
    rows = [row(0, TEXTS[1]), row(0, TEXTS[1], answer="secret"), {"id": "t", "text": TEXTS[1]}]
    assert len(set(uncertainty.uncertainty(rows, *smoke, max_new_tokens=2, batch_size=1))) == 1
    assert active_learning.question_texts(rows) == [TEXTS[1]] * 3


def test_uncertainty_leaves_the_model_as_it_was(model, tokenizer):
    model.train()
    uncertainty.uncertainty([row(0, "a")], model, tokenizer, max_new_tokens=1)
    assert model.training


# --- vectors ------------------------------------------------------------------------------------------------------


def test_vectors_are_tf_idf_where_no_words_collide():
    texts = ["cat cat dog", "dog bird", ""]
    vectors = active_learning.text_vectors(texts, dimensions=1 << 16)
    idf = {"cat": math.log(4 / 2) + 1, "dog": math.log(4 / 3) + 1, "bird": math.log(4 / 2) + 1}
    first = {"cat": (1 + math.log(2)) * idf["cat"], "dog": idf["dog"]}
    second = {"dog": idf["dog"], "bird": idf["bird"]}
    norms = [math.hypot(*weights.values()) for weights in (first, second)]
    assert sorted(np.abs(vectors[0][vectors[0] != 0])) == pytest.approx(sorted(w / norms[0] for w in first.values()))
    assert vectors[0] @ vectors[1] == pytest.approx(first["dog"] * second["dog"] / norms[0] / norms[1])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 0])
    assert vectors.dtype == np.float32


def test_hashing_keeps_the_distances_of_tf_idf():
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in rng.integers(0, 300, 30)) for _ in range(40)]
    exact, hashed = (active_learning.text_vectors(texts, dimensions) for dimensions in (1 << 16, 1024))
    difference = np.abs(exact @ exact.T - hashed @ hashed.T)
    assert 0 < difference.max() < 0.25
    assert difference.mean() < 0.04


def test_vectors_are_the_same_in_every_process():
    found = active_learning.text_vectors(["read the file"], 64)[0]
    assert np.flatnonzero(found).tolist() == [6, 28, 47]
    assert active_learning.text_vectors(["READ, the file!"], 64)[0] == pytest.approx(found)


def test_one_dimension_is_refused():
    with pytest.raises(ParameterError, match="dimensions=1"):
        active_learning.text_vectors(["a"], 1)


# --- k-center -----------------------------------------------------------------------------------------------------


def radius(vectors, picks):
    return max(min(np.linalg.norm(v - vectors[i]) for i in picks) for v in vectors)


def test_each_pick_is_the_farthest_from_those_before():
    line = np.array([[0.0], [1.0], [10.0], [4.0], [6.0]])
    start = {active_learning.k_center(line, 1, seed)[0]: seed for seed in range(60)}
    assert set(start) == set(range(5)), "the seed draws the first"
    assert active_learning.k_center(line, 5, start[0]) == [0, 2, 3, 4, 1]
    assert active_learning.k_center(line, 4, start[2]) == [2, 0, 3, 4]


@pytest.mark.parametrize("seed", range(8))
def test_the_radius_is_at_most_twice_the_best(seed):
    vectors = np.random.default_rng(seed).normal(size=(12, 2))
    best = min(radius(vectors, picks) for picks in itertools.combinations(range(12), 3))
    assert best <= radius(vectors, active_learning.k_center(vectors, 3, seed)) <= 2 * best


def test_equal_vectors_are_not_picked_twice():
    assert sorted(active_learning.k_center(np.ones((6, 3), dtype=np.float32) / 3, 6, 0)) == list(range(6))


@pytest.mark.parametrize("count", [0, 4])
def test_a_count_out_of_range_is_refused(count):
    with pytest.raises(ParameterError, match="outside 1 to 3"):
        active_learning.k_center(np.eye(3), count, 0)
    with pytest.raises(ParameterError, match="outside 1 to 3"):
        active_learning.select([row(i, "a b") for i in range(3)], count, 0, [0, 1, 2])


# --- select and describe ------------------------------------------------------------------------------------------

WORDS = ["file", "file", "file", "socket", "tree", "tree"]
TASKS = ["summary", "package", "summary", "package", "summary", "summary"]
ROWS = [row(i, f"the {word} reads the {word}", task) for i, (word, task) in enumerate(zip(WORDS, TASKS, strict=True))]
SCORES = [5.0, 4.0, 3.0, 1.0, 2.0, 0.0]


def test_select_gives_the_picks_of_each_way():
    picks = active_learning.select(datasets.Dataset.from_list(ROWS), 2, 0, SCORES)
    assert picks.keys() == {"random", "uncertain", "diverse", "both"}
    assert picks["uncertain"] == [0, 1]
    assert len({ROWS[i]["messages"][0]["content"] for i in picks["diverse"]}) == 2
    assert set(picks["both"]) <= {0, 1, 2}
    assert picks == active_learning.select(ROWS, 2, 0, SCORES)
    assert {tuple(active_learning.select(ROWS, 2, seed, SCORES)["random"]) for seed in range(5)} != {
        tuple(picks["random"])
    }


def test_both_takes_the_spread_of_the_uncertain_half():
    vectors = np.array([[0.0], [0.1], [5.0], [9.0], [0.0], [20.0]])
    found = {tuple(sorted(active_learning.select(ROWS, 2, s, SCORES, vectors)["both"])) for s in range(20)}
    assert found == {(0, 2), (1, 2)}  # of rows 0, 1, 2; the farther ones are less uncertain
    assert sorted(active_learning.select(ROWS, 5, 0, SCORES, vectors)["both"]) == [0, 1, 2, 3, 4]


def test_no_way_picks_a_row_twice():
    for way, indices in active_learning.select(ROWS, 6, 0, [1.0] * 6).items():
        assert sorted(indices) == list(range(6)), way


@pytest.mark.parametrize("scores", [[1.0] * 5, [[1.0]] * 6, [1.0, math.nan, 1, 1, 1, 1], [math.inf, 1, 1, 1, 1, 1]])
def test_scores_that_do_not_fit_are_refused(scores):
    with pytest.raises(DataError, match="one number for each of 6 rows"):
        active_learning.select(ROWS, 2, 0, scores)
    with pytest.raises(DataError, match="one number for each of 6 rows"):
        active_learning.describe({"random": [0]}, ROWS, scores)


def test_describe_says_what_each_way_picked():
    vectors = np.array([[0.0], [0.0], [0.0], [3.0], [7.0], [8.0]])
    table = active_learning.describe({"uncertain": [0, 1], "diverse": [0, 4]}, ROWS, SCORES, vectors)
    assert table["rows"].tolist() == [2, 2]
    assert table["mean_uncertainty"].tolist() == [4.5, 3.5]
    assert table["coverage_radius"].tolist() == [8.0, 3.0]
    assert table["distinct_2"].tolist() == [3 / 8, 5 / 8]  # four pairs a text, `the file` twice in it
    assert table["tasks"].tolist() == ["package 1, summary 1", "summary 2"]


def test_describe_uses_the_vectors_that_select_uses():
    picks = active_learning.select(ROWS, 3, 0, SCORES)
    table = active_learning.describe(picks, ROWS, SCORES)
    assert table.loc["diverse", "coverage_radius"] == pytest.approx(0, abs=1e-3)  # one of each of the three texts
    assert table.loc["uncertain", "coverage_radius"] > 0.5
    assert table.index.tolist() == ["random", "uncertain", "diverse", "both"]
