"""The HTML page of a run: everything escaped, figures inside, nothing asked from outside."""

import base64
import csv
import hashlib
import re
from html.parser import HTMLParser

import pytest

from nbhelpers.core import storage
from nbhelpers.core.errors import NotebookError
from nbhelpers.notebook import report, run_folder, verdicts
from nbhelpers.notebook.command_line import main
from nbhelpers.notebook.page import SCRIPT

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
EVIL = "<script>alert('x')</script>\" onload=\"alert(1)"


class Page(HTMLParser):
    """Collects the tags with their attributes and the text between them."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def entry(notebook: str, status: str = "completed", reason=None, cell=None, seconds: float = 61.0) -> dict:
    return {"notebook": notebook, "status": status, "reason": reason, "cell": cell, "seconds": seconds, "exit_code": 0}


@pytest.fixture
def folder(tmp_path):
    """A run with a completed, a failed and a hand-run notebook, with hostile text in every place that takes text."""
    good = tmp_path / "01_good"
    metrics = {
        "rouge_l": {"value": 0.25, "low": 0.2, "high": 0.3, "n": 40, "baseline": 0.125, "unit": ""},
        "disk": {"value": 3 * 2**20, "unit": "bytes", "higher_is_better": False, "low": None, "high": None},
        EVIL: {"value": 1.0, "unit": EVIL},
    }
    predicted = {"peak_memory_bytes": 3 * 2**30, "seconds": 90.0, "dollars": 0.5}
    measured = {"peak_memory_bytes": 2 * 2**30, "seconds": 100.0, "notebook_seconds": 130.0}
    claim = {"text": f"It learns. {EVIL}", "metric": "rouge_l"}
    content = {"status": "completed", "claim": claim, "metrics": metrics, "predicted": predicted, "measured": measured}
    storage.write_json(good / "metrics.json", content)
    manifest = {"versions": {"torch": EVIL}, "commit": "abc123", "resolved": {"profile": "cpu"}}
    storage.write_json(good / "manifest.json", manifest | {"hardware": {"cpu": "Two cores", "memory": 8 * 2**30}})
    (good / "01_good.ipynb").write_text("{}")
    (good / "figures").mkdir()
    (good / "figures" / 'loss"><script>.png').write_bytes(PNG)
    cell = {"index": 4, "id": "abcd", "source": EVIL}
    entries = [entry("01_good"), entry("02_bad", "failed", f"ValueError: {EVIL}", cell)]
    storage.write_json(tmp_path / "suite.json", entries)
    storage.write_json(tmp_path / "03_by_hand" / "manifest.json", {})
    return tmp_path


def test_the_page_escapes_everything_and_asks_for_nothing(folder):
    html = report.write_index(folder).read_text()
    page = Page(html)
    assert [tag for tag, _ in page.tags].count("script") == 1  # our own, which the policy names by its hash
    assert f"<script>{SCRIPT}</script>" in html
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    (policy,) = [attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes]
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{digest}'" in policy
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    shown = "<script>alert('x')</script>"
    assert page.text.count(shown) == 7  # claim, above and in its section, reason, cell, metric, unit, version
    addresses = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")]
    assert addresses
    links = {value for value in addresses if not value.startswith("data:image/png;base64,")}
    assert links == {"01_good/01_good.ipynb", "results.csv", "#01_good", "#02_bad", "#03_by_hand"}
    assert {f"#{attributes['id']}" for _, attributes in page.tags if "id" in attributes} == links & {
        "#01_good",
        "#02_bad",
        "#03_by_hand",
    }
    assert "link" not in {tag for tag, _ in page.tags}
    assert "url(" not in html
    assert "@import" not in html
    assert not re.search(r"https?://", html)


def test_figures_are_inside(folder):
    page = Page(report.write_index(folder).read_text())
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    assert base64.b64decode(image["src"].partition("base64,")[2]) == PNG
    assert image["alt"] == 'loss"><script>'


def test_every_notebook_is_there_with_its_state(folder):
    page = Page(report.write_index(folder).read_text())
    assert "1 of 3 notebooks completed" in page.text
    statuses = [attributes["class"] for tag, attributes in page.tags if "status" in attributes.get("class", "")]
    assert statuses == [
        "status better",
        "status failed",
        "status not",
        "status completed",
        "status failed",
        "status not",
    ]
    for text in ("03_by_hand", "Cell 4", "abc123", "8.00 GiB", "1 min 01 s"):
        assert text in page.text


def cells_of(page: str, head: str) -> dict[str, list[str]]:
    """The rows of the table behind a heading, by their first cell."""
    table = re.search(rf"<(?:h3|summary)>{head}</.*?</table>", page, re.S).group()
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>.*?</tr>", table)]
    return {row[0]: row[1:] for row in rows if row}


def test_numbers(folder):
    html = report.write_index(folder).read_text()
    results = cells_of(html, "All 3 results")
    assert results["rouge_l ↑"] == ["0.25 [0.2, 0.3]", "0.125", "40", "–"]
    assert results["disk ↓"] == ["3.0 MiB", "–", "–", "bytes"]
    predictions = cells_of(html, "Predicted and measured")
    assert predictions["peak_memory_bytes"] == ["3.00 GiB", "2.00 GiB", "+50.0 %"]
    assert predictions["seconds"] == ["1 min 30 s", "1 min 40 s", "-10.0 %"]
    assert predictions["dollars"] == ["$0.5000", "–", "–"]
    assert predictions["notebook_seconds"] == ["–", "2 min 10 s", "–"]


@pytest.mark.parametrize(
    ("value", "unit", "name", "text"),
    [
        (0.0, "", "", "0"),
        (12345.6, "tokens/s", "", "12,346"),
        (1.5, "dollars", "", "$1.50"),
        (59.7, "seconds", "", "1 min 00 s"),
        (3725, "", "train_seconds", "1 h 02 min"),
        (9.96, "", "seconds", "10 s"),
        (0.012, "seconds", "", "0.012 s"),
        (100, "", "n_rows", "100"),
        (None, "bytes", "", "–"),
    ],
)
def test_quantity(value, unit, name, text):
    assert report.quantity(value, unit, name) == text


def test_describe_is_one_line():
    cell = {"index": 3, "id": "ab", "source": "train(trainer)"}
    line = report.describe(entry("02_bad", "failed", "ParameterError: these are wrong:\n  - seed", cell))
    assert (
        line == "failed       02_bad  1 min 01 s  cell 3 (ab) train(trainer): ParameterError: these are wrong: - seed"
    )
    assert report.describe(entry("01_good")) == "completed    01_good  1 min 01 s"
    told = report.describe(entry("01_good") | {"forecast_seconds": 70.0})
    assert told == "completed    01_good  1 min 01 s (forecast 1 min 10 s after a quarter)"


def test_a_figure_of_a_study_is_told_from_those_of_the_run(folder):
    (folder / "01_good" / "figures" / "study.png").write_bytes(PNG)
    html = report.write_index(folder).read_text()
    assert "<figcaption>study: committed results of a study, not of this run</figcaption>" in html
    assert html.count("not of this run") == 1


def test_what_was_changed_and_what_it_cost_stand_on_the_page(folder):
    manifest = storage.read_json(folder / "01_good" / "manifest.json")
    manifest |= {"declared": {"lora_rank": 8}, "parameters": {"lora_rank": 64}}
    manifest["resolved"] |= {"price": "cpu-2-cores"}
    storage.write_json(folder / "01_good" / "manifest.json", manifest)
    (run, *_) = run_folder.notebooks_of(folder)
    html = report.write_index(folder).read_text()
    assert "Changed from the notebook's own parameters: lora_rank: 8 → 64" in html
    assert run.dollars > 0
    assert f" · {report.quantity(run.dollars, 'dollars')} · " in html[: html.index("</header>")]


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    with pytest.raises(NotebookError, match="holds no run"):
        report.write_index(tmp_path)
    assert not (tmp_path / "index.html").exists()
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_the_report_command_prints_the_page(folder, capsys):
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "index.html")


def test_the_claim_stands_with_the_metric_that_bears_it_out(folder):
    page = report.write_index(folder).read_text()
    assert "0.25 [0.2, 0.3]" in page
    assert "It learns." in Page(page).text
    gone = run_folder.NotebookRun(folder, {}, {"claim": {"text": "x", "metric": "gone"}, "metrics": {}}, {})
    assert gone.claim is None


@pytest.mark.parametrize(
    ("name", "entry", "expected"),
    [
        ("DPO over SFT", {"low": 0.01, "high": 0.2}, "better"),
        ("DPO over SFT", {"low": -0.01, "high": 0.2}, "no difference"),
        ("DPO over SFT", {"low": -0.2, "high": -0.1}, "worse"),
        ("int8.loss_rise", {"low": 0.1, "high": 0.2, "higher_is_better": False}, "worse"),
        ("rouge", {"low": 0.3, "high": 0.4, "baseline": 0.2}, "better"),
        ("rouge", {"low": 0.3, "high": 0.4}, ""),
        ("DPO over SFT", {"low": None, "high": None, "baseline": 0.0}, ""),
    ],
)
def test_the_verdict_is_the_interval_against_the_baseline(name, entry, expected):
    assert verdicts.verdict(name, entry) == expected


def test_a_difference_has_a_sign_and_a_score_has_none(tmp_path):
    gain = {"value": 0.12, "low": -0.01, "high": 0.25, "n": 9}
    metrics = {"DPO over SFT": gain, "DPO.proxy_gain": gain | {"low": None}, "rouge_l": gain}
    storage.write_json(tmp_path / "01_a" / "metrics.json", {"status": "completed", "metrics": metrics})
    storage.write_json(tmp_path / "suite.json", [entry("01_a")])
    page = report.write_index(tmp_path).read_text()
    assert "+0.12 [-0.01, +0.25]" in page
    assert ">+0.12<" in page
    assert ">0.12 [-0.01, 0.25]<" in page


def test_the_table_of_results_has_a_line_for_each_metric(folder):
    report.write_index(folder)
    with open(folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["notebook"], row["status"]) for row in rows] == [
        *[("01_good", "completed")] * 3, ("02_bad", "failed"), ("03_by_hand", "not finished")
    ]  # fmt: skip
    assert (rows[0]["metric"], rows[0]["value"], rows[0]["low"], rows[0]["verdict"]) == (
        "rouge_l",
        "0.25",
        "0.2",
        "better",
    )


def test_the_points_of_a_sweep_are_told_apart_by_what_differs(tmp_path):
    entries = []
    for rank in (8, 16):
        point = f"lora_rank-{rank}"
        own = {"lora_rank": 8, "run_id": "a", "seed": 0}  # the notebook's own value is shown too
        manifest = {"declared": own, "parameters": own | {"lora_rank": rank, "run_id": point}}
        storage.write_json(tmp_path / point / "02_a" / "manifest.json", manifest)
        storage.write_json(tmp_path / point / "02_a" / "metrics.json", {"status": "completed", "metrics": {}})
        entries.append(entry("02_a") | {"point": point, "gpu_used": 0.1, "peak_memory_bytes": 2**31, "cores_used": 1.5})
    storage.write_json(tmp_path / "suite.json", entries)
    html = report.write_index(tmp_path).read_text()
    assert re.findall(r'data-label="lora_rank">(\d+)<', html) == ["16", "8"]  # by name
    assert 'data-label="seed"' not in html
    assert '<span class="status idle">GPU 10% busy</span>' in html
    assert "peak 2.00 GiB · 1.5 of ? cores busy" in html


def test_a_figure_says_what_its_axes_show(folder, tmp_path):
    from matplotlib.figure import Figure

    from nbhelpers.core.run import Run

    figure = Figure()
    ax = figure.add_subplot()
    ax.set(title="Loss", xlabel="step", ylabel="nats a token")
    run = Run("01_good", None, None, None, "float32", folder / "01_good", {})
    run.save_figure(figure, "named")
    page = Page(report.write_index(folder).read_text())
    assert "Loss: nats a token against step" in [attributes["alt"] for tag, attributes in page.tags if tag == "img"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics.json", '{"status": "completed", "metrics": [1]}'),
        ("metrics.json", '{"status": "completed", "metrics": {"loss": 0.5}, "claim": "words"}'),
        ("metrics.json", '{"status": "completed", "metrics": {"loss": {"value": 1, "low": "a", "high": "b"}}}'),
        ("metrics.json", '{"status": "completed", "measured": {"seconds": "many"}, "predicted": {"seconds": 1}}'),
        ("figures/cut.png", "no picture"),
        (
            "01_good.ipynb",
            '{"nbformat": 4, "metadata": {}, "cells": [{"cell_type": "code", "source": 3, "metadata": {}}]}',
        ),
    ],
)
def test_one_damaged_file_spares_the_rest_of_the_page(folder, file, content):
    (folder / "01_good" / file).write_text(content)
    page = Page(report.write_index(folder).read_text())
    assert "ValueError" in page.text  # of 02_bad
    assert (folder / "results.csv").exists()


def test_a_run_whose_results_are_gone_is_not_called_completed(folder):
    (folder / "01_good" / "metrics.json").unlink()
    page = Page(report.write_index(folder).read_text())
    assert "0 of 3 notebooks completed" in page.text
    assert "its metrics.json is missing or not completed" in page.text


def test_half_a_character_in_a_reason_is_shown_as_its_number(folder):
    storage.write_json(folder / "suite.json", [entry("02_bad", "failed", "before \udcff after")])
    assert "before \\udcff after" in report.write_index(folder).read_text()
