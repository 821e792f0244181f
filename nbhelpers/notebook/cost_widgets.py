"""Sliders over the planner where somebody can move them; headless, the table for the parameters."""

from nbhelpers.core.errors import NotebookError
from nbhelpers.cost import inference, planner, prices
from nbhelpers.models.shape import Shape
from nbhelpers.notebook import widgets


def options_table(options: list[planner.Option], count: int = 12):
    """A `pandas.DataFrame` of the first `count` options of `planner.rank`, with why each is not the first."""
    import pandas as pd

    rows = [
        {
            "GPU": one.gpu, "offer": one.offer, "method": one.method, "rows at once": one.micro_batch,
            "checkpointing": "yes" if one.gradient_checkpointing else "no",
            "peak (GiB)": f"{one.peak_bytes / 2**30:.1f}", "hours": f"{one.hours:.2f}",
            "dollars": f"{one.dollars:.2f}", "why not": one.lost or "the cheapest that does it",
        }
        for one in options[:count]
    ]  # fmt: skip
    return pd.DataFrame(rows)


def serving_line(dollars_per_hour: float, tokens_per_second: float, million_tokens: float, api: str) -> str:
    """What answering a month's tokens costs on a machine of one's own, and by the token."""
    own = inference.self_hosted(dollars_per_hour, tokens_per_second) * million_tokens
    seconds = million_tokens * 1e6 / tokens_per_second
    bought = inference.api_prices()[api].output_per_million * million_tokens
    return (
        f"{million_tokens:g} million answer tokens a month: ${own:,.2f} self-hosted ({seconds / 3600:,.0f} busy hours "
        f"at {tokens_per_second:g} tokens/s), ${bought:,.2f} from {api}"
    )


def explore(
    job: planner.Job, method: str, gpu: str, deadline_hours: float, dollars_per_hour: float,
    tokens_per_second: float, million_tokens: float, api: str = "gpt-4.1-mini",
):  # fmt: skip
    """Sliders for model, method, length, batch, GPU, price and volume above the ranked options, as an ipywidget.

    Args:
        job: what the sliders begin with.
        method: `full`, `lora`, `qlora`, or `all`.
        gpu: a name of data/gpus.csv, or `all`.
        tokens_per_second: at which the model answers, such as notebook 06 measured.

    Returns:
        The widget where there is a front end (see `widgets.interactive`); headless the table for the parameters is
        printed, and None returned.
    """
    if not widgets.interactive():
        print(_table(job, method, gpu, deadline_hours).to_string(index=False))
        print(serving_line(dollars_per_hour, tokens_per_second, million_tokens, api))
        return None
    return _sliders(job, method, gpu, deadline_hours, dollars_per_hour, tokens_per_second, million_tokens, api)


def _table(job: planner.Job, method: str, gpu: str, deadline_hours: float):
    methods = planner.METHODS if method == "all" else (method,)
    options = planner.rank(job, deadline_hours, methods=methods)
    return options_table([one for one in options if gpu in ("all", one.gpu)])


def _sliders(job, method, gpu, deadline_hours, dollars_per_hour, tokens_per_second, million_tokens, api):
    import ipywidgets as w

    wide = {"style": {"description_width": "8em"}, "layout": {"width": "24em"}}
    controls = {
        "model": w.Dropdown(options=Shape.names(), value=job.model, description="model", **wide),
        "method": w.Dropdown(options=["all", *planner.METHODS], value=method, description="method", **wide),
        "gpu": w.Dropdown(options=["all", *prices.gpus()], value=gpu, description="GPU", **wide),
        "rows": w.IntText(job.rows, description="rows", **wide),
        "length": w.IntSlider(job.max_length, 64, 8192, 64, description="max_length", continuous_update=False, **wide),
        "batch": w.SelectionSlider(options=[1, 2, 4, 8, 16, 32, 64], value=job.batch_rows, description="batch", **wide),
        "deadline": w.FloatText(deadline_hours, description="deadline (h)", **wide),
        "price": w.FloatText(dollars_per_hour, description="$/h, serving", **wide),
        "rate": w.FloatText(tokens_per_second, description="tokens/s", **wide),
        "volume": w.FloatText(million_tokens, description="M tokens/month", **wide),
    }
    shown = w.HTML()

    def show(_=None) -> None:
        v = {name: control.value for name, control in controls.items()}
        average = job.tokens_per_row / job.max_length
        asked = planner.Job(
            v["model"], v["rows"], average * v["length"], v["length"], job.epochs, v["batch"], job.lora_rank
        )
        try:
            table = _table(asked, v["method"], v["gpu"], v["deadline"]).to_html(index=False)
            shown.value = table + f"<p>{serving_line(v['price'], v['rate'], v['volume'], api)}</p>"
        except NotebookError as error:
            shown.value = f"<p><b>{error}</b></p>"

    for control in controls.values():
        control.observe(show, "value")
    show()
    return w.VBox([w.HBox(list(controls.values()), layout={"flex_flow": "row wrap"}), shown])
