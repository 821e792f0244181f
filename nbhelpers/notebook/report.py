"""One HTML page a run. It opens with what was found; then, for each notebook, numbers, figures and circumstances."""

import base64
import contextlib
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nbhelpers.core import progress, storage
from nbhelpers.core.errors import NotebookError
from nbhelpers.notebook import notebook_file, notebook_page
from nbhelpers.notebook.page import page
from nbhelpers.notebook.run_folder import NotebookRun, notebooks_of, without_folders, write_results
from nbhelpers.notebook.verdicts import is_difference, verdict

CURRENCIES = {"dollars", "usd", "$"}
COST = "Cost: the time at the price of the profile's machine, in data/gpu_prices.csv."
IDLE = 0.3  # a GPU that is busy less than this share of the time is marked


def quantity(value: float | None, unit: str = "", name: str = "", digits: int = 4) -> str:
    """A number for reading: bytes as MiB or GiB, seconds as minutes, dollars; the unit may be the end of the name."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    unit = unit or name.rpartition("_")[2]
    if unit == "bytes":
        return f"{value / 2**30:.2f} GiB" if abs(value) >= 2**30 else f"{value / 2**20:.1f} MiB"
    if unit in ("seconds", "s"):
        return progress.duration(value)
    if unit in CURRENCIES:
        return f"${value:.2f}" if abs(value) >= 1 else f"${value:.4f}"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.{digits}g}"


def describe(result: dict[str, Any]) -> str:
    """One line about an entry of suite.json: status, notebook, time and, where it failed, the cell and the reason."""
    cell, reason = result["cell"], " ".join((result["reason"] or "").split())
    place = f"cell {cell['index']} ({cell['id']}) {cell['source']}" if cell else ""
    details = ": ".join(part if len(part) < 300 else part[:300] + "…" for part in (place, reason) if part)
    name = notebook_file.name_at(result.get("point"), result["notebook"])
    return f"{result['status']:<11}  {name}  {_time(result)}  {details}".rstrip()


def _time(result: dict[str, Any]) -> str:
    """What a notebook took, beside what was forecast while it ran."""
    forecast = result.get("forecast_seconds")
    expected = "" if forecast is None else f" (forecast {progress.duration(forecast)} after a quarter)"
    return progress.duration(result["seconds"]) + expected


def _table(heads: list[str], rows: list[list], sortable: bool = False) -> str:
    """A table; a cell is a text, or `(HTML, value to sort by)`. A phone shows a row as a block."""
    buttons = [f'<button type="button">{escape(head)}</button>' if sortable else escape(head) for head in heads]
    texts = [" class='text'" if name == "claim" else "" for name in heads]
    head = "".join(f"<th{kind}>{button}</th>" for kind, button in zip(texts, buttons, strict=True))
    body = ""
    for row in rows:
        body += "<tr>"
        for name, kind, cell in zip(heads, texts, row, strict=True):
            html, key = cell if isinstance(cell, tuple) else (escape(cell), None)
            sort = "" if key is None else f' data-sort="{escape(str(key), quote=True)}"'
            body += f'<td data-label="{escape(name, quote=True)}"{sort}{kind}>{html}</td>'
        body += "</tr>"
    kind = "blocks sortable" if sortable else "blocks"
    return f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _results(metrics: dict[str, Any]) -> str:
    """The table of the metrics of one notebook; the arrow says which way is better."""
    rows = []
    for name, entry in metrics.items():
        unit = entry.get("unit") or ""
        arrow = "↑" if entry.get("higher_is_better", True) else "↓"
        baseline = quantity(entry.get("baseline"), unit, name)
        rows.append([f"{name} {arrow}", _value(name, entry, 4), baseline, quantity(entry.get("n")), unit or "–"])
    heads = ["metric, ↑ or ↓ is better", "value [95 % interval]", "baseline", "n", "unit"]
    title = f"<summary>All {len(rows)} results</summary>"
    return f"<details>{title}{_table(heads, rows, sortable=True)}</details>" if rows else ""


def _value(name: str, entry: dict[str, Any], digits: int = 3) -> str:
    """A value with its interval, where it has one. A difference has a sign: it is no score."""
    found = [entry.get(key) for key in ("value", "low", "high")]
    signed = is_difference(name, entry)
    signs = ["+" if signed and isinstance(number, int | float) and number > 0 else "" for number in found]
    texts = [quantity(number, entry.get("unit") or "", name, digits) for number in found]
    value, low, high = map("".join, zip(signs, texts, strict=True))
    return value if None in found[1:] else f"{value} [{low}, {high}]"


def _overview(runs: list[NotebookRun]) -> str:
    """What the reader came for: of each notebook the claim, its value, the verdict, time and dollars."""
    names = sorted({name for run in runs for name in run.changed})
    differing = [name for name in names if len({str(run.parameter(name)) for run in runs}) > 1]
    rows = []
    for run in runs:
        text, name, entry = run.claim or ("", "", {})
        state = run.status if run.status != "completed" else verdict(name, entry)
        mark = f'<span class="status {escape(state.split()[0], quote=True)}">{escape(state)}</span>' if state else "–"
        link = f'<a href="#{escape(quote(run.name), quote=True)}">{escape(run.name)}</a>'
        seconds, dollars = run.result["seconds"], run.dollars
        value = f"{escape(_value(name, entry))}<br><small>{escape(name)}</small>" if entry else "–"
        rows.append([
            (link, run.name),
            *(str(run.parameter(parameter)) for parameter in differing),
            text or "–",
            (value, entry.get("value", "")),
            (mark, state),
            (progress.duration(seconds) if seconds else "–", seconds),
            (quantity(dollars, "dollars"), "" if dollars is None else dollars),
        ])  # fmt: skip
    heads = ["notebook", *differing, "claim", "value [95 % interval]", "verdict", "time", "cost"]
    said = "Better and worse: the whole interval lies on one side of the baseline, or of no change."
    return f"<section>{_table(heads, rows, sortable=True)}<p class='soft'>{said} {COST}</p></section>"


def _predictions(predicted: dict[str, float], measured: dict[str, float]) -> str:
    """Predicted beside measured; the error is (predicted − measured) / measured."""
    rows = []
    for name in predicted | measured:
        guess, fact = predicted.get(name), measured.get(name)
        known = guess is not None and fact not in (None, 0)
        error = f"{100 * (guess - fact) / fact:+.1f} %" if known else "–"
        rows.append([name, quantity(guess, name=name), quantity(fact, name=name), error])
    heads = ["quantity", "predicted", "measured", "error of the prediction"]
    return "<h3>Predicted and measured</h3>" + _table(heads, rows) if rows else ""


def _figures(folder: Path) -> str:
    """The notebook's figures, each inside the page as base64, with what `Run.save_figure` says of it."""
    parts = []
    for path in sorted(folder.glob("figures/*.png")):
        name, data = escape(path.stem.replace("_", " ")), base64.b64encode(path.read_bytes()).decode()
        name += ": committed results of a study, not of this run" if path.stem == "study" else ""
        alt = escape(notebook_page.figure_description(path), quote=True)
        image = f'<img alt="{alt}" src="data:image/png;base64,{data}">'
        parts.append(f"<figure>{image}<figcaption>{name}</figcaption></figure>")
    return "<h3>Figures</h3>" + "".join(parts) if parts else ""


def _circumstances(manifest: dict[str, Any]) -> str:
    """A closed details element: profile, parameters, commit, hardware and versions."""
    facts: dict[str, Any] = {key: manifest[key] for key in ("started_at", "commit", "dtype") if manifest.get(key)}
    resolved, machine = manifest.get("resolved") or {}, manifest.get("hardware") or {}
    shown = ("profile", "model_id", "dataset", "seed", "study")
    facts |= {key: without_folders(resolved[key]) for key in shown if key in resolved}
    facts |= {key: quantity(x, "bytes") if key.endswith("memory") else x for key, x in machine.items() if x}
    facts |= manifest.get("versions") or {}
    rows = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items())
    return f"<details><summary>Profile, hardware and versions</summary><dl>{rows}</dl></details>" if rows else ""


def _usage(result: dict[str, Any], machine: dict[str, Any]) -> list[str]:
    """What the notebook's processes used, and what stood idle."""
    said = []
    if result.get("peak_memory_bytes"):
        said.append(escape(f"peak {quantity(result['peak_memory_bytes'], 'bytes')}"))
    cores, gpu = result.get("cores_used"), result.get("gpu_used")
    if cores is not None:
        said.append(escape(f"{cores:.1f} of {machine.get('cores', '?')} cores busy"))
    if gpu is not None:
        text = escape(f"GPU {gpu:.0%} busy")
        said.append(f'<span class="status idle">{text}</span>' if gpu < IDLE else text)
    return said


def _section(run: NotebookRun) -> str:
    """One notebook: how it ended, what it measured, its figures and what it ran on."""
    result, status, cell = run.result, run.status, run.result["cell"]
    resolved, machine = run.manifest.get("resolved") or {}, run.manifest.get("hardware") or {}
    notes = [escape(str(resolved["profile"]))] if resolved.get("profile") else []
    notes += [_time(result)] if result["seconds"] else []
    notes += _usage(result, machine)
    for suffix, text in ((".html", "read it"), (".ipynb", "notebook")):
        if (run.folder / f"{result['notebook']}{suffix}").exists():
            link = escape(quote(f"{run.name}/{result['notebook']}{suffix}"), quote=True)
            notes.append(f'<a href="{link}">{text}</a>')
    state = f'<span class="status {escape(status.split()[0], quote=True)}">{escape(status)}</span>'
    identity = escape(quote(run.name), quote=True)
    parts = [f'<div class="title" id="{identity}"><h2>{escape(run.name)}</h2>{state}']
    parts.append(f'<span class="soft">{" · ".join(notes)}</span></div>')
    if result["reason"]:
        place = f"Cell {escape(str(cell['index']))} <code>{escape(cell['source'])}</code>\n" if cell else ""
        parts.append(f'<p class="reason">{place}{escape(result["reason"])}</p>')
    if run.claim:
        text, name, entry = run.claim
        parts.append(f"<p>{escape(text)} <strong>{escape(_value(name, entry))}</strong> ({escape(name)})</p>")
    if run.changed:
        own = run.manifest["declared"]
        said = ", ".join(f"{name}: {own[name]!r} → {value!r}" for name, value in run.changed.items())
        parts.append(f"<p class='soft'>Changed from the notebook's own parameters: {escape(said)}</p>")
    parts += [_results(run.entries)]
    parts += [_predictions(run.metrics.get("predicted") or {}, run.metrics.get("measured") or {})]
    return f"<section>{''.join(parts)}{_figures(run.folder)}{_circumstances(run.manifest)}</section>"


def _shown(make: Callable[[Any], str], what) -> str:
    """A part of the page; one whose numbers or files are damaged says so and spares the others."""
    try:
        return make(what)
    except Exception as error:
        name = what.name if isinstance(what, NotebookRun) else "overview"
        said = escape(f"{name} cannot be shown: {type(error).__name__}: {error}")
        place = escape(quote(name), quote=True)
        return f'<section id="{place}"><p class="reason">{said}</p></section>'


def write_index(run_folder: str | Path) -> Path:
    """Write `index.html`, `results.csv` and each executed notebook as HTML into a run's folder; return the page.

    Raises:
        NotebookError: the folder holds no notebook's results.
    """
    folder = Path(run_folder)
    runs = notebooks_of(folder)
    if not runs:
        raise NotebookError(f"{folder} holds no run: it has neither a suite.json nor a notebook's manifest.json.")
    for run in runs:
        path = run.folder / f"{run.result['notebook']}.ipynb"
        if notebook_file.is_notebook(path):
            with contextlib.suppress(Exception):  # a page that cannot be made is not linked
                notebook_page.write_html(path)
    write_results(folder, runs)
    completed = sum(run.status == "completed" for run in runs)
    total = progress.duration(sum(run.result["seconds"] for run in runs))
    if any(run.dollars for run in runs):
        total += f" · {quantity(sum(run.dollars or 0 for run in runs), 'dollars')}"
    title = f"Run {folder.resolve().name}"
    body = f"""<header>
<h1>{escape(title)}</h1>
<p class="soft">{completed} of {len(runs)} notebooks completed · {total} · <a href="results.csv">results.csv</a></p>
</header>
{_shown(_overview, runs)}
{"".join(_shown(_section, run) for run in runs)}"""
    path = folder / "index.html"
    with storage.replaced(path) as file:
        file.write(page(title, body))
    return path
