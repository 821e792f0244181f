"""The numbers of a model that its memory and time follow from, read from its config.json alone."""

import json
from dataclasses import dataclass
from pathlib import Path

from nbhelpers.core import storage
from nbhelpers.core.errors import ModelError

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")  # as Mixtral, Qwen and DeepSeek call their number
NOT_COUNTED = (
    *("kv_lora_rank", "n_shared_experts", "shared_expert_intermediate_size", "first_k_dense_replace"),
    *("mamba_d_state", "mamba_d_ssm", "ssm_cfg", "lru_width", "state_size", "attn_layer_period"),
)  # latent attention, shared experts, states beside attention
FOUR_TIMES = ("gpt2", "opt", "gptj", "codegen", "gpt_bigcode")  # an MLP of four times the width, where none is said
LEARNED_POSITIONS = ("gpt2", "opt")  # each position has a row of its own, and there are no more
_OTHER_NAMES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "ffn_dim": "intermediate_size",
}  # of GPT-2 and OPT
NOT_GATED = ("phi", "gpt_neox", "gpt2", "opt", "bloom", "starcoder2")  # an MLP of two matrices, and LayerNorm


def _known() -> dict[str, dict]:
    return storage.read_json(storage.repository_root() / "data" / "model_shapes.json")


@dataclass(frozen=True)
class Shape:
    """The numbers of a decoder-only model that memory and time follow from.

    Args:
        head_size: of one attention head; a config may state another than hidden_size / heads.
        tied: whether the vocabulary projection is the embedding.
        gated: whether the MLP has three matrices (gate, up, down) and the norms are RMSNorm, as in Llama; otherwise two
            (up, down) and LayerNorm, as in Phi-1.5 and GPT-NeoX.
        experts: MLPs of a block; all of them lie in memory.
        experts_per_token: MLPs that a token goes through: what time follows from.
        positions: rows of a learned embedding of positions; 0 where positions are rotations.
    """

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    gated: bool = True
    experts: int = 1
    experts_per_token: int = 1
    positions: int = 0

    @classmethod
    def of(cls, folder: Path) -> "Shape":
        """Read from a model folder's config.json; nothing is loaded. Raises ModelError where it is not Llama-like."""
        try:
            return cls.from_config(json.loads((Path(folder) / "config.json").read_text()))
        except (json.JSONDecodeError, TypeError) as error:
            raise ModelError(f"{folder}: config.json cannot be read as the numbers of a model ({error}).") from error
        except KeyError as error:
            raise ModelError(
                f"{folder}: config.json has no {error}, so that memory and time are not known for this architecture."
            ) from error

    @classmethod
    def from_config(cls, config: dict) -> "Shape":
        """From the entries of a config.json. Raises KeyError where it is of another kind of model."""
        config = config.get("text_config", config)
        config = {_OTHER_NAMES.get(name, name): value for name, value in config.items()} | config
        if config.get("model_type") in FOUR_TIMES and not config.get("intermediate_size"):
            config["intermediate_size"] = 4 * config["hidden_size"]
        if other := [name for name in NOT_COUNTED if config.get(name)]:
            raise ModelError(
                f"The config has {', '.join(other)}: attention or experts of a kind that is not counted here."
            )
        if empty := [name for name in ("hidden_size", "intermediate_size") if not config.get(name)]:
            raise KeyError(empty[0])
        heads = config["num_attention_heads"]
        experts = next((config[name] for name in EXPERTS if config.get(name)), 1)
        return cls(
            hidden_size=config["hidden_size"],
            intermediate_size=(config.get("moe_intermediate_size") if experts > 1 else None)
            or config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            key_value_heads=config.get("num_key_value_heads") or heads,
            head_size=config.get("head_dim") or config["hidden_size"] // heads,
            vocabulary=config["vocab_size"],
            tied=config.get("tie_word_embeddings", True),
            gated=config.get("model_type") not in NOT_GATED,
            positions=config.get("n_positions") or config["max_position_embeddings"]
            if config.get("model_type") in LEARNED_POSITIONS
            else 0,
            experts=experts,
            experts_per_token=config.get("num_experts_per_tok") or 1 if experts > 1 else 1,
        )

    @classmethod
    def named(cls, name: str) -> "Shape":
        """Of a model of data/model_shapes.json, or of a folder. Raises ModelError that lists what is known."""
        known = _known()
        if name in known:
            return cls.from_config(known[name])
        if (Path(name) / "config.json").exists():
            return cls.of(Path(name))
        raise ModelError(f"{name!r} is neither a folder with a config.json nor one of {', '.join(known)}.")

    @staticmethod
    def names() -> list[str]:
        """The models of data/model_shapes.json, the smallest first."""
        return list(_known())

    @staticmethod
    def licence(name: str) -> str:
        """Of a model of data/model_shapes.json, as its page on the Hub names it; of another: look it up."""
        return _known().get(name, {}).get("license", "its licence is on its page")

    @property
    def linear_shapes(self) -> list[tuple[int, int]]:
        """`(inputs, outputs)` of the linear layers of one block: q, k, v, o, gate, up, down."""
        return list(self.linear_layers.values())

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """`(inputs, outputs)` of each of them by its name in a Llama-like model; of the MLP's, those of one expert."""
        h, i = self.hidden_size, self.intermediate_size
        q, kv = self.heads * self.head_size, self.key_value_heads * self.head_size
        attention = {"q_proj": (h, q), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (q, h)}
        gate = {"gate_proj": (h, i)} if self.gated else {}
        return attention | gate | {"up_proj": (h, i), "down_proj": (i, h)}

    def _linear(self, experts: int) -> int:
        sizes = {name: a * b for name, (a, b) in self.linear_layers.items()}
        mlp = sum(size for name, size in sizes.items() if name in ("gate_proj", "up_proj", "down_proj"))
        return self.layers * (sum(sizes.values()) + (experts - 1) * mlp)

    @property
    def linear_parameters(self) -> int:
        """Weights of the linear layers of all blocks, of all experts: what LoRA adapts and NF4 quantises."""
        return self._linear(self.experts)

    @property
    def active_parameters(self) -> int:
        """Weights of the linear layers that one token goes through: what the time follows from."""
        return self._linear(self.experts_per_token)

    @property
    def head_parameters(self) -> int:
        """Weights of the vocabulary projection (shared with the embedding where tied)."""
        return self.vocabulary * self.hidden_size

    @property
    def parameters(self) -> int:
        """All weights: linear layers, norms, routers, embedding and, where it is not tied, the head."""
        norms = (2 * self.layers + 1) * self.hidden_size
        routers = self.layers * self.hidden_size * self.experts if self.experts > 1 else 0
        embeddings = self.head_parameters * (1 if self.tied else 2) + self.positions * self.hidden_size
        return self.linear_parameters + norms + routers + embeddings

    def lora_parameters(self, rank: int, target_modules: tuple[str, ...] | None = None) -> int:
        """Weights of a LoRA of this rank: rank x (inputs + outputs) each (Hu et al. 2021, section 4.1).

        Of several experts those of one count.

        Args:
            target_modules: names out of `linear_layers`; None: all of them.
        """
        sizes = [size for name, size in self.linear_layers.items() if target_modules is None or name in target_modules]
        return self.layers * sum(rank * (a + b) for a, b in sizes)
