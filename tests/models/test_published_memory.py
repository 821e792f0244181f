import statistics

import pytest

from nbhelpers.core.errors import DataError, ModelError
from nbhelpers.models import memory, published_memory
from nbhelpers.models.shape import Shape


def test_published_peaks_are_predicted_within_the_limits():
    errors = published_memory.errors(published_memory.rows())["error"]
    assert len(errors) == 23
    assert statistics.median(abs(errors)) <= 0.10
    assert errors.max() <= 0.30
    assert errors.min() >= -0.10


def test_no_source_is_much_worse_than_the_others():
    errors = published_memory.errors(published_memory.rows())
    assert errors.groupby("source")["error"].apply(lambda x: abs(x).median()).max() <= 0.12


def test_the_unit_of_a_source_counts():
    row = next(row for row in published_memory.rows() if row["source"].startswith("litgpt tutorials"))
    assert row["measured"] == float(row["peak_gib"]) * 1e9
    row = next(row for row in published_memory.rows() if row["source"].startswith("torchtune"))
    assert row["measured"] == float(row["peak_gib"]) * 2**30


def test_a_source_without_its_assumptions_is_named(tmp_path):
    header, first = (published_memory.repository_root() / "data" / "published_memory.csv").read_text().splitlines()[:2]
    other = tmp_path / "other.csv"
    other.write_text(f"{header}\n{first.replace('torchtune README (meta-pytorch/torchtune)', 'a blog')}\n")
    with pytest.raises(DataError, match=r"'a blog'.*published_memory_assumed"):
        published_memory.rows(other)
    other.write_text(f"{header}\n{first.replace('Llama-3.1-8B', 'Llama-9')}\n")
    with pytest.raises(ModelError, match=r"'Llama-9'.*Llama-3.1-8B"):
        published_memory.rows(other)


# fitcheck-llm 0.3.1, data/measurements (MIT): peak_allocated_mib on a T4, LoRA of rank 32 on q, k, v and o, float16,
# gradient checkpointing: (hidden, inner, layers, heads, KV heads, head size, vocabulary, tied), settings, peak.
TINY_LLAMA = Shape(2048, 5632, 22, 32, 4, 64, 32000, False)
QWEN = Shape(1536, 8960, 28, 12, 2, 128, 151936, True)
SMOLLM = Shape(576, 1536, 30, 9, 3, 64, 49152, True)
T4 = [
    (QWEN, "lora", "sdpa", 1024, 2, 7402),
    (QWEN, "qlora", "sdpa", 1024, 2, 6828),
    (SMOLLM, "lora", "sdpa", 4096, 1, 3148),
    (SMOLLM, "lora", "eager", 4096, 1, 3180),
    (TINY_LLAMA, "lora", "sdpa", 2048, 2, 4354),
    (TINY_LLAMA, "qlora", "eager", 2048, 2, 6651),
    (TINY_LLAMA, "qlora", "sdpa", 1024, 12, 9372),
]


@pytest.mark.parametrize(("shape", "method", "attention", "length", "batch", "measured"), T4)
def test_peaks_measured_on_a_t4_are_predicted_to_five_percent(shape, method, attention, length, batch, measured):
    tokens = length * batch
    parts = memory.predict(
        shape, method, "float16", memory.Plan(tokens, tokens, tokens, tokens), 32, True, "cuda",
        target_modules=("q_proj", "k_proj", "v_proj", "o_proj"), attention=attention, max_length=length,
        unquantised_dtype="float32", four_bit_bytes=memory.FOUR_BIT_BYTES,
    )  # fmt: skip
    assert sum(parts.values()) / 2**20 == pytest.approx(measured, rel=0.05)
