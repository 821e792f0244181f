"""One number format, made from the merged model and measured: the jobs of `notebooks/studies/06_formats`.

A format that this machine cannot make or run is a result too: `left_out` says why.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from nbhelpers.core import memory_usage
from nbhelpers.core.errors import NotebookError
from nbhelpers.evaluation import fidelity, latency
from nbhelpers.models import gguf_files, loading, quantization, saving
from nbhelpers.serving import llama_cpp, server
from nbhelpers.studies import variant


@dataclass(frozen=True)
class Format:
    """How a format is made.

    kind: `plain` (a dtype), `torchao`, `bitsandbytes`, `calibrated` (llm-compressor), `gguf`, `trained`
        (quantisation-aware, or the same steps without), or `compiled`.
    settings: of the function of that kind below.
    """

    kind: str
    settings: dict = field(default_factory=dict)


def measure(
    run, fmt: Format, merged: Path, held_out, rows, prompt: list[int], calibration, train, folder: Path
) -> dict:
    """Make a format in `folder`, load it as a server would, and measure it.

    Args:
        merged: folder of the unquantised model.
        held_out: encoded rows, whose first twelve give the logits that are compared.
        rows: rows whose answers are scored.
        prompt: token ids that the speeds are measured with.
        calibration: token ids of training rows, for `calibrated`.
        train: encoded training rows, for `trained`.

    Returns: `bytes` on disk, `load_seconds`, `peak_memory_bytes` of loading and reading a prompt, `prefill` and
    `decode` (tokens a second), `kl`, `agreement`, `logit_difference` (a value a row), and what `variant.measure` finds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    given = {"calibration": calibration, "train": train}
    needed = {name: value for name, value in given.items() if name in NEEDS.get(fmt.kind, ())}
    try:
        file = MAKERS[fmt.kind](run, merged, folder, **needed, **fmt.settings)
        return _measured(run, fmt, file, merged, held_out, rows, prompt)
    except NotebookError:
        raise
    except Exception as error:  # a library that has no kernel for this machine says so in many ways
        return {"left_out": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160] if str(error) else ''}"}


def _measured(run, fmt: Format, file: Path, merged: Path, held_out, rows, prompt: list[int]) -> dict:
    p, device, log = run.parameters, run.hardware.device, file.with_suffix(".server.log")
    tokens = max(4, p.max_new_tokens // 2)
    memory_usage.free()
    found: dict = {"bytes": file.stat().st_size if file.is_file() else saving.folder_bytes(file)}
    started = time.perf_counter()
    if fmt.kind == "gguf":  # llama.cpp has the speed; the model that transformers reads has the rest
        with server.serve(llama_cpp.command(file, run.hardware.cores), log) as running:
            found["load_seconds"] = time.perf_counter() - started
            _, speeds = llama_cpp.answers(running.url, [prompt], tokens)
        model, _ = gguf_files.read(file, run.dtype)
        found |= {"prefill": speeds["prefill tokens/s"], "decode": speeds["decode tokens/s"]}
    else:
        with memory_usage.peak(device) as peak:
            model, _ = loading.load(str(file), fmt.settings.get("dtype", run.dtype), device)
            found["load_seconds"] = time.perf_counter() - started
            saving.logits(model, torch.tensor([prompt]))
        found["peak_memory_bytes"] = peak.bytes
        timed = torch.compile(model) if fmt.kind == "compiled" else model
        found["prefill"], found["decode"] = latency.speeds(timed, prompt, tokens)
    exact, _ = loading.load(str(merged), run.dtype, device)
    near = fidelity.compare(model.to(device), exact, held_out["input_ids"][:12])
    found |= {"kl": near.kl, "agreement": near.agreement, "logit_difference": near.logit_difference}
    del exact
    memory_usage.free()
    return found | variant.measure(run, model, rows, timed=False)


def plain(run, merged: Path, folder: Path, dtype: str = "float32") -> Path:
    """The weights in another dtype."""
    model, tokenizer = loading.load(str(merged), "float32")
    saving.save(model.to(getattr(torch, dtype)), tokenizer, folder)
    return folder


def torchao(run, merged: Path, folder: Path, name: str, size: int = 64) -> Path:
    """By torchao: `int8` and `int4` weights alone, `int8 dynamic`: activations too, with scales of the moment."""
    from torchao.quantization import (
        Int8DynamicActivationInt8WeightConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        PerGroup,
    )
    from transformers import TorchAoConfig

    by_name: dict[str, Callable] = {
        "int8": Int8WeightOnlyConfig,
        "int8 dynamic": Int8DynamicActivationInt8WeightConfig,
        "int4": lambda: IntxWeightOnlyConfig(torch.int4, PerGroup(size)),
    }
    config = TorchAoConfig(by_name[name](), modules_to_not_convert=["lm_head"])
    model, tokenizer = loading.load(str(merged), run.dtype, run.hardware.device, config)
    saving.save(model, tokenizer, folder)
    return folder


def bitsandbytes(run, merged: Path, folder: Path, **settings) -> Path:
    """By bitsandbytes: `load_in_8bit` (LLM.int8), or `load_in_4bit` with its type and double quantisation."""
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(**settings, bnb_4bit_compute_dtype=getattr(torch, run.dtype))
    model, tokenizer = loading.load(str(merged), run.dtype, run.hardware.device, config)
    saving.save(model, tokenizer, folder)
    return folder


def calibrated(
    run, merged: Path, folder: Path, calibration, method: str, bits: int = 4, size: int = 64, rows: int | None = None
) -> Path:
    """By llm-compressor: `gptq` and `awq` (weights in groups), `static` and `dynamic` (int8 weights and activations).

    Args:
        rows: of the calibration texts; None: all.
    """
    texts = calibration[:rows]
    if method == "gptq":
        quantization.gptq(str(merged), folder, texts, run.dtype, size, bits)
        return folder
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.quantization import QuantizationModifier

    weights = QuantizationArgs(num_bits=8, strategy="channel", symmetric=True)
    inputs = {
        "static": QuantizationArgs(num_bits=8, strategy="tensor", symmetric=True, dynamic=False),
        "dynamic": QuantizationArgs(num_bits=8, strategy="token", symmetric=True, dynamic=True),
        "awq": None,
    }[method]
    before = []
    if method == "awq":
        from llmcompressor.modifiers.transform.awq import AWQModifier
        from llmcompressor.pipelines.cache import IntermediatesCache

        weights = QuantizationArgs(num_bits=bits, group_size=size, strategy="group", symmetric=True)
        before = [AWQModifier(n_grid=4)]
        if run.hardware.device == "cpu":  # it pins memory for a GPU that is not there
            IntermediatesCache.pin_memory = lambda *_, **__: None
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs)
    recipe = [*before, QuantizationModifier(config_groups={"all": scheme}, ignore=["lm_head"])]
    quantization.compress(str(merged), folder, texts, run.dtype, recipe)
    return folder


def gguf(run, merged: Path, folder: Path, kind: str) -> Path:
    """A GGUF file for llama.cpp."""
    model, tokenizer = loading.load(str(merged), "float32")
    gguf_files.write(model, tokenizer, folder / f"model-{kind}.gguf", kind)
    return folder / f"model-{kind}.gguf"


def trained(
    run, merged: Path, folder: Path, train, aware: bool, size: int = 64, steps: int = 20, rate: float = 2e-5
) -> Path:
    """Four-bit weights after steps of full fine-tuning, with the rounding in the forward pass (`aware`) or without.

    Rounding passes gradients straight through (Jacob et al. 2018, section 3). Saved as the floats that the rounded
    weights stand for, so that quality is measured and speed is not.
    """
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_
    from torchao.quantization.qat import QATConfig

    model, tokenizer = loading.load(str(merged), "float32")
    base = IntxWeightOnlyConfig(torch.int4, PerGroup(size))
    chosen = quantization.matrices(model).keys()

    def is_chosen(_, name: str) -> bool:
        return name in chosen

    if aware:
        quantize_(model, QATConfig(base, step="prepare"), is_chosen)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(run.parameters.seed)
    for _ in range(steps):
        for row in torch.randint(len(train), (4,), generator=generator).tolist():
            ids, labels = (torch.tensor([train[row][key]]) for key in ("input_ids", "labels"))
            (model(input_ids=ids, labels=labels).loss / 4).backward()
        optimizer.step()
        optimizer.zero_grad()
    quantize_(model, QATConfig(base, step="convert") if aware else base, is_chosen)
    for name in chosen:
        module = model.get_submodule(name)
        module.weight = torch.nn.Parameter(module.weight.dequantize().float(), requires_grad=False)
    saving.save(model, tokenizer, folder)
    return folder


def compiled(run, merged: Path, folder: Path) -> Path:
    """The unquantised model, whose speeds are measured after torch.compile."""
    return merged


MAKERS = {
    "plain": plain,
    "torchao": torchao,
    "bitsandbytes": bitsandbytes,
    "calibrated": calibrated,
    "gguf": gguf,
    "trained": trained,
    "compiled": compiled,
}
NEEDS = {"calibrated": ("calibration",), "trained": ("train",)}
