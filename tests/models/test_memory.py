import gc
import threading

import psutil
import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from saved_tensors import kept

from nbhelpers.core import memory_usage
from nbhelpers.core.errors import ModelError, ResourceError
from nbhelpers.models import adapters, encoding, fast_paths, loading, memory, memory_limits

MIB = 2**20
IA3 = ["k_proj", "v_proj", "down_proj"]


def test_peak_sees_what_was_allocated_and_freed_within():
    with memory_usage.peak() as peak:
        block = torch.ones(50 * MIB)  # 200 MiB of float32
        del block
    assert 195 * MIB < peak.bytes < 230 * MIB


def test_a_second_peak_does_not_remember_the_first():
    with memory_usage.peak():
        block = torch.ones(50 * MIB)
        del block
    with memory_usage.peak() as peak:
        torch.ones(5 * MIB)
    assert peak.bytes < 40 * MIB


def test_sampling_agrees_where_the_kernel_has_no_mark_to_reset(monkeypatch):
    def refuse(self, text):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    sampled, plain = threading.Semaphore(0), psutil.Process.memory_info

    def counted(process):
        found = plain(process)
        sampled.release()
        return found

    monkeypatch.setattr(psutil.Process, "memory_info", counted)
    with memory_usage.peak() as peak:
        block = torch.ones(50 * MIB)
        while sampled.acquire(blocking=False):
            pass
        for _ in range(2):  # the first may have begun before the block was there
            assert sampled.acquire(timeout=600)
        del block
    assert 195 * MIB < peak.bytes < 230 * MIB


def test_free_gives_memory_back_to_the_machine():
    gc.collect()
    resident = psutil.Process().memory_info
    memory_usage.free()
    before = resident().rss
    kept = [[torch.ones(16_384), bytearray(64)] for _ in range(3_000)]  # 64 KiB each: from the heap, not mapped
    kept.append([kept])  # a cycle: only the collector finds it
    held = resident().rss - before
    last = torch.ones(16_384)  # lies above them, so the heap cannot shrink from its end
    del kept
    memory_usage.free()
    assert held > 180e6
    assert resident().rss - before < 20e6
    assert last.sum() == 16_384


def test_pages_are_kept_for_the_next_tensor_and_do_not_hide_a_peak():
    memory_usage.keep_pages()
    resident = psutil.Process().memory_info
    memory_usage.free()
    before = resident().rss
    block = torch.ones(50 * MIB)
    del block
    assert resident().rss - before > 195 * MIB
    with memory_usage.peak() as peak:
        torch.ones(50 * MIB)
    assert peak.bytes > 195 * MIB
    memory_usage.free()
    assert resident().rss - before < 20 * MIB


@pytest.fixture(scope="module")
def shape():
    return memory.Shape.of(loading.fetch("smoke"))


def test_shape_counts_the_parameters_of_the_real_model(shape, smoke):
    assert shape.parameters == sum(p.numel() for p in smoke[0].parameters())
    linear = [m for name, m in smoke[0].named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in name]
    assert shape.linear_parameters == sum(m.weight.numel() for m in linear)


@pytest.mark.parametrize("rank", [1, 8])
def test_lora_parameters_equal_what_peft_trains(shape, model, rank):
    wrapped = get_peft_model(model, LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert shape.lora_parameters(rank) == loading.count_parameters(wrapped)["trainable"]


def test_nf4_bytes_are_those_that_bitsandbytes_stores():
    import bitsandbytes.functional as bnb

    weight = torch.randn(1024, 1024)
    packed, state = bnb.quantize_4bit(weight, quant_type="nf4", blocksize=64, compress_statistics=True)
    stored = packed.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    assert stored / weight.numel() == pytest.approx(memory.NF4_BYTES, rel=0.01)


# Of the formulas of adapters: in bfloat16 some of what they keep is float32, and not every output of attention is kept.
CLOSE = {"float32": 0.05, "bfloat16": 0.12}


def adapted(model, config, dtype):
    """`(model, autocast)` as a trainer has them: the base in `dtype`, what is trained in float32."""
    wrapped = model.to(getattr(torch, dtype))
    if isinstance(config, adapters.Bottlenecks):
        adapters.add_bottlenecks(wrapped, config.size, config.layers)
    else:
        wrapped = get_peft_model(wrapped, config)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return wrapped, torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")


@pytest.mark.parametrize(
    ("method", "dtype", "stored"),
    [
        ("full", "float32", "float32"),
        ("full", "bfloat16", "float32"),
        ("lora", "float32", "float32"),
        ("lora", "bfloat16", "bfloat16"),
    ],
)
def test_predicted_activations_are_what_autograd_keeps(method, dtype, stored, shape, model):
    rows, length = 4, 64
    wrapped = model.to(getattr(torch, stored))
    if method == "lora":
        wrapped = get_peft_model(wrapped, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    ids = torch.randint(3, 2_000, (rows, length))
    batch = {"input_ids": ids, "labels": torch.where(torch.arange(length) == length - 1, ids, encoding.IGNORE)}
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
    with fast_paths.in_place_lora(wrapped), fast_paths.float32_attention("cpu"), kept(wrapped) as sizes, autocast:
        logits, _ = fast_paths.labelled_logits(wrapped, wrapped.get_output_embeddings(), batch)
    plan = memory.Plan(rows * length, rows, rows * length, rows)
    predicted = memory.predict(shape, method, dtype, plan, lora_rank=4, weights_dtype=stored)
    copies = predicted["weights"] - shape.parameters * memory.BYTES[stored]  # what autocast lowers, kept as well
    assert logits.requires_grad
    assert predicted["activations"] + copies == pytest.approx(sum(sizes), rel=0.05)


@pytest.mark.parametrize(
    ("config", "virtual"),
    [
        (LoraConfig(r=4, target_modules=["q_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM"), 0),
        (LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"), 0),
        (IA3Config(target_modules=IA3, feedforward_modules=IA3[-1:], task_type="CAUSAL_LM"), 0),
        (adapters.Bottlenecks(16), 0),
        (PromptTuningConfig(num_virtual_tokens=16, task_type="CAUSAL_LM"), 16),
    ],
    ids=["LoRA, attention", "LoRA", "IA3", "bottlenecks", "prompt tuning"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_adapter_keeps_what_its_formula_says(dtype, config, virtual, shape, model):
    rows, length = 4, 64
    wrapped, autocast = adapted(model, config, dtype)
    ids = torch.randint(3, 2_000, (rows, length))
    batch = {"input_ids": ids, "labels": torch.where(torch.arange(length) == length - 1, ids, encoding.IGNORE)}
    with fast_paths.in_place_lora(wrapped), fast_paths.float32_attention("cpu"), kept(wrapped) as sizes, autocast:
        fast_paths.labelled_logits(wrapped, wrapped.get_output_embeddings(), batch)
    tokens = rows * (length + virtual)
    plan, width = memory.Plan(tokens, rows, tokens, rows), adapters.kept_width(shape, config)
    predicted = memory.predict(shape, "lora", dtype, plan, adapter_width=width)["activations"]
    assert predicted == pytest.approx(sum(sizes), rel=CLOSE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dora_keeps_the_outputs_too(dtype, shape, model):
    config = LoraConfig(r=4, use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM")
    (wrapped, autocast), found, predicted = adapted(model, config, dtype), [], []
    for length in (32, 64):  # the difference, for PEFT also touches matrices that it lets go of at once
        ids = torch.randint(3, 2_000, (4, length))
        batch = {"input_ids": ids, "labels": torch.where(torch.arange(length) == length - 1, ids, encoding.IGNORE)}
        with fast_paths.in_place_lora(wrapped), fast_paths.float32_attention("cpu"), kept(wrapped) as sizes, autocast:
            fast_paths.labelled_logits(wrapped, wrapped.get_output_embeddings(), batch)
        found.append(sum(sizes))
        plan, width = memory.Plan(4 * length, 4, 4 * length, 4), adapters.kept_width(shape, config)
        predicted.append(memory.predict(shape, "lora", dtype, plan, adapter_width=width)["activations"])
    assert predicted[1] - predicted[0] == pytest.approx(found[1] - found[0], rel=CLOSE[dtype])


def test_quantisation_shrinks_the_weights_alone(shape):
    plan = memory.Plan(1_000, 100, 512, 50)
    lora, qlora = (memory.predict(shape, kind, "bfloat16", plan, device="cuda") for kind in ("lora", "qlora"))
    assert qlora["weights"] < lora["weights"]
    assert {part: qlora[part] for part in qlora if part != "weights"} == {p: lora[p] for p in lora if p != "weights"}


def test_full_fine_tuning_pays_for_every_weight(shape):
    plan = memory.Plan(1_000, 100, 512, 50)
    parts = memory.predict(shape, "full", "float32", plan, gradient_accumulation_steps=2)
    assert parts["gradients"] == 4 * (shape.parameters + shape.head_parameters)  # of the tied matrix one from each end
    assert parts["optimizer"] == 8 * shape.parameters


def test_gradients_take_the_place_of_activations_unless_they_accumulate(shape):
    long, short = memory.Plan(10_000, 100, 5_000, 50), memory.Plan(10, 1, 10, 1)
    head = 4 * shape.head_parameters  # its gradient is the first, and at the end it has a second one
    assert memory.predict(shape, "full", "float32", long)["gradients"] == head
    parts = memory.predict(shape, "full", "float32", short)
    assert parts["gradients"] == 4 * shape.parameters + head - parts["activations"] > head


def test_checkpointing_keeps_a_small_share_of_the_activations(shape):
    plan = memory.Plan(1_000, 100, 512, 50)
    plain, checkpointed = (memory.predict(shape, "lora", "bfloat16", plan, 4, flag) for flag in (False, True))
    assert checkpointed["activations"] < 0.5 * plain["activations"]


def test_only_a_cpu_pays_for_its_allocator(shape):
    plan = memory.Plan(1_000, 100, 512, 50)
    assert memory.predict(shape, "lora", "bfloat16", plan, device="cuda")["allocator"] == 0
    lora, qlora = (memory.predict(shape, kind, "bfloat16", plan)["allocator"] for kind in ("lora", "qlora"))
    assert 0 < lora < qlora, "four-bit weights are unpacked, layer by layer"


def test_refuses_only_beyond_its_error_margin():
    least = int(100 * MIB * (1 - memory_limits.ERROR_MARGIN))
    assert memory_limits.check(100 * MIB, 200 * MIB).startswith("predicted")
    assert memory_limits.check(100 * MIB, least + MIB).startswith("WARNING")
    with pytest.raises(ResourceError, match="per_device_train_batch_size"):
        memory_limits.check(100 * MIB, least - MIB)
    assert memory_limits.check(100 * MIB, least - MIB, force=True).startswith("WARNING")


def test_a_refusal_names_the_three_cheapest_changes_that_fit():
    changes = [("a", 90 * MIB), ("b", 40 * MIB), ("c", 30 * MIB), ("d", 20 * MIB), ("e", 10 * MIB)]
    with pytest.raises(ResourceError, match=r"cheapest first: b: 0\.04 GiB; c: 0\.03 GiB; d: 0\.02 GiB, or set force"):
        memory_limits.check(100 * MIB, 50 * MIB, changes=changes)


def test_ignore_is_the_label_that_torch_ignores():
    assert torch.nn.CrossEntropyLoss().ignore_index == encoding.IGNORE


@pytest.mark.parametrize(
    ("error", "exhausted"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error, exhausted):
    assert memory_usage.is_exhausted(error) == exhausted


def test_what_a_tensor_takes_is_held_and_given_back():
    before = memory_usage.held()
    block = torch.ones(2**24)
    assert memory_usage.held() - before == pytest.approx(2**26, rel=0.1)
    del block
    assert memory_usage.held() - before < 2**24


def test_the_batch_size_is_the_largest_that_fits():
    def peak(size):
        return 100 + 10 * size

    assert memory_limits.fitting_batch_size(peak, 100 + 10 * 8) == 8
    assert memory_limits.fitting_batch_size(peak, 100 + 10 * 15) == 8
    assert memory_limits.fitting_batch_size(peak, 10**9, largest=32) == 32
    assert memory_limits.fitting_batch_size(peak, 105) == 0


@pytest.mark.parametrize(
    ("name", "optim"),
    [("AdamW", "adamw_torch"), ("AdamW8bit", "adamw_bnb_8bit"), ("Adafactor", "adafactor")],
    ids=["AdamW", "8 bits", "Adafactor"],
)
def test_what_an_optimizer_keeps_is_what_is_predicted(name, optim, model, smoke):
    import bitsandbytes
    from transformers.optimization import Adafactor

    kinds = {"AdamW": torch.optim.AdamW, "AdamW8bit": bitsandbytes.optim.AdamW8bit, "Adafactor": Adafactor}
    if name == "AdamW8bit":  # as the Trainer does
        manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
        manager.register_module_override(model.get_input_embeddings(), "weight", {"optim_bits": 32})
    options = {"scale_parameter": False, "relative_step": False} if name == "Adafactor" else {}
    optimizer = kinds[name](model.parameters(), lr=1e-3, **options)
    for weight in model.parameters():
        weight.grad = torch.full_like(weight, 1e-3)
    optimizer.step()
    maps = ("qmap1", "qmap2")  # one table of levels, shared
    kept_bytes = sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for key, value in state.items()
        if torch.is_tensor(value) and value.numel() > 1 and key not in maps
    )
    shape = memory.Shape.from_config(model.config.to_dict())
    plan = memory.Plan(100, 10, 100, 10)
    predicted = memory.predict(shape, "full", "float32", plan, optim=optim)["optimizer"]
    assert predicted == pytest.approx(kept_bytes, rel=0.1)


def test_a_model_of_another_kind_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"n_head": 12, "n_embd": 768}')
    with pytest.raises(ModelError, match=r"has no 'intermediate_size', so that memory and time are not known for this"):
        memory.Shape.of(tmp_path)
    (tmp_path / "config.json").write_text('{"n_head": 12, "n_embd": 768, "n_inner": null, "model_type": "mpt"}')
    with pytest.raises(ModelError, match="'intermediate_size'"):
        memory.Shape.of(tmp_path)
