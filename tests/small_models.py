"""Tiny random models of the architectures that people bring, with the small tokenizer."""

import torch
import transformers

from nbhelpers.models import saving

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"max_position_embeddings": 512}
GROUPED = SIZES | {"num_key_value_heads": 2}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 2048}
OPT = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 32}
EXPERTS = {"num_experts_per_tok": 2, "output_router_logits": True}
ARCHITECTURES = {  # name -> its configuration, and how far off the predicted number of weights may be, of the counted
    "gpt2": ("GPT2Config", GPT2, 0.02),  # biases are not counted
    "opt": ("OPTConfig", OPT | {"max_position_embeddings": 2048}, 0.02),
    "phi3": ("Phi3Config", GROUPED, 0),  # q, k, v are one matrix, gate and up another
    "qwen2": ("Qwen2Config", GROUPED, 0.01),
    "qwen3": ("Qwen3Config", GROUPED | {"head_dim": 16}, 0.01),
    "gemma2": ("Gemma2Config", GROUPED | {"head_dim": 8}, 0.01),
    "gemma3": ("Gemma3TextConfig", GROUPED | {"head_dim": 8}, 0.01),
    "mistral": ("MistralConfig", GROUPED | {"sliding_window": 64}, 0),
    "llama, untied head": ("LlamaConfig", GROUPED | {"tie_word_embeddings": False}, 0),
    "gpt_neox": ("GPTNeoXConfig", SIZES, 0.01),
    "mixtral": ("MixtralConfig", GROUPED | EXPERTS | {"num_local_experts": 4}, 0),
    "qwen3_moe": (
        "Qwen3MoeConfig", GROUPED | EXPERTS | {"head_dim": 8, "num_experts": 4, "moe_intermediate_size": 32}, 0.01,
    ),
}  # fmt: skip


def made(folder, tokenizer, name: str) -> int:
    """Save a random model of an architecture with the small tokenizer; return how many weights it has."""
    kind, settings, _ = ARCHITECTURES[name]
    ids = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(0)
    config = getattr(transformers, kind)(vocab_size=len(tokenizer), **ids, **settings)
    model = transformers.AutoModelForCausalLM.from_config(config)
    saving.save(model, tokenizer, folder)
    return sum(parameter.numel() for parameter in model.parameters())
