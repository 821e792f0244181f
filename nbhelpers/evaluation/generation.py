"""Ask a model: many prompts at once, greedy or sampled."""

import contextlib
from dataclasses import dataclass

import torch
from transformers import LogitsProcessorList

from nbhelpers.core import progress
from nbhelpers.core.errors import ModelError
from nbhelpers.models import encoding, fast_paths, templates
from nbhelpers.models.shape import LEARNED_POSITIONS


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
    texts = [templates.render(messages, tokenizer, add_generation_prompt=True) for messages in prompts]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    stops = encoding.stop_token_ids(tokenizer, model)
    answers = []
    for tokens in continue_tokens(model, tokenizer, ids, max_new_tokens, batch_size, dtype, temperature, seed):
        stopped = tokens[-1] in stops
        text = tokenizer.decode(tokens[:-1] if stopped else tokens, skip_special_tokens=True)
        answers.append(Answer(text, len(tokens), stopped))
    return answers


def continue_tokens(
    model,
    tokenizer,
    ids: list[list[int]],
    max_new_tokens: int = 64,
    batch_size: int = 32,
    dtype: str | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    top_p: float = 0.9,
) -> list[list[int]]:
    """What `generate` writes behind prompts given as tokens, as tokens: up to and with the first stop token.

    Args:
        top_p: share of the probability that the drawn tokens hold together. 1 draws from the whole distribution, as
            the log-probabilities of a policy gradient assume.
        The others are those of `generate`.
    """
    draw = LogitsProcessorList([fast_paths.Sampling(temperature, top_p)] if temperature else [])
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]), reverse=True)
    _check_positions(model, max(map(len, ids), default=0), max_new_tokens)
    stops = sorted(encoding.stop_token_ids(tokenizer, model))
    written: dict[int, list[int]] = {}
    was_training = model.training
    model.eval()
    # A frozen head fed a strided slice (the last position of the prompt) makes torch copy the head once a row.
    contiguous = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    shared, cache = begun(model, ids, dtype)
    prefix = torch.tensor([ids[0][:shared]] if ids else [], device=model.device)
    batches = [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]
    for number, rows in enumerate(progress.each(batches, f"{len(ids):,} answers in batches")):
        batch = tokenizer.pad({"input_ids": [ids[i][shared:] for i in rows]}, padding_side="left", return_tensors="pt")
        batch = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
        past = {}
        if shared:
            batch["input_ids"] = torch.cat([prefix.expand(len(rows), -1), batch["input_ids"]], dim=1)
            batch["attention_mask"] = torch.nn.functional.pad(batch["attention_mask"], (shared, 0), value=1)
            past["past_key_values"] = fast_paths.with_room(
                cache, len(rows), batch["input_ids"].shape[1] + max_new_tokens
            )
        draws = _seeded((seed, number * batch_size), model.device) if temperature else contextlib.nullcontext()
        with torch.inference_mode(), autocast(model.device.type, dtype), draws, lean(model):
            rest = _write(
                model, batch, past, max_new_tokens, stops,
                pad_token_id=tokenizer.pad_token_id, do_sample=False, logits_processor=draw,
            )  # fmt: skip
        written |= zip(rows, rest, strict=True)
    contiguous.remove()
    model.train(was_training)
    return [written[i] for i in range(len(ids))]


def _check_positions(model, longest: int, new: int) -> None:
    """Raises ModelError where a model that learned its positions one by one has too few of them."""
    config = model.config
    if config.model_type in LEARNED_POSITIONS and longest + new > config.max_position_embeddings:
        raise ModelError(
            f"A prompt of {longest:,} tokens and {new} new ones are more than the {config.max_position_embeddings:,} "
            "positions that this model has learned. Lower max_length, or take a model with rotary positions."
        )


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
def lean(model):
    """Within the block a forward pass makes no needless copies; what it computes stays the same to rounding.

    A mixture of experts gives no router logits, which only its training needs, and which fail beside a cache.
    """
    config = model.config
    routers = getattr(config, "output_router_logits", None)
    if routers:
        config.output_router_logits = False
    try:
        with fast_paths.grouped_attention(model.device.type), fast_paths.in_place_lora(model):
            yield
    finally:
        if routers:
            config.output_router_logits = routers


def begun(model, ids: list[list[int]], dtype: str | None, most: int | None = None):
    """`(tokens that all rows begin with, their keys and values as a cache of one row)`; `(0, None)` for none.

    Args:
        most: tokens that may be shared at most.
    """
    shared = _shared_length(model, ids)
    shared = shared if most is None else min(shared, most)
    if shared < 1:
        return 0, None
    with torch.inference_mode(), autocast(model.device.type, dtype):
        prefix = torch.tensor([ids[0][:shared]], device=model.device)
        cache = model(input_ids=prefix, use_cache=True, logits_to_keep=1).past_key_values
    return (shared, cache) if fast_paths.can_begin(cache) else (0, None)


@contextlib.contextmanager
def _seeded(entropy: tuple[int, ...], device):
    import numpy as np

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        yield


def autocast(device: str, dtype: str | None):
    enabled = dtype not in (None, "float32")
    return torch.autocast(device, dtype=getattr(torch, dtype) if enabled else torch.bfloat16, enabled=enabled)
