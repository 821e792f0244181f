import datasets
import pytest

from nbhelpers.core.errors import ResourceError
from nbhelpers.core.run import Run
from nbhelpers.models import encoding
from nbhelpers.training import ppo, preference_forecast

ROWS = datasets.Dataset.from_list([{"chosen_ids": [1, 5, 6, 7], "rejected_ids": [1, 5, 8]}] * 16)


@pytest.fixture
def smoke_run(tmp_path):
    values = {"profile": "smoke", "run_id": "test", "output_dir": str(tmp_path), "seed": 0, "force": False}
    return Run.start("05_test", values)


def test_labelled_is_what_the_two_answers_do_not_share():
    ignore = encoding.IGNORE
    rows = preference_forecast.both_answers(ROWS.select([0]))
    assert rows["labels"][:] == [[ignore, ignore, 6, 7], [ignore, ignore, 8]]
    assert preference_forecast.both_answers(ROWS.select([0]), labelled=False)["labels"][:] == [
        [ignore] * 4,
        [ignore] * 3,
    ]


def test_a_reference_costs_half_as_much_again_and_a_vocabulary_its_logits(smoke_run):
    dpo = preference_forecast.pairs(smoke_run, "DPO", ROWS, reference=True)
    reward = preference_forecast.pairs(smoke_run, "reward", ROWS, reference=False)
    assert reward.parts["logits"] == 0 < dpo.parts["logits"]
    assert 1.25 < dpo.seconds / reward.seconds < 2.5
    recorded = smoke_run.finish({})["predicted"]
    assert recorded["DPO.seconds"] == dpo.seconds


def test_a_rollout_takes_the_time_of_its_tokens(smoke_run):
    rows = datasets.Dataset.from_list([{"input_ids": [1] * 20, "labels": [encoding.IGNORE] * 10 + [1] * 10}] * 8)
    call = (smoke_run, "PPO", rows, 3, 16, ppo.PPOConfig())
    slow, fast = (preference_forecast.rollouts(*call, tokens_per_second=speed).seconds for speed in (1, 1e9))
    assert slow - fast == pytest.approx(3 * 16 * 10, rel=0.05)
    behind = preference_forecast.rollouts(*call, tokens_per_second=1e9, pace=3.0).seconds
    assert behind == pytest.approx(3 * fast, rel=0.01)


def test_what_does_not_fit_is_refused(smoke_run, monkeypatch):
    monkeypatch.setattr(preference_forecast.hardware, "memory_free", lambda device: 2**20)
    with pytest.raises(ResourceError, match="will not fit"):
        preference_forecast.pairs(smoke_run, "DPO", ROWS, reference=True)
