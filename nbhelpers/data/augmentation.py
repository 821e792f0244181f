"""Synthetic rows made from given ones: other instructions, paraphrases, back-translations; always marked, and capped.

Every synthetic row says how it was made (`synthetic_origin`) and from which row (`synthetic_source_id`), and keeps the
answer of that row.
What is rewritten is the first user turn: up to its first blank line stands the instruction, behind that the text.
What a model wrote passes a filter first, and whatever the filter refuses is counted by its reason.
"""

import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Callable

from nbhelpers.core.errors import DataError, ParameterError
from nbhelpers.data.vocabulary import words_of

ORIGIN, SOURCE = "synthetic_origin", "synthetic_source_id"  # long names, lest a data set have a column of them
ORIGINS = ("given", "template", "paraphrase", "back-translation")
REASONS = ("unfinished", "empty", "loop", "length", "copy", "off the subject", "answer")
REQUEST = (
    "Rewrite the following text in your own words. Keep its meaning and every name and number. "
    "Answer with the new text alone."
)
_BLANK_LINE = re.compile(r"\n[ \t]*\n\s*")


def _question(row: dict) -> tuple[int, str, str]:
    """`(turn, head, text)` of a row's first user turn: its instruction with the blank line behind it, and the rest.

    The head is empty where there is no blank line: then the whole question is the text.
    """
    for i, turn in enumerate(row["messages"]):
        if turn["role"] == "user":
            border = _BLANK_LINE.search(turn["content"])
            end = border.end() if border and border.end() < len(turn["content"]) else 0
            return i, turn["content"][:end], turn["content"][end:]
    raise DataError(f"Row {row['id']} has no user turn, so there is no question to rewrite. Leave it out.")


def _synthetic(row: dict, turn: int, content: str, origin: str) -> dict:
    """The row with the content of one turn replaced, marked, under an id of its own that follows from the content."""
    key = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    messages = [dict(message) for message in row["messages"]]
    messages[turn]["content"] = content
    mark = {"id": f"{row['id']}-{origin}-{key}", "messages": messages, ORIGIN: origin, SOURCE: row["id"]}
    return dict(row) | mark


def from_templates(rows, templates: dict[str, list[str]], seed: int) -> list[dict]:
    """One new row for each given one: the same question under another wording of its task's instruction.

    The instruction is the user's text up to its first blank line; all behind it and the answer stay as they are.

    Args:
        rows: rows `{id, task, messages, reference}`.
        templates: task -> wordings of its instruction; the seed decides which of them a row gets.

    Raises:
        DataError: a task of the rows has no wordings or the other way round, a wording is empty, holds a blank line or
            is the instruction that the row has already, or a row has no instruction.
    """
    tasks = {row["task"] for row in rows}
    if tasks != templates.keys():
        without, unknown = sorted(tasks - templates.keys()), sorted(templates.keys() - tasks)
        raise DataError(
            f"Rows and templates must have the same tasks. No templates for: {', '.join(without) or '-'}; no row for: "
            f"{', '.join(unknown) or '-'}. Correct the name, or leave out those rows or templates."
        )
    for task, wordings in templates.items():
        usable = [isinstance(w, str) and bool(w.strip()) and not _BLANK_LINE.search(w) for w in wordings]
        if not usable or not all(usable):
            raise DataError(
                f"The templates of {task!r} are {wordings!r:.120}. Give at least one, each a text without a blank line."
            )
    folded = {task: {" ".join(words_of(wording)) for wording in wordings} for task, wordings in templates.items()}
    draw = random.Random(seed)
    made = []
    for row in rows:
        turn, head, text = _question(row)
        if not head:
            raise DataError(f"Row {row['id']} has no blank line behind an instruction that could be replaced.")
        if " ".join(words_of(head)) in folded[row["task"]]:
            raise DataError(
                f"Row {row['id']} has the instruction {head.strip()!r}, which is also among the templates of "
                f"{row['task']!r}: the new row would be a copy. Remove that template."
            )
        border = head[len(head.rstrip()) :]
        made.append(_synthetic(row, turn, draw.choice(templates[row["task"]]).strip() + border + text, "template"))
    return made


def rejection(text: str, rewrite: str, reference: str = "") -> str | None:
    """Why a rewrite of a text cannot be used, one of `REASONS`; None where it can.

    empty            it has no word
    loop             fewer than 0.7 of its runs of three words are different ones
    length           it has less than half or more than twice the words of the text
    copy             more than 0.9 of the different words of the shorter one are also in the other
    off the subject  fewer than 0.35 of them are
    answer           all words of the reference stand in one of the two and not in the other: the answer was lost on
                     the way, or given away
    """
    old, new = words_of(text), words_of(rewrite)
    if not new:
        return "empty"
    runs = list(zip(new, new[1:], new[2:], strict=False))
    if len(set(runs)) < 0.7 * len(runs):
        return "loop"
    if not len(old) / 2 <= len(new) <= len(old) * 2:
        return "length"
    overlap = len(set(old) & set(new)) / min(len(set(old)), len(set(new)))
    if overlap > 0.9:
        return "copy"
    if overlap < 0.35:
        return "off the subject"
    wanted = set(words_of(reference))
    if wanted and (wanted <= set(old)) != (wanted <= set(new)):
        return "answer"
    return None


def _accepted(rows: list[dict], rewrites: list[str | None], origin: str) -> tuple[list[dict], dict]:
    """The rows whose rewrite passes the filter, and the counts. A rewrite of None is one that was never finished."""
    made, reasons = [], Counter(dict.fromkeys(REASONS, 0))
    for row, rewrite in zip(rows, rewrites, strict=True):
        turn, head, text = _question(row)
        reason = "unfinished" if rewrite is None else rejection(text, rewrite, row["reference"])
        if reason:
            reasons[reason] += 1
        else:
            made.append(_synthetic(row, turn, head + rewrite.strip(), origin))
    return made, {"produced": len(rows), "accepted": len(made), "rejected": dict(reasons)}


def paraphrase(rows, generate: Callable[[list], list], count: int, seed: int) -> tuple[list[dict], dict]:
    """New rows whose text a model has rewritten; the instruction and the answer stay those of the source row.

    Args:
        rows: rows `{id, task, messages, reference}`.
        generate: `generate(prompts)` gives one answer for each list of messages, in order, with its `text` and whether
            it `stopped` by itself: an unfinished rewrite is refused. Sample, since greedy rewrites are mostly copies.
        count: rows drawn without repetition, one rewrite each; 1 to the number of rows.
        seed: of the draw.

    Returns:
        The accepted rows, and `{"produced", "accepted", "rejected": {reason: rows}}` with every one of `REASONS`;
        produced == accepted + the sum of rejected.

    Raises:
        ParameterError: `count` is out of range.
    """
    if not 1 <= count <= len(rows):
        raise ParameterError(f"count={count} is outside 1 to {len(rows)}, the rows there are to draw from.")
    chosen = [rows[i] for i in random.Random(seed).sample(range(len(rows)), count)]
    answers = generate([[{"role": "user", "content": f"{REQUEST}\n\n{_question(row)[2]}"}] for row in chosen])
    return _accepted(chosen, [answer.text if answer.stopped else None for answer in answers], "paraphrase")


def back_translate(
    rows, translate: Callable[[list[str], str, str], list[str]], pivot: str, language: str = "en"
) -> tuple[list[dict], dict]:
    """New rows whose text went to another language and back (Sennrich et al. 2016); the answer stays the source row's.

    Args:
        rows: rows `{id, task, messages, reference}`; each is translated once.
        translate: `translate(texts, source, target)` gives one text for each, in order: a service or a model.
        pivot: code of the language between, as `translate` understands it.
        language: code of the rows' own language.

    Returns:
        The accepted rows and the counts, as `paraphrase`.

    Raises:
        ParameterError: the pivot is the rows' own language.
        DataError: what `translate` gave is not one text for each.
    """
    if pivot == language:
        raise ParameterError(f"pivot={pivot!r} is the language of the rows. Name another one to translate through.")
    chosen = list(rows)
    texts = [_question(row)[2] for row in chosen]
    for source, target in ((language, pivot), (pivot, language)):
        found = translate(texts, source, target)
        if not isinstance(found, list) or len(found) != len(texts):
            size = f" of {len(found)}" if isinstance(found, list) else ""
            raise DataError(
                f"translate({source!r} to {target!r}) gave a {type(found).__name__}{size} for {len(texts)} texts. It "
                "must return a list with one text for each, in their order."
            )
        bad = next((i for i, text in enumerate(found) if not isinstance(text, str)), None)
        if bad is not None:
            raise DataError(
                f"translate({source!r} to {target!r}) gave {found[bad]!r:.60} for the text of row {chosen[bad]['id']}. "
                "It must return texts; return '' where there is no translation, and the row is counted as empty."
            )
        texts = found
    return _accepted(chosen, texts, "back-translation")


def mix(rows, synthetic: list[dict], max_share: float = 0.3, seed: int = 0) -> tuple[object, dict[str, int]]:
    """Given rows with at most a share of synthetic ones behind them; the surplus is dropped at random and counted.

    A synthetic row that is there twice (the same text from the same row, as a second seed may give) is used once.

    Args:
        rows: given rows, a `datasets.Dataset` or a list; what comes back is of the same kind.
        synthetic: rows made from them by the functions of this module.
        max_share: synthetic rows in the result, 0 to 0.5 of it.

    Returns:
        The rows, each with `synthetic_origin` and `synthetic_source_id` (None for a given one), and `{"given",
        "synthetic", "repeated", "dropped"}`; the last three add up to the synthetic rows that came in.

    Raises:
        ParameterError: `max_share` is out of range.
        DataError: a synthetic row stands among the given ones or has no mark, or its source is not among them.
    """
    if not 0 <= max_share <= 0.5:
        raise ParameterError(
            f"max_share={max_share} is outside 0 to 0.5. A model that is trained mostly on what a model wrote loses "
            "the rare cases of the real data first and then the rest (model collapse, Shumailov et al. 2024): keep at "
            "least half of the rows real."
        )
    given = [dict(row) for row in rows]
    ids = {row["id"] for row in given}
    for row in given:
        if row.get(ORIGIN, "given") != "given":
            raise DataError(
                f"Row {row['id']} among the given rows is marked {row[ORIGIN]!r} and would escape the cap. "
                "Pass synthetic rows as `synthetic`."
            )
    for row in synthetic:
        if row.get(ORIGIN) not in ORIGINS[1:]:
            raise DataError(
                f"Synthetic row {row['id']} has the origin {row.get(ORIGIN)!r}, expected {', '.join(ORIGINS[1:])}. "
                "Mark it, so that nobody takes it for real."
            )
        if row.get(SOURCE) not in ids:
            raise DataError(
                f"Synthetic row {row['id']} was made from row {row.get(SOURCE)!r}, which is not among the given "
                "rows: if that one is held out, it would leak. Make synthetic rows from these rows."
            )
    different = list({row["id"]: dict(row) for row in synthetic}.values())
    room = math.floor(len(given) * max_share / (1 - max_share) + 1e-9)
    kept = sorted(random.Random(seed).sample(range(len(different)), min(room, len(different))))
    mixed = [row | {ORIGIN: "given", SOURCE: None} for row in given] + [different[i] for i in kept]
    counts = {"given": len(given), "synthetic": len(kept)}
    counts |= {"repeated": len(synthetic) - len(different), "dropped": len(different) - len(kept)}
    return (mixed if isinstance(rows, list) else type(rows).from_list(mixed)), counts
