"""An executed notebook as one HTML page: formulas and code without a network, light and dark, desktop and phone."""

import os
import re
from html import escape
from pathlib import Path

from nbhelpers.core import storage
from nbhelpers.notebook import notebook_file
from nbhelpers.notebook.page import page

_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\\w$])\$(?=\S)([^$\n]+?)(?<=[^\s\\])\$(?![\w$])", re.S)
_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.S)
STYLE = """
main { max-width: 52rem; } .prompt, .anchor-link { display: none; }
.cell { margin: 1rem 0; } .cell, .output_area, .output_subarea { max-width: 100%; overflow-x: auto; }
.text_cell h2 { font-size: 1.3rem; margin: 2.4rem 0 .5rem; }
.text_cell h3 { font-size: 1.05rem; color: inherit; letter-spacing: 0; }
.text_cell td, .text_cell th { text-align: left; white-space: normal; }
pre { font: .84rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; margin: 0; overflow-x: auto; }
.input_area pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem; }
.output_text pre { padding: .5rem .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.output_html { padding: .5rem 0; } .output_html table { width: auto; }
pre code { background: none; padding: 0; } math[display=block] { margin: .8rem 0; overflow-x: auto; }
"""


def with_formulas(markdown: str) -> str:
    """Markdown whose LaTeX between dollar signs is MathML, which a browser shows without a library; code stays."""
    from latex2mathml.converter import convert

    def mathml(match: re.Match) -> str:
        try:
            return convert((match[1] or match[2]).strip(), display="block" if match[1] else "inline")
        except Exception:  # no formula, or one that the library cannot read: it stays as it was written
            return match[0]

    parts = _CODE.split(markdown)
    return "".join(part if part.startswith("`") else _FORMULA.sub(mathml, part) for part in parts)


def described(cells: list[dict]) -> list[str]:
    """Cell by cell what its figures show: the heading and the first sentence of the prose before it."""
    heading, sentence, out = "", "", []
    for cell in cells:
        if cell["cell_type"] == "markdown":
            lines = [line.strip() for line in notebook_file.source_of(cell).splitlines() if line.strip()]
            heading = next((line.lstrip("# ") for line in reversed(lines) if line.startswith("#")), heading)
            prose = " ".join(line for line in lines if not line.startswith(("#", "|", "-", "```")))
            sentence = re.split(r"(?<=[.!?])\s", prose)[0] if prose else ""
        out.append(re.sub(r"[*`_]", "", ": ".join(filter(None, (heading, sentence)))))
    return out


def figure_description(image: Path) -> str:
    """What `Run.save_figure` wrote into a PNG about what it shows; its name where there is nothing."""
    from PIL import Image

    with Image.open(image) as picture:
        return picture.info.get("Description") or image.stem


def alternative_texts(cell: dict, place: str, folder: Path) -> list[str]:
    """A text for each figure of a cell: where it stands, and what was saved about it if the cell saved each of them."""
    count = sum("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
    names = re.findall(r"""save_figure\([^"']*["'](\w+)["']""", notebook_file.source_of(cell))
    saved = [folder / "figures" / f"{name}.png" for name in names]
    known = len(saved) == count and all(path.exists() for path in saved)
    shown = [f" It shows {figure_description(path)}." for path in saved] if known else [""] * count
    return [f"Figure: {place}{text}" for text in shown]


def _linked(html: str, folder: Path) -> str:
    """The HTML with links between notebooks, which hold in `notebooks/`, made to hold in a folder of a run.

    From a folder outside of the repository a link would name the folders in between: it is left out.
    """
    root = storage.repository_root()

    def link(match: re.Match) -> str:
        target = root / "notebooks" / match[1]
        if target.exists() and not folder.resolve().is_relative_to(root):
            return ""
        return f'href="{Path(os.path.relpath(target, folder)).as_posix()}"' if target.exists() else match[0]

    return re.sub(r'href="([^":#]+\.ipynb)"', link, html)


def write_html(path: Path) -> Path:
    """Write `<notebook>.html` beside an executed notebook and return its path; without nbconvert an ImportError."""
    import nbformat
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    notebook = nbformat.read(path, as_version=4)
    names = described(notebook.cells)
    for cell, name in zip(notebook.cells, names, strict=True):
        if cell.cell_type == "markdown":
            cell.source = with_formulas(cell.source)
        texts = iter(alternative_texts(cell, name, path.parent))
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            if "image/png" in output.get("data", {}):
                image = output["data"].pop("image/png").replace("\n", "")
                alt = escape(next(texts), quote=True)
                output["data"]["text/html"] = f'<img alt="{alt}" src="data:image/png;base64,{image}">'
    own = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    title = next((line.lstrip("# ") for cell in own for line in cell.source.splitlines() if line.startswith("# ")), "")
    lines = ["nbconvert.preprocessors.CoalesceStreamsPreprocessor"]  # what a cell prints line by line is one block
    body, _ = HTMLExporter(template_name="basic", preprocessors=lines).from_notebook_node(notebook)
    light = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    dark = HtmlFormatter(style="native").get_style_defs(".highlight")
    style = f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n.highlight {{ background: none !important }}"
    target = path.with_suffix(".html")
    with storage.replaced(target) as file:
        file.write(page(title or path.stem, _linked(body, path.parent), STYLE + style))
    return target
