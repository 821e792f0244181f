"""Cleaning rows step by step, each step saying what it dropped or changed, and why.

A step takes a `datasets.Dataset` whose rows have an `id` and either `text` or `messages`, and returns a `Cleaned`: the
rows it kept and a log with one line for each row it dropped or changed. Nothing else is touched, so that for every
step rows read = rows kept + rows dropped.

    steps = [validate(raw)]
    for step in (normalise, filter_quality, redact):
        steps.append(step(steps[-1].rows))
    account(steps)
"""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from nbhelpers.core import progress
from nbhelpers.core.errors import DataError, ParameterError
from nbhelpers.data import conversations, normalisation, privacy, quality, schemas

LOG = ("id", "action", "reason", "detail")  # the columns of a log; action is `dropped`, `changed` or `added`


@dataclass(frozen=True)
class Cleaned:
    """What one step made of its rows: `rows` kept, of `read`, and a `log` of `(id, action, reason, detail)`.

    A row has one line for each reason it was changed and exactly one if it was dropped.
    """

    step: str
    rows: object  # datasets.Dataset
    read: int
    log: list[tuple[str, str, str, str]] = field(default_factory=list, repr=False)

    def __post_init__(self):
        dropped, added = sum(self.dropped.values()), sum(self._counts("added").values())
        account = f"{self.step}: {self.read} read + {added} added != {len(self.rows)} kept + {dropped} dropped"
        assert self.read + added == len(self.rows) + dropped, account

    def _counts(self, of: str) -> dict[str, int]:
        return dict(Counter(reason for _, action, reason, _ in self.log if action == of).most_common())

    @property
    def dropped(self) -> dict[str, int]:
        """Reason -> rows, the commonest first."""
        return self._counts("dropped")

    @property
    def changed(self) -> dict[str, int]:
        """Reason -> rows, the commonest first; a row changed for two reasons counts under both."""
        return self._counts("changed")

    def line(self) -> dict:
        """step, read, dropped, changed (rows, each once), kept, added (where any), why (reason -> rows)."""
        changed = len({name for name, action, *_ in self.log if action == "changed"})
        dropped = sum(self.dropped.values())
        added = self._counts("added")
        numbers = {"read": self.read, "dropped": dropped, "changed": changed, "kept": len(self.rows)}
        numbers |= {"added": sum(added.values())} if added else {}
        return {"step": self.step} | numbers | {"why": self.dropped | self.changed | added}

    def table(self):
        """The log as a `pandas.DataFrame`."""
        import pandas as pd

        return pd.DataFrame(self.log, columns=list(LOG))


def entry(step: str, read: int, dropped: dict[str, int] | None = None, added: dict[str, int] | None = None) -> dict:
    """A line of the account, as `Cleaned.line`, of a step that is no function of rows: reason -> rows of each kind."""
    out, more = sum((dropped or {}).values()), sum((added or {}).values())
    numbers = {"read": read, "dropped": out, "changed": 0, "kept": read + more - out, "added": more}
    return {"step": step} | numbers | {"why": (dropped or {}) | (added or {})}


def account(steps: list):
    """One line a step: step, read, dropped, changed, added (where any), kept, reasons, as a `pandas.DataFrame`.

    Args:
        steps: `Cleaned`, or lines that `entry` made.

    Raises DataError: a step did not begin with what the one before it had kept.
    """
    import pandas as pd

    lines = [step.line() if isinstance(step, Cleaned) else dict(step) for step in steps]
    for before, after in itertools.pairwise(lines):
        if after["read"] != before["kept"]:
            raise DataError(
                f"{after['step']} read {after['read']} rows, but {before['step']} had kept {before['kept']}: a step in "
                "between is missing from the list."
            )
    for line in lines:
        line["reasons"] = ", ".join(f"{reason} {count:,}" for reason, count in line.pop("why").items())
    added = ["added"] if any(line.get("added") for line in lines) else []
    return pd.DataFrame(lines, columns=["step", "read", "dropped", "changed", *added, "kept", "reasons"]).fillna(0)


def texts(rows) -> list[str]:
    """The text of every row, as `schemas.text_of` gives it."""
    if "text" in rows.column_names:
        return rows["text"][:]  # a slice reads a column at once, an iterator row by row
    return ["\n\n".join(turn["content"] for turn in messages) for messages in rows["messages"][:]]


def filtered(step: str, rows, verdicts: list[tuple[str, str] | None]) -> Cleaned:
    """The rows whose verdict is None; the others are dropped for `(reason, detail)`."""
    kept = [i for i, verdict in enumerate(verdicts) if verdict is None]
    ids = rows["id"][:]
    log = [(ids[i], "dropped", *verdict) for i, verdict in enumerate(verdicts) if verdict is not None]
    return Cleaned(step, rows if len(kept) == len(ids) else rows.select(kept), len(ids), log)


def rewritten(
    step: str, rows, rewrite: Callable[[str], tuple[str, list[str]]], columns=("text", "reference")
) -> Cleaned:
    """All rows, the turns of their messages and the texts in `columns` through `rewrite`.

    Args:
        rewrite: gives the new text and the reasons it changed, none where it did not.
    """
    import datasets

    names, columns = columns, rows[:]
    reasons: list[set[str]] = [set() for _ in columns["id"]]

    def new(i: int, text: str) -> str:
        after, why = rewrite(text)
        reasons[i].update(why)
        return after

    for name in columns.keys() & set(names):
        values = enumerate(progress.each(columns[name], f"{step}, {name}"))
        columns[name] = [new(i, text) if isinstance(text, str) else text for i, text in values]
    if "messages" in columns:
        columns["messages"] = [
            [turn | {"content": new(i, turn["content"])} for turn in messages]
            for i, messages in enumerate(progress.each(columns["messages"], step))
        ]
    log = [(columns["id"][i], "changed", reason, "") for i, why in enumerate(reasons) for reason in sorted(why)]
    after = datasets.Dataset.from_dict(columns, features=rows.features) if log else rows
    return Cleaned(step, after, len(rows), log)


def shape_of(raw: Iterable) -> str:
    """The name of the shape of the first row that has one. Raises DataError with the shapes there are."""
    rows = [row for row in raw if isinstance(row, dict)]
    columns = {key for key in (rows[0] if rows else ()) if isinstance(key, str)}
    return schemas.shape_of(rows) or schemas.recognise(columns)


def validate(
    raw: Iterable[dict], shape: str | None = None, first_number: int = 1, seen: set[str] | None = None
) -> Cleaned:
    """Rows with an `id` and `text` or `messages` from rows of one shape; what is broken is dropped with its number.

    An id that is missing or was there before becomes `row-<number>`. Other columns stay where they are text, numbers
    or truth values; a column of several kinds becomes text.

    Args:
        raw: rows as they were read, in any shape that `shapes.recognise` knows.
        shape: its name; that of the first 1,000 rows (`shape_of`) where None.
        first_number: number of the first row, counted from 1.
        seen: ids that are taken; pass the same set again to continue over further rows.

    Raises:
        DataError: no row has a known shape, or the rows are preference pairs.
        ParameterError: there is no such shape.
    """
    import datasets

    raw, seen = list(raw), set() if seen is None else seen
    shape = shape_of(raw[:1_000]) if shape is None else shape
    if shape not in schemas.SHAPES:
        raise ParameterError(f"shape={shape!r} is not one of {', '.join(schemas.SHAPES)}.")
    if shape == "preference":
        raise DataError(
            "The rows are preference pairs (chosen, rejected), of which each side would have to be cleaned alike. To "
            "clean the preferred side, name it: columns='chosen=messages', or 'chosen=completion' beside a prompt."
        )
    rows, log = [], []
    for number, row in enumerate(raw, first_number):
        name = _name(row, number, seen)
        seen.add(name)
        try:
            content = schemas.content_of(row, shape)
            meant = {"id", "messages", "reference", "text", *schemas.meanings(row, shape)}
            extra = {key: row[key] for key in row.keys() - meant if type(row[key]) in (str, int, float, bool)}
            extra = {key: None if value != value else value for key, value in extra.items() if type(key) is str}
            json.dumps([extra, content], ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            log.append((name, "dropped", "half a character", f"row {number}: {error.object[error.start]!a}"))
        except DataError as error:
            log.append((name, "dropped", error.reason, f"row {number}: {error}"))
        else:
            rows.append(extra | {"id": name} | content)
    text = datasets.Value("string")
    messages = datasets.List({"role": text, "content": text})
    features = {"id": text} | ({"text": text} if shape == "text" else {"messages": messages, "reference": text})
    columns = {column: [row.get(column) for row in rows] for column in features}
    for column in sorted({key for row in rows for key in row} - features.keys()):
        values = [row.get(column) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        whole = kinds == {int} and all(value is None or abs(value) < 2**63 for value in values)
        kind = "bool" if kinds == {bool} else "int64" if whole else "float64" if kinds == {float} else "string"
        features[column] = datasets.Value(kind)
        columns[column] = [v if v is None or kind != "string" else str(v) for v in values]
    return Cleaned("schema", datasets.Dataset.from_dict(columns, datasets.Features(features)), len(raw), log)


def _name(row, number: int, seen: set[str]) -> str:
    """The id of a row as text, where it has one that nobody else has."""
    own = row.get("id") if isinstance(row, dict) else None
    name = str(own).encode(errors="backslashreplace").decode() if isinstance(own, str | int) else ""
    name = name if name and name not in seen else f"row-{number}"
    while name in seen:
        name += "+"
    return name


def normalise(rows, strip_markup: bool | None = None) -> Cleaned:
    """Every text through `normalisation.normalise_text`.

    Args:
        strip_markup: None: in plain texts alone. In conversations it may be the answer. A turn of code stays as it is.
    """
    is_chat = "messages" in rows.column_names
    strip = not is_chat if strip_markup is None else strip_markup

    def one_form(text: str) -> tuple[str, list[str]]:
        if is_chat and not strip and conversations.is_code(text):  # where each blank may mean something
            return text, []
        return normalisation.normalise_text(text, strip)

    return rewritten("normalise", rows, one_form)


def keep_language(rows, language: str = "en", **limits) -> Cleaned:
    """Drop rows with a `quality.language_problem`; `limits` are its arguments.

    A conversation stays where one of its turns is surely in the language; what it asks decides beside code.
    """
    found = progress.each(texts(rows), "language")
    verdicts = [quality.language_problem(text, language, **limits) for text in found]
    if "messages" in rows.column_names:
        for i in [i for i, verdict in enumerate(verdicts) if verdict]:
            turns, few = rows[i]["messages"], {"min_letters": 20, "min_probability": 0.6} | limits
            if any(quality.is_surely_in(turn["content"], language, **few) for turn in turns):
                verdicts[i] = None
            elif conversations.is_program(turns[-1]["content"]):
                verdicts[i] = quality.language_problem(conversations.question(turns), language, **limits)
    return filtered("language", rows, verdicts)


def filter_quality(rows, **limits) -> Cleaned:
    """Drop rows with a `quality.quality_problem`; `limits` are its arguments.

    A conversation may be short, of signs or of encoded data: that can be what is asked for. Code repeats itself,
    begins with a notice, and has names without vowels: where the answer is code, none of these is a fault.
    """
    found = progress.each(texts(rows), "quality")
    verdicts = [quality.quality_problem(text, **limits) for text in found]
    if "messages" in rows.column_names:
        for i in [i for i, verdict in enumerate(verdicts) if verdict]:
            code = conversations.is_code(rows[i]["messages"][-1]["content"])
            spared = ("too short", "symbols", "blob") + (("repetition", "boilerplate", "gibberish") if code else ())
            verdicts[i] = None if verdicts[i][0] in spared else verdicts[i]
    return filtered("quality", rows, verdicts)


def redact(rows, find: Callable[[str], list[privacy.Span]] = privacy.find) -> Cleaned:
    """Personal data and secrets replaced by their kind, `[EMAIL]`, in every column of text; the reasons are the kinds.

    An id with such data in it is redacted too, and numbered so that it stays the only one.
    """

    def rewrite(text: str) -> tuple[str, list[str]]:
        kinds = []
        while spans := [span for span in find(text) if not placed(text[max(0, span.start - 1) : span.end + 1], kinds)]:
            text = privacy.redact(text, spans)  # where two touch, the second may show when the first is gone
            kinds += [span.kind for span in spans]
        return text, kinds

    def placed(around: str, kinds: list[str]) -> bool:
        return any(f"[{kind}]" in around for kind in kinds)

    named = {name: f"{rewrite(name)[0]} {number}" for number, name in enumerate(rows["id"][:], 1) if find(name)}
    if named:
        ids = [named.get(name, name) for name in rows["id"][:]]
        rows = rows.remove_columns("id").add_column("id", ids).select_columns(rows.column_names)
    step = rewritten(
        "redact",
        rows,
        rewrite,
        [name for name in rows.column_names if name != "id" and getattr(rows.features[name], "dtype", "") == "string"],
    )
    return Cleaned(step.step, step.rows, step.read, [*step.log, *((n, "changed", "id", "") for n in named.values())])
