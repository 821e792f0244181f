"""Faster ways to the same numbers: attention, LoRA and the vocabulary projection without needless work."""

import contextlib
import copy

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import LoraVariant
from transformers import LogitsProcessor
from transformers.cache_utils import DynamicCache, DynamicLayer

from nbhelpers.core.errors import ModelError, ParameterError
from nbhelpers.models.encoding import IGNORE


class _AddLowRank(torch.autograd.Function):
    """result += scaling * (x A^T) B^T, in place, computed in the precision of `result`.

    Shapes: result (..., outputs), x (..., inputs), A (r, inputs), B (outputs, r). The backward pass needs x, which the
    frozen layer's neighbours share, and x A^T, which is r wide; nothing as wide as the layer is made beside them.
    """

    @staticmethod
    def forward(ctx, result, x, A, B, scaling):
        dtype = result.dtype
        rows = x.to(dtype).flatten(0, -2)
        narrow = (rows @ A.to(dtype).T).mul_(scaling).to(dtype)  # autocast may have lowered it
        result.view(-1, result.shape[-1]).addmm_(narrow, B.to(dtype).T)
        ctx.mark_dirty(result)
        ctx.save_for_backward(rows, narrow, A, B)
        ctx.scaling, ctx.input = scaling, (x.shape, x.dtype)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        rows, narrow, A, B = ctx.saved_tensors
        shape, dtype = ctx.input
        outer = gradient.flatten(0, -2)
        inner = (outer @ B.to(outer.dtype)).mul_(ctx.scaling)
        _, for_x, for_A, for_B, _ = ctx.needs_input_grad
        to_x = (inner @ A.to(inner.dtype)).view(shape).to(dtype) if for_x else None
        to_A = (inner.T @ rows).to(A.dtype) if for_A else None
        to_B = (outer.T @ narrow).to(B.dtype) if for_B else None
        return gradient, to_x, to_A, to_B, None


class _InPlace(LoraVariant):
    """How a LoRA layer adds its update while `in_place_lora` is on."""

    @staticmethod
    def forward(module, active_adapter, x, result, **kwargs):
        A, B = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight
        return _AddLowRank.apply(result, x, A, B, module.scaling[active_adapter])

    @staticmethod
    def merge_safe(module, active_adapter, orig_weight):
        return orig_weight + module.get_delta_weight(active_adapter).to(orig_weight.dtype)

    @staticmethod
    def merge_unsafe(module, active_adapter, orig_weight):
        orig_weight.data += module.get_delta_weight(active_adapter).to(orig_weight.dtype)

    @staticmethod
    def unmerge(module, active_adapter, orig_weight):
        return orig_weight - module.get_delta_weight(active_adapter).to(orig_weight.dtype)


def _plain(layer: LoraLayer) -> bool:
    """Whether every adapter of a layer is Hu et al.'s, on a linear layer of full precision or of 4 bits, unsharded."""
    if {type(layer).__name__, type(layer.get_base_layer()).__name__} not in ({"Linear"}, {"Linear4bit"}):
        return False
    weights = [matrix[name].weight for name in layer.lora_A for matrix in (layer.lora_A, layer.lora_B)]
    whole = all(type(weight) is torch.nn.Parameter and weight.dim() == 2 for weight in weights)
    extra = bool(layer.lora_variant) or any(layer.lora_bias.values())
    return (
        whole and not extra and all(isinstance(dropout, torch.nn.Identity) for dropout in layer.lora_dropout.values())
    )


@contextlib.contextmanager
def in_place_lora(model):
    """Within the block, plain LoRA layers add their update to the frozen layer's output in place.

    PEFT makes four tensors as wide as the layer (the update, its product with the scaling, the sum, and the gradient of
    the product) and, where adapters are float32 under autocast, casts every input up and down again and keeps the copy.
    Here there is none of them; the result and the gradients are the same to rounding. Layers with dropout, a bias, DoRA
    or another variant, sharded adapters, and quantised layers of other kinds are left as they are.
    """
    taken = [
        (layer, name, layer.cast_input_dtype_enabled)
        for layer in model.modules()
        if isinstance(layer, LoraLayer) and _plain(layer)
        for name in layer.lora_A
    ]
    for layer, name, _ in taken:
        layer.lora_variant[name], layer.cast_input_dtype_enabled = _InPlace(), False
    try:
        yield
    finally:
        for layer, name, cast in taken:
            layer.lora_variant.pop(name, None)  # the adapter may have been deleted meanwhile
            layer.cast_input_dtype_enabled = cast


@contextlib.contextmanager
def grouped_attention(device: str):
    """Within the block, attention on a CPU uses key and value heads where they lie, whatever the mask.

    Several query heads share a key and a value head. Under a padding mask transformers copies these for every query
    head at every token, because CUDA's fused kernels need it; torch's CPU kernel does not, and the copies take longer
    than the attention. On other devices nothing is changed.
    """
    if device != "cpu":
        yield
        return
    from transformers.integrations import sdpa_attention

    before = sdpa_attention.use_gqa_in_sdpa
    sdpa_attention.use_gqa_in_sdpa = lambda mask, key, value: key.shape[-1] == value.shape[-1]
    try:
        yield
    finally:
        sdpa_attention.use_gqa_in_sdpa = before


@contextlib.contextmanager
def float32_attention(device: str, always: bool = False):
    """Within the block, attention that is trained is computed in float32 on a CPU, under autocast too.

    With `always`, so is attention that is not, where both must give the same numbers.

    The backward pass of torch's CPU kernel takes about three times as long in bfloat16 as in float32, casts included:
    at 135 tokens 23 and 9 ms a block of SmolLM2-135M on two cores with AMX. On other devices nothing is changed.
    """
    if device != "cpu":
        yield
        return
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    plain = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def attention(module, query, key, value, attention_mask, **kwargs):
        if not always and not torch.is_grad_enabled():
            return plain(module, query, key, value, attention_mask, **kwargs)
        if attention_mask is not None and attention_mask.is_floating_point():
            attention_mask = attention_mask.float()
        with torch.autocast(device, enabled=False):  # which would cast them back
            found, weights = plain(module, query.float(), key.float(), value.float(), attention_mask, **kwargs)
        return found.to(value.dtype), weights

    ALL_ATTENTION_FUNCTIONS["sdpa"] = attention
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = plain


def labelled_logits(model, head, batch: dict):
    """`(logits, targets)` of the labelled tokens alone: shapes (labelled tokens, vocabulary) and (labelled tokens,).

    The vocabulary projection is the widest layer of a small model, and an answer often a tenth of its row. Rows padded
    on the right (and not packed) are run without a mask for the padding: a causal model looks back only, so that no
    real token sees it, and attention may take its causal kernel, which skips half of the work.

    Args:
        model: a causal language model, or what an accelerator wrapped around it.
        head: its vocabulary projection, `get_output_embeddings()`.
        batch: `input_ids` and `labels`, both (rows, tokens), and what else the model takes.
    """
    labels, mask = batch["labels"], batch.get("attention_mask")
    learned = labels[:, 1:] != IGNORE
    length = labels.shape[1]
    on_the_right = mask is not None and mask.dim() == 2 and "position_ids" not in batch
    on_the_right = on_the_right and bool(mask[:, 0].all() and (mask[:, 1:] <= mask[:, :-1]).all())
    left_out = ("labels", "attention_mask") if on_the_right else ("labels",)

    def keep_learned(module, arguments):
        return (arguments[0][:, -length:-1][learned],)  # the last `length` positions: soft prompts stand before

    hook = head.register_forward_pre_hook(keep_learned)
    try:
        outputs = model(**{key: value for key, value in batch.items() if key not in left_out}, use_cache=False)
    finally:
        hook.remove()
    return outputs.logits.float(), labels[:, 1:][learned]


class Sampling(LogitsProcessor):
    """Draws the next token of each row and leaves no other, so that `do_sample=False` takes it.

    Raises:
        ParameterError: a temperature that is not above 0, a `top_p` outside of 0 to 1.
        ModelError: when called, the scores are not numbers.

    The distribution is that of `do_sample=True`: the softmax of the scores over `temperature`, cut to the most likely
    tokens that hold `top_p` of it (nucleus sampling, Holtzman et al. 2020). What differs is the work. torch draws an
    exponential for each entry of the vocabulary, transformers sorts it; together that took half of the time of a token.
    Here one uniform number a row is looked up in the cumulated probabilities, and the `most` likeliest tokens nearly
    always hold `top_p`; all are sorted only where they do not.
    """

    def __init__(self, temperature: float = 1.0, top_p: float = 1.0, most: int = 512):
        if not (temperature > 0 and 0 < top_p <= 1):
            raise ParameterError(
                f"temperature={temperature}, top_p={top_p}: tokens are drawn at a temperature above 0, from the most "
                "likely ones that hold a share above 0 and up to 1. Temperature 0 of `generate` is greedy."
            )
        self.temperature, self.top_p, self.most = temperature, top_p, most

    def nucleus(self, scores):
        """`(probabilities, tokens)` in falling order, shape (rows, kept), the former 0 outside of the nucleus."""
        probabilities = (scores.float() / self.temperature).softmax(-1)
        values, tokens = probabilities.topk(min(self.most, scores.shape[-1]), dim=-1)
        if (values.sum(-1) < self.top_p).any():
            values, tokens = probabilities.sort(dim=-1, descending=True)
        likelier = values.cumsum(-1) - values
        kept = likelier < self.top_p
        kept[..., 0] = True
        return values * kept, tokens

    def __call__(self, input_ids, scores):
        if self.top_p < 1:
            values, tokens = self.nucleus(scores)
        else:
            values, tokens = (scores.float() / self.temperature).softmax(-1), None
        below = values.cumsum(-1)
        if not below[:, -1].isfinite().all():
            raise ModelError(
                "The model gives no probabilities (its logits are not numbers): its weights are damaged, or the "
                "precision is too low for it. Load it in float32, or train it with a lower learning rate."
            )
        drawn = below[:, -1:] * (1 - torch.rand(len(below), 1, device=below.device))  # above 0, as what it falls on
        places = torch.searchsorted(below, drawn)
        token = places if tokens is None else tokens.gather(-1, places)
        return torch.full_like(scores, -torch.inf).scatter(-1, token, 0.0)


class _Room(DynamicLayer):
    """Keys and values of one layer with room for the whole answer: a new token moves none of those before it."""

    def __init__(self, layer: DynamicLayer, rows: int, tokens: int):
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self.room = [past.new_empty(rows, past.shape[1], tokens, past.shape[3]) for past in (layer.keys, layer.values)]
        self.tokens = 0
        self.update(layer.keys, layer.values)

    def update(self, key_states, value_states, *args, **kwargs):
        begin, self.tokens = self.tokens, self.tokens + key_states.shape[-2]
        for room, new in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, begin : self.tokens] = new
        self.keys, self.values = (room[:, :, : self.tokens] for room in self.room)
        return self.keys, self.values

    def batch_select_indices(self, indices):
        self.room = [room[indices] for room in self.room]
        self.keys, self.values = (room[:, :, : self.tokens] for room in self.room)

    reorder_cache = batch_select_indices

    def crop(self, tokens_to_remove: int) -> None:
        super().crop(tokens_to_remove)
        self.tokens = self.keys.shape[-2]


def can_begin(cache) -> bool:
    """Whether rows may go on from a cache behind padding of their own: attention over all tokens, in every layer.

    A sliding window would count the padding, and a recurrent state has read it.
    """
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def with_room(cache: DynamicCache, rows: int, tokens: int) -> DynamicCache:
    """A cache for `rows` rows that all begin as the one row of `cache` does, with room for `tokens` tokens each.

    transformers' own cache copies all keys and values of a batch for every token written, which takes longer than the
    attention over them. `cache` is one that `can_begin`.
    """
    begun = copy.copy(cache)
    begun.layers = [_Room(layer, rows, tokens) for layer in cache.layers]
    return begun
