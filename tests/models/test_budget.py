import pytest

from nbhelpers.core.errors import ModelError, ParameterError, ResourceError
from nbhelpers.models import budget, memory
from nbhelpers.models.shape import Shape

MODEL = Shape.named("SmolLM2-135M")
PLAN = memory.Plan(1024, 1024, 1024, 1024)


def test_a_kv_cache_has_the_heads_of_keys_and_values():
    assert budget.kv_cache_bytes(MODEL, 1) == 2 * 30 * 3 * 64 * 2 == 23_040
    assert budget.kv_cache_bytes(MODEL, 8192) == 180 * 2**20
    assert budget.kv_cache_bytes(MODEL, 8192, sequences=4) == 4 * 180 * 2**20
    eight = Shape.named("Llama-3.1-8B")
    assert budget.kv_cache_bytes(eight, 1) * 4 == 2 * 32 * 32 * 128 * 2


def test_all_experts_lie_in_memory_and_two_of_them_take_time():
    mixtral = Shape.named("Mixtral-8x7B")
    assert mixtral.parameters == pytest.approx(46.7e9, rel=0.001)
    assert budget.weight_bytes(mixtral, "bfloat16") == pytest.approx(93.4e9, rel=0.001)
    assert mixtral.active_parameters + 2 * mixtral.head_parameters == pytest.approx(12.9e9, rel=0.01)


def test_a_head_that_is_not_tied_counts():
    untied = Shape(**{**vars(MODEL), "tied": False})
    assert untied.parameters - MODEL.parameters == 49152 * 576 == 28_311_552
    assert MODEL.parameters == 134_515_008


def test_a_stated_head_size_is_taken():
    config = {
        "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True,
    }  # fmt: skip
    assert Shape.from_config(config).linear_layers["q_proj"] == (2560, 4096)


def test_units_are_bytes_and_a_card_is_what_its_driver_shows():
    from nbhelpers.cost import prices

    assert budget.weight_bytes(MODEL, "bfloat16") == 269_030_016
    assert prices.gpu("H100").memory_bytes == 81_559 * 2**20


def test_logits_are_those_of_a_micro_batch_and_accumulation_adds_none():
    rows = memory.Plan(4096, 4096, 4 * 1024, 4 * 1024)
    once, often = (
        memory.predict(MODEL, "lora", "float32", rows, device="cuda", gradient_accumulation_steps=n)["logits"]
        for n in (1, 16)
    )
    assert once == often == 4 * 1024 * 49152 * 4 * 4  # 768 MiB four times: logits, log-softmax, two gradients
    pairs = memory.Plan(8192, 8192, 8 * 1024, 8 * 1024)
    assert memory.predict(MODEL, "lora", "float32", pairs, device="cuda")["logits"] == 2 * once


def test_a_reference_that_is_the_adapter_switched_off_costs_nothing():
    def parts(method, algorithm, **sizes):
        return budget.preference_tuning(MODEL, method, "bfloat16", PLAN, algorithm, device="cuda", **sizes)

    assert "reference" not in parts("lora", "dpo")
    assert parts("full", "dpo")["reference"] == budget.weight_bytes(MODEL, "bfloat16")
    assert "reference" not in parts("full", "orpo")
    assert parts("lora", "reward")["logits"] == 0
    assert (
        parts("lora", "reward")["activations"]
        == memory.predict(MODEL, "lora", "bfloat16", memory.Plan(1024, 0, 1024, 0), device="cuda")["activations"]
    )
    ppo, grpo = (parts("lora", kind, answers=8, answer_tokens=64) for kind in ("ppo", "grpo"))
    assert ppo["reward model"] == budget.weight_bytes(MODEL, "bfloat16")
    assert set(ppo) - set(grpo) == {"value head"}


def test_shards_divide_what_their_stage_says():
    one = memory.predict(MODEL, "full", "bfloat16", PLAN, device="cuda", gradient_accumulation_steps=2)
    for stage, divided in memory.SHARDED.items():
        four = memory.predict(
            MODEL, "full", "bfloat16", PLAN, device="cuda", gradient_accumulation_steps=2, gpus=4, sharding=stage
        )
        assert {part for part in one if four[part] < one[part]} == set(divided), stage
        assert all(four[part] == one[part] // 4 for part in divided)
    full = budget.preference_tuning(
        MODEL, "full", "bfloat16", PLAN, "dpo", device="cuda", gpus=4, sharding="zero3", gradient_accumulation_steps=2
    )
    assert full["reference"] == budget.weight_bytes(MODEL, "bfloat16") // 4


def test_the_states_of_a_model_of_7_5_billion_are_those_of_the_paper():
    """Rajbhandari et al. 2020, figure 1: 120 GB for each GPU; on 64 GPUs 31.4, 16.6 and 1.9 GB by stage."""
    shape = Shape(4096, 16384, 28, 32, 32, 128, 50_000, True, gated=True)
    shape = Shape(**{**vars(shape), "intermediate_size": 15_990})
    tiny = memory.Plan(1, 1, 1, 1)

    def states(gpus, stage):
        parts = memory.predict(
            shape, "full", "bfloat16", tiny, device="cuda", gpus=gpus, sharding=stage, gradient_accumulation_steps=2
        )
        # The paper counts 2 + 2 bytes of weights and gradients and 12 of optimizer; here all states are in 16 bits.
        return parts["weights"] + parts["gradients"] + parts["optimizer"] * 3

    assert states(1, "ddp") == pytest.approx(16 * shape.parameters, rel=0.01)
    for stage, bytes_each in (("zero1", 4 + 12 / 64), ("zero2", 2 + 14 / 64), ("zero3", 16 / 64)):
        assert states(64, stage) == pytest.approx(bytes_each * shape.parameters, rel=0.01), stage


def test_deepspeed_reduces_in_buckets_and_ddp_in_all_of_them():
    eight, options = Shape.named("Llama-3.1-8B"), {"device": "cuda", "gradient_accumulation_steps": 2, "gpus": 8}

    def bucket(stage):
        return memory.predict(eight, "full", "float32", PLAN, sharding=stage, **options)[
            "gathered weights or gradient bucket"
        ]

    assert bucket("ddp") == 4 * eight.parameters
    assert bucket("zero2") == 4 * 5e8
    assert bucket("zero3") > 2 * 4 * eight.head_parameters, "a block, the embedding and the head"


def test_a_config_of_another_kind_of_attention_is_refused():
    config = {"num_attention_heads": 4, "kv_lora_rank": 512}
    with pytest.raises(ModelError, match="kv_lora_rank"):
        Shape.from_config(config)


def test_known_models_are_in_the_order_of_their_size():
    sizes = [Shape.named(name).parameters for name in Shape.names()]
    assert sizes == sorted(sizes)
    assert len(sizes) > 10


def test_a_disk_that_is_full_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    parts = budget.disk(MODEL, "full", checkpoints=3)
    assert parts["checkpoints"] == 3 * 12 * MODEL.parameters
    assert budget.disk(MODEL, "lora")["checkpoints"] < parts["checkpoints"] / 20
    assert "GiB are free" in budget.check_disk(2**30, tmp_path / "not" / "there")
    monkeypatch.setattr(budget.environment, "disk_free", lambda folder: 2**33)
    assert budget.check_disk(2**31, tmp_path) == "needs 2.0 GiB of disk, 8.0 GiB are free"
    assert budget.check_disk(5 * 2**20, tmp_path) == "needs 5.0 MiB of disk, 8,192.0 MiB are free"
    with pytest.raises(ResourceError, match=r"save_total_limit"):
        budget.check_disk(10**18, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: budget.kv_cache_bytes(MODEL, 0), "tokens=0"),
        (lambda: budget.kv_cache_bytes(MODEL, 1, dtype="int3"), "'int3'.*bfloat16"),
        (lambda: budget.preference_tuning(MODEL, "lora", "bfloat16", PLAN, "ipo"), "'ipo'.*dpo"),
        (lambda: budget.preference_tuning(MODEL, "lora", "bfloat16", PLAN, "ppo"), "answers and answer_tokens"),
        (lambda: memory.predict(MODEL, "lorra", "bfloat16", PLAN), "'lorra'.*qlora"),
        (lambda: memory.predict(MODEL, "lora", "bfloat16", PLAN, attention="eager"), "max_length"),
        (lambda: memory.predict(MODEL, "lora", "bfloat16", PLAN, gpus=0), "gpus=0"),
        (lambda: memory.predict(MODEL, "lora", "bfloat16", PLAN, lora_rank=-3), "lora_rank=-3"),
        (lambda: memory.predict(MODEL, "lora", "bfloat16", PLAN, loss_chunks=0), "loss_chunks=0"),
        (lambda: memory.predict(MODEL, "lora", "bfloat16", PLAN, device="gpu"), "'gpu'.*cuda"),
        (lambda: memory.predict(MODEL, "lora", "bfloat16", PLAN, target_modules=("qkv",)), "qkv.*q_proj"),
        (lambda: budget.inference(MODEL, 10, dtype="fp8"), "'fp8'"),
        (lambda: budget.disk(MODEL, "lora", checkpoints=-1), "checkpoints=-1"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ParameterError, match=words):
        call()


def test_an_unknown_model_lists_what_is_known(tmp_path):
    with pytest.raises(ModelError, match=r"'GPT-9'.*Llama-3\.1-8B"):
        Shape.named("GPT-9")
    (tmp_path / "config.json").write_text('{"num_attention_heads": 4}')
    with pytest.raises(ModelError, match=r"config\.json has no 'hidden_size'"):
        Shape.named(str(tmp_path))
