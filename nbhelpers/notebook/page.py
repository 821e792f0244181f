"""What all HTML pages share: one style for light and dark, desktop and phone, and a policy that asks for nothing.

A page is one file: styles, figures and the script that sorts tables are inside, so it can be mailed or kept as it is.
"""

import base64
import hashlib
from html import escape

STYLE = """
:root { color-scheme: light dark; --page: #f6f6f3; --card: #fff; --text: #24282c; --soft: #62686e; --line: #e3e3de;
  --link: #2a5d8f; --good: #2c6e49; --good-back: #e4f0e8; --bad: #9c3528; --bad-back: #f8e7e3; --code: #f1f1ed; }
@media (prefers-color-scheme: dark) {
  :root { --page: #17191b; --card: #1f2225; --text: #dcdfe1; --soft: #989ea4; --line: #33383c; --link: #8ab6e0;
    --good: #8ccba6; --good-back: #21382b; --bad: #eaa196; --bad-back: #422722; --code: #282c30; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 2.5rem 1rem 4rem; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 68rem; margin: 0 auto; }
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
.status { font-size: .8rem; padding: .1rem .6rem; border-radius: 1rem; background: var(--code); color: var(--soft);
  white-space: nowrap; }
.completed, .better { background: var(--good-back); color: var(--good); }
.failed, .interrupted, .worse, .idle { background: var(--bad-back); color: var(--bad); }
.reason { border-left: 3px solid var(--bad); padding: .1rem 0 .1rem .9rem; margin: 1rem 0; overflow-wrap: anywhere;
  white-space: pre-wrap; }
code { font: .86em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: var(--code);
  padding: .1em .35em; border-radius: 4px; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .7rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 500; font-size: .84rem; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
th button:hover, th button:focus-visible { text-decoration: underline; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
td:first-child, th:first-child { text-align: left; padding-left: 0; }
td:last-child, th:last-child { padding-right: 0; }
td.text, th.text { text-align: left; min-width: 13rem; } td:not(.text) { white-space: nowrap; }
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
  .blocks, .blocks tbody, .blocks tr { display: block; } .blocks thead { display: none; }
  .sortable thead { display: block; } .sortable th { display: inline-block; padding: .2rem 1rem .2rem 0; border: 0; }
  .blocks tr { padding: .5rem 0; border-bottom: 1px solid var(--line); } .blocks tr:last-child { border-bottom: 0; }
  .blocks td { display: flex; justify-content: space-between; gap: 1rem; padding: .1rem 0; border: 0;
    white-space: normal; text-align: right; min-width: 0; }
  .blocks td.text { min-width: 0; text-align: right; }
  .blocks td:first-child { font-weight: 500; overflow-wrap: anywhere; text-align: left; }
  .blocks td:not(:first-child)::before { content: attr(data-label); color: var(--soft); text-align: left; }
}
"""
SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("th button").forEach((button, column) => button.addEventListener("click", () => {
    const head = button.parentElement, down = head.getAttribute("aria-sort") === "ascending";
    const key = row => row.cells[column].dataset.sort ?? row.cells[column].textContent;
    const order = (a, b) => (isNaN(key(a)) || isNaN(key(b))) ? key(a).localeCompare(key(b)) : key(a) - key(b);
    const rows = [...table.tBodies[0].rows].sort((a, b) => down ? order(b, a) : order(a, b));
    table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    table.tBodies[0].append(...rows);
  }));
}
"""
_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
# The browser holds the page to its promise: it loads nothing, and no other script runs.
_NONE = "default-src 'none'; base-uri 'none'; form-action 'none'"
POLICY = f"{_NONE}; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_HASH}'"


def page(title: str, body: str, style: str = "") -> str:
    """A whole HTML page.

    Args:
        body: HTML, its texts escaped already.
        style: rules that add to STYLE.
    """
    html = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<main>
{body}
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""
    return html.encode("utf-8", "backslashreplace").decode()  # half a character, from a reason or an output
