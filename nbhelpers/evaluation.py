"""Ask a model, score its answers, and set two models side by side on the same rows."""

import contextlib
from dataclasses import dataclass

import torch

from nbhelpers import adapters, chat, forward, metrics, templates
from nbhelpers.errors import AuditError


@dataclass(frozen=True)
class Answer:
    """One answer. `stopped` says whether the model ended it itself, rather than running into the limit."""

    text: str
    tokens: int
    stopped: bool


def generate(
    model,
    tokenizer,
    prompts: list[list[dict]],
    max_new_tokens: int = 64,
    batch_size: int = 32,
    dtype: str | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Answer]:
    """Answers to conversations that end with a user turn, in their order: greedy, or sampled.

    The beginning that all prompts share (system prompt, instruction, solved examples) is computed once. The rest is
    sorted by length before it is batched (padding is paid for) and padded on the left, and a batch ends when every
    row has stopped.

    Args:
        prompts: lists of messages, without the answer.
        max_new_tokens: tokens an answer may take.
        batch_size: prompts at once.
        dtype: compute under autocast in this precision, as training did; None: as the weights are.
        temperature: 0 is greedy. Above it tokens are drawn from the most likely ones that hold 0.9 of the probability
            (nucleus sampling, Holtzman et al. 2020).
        seed: of the draws; the same seed and `batch_size` give the same answers. The caller's own seed is left alone.
    """
    sampling = {"do_sample": False}
    if temperature:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": 0.9, "top_k": 0}
    texts = [templates.render(messages, tokenizer, add_generation_prompt=True) for messages in prompts]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]), reverse=True)
    stops = sorted(chat.stop_token_ids(tokenizer, model))
    answers: dict[int, Answer] = {}
    was_training = model.training
    model.eval()
    # A frozen head fed a strided slice (the last position of the prompt) makes torch copy the head once a row.
    contiguous = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    shared, cache = _begun(model, ids, dtype)
    prefix = torch.tensor([ids[0][:shared]] if ids else [], device=model.device)
    for begin in range(0, len(order), batch_size):
        rows = order[begin : begin + batch_size]
        batch = tokenizer.pad({"input_ids": [ids[i][shared:] for i in rows]}, padding_side="left", return_tensors="pt")
        batch = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
        past = {}
        if shared:
            batch["input_ids"] = torch.cat([prefix.expand(len(rows), -1), batch["input_ids"]], dim=1)
            batch["attention_mask"] = torch.nn.functional.pad(batch["attention_mask"], (shared, 0), value=1)
            past["past_key_values"] = forward.with_room(cache, len(rows), batch["input_ids"].shape[1] + max_new_tokens)
        draws = _seeded((seed, begin), model.device) if temperature else contextlib.nullcontext()
        with torch.inference_mode(), _autocast(model.device.type, dtype), draws, _lean(model):
            written = _write(model, batch, past, max_new_tokens, stops, pad_token_id=tokenizer.pad_token_id, **sampling)
        for i, tokens in zip(rows, written, strict=True):
            stopped = tokens[-1] in stops
            text = tokenizer.decode(tokens[:-1] if stopped else tokens, skip_special_tokens=True)
            answers[i] = Answer(text, len(tokens), stopped)
    contiguous.remove()
    model.train(was_training)
    return [answers[i] for i in range(len(prompts))]


def _write(model, batch: dict, past: dict, max_new_tokens: int, stops: list[int], **options) -> list[list[int]]:
    """What the model writes after each row, up to and with its first stop token.

    `model.generate` computes rows that have stopped along with the others until the last one stops. Here it is
    interrupted when half of the rows have, and goes on with the rest alone and what is cached of them (without `past`,
    as for soft prompts, it is not).
    """
    start, ends = batch["input_ids"].shape[1], torch.tensor(stops, device=model.device)
    written: dict[int, list[int]] = {}
    left = torch.arange(len(batch["input_ids"]), device=model.device)

    def done(sequences):
        return torch.isin(sequences[:, start:], ends).any(1)

    def half_done(sequences, scores, **kwargs):
        stopped = done(sequences)
        return stopped | (2 * stopped.sum() >= len(stopped))

    while len(left):
        output = model.generate(
            **batch,
            **past,
            max_new_tokens=start + max_new_tokens - batch["input_ids"].shape[1],
            eos_token_id=stops,
            stopping_criteria=[half_done] if past else [],
            return_dict_in_generate=True,
            **options,
        )
        sequences = output.sequences
        stopped = done(sequences) | (sequences.shape[1] >= start + max_new_tokens)
        for i, tokens in zip(left[stopped].tolist(), sequences[stopped, start:].tolist(), strict=True):
            end = next((k for k, token in enumerate(tokens) if token in stops), len(tokens))
            written[i] = tokens[: end + 1]
        kept = (~stopped).nonzero().flatten()
        if len(kept):
            output.past_key_values.batch_select_indices(kept)
        past = {"past_key_values": output.past_key_values}
        new = sequences.shape[1] - batch["input_ids"].shape[1]
        mask = torch.nn.functional.pad(batch["attention_mask"][kept], (0, new), value=1)
        left, batch = left[kept], {"input_ids": sequences[kept], "attention_mask": mask}
    return [written[i] for i in range(len(written))]


def _shared_length(model, ids: list[list[int]]) -> int:
    """How many tokens all prompts begin with, one at least left to each; 0 where sharing them would not be right.

    Soft prompts (prefix tuning and its like) stand before the prompt and bring a cache of their own.
    """
    soft = any(config.is_prompt_learning for config in getattr(model, "peft_config", {}).values())
    if soft or len(ids) < 2:
        return 0
    first, last = min(ids), max(ids)  # what these two share in order of tokens, all between them share too
    limit = min(map(len, ids)) - 1
    return next((i for i in range(limit) if first[i] != last[i]), limit)


@contextlib.contextmanager
def _lean(model):
    """Within the block a forward pass makes no needless copies; what it computes stays the same to rounding."""
    with forward.grouped_attention(model.device.type), adapters.in_place_lora(model):
        yield


def _begun(model, ids: list[list[int]], dtype: str | None, most: int | None = None):
    """`(tokens that all rows begin with, their keys and values as a cache of one row)`; `(0, None)` for none.

    Args:
        most: tokens that may be shared at most.
    """
    shared = _shared_length(model, ids)
    shared = shared if most is None else min(shared, most)
    if shared < 1:
        return 0, None
    with torch.inference_mode(), _autocast(model.device.type, dtype):
        prefix = torch.tensor([ids[0][:shared]], device=model.device)
        cache = model(input_ids=prefix, use_cache=True, logits_to_keep=1).past_key_values
    return (shared, cache) if forward.can_begin(cache) else (0, None)


@contextlib.contextmanager
def _seeded(entropy: tuple[int, ...], device):
    import numpy as np

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        yield


def _autocast(device: str, dtype: str | None):
    enabled = dtype not in (None, "float32")
    return torch.autocast(device, dtype=getattr(torch, dtype) if enabled else torch.bfloat16, enabled=enabled)


@dataclass(frozen=True)
class Evaluation:
    """One model on held-out rows: `rows` has, in order, `{id, task, reference, answer, stopped, scores}`."""

    name: str
    rows: list[dict]

    def values(self, task: str, score: str) -> list[float]:
        """One score of every row of a task, in order."""
        return [row["scores"][score] for row in self.rows if row["task"] == task]

    @property
    def scores(self) -> list[tuple[str, str]]:
        """Every (task, score) there is, in order."""
        return list(dict.fromkeys((row["task"], score) for row in self.rows for score in row["scores"]))


def evaluate(name: str, model, tokenizer, rows, examples: dict | None = None, **options) -> Evaluation:
    """Answer every row's question and score the answer against its reference.

    Args:
        name: what tables call this model.
        rows: `datasets.Dataset` with `id, task, messages, reference`.
        examples: task -> solved conversations shown before the question (few-shot); None: zero-shot.
        options: as for `generate`.
    """
    prompts = [chat.with_examples(row["messages"], (examples or {}).get(row["task"], [])) for row in rows]
    tasks = list(rows["task"])
    answers: dict[int, Answer] = {}
    for task in dict.fromkeys(tasks):  # answers of one task are alike in length, so that a batch ends together
        members = [i for i, name in enumerate(tasks) if name == task]
        answers |= zip(members, generate(model, tokenizer, [prompts[i] for i in members], **options), strict=True)
    scored = [
        {key: row[key] for key in ("id", "task", "reference")}
        | {"answer": answers[i].text, "stopped": answers[i].stopped}
        | {"scores": metrics.score(row["task"], answers[i].text, row["reference"])}
        for i, row in enumerate(rows)
    ]
    return Evaluation(name, scored)


def solved_examples(rows, tasks: list[str], count: int = 3) -> dict[str, list[list[dict]]]:
    """Task -> `count` solved conversations from rows to train on, short but not the shortest, for `evaluate`."""
    found = {}
    for task in tasks:
        ordered = sorted((row for row in rows if row["task"] == task), key=lambda row: len(row["input_ids"]))
        found[task] = [row["messages"] for row in ordered[len(ordered) // 4 :][:count]]
    return found


def compare(tuned: Evaluation, baseline: Evaluation) -> dict[str, metrics.Metric]:
    """`"task.score"` -> the tuned model's mean and interval beside the baseline's mean, on the same rows."""
    return {
        f"{task}.{score}": metrics.estimate(tuned.values(task, score), baseline.values(task, score))
        for task, score in tuned.scores
    }


def gain(tuned: Evaluation, baseline: Evaluation, task: str, score: str) -> metrics.Metric:
    """The mean difference tuned - baseline with the interval of the paired differences.

    An interval that does not hold 0 is an effect beyond chance for these rows and this seed.
    """
    pairs = zip(tuned.values(task, score), baseline.values(task, score), strict=True)
    return metrics.estimate([t - b for t, b in pairs])


def require_effect(gains: dict[str, metrics.Metric], least: dict[str, float], strict: bool) -> None:
    """Check that tuning did what it promises: each gain's interval lies above 0 and each value is at least `least`.

    Args:
        gains: name -> value or paired difference with its interval.
        least: name -> the smallest acceptable value.
        strict: raise AuditError on a miss (the project's own default run); otherwise print a warning.
    """
    misses = [
        f"{name} is {m.value:.2f} [{m.low:.2f}, {m.high:.2f}], expected at least {least[name]:.2f} and a low above 0"
        for name, m in gains.items()
        if m.value < least[name] or m.low <= 0
    ]
    if misses and strict:
        raise AuditError("Tuning did not have its effect:\n  - " + "\n  - ".join(misses))
    for miss in misses:
        print(f"WARNING: {miss}")


def table(evaluations: list[Evaluation]):
    """A `pandas.DataFrame`: a row a score, a column a model, each cell `mean [low, high]`."""
    import pandas as pd

    cells = {}
    for evaluation in evaluations:
        for task, score in evaluation.scores:
            m = metrics.estimate(evaluation.values(task, score))
            cells.setdefault((task, score), {})[evaluation.name] = f"{m.value:.2f} [{m.low:.2f}, {m.high:.2f}]"
    frame = pd.DataFrame.from_dict(cells, orient="index")
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=["task", "score"])
    return frame


def text_rows(texts: list[str], tokenizer, max_length: int):
    """Encoded rows of plain text, every token labelled: for `held_out_loss` as a measure of language modelling."""
    import datasets

    ids = [tokenizer(text, add_special_tokens=False)["input_ids"][:max_length] for text in texts]
    return datasets.Dataset.from_list([{"input_ids": row, "labels": row} for row in ids if len(row) > 1])


def held_out_loss(model, tokenizer, dataset, batch_size: int = 8, dtype: str | None = None) -> list[float]:
    """Mean negative log-likelihood (nats a labelled token) of each encoded row, shape (rows,).

    Rows of like length are batched together, only labelled tokens reach the vocabulary projection, and what all rows
    begin with is computed once.
    """
    losses: dict[int, float] = {}
    lengths = [len(ids) for ids in dataset["input_ids"]]
    unlabelled = [next((i for i, label in enumerate(row) if label != chat.IGNORE), 0) for row in dataset["labels"]]
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)  # what does not fit fails at once
    was_training, head = model.training, model.get_output_embeddings()
    model.eval()
    shared, cache = _begun(model, list(dataset["input_ids"]), dtype, most=min(unlabelled, default=1) - 1)
    for begin in range(0, len(order), batch_size):
        members = order[begin : begin + batch_size]
        rows = dataset[members]
        ids, labels = ([row[shared:] for row in rows[name]] for name in ("input_ids", "labels"))
        batch = tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt").to(model.device)
        width = batch["input_ids"].shape[1]
        batch["labels"] = torch.tensor([row + [chat.IGNORE] * (width - len(row)) for row in labels]).to(model.device)
        counts = (batch["labels"][:, 1:] != chat.IGNORE).sum(1).tolist()
        if cache:
            batch["past_key_values"] = forward.with_room(cache, len(members), shared + width)
        with torch.inference_mode(), _autocast(model.device.type, dtype), _lean(model):
            logits, targets = forward.labelled_logits(model, head, batch)
        nll = torch.nn.functional.cross_entropy(logits, targets, reduction="none").cpu()
        losses |= {i: part.mean().item() for i, part in zip(members, nll.split(counts), strict=True)}
    model.train(was_training)
    return [losses[i] for i in range(len(losses))]
