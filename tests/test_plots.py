import matplotlib as mpl
import pytest

mpl.use("Agg")

from nbhelpers import plots
from nbhelpers.evaluation import Evaluation


@pytest.fixture(autouse=True)
def _close():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def evaluated(name, values):
    rows = [{"task": "summary", "scores": {"rouge_l": value}} for value in values]
    return Evaluation(name, rows, 1.0, 10)


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
