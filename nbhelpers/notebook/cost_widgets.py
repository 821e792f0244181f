"""Sliders over the planner where somebody can move them; headless, the table for the parameters."""

from dataclasses import dataclass, replace

from nbhelpers.core.errors import NotebookError
from nbhelpers.cost import inference, planner, prices
from nbhelpers.notebook import widgets


def options_table(options: list[planner.Option], count: int = 12):
    """A `pandas.DataFrame` of the first `count` options of `planner.rank`, with why each is not the first."""
    import pandas as pd

    rows = [
        {
            "GPU": f"{one.gpus} x {one.gpu}", "offer": one.offer, "method": one.method, "rows at once": one.micro_batch,
            "checkpointing": "yes" if one.gradient_checkpointing else "no",
            "peak (GiB)": f"{one.peak_bytes / 2**30:.1f}", "hours": f"{one.hours:.2f}",
            "dollars": f"{one.dollars:.2f}", "why not": one.lost or "the cheapest that does it",
        }
        for one in options[:count]
    ]  # fmt: skip
    return pd.DataFrame(rows)


def serving_line(gpu: str, tokens_per_second: float, million_tokens: float, api: str, input_ratio: float, path) -> str:
    """What answering a month's tokens costs in each of `inference.ways`, the cheapest first."""
    found = inference.ways(gpu, tokens_per_second, api, input_ratio, path)
    costs = sorted((way.per_month(million_tokens), name) for name, way in found.items())
    return f"{million_tokens:g} million answer tokens a month: " + ", ".join(f"${x:,.2f} ({name})" for x, name in costs)


@dataclass(frozen=True)
class Question:
    """What the explorer begins with: a job and what is paid for it, and what is served.

    method, gpu: `all`, or one of them. tokens_per_second: at which a machine answers under load.
    """

    job: planner.Job
    method: str = "all"
    gpu: str = "all"
    deadline_hours: float = 12.0
    budget: float = 500.0
    utilisation: float = planner.UTILISATION
    tokens_per_second: float = 900.0
    million_tokens: float = 50.0
    input_ratio: float = 3.0
    api: str = "gpt-4.1-mini"
    prices_file: str | None = None

    def options(self) -> list[planner.Option]:
        """The options of `planner.rank` for these values."""
        methods = planner.METHODS if self.method == "all" else (self.method,)
        return planner.rank(
            self.job, self.deadline_hours, self.budget, methods, self.utilisation, self.prices_file, self.gpu
        )

    def serving(self, gpu: str) -> str:
        return serving_line(
            gpu, self.tokens_per_second, self.million_tokens, self.api, self.input_ratio, self.prices_file
        )


def explore(question: Question):
    """Sliders for model, method, length, batch, GPU, price and volume above the ranked options, as an ipywidget.

    Returns:
        The widget where there is a front end (see `widgets.interactive`); headless the table for the values of the
        question is printed, and None returned.

    Raises:
        ParameterError: as `planner.rank` and `inference.ways`.
    """
    options = question.options()
    if widgets.interactive():
        return _sliders(question)
    print(options_table(options).to_string(index=False))
    print(question.serving(options[0].gpu))
    return None


def _sliders(question: Question):
    import ipywidgets as w

    job, wide = question.job, {"style": {"description_width": "10em"}, "layout": {"width": "26em"}}
    rented = sorted({offer.gpu for offer in prices.offers(question.prices_file) if offer.kind != "active"})
    models = list(dict.fromkeys([job.model, *planner.Shape.names()]))
    batches = sorted({1, 2, 4, 8, 16, 32, 64, job.batch_rows})
    longest = max(8192, job.max_length)
    controls = {
        "model": w.Dropdown(options=models, value=job.model, description="model", **wide),
        "method": w.Dropdown(options=["all", *planner.METHODS], value=question.method, description="method", **wide),
        "gpu": w.Dropdown(options=["all", *rented], value=question.gpu, description="GPU", **wide),
        "rows": w.IntText(job.rows, description="rows", **wide),
        "max_length": w.IntSlider(
            job.max_length,
            min(64, job.max_length),
            longest,
            64,
            description="max_length",
            continuous_update=False,
            **wide,
        ),
        "batch_rows": w.SelectionSlider(options=batches, value=job.batch_rows, description="batch", **wide),
        "deadline_hours": w.FloatText(question.deadline_hours, description="deadline (h)", **wide),
        "budget": w.FloatText(question.budget, description="budget ($)", **wide),
        "tokens_per_second": w.FloatText(question.tokens_per_second, description="tokens/s", **wide),
        "million_tokens": w.FloatText(question.million_tokens, description="M tokens/month", **wide),
    }
    shown = w.HTML()
    of_the_job = ("model", "rows", "max_length", "batch_rows")

    def show(_=None) -> None:
        v = {name: control.value for name, control in controls.items()}
        average = job.tokens_per_row / job.max_length * v["max_length"]
        try:
            asked = replace(job, tokens_per_row=average, **{name: v.pop(name) for name in of_the_job})
            now = replace(question, job=asked, **v)
            options = now.options()
            shown.value = f"{options_table(options).to_html(index=False)}<p>{now.serving(options[0].gpu)}</p>"
        except NotebookError as error:
            shown.value = f"<p><b>{error}</b></p>"

    for control in controls.values():
        control.observe(show, "value")
    show()
    return w.VBox([w.HBox(list(controls.values()), layout={"flex_flow": "row wrap"}), shown])
