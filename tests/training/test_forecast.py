"""What is predicted before a training, and what its first steps say of all of them."""

import datasets
import pytest

from nbhelpers.core import environment
from nbhelpers.core.errors import ResourceError
from nbhelpers.core.run import Run
from nbhelpers.training import forecast, session
from nbhelpers.training.checkpoints import Progress


def test_the_slow_first_step_is_counted_once():
    marks = [Progress(100, 6.0), Progress(200, 7.0), Progress(400, 9.0)]
    assert session.probed(marks, 50_000) == pytest.approx(9 + (50_000 - 400) / 100)


def test_too_few_steps_say_nothing():
    marks = [Progress(100, 6.0), Progress(200, 7.0), Progress(400, 9.0)]
    assert session.probed(marks[:2], 50_000) is None
    assert session.probed(marks, 400) is None


def test_a_training_is_refused_before_it_starts_where_the_disk_is_full(tmp_path, monkeypatch):
    values = {"profile": "smoke", "run_id": "test", "output_dir": str(tmp_path), "seed": 0, "force": False}
    run = Run.start("02_test", values)
    rows = datasets.Dataset.from_list([{"input_ids": [1, 5, 6, 7], "labels": [-100, -100, 6, 7]}] * 16)
    assert forecast.forecast(run, "LoRA", "lora", rows).seconds > 0
    monkeypatch.setattr(environment, "disk_free", lambda folder: 2**18)
    with pytest.raises(ResourceError, match=r"MiB of disk, 0\.2 MiB are free"):
        forecast.forecast(run, "LoRA", "lora", rows)
    assert forecast.forecast(run.having(force=True), "LoRA", "lora", rows).seconds > 0
