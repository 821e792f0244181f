"""GGUF files that this package writes, read by transformers and by llama.cpp: not by a reader of its own."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from nbhelpers.core.errors import ModelError
from nbhelpers.evaluation import fidelity
from nbhelpers.models import gguf_files, saving
from nbhelpers.serving import llama_cpp, server

TEXTS = [
    "x  2",
    "a   42",
    "def f(a):\n    return a\n\n1. b",
    "naïve café",
    "<|im_start|>user\nHi<|im_end|>\n",
    "\t\n 7",
]
SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
SCALED = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
KINDS = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "llama, untied": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": False}),
    "llama 3.1": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": SCALED}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 128, "tie_word_embeddings": True}),
}


def model_of(kind: str, rows: int):
    config, cls, options = KINDS[kind]
    torch.manual_seed(4)  # of several, answers of many different tokens
    model = cls(config(vocab_size=rows, initializer_range=0.2, **SIZES, **options)).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases are made as 0, norms as 1: whether they are swapped could not be seen
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_writes_what_the_model_writes_and_cuts_texts_alike(kind, tokenizer, tmp_path):
    model, file = model_of(kind, len(tokenizer)), tmp_path / "model.gguf"
    gguf_files.write(model, tokenizer, file, "F32")
    prompt = tokenizer(20 * TEXTS[2])["input_ids"]  # long enough for scaled rotations to differ
    ours = model.generate(torch.tensor([prompt]), max_new_tokens=32, do_sample=False)[0, len(prompt) :].tolist()
    with server.serve(llama_cpp.command(file, 1), tmp_path / "log") as running:
        theirs = llama_cpp.complete(running.url, prompt, 32)["tokens"]
        for text in TEXTS:
            assert llama_cpp.tokenize(running.url, text) == tokenizer(text)["input_ids"]
    # llama.cpp rounds otherwise: of logits with a standard deviation of 1.6 two may change places that are nearly equal
    assert all(parting.margin < 0.02 for parting in fidelity.partings(model, [prompt], [ours], [theirs]))
    assert len(set(ours)) > 3


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "llama 3.1"])
def test_transformers_reads_back_the_weights_within_the_rounding_of_their_kind(kind, tokenizer, tmp_path):
    model = model_of(kind, len(tokenizer))
    for stored, bits in (("F32", None), ("F16", None), ("Q8_0", 8), ("Q4_0", 4)):
        file = tmp_path / f"{stored}.gguf"
        written = gguf_files.write(model, tokenizer, file, stored)
        again, its_tokenizer = gguf_files.read(file)
        assert its_tokenizer("a b")["input_ids"] == tokenizer("a b")["input_ids"]
        if stored == "F32":
            ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
            assert saving.largest_difference(saving.logits(model, ids), saving.logits(again, ids)) == 0
        for (name, weight), (_, read) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
            blocks = weight.reshape(-1, 32) if weight.ndim == 2 else weight[:, None]
            largest = blocks.abs().amax(1, keepdim=True)
            step = largest * 2.0**-11 if bits is None else largest / (2 ** (bits - 1) - (bits == 8)) * 1.01
            allowed = 0 * step if stored == "F32" or weight.ndim == 1 else step  # Q4_0 cuts one end: a whole step
            assert ((weight - read).reshape(blocks.shape).abs() <= allowed).all(), (stored, name)
        assert written[stored] > 10


def test_rows_are_permuted_as_llama_cpp_does():
    assert gguf_files.permute(np.arange(8)[:, None], 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_tokens_that_the_tokenizer_lacks_are_there_as_unused_ones(tokenizer, tmp_path):
    import gguf

    model, file = model_of("llama", len(tokenizer) + 62), tmp_path / "model.gguf"
    gguf_files.write(model, tokenizer, file)
    fields = gguf.GGUFReader(file).fields
    types = fields["tokenizer.ggml.token_type"].contents()
    assert len(types) == len(fields["tokenizer.ggml.tokens"].contents()) == len(tokenizer) + 62
    assert types[-62:] == [gguf.TokenType.UNUSED] * 62
    assert types[2] == gguf.TokenType.CONTROL
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 2


def test_what_cannot_be_written_is_refused_and_leaves_no_file(tokenizer, tmp_path):
    file = tmp_path / "model.gguf"
    scaled = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 64}
    for model, kind, said in (
        (model_of("llama", 100), "Q8_0", "2048 tokens for 100 embeddings: resize"),
        (model_of("llama", len(tokenizer)), "Q4_K", "kind='Q4_K' is none of F32"),
        (LlamaForCausalLM(LlamaConfig(vocab_size=2048, **SIZES, rope_parameters=scaled)), "Q8_0", "scaled.*yarn"),
    ):
        with pytest.raises(ModelError, match=said):
            gguf_files.write(model, tokenizer, file, kind)
    assert list(tmp_path.iterdir()) == []


def test_rotary_factors_are_those_of_transformers():
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(vocab_size=16, **SIZES, rope_parameters=SCALED)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = SCALED["rope_theta"] ** -(torch.arange(0, 16, 2) / 16)
    assert torch.allclose(plain / torch.from_numpy(gguf_files.rotary_factors(config)), scaled, rtol=1e-5)


GPT4O = r"[^\r\n\p{L}\p{N}]?[\p{Lu}]*[\p{Ll}]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+"
SPLITS = {**{name: pattern for pattern, name in gguf_files.CUTS.items()}, None: GPT4O}


@pytest.mark.parametrize("name", SPLITS)
def test_the_cut_is_known_by_its_whole_pattern(name, tokenizer):
    from tokenizers import Regex, pre_tokenizers

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(SPLITS[name]), behavior="isolated")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    if name:
        assert gguf_files.pre_tokenizer(tokenizer) == name
    else:
        with pytest.raises(ModelError, match="not known here"):
            gguf_files.pre_tokenizer(tokenizer)


def test_a_tokenizer_of_unknown_cutting_is_refused(tokenizer):
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ModelError, match=r"not known here: .*Whitespace.*convert_hf_to_gguf"):
        gguf_files.pre_tokenizer(tokenizer)
