import contextlib
import copy
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import trl
from closeness import assert_same
from peft import LoraConfig
from small_run import CPU, run

from nbhelpers.core import memory_usage
from nbhelpers.core.errors import AuditError, DivergedError, NotebookError
from nbhelpers.core.hardware import Hardware
from nbhelpers.core.storage import repository_root
from nbhelpers.models import encoding, fast_paths, loading, memory, memory_limits
from nbhelpers.training import batching, callbacks, forecast, row_encoding, sft

LORA = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
T4 = Hardware("cpu", 2, 2**34, "Tesla T4", 2**34, "Linux")


@pytest.fixture(scope="module")
def rows(smoke):
    rng = np.random.default_rng(0)
    words = ["read", "write", "the", "file", "name", "returns", "list", "of", "every", "value", "open", "close", "path"]

    def conversation():
        q, a = (" ".join(rng.choice(words, rng.integers(2, 30))) for _ in range(2))
        return encoding.encode([{"role": "user", "content": q}, {"role": "assistant", "content": a}], smoke[1])

    return datasets.Dataset.from_list([conversation() for _ in range(40)])


def gradients(trainer_class, model, tokenizer, rows, tmp_path, peft_config=None):
    """Loss and gradients of one batch as this trainer computes them, with the batch's own count of labelled tokens."""
    config = sft.sft_config(run(tmp_path))
    torch.manual_seed(0)
    options = {"train_dataset": rows, "processing_class": tokenizer, "peft_config": peft_config}
    trainer = trainer_class(model, config, **options)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:  # it starts at zero, which would hide A's gradient
            torch.nn.init.normal_(parameter, std=0.05)
    batch = trainer.data_collator([rows[i] for i in range(6)])
    assert not batch["attention_mask"].all(), "without padding there is nothing to test"
    count = (batch["labels"][:, 1:] != encoding.IGNORE).sum()
    fast = fast_paths.in_place_lora if trainer_class is sft.SFTTrainer else contextlib.nullcontext
    with fast(trainer.model):
        loss = trainer.compute_loss(trainer.model.train(), batch, num_items_in_batch=count)
        loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "LoRA"])
def test_loss_and_gradients_equal_trl_s(adapter, smoke, tokenizer, rows, tmp_path):
    ours = gradients(sft.SFTTrainer, copy.deepcopy(smoke[0]), tokenizer, rows, tmp_path, adapter)
    theirs = gradients(trl.SFTTrainer, copy.deepcopy(smoke[0]), tokenizer, rows, tmp_path, adapter)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours[1].keys() == theirs[1].keys()
    for name, gradient in theirs[1].items():
        assert_same(ours[1][name], gradient, name)


@pytest.mark.parametrize("factor", [0.0, 0.2])
def test_label_smoothing_is_that_of_transformers(factor, tmp_path, rows, smoke):
    from transformers.trainer_pt_utils import LabelSmoother

    model, tokenizer = (copy.deepcopy(part) for part in smoke)
    trainer = sft.sft_trainer(run(tmp_path), model, tokenizer, rows, label_smoothing_factor=factor)
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        ours = trainer.compute_loss(model.eval(), dict(batch))
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        theirs = LabelSmoother(factor)(output, batch["labels"], shift_labels=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_collator_that_masks_the_end_stops_the_run_before_the_first_step(tmp_path, rows, smoke):
    from transformers import DataCollatorForLanguageModeling

    model, tokenizer = (copy.deepcopy(part) for part in smoke)
    tokenizer.pad_token = tokenizer.eos_token
    trainer = sft.sft_trainer(run(tmp_path), model, tokenizer, rows, max_steps=1)
    sft.audit_batch(trainer)
    masks = DataCollatorForLanguageModeling(tokenizer, mlm=False)  # its labels are the ids, padding masked
    trainer.data_collator = lambda batch: masks([{"input_ids": row["input_ids"]} for row in batch])
    with pytest.raises(AuditError, match=r"takes \d+ of \d+ labels of the first batch away: '<\|im_end\|>'"):
        sft.train(trainer)
    assert trainer.state.global_step == 0


def curve(trainer_class, rows, tmp_path, seed):
    """The losses of 30 steps of LoRA under bfloat16 autocast: same rows in the same order, `seed` sets the adapter."""
    model, tokenizer = loading.load("smoke", "bfloat16")
    torch.manual_seed(seed)
    r = run(tmp_path, dtype="bfloat16", max_steps=30, learning_rate=3e-3, seed=seed)
    ordered = batching.length_grouped(rows, 4, 30, seed=0)
    trainer = trainer_class(
        model, sft.sft_config(r), train_dataset=ordered, processing_class=tokenizer, peft_config=LORA
    )
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    trainer.train()
    return np.array([float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry])


@pytest.mark.slow
def test_in_bfloat16_thirty_steps_go_as_with_trl(rows, tmp_path):
    seeds = range(4)
    ours = np.array([curve(sft.SFTTrainer, rows, tmp_path, seed) for seed in seeds])
    theirs = np.array([curve(trl.SFTTrainer, rows, tmp_path, seed) for seed in seeds])
    noise = theirs.std(0, ddof=1).mean()
    assert ours.shape == (4, 30)
    assert ours[:, -5:].mean() < ours[:, :5].mean() - 0.3, "nothing was learned, so that agreement says nothing"
    assert np.abs(ours - theirs).mean() < noise


def distances(found, expected):
    """How far each row of logits is from each of the others, computed without the shortcut that rounds."""
    return torch.cdist(found, expected, compute_mode="donot_use_mm_for_euclid_dist")


def test_packed_rows_train_as_they_do_alone(model, tokenizer, rows, tmp_path):
    """Every labelled token of a packed row has the logits that it has alone: no row sees its neighbour."""
    r = run(tmp_path, max_steps=4, per_device_train_batch_size=1)
    trainer = sft.sft_trainer(r, model, tokenizer, rows.select(range(4)), packing=True, max_length=512)
    packed = trainer.data_collator([trainer.train_dataset[0]])
    assert "attention_mask" not in packed
    assert len({int(i) for i in packed["position_ids"].flatten()}) < packed["input_ids"].numel(), "nothing was packed"
    logits, targets = fast_paths.labelled_logits(model, model.get_output_embeddings(), packed)
    alone = [
        fast_paths.labelled_logits(
            model, model.get_output_embeddings(), {k: torch.tensor([row[k]]) for k in ("input_ids", "labels")}
        )
        for row in rows.select(range(4))
    ]
    expected = torch.cat([piece for piece, _ in alone])
    order = torch.cat([wanted for _, wanted in alone])
    assert sorted(targets.tolist()) == sorted(order.tolist())
    difference = distances(logits, expected).min(1).values.max()
    assert difference < 1e-3
    leaking = packed | {"attention_mask": torch.ones_like(packed["input_ids"]), "position_ids": None}
    leaking["attention_mask"][:, 0] = 0  # padding on the left: the mask is not left out
    seen, _ = fast_paths.labelled_logits(model, model.get_output_embeddings(), leaking)
    assert distances(seen, expected).min(1).values.max() > 100 * difference, "a leak would not be noticed"


def test_tokens_counted_before_are_those_trained_on(model, tokenizer, rows, tmp_path):
    r = run(tmp_path, gradient_accumulation_steps=2)
    plan = forecast.count_tokens(r, rows)
    trainer = sft.sft_trainer(r, model, tokenizer, rows)
    result = sft.train(trainer)
    assert result.tokens == plan.tokens
    assert len(result.losses) == 3
    assert result.tokens_per_second > 0
    assert plan.largest_batch_tokens >= plan.tokens / 6


def test_training_lowers_the_loss(model, tokenizer, rows, tmp_path):
    r = run(tmp_path, max_steps=30, learning_rate=3e-3)
    losses = sft.train(sft.sft_trainer(r, model, tokenizer, rows)).losses
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 1


@pytest.mark.parametrize("kind", ["full", "lora", "checkpointing"])
def test_attention_is_trained_in_float32_whatever_else_is(kind, model, tokenizer, rows, tmp_path, monkeypatch):
    plain, seen = torch.nn.functional.scaled_dot_product_attention, []

    def watched(query, *args, **kwargs):
        if torch.is_grad_enabled():
            seen.append((query.dtype, torch.is_autocast_enabled("cpu")))
        return plain(query, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    r = run(tmp_path, dtype="bfloat16", gradient_checkpointing=kind == "checkpointing")
    model = model.bfloat16() if kind == "lora" else model
    trainer = sft.sft_trainer(r, model, tokenizer, rows, LORA if kind == "lora" else None)
    sft.train(trainer)
    assert seen
    assert set(seen) == {(torch.float32, False)}


def test_a_loss_that_is_not_finite_stops_the_run(model, tokenizer, rows, tmp_path):
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(NotebookError, match="Lower learning_rate"):
        sft.train(sft.sft_trainer(run(tmp_path), model, tokenizer, rows))


def test_the_audit_comes_before_the_first_step(model, tokenizer, rows, tmp_path):
    masked = rows.map(lambda row: {"labels": [encoding.IGNORE] * len(row["labels"])})
    with pytest.raises(AuditError, match="no label"):
        sft.sft_trainer(run(tmp_path), model, tokenizer, masked)


@pytest.mark.parametrize("quantized", [False, True])
def test_adapters_of_both_kinds_train_in_float32(quantized, tokenizer, rows, tmp_path):
    model, _ = loading.load(
        "smoke", "bfloat16", quantization_config=loading.four_bit("bfloat16") if quantized else None
    )
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = sft.sft_trainer(run(tmp_path, dtype="bfloat16"), model, tokenizer, rows, lora)
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    assert trained
    assert {p.dtype for p in trained} == {torch.float32}
    frozen = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if not p.requires_grad}
    before = [p.detach().clone() for p in trained]
    sft.train(trainer)
    assert any(not torch.equal(a, b) for a, b in zip(before, trained, strict=True))
    for name, p in trainer.model.named_parameters():
        if name in frozen:
            assert torch.equal(p, frozen[name]), name


@pytest.mark.parametrize(
    ("hardware", "dtype", "expected"),
    [
        (CPU, "float32", {"bf16": False, "fp16": False, "use_cpu": True}),
        (CPU, "bfloat16", {"bf16": True, "fp16": False, "use_cpu": True}),
        (T4, "float16", {"bf16": False, "fp16": True, "use_cpu": False}),
        (T4, "bfloat16", {"bf16": True, "fp16": False, "use_cpu": False}),
    ],
)
def test_precision_and_device_follow_the_hardware(hardware, dtype, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(sft, "SFTConfig", dict)
    config = sft.sft_config(run(tmp_path, hardware, dtype))
    assert expected.items() <= config.items()
    assert config["logging_nan_inf_filter"] is False


def test_a_forecast_is_recorded_beside_its_measurement(model, tokenizer, rows, tmp_path):

    r = run(tmp_path)
    expected = forecast.forecast(r, "full", "full", rows)
    predicted = dict(r.recorded)
    with memory_usage.peak() as peak:
        result = sft.train(sft.sft_trainer(r, model, tokenizer, rows))
    frame = forecast.measured(r, {"full": expected}, {"full": result}, {"full": peak})
    assert predicted.keys() <= r.recorded.keys()
    assert predicted["full.peak_memory_bytes"] == sum(expected.parts.values())
    assert frame.loc["full", ("", "tokens/s")] > 0


OUT_OF_MEMORY = """
import resource, sys
from pathlib import Path
import test_sft as t
from nbhelpers.models import encoding, loading
from nbhelpers.training import sft
import datasets
model, tokenizer = loading.load("smoke", "float32")
turns = [{"role": "user", "content": "a b c d " * 220}, {"role": "assistant", "content": "e f g h " * 20}]
rows = datasets.Dataset.from_list([encoding.encode(turns, tokenizer)] * 16)
trainer = sft.sft_trainer(t.run(Path(sys.argv[1]), per_device_train_batch_size=16), model, tokenizer, rows)
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 150 * 2**20, -1))
sft.train(trainer)
"""


def test_running_out_of_memory_ends_with_what_would_fit(tmp_path):
    here = Path(__file__)
    command = [sys.executable, "-c", OUT_OF_MEMORY, str(tmp_path)]
    search_path = os.pathsep.join([str(repository_root()), str(here.parent.parent), str(here.parent)])
    environment = os.environ | {"PYTHONPATH": search_path}
    child = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert child.returncode == 1
    message = child.stderr.rpartition("ResourceError: ")[2]
    found = re.match(r"Out of memory at step 1: 16 rows a batch, the longest of (\d+) tokens, ([\d,]+) tokens", message)
    assert found, child.stderr[-2_000:]
    assert int(found[2].replace(",", "")) == 16 * int(found[1])
    now = int(re.search(r"Predicted peak ([\d,]+) MiB", message)[1].replace(",", ""))
    remedies = re.findall(r"  - (.*): ([\d,]+) MiB \(-(\d+)%\)", message)
    assert len(remedies) == 3
    assert remedies[0][0].startswith("per_device_train_batch_size=8, gradient_accumulation_steps=2")
    assert all(int(peak.replace(",", "")) < now for _, peak, _ in remedies)


def test_every_remedy_lowers_the_predicted_peak_and_the_cheapest_comes_first():
    shape = memory.Shape(576, 1536, 30, 9, 3, 64, 49152, True)
    plan = memory.Plan(10_000, 2_000, 2_048, 400)
    now, changes = memory_limits.remedies(shape, "full", "bfloat16", plan, 8)
    assert [change.split()[0] for change, _ in changes][:3] == [
        "per_device_train_batch_size=4,",
        "gradient_checkpointing=True",
        "LoRA",
    ]
    assert all(0 < peak < now for _, peak in changes)
    assert "a third more time" in changes[1][0]
    _, frozen = memory_limits.remedies(shape, "lora", "bfloat16", plan, 3, gradient_accumulation_steps=2)
    assert frozen[0][0].startswith("per_device_train_batch_size=1, gradient_accumulation_steps=6"), "no half of three"
    assert frozen[1][0] == "gradient_checkpointing=True (half more time)"
    _, changes = memory_limits.remedies(shape, "qlora", "bfloat16", plan, 1, gradient_checkpointing=True)
    assert [change.split()[0] for change, _ in changes] == ["half"]


def test_another_error_is_not_taken_for_a_lack_of_memory(model, tokenizer, rows, tmp_path):
    trainer = sft.sft_trainer(run(tmp_path), model, tokenizer, rows)

    def broken(*args, **kwargs):
        raise RuntimeError("shapes do not fit")

    trainer.compute_loss = broken
    with pytest.raises(RuntimeError, match="shapes do not fit") as caught:
        sft.train(trainer)
    assert not isinstance(caught.value, NotebookError)


def test_the_adapter_begins_the_same_whatever_ran_before(smoke, tokenizer, rows, tmp_path):
    def first():
        trainer = sft.sft_trainer(run(tmp_path), copy.deepcopy(smoke[0]), tokenizer, rows, LORA)
        return next(p for name, p in trainer.model.named_parameters() if "lora_A" in name).detach().clone()

    one = first()
    torch.randn(100)
    assert torch.equal(first(), one)


def test_trained_weights_are_kept_in_float32():
    assert memory.weights_dtype("full", "bfloat16") == "float32"
    assert memory.weights_dtype("lora", "bfloat16") == memory.weights_dtype("qlora", "bfloat16") == "bfloat16"


def test_rows_are_encoded_counted_and_even_over_tasks(tokenizer, tmp_path, capsys):
    def row(i, task):
        messages = [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": "word " * (1 + i)}]
        return {"id": str(i), "task": task, "package": f"p{i % 3}", "messages": messages, "reference": "x"}

    table = datasets.Dataset.from_list([row(i, ("summary", "parameters")[i % 2]) for i in range(60)])
    source = SimpleNamespace(train=table, test=table)
    settings = run(tmp_path, eval_rows=3, max_length=40)
    train_rows, scored = row_encoding.encode_source(settings, source, tokenizer, ["summary", "parameters"], count=30)
    assert sorted(scored["task"]) == ["parameters"] * 3 + ["summary"] * 3
    assert len(train_rows) <= 30
    assert max(map(len, train_rows["input_ids"])) <= 40
    assert "30 rows read" in capsys.readouterr().out


def test_a_training_moves_a_bar_in_a_live_notebook_and_its_first_step_is_no_measure_of_the_others(monkeypatch, capsys):
    bar, clock = SimpleNamespace(done=0, closed=False), [0.0]
    bar.update = lambda count: setattr(bar, "done", bar.done + count)
    bar.close = lambda: setattr(bar, "closed", True)
    monkeypatch.setattr(callbacks.progress, "live_bar", lambda what, total: bar if total == 10 else None)
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: clock[0])
    args, state = SimpleNamespace(fp16=False, learning_rate=1e-3), SimpleNamespace(global_step=0, max_steps=10)
    watch = callbacks.Watch()
    watch.on_train_begin(args, state, None)
    for seconds in (50, *[2] * 9):
        watch.on_step_begin(args, state, None)
        clock[0] += seconds
        state.global_step += 1
        watch.on_step_end(args, state, None)
        watch.on_log(args, state, None, {"loss": 2.0, "grad_norm": 1.0})
    watch.on_train_end(args, state, None)
    assert (bar.done, bar.closed) == (10, True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["step 1/10  loss 2.000  450 s to go", "step 2/10  loss 2.000  16 s to go"]
    assert lines[-1] == "step 10/10  loss 2.000  0 s to go"


@pytest.mark.parametrize(("fp16", "skipped"), [(False, 0), (True, 2), (True, 19)])
def test_a_float16_training_may_skip_steps_until_its_loss_scale_fits(fp16, skipped):
    args, state = SimpleNamespace(fp16=fp16, learning_rate=1e-3), SimpleNamespace(global_step=1, max_steps=1_000)
    watch = callbacks.Watch()
    watch.on_train_begin(args, state, None)
    for norm in (*["inf"] * skipped, "1.0", *["nan"] * skipped):
        watch.on_log(args, state, None, {"loss": 2.0, "grad_norm": norm})
    for _ in range(callbacks.SKIPPED - 1 - skipped if fp16 else 0):
        watch.on_log(args, state, None, {"loss": 2.0, "grad_norm": "inf"})
    with pytest.raises(DivergedError, match="The gradient norm is inf"):
        watch.on_log(args, state, None, {"loss": 2.0, "grad_norm": "inf"})
    with pytest.raises(DivergedError, match="The loss is nan"):
        watch.on_log(args, state, None, {"loss": "nan", "grad_norm": 1.0})


def test_a_float16_training_that_skipped_every_step_has_not_learned():
    args, state = SimpleNamespace(fp16=True, learning_rate=1e-3), SimpleNamespace(global_step=1, max_steps=1_000)
    watch = callbacks.Watch()
    watch.on_train_begin(args, state, None)
    watch.on_train_end(args, state, None)
    for _ in range(4):
        watch.on_log(args, state, None, {"loss": 2.0, "grad_norm": "inf"})
    with pytest.raises(DivergedError, match="All 4 steps were skipped"):
        watch.on_train_end(args, state, None)
    watch.on_log(args, state, None, {"loss": 2.0, "grad_norm": 1.0})
    watch.on_train_end(args, state, None)


def test_a_dora_on_four_bits_is_still_a_dora():
    shape = memory.Shape(576, 1536, 30, 9, 3, 64, 49152, True)
    plan = memory.Plan(10_000, 2_000, 2_048, 400)
    dora = {"adapter_parameters": 5_040_000, "adapter_width": 20_000}
    _, changes = memory_limits.remedies(shape, "lora", "bfloat16", plan, 8, device="cuda", **dora)
    told = dict(changes)["QLoRA: the base in four bits"]
    expected = memory.predict(shape, "qlora", "bfloat16", plan, weights_dtype="bfloat16", device="cuda", **dora)
    assert told == sum(expected.values())
