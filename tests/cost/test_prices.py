from datetime import date

import pytest

from nbhelpers.core import profiles
from nbhelpers.core.errors import NotebookError, ParameterError
from nbhelpers.cost import prices, training_time
from nbhelpers.models import loading, memory


def test_every_price_has_a_source_and_a_date():
    for price in prices.prices().values():
        assert price.dollars_per_hour > 0
        assert price.what
        assert price.source.startswith("https://")
        assert date(2026 if price.kind != "historical" else 2024, 1, 1) < date.fromisoformat(price.date)


def test_rents_are_those_of_one_gpu_from_the_cheapest_to_the_dearest(tmp_path):
    low, high = prices.rents("H100")
    assert 1 < low < high < 10
    table = "name,gpu,gpus,kind,dollars_per_hour,what,source,date"
    rows = ["eight,H100,8,on demand,16,a machine,mine,2026-12-01", "one,H100,1,spot,2.5,a machine,mine,2026-12-01"]
    (tmp_path / "mine.csv").write_text("\n".join([table, *rows]))
    assert prices.rents("H100", tmp_path / "mine.csv") == (2.0, 2.5)
    with pytest.raises(ParameterError, match="No offer has 'V100'"):
        prices.rents("V100")


def test_every_profile_has_a_price():
    assert {profile.price for profile in profiles.PROFILES.values()} <= prices.prices().keys()


def test_a_missing_table_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(prices, "repository_root", lambda: tmp_path)
    with pytest.raises(NotebookError, match=r"gpu_prices.csv is missing"):
        prices.prices()


def test_an_hour_costs_the_hourly_price():
    assert prices.dollars(3_600, 2.5) == 2.5
    assert prices.dollars(36, 2.5) == pytest.approx(0.025)


def test_operations_a_token_follow_the_method():
    shape = memory.Shape.of(loading.fetch("smoke"))
    plan = memory.Plan(tokens=1_000, labelled_tokens=0, largest_batch_tokens=0, largest_batch_labelled_tokens=0)
    flops = {kind: training_time.training_flops(shape, kind, plan) for kind in ("full", "lora", "qlora")}
    assert flops["full"] == 6 * shape.linear_parameters * 1_000
    assert flops["lora"] == flops["qlora"] == pytest.approx(flops["full"] * 4 / 6)
    assert training_time.training_flops(shape, "full", plan, True) == pytest.approx(flops["full"] * 8 / 6)


def test_labelled_tokens_alone_pay_for_the_vocabulary():
    shape = memory.Shape.of(loading.fetch("smoke"))
    none, some = (training_time.training_flops(shape, "full", memory.Plan(1_000, n, 0, 0)) for n in (0, 100))
    assert some - none == 6 * shape.head_parameters * 100


def test_the_matrix_product_rate_is_a_rate():
    assert 1e9 < training_time.matrix_product_rate("float32", size=256) < 1e15


def test_the_elementwise_rate_is_a_rate():
    assert 1e7 < training_time.elementwise_rate(size=2**16, seconds=0.05) < 1e13


def test_time_is_that_of_the_products_and_of_what_is_done_number_by_number():
    assert training_time.training_seconds(1e12, 5e11, 0, 1e9) == 2
    assert training_time.training_seconds(1e12, 5e11, 3e9, 1e9) == 5


def test_numbers_passed_over_follow_the_method():
    shape, plan = memory.Shape.of(loading.fetch("smoke")), memory.Plan(1_000, 0, 0, 0)
    values = shape.key_value_heads * shape.head_size
    widths = 6 * shape.hidden_size + 3 * shape.intermediate_size + 2 * shape.heads * shape.head_size + 2 * values

    def numbers(method, trained=0, steps=5, batches=10, **options):
        return training_time.elementwise_numbers(shape, method, plan, trained, steps, batches, **options)

    block = training_time.BLOCK_PASSES * shape.layers * widths * 1_000
    assert numbers("lora") == block
    assert numbers("lora", trained=100) - block == training_time.OPTIMIZER_PASSES * 100 * 5
    assert numbers("qlora") - block == training_time.UNPACK_PASSES * 2 * shape.linear_parameters * 10
    assert numbers("lora", gradient_checkpointing=True) == pytest.approx(block * 4 / 3)
