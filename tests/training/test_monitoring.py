import time

import numpy as np
import pytest
from test_sft import rows, run  # noqa: F401 (a fixture)

from nbhelpers.training import monitoring, sft

GUESSING = 10.8  # among the 49,152 tokens of SmolLM2
SOUND = [3.0, 2.8, 2.9, 2.5, 2.2, 2.4, 2.0, 1.9, 2.1, 1.8, 1.9, 1.7, 1.8, 1.7, 1.6, 1.7]


def test_a_sound_training_breaks_no_rule():
    for end in range(1, len(SOUND) + 1):
        assert monitoring.divergence(SOUND[:end], GUESSING) is None
    held_out = [3.0, 2.5, 2.2, 2.05, 1.95, 1.9]
    for end in range(1, len(held_out) + 1):
        assert monitoring.overfitting(SOUND, held_out[:end]) is None
        assert monitoring.plateau(held_out[:end]) is None


@pytest.mark.parametrize(("spread", "most"), [(0.2, 0), (0.4, 0), (0.8, 4)])
def test_no_rule_is_broken_by_the_noise_of_batches(spread, most):
    rng = np.random.default_rng(0)
    broken = 0
    for _ in range(200):  # losses of a falling mean with the spread that a mixture of tasks has
        losses = list(np.maximum(0.2, 2.2 * np.exp(-np.arange(28) / 20) + 0.6 + rng.normal(0, spread, 28)))
        broken += any(monitoring.divergence(losses[:end], GUESSING) for end in range(1, 29))
    assert broken <= most


def test_divergence_is_seen_soon_after_the_loss_has_turned():
    losses = [*SOUND, 2.0, 3.0, 4.0, 6.0, 8.0, 9.0]
    seen = next(end for end in range(1, len(losses) + 1) if monitoring.divergence(losses[:end], GUESSING))
    assert len(SOUND) < seen <= len(SOUND) + 6
    assert "risen from" in monitoring.divergence(losses[:seen], GUESSING)


def test_a_model_that_breaks_at_once_has_diverged_although_no_mean_was_lower():
    assert monitoring.divergence([2.3, 8.0, 7.5, 7.2], GUESSING) is None, "too early to tell"
    assert "risen from 2.30 to 7.45" in monitoring.divergence([2.3, 8.0, 7.5, 7.2, 7.1], GUESSING)
    assert "risen from 2.80 to 7.20" in monitoring.divergence([2.8, *[7.2] * 20], GUESSING), (
        "at the cost of word counts"
    )
    easy_first = [1.13, 1.91, 2.03, 2.33, 2.32, 2.24, 3.70, 1.43, 1.08]  # a sound training of a mixture of tasks
    assert not any(monitoring.divergence(easy_first[:end], GUESSING) for end in range(1, 10))
    assert monitoring.divergence([0.5, 1.9, 1.7, 1.8, 1.65], GUESSING) is None


def test_one_bad_batch_is_no_divergence():
    assert monitoring.divergence([*SOUND, 3.2], GUESSING) is None


def test_overfitting_is_told_from_a_training_that_fails_altogether():
    held_out = [3.0, 2.0, 2.1, 2.3]
    assert "held-out loss has risen from 2.00 to 2.30" in monitoring.overfitting(SOUND, held_out)
    assert monitoring.overfitting(SOUND[::-1], held_out) is None, "the training loss rises too: that is no overfitting"
    assert monitoring.overfitting(SOUND, [3.0, 2.0, 2.005, 2.01]) is None, "within what counts as no change"
    assert monitoring.overfitting(SOUND, [3.0, 2.0, 2.4, 2.2]) is None, "on its way down again"
    assert monitoring.overfitting(SOUND, [2.0, 2.3]) is None, "too early to tell"


def test_a_plateau_is_neither_a_slow_fall_nor_a_rise():
    assert "stood at 2.00 for 2 evaluations" in monitoring.plateau([3.0, 2.0, 2.001, 1.999])
    assert monitoring.plateau([3.0, 2.0, 1.97, 1.94]) is None
    assert monitoring.plateau([3.0, 2.0, 2.05, 2.1]) is None
    assert monitoring.plateau([2.0, 2.0]) is None


def trained(model, tokenizer, rows, tmp_path, stop=(), held_out=None, schedule="constant", **settings):  # noqa: F811
    every = {"eval_strategy": "steps", "eval_steps": 4} if held_out is not None else {}
    trainer = sft.sft_trainer(
        run(tmp_path, **settings), model, tokenizer, rows, eval_dataset=held_out, stop=stop, **every,
        lr_scheduler_type=schedule,
    )  # fmt: skip
    return sft.train(trainer), trainer.diagnosis.findings


def test_a_training_that_diverges_is_stopped_live(model, tokenizer, rows, tmp_path, capsys):  # noqa: F811
    done, findings = trained(model, tokenizer, rows, tmp_path, ("divergence",), max_steps=40, learning_rate=1.0)
    assert [finding.rule for finding in findings] == ["divergence"]
    assert len(done.losses) == findings[0].step < 40
    assert f"step {findings[0].step}: divergence" in capsys.readouterr().out


def test_a_training_that_learns_nothing_stands_still(model, tokenizer, rows, tmp_path):  # noqa: F811
    held_out = rows.select(range(30, 40))
    done, findings = trained(
        model, tokenizer, rows.select(range(30)), tmp_path, (), held_out, max_steps=20, learning_rate=1e-8
    )
    assert [(finding.rule, finding.step) for finding in findings] == [("plateau", 12)]
    assert len(done.losses) == 20, "told, and gone on"


def test_many_passes_over_few_rows_overfit_live(model, tokenizer, rows, tmp_path):  # noqa: F811
    held_out = rows.select(range(20, 40))
    few = rows.select(range(4))
    done, findings = trained(
        model, tokenizer, few, tmp_path, ("overfitting",), held_out, max_steps=60, learning_rate=3e-3
    )
    assert [finding.rule for finding in findings] == ["overfitting"]
    assert len(done.losses) == findings[0].step < 60


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_sound_training_is_left_alone_live(schedule, model, tokenizer, rows, tmp_path):  # noqa: F811
    held_out = rows.select(range(30, 40))
    done, findings = trained(
        model, tokenizer, rows.select(range(30)), tmp_path, ("divergence", "overfitting", "plateau"), held_out,
        schedule, max_steps=20, learning_rate=2e-3,
    )  # fmt: skip
    assert not findings
    assert len(done.losses) == 20


@pytest.mark.parametrize("steps", [1, 4])
def test_rules_wait_until_there_is_something_to_compare(steps):
    assert monitoring.divergence([2.0**step for step in range(steps)], GUESSING) is None
    assert monitoring.divergence([2.0**step for step in range(8)], GUESSING) is not None


def test_held_out_losses_without_training_losses_are_no_fault():
    assert monitoring.overfitting([], [1.0, 1.0, 1.0, 1.0]) is None


@pytest.mark.slow
def test_a_long_training_is_judged_in_no_time():
    start = time.process_time()
    assert monitoring.divergence([2.0] * 1_000_000, GUESSING) is None
    assert time.process_time() - start < 20  # 0.06 s of processor time; in quadratic time it would take hours
