"""Rows into batches: alike in length, each once an epoch, in the order that was asked for, and none sees another."""

from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch

from nbhelpers.models import encoding, fast_paths
from nbhelpers.training import batching


@pytest.fixture(scope="module")
def rows(smoke):
    rng = np.random.default_rng(0)

    def row(i):
        words, answer = ("a wheel turns and the miller sleeps " * 9).split(), f"wheel {i} " * int(rng.integers(1, 9))
        question = " ".join(words[: int(rng.integers(3, 60))])
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer.strip()}]
        return dict(encoding.encode(turns, smoke[1]))

    return datasets.Dataset.from_list([row(i) for i in range(40)])


def test_batches_are_alike_in_length_and_cover_each_epoch(rows):
    ordered = batching.length_grouped(rows.add_column("i", range(len(rows))), 4, 20, seed=1)
    lengths = np.array([len(ids) for ids in ordered["input_ids"]]).reshape(20, 4)
    assert sorted(ordered["i"]) == sorted([*range(40)] * 2)
    assert lengths[0].max() == lengths.max(), "the longest first: what does not fit in memory fails at once"
    everywhere = np.array([len(ids) for ids in rows["input_ids"]])
    assert np.ptp(lengths, axis=1).mean() < 0.35 * np.ptp(everywhere)
    means = lengths[:10].mean(1)
    assert abs(np.corrcoef(means, np.arange(10))[0, 1]) < 0.9, "long to short would be a curriculum"


def test_a_step_reads_the_same_rows_in_however_many_parts(rows):
    numbered = rows.add_column("i", range(len(rows)))
    whole = np.array(batching.length_grouped(numbered, 8, 5, seed=1)["i"]).reshape(5, 8)
    for parts in (2, 4):
        ordered = batching.length_grouped(numbered, 8 // parts, 5 * parts, seed=1, parts=parts)
        assert (np.sort(np.array(ordered["i"]).reshape(5, 8)) == np.sort(whole)).all()
        lengths = np.array([len(ids) for ids in ordered["input_ids"]]).reshape(5, parts, -1)
        assert lengths[0, 0].max() == lengths.max(), "the longest first"
        assert (lengths[:, :-1].min(2) >= lengths[:, 1:].max(2)).all(), "and alike in length within each part"


def test_the_order_is_the_seed_s(rows):
    orders = [batching.length_grouped(rows, 4, 5, seed)["input_ids"] for seed in (0, 0, 1)]
    assert list(orders[0]) == list(orders[1])
    assert list(orders[0]) != list(orders[2])


def test_fewer_rows_than_a_batch_still_fill_it(rows):
    assert len(batching.length_grouped(rows.select(range(3)), 8, 2, 0)) == 16


def test_a_curriculum_keeps_the_batches_and_begins_with_the_fewest_labelled_tokens(rows):
    before = batching.length_grouped(rows.add_column("i", range(len(rows))), 4, 10, seed=0)
    trainer = SimpleNamespace(train_dataset=before, args=SimpleNamespace(per_device_train_batch_size=4))
    batching.short_answers_first(trainer)
    batches = [{tuple(row) for row in np.array(data["i"]).reshape(-1, 4)} for data in (before, trainer.train_dataset)]
    assert batches[0] == batches[1]
    labelled = np.array(
        [sum(label != encoding.IGNORE for label in labels) for labels in trainer.train_dataset["labels"]]
    )
    sums = labelled.reshape(-1, 4).sum(1)
    assert (np.diff(sums) >= 0).all()
    assert sums[0] < sums[-1]
    assert list(trainer.train_dataset["i"]) != list(before["i"])


def test_rows_end_to_end_have_no_padding_and_the_logits_they_have_alone(rows, smoke):
    model, tokenizer = smoke
    trainer = SimpleNamespace(processing_class=tokenizer)
    batching.pack(trainer)
    few = [rows[i] for i in range(4)]
    batch = trainer.data_collator(few)
    assert batch["input_ids"].shape == (1, sum(len(row["input_ids"]) for row in few))
    head = model.get_output_embeddings()
    with torch.no_grad():
        logits, targets = fast_paths.labelled_logits(model, head, batch)
        alone = [
            fast_paths.labelled_logits(model, head, {k: torch.tensor([row[k]]) for k in ("input_ids", "labels")})
            for row in few
        ]
        leaking = {k: batch[k] for k in ("input_ids", "labels")}
        seen, _ = fast_paths.labelled_logits(model, head, leaking)
    expected = torch.cat([pair[0] for pair in alone])
    assert targets.tolist() == torch.cat([pair[1] for pair in alone]).tolist()
    difference = (logits - expected).abs().max()
    assert difference < 1e-4
    assert (seen - expected).abs().max() > 100 * difference, "a leak would not be noticed"
