"""Long work says how far it is: a bar where somebody watches, a few lines where nobody does."""

import pytest

from nbhelpers.core import progress


@pytest.fixture
def clock(monkeypatch):
    """The time that `progress` sees, moved by hand."""
    now = [1_000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_headless_a_line_comes_after_5_seconds_and_then_each_half_minute(clock, capsys):
    with progress.Progress("answers", 100) as shown:
        for _ in range(100):
            clock[0] += 1
            shown.advance()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "answers: 5 of 100, 1 min 35 s to go",
        "answers: 35 of 100, 1 min 05 s to go",
        "answers: 65 of 100, 35 s to go",
        "answers: 95 of 100, 5.0 s to go",
    ]


def test_what_is_quick_says_nothing(clock, capsys):
    assert list(progress.each(range(50), "rows")) == list(range(50))
    assert capsys.readouterr().out == ""


def test_in_a_live_notebook_it_is_a_bar(monkeypatch, capsys):
    bars = []

    class Bar:
        def __init__(self, **settings):
            self.settings, self.done, self.closed = settings, 0, False
            bars.append(self)

        def update(self, count):
            self.done += count

        def close(self):
            self.closed = True

    monkeypatch.setattr(progress, "interactive", lambda: True)
    monkeypatch.setattr("tqdm.notebook.tqdm", Bar)
    with progress.Progress("rows", 9) as shown:
        shown.advance(4)
    assert progress.live_bar("one row", 1) is None
    assert [(bar.settings["total"], bar.done, bar.closed) for bar in bars] == [(9, 4, True)]
    assert not bars[0].settings["leave"]
