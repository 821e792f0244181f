"""The figures, tables and sliders of cost, and what the suite says of itself."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from nbhelpers.core import storage
from nbhelpers.core.errors import ParameterError
from nbhelpers.cost import inference, planner, project
from nbhelpers.models import published_memory
from nbhelpers.notebook import cost_plots, cost_widgets, forecasts, suite_map, widgets

JOB = planner.Job("Llama-3.1-8B", 10_000, 400, 1024)
QUESTION = cost_widgets.Question(JOB)


def test_headless_the_table_for_the_parameters_is_printed(capsys):
    assert cost_widgets.explore(replace(QUESTION, method="qlora", gpu="L4")) is None
    out = capsys.readouterr().out
    assert "L4" in out
    assert "H100" not in out
    assert "50 million answer tokens a month: $10.56 (L4, flex), $140.00 (gpt-4.1-mini), $341.64 (L4, active)" in out


def test_the_explorer_asks_what_the_notebook_asks():
    faster = replace(QUESTION, utilisation=0.7)
    assert faster.options()[0].hours == pytest.approx(QUESTION.options()[0].hours / 2)
    assert all(one.lost for one in replace(QUESTION, budget=0.01).options())
    with pytest.raises(ParameterError, match=r"'H900'.*L4"):
        cost_widgets.explore(replace(QUESTION, gpu="H900"))
    with pytest.raises(ParameterError, match=r"api='gpt-9'.*gpt-4\.1-mini"):
        cost_widgets.explore(replace(QUESTION, api="gpt-9"))


@pytest.mark.parametrize("job", [replace(JOB, batch_rows=24), replace(JOB, max_length=16_384)])
def test_the_sliders_begin_with_the_parameters_as_they_are(job, monkeypatch):
    monkeypatch.setattr(widgets, "interactive", lambda: True)
    controls, _ = cost_widgets.explore(replace(QUESTION, job=job)).children
    by_name = {control.description: control.value for control in controls.children}
    assert by_name["batch"] == job.batch_rows
    assert by_name["max_length"] == job.max_length


def test_a_slider_changes_the_table(monkeypatch):
    monkeypatch.setattr(widgets, "interactive", lambda: True)
    shown = cost_widgets.explore(QUESTION)
    controls, page = shown.children
    by_name = {control.description: control for control in controls.children}
    before = page.value
    by_name["max_length"].value = 8192
    assert page.value != before
    by_name["model"].value = "Llama-3.1-70B"
    assert "8 x" in page.value
    by_name["M tokens/month"].value = 500
    assert "500 million answer tokens" in page.value
    by_name["deadline (h)"].value = -1
    assert "deadline_hours=-1" in page.value


def test_every_figure_has_units_and_a_source():
    ranked = planner.rank(JOB, 12)
    figures = [
        cost_plots.plot_published(published_memory.rows()),
        cost_plots.plot_options(ranked),
        cost_plots.plot_break_even(inference.ways("H100", 900, "gpt-4.1-mini"), 80),
        cost_plots.plot_tornado({"a": (1, 5), "b": (2, 3)}, 2.5, "dollars"),
        cost_plots.plot_phases(project.phases(100)),
    ]
    for ax in figures:
        assert any(unit in ax.get_xlabel() for unit in ("GiB", "hours", "millions", "dollars"))
    for ax in figures:
        assert any("Source: " in text.get_text() for text in ax.texts)


def test_a_heat_map_says_no_where_it_does_not_fit_and_numbers_can_be_read_on_every_colour():
    shares = pd.DataFrame({"small": [0.1, 0.95], "large": [0.02, 1.01]}, index=["LoRA", "full"])
    ax = cost_plots.plot_heat_map(shares, "the memory of a GPU")
    written = [(text.get_text(), text.get_color()) for text in ax.texts]
    assert written[:4] == [("10%", "black"), ("2%", "black"), ("95%", "white"), ("no", "black")]
    assert ax.images[0].get_array().mask.tolist() == [[False, False], [False, True]]


def test_a_run_stands_before_the_reference(tmp_path):
    reference = forecasts.compared(tmp_path)
    assert set(reference["from"]) == {"reference"}
    assert {"02_peft_qlora", "03_full_fine_tuning"} <= set(reference["notebook"])
    own = tmp_path / "02_peft_qlora"
    own.mkdir()
    record = {
        "predicted": {"LoRA.seconds": 90.0, "LoRA.dollars": 1.0},
        "measured": {"LoRA.seconds": 100.0, "LoRA.dollars": 1.0},
    }
    (own / "metrics.json").write_text(json.dumps(record))
    mixed = forecasts.compared(tmp_path)
    first = mixed[mixed["notebook"] == "02_peft_qlora"]
    assert first[["training", "what", "from"]].values.tolist() == [["LoRA", "seconds", "this run"]]
    assert first["error"].item() == pytest.approx(-0.1)


def test_the_map_names_every_notebook_with_its_question():
    table = suite_map.suite_map()
    assert len(table) == len(list((storage.repository_root() / "notebooks").glob("[0-9]*.ipynb")))
    assert table["question"].str.endswith("?").all()
