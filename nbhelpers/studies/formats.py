"""One number format, made from one merged model and measured: the jobs of `notebooks/studies/06_formats`.

Each is measured as it is served: loaded from its files where a library can write them, in a process of its own.
"""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psutil
import torch

from nbhelpers.core import memory_usage
from nbhelpers.evaluation import fidelity, forgetting, latency, likelihood, scoring
from nbhelpers.models import gguf_files, loading, memory, quantization, saving
from nbhelpers.serving import llama_cpp, server
from nbhelpers.training import sft


@dataclass(frozen=True)
class Material:
    """What every format is made from and measured on.

    merged: folder of the unquantised model. calibration: token ids of training texts. train_rows: encoded, for training
    with the rounding in the forward pass. held_out: encoded rows for the loss. texts: token ids on which logits are
    compared. scored: rows whose questions are answered.
    """

    merged: Path
    calibration: list
    train_rows: object
    held_out: object
    texts: list
    scored: object


@dataclass(frozen=True)
class Format:
    """A way to store a model, and its settings.

    way: `unquantised`, `bitsandbytes`, `torchao`, `compressed` (llm-compressor), `trained` (then torchao) or `gguf`.
    settings: of the function of that name below.
    compiled: whether `torch.compile` is applied before the speed is measured.
    needs: as `missing` knows it; where that is not there the format is left out.
    """

    way: str
    settings: dict = field(default_factory=dict)
    compiled: bool = False
    needs: str = ""


def missing(needs: str, run) -> str | None:
    """Why this machine cannot run a format; None: it can."""
    found = {
        "": True,
        "an accelerator": run.hardware.gpu is not None,
        "a CPU in bfloat16": run.dtype == "bfloat16" and run.hardware.device == "cpu",
        "a C++ compiler": any(map(shutil.which, ("g++", "clang++", "c++"))),
        "a GPU with the package mslk": run.hardware.gpu is not None and find_spec("mslk") is not None,
    }
    return None if found[needs] else f"it needs {needs}, which is not there"


def torchao_config(kind: str, group_size: int | None = None):
    """A configuration of torchao by a short name: `int8`, `int8 dynamic`, `int4`, `int4 dynamic`, `int4 mslk`,
    or `int4 kernel`.

    `dynamic` rounds the activations to eight bits too, with a scale for each token.
    """
    from torchao import quantization as ao
    from torchao.quantization.granularity import PerGroup

    if kind == "int8":
        return ao.Int8WeightOnlyConfig()
    if kind == "int8 dynamic":
        return ao.Int8DynamicActivationInt8WeightConfig()
    if kind == "int4":
        return ao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(group_size))
    if kind == "int4 dynamic":
        group = PerGroup(group_size)
        return ao.Int8DynamicActivationIntxWeightConfig(weight_dtype=torch.int4, weight_granularity=group)
    if kind == "int4 mslk":
        return ao.Int4WeightOnlyConfig(group_size=group_size)
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

    return PrototypeInt4WeightOnlyConfig(group_size=group_size)


def scheme(bits: int, group_size: int | None = None, activations: str = ""):
    """A scheme of compressed-tensors: symmetric weights, a scale for each group or row; activations in eight bits.

    Args:
        activations: `static` (one scale, from the calibration), `dynamic` (one for each token), or none.
    """
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    per = {"group_size": group_size, "strategy": "group"} if group_size else {"strategy": "channel"}
    given = {
        "": None,
        "static": QuantizationArgs(num_bits=8, strategy="tensor", dynamic=False, observer="static_minmax"),
        "dynamic": QuantizationArgs(num_bits=8, strategy="token", symmetric=True, dynamic=True),
    }[activations]
    weights = QuantizationArgs(num_bits=bits, symmetric=True, **per)
    return QuantizationScheme(targets=["Linear"], weights=weights, input_activations=given)


def _linear(module, name: str) -> bool:
    return isinstance(module, torch.nn.Linear) and not name.endswith("lm_head")


def unquantised(run, material: Material, folder: Path) -> dict:
    """The merged model itself, loaded once before it is measured, as the other formats' makers do."""
    loading.load(str(material.merged), run.dtype, run.hardware.device)
    return {"folder": material.merged}


def bitsandbytes(run, material: Material, folder: Path, **settings) -> dict:
    """LLM.int8 (Dettmers et al. 2022), NF4 or FP4 with or without double quantisation."""
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a warning for each layer and token
    four = settings.get("quant_type")
    config = loading.four_bit(run.dtype, **settings) if four else BitsAndBytesConfig(load_in_8bit=True)
    model, tokenizer = loading.load(str(material.merged), run.dtype, run.hardware.device, config)
    saving.save(model, tokenizer, folder)
    return {"folder": folder}


def torchao(run, material: Material, folder: Path, **settings) -> dict:
    """Weights (and activations) by torchao. What it cannot write is measured as it is in memory."""
    from torchao.quantization import quantize_

    model, _ = loading.load(str(material.merged), run.dtype, run.hardware.device)
    quantize_(model, torchao_config(**settings), filter_fn=_linear)
    return {"model": model}


def compressed(run, material: Material, folder: Path, method: str, rows: int | None = None, **settings) -> dict:
    """Rounding to nearest, GPTQ (Frantar et al. 2022) or AWQ (Lin et al. 2023) by llm-compressor."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier

    kind = GPTQModifier if method == "GPTQ" else QuantizationModifier
    recipe = [kind(config_groups={"weights": scheme(**settings)}, ignore=["lm_head"])]
    if method == "AWQ":
        from llmcompressor.modifiers.transform.awq import AWQModifier

        recipe = [AWQModifier(), *recipe]
    given = material.calibration[:rows]
    quantization.compress(str(material.merged), folder, given, run.dtype, recipe)
    return {"folder": folder}


def trained(run, material: Material, folder: Path, aware: bool, learning_rate: float, **settings) -> dict:
    """Every weight is trained some steps more, and then rounded by torchao.

    Args:
        aware: whether the forward pass rounds already (quantisation-aware training, Jacob et al. 2017), so that the
            training sees what rounding does. Without it this is the same training followed by the same rounding.
    """
    from torchao.quantization import quantize_
    from torchao.quantization.qat import QATConfig

    base = torchao_config(**settings)
    stored = memory.weights_dtype("full", run.dtype)
    model, tokenizer = loading.load(str(material.merged), stored, run.hardware.device)
    if aware:
        quantize_(model, QATConfig(base, step="prepare"), filter_fn=_linear)
    trainer = sft.sft_trainer(
        run, model, tokenizer, material.train_rows, None, name=folder.name, learning_rate=learning_rate
    )
    seconds = sft.train(trainer, "never").seconds
    trainer.model.__dict__.pop("forward", None)  # accelerate's, which computes in another precision
    model = loading.for_inference(trainer.model, run.dtype)
    quantize_(model, QATConfig(base, step="convert") if aware else base, filter_fn=_linear)
    return {"model": model, "training_seconds": seconds}


def gguf(run, material: Material, folder: Path, kind: str) -> dict:
    """A GGUF file; its speed is llama.cpp's, its quality that of the file read back by transformers."""
    model, tokenizer = loading.load(str(material.merged), run.dtype)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"model-{kind}.gguf"
    gguf_files.write(model, tokenizer, file, kind)
    return {"file": file}


MAKERS: dict[str, Callable[..., dict]] = {
    "unquantised": unquantised, "bitsandbytes": bitsandbytes, "torchao": torchao, "compressed": compressed,
    "trained": trained, "gguf": gguf,
}  # fmt: skip


def measure(run, form: Format, material: Material, folder: Path) -> dict:
    """Make one format and measure it.

    Returns: `make_seconds`, `load_seconds`, `peak_memory_bytes` (of loading, a prompt and an answer), `saved_bytes`
    (where there are files), `prefill` and `decode` (tokens per second), `program` (transformers unpacks the weights of
    llm-compressor once and rounds in floats: their speed is no kernel's); one value a row of `held_out_loss`;
    `scores` (task and score -> one value a row); `forgetting`; `kl`, `agreement` and `logit_difference` from the
    unquantised model, one value a text. `left_out` with the reason where this machine cannot run it.
    """
    if reason := missing(form.needs, run):
        return {"left_out": reason}
    started = time.perf_counter()
    made = MAKERS[form.way](run, material, folder, **form.settings)
    program = {"gguf": "llama.cpp", "compressed": "PyTorch, unpacked"}.get(form.way, "PyTorch")
    found: dict = {"make_seconds": time.perf_counter() - started, "program": program}
    found |= {key: made[key] for key in ("training_seconds",) if key in made}
    memory_usage.free()
    if "file" in made:
        model, figures = _served(run, made["file"], material)
    elif "folder" in made:
        model, figures = _loaded(run, made["folder"], material, form.compiled)
    else:
        model, figures = made["model"].eval(), {}
        figures |= _speeds(model, material, run, form.compiled)
    return found | figures | _quality(run, model, material)


def _speeds(model, material: Material, run, compiled: bool) -> dict:
    plain = model.forward
    if compiled:
        torch._dynamo.config.fail_on_recompile_limit_hit = True  # else it goes on uncompiled without a word
        model.forward = torch.compile(plain, dynamic=True)
    prefill, decode = latency.speeds(model, material.texts[0], tokens=run.parameters.max_new_tokens // 2)
    model.forward = plain
    return {"prefill": prefill, "decode": decode}


def _loaded(run, folder: Path, material: Material, compiled: bool):
    started = time.perf_counter()
    with memory_usage.peak(run.hardware.device) as peak:
        model, _ = loading.load(str(folder), run.dtype, run.hardware.device)
        seconds = time.perf_counter() - started
        if run.dtype == "bfloat16" and run.hardware.device == "cpu":
            _allow_packed_products(model)
        figures = _speeds(model, material, run, compiled)
    if not compiled:
        figures["peak_memory_bytes"] = peak.bytes  # else it is the compiler's
    return model, figures | {"load_seconds": seconds, "saved_bytes": saving.folder_bytes(folder)}


def _allow_packed_products(model) -> None:
    """Have bitsandbytes compute on packed four-bit weights where a CPU can; `loading` forbids it for training."""
    from bitsandbytes import functional

    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = functional.has_avx512bf16()


def _served(run, file: Path, material: Material):
    started, log, tokens = time.perf_counter(), file.with_suffix(".log"), run.parameters.max_new_tokens // 2
    context = len(material.texts[0]) + tokens + 8
    with server.serve(llama_cpp.command(file, torch.get_num_threads(), context, parallel=1), log) as running:
        seconds = time.perf_counter() - started
        _, speeds = llama_cpp.answers(running.url, [material.texts[0]] * 3, tokens, ignore_eos=True)
        peak = sum(part.memory_info().rss for part in psutil.Process(running.process.pid).children(recursive=True))
    model, _ = gguf_files.read(file, run.dtype)
    return model.to(run.hardware.device), {
        "load_seconds": seconds, "peak_memory_bytes": peak, "saved_bytes": file.stat().st_size,
        "prefill": speeds["prefill tokens/s"], "decode": speeds["decode tokens/s"],
    }  # fmt: skip


def _quality(run, model, material: Material) -> dict:
    exact, tokenizer = loading.load(str(material.merged), run.dtype, run.hardware.device)
    p = run.parameters
    near = fidelity.compare(model, exact, material.texts)
    del exact
    ask = partial(scoring.evaluate, max_new_tokens=p.max_new_tokens, batch_size=p.eval_batch_size)
    scored = ask("", model, tokenizer, material.scored)
    return {
        "held_out_loss": likelihood.held_out_loss(model, tokenizer, material.held_out),
        "scores": {f"{task}.{score}": scored.values(task, score) for task, score in scored.scores},
        "forgetting": forgetting.measure(model, tokenizer, p.eval_batch_size),
        "kl": near.kl,
        "agreement": near.agreement,
        "logit_difference": near.logit_difference,
    }
