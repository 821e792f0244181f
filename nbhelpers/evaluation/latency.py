"""How long a model takes for a token, beside other models; how fast it reads and writes."""

import statistics
import time

import torch

LATENCY_ROUNDS, LATENCY_TOKENS = 7, 16


def latency(
    candidates: dict, tokenizer, messages: list[dict], rounds: int = LATENCY_ROUNDS, tokens: int = LATENCY_TOKENS
) -> dict[str, list[float]]:
    """Seconds a token of each model, one entry a round: one prompt at a time, greedy, as a chat would ask for it.

    A round asks every model once, one after the other, so that a machine that slows down hits all of them alike. A
    first round is not counted.
    """
    found: dict[str, list[float]] = {name: [] for name in candidates}
    batch = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    for number in range(rounds + 1):
        for name, model in candidates.items():
            with torch.inference_mode():
                start = time.perf_counter()
                model.generate(
                    **batch.to(model.device), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                )  # fmt: skip
            if number:
                found[name].append((time.perf_counter() - start) / tokens)
    return found


def speeds(model, ids: list[int], tokens: int = 32, rounds: int = 3) -> tuple[float, float]:
    """`(prefill, decode)` in tokens per second for one prompt: reading it, then writing `tokens` behind it, greedy.

    Medians over the rounds; a first round is not counted.
    """
    prompt, reading, writing = torch.tensor([ids], device=model.device), [], []
    for _ in range(rounds + 1):
        with torch.inference_mode():
            start = time.perf_counter()
            output = model(input_ids=prompt, use_cache=True, logits_to_keep=1)
            cache, token = output.past_key_values, output.logits[:, -1].argmax(-1, keepdim=True)
            token.item()  # a GPU is waited for
            read = time.perf_counter()
            for _ in range(tokens):
                token = model(input_ids=token, past_key_values=cache).logits[:, -1].argmax(-1, keepdim=True)
            token.item()
            reading.append(len(ids) / (read - start))
            writing.append(tokens / (time.perf_counter() - read))
    return statistics.median(reading[1:]), statistics.median(writing[1:])
