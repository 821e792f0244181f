import matplotlib as mpl
import numpy as np
import pytest

mpl.use("Agg")

from nbhelpers.core.statistics import Metric
from nbhelpers.evaluation.scoring import Evaluation
from nbhelpers.notebook import plots


@pytest.fixture(autouse=True)
def _close():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def evaluated(name, values):
    rows = [{"task": "summary", "scores": {"rouge_l": value}} for value in values]
    return Evaluation(name, rows)


def test_losses_show_every_step_and_a_running_mean():
    ax = plots.plot_losses({"LoRA": [3.0, 2.0, 1.0, 1.0], "QLoRA": [3.0, 2.0]}, window=2)
    assert ax.get_xlabel() == "optimizer step"
    assert "nats" in ax.get_ylabel()
    raw, mean = ax.lines[:2]
    assert list(raw.get_ydata()) == [3.0, 2.0, 1.0, 1.0]
    assert list(mean.get_ydata()) == [2.5, 1.5, 1.0]
    assert list(mean.get_xdata()) == [2, 3, 4]


def test_scores_are_bars_of_the_means_in_order():
    ax = plots.plot_scores([evaluated("untuned", [0.0, 0.2]), evaluated("LoRA", [0.5, 0.7])])
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([0.1, 0.6])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["untuned", "LoRA"]


def test_memory_stacks_to_the_sum_and_marks_the_measurement():
    predicted = {"LoRA": {"weights": 2**21, "activations": 2**20}, "QLoRA": {"weights": 2**20, "activations": 2**20}}
    ax = plots.plot_memory(predicted, {"LoRA": 4 * 2**20, "QLoRA": 3 * 2**20})
    ends = [bar.get_x() + bar.get_width() for bar in ax.patches]
    assert ends == [2, 1, 3, 2]
    assert [line.get_xdata()[0] for line in ax.lines[:2]] == [4, 3]
    assert "MiB" in ax.get_xlabel()


def test_a_given_ax_is_drawn_on_and_returned():
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    assert plots.plot_losses({"a": [1.0]}, ax=ax) is ax
    assert len(plt.get_fignums()) == 1


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def overlaps(ax) -> list[tuple[str, str]]:
    """Pairs of texts of a figure (labels, ticks, notes, legend) that are drawn over one another."""
    ax.figure.canvas.draw()
    drawn = [*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label, ax.yaxis.label]
    drawn += ax.get_legend().get_texts() if ax.get_legend() else []
    boxes = [(text.get_text(), text.get_window_extent()) for text in drawn if text.get_text()]
    return [(a, b) for i, (a, one) in enumerate(boxes) for b, other in boxes[:i] if one.overlaps(other)]


def test_overlaps_are_seen():
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    ax.text(0.5, 0.5, "one")
    ax.text(0.5, 0.51, "two")
    assert overlaps(ax) == [("two", "one")]


def test_lengths_count_every_row_and_mark_the_share_that_fits():
    lengths = [10] * 1_998 + [90, 5_000]
    ax = plots.plot_lengths(lengths, [50, 100])
    assert sum(bar.get_height() for bar in ax.patches) == 1_999
    assert texts(ax) == ["100: 99.9% fit", "50: 99.9% fit"]  # 1,999 of 2,000 is not yet 100 %
    assert sorted(line.get_xdata()[0] for line in ax.lines) == [50, 100]
    assert ax.get_xlabel() == "tokens a row (1 of 2,000 rows lie beyond, the longest at 5,000)"
    assert not overlaps(plots.plot_lengths(lengths, [50, 52, 54, 100, 128]))


def test_flow_draws_kept_and_dropped_and_names_both():
    import pandas as pd

    steps = [("schema", 1_000, 0, 40, 1_000), ("quality", 1_000, 250, 0, 750), ("duplicates", 750, 0, 0, 750)]
    steps += [("leaks", 750, 0, 3, 750)]
    ax = plots.plot_flow(pd.DataFrame(steps, columns=["step", "read", "dropped", "changed", "kept"]))
    kept, dropped = ax.containers
    assert [bar.get_width() for bar in kept] == [1_000, 750, 750, 750]
    assert [(bar.get_x(), bar.get_width()) for bar in dropped][1] == (750, 250)
    assert texts(ax)[::2] == ["none dropped, 40 changed", "−250 (25.0%)", "none dropped", "none dropped, 3 changed"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first step stands on top
    assert not overlaps(ax)


def test_a_drop_too_small_for_a_tenth_of_a_percent_is_not_drawn_as_none():
    import pandas as pd

    table = pd.DataFrame([("quality", 10_000, 1, 0, 9_999)], columns=["step", "read", "dropped", "changed", "kept"])
    assert texts(plots.plot_flow(table))[0] == "−1 (<0.1%)"


def test_recall_shows_every_seed_and_marks_what_is_below_target():
    import pandas as pd

    rows = [("near", "case", 50, recall) for recall in (1.0, 0.98, 0.99)]
    rows += [("near", "edits", 50, recall) for recall in (0.9, 0.96, 0.96)] + [("redact", "case", 50, 0.95)]
    ax = plots.plot_recall(pd.DataFrame(rows, columns=["step", "family", "n", "recall"]))
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["near", "case (150)", "edits (150)", "redact", "case (50)"]
    dots = [list(line.get_xdata()) for line in ax.lines if line.get_marker() == "o"]
    assert dots == [[1.0, 0.98, 0.99], [0.9, 0.96, 0.96], [0.95]]
    assert [line.get_color() for line in ax.lines[:6:2]] == [plots.COLOURS[2], plots.COLOURS[3], plots.COLOURS[2]]
    assert ax.get_xlim()[0] < 0.9
    assert not overlaps(ax)


def test_skew_stacks_the_shares_and_says_what_it_leaves_out():
    from nbhelpers.data import groups

    rows = [{"text": "a b", "task": f"t{i % 7}", "package": f"p{i % 5}"} for i in range(70)]
    ax = plots.plot_skew(groups.skew(rows, "package"), most=3)
    assert len(ax.get_yticklabels()) == 4
    assert ax.get_yticklabels()[0].get_text() == "(all) (70)"
    assert [text.get_text() for text in ax.get_legend().get_texts()][-1] == "2 other"
    assert [bar.get_x() + bar.get_width() for bar in ax.containers[-1]] == pytest.approx([1] * 4)
    assert "2 smaller groups not drawn" in ax.get_xlabel()
    assert texts(ax)[0] == "0.00 (0.00)   2 words"
    assert not overlaps(ax)


def test_the_tradeoff_has_a_point_a_model_with_both_intervals():
    full, lora = (Metric(0.3, 0.2, 0.5), Metric(0.12, 0.1, 0.15)), (Metric(0, -0.1, 0.1), Metric(0.1, 0, 0.2))
    points = {"full": full, "LoRA": lora}
    ax = plots.plot_tradeoff(points, "lost (nats)", "gained")
    drawn = {c.get_label(): c for c in ax.containers}
    assert drawn.keys() == points.keys()
    for name, (x, y) in points.items():
        dot, _, bars = drawn[name]
        assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (x.value, y.value)
        across, upward = (bar.get_segments()[0] for bar in bars)
        assert across[:, 0].tolist() == pytest.approx([x.low, x.high])
        assert upward[:, 1].tolist() == pytest.approx([y.low, y.high])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("lost (nats)", "gained")


def test_intervals_of_each_name_stand_in_their_row():
    rows = {
        "refuse": {"SFT": Metric(0.5, 0.4, 0.6), "DPO": Metric(0.7, 0.6, 0.8)},
        "answer": {"DPO": Metric(0.9, 0.8, 1.0)},
    }
    ax = plots.plot_intervals(rows, "share")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["refuse", "answer"]
    marks = {container.get_label(): container.lines[0].get_xydata().tolist() for container in ax.containers}
    assert marks == {"SFT": [[0.5, -0.25]], "DPO": [[0.7, 0.25], [0.9, 1.25]]}
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first row is at the top"


def test_spectra_are_relative_to_their_largest():
    ax = plots.plot_spectra({"full": [4.0, 2.0, 1.0], "LoRA": [9.0, 9.0, 0.0]})
    lines = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    assert lines["full"].tolist() == [1.0, 0.5, 0.25]
    assert lines["LoRA"].tolist() == [1.0, 1.0, 0.0]
    assert ax.get_yscale() == "log"


def test_the_front_joins_what_no_other_variant_beats_at_both():
    points = {
        "cheap": (Metric(1.0), Metric(3.0, 2.5, 3.5)),
        "good": (Metric(3.0), Metric(1.0, 0.8, 1.2)),
        "beaten": (Metric(3.0), Metric(2.0)),
        "middle": (Metric(2.0, 1.5, 2.5), Metric(2.0)),
    }
    ax = plots.plot_pareto(points, "cost", "loss")
    front = ax.lines[0]
    assert list(zip(front.get_xdata(), front.get_ydata(), strict=True)) == [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["1 cheap *", "2 good *", "3 beaten", "4 middle *"]
    assert {text.get_text() for text in ax.texts} == {"1", "2", "3", "4"}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("cost", "loss")


def test_no_number_is_written_over_another_in_a_crowd():
    rng = np.random.default_rng(0)
    crowd = {str(i): (Metric(x), Metric(y)) for i, (x, y) in enumerate(rng.normal(size=(25, 2)) * 0.05)}
    ax = plots.plot_pareto(crowd | {"far": (Metric(1.0), Metric(1.0))}, "cost", "loss")
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert 2 < len(boxes) < 26
    inner = [box.padded(-2) for box in boxes]
    assert not any(a.overlaps(b) for i, a in enumerate(inner) for b in inner[:i])


def test_points_that_lie_on_each_other_are_numbered_together():
    at = {"a": (1e3, 2.0), "b": (1e6, 1.0), "c": (1.01e6, 1.001), "d": (1e6, 1.5)}
    points = {name: (Metric(x), Metric(y)) for name, (x, y) in at.items()}
    ax = plots.plot_pareto(points, "cost", "loss", xscale="log")
    assert {text.get_text() for text in ax.texts} == {"1", "2, 3", "4"}
