"""Forward passes without needless work: the head on labelled tokens, attention without copies, a cache with room."""

import contextlib
import copy

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from nbhelpers.chat import IGNORE


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
def float32_attention(device: str):
    """Within the block, attention that is trained is computed in float32 on a CPU, under autocast too.

    The backward pass of torch's CPU kernel takes about three times as long in bfloat16 as in float32, casts included:
    at 135 tokens 23 and 9 ms a block of SmolLM2-135M on two cores with AMX. On other devices nothing is changed.
    """
    if device != "cpu":
        yield
        return
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    plain = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def attention(module, query, key, value, attention_mask, **kwargs):
        if not torch.is_grad_enabled():
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
