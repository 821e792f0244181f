"""What the columns of a data set mean: one reading for all notebooks, and a table that leaves no column out.

Nothing that a row holds disappears without a line that says so. A column becomes a part of the question, the answer,
the system turn or earlier turns; or it is kept beside them; or `ColumnMapping.table` calls it "not used".
"""

import itertools
from collections import Counter
from dataclasses import dataclass

from nbhelpers.core.errors import DataError
from nbhelpers.data import chat, schemas

QUESTIONS = ("prompt", "question", "query", "instruction", "problem", "input", "request", "human", "user")
ANSWERS = (
    *("completion", "response", "answer", "answers", "output", "reply", "target", "solution", "assistant", "gpt"),
    *("answerkey", "answer_key", "label_text"),
)
_TURNS = ("conversation", "dialogue", "dialog", "chat", "turns")
_SYSTEM = ("system_prompt", "system_message", "sys_prompt")
_TEXTS = ("content", "document")
_TAKEN = ("text", "messages", "reference")  # where the result of cleaning stands
_DROPPED = "not used"


@dataclass(frozen=True)
class ColumnMapping:
    """Which column is called what: `names` is theirs -> ours, and `shape` one of `schemas.SHAPES` or None."""

    names: dict[str, str]
    shape: str | None

    def rename(self, rows: list[dict]) -> list[dict]:
        """The rows with our names. Raises DataError where two columns of a row would have one name."""
        return [_renamed(row, self.names) for row in rows] if self.names else rows

    def table(self, rows: list[dict], kept: tuple[str, ...] | None = ("id", "task")) -> dict[str, tuple[str, int]]:
        """Column -> what it becomes, and how many rows have something in it.

        What a column holds beside that has a line of its own: keys of turns are `messages[].name`, all answers but the
        first `answers[1:]`.

        Args:
            rows: as they were read, under their own names.
            kept: columns that stay beside the turns, by our names; None: every text, number and truth value.
        """
        counts: dict[tuple[str, str], int] = Counter()
        for row in filter(lambda row: isinstance(row, dict), rows):
            ours = {theirs: self.names.get(theirs, theirs) for theirs in row}
            renamed = {ours[theirs]: value for theirs, value in row.items()}
            meanings = schemas.meanings(renamed, self.shape) if self.shape else {}
            for theirs, name in ours.items():
                if chat.is_missing(row[theirs]):
                    counts[theirs, ""] += 0
                    continue
                simple = type(row[theirs]) in (str, int, float, bool) and name not in _TAKEN
                becomes = "kept beside it" if (simple if kept is None else name in kept) else _DROPPED
                becomes = meanings.get(name, becomes)
                if becomes == "question" and chat.unpacked(row[theirs]) is not row[theirs]:
                    becomes = "question, its text read as turns"
                counts[theirs, becomes] += 1
                for part in schemas.unused_parts(row[theirs], meanings[name], name) if name in meanings else ():
                    counts[f"{theirs}{part}", _DROPPED] += 1
        out: dict[str, tuple[str, int]] = {}
        for (column, becomes), count in sorted(counts.items(), key=lambda item: item[1]):
            others = out.get(column, ("", 0))
            both = " or ".join(filter(None, (becomes, others[0])))  # one column may mean two things in two rows
            out[column] = (both, count + others[1])
        order = list(dict.fromkeys(itertools.chain.from_iterable(row for row in rows if isinstance(row, dict))))
        owner = {part: max((o for o in order if part.startswith(o)), key=len) for part in out}
        return {part: out[part] for part in sorted(out, key=lambda part: order.index(owner[part]))}

    def describe(self, rows: list[dict], kept: tuple[str, ...] | None = ("id", "task")) -> str:
        """The table in one line: `question: instruction + context; answer: response; not used: category (15 rows)`."""
        by_meaning: dict[str, list[str]] = {}
        for column, (becomes, count) in self.table(rows, kept).items():
            partly = f" ({count:,} rows)" if becomes == _DROPPED and count else ""
            by_meaning.setdefault(becomes or "empty", []).append(f"{column}{partly}")
        order = sorted(by_meaning, key=lambda meaning: (meaning == _DROPPED, meaning == "empty"))
        return "; ".join(f"{meaning}: {' + '.join(by_meaning[meaning])}" for meaning in order)


def mapping(rows: list[dict], told: str = "") -> ColumnMapping:
    """What the columns of these rows are, by the usual names in any case (`QUESTIONS`, `ANSWERS`, ...), or as told.

    Args:
        told: pairs `theirs=ours`, parted by commas, such as `"headline=prompt, body=completion"`; the usual names are
            looked for among the others.

    Raises DataError: `told` cannot be read, or names a column that no row has; two columns would have one name.
    """
    columns = list(dict.fromkeys(itertools.chain.from_iterable(row for row in rows if isinstance(row, dict))))
    columns = [column for column in columns if isinstance(column, str)]
    names = _told(told, columns) if told else {}
    plain = {column: column.strip().casefold().replace(" ", "_").replace("-", "_") for column in columns}
    plain |= names
    if schemas.known_shape(set(plain.values())) in (None, "text", "preference"):  # the last may lack its prompt
        plain = _by_usual_names(plain)
    plain |= {column: "system" for column, name in plain.items() if name in _SYSTEM and "system" not in plain.values()}
    known = {*schemas.MEANINGS, *itertools.chain.from_iterable(schemas.SHAPES.values()), "id", "task"}
    names |= {theirs: ours for theirs, ours in plain.items() if ours in known and theirs != ours}
    both = [ours for ours, count in Counter(names.get(column, column) for column in columns).items() if count > 1]
    for ours in both:
        theirs = [column for column in columns if names.get(column, column) == ours]
        raise DataError(
            f"The columns {' and '.join(f'{column!r:.60}' for column in theirs)} would both be called {ours!r:.60}. "
            "Give one of them another name."
        )
    if told and (wanted := schemas.known_shape(set(_told(told, columns).values()))):
        others = {name for shape, needed in schemas.SHAPES.items() if shape != wanted for name in needed}
        others -= schemas.SHAPES[wanted]
        names |= {c: f"{c} (not used)" for c in columns if names.get(c, c) in others}  # what was told goes first
    found = ColumnMapping(names, None)
    return ColumnMapping(names, schemas.shape_of(found.rename(rows)))


def _by_usual_names(plain: dict[str, str]) -> dict[str, str]:
    """Column -> our name, where the usual names make a whole shape of columns that have none; else as they were."""

    def first(candidates: tuple[str, ...]) -> str | None:
        return next((column for name in candidates for column, own in plain.items() if own == name), None)

    question, answer = first(QUESTIONS), first(ANSWERS)
    if any(pair <= set(plain.values()) for pair in ({"chosen", "rejected"}, {"answers", "scores"})):
        return plain | ({question: "prompt"} if question else {})
    if turns := first(_TURNS):
        return plain | {turns: "messages"}
    if question and answer:
        return plain | {question: "prompt", answer: "completion"}
    if not question and not answer and (text := first(_TEXTS)):
        return plain | {text: "text"}
    return plain


def _told(told: str, columns: list[str]) -> dict[str, str]:
    pairs = [tuple(map(str.strip, pair.split("="))) for pair in told.split(",")]
    by_stripped = {column.strip(): column for column in columns}
    if any(len(pair) != 2 or pair[0] not in by_stripped for pair in pairs):
        raise DataError(
            f"columns={told!r} should read like 'question=prompt, reply=completion'; the columns there are "
            f"{', '.join(sorted(columns))[:300]}."
        )
    return {by_stripped[theirs]: ours for theirs, ours in pairs}


def _renamed(row, names: dict[str, str]):
    return {names.get(key, key): value for key, value in row.items()} if isinstance(row, dict) else row
