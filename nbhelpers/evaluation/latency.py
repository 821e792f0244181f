"""How long a model takes for a token, beside other models."""

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
