"""How unsure a model is of its own answers."""

from nbhelpers.data import active_learning
from nbhelpers.models import encoding, templates


def uncertainty(rows, model, tokenizer, max_new_tokens: int = 16, batch_size: int = 32, dtype: str | None = None):
    """Mean token entropy of the model's own greedy answer to each row, in nats; array of shape (rows,).

    For an answer of T tokens, its stop token among them: 1/T sum_t H_t, with
    H_t = - sum_v p(v | question, answer before t) log p(v | ...), from 0 to log(vocabulary size). Entropy as the
    measure of what to ask about: Settles 2009, section 3.1; divided by the length so that long answers do not look
    uncertain for being long: Malinin & Gales 2021.

    Args:
        rows: rows with `messages` or `text`; an answer at the end is not looked at.
        max_new_tokens: tokens of the answer that are looked at.
        batch_size: rows at once; an answer takes batch_size x max_new_tokens x vocabulary numbers for a moment.
        dtype: compute under autocast in this precision; None: as the weights are.
    """
    import numpy as np
    import torch

    texts = [templates.render(active_learning.question(row), tokenizer, add_generation_prompt=True) for row in rows]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]), reverse=True)
    stops = sorted(encoding.stop_token_ids(tokenizer, model))
    autocast = torch.autocast(
        model.device.type, dtype=getattr(torch, dtype or "bfloat16"), enabled=dtype not in (None, "float32")
    )
    scores = np.zeros(len(ids))
    was_training = model.training
    model.eval()
    for begin in range(0, len(order), batch_size):
        members = order[begin : begin + batch_size]
        batch = tokenizer.pad({"input_ids": [ids[i] for i in members]}, padding_side="left", return_tensors="pt")
        with torch.inference_mode(), autocast:
            output = model.generate(
                **batch.to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=stops,
                pad_token_id=tokenizer.pad_token_id,
                output_logits=True,
                return_dict_in_generate=True,
            )
        entropies = torch.stack(
            [torch.distributions.Categorical(logits=step.float()).entropy() for step in output.logits]
        )
        answers = output.sequences[:, batch["input_ids"].shape[1] :].tolist()
        for i, tokens, entropy in zip(members, answers, entropies.T.tolist(), strict=True):
            end = next((k for k, token in enumerate(tokens) if token in stops), len(tokens) - 1)
            scores[i] = sum(entropy[: end + 1]) / (end + 1)
    model.train(was_training)
    return scores
