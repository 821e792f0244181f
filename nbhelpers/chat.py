"""From messages to what the model is trained on: the rendered template, token ids and labels; and the audits.

`encode` renders the turns (`shapes` makes them of a row) with the tokenizer's own template and labels the assistant's
tokens only, so that one function decides what every notebook shows, trains on and audits.
"""

import html
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

from nbhelpers import templates
from nbhelpers.errors import AuditError, DataError
from nbhelpers.run import read_json

IGNORE = -100  # the label that the loss leaves out


def encode(messages: list[dict], tokenizer) -> dict[str, list[int]]:
    """`{"input_ids", "labels"}`, both of length n: the rendered conversation, labelled where the assistant speaks.

    A label is the token itself for every assistant turn and its end token, and -100 elsewhere.

    Raises:
        AuditError: the template rewrites a prompt once its answer follows, or changes the answer; or the tokens of the
            prompt are others when the answer follows: the model would be trained on prompts that it never sees again.
        DataError: the template refuses the conversation, or an answer is not to be trained.
    """
    if untrained := [i for i, turn in enumerate(messages) if turn.get("weight") == 0 and turn["role"] == "assistant"]:
        raise DataError(f"turn {untrained[0]} has weight 0, while every answer here is trained", "weight 0")
    text, spans = templates.answers(messages, tokenizer)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    for start, _ in spans:
        served = tokenizer(text[:start], add_special_tokens=False)["input_ids"]
        if encoded["input_ids"][: len(served)] != served:
            raise AuditError(
                f"The end of the prompt, {text[:start][-20:]!r}, and the start of the answer "
                f"{text[start : start + 20]!r} make other tokens together than the prompt alone: training and "
                "inference would see different prompts. Strip the white space at the start of the answer, or use a "
                "template whose prompt ends with a special token or a single line break."
            )
    labels = [
        token if any(start <= begin < end for start, end in spans) else IGNORE
        for token, (begin, _) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]
    return {"input_ids": encoded["input_ids"], "labels": labels}


def _refuse_forged(messages: list[dict], tokenizer, signs: list[str]) -> None:
    for i, turn in enumerate(messages):
        if found := templates.forged(turn["content"], tokenizer, signs):
            raise AuditError(
                f"turn {i} ({turn['role']}) contains {', '.join(found)}, which the model reads as a border of turns: "
                "what follows would speak in another's name. Remove the row, or write the text with templates.defuse."
            )


@dataclass(frozen=True)
class Encoded:
    """Tokenised rows and what became of every row read: `read == kept + dropped`."""

    dataset: object  # datasets.Dataset with input_ids and labels
    read: int
    dropped_too_long: int

    def __str__(self) -> str:
        return f"{self.read} rows read = {len(self.dataset)} kept + {self.dropped_too_long} longer than max_length"


def encode_rows(rows, tokenizer, max_length: int) -> Encoded:
    """Encode a dataset with a `messages` column. A row over `max_length` tokens is dropped and counted, never cut:
    a cut takes the end, and the end is the answer.

    Args:
        rows: `datasets.Dataset`.
        max_length: tokens a row, prompt and answer together.

    Raises:
        DataError: there is no row, or not one fits; names the length of the shortest.
        AuditError: as `encode`, or a text that would begin or end a turn (`templates.forged`); with the row's `id`, or
            its number from 1.
    """
    import datasets

    encoded, signs = [], templates.markers(tokenizer)
    for number, row in enumerate(rows, 1):
        try:
            _refuse_forged(row["messages"], tokenizer, signs)
            encoded.append(row | encode(row["messages"], tokenizer))
        except (AuditError, DataError) as error:
            raise type(error)(f"Row {row.get('id', number)}: {error}") from None
    if not encoded:
        raise DataError("There is no row to encode.")
    lengths = [len(row["input_ids"]) for row in encoded]
    fits = [i for i, length in enumerate(lengths) if length <= max_length]
    if not fits:
        raise DataError(
            f"max_length={max_length} is shorter than every row: the shortest of {len(lengths)} has "
            f"{min(lengths)} tokens. Raise max_length or shorten the rows."
        )
    kept = datasets.Dataset.from_list([encoded[i] for i in fits])
    return Encoded(kept, len(lengths), len(lengths) - len(fits))


def stop_token_ids(tokenizer, model=None) -> set[int]:
    """The tokens at which generation ends: the model's generation config where it says, and the tokenizer's EOS.

    Without a model its generation config is read from the folder that the tokenizer came from, where there is one.
    """
    if model is None:
        kept = read_json(Path(tokenizer.name_or_path, "generation_config.json")) if tokenizer.name_or_path else None
        configured = kept.get("eos_token_id") if isinstance(kept, dict) else None
    else:
        configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return {i for i in (*ids, tokenizer.eos_token_id) if i is not None}


_FAULTS = {  # what can be wrong with a tokenised row: what it does, and the remedy
    "shifted": "have labels that are other tokens than their inputs: the loss shifts them itself, do not shift before.",
    "masked": "have no label, or none on the words of an answer: they teach nothing. The answer was cut off or the "
    "mask covers it; raise max_length, or look at the row with chat.show.",
    "endless": "do not train the end of an answer (stop tokens: {stops}): the tuned model would not know when to stop. "
    "The answer was cut off, or a mask covers its end, as a collator's does that masks padding where padding is the "
    "end token; or the template ends a turn with another token: set tokenizer.eos_token to that one.",
    "unanswered": "go on behind their last answer: one that followed was cut off (raise max_length) or is masked.",
    "padded": "have labels on padding, which the model would learn to write: mask it, but not the end of the answer.",
    "doubled": "begin with BOS twice: the template writes it and the tokenizer adds it again. Tokenise rendered text "
    "with add_special_tokens=False.",
}


def audit(dataset, tokenizer, model=None) -> dict[str, float]:
    """Check every tokenised row for the mistakes that train without complaint; return what was counted.

    An answer is what is labelled without a gap. A mask that covers one of several answers whole, or the first words of
    one, cannot be seen in a row and is not found.

    Args:
        dataset: rows with `input_ids` and `labels`, as the trainer will see them.
        model: its generation config names the stop tokens.

    Raises:
        AuditError: names the rows with labels that are shifted, missing or on padding, answers whose end is not
            trained, rows that go on behind their last answer, or a doubled BOS; and the remedy.
    """
    if not len(dataset):
        raise DataError("There is no row to train on.")
    stops = stop_token_ids(tokenizer, model)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    wrong: dict[str, list[int]] = {fault: [] for fault in _FAULTS}
    labelled = total = 0
    for i, row in enumerate(dataset):
        ids, labels = row["input_ids"], row["labels"]
        labelled, total = labelled + sum(label != IGNORE for label in labels), total + len(ids)
        for fault in _faults(ids, labels, tokenizer, stops, special):
            wrong[fault].append(i)
    names = ", ".join(repr(tokenizer.decode([i])) for i in sorted(stops)) or "none is set"
    problems = [
        f"{len(rows)} of {len(dataset)} rows (first: {rows[:5]}) {_FAULTS[fault].format(stops=names)}"
        for fault, rows in wrong.items()
        if rows
    ]
    if problems:
        raise AuditError("The data would train a broken model:\n  - " + "\n  - ".join(problems))
    return {"rows": len(dataset), "tokens": total, "labelled_tokens": labelled, "labelled_share": labelled / total}


def _faults(ids: list[int], labels: list[int], tokenizer, stops: set[int], special: set[int]) -> set[str]:
    """Which of `_FAULTS` a row has. What an answer is, its labels say: tokens in a row that are labelled."""
    if any(label not in (IGNORE, token) for token, label in zip(ids, labels, strict=True)):
        return {"shifted"}
    begun = next((i for i, token in enumerate(ids) if token != tokenizer.pad_token_id), 0)
    begun = 0 if tokenizer.pad_token_id == tokenizer.bos_token_id else begun
    found = set()
    if ids[begun : begun + 2] == [tokenizer.bos_token_id] * 2:
        found.add("doubled")
    grouped = itertools.groupby(labels, lambda label: label != IGNORE)
    runs = [run for run in ([*group] for trained, group in grouped if trained) if tokenizer.decode(run).strip()]
    if not runs or any(stops.issuperset(i for i in run if tokenizer.decode([i]).strip()) for run in runs):
        return found | {"masked"}
    pads = stops | {tokenizer.pad_token_id}
    ends = [*([stops | special] * (len(runs) - 1)), stops]  # some close earlier turns with another token than the last
    if not all(end & set(run[-3:]) for run, end in zip(runs, ends, strict=True)):  # white space may stand behind it
        found.add("endless")
    if any(len(run) > 3 and pads.issuperset(run[-3:]) for run in runs):
        found.add("padded")
    behind = ids[max(i for i, label in enumerate(labels) if label != IGNORE) + 1 :]
    if sum(token not in pads for token in behind) > 2:
        found.add("unanswered")
    return found


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


def with_examples(messages: list[dict], examples: list[list[dict]]) -> list[dict]:
    """The prompt of `messages` (all but its answer) with solved `examples` as earlier turns: few-shot prompting."""
    system = [turn for turn in messages[:1] if turn["role"] == "system"]
    shots = [turn for example in examples for turn in example if turn["role"] != "system"]
    return system + shots + messages[len(system) : -1]


def text_of(row: dict) -> str:
    """The `text` of a row, or the contents of its `messages` with a blank line between turns."""
    return row["text"] if "text" in row else "\n\n".join(turn["content"] for turn in row["messages"])


def fold(messages: list[dict]) -> str:
    """A key for the question of a conversation: its turns before the answer, white space and case folded."""
    return json.dumps([(t["role"], " ".join(t["content"].lower().split())) for t in messages[:-1]])
