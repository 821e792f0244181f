"""One HTML page a run: what completed, what it measured beside what was predicted, its figures.

The page asks for nothing outside itself: styles and figures are inside, so it can be mailed or kept as it is.
"""

import base64
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nbhelpers.core import progress
from nbhelpers.core.errors import NotebookError
from nbhelpers.core.storage import read_json

CURRENCIES = {"dollars", "usd", "$"}
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # the browser holds the page to its promise
STYLE = """
:root { color-scheme: light dark; --page: #f6f6f3; --card: #fff; --text: #24282c; --soft: #62686e; --line: #e3e3de;
  --link: #2a5d8f; --good: #2c6e49; --good-back: #e4f0e8; --bad: #9c3528; --bad-back: #f8e7e3; --code: #f1f1ed; }
@media (prefers-color-scheme: dark) {
  :root { --page: #17191b; --card: #1f2225; --text: #dcdfe1; --soft: #989ea4; --line: #33383c; --link: #8ab6e0;
    --good: #8ccba6; --good-back: #21382b; --bad: #eaa196; --bad-back: #422722; --code: #282c30; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 2.5rem 1rem 4rem; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 58rem; margin: 0 auto; }
h1 { font-size: 1.65rem; font-weight: 600; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; font-weight: 600; margin: 0; overflow-wrap: anywhere; }
h3 { font-size: .8rem; font-weight: 600; color: var(--soft); letter-spacing: .03em; margin: 1.5rem 0 .4rem; }
a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: .15em; }
p { margin: .5rem 0; }
.soft, th, dt, summary { color: var(--soft); }
header { margin-bottom: 1.75rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1.25rem 1.5rem;
  margin-top: 1.25rem; }
.title { display: flex; flex-wrap: wrap; gap: .35rem .8rem; align-items: center; }
.title .soft { margin-left: auto; font-size: .9rem; }
.status { font-size: .8rem; padding: .1rem .6rem; border-radius: 1rem; background: var(--code); color: var(--soft); }
.completed { background: var(--good-back); color: var(--good); }
.failed, .interrupted { background: var(--bad-back); color: var(--bad); }
.reason { border-left: 3px solid var(--bad); padding: .1rem 0 .1rem .9rem; margin: 1rem 0; overflow-wrap: anywhere;
  white-space: pre-wrap; }
code { font: .86em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: var(--code);
  padding: .1em .35em; border-radius: 4px; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 500; font-size: .84rem; }
td:first-child, th:first-child { text-align: left; padding-left: 0; }
td:last-child, th:last-child { padding-right: 0; }
tr:last-child td { border-bottom: 0; }
figure { margin: 1rem 0 0; }
figcaption { font-size: .86rem; color: var(--soft); margin-top: .3rem; }
img { max-width: 100%; height: auto; display: block; background: #fff; border-radius: 6px; }
details { margin-top: 1.25rem; font-size: .9rem; }
summary { cursor: pointer; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.1rem; margin: .6rem 0 0; }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 36rem) {
  body { padding: 1.25rem .6rem 2.5rem; }
  section { padding: 1rem; }
  .title .soft { margin-left: 0; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .4rem; }
  table, tbody, tr { display: block; } thead { display: none; }
  tr { padding: .5rem 0; border-bottom: 1px solid var(--line); } tr:last-child { border-bottom: 0; }
  td { display: flex; justify-content: space-between; gap: 1rem; padding: .1rem 0; border: 0; white-space: normal; }
  td:first-child { font-weight: 500; overflow-wrap: anywhere; }
  td:not(:first-child)::before { content: attr(data-label); color: var(--soft); }
}
"""


def _read_object(path: Path) -> dict:
    content = read_json(path)
    return content if isinstance(content, dict) else {}


def quantity(value: float | None, unit: str = "", name: str = "") -> str:
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
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def describe(result: dict[str, Any]) -> str:
    """One line about an entry of suite.json: status, notebook, time and, where it failed, the cell and the reason."""
    cell, reason = result["cell"], " ".join((result["reason"] or "").split())
    place = f"cell {cell['index']} ({cell['id']}) {cell['source']}" if cell else ""
    details = ": ".join(part if len(part) < 300 else part[:300] + "…" for part in (place, reason) if part)
    name = "/".join(filter(None, (result.get("point"), result["notebook"])))
    return f"{result['status']:<11}  {name}  {progress.duration(result['seconds'])}  {details}".rstrip()


def _table(heads: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = ""
    for row in rows:  # a phone shows a row as a block, each value beside the label of its column
        cells = zip(heads, row, strict=True)
        body += "<tr>" + "".join(f'<td data-label="{escape(name)}">{escape(text)}</td>' for name, text in cells)
        body += "</tr>"
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _results(metrics: dict[str, Any]) -> str:
    """The table of the metrics of one notebook; the arrow says which way is better."""
    rows = []
    for name, entry in metrics.items():
        entry = entry if isinstance(entry, dict) else {"value": entry}
        unit = entry.get("unit") or ""
        value, low, high, baseline = (quantity(entry.get(k), unit, name) for k in ("value", "low", "high", "baseline"))
        interval = "" if entry.get("low") is None or entry.get("high") is None else f"  [{low}, {high}]"
        arrow = "↑" if entry.get("higher_is_better", True) else "↓"
        rows.append([f"{name} {arrow}", value + interval, baseline, quantity(entry.get("n")), unit or "–"])
    heads = ["metric, ↑ or ↓ is better", "value  [95 % interval]", "untuned", "n", "unit"]
    return "<h3>Results</h3>" + _table(heads, rows) if rows else ""


def _claim(metrics: dict[str, Any]) -> str:
    """What a notebook claims, and the value of the metric that bears it out."""
    claim = metrics.get("claim") or {}
    entry = (metrics.get("metrics") or {}).get(claim.get("metric"))
    if not isinstance(entry, dict):
        return ""
    value, low, high = (quantity(entry.get(key), entry.get("unit") or "") for key in ("value", "low", "high"))
    interval = "" if entry.get("low") is None else f" [{low}, {high}]"
    return f"<p>{escape(claim['text'])} <strong>{escape(value + interval)}</strong> ({escape(claim['metric'])})</p>"


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
    """The notebook's figures, each inside the page as base64."""
    parts = []
    for path in sorted(folder.glob("figures/*.png")):
        name, data = escape(path.stem, quote=True), base64.b64encode(path.read_bytes()).decode()
        image = f'<img alt="{name}" src="data:image/png;base64,{data}">'
        parts.append(f"<figure>{image}<figcaption>{name}</figcaption></figure>")
    return "<h3>Figures</h3>" + "".join(parts) if parts else ""


def _circumstances(manifest: dict[str, Any]) -> str:
    """A closed details element: profile, parameters, commit, hardware and versions."""
    facts: dict[str, Any] = {key: manifest[key] for key in ("started_at", "commit", "dtype") if manifest.get(key)}
    resolved, machine = manifest.get("resolved") or {}, manifest.get("hardware") or {}
    facts |= {key: resolved[key] for key in ("profile", "model_id", "dataset", "seed", "study") if key in resolved}
    facts |= {key: quantity(x, "bytes") if key.endswith("memory") else x for key, x in machine.items() if x}
    facts |= manifest.get("versions") or {}
    rows = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items())
    return f"<details><summary>Profile, hardware and versions</summary><dl>{rows}</dl></details>" if rows else ""


def _section(folder: Path, result: dict[str, Any]) -> str:
    """One notebook: how it ended, what it measured, its figures and what it ran on."""
    name, status, cell = result["notebook"], result["status"], result["cell"]
    metrics, manifest = _read_object(folder / "metrics.json"), _read_object(folder / "manifest.json")
    profile = (manifest.get("resolved") or {}).get("profile")
    notes = [
        str(part) for part in (profile, progress.duration(result["seconds"]) if result["seconds"] else None) if part
    ]
    if (folder / f"{name}.ipynb").exists():
        link = escape(quote(f"{name}/{name}.ipynb"), quote=True)
        notes.append(f'<a href="{link}">executed notebook</a>')
    parts = [f'<div class="title"><h2>{escape(name)}</h2><span class="status {escape(status.split()[0], quote=True)}">']
    parts += [f'{escape(status)}</span><span class="soft">{" · ".join([*map(escape, notes[:-1]), *notes[-1:]])}</span>']
    parts.append("</div>")
    if result["reason"]:
        place = f"Cell {escape(str(cell['index']))} <code>{escape(cell['source'])}</code>\n" if cell else ""
        parts.append(f'<p class="reason">{place}{escape(result["reason"])}</p>')
    parts += [_claim(metrics), _results(metrics.get("metrics") or {})]
    parts += [_predictions(metrics.get("predicted") or {}, metrics.get("measured") or {})]
    return f"<section>{''.join(parts)}{_figures(folder)}{_circumstances(manifest)}</section>"


def _found(folder: Path) -> list[dict[str, Any]]:
    """The entries of suite.json, and one for every other notebook of the run: those that were run by hand."""
    entries = read_json(folder / "suite.json") or []
    listed = {entry["notebook"] for entry in entries}
    for path in folder.glob("*/manifest.json"):
        if path.parent.name not in listed:
            metrics = _read_object(path.parent / "metrics.json")
            status = metrics.get("status") or "not finished"
            seconds = (metrics.get("measured") or {}).get("notebook_seconds", 0.0)
            entry = {"notebook": path.parent.name, "status": status, "seconds": seconds, "reason": None, "cell": None}
            entries.append(entry)
    return sorted(entries, key=lambda entry: entry["notebook"])


def write_index(run_folder: str | Path) -> Path:
    """Write `index.html` into a run's folder and return its path.

    Raises:
        NotebookError: the folder holds no notebook's results.
    """
    folder = Path(run_folder)
    entries = _found(folder)
    if not entries:
        raise NotebookError(f"{folder} holds no run: it has neither a suite.json nor a notebook's manifest.json.")
    completed = sum(entry["status"] == "completed" for entry in entries)
    total = progress.duration(sum(entry["seconds"] for entry in entries))
    name = escape(folder.resolve().name)
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>Run {name}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<h1>Run {name}</h1>
<p class="soft">{completed} of {len(entries)} notebooks completed · {total}</p>
</header>
{"".join(_section(folder / entry["notebook"], entry) for entry in entries)}
</main>
</body>
</html>
"""
    path = folder / "index.html"
    path.write_text(page, encoding="utf-8")
    return path
