"""An executed notebook as HTML: formulas, figures and code without a network."""

import json
import re

import matplotlib.pyplot as plt
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nbhelpers.core import storage
from nbhelpers.notebook import notebook_page


@pytest.mark.parametrize(
    ("markdown", "formulas"),
    [
        ("The rate $\\eta$ and $i+1$.", 2),
        ("$$\\frac{a}{b}$$", 1),
        ("It costs $2 per million, not $3.", 0),
        ("`$x$` is code, ```\n$y$\n``` too, $z$ is not", 1),
        ("5\\$ and 6$", 0),
        ("$x^$ and $\\begin{aligned} a$", 0),
    ],
)
def test_formulas_become_mathml_and_prices_stay(markdown, formulas):
    html = notebook_page.with_formulas(markdown)
    assert html.count("<math") == formulas
    if not formulas:
        assert html == markdown


def test_the_page_asks_for_nothing_and_describes_its_figures(tmp_path):
    cells = [
        new_markdown_cell("# How well?\n\nLook at $x^2$."),
        new_markdown_cell("## What it cost\n\nThe *loss* falls. Then it stays."),
        new_code_cell("plot()", outputs=[new_output("display_data", data={"image/png": "iVBORw0KGgo="}),
                                         new_output("stream", name="stdout", text="one\n"),
                                         new_output("stream", name="stdout", text="two\n")]),
    ]  # fmt: skip
    path = tmp_path / "01_a.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    html = notebook_page.write_html(path).read_text()
    assert 'alt="Figure: What it cost: The loss falls."' in html
    assert "<title>How well?</title>" in html
    assert re.search(r"one\s+two", html), "what a cell prints is one block"
    assert "<math" in html
    assert not re.search(r"(src|href)=.(?!data:|#)", html)
    assert html.count("<script>") == 1


def test_two_figures_of_a_cell_have_a_text_each(tmp_path):
    image = new_output("display_data", data={"image/png": "iVBORw0KGgo="})
    source = 'run.save_figure(one.figure, "first")\nrun.save_figure(plot(a, b=2).figure, "second")'
    cells = [new_markdown_cell("What it cost."), new_code_cell(source, outputs=[image, image])]
    path = tmp_path / "01_a.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    (tmp_path / "figures").mkdir()
    for name in ("first", "second"):
        figure, ax = plt.subplots()
        ax.set(xlabel=f"{name} x")
        figure.savefig(tmp_path / "figures" / f"{name}.png", metadata={"Description": f"{name} x"})
        plt.close(figure)
    html = notebook_page.write_html(path).read_text()
    assert re.findall('alt="(.*?)"', html) == [f"Figure: What it cost. It shows {n} x." for n in ("first", "second")]
    (tmp_path / "figures" / "second.png").unlink()
    assert re.findall('alt="(.*?)"', notebook_page.write_html(path).read_text()) == ["Figure: What it cost."] * 2


def test_the_picture_of_the_readme_shows_the_committed_reference(monkeypatch):
    monkeypatch.syspath_prepend(str(storage.repository_root() / "benchmarks"))
    import picture

    assert json.loads(notebook_page.figure_description(picture.PICTURE)) == picture.shown()


def test_markup_of_an_output_is_held_by_the_policy(tmp_path):
    evil = new_output("display_data", data={"text/html": "<script>alert(1)</script>"})
    path = tmp_path / "01_a.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("show()", outputs=[evil])]), path)
    html = notebook_page.write_html(path).read_text()
    assert "script-src 'sha256-" in html.partition("<title>")[0]
