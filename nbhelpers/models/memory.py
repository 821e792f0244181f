"""Peak memory of a training, predicted from a model's shape before anything is loaded."""

from dataclasses import dataclass

from nbhelpers.core.errors import ParameterError
from nbhelpers.models.shape import Shape

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# NF4: 4 bits a weight, an 8-bit constant a block of 64, a 32-bit one 256 blocks (Dettmers et al. 2023, section 3).
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8
FOUR_BIT_BYTES = (4 + 32 / 64) / 8  # the blocks' constants left in 32 bits
# On a CPU the C library cannot reuse every freed block for one of another size. Measured: a third of the activations
# and of gradients that lie beside them; in bfloat16 a half, with the kernels that oneDNN compiles for every number of
# tokens (SmolLM2-135M, glibc, 3 to 14 steps of a process that has done nothing else; more in one that has generated
# text before, and over many steps of full fine-tuning). With blocks above 1 MiB mapped one by one, which takes half as
# long again, nothing is lost: 1,639 MiB measured for LoRA, 1,645 predicted without this share.
CPU_ALLOCATOR_SHARE = {"float32": 0.35, "bfloat16": 0.5, "float16": 0.5}
# Four-bit weights are unpacked layer by layer, between the activations: a larger share of these is lost, and a third of
# the unpacked weights beside it (tests/training/test_measured_memory.py: 256 to 2,048 tokens within 2 %).
UNPACKED_ALLOCATOR_SHARE, UNPACKED_LOST = 0.15, 1 / 3
# Median of 30 runs on a T4 with SDPA, 4 to 25 % (fitcheck-llm 0.3.1, data/measurements); eager attention 6 to 49 %.
RESERVED_SHARE = 0.10
CUDA_CONTEXT = 500 * 2**20  # of the driver and its libraries: 141 MiB measured there on a T4; its default for others
# What stage of ZeRO, or FSDP as stage 3, divides among the GPUs (Rajbhandari et al. 2020, figure 1).
SHARDED = {"ddp": (), "zero1": ("optimizer",), "zero2": ("optimizer", "gradients")}
ZERO_BUCKET = 5e8  # gradients that DeepSpeed reduces at once (reduce_bucket_size); DDP's buckets hold all of them
SHARDED["zero3"] = SHARDED["fsdp"] = (*SHARDED["zero2"], "weights")


@dataclass(frozen=True)
class Plan:
    """What a training will read: tokens in all and the most in one micro-batch, padding counted in the latter."""

    tokens: int
    labelled_tokens: int
    largest_batch_tokens: int
    largest_batch_labelled_tokens: int

    @classmethod
    def of_row(cls, tokens: int) -> "Plan":
        """A training that reads one row of so many tokens, all of them labelled."""
        return cls(tokens, tokens, tokens, tokens)


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
    target_modules: tuple[str, ...] | None = None,
    adapter_dtype: str = "float32",
    unquantised_dtype: str | None = None,
    attention: str = "sdpa",
    max_length: int = 0,
    compiled: bool = False,
    logits_dtype: str | None = None,
    loss_chunks: int = 1,
    fused_loss_tokens: int | None = None,
    optimizer_in_backward: bool = False,
    offloaded_activations: bool = False,
    gpus: int = 1,
    sharding: str = "ddp",
) -> dict[str, int]:
    """Peak bytes of training on one device, by part; the sum is the prediction.

    Args:
        method: `full`, `lora` or `qlora` (NF4 with double quantisation).
        dtype: what is computed in.
        weights_dtype: what the weights, their gradients and moments are stored in; None: as `dtype`. Where the two
            differ, autocast keeps a copy of each matrix in `dtype` from its first use in a step on.
        adapter_parameters: numbers that an adapter trains; None: those of a LoRA of `lora_rank` on `target_modules`
            (None: all linear layers).
        adapter_width: numbers a token that an adapter has autograd keep in each block (`adapters.kept_width`); None:
            those of that LoRA.
        optim: as transformers calls it. AdamW keeps two moments a number; in eight bits (Dettmers et al. 2022) a byte
            each, with a constant a block of 256 (bitsandbytes), but for the embedding, which transformers leaves in
            float32; paged, they can lie in the machine's memory and do not count; Adafactor (Shazeer and Stern 2018)
            keeps a number a row and a column of a matrix; SGD nothing.
        four_bit_bytes: bytes of a weight in four bits, its constants included.
        plan: its largest micro-batch decides.
        gradient_accumulation_steps: micro-batches a step. From two on, the gradients of the first are there while the
            next is computed; with one, they are made as the activations are given back, and only what they take beyond
            these counts, but at least the first that is made, the head's.
        unquantised_dtype: of embedding, head and norms beside four-bit weights; None: as `weights_dtype`. peft's
            `prepare_model_for_kbit_training` makes them float32, and the logits with them.
        attention: `eager` keeps the attention weights of every pair of tokens, softmax in float32 and rounded: it needs
            `max_length`; `sdpa` and `flash` do not (Dao et al. 2022).
        compiled: torch.compile computes norms and the gated activation again instead of keeping their parts.
        logits_dtype: what the head's output is cast to before the loss; None: it stays as it is computed.
        loss_chunks: parts in which cross-entropy goes to float32 and back; the logits themselves are whole.
        fused_loss_tokens: whose logits are there at a time where the loss applies the head itself, part by part
            (`torch.nn.functional.linear_cross_entropy`, Liger Kernel); None: the logits of all labelled tokens are.
        optimizer_in_backward: each weight is updated as its gradient is made, and only the largest gradient is there.
        offloaded_activations: checkpointed inputs of the blocks lie in the machine's memory.
        gpus, sharding: `ddp`, or stage `zero1`, `zero2`, `zero3` or `fsdp`, which hold a share of `SHARDED` each.

    The activations are the `kept_tensors` of every block. Where they are computed twice, they are the inputs of all
    blocks and, on a CPU, those of one block beside; on a GPU the peak is at the logits or, if that is more, where one
    block is computed again and its gradients are made (eager attention then takes 16 bytes a pair of tokens and head).
    Of cross-entropy float32 copies count three: upcast logits, log-softmax, its gradient.

    Raises:
        ParameterError: an unknown method, dtype, attention or sharding, or eager attention without `max_length`.
    """
    _check(method, dtype, weights_dtype, device, attention, max_length, sharding, gpus)
    positive = {
        "lora_rank": lora_rank,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "loss_chunks": loss_chunks,
        "fused_loss_tokens": 1 if fused_loss_tokens is None else fused_loss_tokens,
    }
    if low := [f"{name}={value!r}" for name, value in positive.items() if not value >= 1]:
        raise ParameterError(f"{', '.join(low)}: at least 1.")
    if unknown := set(target_modules or ()) - shape.linear_layers.keys():
        raise ParameterError(
            f"target_modules has {', '.join(sorted(unknown))}; choose of {', '.join(shape.linear_layers)}."
        )
    width, tokens = BYTES[dtype], plan.largest_batch_tokens
    linear, on_cpu = shape.linear_parameters, device == "cpu"
    rest = shape.parameters - linear
    stored = BYTES[weights_dtype or dtype]
    copies = width if stored != width and method != "qlora" else 0
    beside_width = BYTES[unquantised_dtype] if unquantised_dtype and method == "qlora" else stored
    weights = (four_bit_bytes if method == "qlora" else stored) * linear + rest * beside_width
    weights += copies * (linear + shape.head_parameters)
    if method == "full":
        trained, state_width, adapter_width = shape.parameters, stored, None
    else:
        trained, state_width = adapter_parameters, BYTES[adapter_dtype]
        if trained is None:
            trained = shape.lora_parameters(lora_rank, target_modules)
        if adapter_width is None:
            adapter_width = lora_width(shape, lora_rank, target_modules)
    block = tokens * sum(kept_tensors(shape, dtype, adapter_width, bool(copies), on_cpu, compiled).values())
    pairs = tokens * shape.heads * max_length if attention == "eager" else 0
    block += pairs * (4 + width)
    residual = 4 if method == "qlora" and unquantised_dtype == "float32" else width
    inputs = 0 if offloaded_activations else tokens * shape.layers * residual * shape.hidden_size
    gradients = (shape.head_parameters if optimizer_in_backward else trained) * state_width
    labelled = plan.largest_batch_labelled_tokens
    logits = min(labelled, fused_loss_tokens or labelled) * shape.vocabulary
    if on_cpu:
        logits *= 2 * width + 3 * 4  # as computed and their gradient; upcast, log-softmax and its gradient in float32
        kept = inputs + block if gradient_checkpointing else shape.layers * block
        head = shape.head_parameters * state_width if method == "full" else 0  # the first gradient that is made
        beside = gradients + (head if shape.tied else 0)  # at the end the embedding has a second one, that of the head
        if gradient_accumulation_steps == 1 and not gradient_checkpointing:
            beside = max(beside - kept, head)
    else:
        upcast = 4 if compiled and loss_chunks > 1 else 3 * 4  # fused, the chunk goes to float32 once
        logit = BYTES[logits_dtype] if logits_dtype else residual
        logits *= logit + 3 * 4 if loss_chunks == 1 else logit + (logit + upcast) / loss_chunks
        kept = inputs if gradient_checkpointing else shape.layers * block
        again = 2 * block + pairs * 6 if gradient_checkpointing else 0  # a block's tensors and their gradients
        kept += max(0, again - logits)
        head = shape.head_parameters * state_width if method == "full" else 0  # the first gradient that is made
        last = max(0, gradients + again - kept - logits, head)
        beside = gradients if gradient_accumulation_steps > 1 or optimizer_in_backward else last
    lost = CPU_ALLOCATOR_SHARE[dtype] * (kept + beside) if on_cpu else 0
    if on_cpu and method == "qlora":
        lost += UNPACKED_ALLOCATOR_SHARE * kept + UNPACKED_LOST * width * linear
    parts = {
        "weights": weights,
        "adapter": 0 if method == "full" else trained * state_width,
        "gradients": beside,
        "optimizer": optimizer_bytes(shape, method, optim, trained, state_width),
        "activations": kept,
        "allocator": lost,
        "logits": logits,
    }
    if gpus > 1:
        ends = shape.head_parameters * (1 if shape.tied else 2)
        whole = stored * (linear / shape.layers + ends)  # a block and both ends, gathered from all GPUs
        bucket = gradients if sharding == "ddp" else min(gradients, ZERO_BUCKET * state_width)
        parts |= {part: parts[part] / gpus for part in SHARDED[sharding]}
        parts["gathered weights or gradient bucket"] = whole if "weights" in SHARDED[sharding] else bucket
    return {part: int(value) for part, value in parts.items()}


def _check(method, dtype, weights_dtype, device, attention, max_length, sharding, gpus) -> None:
    known = {"method": (method, ("full", "lora", "qlora")), "dtype": (dtype, tuple(BYTES))}
    known |= {"device": (device, ("cpu", "cuda", "mps")), "weights_dtype": (weights_dtype, (None, *BYTES))}
    known |= {"attention": (attention, ("sdpa", "flash", "eager")), "sharding": (sharding, tuple(SHARDED))}
    for name, (value, values) in known.items():
        if value not in values:
            raise ParameterError(f"{name}={value!r} is not known; choose {', '.join(map(str, values))}.")
    if attention == "eager" and max_length < 1:
        raise ParameterError("attention='eager' needs max_length, the tokens of a row: its memory grows with it.")
    if gpus < 1:
        raise ParameterError(f"gpus={gpus!r}: at least 1.")


def optimizer_bytes(shape: Shape, method: str, optim: str, trained: int, state_width: int) -> int:
    """Bytes that an optimizer, as transformers calls it, keeps of `trained` numbers stored in `state_width` bytes."""
    if "paged" in optim or optim == "sgd":
        return 0
    if method == "full" and optim == "adafactor":
        sides = shape.layers * sum(a + b for a, b in shape.linear_shapes) + shape.vocabulary + shape.hidden_size
        return 4 * sides
    if method == "full" and "8bit" in optim:
        head = 0 if shape.tied else shape.head_parameters
        rest = shape.parameters - shape.linear_parameters
        return int((2 + 8 / 256) * (shape.linear_parameters + head) + 2 * 4 * (rest - head))
    if "8bit" in optim:
        return int((2 + 8 / 256) * trained)
    return 0 if optim == "adafactor" else 2 * trained * state_width


def lora_width(shape: Shape, rank: int, target_modules: tuple[str, ...] | None = None) -> int:
    """Numbers a token that a LoRA has autograd keep in each block: the inputs of its matrices and its narrow products.

    q, k and v read the same, and so do gate and up; what o reads is kept anyway.
    """
    names = set(shape.linear_layers if target_modules is None else target_modules)
    read = [{"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}, {"down_proj"}]
    return sum(shape.linear_layers[min(group & names)][0] for group in read if group & names) + rank * len(names)


def kept_tensors(
    shape: Shape, dtype: str, adapter_width: int | None, lowered: bool, on_cpu: bool, compiled: bool = False
) -> dict[str, int]:
    """Bytes a token that autograd keeps of one block for the backward pass: tensor -> bytes.

    Args:
        dtype: what is computed in.
        adapter_width: numbers a token that an adapter beside frozen weights has kept; None: the weights are trained.
        lowered: whether autocast lowers the weights to `dtype`. Norms are then computed in float32.
        on_cpu: attention is in float32 there (`forward.float32_attention`).
        compiled: norms keep their inputs as they came, and of the gated MLP gate and up alone are kept.
    """
    h, i, width = shape.hidden_size, shape.intermediate_size * shape.experts_per_token, BYTES[dtype]
    queries, values = shape.heads * shape.head_size, shape.key_value_heads * shape.head_size
    attention = 4 if on_cpu else width
    rms = shape.gated and not compiled
    tensors = {
        "inputs of both norms, in float32" if rms else "inputs of both norms": (4 if rms else width) * 2 * h,
        "a statistic a head and a norm": 4 * (shape.heads + 2),
        "queries, keys and values": attention * (queries + 2 * values),
        "what attention returns": attention * queries + (width * queries if attention != width else 0),
    }
    if shape.gated:
        tensors["gate, its activation, up" if not compiled else "gate, up"] = width * (2 if compiled else 3) * i
    else:
        tensors["up"] = width * i
    if adapter_width is not None:
        return tensors | {"what the adapter reads and makes": width * adapter_width}
    if not compiled:
        tensors["input of down"] = width * i
    if lowered:
        tensors["inputs of both norms, normalised, in float32"] = 4 * 2 * h
        return tensors | {"what q, k, v, gate and up read, a copy each": width * 5 * h}
    return tensors | {"inputs of both norms, normalised, and times their weights": width * (2 if compiled else 4) * h}


def weights_dtype(method: str, dtype: str) -> str:
    """The precision to load weights in: float32 where they are trained, `dtype` where they are frozen.

    A step changes a weight by about the learning rate. Next to a weight that is a thousand times as large, bfloat16
    rounds such a change away, and float16 lets its gradient vanish. Products are computed in `dtype` all the same.
    """
    return "float32" if method == "full" else dtype


def reserved(peak_bytes: int, context: bool = True) -> int:
    """What a GPU shows as used where tensors take `peak_bytes` at most: the allocator keeps more than it hands out.

    By RESERVED_SHARE, and CUDA_CONTEXT beside it (`context`).
    """
    return int(peak_bytes * (1 + RESERVED_SHARE)) + (CUDA_CONTEXT if context else 0)
