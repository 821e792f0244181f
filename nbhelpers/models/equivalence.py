"""Whether a merged model is its adapter on its base: weight by weight, before anything is exported."""

from collections.abc import Iterator

import torch

from nbhelpers.core.errors import AuditError, ModelError

ULPS = 4  # roundings that a merge may take: of the product, of its scale, of the sum, of the stored weight


def expected_weights(model) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """`(name in the merged model, weight, size)` that a PEFT model with LoRA should merge to, in float32.

    W + B A * scale where there is an adapter, else the weight as it is; of a layer that was trained as a whole
    (`modules_to_save`) the trained copy. `size` is |W| + |B A * scale|, which rounding is relative to.

    Raises:
        ModelError: an adapter of another kind (DoRA, trained tokens), whose merge is not known here.
    """
    base = model.get_base_model()
    inside: set[str] = set()
    for name, module in base.named_modules():
        if type(module).__name__ == "TrainableTokensWrapper" or len(getattr(module, "lora_magnitude_vector", ())):
            raise ModelError(f"{name} has an adapter that is no plain LoRA (DoRA or trained tokens): not checked here.")
        if hasattr(module, "lora_A"):
            inside.add(name)
            layer = module.get_base_layer()
            active = [a for a in module.active_adapters if a in module.lora_A or a in module.lora_embedding_A]
            weight = layer.weight.detach().float()
            delta = sum((module.get_delta_weight(adapter).float() for adapter in active), torch.zeros_like(weight))
            yield f"{name}.weight", weight + delta, weight.abs() + delta.abs()
            if getattr(layer, "bias", None) is not None:
                yield f"{name}.bias", layer.bias.detach().float(), layer.bias.detach().float().abs()
        elif hasattr(module, "modules_to_save"):
            inside.add(name)
            for key, value in module.modules_to_save[module.active_adapters[0]].named_parameters():
                yield f"{name}.{key}", value.detach().float(), value.detach().float().abs()
    for name, value in base.named_parameters():
        if not any(name.startswith(f"{known}.") for known in inside):
            yield name, value.detach().float(), value.detach().float().abs()


def check_merge(model, merged) -> str:
    """One line that says how exactly a model was merged.

    Args:
        model: the base with its adapter on it, not merged.
        merged: what it was merged to, as it will be saved.

    Raises:
        AuditError: a weight differs by more than rounding to its own precision; names the layer that differs most.
    """
    weights, worst = dict(merged.named_parameters(remove_duplicate=False)), (0.0, "", 0.0)
    for name, value, size in expected_weights(model):
        if name not in weights:
            raise AuditError(f"The merged model has no {name}. Nothing was exported.")
        weight = weights[name].detach()
        difference = torch.nan_to_num((weight.float() - value).abs(), nan=torch.inf)
        allowed = ULPS * torch.finfo(weight.dtype).eps * size + torch.finfo(torch.float32).tiny
        worst = max(worst, ((difference / allowed).max().item(), name, difference.max().item()))
    if not worst[0] <= 1:
        raise AuditError(
            f"The merged model is not its adapter: {worst[1]} differs by up to {worst[2]:.2e}, {worst[0]:.1f} times "
            "what rounding explains. Nothing was exported. Merge every layer into the unquantised base."
        )
    return f"merged weights equal base + adapter within {worst[0]:.2f} of what rounding allows ({worst[1]})"
