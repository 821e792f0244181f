"""Figures of memory and cost, one claim each: `plot_x(data, ax=None) -> ax`, with units and the source below."""

from itertools import cycle

from nbhelpers.cost.planner import Option, pareto
from nbhelpers.notebook.plots import COLOURS, axes

GIB = 2**30


def source(ax, text: str):
    """A line of small print under a figure: where its numbers come from."""
    ax.annotate(
        text, (0, 0), (0, -46), xycoords="axes fraction", textcoords="offset points", fontsize=7, color="#666666"
    )
    return ax


def plot_published(rows: list[dict], ax=None):
    """Predicted against measured peak memory of `published_memory.rows`, a colour a source, with a band of 10 %."""
    ax = axes(ax, height=4.2)
    names = list(dict.fromkeys(row["source"] for row in rows))
    for colour, name in zip(cycle(COLOURS), names, strict=False):
        own = [row for row in rows if row["source"] == name]
        measured, predicted = ([row[key] / GIB for row in own] for key in ("measured", "predicted"))
        ax.plot(measured, predicted, "o", color=colour, label=name)
    ends = [0.8, 45]
    ax.plot(ends, ends, color="black", linewidth=0.8)
    ax.fill_between(ends, [0.9 * x for x in ends], [1.1 * x for x in ends], color="#dddddd", zorder=0)
    ax.set(xlabel="measured by others (GiB)", ylabel="predicted (GiB)", xscale="log", yscale="log")
    ax.legend(frameon=False, fontsize=7)
    return source(ax, "Source: data/published_memory.csv. The grey band is 10 %.")


def plot_options(options: list[Option], ax=None):
    """Price against time of every option that fits, a colour a method; a line joins those that nothing beats."""
    ax = axes(ax, height=4.0)
    best = pareto(options)
    for colour, method in zip(COLOURS[2:], ("lora", "qlora", "full"), strict=False):
        own = [one for one in options if one.fits and one.method == method]
        if not own:
            continue
        ax.plot([one.hours for one in own], [one.dollars for one in own], "o", color=colour, label=method)
    ax.plot([one.hours for one in best], [one.dollars for one in best], color="#bbbbbb", zorder=0)
    for one in best:
        ax.annotate(
            f"{one.gpu}, {one.method}", (one.hours, one.dollars), (6, -10), textcoords="offset points", fontsize=8
        )
    ax.set(xlabel="hours", ylabel="dollars", xlim=(0, None), ylim=(0, None))
    ax.legend(frameon=False)
    return source(ax, "Source: data/gpu_prices.csv, data/gpus.csv; time at an assumed share of the GPU's peak.")


def plot_heat_map(values, of_what: str, ax=None):
    """Shares of a memory as a table of colours: rows are models (with methods), columns GPUs or methods.

    Args:
        of_what: what a share is of, for the line below.
        values: `pandas.DataFrame` of the share of the memory that is needed; above 1 the field stays white and says no.
    """
    ax = axes(ax, width=8.0, height=1.2 + 0.3 * len(values))
    ax.imshow(values.where(values <= 1), cmap="Blues", vmin=0, vmax=1, aspect="auto")  # what does not fit stays white
    for i, row in enumerate(values.to_numpy()):
        for j, share in enumerate(row):
            colour = "white" if 0.6 < share <= 1 else "black"
            ax.text(j, i, f"{share:.0%}" if share <= 1 else "no", ha="center", va="center", fontsize=8, color=colour)
    ax.xaxis.tick_top()
    ax.set_xticks(range(values.shape[1]), values.columns, rotation=30, ha="left")
    ax.set_yticks(range(len(values)), values.index)
    return source(ax, f"Share of {of_what}. Source: data/model_shapes.json.")


def plot_tornado(spans: dict[str, tuple[float, float]], base: float, unit: str, ax=None):
    """How far each input moves the result from `base`: a bar from its low to its high end, the widest on top."""
    ax = axes(ax, height=1.2 + 0.4 * len(spans))
    for place, (name, (low, high)) in enumerate(reversed(spans.items())):
        ax.barh(place, high - low, left=low, color=COLOURS[2], height=0.6)
        ax.text(max(low, high), place, f"  {name}", va="center", fontsize=8)
    ax.axvline(base, color="black", linewidth=0.8)
    ax.set_yticks([])
    ax.margins(x=0.3)
    ax.set(xlabel=unit)
    return source(ax, "Source: data/gpu_prices.csv; each input by itself, from its low to its high end.")


def plot_break_even(ways: dict, most: float, ax=None):
    """Dollars a month of each of `inference.ways`, for up to `most` million answer tokens a month."""
    import numpy as np

    ax = axes(ax)
    x = np.linspace(0, most, 200)
    for colour, (name, way) in zip(cycle(COLOURS), ways.items(), strict=False):
        ax.plot(x, [way.per_month(million) for million in x], color=colour, label=name)
    ax.set(xlabel="answer tokens a month (millions)", ylabel="dollars a month", xlim=(0, most), ylim=(0, None))
    ax.legend(frameon=False)
    return source(ax, "Source: data/gpu_prices.csv, data/api_prices.csv.")


def plot_phases(phases: dict[str, tuple[float, float]], ax=None):
    """A budget by phase: the bar is the least, its lighter end the most, in dollars."""
    ax = axes(ax, height=2.0)
    for place, (low, high) in enumerate(phases.values()):
        ax.barh(place, high, color=COLOURS[2], alpha=0.35)
        ax.barh(place, low, color=COLOURS[2])
        ax.text(high, place, rf"  \${low:,.0f} to \${high:,.0f}", va="center", fontsize=8)
    ax.set_yticks(range(len(phases)), phases)
    ax.invert_yaxis()
    ax.margins(x=0.25)
    ax.set(xlabel="dollars")
    return source(ax, "Source: shares of a budget as nbhelpers.cost.project.phases gives them.")
