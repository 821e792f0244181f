"""Which notebooks to run again: those whose reference was made by other code, as many as a budget of time allows."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nbhelpers.core import fingerprint
from nbhelpers.core.progress import duration
from nbhelpers.core.storage import read_json
from nbhelpers.notebook.reference import reference_seconds

SLOWER = 2.0  # how many times the reference's wall time a notebook may take: CPUs differ
LONGEST_SECONDS = 1440.0  # that a notebook may take under `cpu` on a CPU without bfloat16 units; slower ones are slow
UNKNOWN_SECONDS = 720.0  # of a notebook without a reference: the longest with such units


@dataclass(frozen=True)
class Stale:
    """A notebook whose reference was made by other code.

    `changed` names what differs: `notebook` for its own code, then modules. `seconds` is what a run may take.
    """

    path: Path
    changed: list[str]
    seconds: float

    def __str__(self) -> str:
        named = ["its own code" if name == "notebook" else name for name in self.changed]
        return f"{self.path.stem} (up to {duration(self.seconds)}): {', '.join(named)}"


def stale_notebooks(notebooks: Sequence[Path], reference_folder: Path, turn: int = 0) -> list[Stale]:
    """The stale ones in the order to run: those whose own code changed, then those with changed modules only.

    Both groups begin with another notebook at each `turn`, so that none waits forever: a clean clone does not remember
    what was left out the last time.
    """
    own, others = [], []
    for path in notebooks:
        changed = fingerprint.changes(read_json(reference_folder / path.stem / "code.json"), path)
        known = reference_seconds(path.stem, "cpu", reference_folder)
        found = Stale(path, changed, UNKNOWN_SECONDS if known is None else min(SLOWER * known, LONGEST_SECONDS))
        if changed:
            (own if "notebook" in changed else others).append(found)
    return _rotated(own, turn) + _rotated(others, turn)


def _rotated(items: list, turn: int) -> list:
    start = turn % len(items) if items else 0
    return items[start:] + items[:start]


def within(stale: Sequence[Stale], budget: float) -> tuple[list[Stale], list[Stale]]:
    """`(to run, left)`: in order, each one that the rest of the budget (seconds) has room for."""
    chosen, left = [], []
    for notebook in stale:
        fits = sum(x.seconds for x in chosen) + notebook.seconds <= budget
        (chosen if fits else left).append(notebook)
    return chosen, left


def commit_turn(root: Path) -> int:
    """The number of commits behind HEAD.

    A shallow clone counts only those that it has, always as many: there the hash of HEAD stands in. 0 without git.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if git("rev-parse", "--is-shallow-repository") == "true":
            return int(git("rev-parse", "HEAD"), 16)
        return int(git("rev-list", "--count", "HEAD"))
    except (OSError, subprocess.CalledProcessError):
        return 0
