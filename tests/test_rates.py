import numpy as np
from test_training import rows, run  # noqa: F401 (a fixture)
from transformers import TrainerCallback

from nbhelpers import models, rates, training


def rates_seen(trainer):
    seen = []

    class See(TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
            seen.append([group["lr"] for group in optimizer.param_groups])

    trainer.add_callback(See())
    return training.train(trainer), seen


def test_a_range_of_rates_rises_by_one_factor_and_ends_where_it_should(model, tokenizer, rows, tmp_path):  # noqa: F811
    trainer = training.sft_trainer(run(tmp_path, max_steps=6), model, tokenizer, rows)
    rates.rate_range(trainer, 1e-6, 1e-1)
    done, seen = rates_seen(trainer)
    np.testing.assert_allclose([rate for rate, *_ in seen], np.geomspace(1e-6, 1e-1, 6), rtol=1e-6)
    assert all(len(set(groups)) == 1 for groups in seen)
    assert len(done.losses) == 6


def test_the_steepest_fall_names_its_rate():
    losses = [3.0] * 10 + [2.8, 2.2, 1.6, 1.2] + [1.1] * 6 + [2.0, 4.0]
    found = rates.steepest(1e-6, 1e-1, losses)
    tried = np.geomspace(1e-6, 1e-1, len(losses))
    assert tried[9] < found < tried[15]


def test_lower_blocks_learn_more_slowly_and_no_weight_is_left_out(model, tokenizer, rows, tmp_path):  # noqa: F811
    trainer = training.sft_trainer(run(tmp_path, max_steps=2), model, tokenizer, rows, warmup_steps=0)
    rates.layerwise(trainer, decay=0.5)
    groups = trainer.optimizer.param_groups
    assert (
        sum(weight.numel() for group in groups for weight in group["params"]) == models.count_parameters(model)["total"]
    )
    _, seen = rates_seen(trainer)
    expected = [1e-3 * 0.5 ** (5 - depth) for depth in range(6)]  # embedding, four blocks, the last norm
    np.testing.assert_allclose(seen[0], expected, rtol=1e-6)
    embedding, norm = model.get_input_embeddings().weight, model.model.norm.weight
    assert groups[0]["params"] == [embedding]
    assert any(norm is weight for weight in groups[-1]["params"])
