"""Checks of tokenised rows for the mistakes that train without complaint."""

import itertools

from nbhelpers.core.errors import AuditError, DataError
from nbhelpers.models import encoding
from nbhelpers.models.encoding import IGNORE

_FAULTS = {  # what can be wrong with a tokenised row: what it does, and the remedy
    "shifted": "have labels that are other tokens than their inputs: the loss shifts them itself, do not shift before.",
    "masked": "have no label, or none on the words of an answer: they teach nothing. The answer was cut off or the "
    "mask covers it; raise max_length, or look at the row with token_view.show.",
    "endless": "do not train the end of an answer (stop tokens: {stops}): the tuned model would not know when to stop. "
    "The answer was cut off, or a mask covers its end, as a collator's does that masks padding where padding is the "
    "end token; or the template ends a turn with another token: name a template by the parameter "
    "chat_template, which sets the end token with it.",
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
    stops = encoding.stop_token_ids(tokenizer, model)
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
