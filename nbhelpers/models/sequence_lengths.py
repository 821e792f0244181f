"""Tokens a row, and what a `max_length` costs: rows cut or dropped, padding, packing."""

from collections.abc import Sequence

from nbhelpers.core.errors import DataError, ParameterError
from nbhelpers.models import templates


def token_lengths(rows, tokenizer, batch_size: int = 1_000):
    """Tokens of each row, array of shape (rows,): messages as the chat template renders them, text as it is.

    As in `encoding.encode` no special token is added; count one more a row where a trainer appends BOS or EOS to text.
    """
    import numpy as np

    texts = [row["text"] if "text" in row else templates.render(row["messages"], tokenizer) for row in rows]
    lengths = []
    for begin in range(0, len(texts), batch_size):
        batch = tokenizer(texts[begin : begin + batch_size], add_special_tokens=False, verbose=False)["input_ids"]
        lengths += map(len, batch)
    return np.array(lengths, dtype=np.int64)


def short_rows(rows, lengths, count: int, seed: int = 0):
    """`count` rows of a `Dataset`, or all there are, drawn by the seed from the shortest quarter."""
    import numpy as np

    short = np.flatnonzero(lengths <= np.quantile(lengths, 0.25))
    return rows.select(np.random.default_rng(seed).permutation(short)[:count].tolist())


def _lengths(lengths: Sequence[int]):
    import numpy as np

    lengths = np.asarray(lengths, dtype=np.int64)
    if lengths.ndim != 1 or not lengths.any() or lengths.min() < 0:
        raise DataError(f"lengths must be a list of tokens a row, 0 or more and not all 0, got {lengths!r:.60}.")
    return lengths


def truncation(lengths, candidates: Sequence[int], answer_lengths=None, batch_size: int = 8, seed: int = 0):
    """DataFrame, one line a candidate `max_length`: what it costs in tokens cut and in padding.

    Args:
        lengths: tokens a row, shape (rows,).
        candidates: values of `max_length`, in tokens.
        answer_lengths: how many tokens at the end of each row are its answer, shape (rows,).
        batch_size: rows a step, for the padding.
        seed: of the order in which the rows are drawn.

    Columns: max_length; rows_over and share_over; tokens_cut when these rows are cut; kept_if_cut and kept_if_dropped,
    the share of all tokens left when they are cut at the end and when they are dropped; of the rows cut to max_length,
    padded_random and padded_grouped, the share of a batch's tokens that is padding with rows drawn at random and with
    `group_by_length` of transformers, and packing, see `packing_efficiency`. With answers also answers_cut, rows whose
    answer loses its end; answers_lost, rows that lose all of it; and answer_tokens_kept, a share.

    Raises:
        DataError: no tokens at all, or answers that do not fit the rows.
        ParameterError: a candidate or the batch size is not 1 or more.
    """
    import numpy as np
    import pandas as pd

    lengths = _lengths(lengths)
    if answer_lengths is not None:
        answers = np.asarray(answer_lengths, dtype=np.int64)
        if answers.shape != lengths.shape or (answers > lengths).any() or not answers.any():
            raise DataError("answer_lengths must be one number a row, at most the row's length, and not all 0.")
    if batch_size < 1:
        raise ParameterError(f"batch_size is {batch_size}; it must be 1 or more.")
    table = []
    for limit in candidates:
        packing = packing_efficiency(lengths, limit)
        over, cut = lengths > limit, np.minimum(lengths, limit)
        line = {
            "max_length": limit,
            "rows_over": int(over.sum()),
            "share_over": over.mean(),
            "tokens_cut": int((lengths - cut).sum()),
            "kept_if_cut": cut.sum() / lengths.sum(),
            "kept_if_dropped": lengths[~over].sum() / lengths.sum(),
            **_padding(cut, batch_size, seed),
            "packing": packing,
        }
        if answer_lengths is not None:
            left = np.clip(limit - (lengths - answers), 0, answers)
            line["answers_cut"] = int((left < answers).sum())
            line["answers_lost"] = int(((left == 0) & (answers > 0)).sum())
            line["answer_tokens_kept"] = left.sum() / answers.sum()
        table.append(line)
    return pd.DataFrame(table)


def _padding(lengths, batch_size: int, seed: int) -> dict[str, float]:
    """Share of padding in batches padded to their longest row, drawn at random and grouped by length."""
    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    generator = torch.Generator().manual_seed(seed)
    orders = {
        "padded_random": torch.randperm(len(lengths), generator=generator).tolist(),
        "padded_grouped": get_length_grouped_indices(lengths.tolist(), batch_size, generator=generator),
    }
    shares = {}
    for name, order in orders.items():
        batches = [lengths[order[i : i + batch_size]] for i in range(0, len(order), batch_size)]
        shares[name] = 1 - lengths.sum() / sum(len(batch) * batch.max() for batch in batches)
    return shares


def packing_efficiency(lengths, max_length: int) -> float:
    """Share of real tokens when rows are packed into sequences of `max_length` by TRL (strategy `bfd`): 0 to 1.

    Best-fit decreasing bin packing (Ding et al. 2024), which TRL does over 1,000 rows at a time; a row over
    `max_length` is cut to it, as there.

    Raises:
        DataError: no tokens at all. ParameterError: `max_length` is not 1 or more.
    """
    packed = pack(lengths, max_length)
    return sum(map(sum, packed)) / (len(packed) * max_length)


def pack(lengths, max_length: int) -> list[list[int]]:
    """The lengths of the rows in each packed sequence, as `trl.pack_dataset` with strategy `bfd` makes them."""
    import datasets
    import numpy as np
    import pyarrow
    from trl.data_utils import pack_dataset

    if max_length < 1:
        raise ParameterError(f"max_length is {max_length}; it must be 1 or more tokens.")
    ends = np.cumsum(np.minimum(_lengths(lengths), max_length))
    ids = pyarrow.LargeListArray.from_arrays(np.append(0, ends), np.zeros(ends[-1], dtype=np.int8))
    shown = datasets.utils.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        packed = pack_dataset(datasets.Dataset(pyarrow.table({"input_ids": ids})), max_length, "bfd")
    finally:
        if shown:
            datasets.enable_progress_bars()
    return packed["seq_lengths"][:]
