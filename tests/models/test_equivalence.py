"""A merge that is its adapter, and those that are not: a layer missed, a rounding, a head that was trained."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from nbhelpers.core.errors import AuditError, ModelError
from nbhelpers.models import equivalence, loading, saving

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapted(model, **options):
    """The model with a LoRA whose second half is not zero."""
    torch.manual_seed(0)
    changed = get_peft_model(model, LoraConfig(r=4, target_modules=LAYERS, **options))
    for name, parameter in changed.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return changed.eval()


def test_a_merge_is_its_adapter_weight_by_weight_and_in_its_logits(model):
    changed = adapted(model)
    merged = copy.deepcopy(changed).merge_and_unload()
    assert "merged weights equal base + adapter within" in equivalence.check_merge(changed, merged)
    ids = torch.tensor([[5, 6, 7, 8]])
    assert saving.largest_difference(saving.logits(changed, ids), saving.logits(merged, ids)) < 1e-4
    assert {name for name, *_ in equivalence.expected_weights(changed)} == set(dict(merged.named_parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_layer_that_was_missed_is_named_in_every_precision(model, dtype):
    changed = adapted(model).to(dtype)
    merged = copy.deepcopy(changed).merge_and_unload()
    with torch.no_grad():
        merged.model.layers[2].mlp.up_proj.weight.copy_(
            changed.get_base_model().model.layers[2].mlp.up_proj.base_layer.weight
        )
    with pytest.raises(AuditError, match=r"model\.layers\.2\.mlp\.up_proj\.weight differs by .*Nothing was exported"):
        equivalence.check_merge(changed, merged)


def test_a_merge_into_four_bits_is_not_its_adapter(model, smoke, tmp_path):
    saving.save(model, smoke[1], tmp_path)
    changed = adapted(loading.load(str(tmp_path), "float32")[0])
    changed.save_pretrained(tmp_path / "adapter")
    rounded, _ = loading.attach(
        str(tmp_path), tmp_path / "adapter", "float32", quantization_config=loading.four_bit("float32")
    )
    merged = rounded.merge_and_unload()
    unpacked = copy.deepcopy(changed).merge_and_unload()
    for name, module in merged.named_modules():
        if hasattr(module.weight if hasattr(module, "weight") else None, "quant_state"):
            import bitsandbytes.functional as bnb

            weight = bnb.dequantize_4bit(module.weight.data, module.weight.quant_state)
            unpacked.get_submodule(name).weight.data = weight.float()
    with pytest.raises(AuditError, match="is not its adapter"):
        equivalence.check_merge(changed, unpacked)


def test_a_trained_head_of_a_tied_model_stays_its_own_when_saved(model, tokenizer, tmp_path):
    changed = adapted(model, modules_to_save=["embed_tokens", "lm_head"])
    merged = copy.deepcopy(changed).merge_and_unload()
    equivalence.check_merge(changed, merged)
    saving.save(merged, tokenizer, tmp_path)
    again, _ = loading.load(str(tmp_path), "float32")
    assert not again.config.tie_word_embeddings
    ids = torch.tensor([[5, 6, 7, 8]])
    assert saving.largest_difference(saving.logits(changed, ids), saving.logits(again, ids)) < 1e-4


def test_a_weight_that_is_not_a_number_is_no_merge(model):
    changed = adapted(model)
    merged = copy.deepcopy(changed).merge_and_unload()
    merged.model.layers[0].mlp.up_proj.weight.data[3, 3] = torch.nan
    with pytest.raises(AuditError, match=r"layers\.0\.mlp\.up_proj\.weight differs by up to inf"):
        equivalence.check_merge(changed, merged)


@pytest.mark.parametrize("options", [{"use_rslora": True}, {"lora_bias": False}])
def test_other_scales_of_lora_are_known(model, options):
    changed = adapted(model, **options)
    equivalence.check_merge(changed, copy.deepcopy(changed).merge_and_unload())


@pytest.mark.parametrize("options", [{"use_dora": True}, {"trainable_token_indices": [5, 6]}])
def test_an_adapter_of_another_kind_is_an_error_that_says_so(model, options):
    changed = adapted(model, **options)
    with pytest.raises(ModelError, match="no plain LoRA"):
        equivalence.check_merge(changed, copy.deepcopy(changed).merge_and_unload())


def test_two_adapters_of_unlike_layers_merge_to_their_sum(model):
    changed = adapted(model)
    changed.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"]))
    torch.nn.init.normal_(changed.base_model.model.model.layers[0].self_attn.q_proj.lora_B["second"].weight, std=0.02)
    changed.base_model.set_adapter(["default", "second"])
    merged = copy.deepcopy(changed).merge_and_unload(adapter_names=["default", "second"])
    equivalence.check_merge(changed, merged)
