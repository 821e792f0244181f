"""A model as a judge of two answers (Zheng et al. 2023, https://arxiv.org/abs/2306.05685), in both orders.

A verdict is a label as people give it (`data.labels`), one by a labeller for each order. What a judge says in one order
alone is a tie (`labels.to_pairs` drops it), how often it takes the left answer is `labels.left_rate`, and whether it
says what a rule or a person says is `labels.agreement`.
"""

import torch

from nbhelpers.core.errors import DataError
from nbhelpers.evaluation import generation
from nbhelpers.models import templates

QUESTION = (
    "{question}\n\nAnswer A:\n{left}\n\nAnswer B:\n{right}\n\n"
    "Which of the two answers does better what was asked? Reply with one letter, A or B."
)


@torch.no_grad()
def judge(
    model, tokenizer, items: list[dict], name: str = "judge", batch_size: int = 16, dtype: str | None = None
) -> list[dict]:
    """Two labels for each item, by `<name>, order 1` and `<name>, order 2`: the likelier of the letters A and B.

    Args:
        items: `{"id", "prompt", "answers"}` with two answers, as of `data.labels`.

    Raises:
        DataError: the tokenizer writes both letters as the same token.
    """
    letters = [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "AB"]
    if letters[0] == letters[1]:
        raise DataError("The tokenizer writes A and B as the same token. Take another model as the judge.")
    asked = [(item, left) for item in items for left in (0, 1)]
    rows = []
    for item, left in asked:
        content = QUESTION.format(
            question=item["prompt"][-1]["content"], left=item["answers"][left], right=item["answers"][1 - left]
        )
        turns = [*item["prompt"][:-1], {"role": "user", "content": content}]
        text = templates.render(turns, tokenizer, add_generation_prompt=True)
        rows.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    chosen: dict[int, str] = {}
    causal = model.get_base_model() if hasattr(model, "peft_config") else model
    for begin in range(0, len(order), batch_size):
        batch = order[begin : begin + batch_size]
        longest = max(len(rows[i]) for i in batch)
        ids = torch.tensor([rows[i] + [0] * (longest - len(rows[i])) for i in batch], device=model.device)
        last = torch.tensor([len(rows[i]) - 1 for i in batch], device=model.device)  # what is behind is never read
        with generation.autocast(model.device.type, dtype):
            hidden = causal.base_model(input_ids=ids, use_cache=False).last_hidden_state
            logits = causal.get_output_embeddings()(hidden[torch.arange(len(batch)), last])[:, letters]
        for i, (first, second) in zip(batch, logits.tolist(), strict=True):
            chosen[i] = "left" if first > second else "right" if second > first else "tie"
    return [
        {"item": item["id"], "labeller": f"{name}, order {left + 1}", "left": left, "choice": chosen[i]}
        for i, (item, left) in enumerate(asked)
    ]
