import contextlib
import copy

import pytest
import torch
from closeness import assert_same
from peft import (
    IA3Config,
    LoKrConfig,
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from saved_tensors import kept

from nbhelpers.core.errors import ModelError
from nbhelpers.models import adapters, fast_paths, loading, memory


def adapted(model, **fields):
    """The model with a LoRA whose B is not zero, so that it changes something."""
    torch.manual_seed(0)
    config = LoraConfig(**({"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | fields))
    wrapped = get_peft_model(model, config)
    for name, parameter in wrapped.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
    return wrapped.train()


IDS = torch.randint(3, 2_000, (3, 40), generator=torch.Generator().manual_seed(1))


def step(model, dtype="float32", context=contextlib.nullcontext, ids=IDS):
    """Logits and the gradient of every parameter that has one, of one pass over the tokens."""
    model.zero_grad()
    with context(model), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        logits = model(input_ids=ids, use_cache=False).logits.float()
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def touched(model):
    return [layer for layer in model.modules() if isinstance(layer, LoraLayer) and layer.lora_variant]


@pytest.mark.parametrize("quantised", [False, True])
def test_logits_and_gradients_are_peft_s(quantised):
    model = adapted(
        loading.load("smoke", "float32", quantization_config=loading.four_bit("float32") if quantised else None)[0]
    )
    logits, gradients = step(model)
    found, ours = step(model, context=fast_paths.in_place_lora)
    assert_same(found, logits)
    assert ours.keys() == gradients.keys()
    assert len(ours) == 2 * 7 * 4  # A and B of seven linear layers in four blocks
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0, name
        assert_same(ours[name], gradient, name)


def test_the_block_really_changes_how_layers_compute():
    model = adapted(loading.load("smoke", "float32")[0])
    with fast_paths.in_place_lora(model):
        assert len(touched(model)) == 7 * 4


def test_in_bfloat16_it_differs_from_float32_no_more_than_peft():
    """On average over batches: which of two roundings is nearer for one batch is luck."""
    full, low = (adapted(loading.load("smoke", dtype)[0]) for dtype in ("float32", "bfloat16"))
    theirs, ours = [], []
    for seed in range(4):
        ids = torch.randint(3, 2_000, IDS.shape, generator=torch.Generator().manual_seed(seed))
        exact = step(full, ids=ids)[1]
        size = sum(gradient.norm() for gradient in exact.values())
        for off, context in ((theirs, contextlib.nullcontext), (ours, fast_paths.in_place_lora)):
            found = step(low, "bfloat16", context, ids)[1]
            off.append(sum((found[name] - gradient).norm() for name, gradient in exact.items()) / size)
    assert 0 < sum(ours) < 1.2 * sum(theirs)


def test_less_is_kept_for_the_backward_pass():
    model = adapted(loading.load("smoke", "bfloat16")[0])
    with kept(model) as theirs:
        step(model, "bfloat16")
    with kept(model) as ours:
        step(model, "bfloat16", fast_paths.in_place_lora)
    assert sum(ours) < 0.92 * sum(theirs)


def test_four_bits_with_float32_inputs_under_autocast_go_as_with_peft():
    model = adapted(loading.load("smoke", "float32", quantization_config=loading.four_bit("bfloat16"))[0])
    gradients = step(model, "bfloat16")[1]
    for name, gradient in step(model, "bfloat16", fast_paths.in_place_lora)[1].items():
        torch.testing.assert_close(gradient, gradients[name], rtol=0.1, atol=0.1 * gradients[name].abs().max().item())


def test_merging_within_the_block_merges(model):
    model = adapted(model).eval()
    expected = model(input_ids=IDS).logits
    with fast_paths.in_place_lora(model):
        model.merge_adapter()
        torch.testing.assert_close(model(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-4)
        model.unmerge_adapter()
    torch.testing.assert_close(model(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-4)


def test_other_kinds_of_lora_layers_are_left_alone(model):
    from peft import AdaLoraConfig

    config = AdaLoraConfig(target_modules=["q_proj"], total_step=10, task_type="CAUSAL_LM")
    wrapped = get_peft_model(model, config)
    with fast_paths.in_place_lora(wrapped):
        assert not touched(wrapped)


@pytest.mark.parametrize("fields", [{"lora_dropout": 0.1}, {"use_dora": True}], ids=str)
def test_what_is_not_plain_lora_is_left_alone(model, fields):
    model = adapted(model, **fields)
    before = [dict(layer.lora_variant) for layer in model.modules() if isinstance(layer, LoraLayer)]
    with fast_paths.in_place_lora(model):
        within = [dict(layer.lora_variant) for layer in model.modules() if isinstance(layer, LoraLayer)]
    assert within == before


def test_rank_stabilised_and_two_active_adapters_are_peft_s(model):
    model = adapted(model, use_rslora=True)
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "second"])
    logits, gradients = step(model)
    found, ours = step(model, context=fast_paths.in_place_lora)
    assert_same(found, logits)
    for name, gradient in gradients.items():
        assert_same(ours[name], gradient, name)


def test_activation_checkpointing_gives_the_same_gradients(model):
    model = adapted(model)
    gradients = step(model)[1]
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for name, gradient in step(model, context=fast_paths.in_place_lora)[1].items():
        assert_same(gradient, gradients[name], name)


def test_everything_is_as_it_was_afterwards_even_after_an_error(model):
    model = adapted(model)
    plain = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match="on purpose"), fast_paths.in_place_lora(model):
        raise RuntimeError("on purpose")
    assert not touched(model)
    assert all(layer.cast_input_dtype_enabled for layer in model.modules() if isinstance(layer, LoraLayer))
    merged, expected = model.merge_and_unload(), plain.merge_and_unload()
    torch.testing.assert_close(merged(input_ids=IDS).logits, expected(input_ids=IDS).logits)


def tokens(count=12):
    return torch.randint(3, 2_000, (2, count), generator=torch.Generator().manual_seed(7))


def test_an_untrained_bottleneck_changes_no_logit(model):
    before = model(input_ids=tokens()).logits
    adapted = adapters.add_bottlenecks(model, 8)
    assert torch.equal(adapted(input_ids=tokens()).logits, before)


def test_bottlenecks_train_what_their_paper_says_and_nothing_else(model):
    h, size, blocks = model.config.hidden_size, 8, model.config.num_hidden_layers
    adapted = adapters.add_bottlenecks(model, size)
    trained = {name: p.numel() for name, p in adapted.named_parameters() if p.requires_grad}
    assert sum(trained.values()) == blocks * 2 * (2 * h * size + h + size)
    assert all(".up." in name or ".down." in name for name in trained)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    frozen = {name: p.clone() for name, p in adapted.named_parameters() if not p.requires_grad}
    losses = []
    for _ in range(4):
        loss = adapted(input_ids=tokens(), labels=tokens()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    for name, parameter in adapted.named_parameters():
        if name in frozen:
            assert torch.equal(parameter, frozen[name]), name


def test_the_bottlenecks_alone_are_saved(model, tmp_path):
    adapted = adapters.add_bottlenecks(model, 4)
    trained = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    adapters.save(adapted, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_model.safetensors", "bottleneck.json"}
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert saved.keys() == trained.keys()
    assert all(torch.equal(saved[name], parameter) for name, parameter in trained.items())


def test_bottlenecks_need_a_layer_to_stand_behind(model):
    with pytest.raises(ModelError, match="no linear layer named c_proj"):
        adapters.add_bottlenecks(model, 4, ("c_proj",))


def test_updates_are_what_a_merge_adds(model):
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    wrapped = adapted(model).eval()
    found = adapters.updates(wrapped, {})
    merged = wrapped.merge_and_unload()
    after = dict(merged.named_parameters())
    assert len(found) == 7 * model.config.num_hidden_layers
    for name, update in found.items():
        assert_same(after[name] - before[name], update, name, share=1e-3)
        assert torch.linalg.matrix_rank(update) == 4
    found = adapters.updates(merged, {name: before[name] for name in found})
    assert all(torch.equal(found[name], after[name] - before[name]) for name in found)


CAUSAL = {"task_type": "CAUSAL_LM"}
LINEAR = {"target_modules": "all-linear"} | CAUSAL
SOFT = {"num_virtual_tokens": 6} | CAUSAL
METHODS = {
    "LoRA": LoraConfig(r=3, **LINEAR),
    "LoRA, attention": LoraConfig(r=3, target_modules=["q_proj", "v_proj"], **CAUSAL),
    "rsLoRA": LoraConfig(r=8, use_rslora=True, **LINEAR),
    "DoRA": LoraConfig(r=3, use_dora=True, **LINEAR),
    "IA3": IA3Config(**CAUSAL),
    "prefix": PrefixTuningConfig(**SOFT),
    "prompt": PromptTuningConfig(**SOFT),
    "P-tuning": PromptEncoderConfig(encoder_hidden_size=24, **SOFT),
}


@pytest.mark.parametrize("config", METHODS.values(), ids=METHODS)
def test_a_method_trains_what_its_formula_says(config, model):
    config, shape = copy.deepcopy(config), memory.Shape.from_config(model.config.to_dict())
    said = adapters.count(shape, config)
    assert said == loading.count_parameters(get_peft_model(model, config))["trainable"]
    assert said == adapters.count(shape, config), "PEFT fills its configuration in; the count stays"


def test_full_fine_tuning_and_bottlenecks_train_what_their_formulas_say(model):
    shape = memory.Shape.from_config(model.config.to_dict())
    assert adapters.count(shape, None) == loading.count_parameters(model)["trainable"]
    config = adapters.Bottlenecks(size=5)
    adapters.add_bottlenecks(model, config.size, config.layers)
    assert adapters.count(shape, config) == loading.count_parameters(model)["trainable"]


def test_a_method_without_a_formula_is_refused(model):
    with pytest.raises(ModelError, match="no formula for what LOKR trains"):
        adapters.count(memory.Shape.from_config(model.config.to_dict()), LoKrConfig(r=2, **LINEAR))
