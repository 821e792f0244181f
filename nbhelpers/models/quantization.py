"""A model with its matrices in fewer bits, by the libraries that servers read: torchao, bitsandbytes, llm-compressor.

Embeddings and the output head keep their precision: they are one matrix in many small models, every token's choice
depends on it, and a library that quantises the one breaks the tie to the other.
"""

from pathlib import Path

from nbhelpers.core.errors import DataError, ModelError

FEW_ROWS = 128  # calibration rows below which GPTQ's statistics are said to be thin


def matrices(model) -> dict[str, tuple[int, int]]:
    """Name -> shape of every linear layer but the head: what is quantised."""
    import torch

    head = model.get_output_embeddings()
    return {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }


def group_size(model, wanted: int = 128) -> int:
    """The largest power of two up to `wanted` that divides the rows of every matrix, so that each group is whole.

    Raises:
        ModelError: not even 16 does; names the matrices.
    """
    columns = {name: shape[1] for name, shape in matrices(model).items()}
    size = 1 << (wanted.bit_length() - 1)
    while size >= 16:
        odd = sorted({name.rpartition(".")[2] for name, width in columns.items() if width % size})
        if not odd:
            if size < wanted:
                print(f"groups of {size}: {wanted} does not divide every matrix of this model")
            return size
        size //= 2
    raise ModelError(f"No group size from 16 to {wanted} divides the rows of {', '.join(odd)}: quantise per channel.")


def int8():
    """Weights in int8 with a scale for each row, by torchao; activations as they are. For `loading.load`."""
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=["lm_head"])


def by_torchao(matrix):
    """A matrix as torchao's weight-only int8 stores it, as floats again: of the same shape."""
    import torch
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    layer = torch.nn.Linear(*matrix.shape[::-1], bias=False)
    layer.weight.data = matrix.clone()
    quantize_(layer, Int8WeightOnlyConfig())
    return layer.weight.dequantize()


def gptq(source: str, folder: Path, rows: list[list[int]], dtype: str, size: int, bits: int = 4) -> dict:
    """GPTQ (Frantar et al. 2022, https://arxiv.org/abs/2210.17323) by llm-compressor, saved as `compressed-tensors`.

    Meant for a process of its own (`core.process`): the library prints a page and keeps memory.

    Args:
        source: folder of the unquantised model.
        folder: where the quantised one is written, with its tokenizer.
        rows: token ids of calibration texts, without padding.
        size: numbers that share a scale, see `group_size`.

    Returns: `{"rows", "tokens"}` of the calibration.

    Raises:
        DataError: no calibration rows.
    """
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.gptq import GPTQModifier

    weights = QuantizationArgs(num_bits=bits, group_size=size, strategy="group", symmetric=True)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    return compress(source, folder, rows, dtype, GPTQModifier(config_groups={"weights": scheme}, ignore=["lm_head"]))


def compress(source: str, folder: Path, rows: list[list[int]], dtype: str, recipe) -> dict:
    """Apply a recipe of llm-compressor to a model and save it as `compressed-tensors`; arguments as for `gptq`."""
    import datasets
    from llmcompressor import oneshot

    from nbhelpers.models import loading

    if not rows or not all(rows):
        raise DataError(f"It needs calibration texts: {len(rows)} rows were given, of which none may be empty.")
    model, tokenizer = loading.load(source, dtype)
    given = datasets.Dataset.from_list([{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows])
    longest = max(map(len, rows))
    oneshot(model=model, dataset=given, recipe=recipe, num_calibration_samples=len(rows), max_seq_length=longest)
    model.save_pretrained(folder, save_compressed=True)
    tokenizer.save_pretrained(folder)
    return {"rows": len(rows), "tokens": sum(map(len, rows))}


def describe_calibration(rows: list[list[int]]) -> str:
    """One line on the calibration rows; says where they are few."""
    tokens = sum(map(len, rows))
    thin = f"; fewer than {FEW_ROWS} rows: a longer calibration may do better" if len(rows) < FEW_ROWS else ""
    return f"calibration: {len(rows)} rows, {tokens:,} tokens{thin}"
