"""Remedies against forgetting: rehearse what the model could do, or hold on to the weights that it did it with."""

import json
from collections.abc import Iterable, Iterator

import datasets
import numpy as np
import torch
from transformers import TrainerCallback

from nbhelpers.core.errors import ParameterError
from nbhelpers.core.storage import repository_root
from nbhelpers.evaluation import generation
from nbhelpers.models import encoding, fast_paths


def own_answers(
    model,
    tokenizer,
    seed: int = 0,
    max_new_tokens: int = 96,
    batch_size: int = 36,
    count: int | None = None,
    hint: str = "",
    temperature: float = 0.7,
) -> list[dict]:
    """Ordinary requests (`data/replay.json`) with the untuned model's own answers, as rows `{id, task, messages, ...}`.

    Nobody has the data that a published chat model was trained on; what it says of itself stands in for them
    (pseudo-rehearsal, Robins 1995). Answers that run into the limit are left out, for they have no end to learn.

    Args:
        count: how many requests; None: all.
        hint: stands behind each request when it is asked, and is not in the row: what the answer owes to it, the
            tuned model will do of itself (context distillation, Askell et al. 2021, https://arxiv.org/abs/2112.00861).
        temperature: at which answers are drawn; the lower, the likelier for the model and the less varied.

    Raises:
        ParameterError: no answer ended within `max_new_tokens`.
    """
    content = json.loads((repository_root() / "data" / "replay.json").read_text(encoding="utf-8"))
    requests = content["requests"][:count]
    asked = [[{"role": "user", "content": f"{request} {hint}".strip()}] for request in requests]
    answers = generation.generate(
        model, tokenizer, asked, max_new_tokens, batch_size, temperature=temperature, seed=seed
    )
    rows = [
        {"id": f"request-{number}", "task": "request", "reference": text}
        | {"messages": [{"role": "user", "content": request}, {"role": "assistant", "content": text}]}
        for number, (request, answer) in enumerate(zip(requests, answers, strict=True), 1)
        if answer.stopped and (text := answer.text.strip())
    ]
    if not rows:
        raise ParameterError(f"None of {len(asked)} answers ended within max_new_tokens={max_new_tokens}: raise it.")
    return rows


def rehearsal(model, tokenizer, seed: int = 0, **options):
    """`own_answers`, encoded to train on: `datasets.Dataset` with `input_ids` and `labels`."""
    rows = own_answers(model, tokenizer, seed, **options)
    return datasets.Dataset.from_list([encoding.encode(row["messages"], tokenizer) for row in rows])


def rehearse(trainer, rows, share: float) -> None:
    """Put replayed rows in the place of a share of those that a trainer will read, at random by its seed.

    All others stay where they were, so that a training with replay and one without differ in nothing else.

    Args:
        rows: encoded, what is replayed; repeated where there are too few.
        share: of the rows, from 0 up to, not including, 1.

    Raises:
        ParameterError: the share is out of its range, or there is nothing to replay.
    """
    if not 0 <= share < 1 or not len(rows):
        raise ParameterError(f"share={share} of {len(rows)} replayed rows: give 0 <= share < 1 and rows to replay.")
    own, rng = trainer.train_dataset, np.random.default_rng(trainer.args.seed)
    order = np.arange(len(own))
    places = rng.choice(len(own), round(share * len(own)), replace=False)
    order[places] = len(own) + np.resize(rng.permutation(len(rows)), len(places))
    both = datasets.concatenate_datasets([own.select_columns(["input_ids", "labels"]), rows])
    trainer.train_dataset = both.select(order.tolist())


def fisher(model, rows) -> dict[str, torch.Tensor]:
    """The diagonal of the Fisher information of each trained weight, a labelled token (Kirkpatrick et al. 2017).

    F_i is the mean of (d log p / d w_i)^2 under the model. The square is taken of the gradient of a whole row, and the
    sum over the rows divided by the number of their labelled tokens. Rows that the model itself wrote (`rehearsal`)
    stand for its distribution; they were drawn from its likelier tokens, and only those that ended.

    Args:
        rows: encoded rows that stand for what must not be forgotten.

    Returns: name -> a tensor of the weight's shape.
    """
    was_training, head = model.training, model.get_output_embeddings()

    def losses() -> Iterator[tuple[torch.Tensor, int]]:
        for row in rows:
            batch = {name: torch.tensor([row[name]], device=model.device) for name in ("input_ids", "labels")}
            logits, targets = fast_paths.labelled_logits(model, head, batch)
            yield torch.nn.functional.cross_entropy(logits, targets, reduction="sum"), len(targets)

    model.eval()
    found = mean_squared_gradients(model, losses())
    model.train(was_training)
    return found


def mean_squared_gradients(model, losses: Iterable[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    """The squared gradients of each trained weight, summed over the losses and divided by the sum of their counts.

    Args:
        losses: a scalar and how many predictions it is summed over, one after the other.

    Returns: name -> a tensor of the weight's shape.
    """
    found = {name: torch.zeros_like(w) for name, w in model.named_parameters() if w.requires_grad}
    total = 0
    model.zero_grad()  # what an earlier step left would be added to the first gradient
    for loss, count in losses:
        loss.backward()
        total += count
        for name, weight in model.named_parameters():
            if weight.grad is not None:
                found[name].addcmul_(weight.grad, weight.grad)
                weight.grad = None
    return {name: squares / max(1, total) for name, squares in found.items()}


class ElasticWeights(TrainerCallback):
    """Elastic weight consolidation: strength / 2 sum_i F_i (w_i - w*_i)^2 on top of the loss.

    Kirkpatrick et al. 2017, equation 3; w* are the weights as they are when this is made. The gradient of the penalty,
    strength F (w - w*), is added right before the optimizer's step, after the gradient of the loss was clipped. It
    takes two more numbers a weight.

    Args:
        importance: what `fisher` found.
        strength: lambda. At 1 a token of the past weighs as much as a token of the present.
    """

    def __init__(self, model, importance: dict[str, torch.Tensor], strength: float):
        self.strength = strength
        weights = dict(model.named_parameters())
        self.held = [(weights[name], weights[name].detach().clone(), F) for name, F in importance.items()]

    def penalty(self) -> float:
        """What is added to the loss now."""
        with torch.no_grad():
            return self.strength / 2 * sum(((F * (w - start) ** 2).sum()).item() for w, start, F in self.held)

    @torch.no_grad()
    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        for weight, start, importance in self.held:
            if weight.grad is not None:
                weight.grad.add_((weight - start).mul_(importance), alpha=self.strength)


def hold_on(trainer, rows, strength: float) -> None:
    """Give a trainer elastic weight consolidation: `fisher` of its model on these rows, before it begins."""
    trainer.add_callback(ElasticWeights(trainer.model, fisher(trainer.model, rows), strength))
