"""A tokenised row, drawn: what the model sees, and what of it is trained."""

import html
import itertools

from nbhelpers.models.encoding import IGNORE


class TokenView:
    """A tokenised row, drawn: token by token in a notebook, trained text in «guillemets» as plain text.

    In a notebook trained tokens stand on green, the others on grey, in two shades in turn so that borders show;
    special tokens have an outline, and a tooltip gives position, id and label. Tokens that make one character
    together are drawn as one.
    """

    _GROUNDS = (("#eeeeee", "#f8f8f8"), ("#a9dca9", "#d4eed4"))  # untrained, trained

    def __init__(self, row: dict, tokenizer):
        special = set(tokenizer.all_special_ids)
        self.runs: list[tuple[bool, str]] = []
        self.tokens: list[tuple[bool, bool, str, str]] = []  # trained, special, tooltip, text
        tokens = list(zip(row["input_ids"], row["labels"], strict=True))
        for trained, run in itertools.groupby(enumerate(tokens), lambda at: at[1][1] != IGNORE):
            positions, pairs = zip(*run, strict=True)
            ids, labels = zip(*pairs, strict=True)
            self.runs.append((trained, tokenizer.decode(ids)))
            for start, stop, text in self._pieces(ids, special, tokenizer):
                facts = {"position": positions, "id": ids, "label": labels}
                tooltip = ", ".join(f"{name} {' '.join(map(str, x[start:stop]))}" for name, x in facts.items())
                self.tokens.append((trained, not special.isdisjoint(ids[start:stop]), tooltip, text))

    @staticmethod
    def _pieces(ids: tuple[int, ...], special: set[int], tokenizer) -> list[tuple[int, int, str]]:
        """`(start, stop, text)` of every token, or of the tokens whose bytes make a character together.

        A token is decoded behind the one before it, because some tokenizers strip the white space of a first token.
        """
        pieces, before, start = [], 0, 0
        for stop in range(1, len(ids) + 1):
            text = tokenizer.decode(ids[before:stop])
            if not text.endswith("\ufffd") or stop == len(ids) or ids[stop] in special:
                pieces.append((start, stop, text[len(tokenizer.decode(ids[before:start])) :]))
                before, start = start, stop
        whole = tokenizer.decode(ids)
        return pieces if "".join(text for *_, text in pieces) == whole else [(0, len(ids), whole)]

    def __repr__(self) -> str:
        return "".join(f"«{text}»" if trained else text for trained, text in self.runs)

    def _repr_html_(self) -> str:
        spans = []
        for i, (trained, special, tooltip, text) in enumerate(self.tokens):
            outline = ";outline:1px solid #666;outline-offset:-1px" if special else ""
            style = f"background:{self._GROUNDS[trained][i % 2]};color:#000{outline}"
            spans.append(f'<span style="{style}" title="{tooltip}">{html.escape(text)}</span>')
        return f'<pre style="white-space:pre-wrap">{"".join(spans)}</pre>'


def show(row: dict, tokenizer) -> TokenView:
    """One tokenised row as the model sees it, with the trained tokens marked."""
    return TokenView(row, tokenizer)
