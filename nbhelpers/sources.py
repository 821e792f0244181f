"""Where rows come from: the embedded `pydocs`, a local file, or a data set on the Hub.

Whatever the source, the answer is a `Source` with a training and a held-out `datasets.Dataset` whose rows have at
least `id, task, messages, reference`.
"""

import csv
import hashlib
import json
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from nbhelpers import chat, pydocs
from nbhelpers.errors import DataError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True)
class Source:
    """Rows split into `train` and `test` (both `datasets.Dataset`), and what became of every row read.

    `read` = rows of train + rows of test + the sum of `dropped` (reason -> rows). `hash` identifies the content.
    """

    name: str
    train: object
    test: object
    read: int
    dropped: dict[str, int] = field(default_factory=dict)
    hash: str = ""

    def __str__(self) -> str:
        dropped = "".join(f" + {count} dropped ({reason})" for reason, count in self.dropped.items())
        return (
            f"{self.name}: {self.read} rows read = {len(self.train)} to train on + {len(self.test)} held out{dropped}; "
            f"hash {self.hash[:12]}"
        )


def cache_folder() -> Path:
    """`NBHELPERS_CACHE`, else `nbhelpers` in the user's cache folder. Set it to a volume that outlives the machine."""
    base = os.environ.get("NBHELPERS_CACHE")
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "nbhelpers")
    return Path(base).expanduser() if base else default


def load(dataset: str, seed: int = 0, test_share: float = 0.1, limit: int = 50_000) -> Source:
    """Rows from a source named as a notebook's `dataset` parameter names it.

    Args:
        dataset: `pydocs`, a .jsonl/.json/.csv/.parquet file, or a Hub id `org/name[:config][@revision][#split]`.
        seed: decides which rows of a file or Hub set are held out; `pydocs` always holds out the same packages.
        test_share: share of the rows held out, 0 to 1 (not for `pydocs`).
        limit: most rows streamed from the Hub.

    Raises:
        DataError: names the file, the line and the remedy.
    """
    if dataset == "pydocs":
        return load_pydocs()
    if dataset.lower().endswith(SUFFIXES) or Path(dataset).expanduser().exists():
        return _split(dataset, read_file(Path(dataset).expanduser()), seed, test_share)
    if re.fullmatch(r"[\w.-]+/[\w.-]+(:[^@#]+)?(@[^#]+)?(#\w+)?", dataset):
        return _split(dataset, read_hub(dataset, limit), seed, test_share)
    raise DataError(
        f"dataset={dataset!r} is neither pydocs, nor a file that exists ({', '.join(SUFFIXES)}), nor a Hub id like "
        "org/name. Check the spelling and the folder that the notebook runs in."
    )


# --- pydocs -------------------------------------------------------------------------------------------------------


def load_pydocs() -> Source:
    """The docstring tasks of `nbhelpers.pydocs`: four held-out packages, near-duplicates across the border removed.

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


def _cached_pydocs() -> list[dict]:
    from filelock import FileLock

    folder = cache_folder() / "pydocs"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{pydocs.fingerprint()[:24]}.jsonl"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            rows = pydocs.make_rows(pydocs.corpus())
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


# --- local files --------------------------------------------------------------------------------------------------


def read_file(path: Path) -> list[dict]:
    """The rows of a .jsonl, .json, .csv or .parquet file, as they are.

    Raises DataError: the file is missing, empty, of another kind, not UTF-8, or has a bad line (named).
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist or is not a file. Give a path to a {', '.join(SUFFIXES)} file.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes). It needs at least two rows, one to train on and one to hold out.")
    reader = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}.get(
        path.suffix.lower()
    )
    if reader is None:
        raise DataError(f"{path} ends in {path.suffix or 'nothing'}; known are {', '.join(SUFFIXES)}.")
    try:
        rows = reader(path)
    except UnicodeDecodeError:
        text = path.read_bytes().decode("utf-8", "surrogateescape")  # what is not UTF-8 becomes a lone surrogate
        number = text.count("\n", 0, re.search("[\udc80-\udcff]", text).start()) + 1
        raise DataError(f"{path}, line {number} is not UTF-8. Save the file as UTF-8 and try again.") from None
    if not rows:
        raise DataError(f"{path} has no rows. It needs at least two, one to train on and one to hold out.")
    return rows


def _read_jsonl(path: Path) -> list[dict]:
    rows = []
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                what = _json_fault(error)  # without its line number, which is that of this one line
                raise DataError(f"{path}, line {number}: bad JSON ({what}). Each line must be one object.") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: {row!r:.60} is not an object like {{...}}.")
            rows.append(row)
    return rows


def _json_fault(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else "a number of thousands of digits"


def _row_at_fault(text: str) -> str:
    """`, row N` for the first element of a JSON list that Python cannot read, where its error gives no line."""
    number, gap = 0, re.match(r"\s*\[\s*", text)
    while gap:
        number += 1
        try:
            _, end = json.JSONDecoder().raw_decode(text, gap.end())
        except (ValueError, RecursionError):
            return f", row {number}"
        gap = re.compile(r"\s*,\s*").match(text, end)
    return ""


def _read_json(path: Path) -> list[dict]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: bad JSON ({error.msg}). Mend that line.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}{_row_at_fault(text)}: bad JSON ({_json_fault(error)}). Remove that value.") from None
    if not isinstance(content, list):
        raise DataError(f"{path} must hold a list of objects; for one object a line name the file .jsonl.")
    for number, row in enumerate(content, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: {row!r:.60} is not an object like {{...}}.")
    return content


def _read_csv(path: Path) -> list[dict]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        rows = []
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(
                        f"{path}, line {reader.line_num}: this row has not the {len(reader.fieldnames)} columns of the "
                        "header. Quote a cell that holds a comma or a line break."
                    )
                rows.append(row)
        except csv.Error as error:
            start = reader.line_num + 1  # it stands at the end of the last good row
            raise DataError(
                f"{path}, row from line {start}: {error}. Close every quoted cell, or use .jsonl."
            ) from None
    return rows


def _read_parquet(path: Path) -> list[dict]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
        table.validate(full=True)  # text that is not UTF-8, offsets that point nowhere
    except (pyarrow.ArrowException, OSError) as error:
        reason = (str(error) or "nothing in it can be read.").splitlines()[0]
        raise DataError(f"{path} is not a whole parquet file: {reason:.300} Copy it again, or write it anew.") from None
    try:
        return table.to_pylist()
    except (pyarrow.ArrowException, ValueError, OverflowError, LookupError) as error:
        raise DataError(
            f"{path} holds a value that Python has not ({error!s:.200}). Leave its column out, or write it as text."
        ) from None


# --- the Hub ------------------------------------------------------------------------------------------------------


def read_hub(name: str, limit: int) -> list[dict]:
    """The first `limit` rows of a Hub set `org/name[:config][@revision][#split]`, streamed.

    Raises DataError where the Hub cannot be reached, the set does not exist or is closed to you, naming the remedy.
    """
    import datasets
    import huggingface_hub

    repository, config, revision, split = re.fullmatch(
        r"([^:@#]+)(?::([^@#]+))?(?:@([^#]+))?(?:#(\w+))?", name
    ).groups()
    token = os.environ.get("HF_TOKEN") or None
    try:
        huggingface_hub.HfApi().dataset_info(repository, revision=revision, token=token)  # fails at once and says why
        stream = datasets.load_dataset(
            repository, config, split=split or "train", revision=revision, streaming=True, token=token
        )
        return list(stream.take(limit))
    except Exception as error:  # every kind the Hub client raises is a plain fact to the user
        raise DataError(f"{name}: {explain_hub_error(error, 'data set')}") from error


def explain_hub_error(error: BaseException, what: str) -> str:
    """One sentence for an error of the Hub client, naming the remedy. `what` is `model` or `data set`."""
    chain, seen = [], error
    while seen is not None and seen not in chain:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    kinds = {kind.__name__ for e in chain for kind in type(e).__mro__}
    status = next((s for e in chain if (s := getattr(getattr(e, "response", None), "status_code", None))), None)
    if "GatedRepoError" in kinds or status == 403 or "is a gated dataset" in str(error):
        return (
            f"the {what} is gated (403). Ask for access on its page, then set HF_TOKEN to a token of the account "
            "that was granted it."
        )
    if status == 401:
        return (
            f"the {what} does not exist, or is private and no valid token was given (401). Check the spelling; for a "
            "private one set HF_TOKEN (on Colab: a secret of that name)."
        )
    if "RepositoryNotFoundError" in kinds or "DatasetNotFoundError" in kinds or status == 404:
        return (
            f"there is no such {what} or revision on the Hub (404), or it is private. Check the spelling; for a "
            "private one set HF_TOKEN to a token of an account that may read it."
        )
    if kinds & {"TransportError", "ConnectionError", "LocalEntryNotFoundError"}:
        local = "the embedded smollm2-135m" if what == "model" else "the embedded pydocs"
        return (
            f"the Hub cannot be reached and this {what} is not in the cache. Go online, or use a local path or {local}."
        )
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


# --- common -------------------------------------------------------------------------------------------------------


def _hash(rows: list[dict]) -> str:
    text = "\n".join(json.dumps(row["messages"], sort_keys=True) for row in rows)
    return hashlib.sha256(text.encode()).hexdigest()


def _dataset(rows: list[dict]):
    import datasets

    return datasets.Dataset.from_list(rows)


def normalise(name: str, rows: list[dict]) -> list[dict]:
    """Rows `{id, task, messages, reference}` from rows of one known shape.

    Raises DataError: the shape is unknown, a row has other columns than the first, or a row cannot be read; names
    the first such row, counted from 1.
    """
    try:
        shape = chat.recognise(set(rows[0]))
    except DataError as error:
        raise DataError(f"{name}, row 1: {error}") from None
    out = []
    for number, row in enumerate(rows, 1):
        missing = chat.SHAPES[shape] - {key for key, value in row.items() if value is not None}
        if missing:
            raise DataError(
                f"{name}, row {number}: lacks {', '.join(sorted(missing))}, while row 1 is of the shape {shape}. "
                "A file must hold one shape: split it, or fill the column."
            )
        task = row.get("task") if isinstance(row.get("task"), str) else "text"
        try:
            messages = chat.to_messages(row, shape)
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
    questions = sorted({chat.fold(row["messages"]) for row in normal})
    if len(questions) < 2:
        raise DataError(f"{name} has {len(questions)} different question; at least two are needed to hold one out.")
    ranked = sorted(questions, key=lambda q: hashlib.sha256(f"{seed}\n{q}".encode()).digest())
    held_out = set(ranked[: max(1, min(len(ranked) - 1, round(test_share * len(ranked))))])
    sides: dict[bool, list[dict]] = {True: [], False: []}
    for row in normal:
        sides[chat.fold(row["messages"]) in held_out].append(row)
    return Source(name, _dataset(sides[False]), _dataset(sides[True]), len(rows), {}, _hash(normal))
