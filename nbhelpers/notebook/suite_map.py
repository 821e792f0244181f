"""The notebooks of the suite: the question of each, and how long the committed reference run took on which machine."""

import re

import nbformat

from nbhelpers.core import storage
from nbhelpers.core.progress import duration


def suite_map():
    """A `pandas.DataFrame` of the numbered notebooks: `question`, `reference run` and its `machine`."""
    import pandas as pd

    root, rows = storage.repository_root(), {}
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        title = nbformat.read(path, as_version=4).cells[0].source
        question = re.search(r"\*\*(.+?)\*\*", title, re.S)
        folder = root / "outputs" / "reference" / path.stem
        found = {part: storage.read_json(folder / f"{part}.json") or {} for part in ("metrics", "manifest")}
        seconds = found["metrics"].get("measured", {}).get("notebook_seconds")
        hardware = found["manifest"].get("hardware", {})
        rows[path.stem] = {
            "question": question[1] if question else "",
            "reference run": duration(seconds) if seconds else "none yet",
            "machine": f"{hardware.get('cpu', '')}, {hardware.get('cores', '')} cores" if hardware else "",
        }
    return pd.DataFrame(rows).T
