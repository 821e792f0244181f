"""Figures, one claim each: `plot_x(data, ax=None) -> ax`. Only the notebook saves them."""

from itertools import cycle

from nbhelpers.evaluation import Evaluation
from nbhelpers.metrics import estimate

COLOURS = ("#7f7f7f", "#c9a227", "#1f6fb4", "#c0504d", "#4f9d69", "#8064a2")


def _axes(ax, width: float = 7.0, height: float = 3.6):
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def plot_losses(losses: dict[str, list[float]], ax=None, window: int = 8):
    """Training loss by step of each variant: the steps faintly, their running mean over `window` steps on top."""
    import numpy as np

    ax = _axes(ax)
    for colour, (name, values) in zip(cycle(COLOURS[2:]), losses.items(), strict=False):
        steps = np.arange(1, len(values) + 1)
        width = min(window, len(values))
        mean = np.convolve(values, np.ones(width) / width, mode="valid")
        ax.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
        ax.plot(steps[width - 1 :], mean, color=colour, label=f"{name} (mean of {width} steps)")
    ax.set(xlabel="optimizer step", ylabel="loss (nats a labelled token)", ylim=(0, None))
    ax.legend(frameon=False)
    return ax


def plot_scores(evaluations: list[Evaluation], ax=None):
    """Every score of every model with its 95 % bootstrap interval."""
    import numpy as np

    ax = _axes(ax, width=8.5)
    scores = evaluations[0].scores
    share = 0.8 / len(evaluations)
    for k, (colour, evaluation) in enumerate(zip(cycle(COLOURS), evaluations, strict=False)):
        found = [estimate(evaluation.values(*score)) for score in scores]
        means = [m.value for m in found]
        reach = [[m.value - m.low for m in found], [m.high - m.value for m in found]]
        x = np.arange(len(scores)) + (k - (len(evaluations) - 1) / 2) * share
        ax.bar(x, means, share * 0.92, color=colour, label=evaluation.name)
        ax.errorbar(x, means, yerr=reach, fmt="none", ecolor="#333333", elinewidth=1, capsize=2)
    ax.set_xticks(range(len(scores)), [f"{task}\n{score.replace('_', ' ')}" for task, score in scores])
    ax.set(ylabel="mean score (0 to 1)", ylim=(0, 1.05))
    ax.legend(frameon=False, ncols=len(evaluations), loc="upper center", bbox_to_anchor=(0.5, 1.15))
    return ax


def plot_memory(predicted: dict[str, dict[str, int]], measured: dict[str, int], ax=None):
    """Predicted peak memory by part, stacked, with the measured peak as a mark, of each variant."""
    ax = _axes(ax, height=1.6 + 0.5 * len(predicted))
    parts = list(dict.fromkeys(part for parts in predicted.values() for part in parts))
    left = [0.0] * len(predicted)
    for colour, part in zip(cycle((*COLOURS[2:], *COLOURS[:2])), parts, strict=False):
        widths = [variant.get(part, 0) / 2**20 for variant in predicted.values()]
        ax.barh(list(predicted), widths, left=left, color=colour, label=part, height=0.55)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for row, name in enumerate(predicted):
        ax.plot([measured[name] / 2**20] * 2, [row - 0.36, row + 0.36], color="black", linewidth=2.5)
    ax.plot([], [], color="black", linewidth=2.5, label="measured")
    ax.invert_yaxis()
    ax.set(xlabel="peak memory over the process before loading (MiB)")
    ax.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax
