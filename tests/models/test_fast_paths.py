"""Forward passes without needless work give what the plain ones give."""

import copy
from types import SimpleNamespace

import pytest
import torch
from closeness import assert_same
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from nbhelpers.core.errors import ModelError, ParameterError
from nbhelpers.models import encoding, fast_paths


@pytest.fixture
def padded(smoke):
    """Three rows of different length padded on the right, a third of each labelled."""
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(3, 2_000, (length,), generator=generator).tolist() for length in (30, 18, 7)]
    batch = smoke[1].pad({"input_ids": rows}, padding_side="right", return_tensors="pt")
    batch["labels"] = torch.full_like(batch["input_ids"], encoding.IGNORE)
    for i, row in enumerate(rows):
        start = 2 * len(row) // 3
        batch["labels"][i, start : len(row)] = batch["input_ids"][i, start : len(row)]
    return batch


def test_labelled_logits_are_those_of_the_whole_model_at_the_labels(smoke, padded):
    model = smoke[0]
    learned = padded["labels"][:, 1:] != encoding.IGNORE
    whole = model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]).logits[:, :-1][learned]
    found, targets = fast_paths.labelled_logits(model, model.get_output_embeddings(), padded)
    assert found.shape == (int(learned.sum()), 2_048)
    torch.testing.assert_close(found, whole.float(), rtol=1e-4, atol=1e-4)
    assert targets.tolist() == padded["labels"][:, 1:][learned].tolist()
    after = model(input_ids=padded["input_ids"]).logits
    assert after.shape[:2] == padded["input_ids"].shape, "the head projects every token again afterwards"


def test_a_mask_is_left_out_only_where_the_padding_is_on_the_right(smoke, padded):
    model, seen = smoke[0], []

    def watched(input_ids, attention_mask=None, **kwargs):
        seen.append(attention_mask is not None)
        return model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)

    fast_paths.labelled_logits(watched, model.get_output_embeddings(), padded)
    left = {key: value.flip(1) for key, value in padded.items()}
    fast_paths.labelled_logits(watched, model.get_output_embeddings(), left)
    holed = {**padded, "attention_mask": padded["attention_mask"].clone()}
    holed["attention_mask"][0, 5] = 0
    fast_paths.labelled_logits(watched, model.get_output_embeddings(), holed)
    assert seen == [False, True, True]


def test_grouped_attention_gives_the_same_and_copies_no_heads(smoke, padded, monkeypatch):
    from transformers.integrations import sdpa_attention

    model, copies = smoke[0], []
    assert model.config._attn_implementation == "sdpa"
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    original = sdpa_attention.repeat_kv
    monkeypatch.setattr(sdpa_attention, "repeat_kv", lambda *args: copies.append(1) or original(*args))
    inputs = {key: padded[key].flip(1) for key in ("input_ids", "attention_mask")}
    expected = model(**inputs).logits
    assert len(copies) == 2 * model.config.num_hidden_layers
    copies.clear()
    with fast_paths.grouped_attention("cpu"):
        found = model(**inputs).logits
    assert not copies
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], rtol=1e-5, atol=1e-5)
    model(**inputs)
    assert copies, "afterwards all is as it was"


def test_grouped_attention_changes_nothing_on_a_gpu():
    from transformers.integrations import sdpa_attention

    before = sdpa_attention.use_gqa_in_sdpa
    with fast_paths.grouped_attention("cuda"):
        assert sdpa_attention.use_gqa_in_sdpa is before


def test_a_cache_with_room_holds_what_a_repeated_one_does_and_moves_nothing(smoke):
    model = smoke[0]
    generator = torch.Generator().manual_seed(5)
    begun, later = (
        torch.randint(3, 2_000, (1, 11), generator=generator),
        torch.randint(3, 2_000, (4, 9), generator=generator),
    )
    with torch.inference_mode():
        cache = model(input_ids=begun, use_cache=True).past_key_values
        roomy, plain = fast_paths.with_room(cache, 4, 20), copy.deepcopy(cache)
        plain.batch_repeat_interleave(4)
        places = set()
        for rows, columns in [(slice(None), slice(0, 4)), (slice(None), slice(4, 5)), ([3, 1], slice(5, 9))]:
            if isinstance(rows, list):
                roomy.batch_select_indices(torch.tensor(rows))
                plain.batch_select_indices(torch.tensor(rows))
            else:
                places.add(roomy.layers[0].keys.data_ptr())
            new = later[rows, columns]
            expected = model(input_ids=new, past_key_values=plain).logits
            torch.testing.assert_close(
                model(input_ids=new, past_key_values=roomy).logits, expected, rtol=1e-5, atol=1e-5
            )
            for one, other in zip(roomy.layers, plain.layers, strict=True):
                torch.testing.assert_close(one.keys, other.keys, rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(one.values, other.values, rtol=1e-5, atol=1e-5)
    assert len(places) == 1
    assert roomy.get_seq_length() == 20
    assert cache.get_seq_length() == 11, "the cache that was begun can begin other batches"


def test_a_cache_with_room_can_be_cut_back_and_reordered(smoke):
    model = smoke[0]
    ids = torch.randint(3, 2_000, (3, 14), generator=torch.Generator().manual_seed(6))
    ids[:, :5] = ids[0, :5]
    with torch.inference_mode():
        cache = fast_paths.with_room(model(input_ids=ids[:1, :5], use_cache=True).past_key_values, 3, 16)
        model(input_ids=ids[:, 5:12], past_key_values=cache)
        cache.crop(-2)
        assert cache.get_seq_length() == 10
        cache.reorder_cache(torch.tensor([2, 0, 1]))
        found = model(input_ids=ids[[2, 0, 1], 10:], past_key_values=cache).logits
        expected = model(input_ids=ids[[2, 0, 1]]).logits[:, 10:]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_only_attention_over_all_tokens_can_be_begun():
    from transformers import MistralConfig
    from transformers.cache_utils import DynamicCache

    full = DynamicCache(config=MistralConfig(num_hidden_layers=2, sliding_window=None))
    window = DynamicCache(config=MistralConfig(num_hidden_layers=2, sliding_window=8))
    assert fast_paths.can_begin(full)
    assert not fast_paths.can_begin(window)


SOFT = {
    "prefix": PrefixTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM"),
    "prompt": PromptTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM"),
    "P-tuning": PromptEncoderConfig(num_virtual_tokens=5, encoder_hidden_size=16, task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("config", SOFT.values(), ids=SOFT)
def test_behind_virtual_tokens_loss_and_gradients_are_those_of_peft(config, model, padded):
    torch.manual_seed(0)
    wrapped = get_peft_model(model, copy.deepcopy(config))
    trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    batch = {name: padded[name] for name in ("input_ids", "attention_mask", "labels")}
    logits, targets = fast_paths.labelled_logits(wrapped, wrapped.get_output_embeddings(), dict(batch))
    ours = torch.nn.functional.cross_entropy(logits, targets)
    theirs = wrapped(**batch).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    for mine, plain in zip(*(torch.autograd.grad(loss, trained) for loss in (ours, theirs)), strict=True):
        assert plain.abs().max() > 0
        assert_same(mine, plain, share=1e-3)


def test_attention_that_is_trained_is_computed_in_float32(model, padded, monkeypatch):
    plain, seen = torch.nn.functional.scaled_dot_product_attention, []

    def watched(query, *args, **kwargs):
        seen.append((query.dtype, torch.is_autocast_enabled("cpu")))
        return plain(query, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    batch = {key: padded[key] for key in ("input_ids", "attention_mask")}
    with torch.autocast("cpu", torch.bfloat16):
        model(**batch)
        assert seen[-1][1], "without the block autocast lowers it"
        with fast_paths.float32_attention("cpu"):
            model(**batch)
            assert seen[-1] == (torch.float32, False)
            with fast_paths.float32_attention("cpu"):  # a training within a training, say
                pass
            with torch.no_grad():
                model(**batch)
            assert seen[-1][1], "what is not trained is left alone"
        model(**batch)
        assert seen[-1][1], "afterwards all is as it was"


def _gradient(model, batch, autocast=True):
    """All gradients of a loss end to end, after a forward pass under bfloat16 autocast or in float32."""
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(**batch).logits.float().logsumexp(-1).mean()
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize("seed", range(4))
def test_with_attention_in_float32_a_bfloat16_training_stays_within_its_rounding(seed, model, padded):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 2_000, padded["input_ids"].shape, generator=generator)
    batch = {"input_ids": ids, "attention_mask": padded["attention_mask"]}
    exact = _gradient(model, batch, autocast=False)
    with fast_paths.float32_attention("cpu"):
        found = _gradient(model, batch)
    assert 0 < (found - exact).norm() < 2**-6 * exact.norm()  # four units of bfloat16's rounding, 2^-8


def _attention(inputs, upstream, dtype):
    """What attention over bfloat16 numbers returns and the gradients of queries, keys and values, in float64."""
    leaves = [part.to(dtype, copy=True).requires_grad_() for part in inputs]
    module = SimpleNamespace(is_causal=True, num_key_value_groups=2, training=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        found, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, *leaves, None)
    gradients = torch.autograd.grad(found, leaves, upstream.to(dtype))
    return [part.detach().double() for part in (found, *gradients)]


def test_attention_in_float32_is_nearer_to_float64_on_average():
    """One draw says little: which of two roundings is luckier depends on the CPU's kernels."""
    errors, shapes = {"float32": [], "bfloat16": []}, [(3, 4, 30, 32), (3, 2, 30, 32), (3, 2, 30, 32), (3, 30, 4, 32)]
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        *inputs, upstream = (torch.randn(shape, generator=generator).bfloat16() for shape in shapes)
        exact = _attention(inputs, upstream, torch.float64)
        with fast_paths.float32_attention("cpu"):
            found = {"float32": _attention(inputs, upstream, torch.bfloat16)}
        found["bfloat16"] = _attention(inputs, upstream, torch.bfloat16)
        for name, parts in found.items():
            errors[name].append([((x - y).norm() / y.norm()).item() for x, y in zip(parts, exact, strict=True)])
    ours, theirs = (torch.tensor(errors[name]).mean(0) for name in ("float32", "bfloat16"))
    assert (ours < theirs).all(), f"output and gradients of queries, keys and values: {ours} and {theirs}"


def test_attention_changes_nothing_on_a_gpu():
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    with fast_paths.float32_attention("cuda"):
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize(("spread", "most"), [(5.0, 512), (0.1, 16), (20.0, 4)])
def test_the_nucleus_is_transformers_own(top_p, spread, most):
    from transformers import TopPLogitsWarper

    scores = torch.randn(6, 2_000, generator=torch.Generator().manual_seed(0)) * spread
    theirs = TopPLogitsWarper(top_p)(None, scores.clone()).softmax(-1)
    values, tokens = fast_paths.Sampling(1.0, top_p, most).nucleus(scores)
    ours = torch.zeros_like(scores).scatter(-1, tokens, values / values.sum(-1, keepdim=True))
    assert ((ours > 0) != (theirs > 0)).sum(1).max() <= 1  # the last of all may fall on either side, by rounding
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))
    torch.testing.assert_close(ours, theirs, atol=1e-2 if spread < 1 else 2e-3, rtol=0.02)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [0.8, 1.0])
def test_tokens_are_drawn_as_often_as_their_probability_says(temperature, top_p):
    from transformers import TopPLogitsWarper

    logits = torch.tensor([2.0, -1.0, 0.5, -torch.inf, 1.0, 0.0, -3.0])
    wanted = TopPLogitsWarper(top_p)(None, logits[None] / temperature).softmax(-1)[0]
    draws = 40_000
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        left = fast_paths.Sampling(temperature, top_p)(None, logits.expand(draws, -1))
    assert ((left == 0).sum(1) == 1).all()
    assert torch.isneginf(left).sum() == draws * (len(logits) - 1)
    shares = (left == 0).float().mean(0)
    assert (shares[wanted == 0] == 0).all()
    errors = (wanted * (1 - wanted) / draws).sqrt()
    assert ((shares - wanted).abs() <= 5 * errors).all(), (shares, wanted)


def test_scores_that_are_no_numbers_and_settings_that_mean_nothing_are_refused():
    for row in ([float("nan"), 0.0], [-torch.inf, -torch.inf]):
        for top_p in (0.9, 1.0):
            with pytest.raises(ModelError, match="gives no probabilities"):
                fast_paths.Sampling(1.0, top_p)(None, torch.tensor([[0.0, 1.0], row]))
    for temperature, top_p in ((-0.7, 1.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.5), (float("nan"), 1.0)):
        with pytest.raises(ParameterError, match=f"temperature={temperature}, top_p={top_p}"):
            fast_paths.Sampling(temperature, top_p)


def test_a_token_without_probability_is_never_drawn_at_either_end(monkeypatch):
    scores = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    for number in (0.0, 1 - 2**-24):
        monkeypatch.setattr(torch, "rand", lambda *shape, number=number, **_: torch.full(shape, number))
        assert fast_paths.Sampling()(None, scores).argmax().item() == 1
