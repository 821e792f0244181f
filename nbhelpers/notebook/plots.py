"""Figures, one claim each: `plot_x(data, ax=None) -> ax`. Only the notebook saves them."""

from itertools import combinations, cycle

from nbhelpers.core.statistics import Metric, estimate
from nbhelpers.evaluation.scoring import Evaluation

COLOURS = ("#7f7f7f", "#c9a227", "#1f6fb4", "#c0504d", "#4f9d69", "#8064a2", "#e39bb0")


def axes(ax, width: float = 7.0, height: float = 3.6):
    """`ax`, or a new one of this size in inches; without the upper and right border."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def plot_losses(losses: dict[str, list[float]], ax=None, window: int = 8):
    """Training loss by step of each variant: the steps faintly, their running mean over `window` steps on top."""
    import numpy as np

    ax = axes(ax)
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

    ax = axes(ax, width=8.5)
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


def plot_tradeoff(points: dict[str, tuple[Metric, Metric]], xlabel: str, ylabel: str, ax=None):
    """What was lost (x) against what was learned (y): a point a model, with the 95 % interval of both.

    `points`: name -> (x, y). The dotted lines are the untuned model, which has neither.
    """
    ax = axes(ax, width=6.5, height=4.0)
    for number, (name, (x, y)) in enumerate(points.items()):
        again, colour = divmod(number, len(COLOURS) - 2)  # the same colours again have another mark
        style = {"fmt": "os^D"[again % 4], "color": COLOURS[2 + colour], "capsize": 3, "label": name}
        reach = [[[m.value - m.low], [m.high - m.value]] for m in (x, y)]
        ax.errorbar(x.value, y.value, xerr=reach[0], yerr=reach[1], **style)
    ax.axhline(0, color="black", linestyle=":", linewidth=1)
    ax.axvline(0, color="black", linestyle=":", linewidth=1)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.legend(frameon=False)
    return ax


def plot_intervals(rows: dict[str, dict[str, Metric]], xlabel: str, ax=None):
    """A mark with its interval for each name of each row; `rows`: row -> name -> value. The first row is at the top."""
    ax = axes(ax, height=1.0 + 0.5 * len(rows))
    names = list(dict.fromkeys(name for values in rows.values() for name in values))
    for number, (colour, name) in enumerate(zip(cycle(COLOURS[2:]), names, strict=False)):
        shown = {row: values[name] for row, values in rows.items() if name in values}
        shift = number / (len(names) - 1) / 2 - 0.25 if len(names) > 1 else 0
        heights = [list(rows).index(row) + shift for row in shown]
        reach = [[m.value - m.low for m in shown.values()], [m.high - m.value for m in shown.values()]]
        values = [m.value for m in shown.values()]
        ax.errorbar(values, heights, xerr=reach, fmt="o", color=colour, capsize=3, label=name)
    ax.set(xlabel=xlabel, ylim=(len(rows) - 0.4, -0.6))
    ax.set_yticks(range(len(rows)), list(rows))
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return ax


def plot_pareto(points: dict[str, tuple[Metric, Metric]], xlabel: str, ylabel: str, ax=None, xscale: str = "linear"):
    """Two costs of every variant, lower is better, with their intervals; a line joins the Pareto front.

    On the front lies a variant that no other one beats at both. Points are numbered, those whose numbers would lie on
    each other together, and named in the legend.
    """
    ax = axes(ax, width=8.5, height=4.6)
    front = [
        (x.value, y.value)
        for x, y in points.values()
        if not any((a.value < x.value and b.value <= y.value) or (a.value <= x.value and b.value < y.value)
                   for a, b in points.values())
    ]  # fmt: skip
    ax.plot(*zip(*sorted(front), strict=True), color="#bbbbbb", linewidth=1.5, zorder=0)
    for number, (colour, (name, (x, y))) in enumerate(zip(cycle(COLOURS), points.items(), strict=False), 1):
        reach = [None if m.low is None else [[max(0.0, m.value - m.low)], [max(0.0, m.high - m.value)]] for m in (x, y)]
        label = f"{number} {name}" + (" *" if (x.value, y.value) in front else "")
        ax.errorbar(
            x.value,
            y.value,
            xerr=reach[0],
            yerr=reach[1],
            fmt="o",
            color=colour,
            elinewidth=0.8,
            alpha=0.9,
            label=label,
        )
    ax.set(xlabel=xlabel, ylabel=ylabel, xscale=xscale)
    ax.autoscale_view()
    places = [(x.value, y.value) for x, y in points.values()]
    pixels = [ax.transData.transform(place) for place in places]

    def label(group: list[int]) -> tuple[int, str]:
        """The point of a group that its numbers are written beside, and these."""
        return max(group, key=lambda i: pixels[i][0]), ", ".join(str(i + 1) for i in sorted(group))

    def collide(one: list[int], other: list[int]) -> bool:
        (left, low), (right, high) = (pixels[label(group)[0]] for group in (one, other))
        first = one if left <= right else other  # its numbers run towards the other's
        return abs(low - high) < 12 and abs(left - right) < 8 * len(label(first)[1])

    groups = [[i] for i in range(len(places))]
    while pair := next((pair for pair in combinations(groups, 2) if collide(*pair)), None):
        groups = [group for group in groups if group not in pair] + [[*pair[0], *pair[1]]]
    for group in groups:
        beside, numbers = label(group)
        ax.annotate(numbers, places[beside], (5, 4), textcoords="offset points", fontsize=9)
    ax.legend(
        frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), title="* no other is lower in both"
    )
    return ax


def plot_spectra(spectra: dict[str, list[float]], ax=None):
    """Singular values of an update of one weight matrix by method, each relative to its largest, on a log scale."""
    ax = axes(ax)
    for colour, (name, values) in zip(cycle(COLOURS[2:]), spectra.items(), strict=False):
        ax.plot(range(1, len(values) + 1), [value / values[0] for value in values], color=colour, label=name)
    ax.set(xlabel="direction, the strongest first", ylabel="singular value over the largest")
    ax.set(xscale="log", yscale="log", ylim=(1e-4, 2))
    ax.legend(frameon=False)
    return ax


def plot_memory(predicted: dict[str, dict[str, int]], measured: dict[str, int], ax=None):
    """Predicted peak memory by part, stacked, with the measured peak as a mark, of each variant."""
    ax = axes(ax, height=1.6 + 0.5 * len(predicted))
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


def plot_lengths(lengths, candidates: list[int], ax=None):
    """Histogram of the tokens a row, each candidate `max_length` marked with the share of rows that fit.

    The axis ends at the largest candidate or the 99.5th percentile; how many rows lie beyond stands under it.
    """
    import numpy as np

    ax = axes(ax)
    lengths = np.asarray(lengths)
    end = max(*candidates, np.percentile(lengths, 99.5)) * 1.02
    beyond = int((lengths > end).sum())
    counts, *_ = ax.hist(lengths, bins=60, range=(0, end), color=COLOURS[2], alpha=0.85)
    top = counts.max()
    for k, limit in enumerate(sorted(candidates, reverse=True), 1):
        height = top * (1 + 0.1 * k)
        ax.plot([limit, limit], [0, height], color="#333333", linewidth=1, linestyle="--")
        side, offset = ("right", -4) if limit > end / 2 else ("left", 4)
        fit = np.floor(1_000 * (lengths <= limit).mean()) / 1_000  # down: 100 % is said only where all fit
        text = f"{limit:,}: {fit:.1%} fit"
        ax.annotate(text, (limit, height), (offset, 0), textcoords="offset points", ha=side, va="top", fontsize=9)
    label = "tokens a row"
    if beyond:
        label += f" ({beyond:,} of {len(lengths):,} rows lie beyond, the longest at {lengths.max():,})"
    ax.set(xlabel=label, ylabel="rows", xlim=(0, end), ylim=(0, top * (1.05 + 0.1 * len(candidates))))
    return ax


def plot_flow(table, ax=None):
    """Rows left after each cleaning step, with what the step dropped and changed.

    `table`: DataFrame with columns step, read, dropped, changed, kept, in the order in which the steps ran.
    """
    ax = axes(ax, width=8.0, height=1.2 + 0.36 * len(table))
    ax.barh(table["step"], table["kept"], color=COLOURS[2], height=0.6, label="kept")
    ax.barh(table["step"], table["dropped"], left=table["kept"], color=COLOURS[3], height=0.6, label="dropped")
    widest = table["read"].max()
    for y, step in enumerate(table.itertuples()):
        share = step.dropped / max(1, step.read)
        percent = f"{share:.1%}" if share >= 0.001 else "<0.1%"
        text = f"−{step.dropped:,} ({percent})" if step.dropped else "none dropped"
        text += f", {step.changed:,} changed" if step.changed else ""
        ax.text(1.01, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
        ax.text(widest * 0.01, y, f"{step.kept:,}", va="center", color="white", fontsize=9)
    ax.invert_yaxis()
    ax.set(xlabel="rows", xlim=(0, widest * 1.005))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return ax


def plot_recall(table, ax=None, target: float = 0.95):
    """Recall of each family of planted defects: a dot a seed, a bar for the mean, red where the mean is below target.

    `table`: DataFrame with columns step, family, n (planted), recall (0 to 1), one line a family and seed; the
    label of a family has its n over all seeds.
    """
    families = table.groupby(["step", "family"], sort=False).agg(n=("n", "sum"), mean=("recall", "mean"))
    steps = list(dict.fromkeys(table["step"]))
    ax = axes(ax, width=7.0, height=1.2 + 0.19 * (len(families) + len(steps)))
    labels, y = [], 0
    for step in steps:
        labels.append((y, step, True))
        for family, (n, mean) in families.loc[step].iterrows():
            y += 1
            seeds = table[(table["step"] == step) & (table["family"] == family)]["recall"]
            colour = COLOURS[2] if mean >= target else COLOURS[3]
            ax.plot(seeds, [y] * len(seeds), "o", color=colour, markersize=5, alpha=0.45, markeredgewidth=0)
            ax.plot([mean, mean], [y - 0.4, y + 0.4], color=colour, linewidth=2)
            labels.append((y, f"{family} ({n:,.0f})", False))
        y += 1
    ax.axvline(target, color="#333333", linewidth=1, linestyle="--")
    ax.text(target, -0.9, f"target {target:g}", ha="center", va="bottom", fontsize=9)
    ax.set_yticks([place for place, *_ in labels], [text for _, text, _ in labels], fontsize=8)
    for tick, (_, _, heading) in zip(ax.get_yticklabels(), labels, strict=True):
        tick.set_fontweight("bold" if heading else "normal")
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", alpha=0.3)
    low = min(table["recall"].min(), target - 0.05)
    ax.set(xlabel="recall (share of the planted defects found)", ylim=(y, -0.9), xlim=(low - 0.01, 1.01))
    return ax


def plot_skew(table, ax=None, most: int = 20):
    """Mix of labels in each group, with its distance from the mix of all rows, that by chance, and the median length.

    `table`: the DataFrame of `groups.skew`. The `most` largest groups are drawn, and the five commonest labels.
    """
    drawn = table.head(most + 1)
    left_out = len(table) - len(drawn)
    labels = list(table.columns[table.columns.get_loc("by_chance") + 1 :])
    ax = axes(ax, width=8.5, height=1.4 + 0.28 * len(drawn))
    shares = {name.partition(": ")[2]: drawn[name].to_numpy() for name in labels[:5]}
    if labels[5:]:
        shares[f"{len(labels) - 5} other"] = drawn[labels[5:]].sum(axis=1).to_numpy()
    left = 0 * drawn["share"].to_numpy()
    for colour, (name, widths) in zip((*COLOURS[2:], COLOURS[1], COLOURS[0]), shares.items(), strict=False):
        ax.barh(range(len(drawn)), widths, left=left, color=colour, label=name, height=0.75)
        left = left + widths
    ax.set_yticks(range(len(drawn)), [f"{row.group} ({row.rows:,})" for row in drawn.itertuples()])
    for y, row in enumerate(drawn.itertuples()):
        text = f"{row.distance:.2f} ({row.by_chance:.2f})   {row.median_words:,.0f} words"
        ax.text(1.01, y, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
    ax.text(1.01, -0.7, "distance (by chance), length", transform=ax.get_yaxis_transform(), va="bottom", fontsize=9)
    more = f"; {left_out} smaller groups not drawn" if left_out else ""
    ax.set(xlabel=f"share of the group's rows{more}", ylim=(len(drawn) - 0.5, -0.6), xlim=(0, 1))
    ax.legend(frameon=False, ncols=6, loc="lower center", bbox_to_anchor=(0.5, 1 + 0.9 / len(drawn)))
    return ax


def plot_load(tables: dict, axes=None):
    """Throughput and time to first token against the clients at once; a line for each server.

    `tables`: server -> the DataFrame of `load_test.table`. Returns the two axes.
    """
    import matplotlib.pyplot as plt
    import pandas as pd

    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for name, table in tables.items():
        for ax, column in zip(axes, ("tokens/s", "first token p50 (s)"), strict=True):
            ax.plot(table.index, pd.to_numeric(table[column]), marker="o", label=name)
    for ax, label in zip(axes, ("tokens per second, all clients", "median time to first token (s)"), strict=True):
        ax.set(xlabel="clients at once", ylabel=label, ylim=(0, None))
    axes[0].legend(frameon=False)
    return axes
