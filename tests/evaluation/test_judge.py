import pytest
import torch

from nbhelpers.core.errors import DataError
from nbhelpers.data import labels
from nbhelpers.evaluation import judge as judging
from nbhelpers.models import templates

WORDS = ("a colour", "the list", "every file", "a path", "one value")
ITEMS = [
    {"id": str(i), "prompt": [{"role": "user", "content": f"Name {word}."}]}
    | {"answers": [f"{word} is it", "no " * (i + 1)]}
    for i, word in enumerate(WORDS)
]


def letters_by_hand(model, tokenizer, item, left):
    text = judging.QUESTION.format(
        question=item["prompt"][0]["content"], left=item["answers"][left], right=item["answers"][1 - left]
    )
    ids = tokenizer(
        templates.render([{"role": "user", "content": text}], tokenizer, True), add_special_tokens=False,
        return_tensors="pt",
    )["input_ids"]  # fmt: skip
    a, b = (tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "AB")
    with torch.no_grad():
        logits = model(ids).logits[0, -1]
    return "left" if logits[a] > logits[b] else "right"


def test_each_item_is_judged_in_both_orders_by_the_likelier_letter(smoke):
    model, tokenizer = smoke
    given = judging.judge(model, tokenizer, ITEMS, batch_size=3)
    assert [(x["item"], x["left"]) for x in given] == [(item["id"], left) for item in ITEMS for left in (0, 1)]
    expected = [letters_by_hand(model, tokenizer, item, left) for item in ITEMS for left in (0, 1)]
    assert [x["choice"] for x in given] == expected


def test_a_judge_that_always_takes_the_first_prefers_nothing(smoke, monkeypatch):
    model, tokenizer = smoke
    head = model.get_output_embeddings()
    a = tokenizer("A", add_special_tokens=False)["input_ids"][0]
    bias = torch.zeros(head.out_features)
    bias[a] = 1e4
    hook = head.register_forward_hook(lambda _, __, output: output + bias)
    try:
        given = judging.judge(model, tokenizer, ITEMS)
    finally:
        hook.remove()
    assert labels.left_rate(given).value == 1
    with pytest.raises(DataError, match="None of 0 rows"):
        labels.to_pairs(ITEMS, given)
    assert labels.agreement(given)["Cohen's kappa, judge, order 1 and judge, order 2"] <= 0


def test_letters_of_one_token_are_refused(smoke, tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "__call__", lambda self, *a, **k: {"input_ids": [3]})
    with pytest.raises(DataError, match="same token"):
        judging.judge(smoke[0], tokenizer, ITEMS)
