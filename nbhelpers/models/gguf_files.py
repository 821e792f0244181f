"""A model of the Llama, Qwen2 or Qwen3 kind written as one GGUF file, which llama.cpp and what is built on it read.

llama.cpp's own `convert_hf_to_gguf.py` knows every architecture, but no package index has it. What is written here is
what it writes for these kinds: names and metadata by the `gguf` package, and the one thing that a converter must know,
the order of the rows of q and k. Llama's rotary embedding turns pairs of neighbours in GGUF and halves in transformers.
"""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np

from nbhelpers.core.errors import ModelError
from nbhelpers.models import encoding, saving

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")  # what the `gguf` package can write
ARCHITECTURES = {"llama": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}  # transformers' model_type -> gguf's
BLOCK = 32  # numbers that share a scale, which must divide a row


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a q or k matrix, or of its bias, of shape (heads * head_dim, ...), in GGUF's order for Llama."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CUTS = {WORDS.replace("DIGITS", r"\p{N}"): "qwen2", WORDS.replace("DIGITS", r"\p{N}{1,3}"): "llama-bpe"}


def pre_tokenizer(tokenizer) -> str:
    """llama.cpp's name for how a byte-level BPE cuts a text before it merges.

    Raises:
        ModelError: it is of no kind known here; llama.cpp would take default rules in silence, and other tokens.
    """
    steps = json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    last, before = steps[-1], steps[:-1]
    if last.get("type") == "ByteLevel" and not last["add_prefix_space"]:
        if last["use_regex"] and not before:
            return "gpt-2"
        if last["use_regex"] and before == [{"type": "Digits", "individual_digits": True}]:
            return "smollm"
        patterns = [step["pattern"].get("Regex") for step in before if step["type"] == "Split"]
        if not last["use_regex"] and len(before) == 1 and patterns and patterns[0] in CUTS:
            return CUTS[patterns[0]]
    raise ModelError(
        f"llama.cpp's name for this tokenizer's cutting is not known here: {str(steps)[:120]}. Convert the saved "
        "folder with llama.cpp's convert_hf_to_gguf.py."
    )


def write(model, tokenizer, path: Path, kind: str = "Q8_0") -> dict[str, int]:
    """Write a model and its tokenizer as one GGUF file, whole or not at all.

    Matrices are quantised as `kind`; those whose rows `BLOCK` does not divide are kept in F16, vectors in F32.

    Args:
        model: of the Llama, Qwen2 or Qwen3 kind, unquantised, without an adapter.
        kind: one of `KINDS`.

    Returns: how many tensors were written as which kind.

    Raises:
        ModelError: another architecture, scaled rotary embeddings, quantised weights, or more tokens than embeddings.
    """
    import gguf

    _check(model, tokenizer, kind)
    config, temporary = model.config, Path(path).with_suffix(".part")
    architecture = getattr(gguf.MODEL_ARCH, ARCHITECTURES[config.model_type])
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    writer = gguf.GGUFWriter(temporary, gguf.MODEL_ARCH_NAMES[architecture])
    _describe(writer, config, kind)
    _add_tokenizer(writer, tokenizer, model)
    if (factors := rotary_factors(config)) is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    written: Counter[str] = Counter()
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = value.detach().float().cpu().numpy()
        if config.model_type == "llama" and (projection := name.split(".")[-2]) in ("q_proj", "k_proj"):
            heads = config.num_attention_heads if projection == "q_proj" else config.num_key_value_heads
            array = permute(array, heads)
        whole = array.shape[-1] % BLOCK == 0 or kind in ("F32", "F16", "BF16")
        stored = "F32" if array.ndim == 1 else kind if whole else "F16"
        target = getattr(gguf.GGMLQuantizationType, stored)
        writer.add_tensor(
            names.get_name(name, try_suffixes=(".weight", ".bias")),
            array if stored == "F32" else gguf.quants.quantize(array, target),
            raw_dtype=target,
        )
        written[stored] += 1
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return dict(written)


def _check(model, tokenizer, kind: str) -> None:
    config = model.config
    rotary = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    rows = model.get_input_embeddings().weight.shape[0]
    wrong = [
        kind not in KINDS and f"kind={kind!r} is none of {', '.join(KINDS)}",
        config.model_type not in ARCHITECTURES and f"a {config.model_type} is none of {', '.join(ARCHITECTURES)}",
        rotary not in ("default", "llama3") and f"its rotary embeddings are scaled ({rotary})",
        hasattr(model, "peft_config") and "it has an adapter: merge it first",
        getattr(config, "quantization_config", None) and "its weights are quantised: write the unquantised model",
        len(tokenizer) > rows and f"its tokenizer has {len(tokenizer)} tokens for {rows} embeddings: resize them",
    ]
    if any(wrong):
        raise ModelError(f"This model cannot be written as GGUF here: {'; '.join(filter(None, wrong))}.")


def rotary_factors(config) -> np.ndarray | None:
    """What Llama 3.1 divides each rotary frequency by, shape (head_dim / 2,); None for unscaled ones.

    Slow frequencies, which have not turned once over the length of the first training, are slowed further, fast ones
    stay, and those between are interpolated (Meta's Llama 3.1, as transformers' `_compute_llama3_parameters`).
    """
    scaling = config.rope_parameters
    if scaling.get("rope_type", "default") != "llama3":
        return None
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    wavelengths = 2 * np.pi * scaling["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] / wavelengths
    share = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / (share + (1 - share) / scaling["factor"])).astype(np.float32)


def _describe(writer, config, kind: str) -> None:
    import gguf

    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(Path(config._name_or_path or "model").name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"])


def _add_tokenizer(writer, tokenizer, model) -> None:
    import gguf

    config, kind = model.config, type(tokenizer.backend_tokenizer.model).__name__
    if kind != "BPE":
        raise ModelError(f"A {kind} tokenizer cannot be written as GGUF here: only a byte-level BPE.")
    types, tokens = [], []
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    for number in range(config.vocab_size):
        added = tokenizer.added_tokens_decoder.get(number)
        kind = "NORMAL" if added is None else "CONTROL" if added.special else "USER_DEFINED"
        tokens.append(by_id.get(number, f"[PAD{number}]"))
        types.append(gguf.TokenType[kind if number in by_id else "UNUSED"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(_merges(tokenizer))
    begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    writer.add_add_bos_token(begins)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    others = sorted(encoding.stop_token_ids(tokenizer, model) - {tokenizer.eos_token_id})
    if others:
        writer.add_eot_token_id(others[0])
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _merges(tokenizer) -> list[str]:
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def read(path: Path, dtype: str = "float32"):
    """`(model, tokenizer)` that transformers reads from a GGUF file, its weights dequantised to `dtype`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    path = Path(path)
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    with saving.quiet():
        model = AutoModelForCausalLM.from_pretrained(
            **where, dtype=getattr(torch, dtype), quantization_config=GgufConfig(dequantize=True)
        )
        return model.eval(), AutoTokenizer.from_pretrained(**where)
