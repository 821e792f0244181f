"""Peak memory of a training, predicted from a model's shape before anything is loaded."""

import json
from dataclasses import dataclass
from pathlib import Path

from nbhelpers.core.errors import ModelError, ResourceError

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# NF4: 4 bits a weight, an 8-bit constant a block of 64, a 32-bit one 256 blocks (Dettmers et al. 2023, section 3).
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8
FOUR_BIT_BYTES = (4 + 32 / 64) / 8  # the blocks' constants left in 32 bits
# On a CPU the C library cannot reuse every freed block for one of another size. Measured: a third of the activations
# and of gradients that lie beside them, and of four-bit weights what each layer unpacks; in bfloat16 a half, with the
# kernels that oneDNN compiles for every number of tokens (SmolLM2-135M, glibc, 3 to 14 steps of a process that has done
# nothing else; more in one that has generated text before, and over many steps of full fine-tuning). With blocks above
# 1 MiB mapped one by one, which takes half as long again, nothing is lost: 1,639 MiB measured for LoRA, 1,645 predicted
# without this share.
CPU_ALLOCATOR_SHARE = {"float32": 0.35, "bfloat16": 0.5, "float16": 0.5}
OF_THE_METHOD = ("adapter_parameters", "adapter_width", "optim")  # options of `predict` that an adapter has not of full
ERROR_MARGIN = 0.3  # share by which a prediction may be off; Run refuses only beyond it


@dataclass(frozen=True)
class Shape:
    """The numbers of a decoder-only model that memory and time follow from (Llama-like: gated MLP, grouped heads)."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, folder: Path) -> "Shape":
        """Read from a model folder's config.json; nothing is loaded. Raises ModelError where it is not Llama-like."""
        try:
            return cls.from_config(json.loads((Path(folder) / "config.json").read_text()))
        except KeyError as error:
            raise ModelError(
                f"{folder}: config.json has no {error}, so that memory and time cannot be predicted. Take a Llama-like "
                "model (Llama, Qwen, Mistral, Gemma, SmolLM)."
            ) from error

    @classmethod
    def from_config(cls, config: dict) -> "Shape":
        """From the entries of a config.json. Raises KeyError where it is of another kind of model."""
        config = config.get("text_config", config)
        heads = config["num_attention_heads"]
        return cls(
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            key_value_heads=config.get("num_key_value_heads") or heads,
            head_size=config.get("head_dim") or config["hidden_size"] // heads,
            vocabulary=config["vocab_size"],
            tied=config.get("tie_word_embeddings", True),
        )

    @property
    def linear_shapes(self) -> list[tuple[int, int]]:
        """`(inputs, outputs)` of the seven linear layers of one block: q, k, v, o, gate, up, down."""
        return list(self.linear_layers.values())

    @property
    def linear_layers(self) -> dict[str, tuple[int, int]]:
        """`(inputs, outputs)` of each of them by its name in a Llama-like model."""
        h, i = self.hidden_size, self.intermediate_size
        q, kv = self.heads * self.head_size, self.key_value_heads * self.head_size
        attention = {"q_proj": (h, q), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (q, h)}
        return attention | {"gate_proj": (h, i), "up_proj": (h, i), "down_proj": (i, h)}

    @property
    def linear_parameters(self) -> int:
        """Weights of the linear layers of all blocks: what LoRA adapts and NF4 quantises."""
        return self.layers * sum(a * b for a, b in self.linear_shapes)

    @property
    def head_parameters(self) -> int:
        """Weights of the vocabulary projection (shared with the embedding where tied)."""
        return self.vocabulary * self.hidden_size

    @property
    def parameters(self) -> int:
        """All weights: linear layers, norms, embedding and, where it is not tied, the head."""
        norms = (2 * self.layers + 1) * self.hidden_size
        return self.linear_parameters + norms + self.head_parameters * (1 if self.tied else 2)

    def lora_parameters(self, rank: int) -> int:
        """Weights of a LoRA of this rank on all linear layers: rank x (inputs + outputs) each (Hu et al. 2021)."""
        return self.layers * sum(rank * (a + b) for a, b in self.linear_shapes)


@dataclass(frozen=True)
class Plan:
    """What a training will read: tokens in all and the most in one micro-batch, padding counted in the latter."""

    tokens: int
    labelled_tokens: int
    largest_batch_tokens: int
    largest_batch_labelled_tokens: int


def predict(
    shape: Shape,
    method: str,
    dtype: str,
    plan: Plan,
    lora_rank: int = 16,
    gradient_checkpointing: bool = False,
    device: str = "cpu",
    gradient_accumulation_steps: int = 1,
    weights_dtype: str | None = None,
    adapter_parameters: int | None = None,
    adapter_width: int | None = None,
    optim: str = "adamw_torch_fused",
    four_bit_bytes: float = NF4_BYTES,
) -> dict[str, int]:
    """Peak bytes of training, by part; the sum is the prediction.

    Args:
        method: `full`, `lora` or `qlora` (NF4 with double quantisation); adapters on all linear layers.
        dtype: what is computed in.
        weights_dtype: what the weights, their gradients and moments are stored in; None: as `dtype`. Where the two
            differ, autocast keeps a copy of each matrix in `dtype` from its first use in a step on.
        adapter_parameters: numbers that an adapter trains; None: those of a LoRA of `lora_rank`.
        adapter_width: numbers a token that an adapter has autograd keep in each block (`adapters.kept_width`); None:
            those of a LoRA of `lora_rank`.
        optim: as transformers calls it. AdamW keeps two moments a number; in eight bits (Dettmers et al. 2022) a byte
            each, with a constant a block of 256 (bitsandbytes), but for the embedding, which transformers leaves in
            float32; Adafactor (Shazeer and Stern 2018) a number a row and a column of a matrix.
        four_bit_bytes: bytes of a weight in four bits, its constants included.
        plan: its largest micro-batch decides.
        gradient_accumulation_steps: micro-batches a step. From two on, the gradients of the first are there while the
            next is computed; with one, they are made as the activations are given back, and only what they take beyond
            these counts. Checkpointed activations give nothing back that would matter.

    The activations are the `kept_tensors` of every block, or where they are computed twice of one block, beside the
    inputs of all.
    """
    width, tokens = BYTES[dtype], plan.largest_batch_tokens
    linear = shape.linear_parameters
    trained = shape.lora_parameters(lora_rank) if adapter_parameters is None else adapter_parameters
    rest = shape.parameters - linear
    stored = BYTES[weights_dtype or dtype]
    copies = width if stored != width and method != "qlora" else 0
    weights = (four_bit_bytes if method == "qlora" else stored) * linear + rest * stored
    weights += copies * (linear + shape.head_parameters)
    trained, state_width = (shape.parameters, stored) if method == "full" else (trained, 4)  # adapters are float32
    on_cpu = device == "cpu"
    if method == "full":
        adapter_width = None
    elif adapter_width is None:
        adapter_width = 2 * shape.hidden_size + shape.intermediate_size + len(shape.linear_shapes) * lora_rank
    block = tokens * sum(kept_tensors(shape, dtype, adapter_width, bool(copies), on_cpu).values())
    inputs = tokens * shape.layers * width * shape.hidden_size
    kept = inputs + block if gradient_checkpointing else shape.layers * block
    gradients, optimizer = trained * state_width, 2 * trained * state_width
    if optim == "adafactor":
        sides = shape.layers * sum(a + b for a, b in shape.linear_shapes) + shape.vocabulary + shape.hidden_size
        optimizer = 4 * sides if method == "full" else 0
    elif "8bit" in optim and method == "full":
        head = 0 if shape.tied else shape.head_parameters
        optimizer = int((2 + 8 / 256) * (linear + head) + 2 * 4 * (rest - head))
    beside = gradients if gradient_accumulation_steps > 1 or gradient_checkpointing else max(0, gradients - kept)
    if method == "full" and gradient_checkpointing and shape.tied:
        beside += shape.head_parameters * state_width  # the embedding's second gradient, that of the head
    lost = CPU_ALLOCATOR_SHARE[dtype] * (kept + beside) + (width * linear if method == "qlora" else 0) if on_cpu else 0
    return {
        "weights": int(weights),
        "adapter": 0 if method == "full" else trained * state_width,
        "gradients": int(beside),
        "optimizer": optimizer,
        "activations": int(kept),
        "allocator": int(lost),
        "logits": plan.largest_batch_labelled_tokens * shape.vocabulary * (2 * width + 3 * 4),  # and their gradients
    }


def kept_tensors(shape: Shape, dtype: str, adapter_width: int | None, lowered: bool, on_cpu: bool) -> dict[str, int]:
    """Bytes a token that autograd keeps of one Llama block for the backward pass: tensor -> bytes.

    Args:
        dtype: what is computed in.
        adapter_width: numbers a token that an adapter beside frozen weights has kept; None: the weights are trained.
        lowered: whether autocast lowers the weights to `dtype`. Norms are then computed in float32.
        on_cpu: attention is in float32 there (`forward.float32_attention`).
    """
    h, i, width = shape.hidden_size, shape.intermediate_size, BYTES[dtype]
    queries, values = shape.heads * shape.head_size, shape.key_value_heads * shape.head_size
    attention = 4 if on_cpu else width
    tensors = {
        "inputs of both norms, in float32": 4 * 2 * h,
        "a statistic a head and a norm": 4 * (shape.heads + 2),
        "queries, keys and values": attention * (queries + 2 * values),
        "what attention returns": attention * queries + (width * queries if attention != width else 0),
        "gate, its activation, up": width * 3 * i,
    }
    if adapter_width is not None:
        return tensors | {"what the adapter reads and makes": width * adapter_width}
    tensors["input of down"] = width * i
    if lowered:
        tensors["inputs of both norms, normalised, in float32"] = 4 * 2 * h
        return tensors | {"what q, k, v, gate and up read, a copy each": width * 5 * h}
    return tensors | {"inputs of both norms, normalised, and times their weights": width * 4 * h}


def weights_dtype(method: str, dtype: str) -> str:
    """The precision to load weights in: float32 where they are trained, `dtype` where they are frozen.

    A step changes a weight by about the learning rate. Next to a weight that is a thousand times as large, bfloat16
    rounds such a change away, and float16 lets its gradient vanish. Products are computed in `dtype` all the same.
    """
    return "float32" if method == "full" else dtype


def check(predicted_bytes: int, free_bytes: int, force: bool = False) -> str:
    """One line that sets a prediction beside the free memory.

    Raises:
        ResourceError: even with the error margin taken off the prediction does not fit, and `force` is not set.
    """
    line = f"predicted peak {predicted_bytes / 2**30:.2f} GiB, free {free_bytes / 2**30:.2f} GiB"
    if predicted_bytes * (1 - ERROR_MARGIN) > free_bytes and not force:
        raise ResourceError(
            f"This will not fit: {line}. Halve per_device_train_batch_size (and double gradient_accumulation_steps), "
            "lower max_length, switch gradient_checkpointing on, or set force=True to try all the same."
        )
    return line if predicted_bytes <= free_bytes else f"WARNING: {line}; it may run out of memory"


def remedies(
    shape: Shape, method: str, dtype: str, plan: Plan, batch_size: int, **options
) -> tuple[int, list[tuple[str, int]]]:
    """The predicted peak as it is, and what would lower it: `(change, predicted peak bytes)`, the cheapest first.

    Smaller micro-batches and as many more of them cost next to no time, and a step still sees as many rows;
    activations computed twice (Chen et al. 2016) cost a third more time, half more where the weights are frozen; LoRA
    and four-bit weights change what is learned; shorter rows lose data.

    Args:
        batch_size: rows a micro-batch.
        options: of `predict`.
    """

    def peak_of(method=method, plan=plan, **changed):
        another = own == "full" != method
        kept = {name: x for name, x in options.items() if not (another and name in OF_THE_METHOD)}
        stored = weights_dtype(method, dtype)
        return sum(predict(shape, method, dtype, plan, weights_dtype=stored, **(kept | changed)).values())

    def parted(by: int) -> Plan:
        tokens, labelled = plan.largest_batch_tokens // by, plan.largest_batch_labelled_tokens // by
        return Plan(plan.tokens, plan.labelled_tokens, tokens, labelled)

    own, changes = method, []
    if batch_size > 1:
        by = next(n for n in range(2, batch_size + 1) if batch_size % n == 0)
        steps = by * options.get("gradient_accumulation_steps", 1)
        batch = f"per_device_train_batch_size={batch_size // by}, gradient_accumulation_steps={steps}"
        changes.append((f"{batch} (as many rows a step)", peak_of(plan=parted(by), gradient_accumulation_steps=steps)))
    if not options.get("gradient_checkpointing"):
        longer = "a third" if method == "full" else "half"
        changes.append((f"gradient_checkpointing=True ({longer} more time)", peak_of(gradient_checkpointing=True)))
    if method == "full":
        changes.append(("LoRA instead of full fine-tuning", peak_of("lora")))
    if method != "qlora":
        changes.append(("QLoRA: the base in four bits", peak_of("qlora")))
    changes.append(("half of max_length (longer rows are dropped)", peak_of(plan=parted(2))))
    now = peak_of()
    return now, [(change, peak) for change, peak in changes if peak < now]


def fitting_batch_size(predicted, free_bytes: int, largest: int = 64) -> int:
    """The largest power of two up to `largest` whose predicted peak fits; 0 where not even one row does.

    Args:
        predicted: `rows at once -> peak bytes`.
    """
    size, found = 1, 0
    while size <= largest and predicted(size) <= free_bytes:
        size, found = 2 * size, size
    return found
