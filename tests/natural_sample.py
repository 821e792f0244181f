"""Draws what `data/natural_precision.csv` holds the labels of: pairs that were dropped, spans that were redacted.

    python tests/natural_sample.py FOLDER

writes `pairs.txt` and `spans.txt` for a reader. The sample is drawn from the docstrings of `pydocs`, for the spans also
from the comments and the project descriptions of the same packages, and identified by hashes, so that nobody's address
is copied into this repository.
"""

import difflib
import hashlib
import random
import re
import sys
from importlib import metadata
from pathlib import Path

from nbhelpers.core import storage
from nbhelpers.data import cleaning, duplicates, privacy, pydocs

COUNT, SEED = 200, 0


def key(*texts: str) -> str:
    """Identifies a pair of texts, or a place, kind and value."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def raw_rows() -> list[dict]:
    return [
        {"id": f"{entry['module']}.{entry['name']}", "text": entry["text"], "package": entry["package"]}
        for entry in pydocs.corpus()
    ]


def dropped_pairs() -> list[tuple[str, str, float, str, str]]:
    """`(id, id of the kept row, similarity, text, kept text)` of each near-duplicate that the default steps drop."""
    rows = cleaning.validate(raw_rows()).rows
    for step in (cleaning.normalise, cleaning.keep_language, cleaning.filter_quality, duplicates.drop_exact):
        rows = step(rows).rows
    text = dict(zip(rows["id"], rows["text"], strict=True))
    log = [(name, *detail.split()) for name, _, _, detail in duplicates.drop_near(rows).log]
    return sorted((name, kept, float(value), text[name], text[kept]) for name, kept, value in log)


def comments():
    """`(place, text)` of each block of comment lines in the packages' source files."""
    for name, root in sorted(pydocs.packages_on_disk().items()):
        for path, _, module in pydocs._files(name, root):
            block, start = [], 0
            lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
            for number, line in enumerate([*lines, ""], 1):
                match = re.match(r"\s*#\s?(.*)", line)
                if match:
                    start = start if block else number
                    block.append(match[1])
                elif block:
                    yield f"{module}:{start}", "\n".join(block)
                    block = []


def redacted_spans() -> list[tuple[str, str, str, str, str]]:
    """`(place, kind, text before, value, text behind)` of every span found, each different text read once."""
    pins = re.findall(r"^([\w-]+)(?:\[\w+\])?==", (storage.repository_root() / "requirements.txt").read_text(), re.M)
    texts = [(row["id"], row["text"]) for row in raw_rows()]
    texts += [*comments(), *((name, metadata.distribution(name).read_text("METADATA")) for name in pins)]
    found = []
    for text, place in {text: place for place, text in reversed(texts)}.items():
        for start, end, kind in privacy.find(text):
            found.append((place, kind, text[max(0, start - 80) : start], text[start:end], text[end : end + 50]))
    return sorted(found)


def sample(items: list) -> list:
    """`COUNT` of the items, or all where there are fewer, drawn with `SEED`."""
    return random.Random(SEED).sample(items, min(COUNT, len(items)))


def _difference(a: str, b: str) -> str:
    left, right = a.split(), b.split()
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    lines = []
    for tag, i, j, k, m in matcher.get_opcodes():
        if tag != "equal":
            before, behind = " ".join(left[max(0, i - 6) : i]), " ".join(left[j : j + 5])
            lines.append(f"   {before} {{{{{' '.join(left[i:j])} -> {' '.join(right[k:m])}}}}} {behind}\n")
    return "".join(lines)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with open(folder / "pairs.txt", "w", encoding="utf-8") as file:
        for number, (name, kept, value, text, other) in enumerate(sample(dropped_pairs())):
            file.write(f"### {number} {key(text, other)} {value} {name} / {kept}\n{_difference(text, other)}")
    with open(folder / "spans.txt", "w", encoding="utf-8") as file:
        for number, (place, kind, before, value, behind) in enumerate(sample(redacted_spans())):
            context = f"{before}[[{value}]]{behind}"
            file.write(f"### {number} {key(place, kind, value)} {kind} {place}\n{' '.join(context.split())}\n")
