import pytest

from nbhelpers.core.errors import ModelError, ParameterError
from nbhelpers.notebook import advice, widgets
from nbhelpers.notebook.advice import Wish

GIB = 2**30


def steps(goal, examples, **options):
    return [one.step for one in advice.advise(Wish(goal, examples, **options))]


def test_facts_that_change_are_looked_up_and_not_learned():
    daily = advice.advise(Wish("facts", 5_000, "daily"))
    assert daily[0].step == "retrieval"
    assert "change" in daily[0].why


def test_a_prompt_comes_before_tuning_and_few_rows_are_collected_first():
    assert steps("format", 10, gpu_memory_bytes=24 * GIB)[:2] == ["a prompt with examples", "collect and clean"]
    assert "LoRA" in steps("format", 500, gpu_memory_bytes=24 * GIB)


def test_the_method_is_one_that_fits():
    def method(gib, rows=500):
        return steps("skill", rows, gpu_memory_bytes=gib * GIB, budget=1e6)[1]

    assert method(24) == "LoRA"
    assert method(12) == "QLoRA"
    assert method(4) == "a smaller model, or a larger GPU"
    assert method(0) == "a smaller model, or a larger GPU"
    assert method(180, 50_000) == "full fine-tuning"
    assert method(180, 500) == "LoRA"


def test_a_budget_that_is_too_small_and_a_licence_are_named():
    assert "plan the money first" in steps("skill", 500_000, budget=5.0)
    assert "plan the money first" not in steps("skill", 500, budget=100.0)
    words = {one.step: one.why for one in advice.advise(Wish("skill", 500, model="Qwen2.5-7B"))}
    assert "apache-2.0" in words["read the licence"]
    assert "rtx4090" in words["LoRA"]


def test_preferences_need_pairs_and_size_needs_no_training():
    assert "DPO with LoRA" in steps("behaviour", 500)
    assert "collect and clean" in steps("behaviour", 20)
    assert steps("size", 0, commercial=False) == ["quantise"]


def test_a_base_model_is_told_when_to_stop_and_a_fast_answer_is_served():
    assert "instruction tuning" in steps("skill", 500, gpu_memory_bytes=24 * GIB, instruct=False)
    assert "serve it well" in steps("skill", 500, gpu_memory_bytes=24 * GIB, milliseconds=20)
    assert "serve it well" not in steps("skill", 500, gpu_memory_bytes=24 * GIB, milliseconds=500)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: steps("world peace", 1), ParameterError, "'world peace'.*behaviour"),
        (lambda: steps("facts", 1, updates="hourly"), ParameterError, "'hourly'.*daily"),
        (lambda: steps("facts", -1), ParameterError, "examples=-1"),
        (lambda: steps("skill", 100, model="GPT-9"), ModelError, "'GPT-9'"),
    ],
)
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_the_chooser_prints_headless_and_follows_its_controls(capsys, monkeypatch):
    assert advice.chooser(Wish("facts", 100, "daily")) is None
    assert "retrieval" in capsys.readouterr().out
    monkeypatch.setattr(widgets, "interactive", lambda: True)
    shown = advice.chooser(Wish("facts", 100, "daily"))
    controls, page = shown.children
    assert "retrieval" in page.value
    controls.children[0].value = "behaviour"
    assert "retrieval" not in page.value
    assert "DPO" in page.value
