"""Adapters as PEFT computes them, at less cost: LoRA's update written into the layer's own output."""

import contextlib

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import LoraVariant


class _AddLowRank(torch.autograd.Function):
    """result += scaling * (x A^T) B^T, in place, computed in the precision of `result`.

    Shapes: result (..., outputs), x (..., inputs), A (r, inputs), B (outputs, r). The backward pass needs x, which the
    frozen layer's neighbours share, and x A^T, which is r wide; nothing as wide as the layer is made beside them.
    """

    @staticmethod
    def forward(ctx, result, x, A, B, scaling):
        dtype = result.dtype
        rows = x.to(dtype).flatten(0, -2)
        narrow = (rows @ A.to(dtype).T).mul_(scaling)
        result.view(-1, result.shape[-1]).addmm_(narrow, B.to(dtype).T)
        ctx.mark_dirty(result)
        ctx.save_for_backward(rows, narrow, A, B)
        ctx.scaling, ctx.input = scaling, (x.shape, x.dtype)
        return result

    @staticmethod
    def backward(ctx, gradient):
        rows, narrow, A, B = ctx.saved_tensors
        shape, dtype = ctx.input
        outer = gradient.flatten(0, -2)
        inner = (outer @ B.to(outer.dtype)).mul_(ctx.scaling)
        to_x = (inner @ A.to(inner.dtype)).view(shape).to(dtype) if ctx.needs_input_grad[1] else None
        return gradient, to_x, (inner.T @ rows).to(A.dtype), (outer.T @ narrow).to(B.dtype), None


class _InPlace(LoraVariant):
    """How a LoRA layer adds its update while `in_place_lora` is on."""

    @staticmethod
    def forward(module, active_adapter, x, result, **kwargs):
        A, B = module.lora_A[active_adapter].weight, module.lora_B[active_adapter].weight
        return _AddLowRank.apply(result, x, A, B, module.scaling[active_adapter])


def _plain(layer: LoraLayer, name: str) -> bool:
    """Whether the adapter `name` is Hu et al.'s, on a linear layer of full precision or of 4 bits, and nothing else."""
    linear = {type(layer).__name__, type(layer.get_base_layer()).__name__} in ({"Linear"}, {"Linear4bit"})
    extra = name in layer.lora_variant or layer.lora_bias[name]
    return linear and not extra and isinstance(layer.lora_dropout[name], torch.nn.Identity)


@contextlib.contextmanager
def in_place_lora(model):
    """Within the block, plain LoRA layers add their update to the frozen layer's output in place.

    PEFT makes four tensors as wide as the layer (the update, its product with the scaling, the sum, and the gradient of
    the product) and, where adapters are float32 under autocast, a float32 copy of every input that is kept for the
    backward pass. Here there is none of them; the result and the gradients are the same. Layers with dropout, a bias,
    DoRA or another variant, and quantised layers of other kinds are left as they are.
    """
    taken = [
        (layer, name, layer.cast_input_dtype_enabled)
        for layer in model.modules()
        if isinstance(layer, LoraLayer)
        for name in layer.lora_A
        if _plain(layer, name)
    ]
    for layer, name, _ in taken:
        layer.lora_variant[name], layer.cast_input_dtype_enabled = _InPlace(), False
    try:
        yield
    finally:
        for layer, name, cast in taken:
            del layer.lora_variant[name]
            layer.cast_input_dtype_enabled = cast
