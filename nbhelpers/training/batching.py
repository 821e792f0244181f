"""Which rows make a batch, in which order the batches come, and how the rows of one lie side by side."""

import numpy as np
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from nbhelpers.models.encoding import IGNORE


def length_grouped(dataset, batch_size: int, batches: int, seed: int, parts: int = 1):
    """The rows of `batches` batches in the order to train on: alike in length within a step, shuffled otherwise.

    transformers' own `group_by_length` sorts stretches of 50 batches from long to short, so that a short training
    sees the long rows first and the short ones last; here the batches are shuffled once more. Only the longest batch
    of all comes first, so that a training which does not fit in memory fails at its first step. Epoch follows epoch
    until there are enough batches; a last step that is not full is left out of its epoch.

    Args:
        parts: batches a step (`gradient_accumulation_steps`). A step reads the same rows in however many parts.

    Returns: `datasets.Dataset` of `batches * batch_size` rows.
    """
    lengths = np.array([len(ids) for ids in dataset["input_ids"]])
    rng = np.random.default_rng(seed)
    size = min(batch_size * parts, len(lengths))
    order: list[int] = []
    while len(order) < batches * batch_size:
        rows = rng.permutation(len(lengths))
        rows = rows[: len(rows) // size * size]
        groups = rows[np.argsort(lengths[rows], kind="stable")].reshape(-1, size)
        order += rng.permutation(groups).flatten().tolist()
    chosen = np.array(order[: batches * batch_size]).reshape(-1, parts, batch_size)
    longest = lengths[chosen].max((1, 2)).argmax()
    chosen[[0, longest]] = chosen[[longest, 0]]
    chosen = chosen[:, ::-1]  # the longest part of each step first
    return dataset.select(chosen.flatten().tolist())


def short_answers_first(trainer) -> None:
    """Put the batches that a trainer will read in the order of their labelled tokens, the fewest first.

    A curriculum (Bengio et al. 2009, https://doi.org/10.1145/1553374.1553380) by the simplest measure of difficulty.
    The batches themselves stay as they are.
    """
    rows, size = trainer.train_dataset, trainer.args.per_device_train_batch_size
    labelled = np.array([sum(label != IGNORE for label in labels) for labels in rows["labels"]]).reshape(-1, size)
    order = np.arange(len(rows)).reshape(-1, size)[np.argsort(labelled.sum(1), kind="stable")]
    trainer.train_dataset = rows.select(order.flatten().tolist())


def pack(trainer) -> None:
    """Have a trainer read the rows of a batch end to end as one row without padding, each with positions of its own.

    Attention stays within each of them: with kernels for rows of any length where the model has them, otherwise by a
    mask over the whole, for which time grows with the square of the batch's tokens.
    """
    pad = trainer.processing_class.pad_token_id
    trainer.data_collator = DataCollatorForLanguageModeling(pad_token_id=pad, padding_free=True)
