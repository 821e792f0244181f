import numpy as np
import pytest
from test_sft import rows, run  # noqa: F401 (a fixture)
from transformers import TrainerCallback

from nbhelpers.models import loading
from nbhelpers.training import learning_rates, sft


def rates_seen(trainer):
    seen = []

    class See(TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
            seen.append([group["lr"] for group in optimizer.param_groups])

    trainer.add_callback(See())
    return sft.train(trainer), seen


def test_a_range_of_rates_rises_by_one_factor_and_ends_where_it_should(model, tokenizer, rows, tmp_path):  # noqa: F811
    trainer = sft.sft_trainer(run(tmp_path, max_steps=6), model, tokenizer, rows)
    learning_rates.rate_range(trainer, 1e-6, 1e-1)
    done, seen = rates_seen(trainer)
    np.testing.assert_allclose([rate for rate, *_ in seen], np.geomspace(1e-6, 1e-1, 6), rtol=1e-6)
    assert all(len(set(groups)) == 1 for groups in seen)
    assert len(done.losses) == 6


def test_the_steepest_fall_names_its_rate():
    gained = [0.0] * 10 + [-0.2, -0.8, -1.4, -1.8] + [-1.9] * 6 + [-1.0, 1.0]
    tried = np.geomspace(1e-6, 1e-1, len(gained))
    assert tried[9] < learning_rates.steepest(tried, gained) < tried[13]


def test_a_model_that_breaks_falls_faster_than_it_ever_learned_and_is_not_taken_for_it():
    gained = [0.0, 0.0, -0.1, -0.3, -0.6, -0.9, -1.0, -0.9, 0.5, 3.0, 2.2, 1.4, 3.5, 5.0]
    tried = np.geomspace(1e-6, 1e-2, len(gained))
    assert tried[3] <= learning_rates.steepest(tried, gained) <= tried[5]


def test_batches_that_differ_do_not_move_the_steepest_fall():
    tried = np.geomspace(1e-6, 1e-2, 18)
    gained = -0.5 / (1 + np.exp(8 - np.arange(18)))  # falls fastest at the ninth step
    untuned = np.random.default_rng(0).uniform(0.3, 2.9, 18)
    assert learning_rates.steepest(tried, (untuned + gained) - untuned) == pytest.approx(tried[8])
    assert learning_rates.steepest(tried, untuned + gained) != pytest.approx(tried[8])


def test_lower_blocks_learn_more_slowly_and_no_weight_is_left_out(model, tokenizer, rows, tmp_path):  # noqa: F811
    trainer = sft.sft_trainer(run(tmp_path, max_steps=2), model, tokenizer, rows, warmup_steps=0)
    learning_rates.layerwise(trainer, decay=0.5)
    groups = trainer.optimizer.param_groups
    assert (
        sum(weight.numel() for group in groups for weight in group["params"])
        == loading.count_parameters(model)["total"]
    )
    _, seen = rates_seen(trainer)
    expected = [1e-3 * 0.5 ** (5 - depth) for depth in range(6)]  # embedding, four blocks, the last norm
    np.testing.assert_allclose(seen[0], expected, rtol=1e-6)
    embedding, norm = model.get_input_embeddings().weight, model.model.norm.weight
    assert groups[0]["params"] == [embedding]
    assert any(norm is weight for weight in groups[-1]["params"])
