"""Where rows come from: the embedded `pydocs`, a local file, or a data set on the Hub.

Whatever the source, the answer is a `Source` with a training and a held-out `datasets.Dataset` whose rows have at
least `id, task, messages, reference`.
"""

import hashlib
import itertools
import json
import os
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from nbhelpers.core import storage
from nbhelpers.core.errors import DataError
from nbhelpers.data import column_names, files, hub, pydocs, pydocs_tasks, schemas


@dataclass(frozen=True)
class Source:
    """Rows split into `train` and `test` (both `datasets.Dataset`), and what became of every row read.

    `read` = rows of train + rows of test + the sum of `dropped` (reason -> rows). `hash` identifies the content.
    `columns` says what became of every column that was read.
    """

    name: str
    train: object
    test: object
    read: int
    dropped: dict[str, int] = field(default_factory=dict)
    hash: str = ""
    columns: str = ""

    @property
    def tasks(self) -> list[str]:
        """The tasks that both sides have. Raises DataError where there is none."""
        train, test = set(self.train["task"]), set(self.test["task"])
        if not train & test:
            raise DataError(
                f"{self.name}: the tasks of the training rows ({', '.join(sorted(train)):.100}) are others than those "
                f"of the held-out rows ({', '.join(sorted(test)):.100}). Give both the same, or rename the column."
            )
        return sorted(train & test)

    def __str__(self) -> str:
        dropped = "".join(f" + {count} dropped ({reason})" for reason, count in self.dropped.items())
        roles = Counter(turn["role"] for side in (self.train, self.test) for m in side["messages"] for turn in m)
        turns = ", ".join(f"{count:,} {role}" for role, count in sorted(roles.items(), key=lambda item: -item[1]))
        columns = f"\ncolumns: {self.columns}" if self.columns else ""
        trained = set(self.train["task"])
        if alone := Counter(task for task in self.test["task"] if task not in trained):
            named = ", ".join(f"{count} of {task}" for task, count in alone.items())
            columns += f"\nheld-out rows that are not scored, since no training row has their task: {named}"
        return (
            f"{self.name}: {self.read} rows read = {len(self.train)} to train on + {len(self.test)} held out{dropped}; "
            f"turns: {turns}; hash {self.hash[:12]}{columns}"
        )


def load(dataset: str, seed: int = 0, test_share: float = 0.1, limit: int = 50_000) -> Source:
    """Rows from a source named as a notebook's `dataset` parameter names it.

    Args:
        dataset: `pydocs`, a file that `files` reads, a folder with a training and a held-out file, or a Hub id
            `org/name[:config][@revision][#split]`.
        seed: decides which rows of a file or Hub set are held out; `pydocs` always holds out the same packages.
        test_share: share of the rows held out, 0 to 1 (not for `pydocs`).
        limit: most rows streamed from the Hub.

    Raises:
        DataError: names the file, the line and the remedy.
    """
    if dataset == "pydocs":
        return load_pydocs()
    if Path(dataset).expanduser().is_dir():
        return _read_splits(dataset)
    rows = read(dataset, limit)
    mapping = column_names.mapping(rows)
    source = _split(dataset, mapping.rename(rows), seed, test_share)
    return replace(source, columns=mapping.describe(rows, ("task",)) + source.columns)


def read(dataset: str, limit: int = 50_000) -> list[dict]:
    """Raw rows, before anything is checked: docstrings (`pydocs`), a file's rows, or the first `limit` of a Hub set.

    What their columns mean, `column_names.mapping` says.

    Args:
        dataset: as for `load`, but no folder.

    Raises:
        DataError: names the file, the line and the remedy.
    """
    if dataset == "pydocs":
        return _cached("docstrings", lambda: _with_ids(pydocs.corpus()))
    if files.is_known(dataset) or Path(dataset).expanduser().exists():
        return files.read(Path(dataset).expanduser())
    if re.fullmatch(r"[\w.-]+/[\w.-]+(:[^@#]+)?(@[^#]+)?(#\w+)?", dataset):
        return hub.read_hub(dataset, limit)
    raise DataError(
        f"dataset={dataset!r} is neither pydocs, nor a file that exists ({', '.join(files.SUFFIXES)}), nor a Hub id "
        "like org/name. Check the spelling and the folder that the notebook runs in."
    )


def load_pydocs() -> Source:
    """The docstring tasks of `data.pydocs`: four held-out packages, near-duplicates across the border removed.

    The first call reads the installed packages (seconds on two cores); later ones read the cache, which is keyed by
    the packages' own file hashes.
    """
    rows = _cached_pydocs()
    held_out = [row for row in rows if row["package"] in pydocs.HELD_OUT]
    rest = [row for row in rows if row["package"] not in pydocs.HELD_OUT]
    train = without_neighbours(rest, held_out)
    return Source(
        "pydocs", _dataset(train), _dataset(held_out), len(rows),
        {"near-duplicate of a held-out row": len(rest) - len(train)}, _hash(train + held_out),
    )  # fmt: skip


def _with_ids(entries: list[dict]) -> list[dict]:
    """Docstrings as rows: the id is the dotted name, with the kind or a number behind it where two share one."""
    seen: Counter[str] = Counter()
    rows = []
    for entry in entries:
        name = ".".join(filter(None, (entry["module"], entry["name"])))
        seen[name] += 1
        rows.append({"id": name if seen[name] == 1 else f"{name} {seen[name]}"} | entry)
    return rows


def docstring_tasks(docstrings: list[dict], texts: dict[str, str]) -> list[dict]:
    """Instruction rows, by `pydocs_tasks.make_rows`, of docstrings with an id in `texts`, with the text given there."""
    return pydocs_tasks.make_rows([row | {"text": texts[row["id"]]} for row in docstrings if row["id"] in texts])


def _cached_pydocs() -> list[dict]:
    return _cached("rows", lambda: pydocs_tasks.make_rows(read("pydocs")))


def _cached(what: str, make) -> list[dict]:
    """What `make` gives, kept in the cache folder under the fingerprint of the installed packages."""
    from filelock import FileLock

    folder = storage.cache_folder() / "pydocs"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{what}-{pydocs.fingerprint()[:24]}.jsonl"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            rows = make()
            partial = file.with_suffix(".partial")
            partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            os.replace(partial, file)
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _shingles(row: dict, size: int = 8) -> set[int]:
    """Hashes of every run of `size` words of a row's own text: the instruction, which all rows share, is left out."""
    words = re.findall(r"\w+", row["messages"][0]["content"].partition("\n\n")[2].lower())
    return {hash(tuple(words[i : i + size])) for i in range(max(1, len(words) - size + 1))}


def without_neighbours(rows: list[dict], held_out: list[dict], threshold: float = 0.5) -> list[dict]:
    """`rows` without those that share `threshold` of the 8-word runs, their own or a held-out row's, with that row.

    Exact, by inverted index. Containment of the shorter text, not Jaccard: a short docstring that is copied whole into
    a longer one leaks too, whichever of the two is held out (Lee et al. 2022 make the case for removing
    near-duplicates between training and test text).
    """
    index: dict[int, list[int]] = {}
    sizes = []
    for i, row in enumerate(held_out):
        shingles = _shingles(row)
        sizes.append(len(shingles))
        for shingle in shingles:
            index.setdefault(shingle, []).append(i)
    kept = []
    for row in rows:
        shingles = _shingles(row)
        shared = Counter(i for shingle in shingles for i in index.get(shingle, ()))
        if all(count < threshold * min(len(shingles), sizes[i]) for i, count in shared.items()):
            kept.append(row)
    return kept


def balanced(rows, tasks: list[str], count: int, seed: int):
    """`count` rows of a `Dataset`, as even as possible over `tasks` and, within a task, over packages.

    One large package would otherwise drown the others. The rows come shuffled by `seed`; fewer come back where
    there are not enough.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    names = list(rows["task"])
    groups = list(rows["package"]) if "package" in rows.column_names else [""] * len(rows)
    queues: dict[str, dict[str, list[int]]] = {task: {} for task in tasks}
    for i in generator.permutation(len(rows)).tolist():
        if names[i] in queues:
            queues[names[i]].setdefault(groups[i], []).append(i)
    ranked = []  # (how deep in its task, row): taking the lowest first is a round robin
    for by_group in queues.values():
        turns = generator.permutation(len(by_group)).tolist()  # in which order the packages give a row
        by_turn = zip(turns, by_group.values(), strict=True)
        within = sorted((depth, turn, i) for turn, members in by_turn for depth, i in enumerate(members))
        ranked += [(place, i) for place, (*_, i) in enumerate(within)]
    chosen = [i for _, i in sorted(ranked)[:count]]
    return rows.select(generator.permutation(chosen).tolist())


def _read_splits(folder: str) -> Source:
    """A folder with a training and a held-out side, such as notebook 01 leaves; each side one file or several."""
    sides, unused = files.sides(Path(folder).expanduser())
    normal, described = [], []
    for side, paths in sides.items():
        raw, name = [row for path in paths for row in files.read(path)], " + ".join(map(str, paths))
        mapping = column_names.mapping(raw)
        described.append(mapping.describe(raw, ("id", "task", "package")))
        renamed = mapping.rename(raw)
        own = [{key: row[key] for key in ("id", "package") if isinstance(row.get(key), str)} for row in renamed]
        if side == "test" and mapping.shape is None:
            raise DataError(f"{name} has no known answers, so that nothing can be scored. Take it out of the folder.")
        normal.append([row | names for row, names in zip(normalise(name, renamed), own, strict=True)])
    train, test = normal
    columns = "; held out: ".join(dict.fromkeys(described))
    columns += _without_many_tasks(train, test) + (f"; files not used: {', '.join(unused)}" if unused else "")
    return Source(folder, _dataset(train), _dataset(test), len(train) + len(test), {}, _hash(train + test), columns)


def _hash(rows: list[dict]) -> str:
    return hashlib.sha256("\n".join(json.dumps(row["messages"], sort_keys=True) for row in rows).encode()).hexdigest()


def _dataset(rows: list[dict]):
    import datasets

    return datasets.Dataset.from_list(rows)


def _without_many_tasks(*sides: list[dict]) -> str:
    """Make a `task` column of too many values one task, in place; return a line that says so, or nothing."""
    rows = list(itertools.chain(*sides))
    count = len({row["task"] for row in rows})
    if count <= max(5, min(20, len(rows) // 10)):
        return ""
    for row in rows:
        row["task"] = "text"
    return f"; task has {count} values in {len(rows)} rows, too many to be tasks: all rows are one task"


def normalise(name: str, rows: list[dict]) -> list[dict]:
    """Rows `{id, task, messages, reference}` from rows of one known shape.

    Raises DataError: the shape is unknown, a row has other columns than the first, or a row cannot be read; names
    the first such row, counted from 1.
    """
    try:
        shape = schemas.shape_of(rows[:1]) or schemas.recognise(set(rows[0]))
    except DataError as error:
        raise DataError(f"{name}, row 1: {error}") from None
    out = []
    for number, row in enumerate(rows, 1):
        missing = schemas.SHAPES[shape] - {key for key, value in row.items() if value is not None}
        if missing:
            raise DataError(
                f"{name}, row {number}: lacks {', '.join(sorted(missing))}, while row 1 is of the shape {shape}. "
                "A file must hold one shape: split it, or fill the column."
            )
        task = row.get("task") if isinstance(row.get("task"), str) else "text"
        try:
            messages = schemas.to_messages(row, shape)
            "".join([task, *(turn["content"] for turn in messages)]).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])
            raise DataError(
                f"{name}, row {number}: {half} is half a character. Remove it, or cut the text elsewhere."
            ) from None
        except (DataError, AttributeError, TypeError) as error:
            raise DataError(f"{name}, row {number}: {error}.") from None
        out.append({"id": f"row-{number}", "task": task, "messages": messages, "reference": messages[-1]["content"]})
    return out


def _split(name: str, rows: list[dict], seed: int, test_share: float) -> Source:
    """Hold out a share of the questions: equal questions always fall on the same side, so none leaks across."""
    normal = normalise(name, rows)
    many = _without_many_tasks(normal)
    questions = sorted({schemas.fold(row["messages"]) for row in normal})
    if len(questions) < 2:
        raise DataError(f"{name} has {len(questions)} different question; at least two are needed to hold one out.")
    ranked = sorted(questions, key=lambda q: hashlib.sha256(f"{seed}\n{q}".encode()).digest())
    held_out = set(ranked[: max(1, min(len(ranked) - 1, round(test_share * len(ranked))))])
    sides: dict[bool, list[dict]] = {True: [], False: []}
    for row in normal:
        sides[schemas.fold(row["messages"]) in held_out].append(row)
    return Source(name, _dataset(sides[False]), _dataset(sides[True]), len(rows), {}, _hash(normal), many)
