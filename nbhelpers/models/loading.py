"""Models found (Hub, folder, embedded) and loaded: weights from safetensors only, and no code from a repository."""

import contextlib
import hashlib
import io
import json
from pathlib import Path

from nbhelpers.core import memory_usage
from nbhelpers.core.errors import ModelError
from nbhelpers.core.storage import cache_folder, read_json, sha256_of
from nbhelpers.data.hub import explain_hub_error
from nbhelpers.models import embedded, saving, templates
from nbhelpers.models.embedded import CONVERSION

WEIGHTS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt"]
DUPLICATES = ["consolidated*", "original/*"]  # the same weights once more, in their maker's own layout


def fetch(model_id: str, revision: str | None = None) -> Path:
    """The folder that holds a model, made or downloaded where it is not there yet.

    Args:
        model_id: `smollm2-135m` (embedded, real), `smoke` (tiny and random, for tests), a local folder, or a Hub id.
        revision: branch, tag or commit of a Hub id.

    Raises:
        ModelError: no such folder, no safetensors, gated, private, unknown or offline; names the remedy.
    """
    if model_id in ("smollm2-135m", "smoke"):
        name, make = (
            ("smoke", embedded.make_smoke)
            if model_id == "smoke"
            else (f"{model_id}-{CONVERSION}", embedded.convert_wheel)
        )
        return embedded.made_once(cache_folder() / "models" / name, make)
    local = Path(model_id).expanduser()
    if local.is_dir():
        if not (local / "config.json").exists():
            raise ModelError(
                f"model_id={model_id!r} is a folder without config.json; give one that save_pretrained wrote."
            )
        if not list(local.glob("*.safetensors")):
            raise ModelError(
                f"model_id={model_id!r} has no *.safetensors file. Pickled weights are not loaded: they can run code. "
                "Convert them once with save_pretrained on a machine you trust."
            )
        return local
    if model_id.count("/") != 1 or model_id.startswith((".", "/", "~")):
        raise ModelError(
            f"model_id={model_id!r} is neither a folder that exists, nor smollm2-135m or smoke, "
            "nor a Hub id like org/name."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model_id, revision=revision, allow_patterns=WEIGHTS, ignore_patterns=DUPLICATES))
    except Exception as error:  # every kind the Hub client raises is a plain fact to the user
        raise ModelError(f"{model_id}: {explain_hub_error(error, 'model')}") from error


def four_bit(dtype: str, quant_type: str = "nf4", double_quant: bool = True):
    """Linear layers in four bits, computed in `dtype`. The defaults are QLoRA's (Dettmers et al. 2023).

    Args:
        quant_type: `nf4`, 4-bit NormalFloat, or `fp4`, a 4-bit floating-point number.
        double_quant: whether the constants of the blocks are quantised once more.
    """
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quant_type,
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def load_tokenizer(model_id: str, revision: str | None = None):
    """The tokenizer alone, with a padding token and a chat template that can be trained on (`make_trainable`).

    Raises ModelError as `load`.
    """
    return _tokenizer_in(fetch(model_id, revision), model_id)


def _tokenizer_in(folder: Path, model_id: str):
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ModelError(f"The tokenizer of {model_id} could not be loaded: {_reason(error)}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    for said in filter(None, (templates.fix_date(tokenizer), templates.make_trainable(tokenizer))):
        print(said)
    return tokenizer


def _reason(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def load(
    model_id: str,
    dtype: str,
    device: str = "cpu",
    quantization_config=None,
    revision: str | None = None,
    check_tokenizer: bool = True,
):
    """`(model, tokenizer)` ready to train or generate: left alone on disk, on `device`, in `dtype`.

    Args:
        model_id: as for `fetch`.
        dtype: float32, bfloat16 or float16; with a quantisation, of what stays unquantised.
        quantization_config: e.g. `four_bit("bfloat16")`; None: that of a model that was saved quantised, else none.
        check_tokenizer: whether the tokenizer's tokens must have rows in the embedding.

    Raises:
        ModelError: as for `fetch`, or a model that transformers cannot load, needs code from its repository, has
            weights missing or of another shape (they would silently be random numbers), or a tokenizer with tokens that
            the embedding has no rows for.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    folder = fetch(model_id, revision)
    memory_usage.keep_pages()
    with saving.quiet():
        try:
            model, report = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                device_map={"": device},
                **({"quantization_config": quantization_config} if quantization_config else {}),
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are reported, and refused below
                output_loading_info=True,
            )
        except (OSError, ValueError, ImportError, KeyError, SafetensorError) as error:
            raise ModelError(f"{model_id} could not be loaded: {_reason(error)}") from error
    lost = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    if lost:
        raise ModelError(
            f"{model_id} lacks {len(lost)} of the weights that its config.json names, or has them in another shape "
            f"(first: {lost[0]}). They would be random numbers: take the folder or revision that belongs to the config."
        )
    _keep_as_stored(model)
    method = getattr(getattr(model.config, "quantization_config", None), "quant_method", "")
    if "compressed" in str(method).lower():  # it is unpacked, with bars of its own, in the first forward pass
        with contextlib.redirect_stderr(io.StringIO()):
            model(input_ids=model.dummy_inputs["input_ids"].to(model.device)[:, :1])
    tokenizer = load_tokenizer(model_id, revision)
    if check_tokenizer:
        _check_tokenizer(model_id, tokenizer, model.get_input_embeddings().num_embeddings)
    return model, tokenizer


def _check_tokenizer(model_id: str, tokenizer, rows: int) -> None:
    """Raises ModelError where text can become a token that the embedding has no row for.

    A special token that neither the template nor the ends of texts use, such as an image's, may be without one.
    """
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    used = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}
    beyond = [
        token
        for token, number in tokenizer.get_vocab().items()
        if number >= rows and (token not in special or token in used or token in (tokenizer.chat_template or ""))
    ]
    if beyond:
        named = ", ".join(repr(token) for token in sorted(beyond)[:5])
        raise ModelError(
            f"{model_id}: the tokenizer has {len(beyond)} tokens beyond the {rows:,} rows of the embedding ({named}). "
            f"Their first use would be an index out of range. Call model.resize_token_embeddings({len(tokenizer)}) and "
            "save the model, or take the tokenizer that belongs to the weights."
        )


def _keep_as_stored(model) -> None:
    """Have four-bit layers leave their weights as they are stored.

    On a CPU with AVX512_BF16 bitsandbytes (0.50) packs them anew in the first forward pass without gradients. From then
    on no gradient passes the layer, which a training does not notice; and saving the model unpacks constants that are
    not quantised themselves in the wrong order, so that it answers noise.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def model_hash(model_id: str, revision: str | None = None) -> str:
    """sha256 over the names and contents of a model's weights and tokenizer: equal for equal ones anywhere."""
    folder = fetch(model_id, revision)
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("tokenizer.*"), *folder.glob("base_model.json")])
    parts = {file.name: sha256_of(file) for file in files}
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def count_parameters(model) -> dict[str, int]:
    """`{"trainable", "total"}`: parameters as numbers, a 4-bit weight counted as the weights it stores."""
    trainable = total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        size = state.shape.numel() if state is not None else parameter.numel()
        total += size
        trainable += size if parameter.requires_grad else 0
    return {"trainable": trainable, "total": total}


def for_inference(model, dtype: str):
    """The same model in evaluation mode, its adapters (kept in float32 while training) in the weights' own dtype."""
    import torch

    for parameter in model.parameters():
        if parameter.is_floating_point():  # a 4-bit weight is stored as bytes
            parameter.data = parameter.data.to(getattr(torch, dtype))
    return model.eval()


def attach(model_id: str, adapter: Path, dtype: str, device: str = "cpu", quantization_config=None):
    """`(model, tokenizer)`: a freshly loaded base with a saved adapter on it, not merged, ready to generate.

    The tokenizer is the one that was saved with the adapter, where there is one: its template was trained. To merge an
    adapter that was trained on a quantised base, attach it to the unquantised one: merging into 4-bit weights would
    round the merged weights once more.

    Raises:
        ModelError: as `load`, or the adapter belongs to another base.
    """
    from peft import PeftModel

    adapter = Path(adapter)
    _check_base(model_id, adapter)
    model, tokenizer = load(model_id, dtype, device, quantization_config)
    if (adapter / "tokenizer_config.json").exists():
        tokenizer = _tokenizer_in(adapter, str(adapter))
        _check_tokenizer(str(adapter), tokenizer, model.get_input_embeddings().num_embeddings)
    return for_inference(PeftModel.from_pretrained(model, adapter), dtype), tokenizer


def _check_base(model_id: str, adapter: Path) -> None:
    """Raises ModelError where an adapter names another base than `model_id`: on that it would be a model nobody made.

    Two Hub ids are compared as they are, two folders by their weights. What cannot be compared is not refused.
    """
    config = read_json(adapter / "adapter_config.json")
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not base or base == model_id:
        return
    local = Path(base).is_dir() and bool(list(Path(base).glob("*.safetensors")))
    if local:
        folder = fetch(model_id)
        differs = folder.resolve() != Path(base).resolve() and model_hash(base) != model_hash(str(folder))
    else:
        differs = base.count("/") == 1 == model_id.count("/") and not Path(model_id).is_dir()
    if differs:
        raise ModelError(
            f"The adapter in {adapter} was trained on {base}, not on {model_id}. On another base it is another model: "
            f"set model_id to {base}."
        )
