"""Adapters: how many numbers each method trains, what it adds, and bottleneck adapters, which PEFT has not."""

from dataclasses import dataclass
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

from nbhelpers.core.errors import ModelError
from nbhelpers.core.storage import write_json
from nbhelpers.models import memory
from nbhelpers.models.shape import Shape


def updates(model, before: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What training added to each weight matrix, by its name in the model without PEFT, in float32 on the CPU.

    Of LoRA it is scaling B A of the adapted matrices, which no rounding of a merge has touched (experts that lie in one
    tensor are left out); of another model the difference from `before`, the matrices as they were.
    """
    low_rank = {
        f"{name.removeprefix('base_model.model.')}.weight": layer.get_delta_weight(adapter).detach().float().cpu()
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and getattr(layer.get_base_layer(), "weight", None) is not None
        for adapter in layer.active_adapters
    }
    now = dict(model.named_parameters())
    return low_rank or {name: now[name].detach().float().cpu() - weight for name, weight in before.items()}


@dataclass(frozen=True)
class Bottlenecks:
    """Bottlenecks of `size` behind the linear layers of these names, in every block (`add_bottlenecks`)."""

    size: int = 16
    layers: tuple[str, ...] = ("o_proj", "down_proj")

    def add_to(self, model) -> None:
        add_bottlenecks(model, self.size, self.layers)


def has_formula(model, shape: Shape) -> bool:
    """Whether `count` is written for a model: each of Llama's linear layers is one of its own, and no MLP is many."""
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    return shape.experts == 1 and shape.linear_layers.keys() <= names


def count(shape: Shape, config) -> int:
    """How many numbers a method trains in a Llama-like model of this shape, by the formula of its paper.

    - LoRA (Hu et al. 2021, section 4.1): r (inputs + outputs) for every adapted matrix, whatever scales it
      (Kalajdzievski 2023); DoRA (Liu et al. 2024, section 4.1) one magnitude more for every output, as PEFT has it.
    - IA3 (Liu et al. 2022, section 3.3): a factor for every key, every value and every inner activation of the MLP.
    - Prefix tuning (Li and Liang 2021, section 4), without its MLP: v keys and v values in each block.
    - Prompt tuning (Lester et al. 2021, section 2): v embeddings. P-tuning (Liu et al. 2021, section 3.1): v embeddings
      and the network they go through, here three layers with e hidden units.
    - Bottlenecks (Houlsby et al. 2019, section 2.1): 2 h s + h + s for each; norms, which they train too, stay frozen.

    Args:
        config: a PEFT configuration, `Bottlenecks`, or None for full fine-tuning.

    Raises:
        ModelError: another kind of configuration.
    """
    if config is None:
        return shape.parameters
    if isinstance(config, Bottlenecks):
        widths = [shape.linear_layers[name][1] for name in config.layers]
        return shape.layers * sum(2 * width * config.size + width + config.size for width in widths)
    kind, h = config.peft_type.value, shape.hidden_size
    values = shape.key_value_heads * shape.head_size
    if kind == "LORA":
        names = config.target_modules
        names = shape.linear_layers if isinstance(names, str) else names
        sizes = [shape.linear_layers[name] for name in names]
        return shape.layers * sum(config.r * (i + o) + (o if config.use_dora else 0) for i, o in sizes)
    if kind == "IA3":
        return shape.layers * (2 * values + shape.intermediate_size)
    if kind == "PREFIX_TUNING" and not config.prefix_projection:
        return config.num_virtual_tokens * shape.layers * 2 * values
    if kind == "PROMPT_TUNING":
        return config.num_virtual_tokens * h
    if kind == "P_TUNING":
        e = config.encoder_hidden_size or h
        return config.num_virtual_tokens * h + (h * e + e) + (e * e + e) + (e * h + h)
    raise ModelError(f"There is no formula for what {kind} trains: count it with loading.count_parameters.")


def kept_width(shape: Shape, config) -> int:
    """Numbers a token that a method has autograd keep in each block, beyond what the frozen model keeps.

    LoRA: the inputs of the matrices it adapts, shared by q, k and v and by gate and up (o's is kept anyway), and its
    narrow products; DoRA in addition the outputs of each matrix and of its update, which the magnitudes multiply. IA3:
    keys and values before they are scaled, and the input of down. Bottlenecks: their inputs and inner activations,
    before and after gelu. Virtual tokens: nothing.

    Args:
        config: as for `count`, but not None.
    """
    if isinstance(config, Bottlenecks):
        return sum(shape.linear_layers[name][1] + 2 * config.size for name in config.layers)
    kind = config.peft_type.value
    if kind == "IA3":
        return 2 * shape.key_value_heads * shape.head_size + shape.intermediate_size
    if kind != "LORA":
        return 0
    names = tuple(shape.linear_layers if isinstance(config.target_modules, str) else config.target_modules)
    outputs = 2 * sum(shape.linear_layers[name][1] for name in names) if config.use_dora else 0
    return memory.lora_width(shape, config.r, names) + outputs


class Bottleneck(torch.nn.Module):
    """A frozen linear layer with a bottleneck behind it: y + W_up gelu(W_down y), where y is the layer's output.

    Shapes: W_down (size, outputs), W_up (outputs, size), each with a bias. W_up and its bias start at zero, so that an
    untrained adapter changes nothing.
    """

    def __init__(self, layer: torch.nn.Linear, size: int):
        super().__init__()
        self.layer = layer
        place = {"device": layer.weight.device, "dtype": torch.float32}
        self.down = torch.nn.Linear(layer.out_features, size, **place)
        self.up = torch.nn.Linear(size, layer.out_features, **place)
        torch.nn.init.zeros_(self.up.weight)
        torch.nn.init.zeros_(self.up.bias)

    def forward(self, x):
        y = self.layer(x)
        return y + self.up(torch.nn.functional.gelu(self.down(y.to(self.down.weight.dtype)))).to(y.dtype)


def add_bottlenecks(model, size: int, layers: tuple[str, ...] = ("o_proj", "down_proj")):
    """Freeze a model and put a bottleneck behind the attention and behind the MLP of every block, before the residual.

    That is where Houlsby et al. 2019 (figure 2) put them. Of the model only the adapters are trained: 2 h s + h + s
    numbers each, for a hidden size h and a bottleneck of size s. Unlike LoRA they cannot be merged, so that each token
    pays for them.

    Args:
        layers: names of the linear layers that end attention and MLP, as Llama-like models call them.

    Raises:
        ModelError: the model has no linear layer of these names.
    """
    model.requires_grad_(False)
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if name in layers and isinstance(child, torch.nn.Linear)
    ]
    if not found:
        raise ModelError(f"{type(model).__name__} has no linear layer named {' or '.join(layers)}: give their names.")
    for parent, name, child in found:
        setattr(parent, name, Bottleneck(child, size))
    return model


def _bottlenecks(model) -> dict[str, torch.nn.Parameter]:
    return {
        f"{name}.{part}": parameter
        for name, module in model.named_modules()
        if isinstance(module, Bottleneck)
        for part, parameter in module.named_parameters()
        if not part.startswith("layer.")
    }


def bottlenecks_of(model) -> Bottlenecks | None:
    """The bottlenecks that a model has; None where it has none."""
    weights = _bottlenecks(model)
    if not weights:
        return None
    size = next(len(weight) for name, weight in weights.items() if name.endswith("down.weight"))
    return Bottlenecks(size, tuple(sorted({name.split(".")[-3] for name in weights})))


def save(model, folder: Path) -> None:
    """Write what was trained: a PEFT adapter, bottlenecks (with what is needed to put them back), or every weight."""
    made = bottlenecks_of(model)
    if made is None:
        model.save_pretrained(folder)
        return
    weights = {name: parameter.detach().cpu().contiguous() for name, parameter in _bottlenecks(model).items()}
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(weights, Path(folder, "adapter_model.safetensors"))
    write_json(Path(folder, "bottleneck.json"), {"schema": 1, "size": made.size, "layers": made.layers})
