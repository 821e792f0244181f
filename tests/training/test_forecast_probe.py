"""What the first steps of a training say of all of them."""

import pytest

from nbhelpers.training import session
from nbhelpers.training.checkpoints import Progress


def test_the_slow_first_step_is_counted_once():
    marks = [Progress(100, 6.0), Progress(200, 7.0), Progress(400, 9.0)]
    assert session.probed(marks, 50_000) == pytest.approx(9 + (50_000 - 400) / 100)


def test_too_few_steps_say_nothing():
    marks = [Progress(100, 6.0), Progress(200, 7.0), Progress(400, 9.0)]
    assert session.probed(marks[:2], 50_000) is None
    assert session.probed(marks, 400) is None
