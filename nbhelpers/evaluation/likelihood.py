"""How likely a model finds given text: its loss on held-out rows."""

import torch

from nbhelpers.core import progress
from nbhelpers.evaluation import generation
from nbhelpers.models import encoding, fast_paths


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
    unlabelled = [next((i for i, label in enumerate(row) if label != encoding.IGNORE), 0) for row in dataset["labels"]]
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)  # what does not fit fails at once
    was_training, head = model.training, model.get_output_embeddings()
    model.eval()
    shared, cache = generation.begun(model, list(dataset["input_ids"]), dtype, most=min(unlabelled, default=1) - 1)
    batches = [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]
    for members in progress.each(batches, f"loss of {len(order):,} rows in batches"):
        rows = dataset[members]
        ids, labels = ([row[shared:] for row in rows[name]] for name in ("input_ids", "labels"))
        batch = tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt").to(model.device)
        width = batch["input_ids"].shape[1]
        batch["labels"] = torch.tensor([row + [encoding.IGNORE] * (width - len(row)) for row in labels]).to(
            model.device
        )
        counts = (batch["labels"][:, 1:] != encoding.IGNORE).sum(1).tolist()
        if cache:
            batch["past_key_values"] = fast_paths.with_room(cache, len(members), shared + width)
        with torch.inference_mode(), generation.autocast(model.device.type, dtype), generation.lean(model):
            logits, targets = fast_paths.labelled_logits(model, head, batch)
        nll = torch.nn.functional.cross_entropy(logits, targets, reduction="none").cpu()
        losses |= {i: part.mean().item() for i, part in zip(members, nll.split(counts), strict=True)}
    model.train(was_training)
    return [losses[i] for i in range(len(losses))]
