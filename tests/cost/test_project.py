import math
import random
from dataclasses import replace

import pytest

from nbhelpers.core.errors import NotebookError, ParameterError
from nbhelpers.cost import inference, ownership, planner, prices, project, training_time
from nbhelpers.models import memory


def test_cached_input_is_a_part_of_the_input():
    price = replace(
        inference.api_prices()["gpt-4.1"],
        input_per_million=1.25, cached_input_per_million=0.625, output_per_million=10.0,
    )  # fmt: skip
    assert price.dollars(262_960, 1_744, cached_input_tokens=257_955) == pytest.approx(0.1849, abs=5e-5)
    assert price.dollars(1_000_000, 0) == 1.25
    with pytest.raises(ParameterError, match="cached_input_tokens=11 is more than input_tokens=10"):
        price.dollars(10, 0, 11)


def test_the_copied_arithmetic_is_worked_out():
    assert project.annotation(1000, 5, 10) == pytest.approx(833.33, abs=0.01)
    assert project.annotation(1000, 10, 25) == pytest.approx(4166.67, abs=0.01)
    seconds, dollars = project.several_gpus(3600, 1.0, 4, 0.75)
    assert seconds == pytest.approx(1200)
    assert dollars == pytest.approx(4 / 3)


def test_the_slow_first_step_counts_once():
    assert training_time.steady_seconds([6.0] + [1.0] * 19, 500) == 505
    with pytest.raises(ParameterError, match="1 steps measured of 500"):
        training_time.steady_seconds([6.0], 500)


def test_steps_are_rounded_up():
    assert planner.Job("Llama-3.1-8B", 33, 10, 16, epochs=2, batch_rows=16).steps == 6


@pytest.mark.parametrize(("write", "between"), [(30, 4), (120, 1)])
def test_the_interval_between_checkpoints_is_near_the_best(write, between):
    """A simulated machine that is taken away at random: no other interval is clearly better, and the waste is right."""
    plan = project.spot(10, write, between, restart_seconds=60)

    def lost(interval: float) -> float:
        rng, done, spent, next_end = random.Random(0), 0.0, 0.0, 0.0
        next_end = rng.expovariate(1 / (3600 * between))
        while done < 4_000 * interval:
            if spent + interval + write <= next_end:
                spent, done = spent + interval + write, done + interval
            else:
                spent = next_end + 60
                next_end = spent + rng.expovariate(1 / (3600 * between))
        return 1 - done / spent

    best = lost(plan.checkpoint_seconds)
    assert best == pytest.approx(plan.waste, abs=0.03)
    assert best < lost(plan.checkpoint_seconds / 4)
    assert best < lost(plan.checkpoint_seconds * 4)
    assert plan.hours == pytest.approx(10 / (1 - plan.waste))


def test_energy_follows_from_power_time_and_grid():
    used = project.energy(10, 700, 400, overhead=1.2)
    assert used.kwh == pytest.approx(8.4)
    assert used.kg_co2 == pytest.approx(3.36)


def test_serving_breaks_even_where_both_ways_cost_the_same():
    monthly = 2.0 * ownership.HOURS_PER_MONTH
    tokens = inference.break_even_tokens(monthly, 1.6)
    assert tokens / 1e6 * 1.6 == pytest.approx(monthly)
    assert inference.self_hosted(3.6, 1000) == pytest.approx(1.0)
    assert inference.self_hosted(3.6, 1000, 0.5) == pytest.approx(2.0)
    share = inference.break_even_utilisation(3.348, 4.176)
    assert share * 4.176 == pytest.approx(3.348)


def test_a_machine_paid_all_day_is_paid_whole_and_twice_where_one_is_too_slow():
    ways = inference.ways("H100", 900, "gpt-4.1-mini", input_ratio=3)
    active, flex, bought = (ways[name] for name in ("H100, active", "H100, flex", "gpt-4.1-mini"))
    assert active.per_month(1) == active.per_month(2_000) == 3.348 * 730
    assert active.per_month(3_000) == 2 * active.per_month(1)
    assert flex.per_month(50) == pytest.approx(50e6 / 900 / 3600 * 4.176)
    assert bought.per_month(1) == pytest.approx(1.6 + 3 * 0.4)
    with pytest.raises(ParameterError, match="million_tokens=-5"):
        flex.per_month(-5)


def test_a_purchase_breaks_even_where_a_month_of_renting_costs_as_much():
    machine = ownership.Purchase(30_000, watts=700, dollars_per_kwh=0.15)
    fixed = machine.per_month(0)
    hours = ownership.break_even_hours(2.7, fixed, 0.7 * 0.15)
    assert machine.per_month(hours) == pytest.approx(2.7 * hours)
    assert ownership.return_on_investment(100, 150) == 0.5
    assert ownership.payback_months(1000, 300, 100) == 5
    assert ownership.total({"once": 10}, {"monthly": 2}, 12) == {"once": 10, "monthly": 24}
    with pytest.raises(ParameterError, match="never pays"):
        ownership.break_even_hours(1.0, 100, 1.0)


def test_the_newest_price_of_a_name_wins_and_historical_ones_are_no_offers(tmp_path):
    header = "name,gpu,gpus,kind,dollars_per_hour,what,source,date\n"
    table = tmp_path / "prices.csv"
    table.write_text(
        header
        + "a,H100,1,flex,2.0,new,https://x,2026-02-01\n"
        + "a,H100,1,flex,9.0,old,https://x,2025-02-01\n"
        + "b,H100,1,historical,0.1,gone,https://x,2026-03-01\n"
    )
    assert prices.prices(table)["a"].dollars_per_hour == 2.0
    assert [offer.name for offer in prices.offers(table)] == ["a"]


def test_the_planner_ranks_by_price_and_says_why_the_others_lose():
    job = planner.Job("Llama-3.1-8B", 10_000, 400, 1024)
    ranked = planner.rank(job, deadline_hours=1, budget=2)
    assert len(ranked) == 3 * len([o for o in prices.offers() if o.gpus == 1 and o.kind != "active"])
    assert not ranked[0].lost
    assert all(one.lost for one in ranked[1:])
    good = [one for one in ranked if one.fits and one.hours <= 1 and one.dollars <= 2]
    assert ranked[: len(good)] == sorted(good, key=lambda one: (one.dollars, one.hours))
    reasons = " ".join(one.lost for one in ranked)
    assert all(
        words in reasons for words in ("times the price", "the deadline is 1", "the GPU has", "the budget is $2")
    )
    front = planner.pareto(ranked)
    for one in ranked:
        assert not one.fits or any(f.hours <= one.hours and f.dollars <= one.dollars for f in front)


def test_a_bigger_micro_batch_is_taken_only_where_it_fits():
    job = planner.Job("Llama-3.1-8B", 10_000, 400, 1024)
    for one in planner.rank(job, 100):
        assert job.batch_rows % (one.micro_batch * one.gpus) == 0
        if one.fits and one.micro_batch < job.batch_rows / one.gpus and not one.gradient_checkpointing:
            shape, rows = planner.Shape.named(job.model), 2 * one.micro_batch
            assert planner.peak(job, shape, one.method, "bfloat16", rows, False, one.gpus) > one.gpu_bytes


def test_a_model_too_large_for_one_gpu_is_sharded_over_several():
    job = planner.Job("Llama-3.1-70B", 10_000, 400, 1024)
    ranked = planner.rank(job, 48)
    lora = [one for one in ranked if one.method == "lora" and one.fits]
    assert lora
    assert all(one.gpus > 1 for one in lora)
    assert planner.best(ranked).gpus >= 1


def test_a_spot_machine_pays_for_its_interruptions(tmp_path):
    table = tmp_path / "prices.csv"
    header = "name,gpu,gpus,kind,dollars_per_hour,what,source,date\n"
    table.write_text(header + "a,H100,1,spot,2,x,https://x,2026-01-01\nb,H100,1,flex,2,x,https://x,2026-01-01\n")
    spot, flex = sorted(
        planner.rank(planner.Job("Llama-3.1-8B", 10_000, 400, 1024), 12, path=table, methods=("lora",)),
        key=lambda one: -one.hours,
    )
    assert (spot.offer, flex.offer) == ("a", "b")
    assert spot.hours == pytest.approx(project.spot(flex.hours, *planner.SPOT_INTERRUPTION).hours)


def test_a_machine_of_ones_own_may_cost_nothing(tmp_path):
    table = tmp_path / "prices.csv"
    header = "name,gpu,gpus,kind,dollars_per_hour,what,source,date,remark\n"
    table.write_text(
        header + "a,H100,1,on demand,0,x,https://x,2026-01-01,mine\nb,H200,1,flex,5,x,https://x,2026-01-01,\n"
    )
    ranked = planner.rank(planner.Job("Llama-3.1-8B", 10_000, 400, 1024), 12, path=table)
    assert ranked[0].dollars == 0
    assert "more" in next(one.lost for one in ranked if one.offer == "b")


def test_where_nothing_qualifies_the_nearest_is_named():
    with pytest.raises(ParameterError, match=r"No option qualifies.*the deadline is 0\.001"):
        planner.best(planner.rank(planner.Job("Llama-3.1-70B", 10_000, 400, 1024), 0.001))


def test_time_follows_from_operations_and_the_peak():
    job, shape = planner.Job("Llama-3.1-8B", 1000, 100, 512, epochs=1), planner.Shape.named("Llama-3.1-8B")
    products = (shape.linear_parameters + shape.head_parameters) * 100_000
    attention = 2 * 32 * 32 * 128 * 100 * 100_000  # layers, heads, head size, length of a row, tokens
    full = planner.hours(job, shape, "full", 312, False, 0.5)
    assert full == pytest.approx((6 * products + 3 * attention) / (312e12 * 0.5) / 3600)
    assert planner.hours(job, shape, "lora", 312, True, 0.5) == pytest.approx(
        (6 * products + 4 * attention) / (312e12 * 0.5) / 3600
    )
    lean = planner.hours(job, shape, "qlora", 312, True, 0.5) / planner.QLORA_SLOWDOWN
    assert planner.implied_utilisation(job, "qlora", "A100 80GB", lean) == pytest.approx(0.5)


def test_attention_is_a_small_part_of_short_rows_and_most_of_very_long_ones():
    shape = planner.Shape.named("Llama-3.1-8B")

    def share(length):
        job = planner.Job("Llama-3.1-8B", 1, length, length)
        plan = memory.Plan(int(job.tokens), int(job.tokens), 0, 0)
        return planner.flops(job, shape, "full", False) / training_time.training_flops(shape, "full", plan) - 1

    assert share(1_024) == pytest.approx(0.018, abs=0.002)
    assert share(8_192) == pytest.approx(0.14, abs=0.01)


def test_the_tornado_puts_the_widest_first():
    spans = planner.tornado(lambda a, b: a + 10 * b, {"a": 1, "b": 1}, {"a": (0, 2), "b": (0, 2)})
    assert spans == {"b": (1, 21), "a": (10, 12)}
    assert list(spans) == ["b", "a"]


def test_rules_of_thumb_pass_the_estimator():
    rules = planner.rules_of_thumb().set_index("job")
    assert len(rules) == 6
    needs = rules["memory of one GPU"].str.rstrip("%").astype(float)
    assert needs.filter(like="full Llama-3.1-70B").item() > 1000
    assert needs.filter(like="lora Llama-2-7B").item() < 100


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: prices.gpu("H900"), "'H900'.*RTX 4090"),
        (lambda: inference.self_hosted(-1, 100), "dollars_per_hour=-1"),
        (lambda: inference.self_hosted(1, 0), "tokens_per_second=0"),
        (lambda: inference.self_hosted(1, 10, 1.5), "utilisation=1.5"),
        (lambda: inference.self_hosted(math.nan, 10), "dollars_per_hour=nan"),
        (lambda: project.spot(1, 3600, 0.5), "would never end"),
        (lambda: project.several_gpus(1, 1, 4, 1.2), "efficiency=1.2"),
        (lambda: project.energy(1, 1, 1, 0.5), "overhead=0.5"),
        (lambda: planner.rank(planner.Job("Llama-3.1-8B", 1, 1, 1), 0), "deadline_hours=0"),
        (lambda: planner.rank(planner.Job("Llama-3.1-8B", 1, 1, 1), 1, methods=("dora",)), "'dora'.*qlora"),
        (lambda: planner.rank(planner.Job("Llama-3.1-8B", 1, 1, 1), 1, gpu="H900"), "'H900'.*L4"),
        (lambda: planner.Job("Llama-3.1-8B", 1, 1, 1, batch_rows=0), "batch_rows=0"),
        (lambda: planner.Job("Llama-3.1-8B", 1, 4000, 1024), "tokens_per_row=4000 exceeds max_length=1024"),
        (lambda: inference.api_price("gpt-9"), "'gpt-9'.*gpt-4"),
        (lambda: ownership.Purchase(1).per_month(800), "a month has 730"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ParameterError, match=words):
        call()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a,H100,1,flex,-2,x,https://x,2026-01-01", "line 2: dollars_per_hour is -2"),
        ("a,H100,1,flex,inf,x,https://x,2026-01-01", "line 2: dollars_per_hour is inf"),
        ("a,H100,1,flex,two,x,https://x,2026-01-01", "dollars_per_hour is 'two'"),
        ("a,H100,1,rented,2,x,https://x,2026-01-01", "kind is 'rented'.*flex"),
    ],
)
def test_a_broken_price_table_names_its_line(tmp_path, line, words):
    table = tmp_path / "mine.csv"
    table.write_text("name,gpu,gpus,kind,dollars_per_hour,what,source,date\n" + line + "\n")
    with pytest.raises(ParameterError, match=words):
        prices.prices(table)
    table.write_text("name,gpu\na,H100\n")
    with pytest.raises(ParameterError, match="no column dollars_per_hour; it has name, gpu"):
        prices.prices(table)
    table.write_text("name,gpu,gpus,dollars_per_hour\na,H100,1,2\n")
    with pytest.raises(ParameterError, match="no column kind, what, source, date"):
        prices.prices(table)
    with pytest.raises(NotebookError, match="is missing"):
        prices.prices(tmp_path / "none.csv")
