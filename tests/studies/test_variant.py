"""Variants on the smoke model: what `tune` measures is what was trained, and adapters add up exactly."""

import json
import re
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import datasets
import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig

from nbhelpers.core import hardware
from nbhelpers.core.errors import AuditError, ModelError
from nbhelpers.core.hardware import CORES, Hardware
from nbhelpers.core.profiles import PROFILES
from nbhelpers.core.run import Run
from nbhelpers.cost import prices
from nbhelpers.evaluation import constraint_kinds, constraints, forgetting, latency, likelihood
from nbhelpers.models import adapters, encoding, loading, saving
from nbhelpers.studies import comparison, memory_stages, variant
from nbhelpers.studies.variant import Variant
from nbhelpers.training import checkpoints, memory_advice, sft
from nbhelpers.training.continual_learning import ElasticWeights, hold_on, rehearse

LORA = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
RATES = (1e-9, 5e-3)  # the first learns nothing


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    profile = PROFILES["smoke"]
    parameters = SimpleNamespace(**vars(profile) | {"seed": 0, "report_to": "none", "force": False, "max_steps": 4})
    hardware = Hardware("cpu", 2, 2**34, None, 0, "Linux")
    return Run("test", parameters, profile, hardware, "float32", tmp_path_factory.mktemp("run"), {})


@pytest.fixture(scope="module")
def rows(smoke):
    """Twelve encoded rows of two tasks with references."""

    def row(i):
        answer = json.dumps({"value": i}) if i % 2 else f"wheel {i} turns"
        messages = [{"role": "user", "content": f"What of {i}?"}, {"role": "assistant", "content": answer}]
        task = "parameters" if i % 2 else "summary"
        facts = {"id": str(i), "task": task, "messages": messages, "reference": answer}
        return facts | dict(encoding.encode(messages, smoke[1]))

    return datasets.Dataset.from_list([row(i) for i in range(12)])


@pytest.fixture(scope="module")
def few_probes(monkeypatch_module):
    some = list(forgetting.probes())[::12]
    monkeypatch_module.setattr(forgetting, "probes", lambda: some)


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def lora():
    return LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.fixture(scope="module")
def results(run, rows, few_probes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    made = {
        "untuned": Variant(),
        "LoRA": Variant(lora(), RATES),
        "4 bits": Variant(lora(), RATES[1:], {"quant_type": "fp4", "double_quant": False}),
        "prefix": Variant(PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), RATES[1:]),
        "bottlenecks": Variant(adapters.Bottlenecks(4), RATES[1:]),
        "full": Variant(None, RATES[1:]),
    }
    held_out = rows.select(range(6))
    return {
        name: variant.tune(run, name, one, rows, held_out, rows.select(range(6, 12)), folder / name)
        for name, one in made.items()
    } | {"folder": folder}


def tuned(results):
    return {name: result for name, result in results.items() if name not in ("untuned", "folder")}


def test_every_variant_reports_the_same_figures(results):
    columns = {frozenset(result.keys()) for result in tuned(results).values()}
    assert len(columns) == 1
    json.dumps({name: result for name, result in results.items() if name != "folder"}, allow_nan=False)
    for name, result in tuned(results).items():
        assert len(result["losses"]) == len(result["gradient_norms"]) == 4, name
        assert result["saved_bytes"] >= 4 * result["trained_parameters"], name
        assert result["predicted_peak_memory_bytes"] > 2**20, name
        assert len(result["held_out_loss"]) == 6


def test_the_rate_with_the_lower_loss_on_rows_kept_apart_is_scored(results):
    losses = results["LoRA"]["validation_loss"]
    assert losses.keys() == {"1e-09", "0.005"}
    assert losses["0.005"] < losses["1e-09"]
    assert results["LoRA"]["learning_rate"] == 5e-3
    assert results["LoRA"]["held_out_loss"] != results["untuned"]["held_out_loss"]


def test_of_the_untuned_model_nothing_was_trained_and_nothing_is_lost(results):
    assert "trained_parameters" not in results["untuned"]
    found = comparison.figures({k: v for k, v in results.items() if k != "folder"}, "untuned")
    assert found["untuned.known_lost"].value == 0
    assert found["untuned.held_out_loss"].value == found["untuned.held_out_loss"].baseline
    assert found["LoRA.held_out_loss"].baseline == found["untuned.held_out_loss"].value


def test_only_what_can_be_merged_is_timed_merged(results):
    for name, result in results.items():
        if name != "folder":
            expected = {"base", "as it is"} | ({"merged", "base, again"} if name in ("LoRA", "4 bits") else set())
            assert result["latency"].keys() == expected, name
            assert {len(times) for times in result["latency"].values()} == {latency.LATENCY_ROUNDS}


def test_what_is_not_timed_is_scored_all_the_same(run, rows, results):
    held_out = rows.select(range(6, 12))
    found = variant.tune(run, "LoRA", Variant(lora(), RATES[1:]), rows, rows.select(range(6)), held_out, timed=False)
    assert "latency" not in found
    assert found["held_out_loss"] == pytest.approx(results["LoRA"]["held_out_loss"])


def test_what_is_asked_of_a_variant_is_scored_by_group(run, rows, results):
    """The untuned model, measured once by hand and once by the study."""
    asked = {
        "forms": constraints.questions(constraints.requests(), 1, 0),
        "two": constraints.questions(constraints.requests(), 2, 1),
    }
    found = variant.tune(run, "untuned", Variant(), rows, rows, rows.select(range(6, 12)), timed=False, asked=asked)
    model, tokenizer = loading.load("smoke", "float32")
    longer = {"max_new_tokens": 24, "batch_size": 8}
    by_hand = {group: constraints.measure(model, tokenizer, those, **longer) for group, those in asked.items()}
    scores = found["scores"]
    assert {name for name in scores if name not in results["untuned"]["scores"]} == {
        "forms.strict", "two.strict", "answers.ended",
    }  # fmt: skip
    for group, those in by_hand.items():
        assert scores[f"{group}.strict"] == [float(x) for x in those.strict]
    assert scores["answers.ended"] == [float(x) for those in by_hand.values() for x in those.stopped]
    assert len(scores["two.strict"]) == 2 * len(constraint_kinds.KINDS)
    metric = comparison.figures({"untuned": found}, "untuned")["untuned.forms.strict"]
    assert metric.value == sum(scores["forms.strict"]) / len(constraint_kinds.KINDS)


def test_the_table_has_a_row_a_variant_and_intervals(results):
    found = comparison.figures({k: v for k, v in results.items() if k != "folder"}, "untuned")
    table = comparison.table(found)
    assert list(table.index) == ["untuned", *tuned(results)]
    assert table.loc["untuned", "trained parameters"] == ""
    assert "[" in table.loc["full", "held out loss"]
    assert table.loc["bottlenecks", "saved bytes"].endswith("MiB")
    assert found["full.latency"].unit == "times the base's"


def test_a_saved_adapter_is_the_one_that_was_scored(results, run, rows):
    model, tokenizer = loading.attach("smoke", results["folder"] / "LoRA", "float32")
    losses = likelihood.held_out_loss(model, tokenizer, rows.select(range(6, 12)))
    assert losses == pytest.approx(results["LoRA"]["held_out_loss"], rel=1e-5)


@pytest.fixture(scope="module")
def other(run, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    variant.tune(run, "other", Variant(lora(), (2e-3,)), rows, rows.select([0]), folder=folder)
    return folder


@pytest.mark.parametrize("weights", [[1.0, 0.0], [0.5, 0.5], [1.0, 1.0]])
def test_combined_adapters_are_the_weighted_sum_of_their_updates(weights, run, rows, results, other, smoke):
    folders = [results["folder"] / "LoRA", other]
    found = variant.combine(run, folders, weights, rows.select(range(6, 12)), [])
    by_hand = loading.load("smoke", "float32")[0]
    for weight, folder in zip(weights, folders, strict=True):
        for name, delta in adapters.updates(loading.attach("smoke", folder, "float32")[0], {}).items():
            by_hand.get_parameter(name).data += weight * delta
    assert found["saved_bytes"] > 1.9 * results["LoRA"]["saved_bytes"], "the sum has both their ranks"
    losses = likelihood.held_out_loss(by_hand, smoke[1], rows.select(range(6, 12)))
    assert found["held_out_loss"] == pytest.approx(losses, rel=1e-4)


def test_a_sum_is_left_out_with_the_adapter_that_it_lacks(run, rows, other, tmp_path):
    found = variant.combine(run, [other, tmp_path / "broke"], [0.5, 0.5], rows, [])
    assert found == {"left_out": "there is no adapter in broke"}


def test_a_method_that_trains_something_else_than_its_formula_says_is_stopped(run, rows, monkeypatch):
    monkeypatch.setattr(adapters, "count", lambda shape, config: 7)
    with pytest.raises(ModelError, match=r"other trains [\d,]+ numbers; its formula says 7"):
        variant.trainer(run, Variant(lora(), RATES), rows, 1e-3, "other")


def test_what_prepares_a_trainer_belongs_to_what_its_checkpoints_are_of(run, rows):
    def identity(prepare, **fields):
        return variant.trainer(run, Variant(lora(), RATES, prepare=prepare, **fields), rows, 1e-3, "prepared").identity

    held = partial(hold_on, rows=rows.select(range(2)), strength=1.0)
    made = [
        identity(prepare)
        for prepare in (None, held, held, partial(held, strength=2.0), partial(rehearse, rows=rows, share=0.3))
    ]
    assert made[1] == made[2]
    assert identity(partial(checkpoints.kill_after, step=3), changes_training=False) == made[0]
    assert len({json.dumps(one, sort_keys=True) for one in made}) == 4
    assert made[0]["rows"] == made[1]["rows"] != made[4]["rows"]


def test_bottlenecks_begin_as_the_seed_says(run, rows):
    def beginning(before):
        torch.manual_seed(before)  # whatever ran before
        made = variant.trainer(run, Variant(adapters.Bottlenecks(4), RATES), rows, 1e-3, "bottlenecks")
        return torch.cat([w.detach().flatten() for w in made.model.parameters() if w.requires_grad])

    assert torch.equal(beginning(1), beginning(2))


@pytest.mark.parametrize(
    ("config", "is_full"), [(None, True), (adapters.Bottlenecks(4), False)], ids=["full", "bottlenecks"]
)
def test_out_of_memory_only_full_fine_tuning_is_offered_lora(config, is_full, run, rows):
    made = variant.trainer(run, Variant(config, RATES), rows, 1e-3, "exhausted")
    assert ("LoRA instead of full fine-tuning" in memory_advice.what_would_fit(made, "float32")) == is_full


def test_latency_asks_every_model_in_every_round(smoke):
    model, tokenizer = smoke
    asked = []

    class Recorded(torch.nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name, self.device = name, model.device

        def generate(self, **options):
            asked.append(self.name)
            assert options["max_new_tokens"] == options["min_new_tokens"] == 2

    turns = [{"role": "user", "content": "Hello"}]
    found = latency.latency({name: Recorded(name) for name in ("a", "b")}, tokenizer, turns, rounds=3, tokens=2)
    assert asked == ["a", "b"] * 4, "one round more than is counted"
    assert {name: len(times) for name, times in found.items()} == {"a": 3, "b": 3}


def test_the_merged_model_is_timed_as_it_would_be_served_from_a_file(run, rows, few_probes, monkeypatch):
    made = variant.trainer(run, Variant(LORA, (5e-3,)), rows, 5e-3, "served")
    sft.train(made)
    ids, timed = torch.tensor([rows[0]["input_ids"]]), []
    monkeypatch.setattr(
        latency, "latency", lambda candidates, *_: timed.append(candidates) or dict.fromkeys(candidates)
    )
    expected = saving.logits(made.model, ids)
    variant.measure(run, made.model, rows)
    merged = timed[1]["merged"]
    assert merged.config._name_or_path != timed[1]["base"].config._name_or_path, "it is what was trained in memory"
    assert saving.largest_difference(saving.logits(merged, ids), expected) < 1e-4


def test_where_the_memory_of_a_step_goes_is_measured_beside_the_prediction(run, rows):
    found = memory_stages.stages(run, rows)
    weights = 4 * loading.count_parameters(loading.load("smoke", "float32")[0])["total"]
    assert found["weights"]["predicted"] == weights
    assert found["gradients"]["predicted"] == weights
    assert found["optimizer"]["predicted"] == 2 * weights
    assert found["optimizer"]["measured"] == pytest.approx(2 * weights, abs=8 * 2**20)
    assert found.keys() == {"weights", "activations and logits", "gradients", "optimizer"}


def test_a_variant_that_would_not_fit_is_left_out_with_the_reason(run, rows, monkeypatch):
    monkeypatch.setattr(hardware, "memory_free", lambda device: 2**10)
    found = variant.tune(run, "LoRA", Variant(lora(), RATES), rows, rows.select([0]), rows.select([6, 7]))
    assert found.keys() == {"left_out"}
    assert "will not fit" in found["left_out"]
    probed = {"facts": [1.0], "arithmetic": [0.0], "chat": [2.0], "prose": [3.0]}
    whole = {"untuned": {"held_out_loss": [1.0], "scores": {}, "forgetting": probed}, "LoRA": found}
    assert not any(name.startswith("LoRA") for name in comparison.figures(whole, "untuned"))


def test_a_rate_that_breaks_training_loses_the_sweep_and_not_the_study(run, rows):
    found = variant.tune(run, "full", Variant(None, (1e30, 1e-3)), rows, rows.select(range(6)))
    assert found["validation_loss"]["1e+30"] is None
    assert found["learning_rate"] == 1e-3


def test_a_training_that_breaks_at_every_rate_is_left_out_with_what_the_rules_said(run, rows):
    few = rows.select(range(6))
    found = variant.tune(run, "full", Variant(None, (1e30, 1e29)), rows, few, few)
    assert "broke at every learning rate of (1e+30, 1e+29)" in found["left_out"]
    assert [finding["rule"] for finding in found["findings"]] == ["divergence"]
    assert found["losses"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "scores" not in found


@pytest.mark.parametrize("config", [None, lora()], ids=["full", "LoRA"])
def test_what_elastic_weights_hold_is_predicted_to_the_byte(config, run, rows):
    prepare = partial(hold_on, rows=rows.select(range(2)), strength=1.0)
    held = Variant(config, RATES, prepare=prepare, held_numbers=2)
    made = variant.trainer(run, held, rows, 1e-3, "held")
    elastic = next(callback for callback in made.callback_handler.callbacks if isinstance(callback, ElasticWeights))
    found = sum(start.nbytes + importance.nbytes for _, start, importance in elastic.held)
    with_it, without = (
        variant._expected(run, one, rows) for one in (held, replace(held, prepare=None, held_numbers=0))
    )
    assert with_it.peak_memory_bytes - without.peak_memory_bytes == found > 0


def test_only_a_training_that_broke_is_a_rate_too_high(run, rows):
    masked = rows.map(lambda row: {"labels": [encoding.IGNORE] * len(row["labels"])})
    with pytest.raises(AuditError, match="have no label"):
        variant.tune(run, "masked", Variant(lora(), RATES), masked, rows)
    broken = variant.tune(run, "broken", Variant(lora(), (1e-3,), prepare=partial(break_loss)), rows, rows)
    assert broken["validation_loss"] == {"0.001": None}
    assert [finding["rule"] for finding in broken["findings"]] == ["divergence"]
    assert "left_out" not in broken, "it was not to be scored: what the rules say is what it was for"


def break_loss(trainer):
    trainer.compute_loss = lambda model, inputs, **kwargs: (
        next(w for w in model.parameters() if w.requires_grad).sum() * float("nan")
    )


@pytest.mark.parametrize(("threads", "share"), [("1", 0.5), ("4", 1.0), (None, 1.0)])
def test_a_job_pays_for_its_share_of_the_cores(threads, share, run, rows, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a container's own setting changes no price
    if threads:
        monkeypatch.setenv(CORES, threads)
    found = variant.tune(run, "share", Variant(lora(), RATES[1:]), rows, rows)
    price = prices.prices()[run.profile.price].dollars_per_hour
    assert found["dollars"] == pytest.approx(found["seconds"] / 3600 * price * share)


def test_the_norm_of_a_step_that_float16_skipped_is_none_and_can_be_written(run, rows):
    prepare = partial(log_infinite_norm, step=2)
    found = variant.tune(run, "skipped", Variant(lora(), RATES[1:], prepare=prepare), rows, rows)
    norms = found["gradient_norms"]
    assert [norm is None for norm in norms] == [False, True, False, False]
    assert json.loads(json.dumps(found, allow_nan=False))["gradient_norms"] == norms


def log_infinite_norm(trainer, step):
    trainer.args.fp16 = True  # what Watch goes by; the model itself stays in float32
    log = trainer.log

    def other(logs, *args, **kwargs):
        first = "grad_norm" in logs and trainer.state.global_step == step
        log(logs | {"grad_norm": float("inf")} if first else logs, *args, **kwargs)

    trainer.log = other


def test_the_rows_that_elastic_weights_hold_on_to_make_another_training(run, rows):
    def identity(held):
        prepare = partial(hold_on, rows=held, strength=1.0)
        return variant.trainer(run, Variant(lora(), RATES, prepare=prepare), rows, 1e-3, "rows").identity

    assert identity(rows.select([0]))["prepare"] != identity(rows.select([1]))["prepare"]


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (LoraConfig(r=2, use_dora=True, target_modules="all-linear", task_type="CAUSAL_LM"), {}),
        (adapters.Bottlenecks(4), {}),
        (None, {"optim": "adafactor"}),
    ],
    ids=["DoRA", "bottlenecks", "Adafactor"],
)
def test_out_of_memory_tells_the_peak_that_was_predicted(config, settings, run, rows):
    many = rows.select([i % len(rows) for i in range(600)])
    big = run.having(per_device_train_batch_size=300, max_steps=2)
    one = Variant(config, RATES, settings=settings)
    made = variant.trainer(big, one, many, 1e-3, "exhausted")
    predicted = variant._expected(big, one, many).peak_memory_bytes / 2**20
    told = re.search(r"Predicted peak ([\d,]+) MiB", memory_advice.what_would_fit(made, "float32"))
    assert int(told[1].replace(",", "")) == pytest.approx(predicted, abs=1)
