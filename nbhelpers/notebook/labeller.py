"""Label which of two answers is better: blind, with the sides drawn, by mouse or keyboard, from where one left off."""

import html
from pathlib import Path

from nbhelpers.core.errors import ParameterError
from nbhelpers.data import labels
from nbhelpers.notebook.widgets import interactive

FRAME = "white-space: pre-wrap; border: 1px solid #ccc; padding: 8px"
KEYS = {"1": "left", "2": "right", "0": "tie"}


class Labeller:
    """A widget (`.widget`) that shows one item after another and appends each label to a file as it is given.

    Nothing says which model an answer is of. The next item is the first that the file has no label of by this
    labeller, so that a cell that is run again, or a kernel that died, loses and repeats nothing.

    Args:
        items: as `labels` describes them.
        path: a .jsonl file; several labellers may share it one after another.
        labeller: a name for who labels.
        seed: of the order and the sides.

    Raises:
        ParameterError: the name is empty, or the file is no .jsonl.
        DataError: as `labels.read`.
    """

    def __init__(self, items: list[dict], path: str | Path, labeller: str, seed: int = 0):
        import ipywidgets

        if not labeller.strip():
            raise ParameterError("labeller is empty. Give a name, such as your initials: labels are told apart by it.")
        if Path(path).suffix != ".jsonl":
            raise ParameterError(f"labels={str(path)!r} does not end in .jsonl, the form that labels are written in.")
        self.path, self.labeller, self.seed = Path(path), labeller, seed
        self.items = labels.order(items, labeller, seed)
        self.question, self.left, self.right = (ipywidgets.HTML() for _ in range(3))
        self.buttons = {
            choice: ipywidgets.Button(description=f"{name} ({key})")
            for (key, choice), name in zip(KEYS.items(), ("Left", "Right", "Neither"), strict=True)
        }
        for choice, button in self.buttons.items():
            button.on_click(lambda _, choice=choice: self.choose(choice))
        self.typed = ipywidgets.Text(placeholder="or type 1, 2 or 0 here", continuous_update=True)
        self.typed.observe(self._on_type, "value")
        self.progress = ipywidgets.Label()
        half = ipywidgets.Layout(width="48%")
        self.left.layout = self.right.layout = half
        answers = ipywidgets.HBox([self.left, self.right], layout=ipywidgets.Layout(justify_content="space-between"))
        controls = ipywidgets.HBox([*self.buttons.values(), self.typed])
        self.widget = ipywidgets.VBox([self.progress, self.question, answers, controls])
        self._show()

    def choose(self, choice: str) -> None:
        """Write the label of the item that is shown, and show the next one."""
        if self.item is None:
            return
        left = labels.shown_left(self.item, self.labeller, self.seed)
        label = {"item": self.item["id"], "labeller": self.labeller, "left": left, "choice": choice}
        labels.append(self.path, label)  # where the same cell runs twice, another widget may have written it
        self._show()

    def _on_type(self, change: dict) -> None:
        if choice := KEYS.get(change["new"].strip()):
            self.typed.value = ""
            self.choose(choice)

    def _show(self) -> None:
        done = {label["item"] for label in labels.read(self.path) if label["labeller"] == self.labeller}
        self.item = next((item for item in self.items if item["id"] not in done), None)
        finished = sum(item["id"] in done for item in self.items)
        self.progress.value = f"{finished} of {len(self.items)} labelled by {self.labeller}"
        for button in self.buttons.values():
            button.disabled = self.item is None
        if self.item is None:
            self.question.value, self.left.value, self.right.value = "<b>All are labelled. Thank you.</b>", "", ""
            return
        first = labels.shown_left(self.item, self.labeller, self.seed)
        texts = [self.item["answers"][first], self.item["answers"][1 - first]]
        turns = [f"<b>{turn['role']}</b>: {html.escape(turn['content'])}" for turn in self.item["prompt"]]
        self.question.value = "<br>".join(turns)
        for box, text in zip((self.left, self.right), texts, strict=True):
            box.value = f"<div style='{FRAME}'>{html.escape(text)}</div>"


def label(items: list[dict], path: str | Path, labeller: str, seed: int = 0):
    """The widget of a `Labeller` where somebody can use it; headless, the file's labels are counted and printed."""
    if interactive():
        return Labeller(items, path, labeller, seed).widget
    print(f"{len(labels.read(path))} labels in {Path(path).name}: nobody is here to give more")
    return None
