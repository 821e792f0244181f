"""Whether a merged model is its adapter on its base: weight by weight, before anything is exported."""

from collections.abc import Iterator

import torch

from nbhelpers.core.errors import AuditError


def expected_weights(model) -> Iterator[tuple[str, torch.Tensor]]:
    """`(name in the merged model, weight)` that a PEFT model with LoRA adapters should merge to, in float32.

    W + B A * scale where there is an adapter, else the weight as it is; of a layer that was trained as a whole
    (`modules_to_save`) the trained copy.
    """
    base = model.get_base_model()
    inside: set[str] = set()
    for name, module in base.named_modules():
        if hasattr(module, "lora_A"):
            inside.add(name)
            layer = module.get_base_layer()
            delta = sum(module.get_delta_weight(adapter).float() for adapter in module.active_adapters)
            yield f"{name}.weight", layer.weight.detach().float() + delta
            if getattr(layer, "bias", None) is not None:
                yield f"{name}.bias", layer.bias.detach().float()
        elif hasattr(module, "modules_to_save"):
            inside.add(name)
            for key, value in module.modules_to_save[module.active_adapters[0]].named_parameters():
                yield f"{name}.{key}", value.detach().float()
    for name, value in base.named_parameters():
        if not any(name.startswith(f"{known}.") for known in inside):
            yield name, value.detach().float()


def largest_difference(model, merged) -> tuple[str, float]:
    """`(weight, difference)`: where a merged model is farthest from what its adapter model should merge to.

    The difference is the largest absolute one of a weight, in its own units.
    """
    weights = dict(merged.named_parameters(remove_duplicate=False))
    differences = {
        name: (weights[name].detach().float() - value).abs().max().item() for name, value in expected_weights(model)
    }
    return max(differences.items(), key=lambda item: item[1])


def check_merge(model, merged, tolerance: float = 1e-5) -> str:
    """One line that says how exactly a model was merged.

    Args:
        model: the base with its adapter on it, not merged.
        merged: what it was merged to, as it will be saved.
        tolerance: of a weight: rounding of float32; of bfloat16 about 2^-8 of the largest weight.

    Raises:
        AuditError: a weight differs by more; names the layer that differs most.
    """
    name, difference = largest_difference(model, merged)
    if difference > tolerance:
        raise AuditError(
            f"The merged model is not its adapter: {name} differs by {difference:.2e}, more than {tolerance:.0e}. "
            "Nothing was exported. Merge into the unquantised base, every adapter and every layer of it."
        )
    return f"merged weights equal base + adapter within {difference:.1e} ({name})"
