"""How many documents a second each step of cleaning takes, and how near-duplicates do beside datasketch and rensa.

The peers come with `pip install -r benchmarks/requirements.txt`. At every size the documents are the same mixture: real
docstrings (`pydocs`); docstrings with an invented word among every eight, as in `tests/test_scale.py`; and copies of
either, rewritten, mistyped, or with some of their words left out or replaced. A step takes what the one before it kept.
Reading and making documents is not timed.

Every variant of near-duplicates does the whole job, rows to rows: the first of its kind is kept, and later rows are
compared with kept ones alone. All take the same words (`wording.words`, repetitions counted), threshold, number of
permutations and bands, and leave out short texts. They differ in what they call a pair:

    ours                    every candidate compared exactly, words mistyped by one keystroke forgiven (`drop_near`)
    rensa, exact            every candidate compared exactly, nothing forgiven
    datasketch, exact       the same
    rensa, estimated        its own deduplicator: sketches are compared, texts are not, and it names no witness
    datasketch, estimated   sketches are compared, texts are not

Sampled rows are judged by brute force against every earlier row, by plain Jaccard of their words and by the exact
`DuplicateIndex.similarity`, which forgives mistakes and so finds more: a dropped row is right where an earlier row is
similar, a kept row is missed where an earlier kept row is. Recall of ours is quoted by plain Jaccard, which it has to
cover, and its precision by its own similarity, which is what it promises and hardly can break: that the similarity
itself is right, `tests/test_duplicates.py` shows by another way of counting. The tables have both by both.
"""

import gc
import math
import random
import statistics
import time
import zlib
from collections.abc import Callable, Iterable

import common
import datasets
import numpy as np

from nbhelpers.data import cleaning, contamination, defects_copies, duplicates, pydocs, splits, wording

DOCUMENTS = (10_000, 50_000, 100_000)
STEP_ROUNDS = 3
THRESHOLD, MIN_WORDS, SEED = 0.95, 20, 0
SAMPLE = 3_000  # rows judged at each size
BLOCK = 10  # neighbouring docstrings, taken or left together
REAL, INVENTED = 0.35, 0.5  # shares of docstrings as they are and with invented words; the rest are copies
FAMILIES = ("case", "whitespace", "punctuation", "word swaps 5 %", "edits 1 %", "edits 2 %", "edits 5 %", "edits 10 %")
MOST_CHANGED = 0.12  # of the words of a copy

# --- documents ----------------------------------------------------------------------------------------------------


def docstrings() -> list[list[dict]]:
    """The texts of `pydocs`, each once, in blocks of `BLOCK` neighbours, which often resemble each other.

    The blocks are in order of their length, so that evenly chosen ones have the same mixture of lengths.
    """
    unique = {duplicates._fold(entry["text"]): entry for entry in pydocs.corpus()}
    found = [{"text": e["text"], "package": e["package"], "origin": i} for i, e in enumerate(unique.values())]
    blocks = [found[i : i + BLOCK] for i in range(0, len(found), BLOCK)]
    return sorted(blocks, key=lambda block: sum(len(entry["text"]) for entry in block))


def evenly(items: list, count: int) -> list:
    """So many of the items, as far from each other as can be; several times where there are less."""
    return [items[number * len(items) // count] for number in range(count)]


def invented(text: str, rng: random.Random) -> str:
    """The text with an invented word among every eight, so that two such texts are no near-duplicates."""
    words = text.split(" ")
    for _ in range(1 + len(words) // 8):
        words.insert(rng.randrange(len(words) + 1), f"{rng.choice(('item', 'case', 'part'))}{rng.randrange(10**6)}")
    return " ".join(words)


def copied(text: str, others: list[str], rng: random.Random) -> str:
    """The text in another form, or with up to `MOST_CHANGED` of its words left out or replaced by words of others."""
    if rng.random() < 0.5:
        return defects_copies.COPIES[rng.choice(FAMILIES)](text, rng)
    words, replaced = text.split(" "), rng.random() < 0.5
    for place in rng.sample(range(len(words)), round(rng.uniform(0, MOST_CHANGED) * len(words))):
        words[place] = rng.choice(rng.choice(others).split() or [""]) if replaced else ""
    return " ".join(word for word in words if word)


def documents(blocks: list[list[dict]], count: int) -> list[dict]:
    """`{id, text, package, origin}`, origin being the number of the docstring: the same mixture at every count."""
    rng = random.Random(SEED)

    def by_length(rows: list[dict]) -> list[dict]:
        return sorted(rows, key=lambda row: len(row["text"]))

    real = by_length([entry for block in evenly(blocks, round(REAL * count / BLOCK)) for entry in block])
    made = real + [row | {"text": invented(row["text"], rng)} for row in evenly(real, round(INVENTED * count))]
    texts = [row["text"] for row in made]
    long = by_length([row for row in made if len(wording.words(row["text"])) >= MIN_WORDS])
    made += [row | {"text": copied(row["text"], texts, rng)} for row in evenly(long, count - len(made))]
    rng.shuffle(made)
    return [{"id": f"document-{number}"} | row for number, row in enumerate(made)]


# --- near-duplicates ----------------------------------------------------------------------------------------------


def tokens(text: str) -> list[str]:
    """The words of a text; one that comes again is numbered, so that a set of them counts repetitions."""
    seen: dict[str, int] = {}
    out = []
    for word in wording.words(text):
        if word in seen:
            count = seen[word] = seen[word] + 1
            out.append(f"{word} {count}")
        else:
            seen[word] = 1
            out.append(word)
    return out


Match = tuple[int, float] | None  # the earlier text that one repeats, by its place, and how similar it is


def nearest(mine: set[str], kept: dict[int, set[str]], candidates: Iterable[int]) -> Match:
    """The candidate of the greatest Jaccard similarity, where that reaches the threshold."""
    best = None
    for key in candidates:
        shared = len(mine & kept[key])
        value = shared / (len(mine) + len(kept[key]) - shared)
        if value >= THRESHOLD and (best is None or value > best[1]):
            best = key, value
            if value == 1:
                break
    return best


def rensa_exact(texts: list[str]) -> list[Match]:
    from rensa import RMinHash, RMinHashLSH

    counted = [tokens(text) for text in texts]
    sketches = RMinHash.from_token_sets(counted, duplicates.PERMUTATIONS, SEED)
    lsh, kept = RMinHashLSH(THRESHOLD, duplicates.PERMUTATIONS, duplicates.BANDS), {}
    found: list[Match] = [None] * len(texts)
    for place, (words, sketch) in enumerate(zip(counted, sketches, strict=True)):
        if len(words) >= MIN_WORDS:
            mine = set(words)
            found[place] = nearest(mine, kept, lsh.query(sketch))
            if found[place] is None:
                lsh.insert(place, sketch)
                kept[place] = mine
    return found


def rensa_estimated(texts: list[str]) -> list[Match]:
    from rensa import RMinHashDeduplicator

    counted = [tokens(text) for text in texts]
    index = RMinHashDeduplicator(THRESHOLD, duplicates.PERMUTATIONS, True, duplicates.BANDS, SEED)
    long = [place for place, words in enumerate(counted) if len(words) >= MIN_WORDS]
    added = index.add_pairs((str(place), counted[place]) for place in long)
    repeated = {place for place, new in zip(long, added, strict=True) if not new}
    return [(place, THRESHOLD) if place in repeated else None for place in range(len(texts))]  # which, it does not say


def datasketch_exact(texts: list[str]) -> list[Match]:
    counted, sketches, lsh = _datasketch(texts)
    found: list[Match] = [None] * len(texts)
    kept: dict[int, set[str]] = {}
    for place, (words, sketch) in enumerate(zip(counted, sketches, strict=True)):
        if len(words) >= MIN_WORDS:
            mine = set(words)
            found[place] = nearest(mine, kept, lsh.query(sketch))
            if found[place] is None:
                lsh.insert(place, sketch, check_duplication=False)
                kept[place] = mine
    return found


def datasketch_estimated(texts: list[str]) -> list[Match]:
    counted, sketches, lsh = _datasketch(texts)
    found: list[Match] = [None] * len(texts)
    kept = {}
    for place, (words, sketch) in enumerate(zip(counted, sketches, strict=True)):
        if len(words) >= MIN_WORDS:
            values = ((sketch.jaccard(kept[key]), key) for key in lsh.query(sketch))
            value, key = max(values, default=(0.0, 0))
            if value >= THRESHOLD:
                found[place] = key, value
            else:
                lsh.insert(place, sketch, check_duplication=False)
                kept[place] = sketch
    return found


def _datasketch(texts: list[str]) -> tuple:
    """Words, sketches and an empty index; words are hashed by CRC-32, since SHA-1, the default, takes twice as long."""
    from datasketch import MinHash, MinHashLSH

    counted = [tokens(text) for text in texts]
    encoded = ([word.encode() for word in words] for words in counted)
    sketches = MinHash.generator(encoded, num_perm=duplicates.PERMUTATIONS, seed=SEED, hashfunc=zlib.crc32)
    bands = duplicates.BANDS, duplicates.PERMUTATIONS // duplicates.BANDS
    return counted, sketches, MinHashLSH(num_perm=duplicates.PERMUTATIONS, params=bands)


def as_step(find: Callable[[list[str]], list[Match]]) -> Callable:
    """A step of cleaning that drops what `find` finds, as `drop_near` does."""

    def step(rows) -> cleaning.Cleaned:
        ids = rows["id"][:]
        verdicts = [
            ("near-duplicate", f"{ids[match[0]]} {match[1]:.3f}") if match else None
            for match in find(cleaning.texts(rows))
        ]
        return cleaning.filtered("near-duplicates", rows, verdicts)

    return step


OURS = "ours"
VARIANTS = {
    OURS: lambda rows: duplicates.drop_near(rows, THRESHOLD, SEED),
    "rensa, exact": as_step(rensa_exact),
    "rensa, estimated": as_step(rensa_estimated),
    "datasketch, exact": as_step(datasketch_exact),
    "datasketch, estimated": as_step(datasketch_estimated),
}

# --- brute force --------------------------------------------------------------------------------------------------


class Truth:
    """Of sampled rows, the earlier rows that are similar: by plain Jaccard, and with mistakes forgiven.

    All earlier rows are compared, but for those so much shorter or longer that no words could make up for it. Rows are
    numbered by their place among those of `MIN_WORDS` words or more; shorter ones are never near-duplicates.
    """

    def __init__(self, raw: list[dict], sample: int):
        index = duplicates.DuplicateIndex(THRESHOLD, SEED, MIN_WORDS)
        index.add([row["id"] for row in raw], [row["text"] for row in raw], compare=False)  # keeps every long text
        by_id = {row["id"]: row["origin"] for row in raw}
        self.ids, kept = index._ids, index._kept
        self.origins = [by_id[name] for name in self.ids]
        lengths = np.array([len(numbers) for numbers in kept])
        order = np.argsort(lengths, kind="stable")  # rows of like length stand together
        lengths, flat = lengths[order], np.concatenate([np.asarray(kept[i]) for i in order])
        starts = np.concatenate([[0], np.cumsum(lengths)])
        has = np.zeros(flat.max() + 1, bool)
        self.plain: dict[int, list[int]] = {}
        self.forgiving: dict[int, list[int]] = {}
        for i in sorted(random.Random(SEED).sample(range(len(kept)), min(sample, len(kept)))):
            length, numbers = len(kept[i]), np.asarray(kept[i])
            first = np.searchsorted(lengths, math.floor(THRESHOLD * length))  # the rest is too short or too long
            last = np.searchsorted(lengths, math.ceil(length / THRESHOLD), "right")
            has[numbers] = True
            shared = np.add.reduceat(
                has[flat[starts[first] : starts[last]]], starts[first:last] - starts[first], dtype=int
            )
            has[numbers] = False
            earlier = order[first:last] < i
            rows, shared, total = order[first:last][earlier], shared[earlier], lengths[first:last][earlier] + length
            self.plain[i] = rows[shared / (total - shared) >= THRESHOLD].tolist()
            alike = rows[shared >= 0.6 * length].tolist()  # where fewer words are shared, mistakes are not forgiven
            mine = set(kept[i])
            self.forgiving[i] = [j for j in alike if index.similarity(kept[j], mine)]

    def judge(self, dropped: set[str]) -> dict:
        """recall and precision of a variant by either measure, and what they are made of."""
        gone = [name in dropped for name in self.ids]
        return {"plain": self._judge(gone, self.plain), "forgiving": self._judge(gone, self.forgiving)}

    def _judge(self, gone: list[bool], similar_to: dict[int, list[int]]) -> dict:
        right = [i for i, rows in similar_to.items() if gone[i] and rows]
        missed = [i for i, rows in similar_to.items() if not gone[i] and any(not gone[j] for j in rows)]
        out = sum(gone[i] for i in similar_to)

        def natural(found: list[int]) -> int:
            return sum(all(self.origins[j] != self.origins[i] for j in similar_to[i]) for i in found)

        return {
            "recall": len(right) / max(1, len(right) + len(missed)),
            "precision": len(right) / max(1, out),
            "judged": len(similar_to),
            "dropped": out,
            "right": len(right),
            "missed": len(missed),
            "right_natural": natural(right),  # similar to rows from other docstrings alone
            "missed_natural": natural(missed),
        }


# --- every step ---------------------------------------------------------------------------------------------------


def clean(raw: list[dict]) -> dict[str, tuple[int, float]]:
    """Every step in turn: `(rows read, seconds)`."""
    taken: dict[str, tuple[int, float]] = {}

    def timed(name: str, read: int, step: Callable):
        gc.collect()
        start = time.perf_counter()
        done = step()
        taken[name] = read, time.perf_counter() - start
        return done

    rows = timed("validate", len(raw), lambda: cleaning.validate(raw)).rows
    for step in (
        *(cleaning.normalise, cleaning.keep_language, cleaning.filter_quality),
        *(duplicates.drop_exact, duplicates.drop_near, cleaning.redact),
    ):
        rows = timed(step.__name__, len(rows), lambda step=step, rows=rows: step(rows)).rows
    train, test = timed("split", len(rows), lambda: splits.split(rows, seed=SEED))
    timed("decontaminate", len(train), lambda: contamination.decontaminate(train, test))
    return taken


# --- the run ------------------------------------------------------------------------------------------------------


def exponents(counts: list[int], seconds: list[list[float]]) -> dict[str, float] | None:
    """The spread over the rounds of the slope of log time over log documents; None for one count."""
    if len(counts) < 2:
        return None
    return common.spread(
        [
            statistics.linear_regression([math.log(count) for count in counts], [math.log(s) for s in of_round]).slope
            for of_round in zip(*seconds, strict=True)
        ]
    )


def near_duplicates(made: dict[int, list[dict]], rounds: int, sample: int) -> dict:
    rows_of = {
        count: datasets.Dataset.from_dict({key: [row[key] for row in raw] for key in ("id", "text")})
        for count, raw in made.items()
    }
    dropped: dict[str, set[str]] = {}

    def measured(name: str, step: Callable, rows) -> Callable[[int], dict[str, float]]:
        def measure(_: int) -> dict[str, float]:
            gc.collect()
            start = time.perf_counter()
            done = step(rows)
            seconds = time.perf_counter() - start
            dropped[name] = {line[0] for line in done.log}
            return {"seconds": seconds, "documents_per_second": len(rows) / seconds}

        return measure

    for step in VARIANTS.values():  # loads what each needs
        step(next(iter(rows_of.values())).select(range(100)))
    figures = common.interleave(
        {
            f"{name}, {count:,}": measured(f"{name}, {count:,}", step, rows)
            for count, rows in rows_of.items()
            for name, step in VARIANTS.items()
        },
        rounds,
    )
    truths = {count: Truth(raw, sample) for count, raw in made.items()}
    results = {}
    for name in VARIANTS:
        sizes = {}
        for count in made:
            at = f"{name}, {count:,}"
            sizes[count] = {key: common.spread(values) for key, values in figures[at].items()}
            sizes[count]["times_the_time_of_ours"] = common.ratio(figures, "seconds", at, f"{OURS}, {count:,}")
            sizes[count] |= {"dropped": len(dropped[at]), "judged_by": truths[count].judge(dropped[at])}
        growth = exponents(list(made), [figures[f"{name}, {count:,}"]["seconds"] for count in made])
        results[name] = {"sizes": sizes, "growth_exponent": growth}
    return results


def steps(made: dict[int, list[dict]], rounds: int) -> dict:
    read: dict[int, dict[str, int]] = {}

    def measured(count: int) -> Callable[[int], dict[str, float]]:
        def measure(_: int) -> dict[str, float]:
            taken = clean(made[count])
            read[count] = {name: rows for name, (rows, _) in taken.items()}
            return {name: seconds for name, (_, seconds) in taken.items()}

        return measure

    clean(next(iter(made.values()))[:1_000])  # loads what the steps need
    figures = common.interleave({f"every step, {count:,}": measured(count) for count in made}, rounds)
    results = {}
    for name in next(iter(read.values())):
        seconds = {count: figures[f"every step, {count:,}"][name] for count in made}
        results[name] = {
            "sizes": {
                count: {
                    "read": read[count][name],
                    "seconds": common.spread(values),
                    "documents_per_second": common.spread([read[count][name] / value for value in values]),
                }
                for count, values in seconds.items()
            },
            "growth_exponent": exponents([read[count][name] for count in made], list(seconds.values())),
        }
    return results


def shown(spread: dict[str, float] | None, digits: int = 0) -> str:
    if spread is None:
        return "-"
    return f"{spread['median']:,.{digits}f} [{spread['low']:,.{digits}f}, {spread['high']:,.{digits}f}]"


def speed_table(results: dict, head: str) -> str:
    return common.table(
        [
            {head: name}
            | {f"{count:,} documents/s": shown(size["documents_per_second"]) for count, size in result["sizes"].items()}
            | {"exponent": shown(result["growth_exponent"], 3)}
            for name, result in results.items()
        ]
    )


def quality_table(results: dict) -> str:
    lines = []
    for name, result in results.items():
        for count, size in result["sizes"].items():
            plain, forgiving = size["judged_by"]["plain"], size["judged_by"]["forgiving"]
            lines.append(
                {"near-duplicates": name, "documents": f"{count:,}", "dropped": f"{size['dropped']:,}"}
                | {"time/ours": shown(size["times_the_time_of_ours"], 2)}
                | {f"{key}, plain": f"{plain[key]:.3f}" for key in ("recall", "precision")}
                | {f"{key}, forgiving": f"{forgiving[key]:.3f}" for key in ("recall", "precision")}
                | {"right + missed, plain": f"{plain['right']} + {plain['missed']}"}
                | {"of these natural": f"{plain['right_natural']} + {plain['missed_natural']}"}
            )
    return common.table(lines)


def targets(results: dict) -> list[dict]:
    """What was asked of near-duplicates and what ours reached: medians of the rounds, of the worst size."""
    sizes, growth = results[OURS]["sizes"].values(), results[OURS]["growth_exponent"]
    recall = min(size["judged_by"]["plain"]["recall"] for size in sizes)
    precision = min(size["judged_by"]["forgiving"]["precision"] for size in sizes)

    def speed(kind: str) -> float:
        peers = [result for name, result in results.items() if name.endswith(kind)]
        return min(size["times_the_time_of_ours"]["median"] for peer in peers for size in peer["sizes"].values())

    lines = [("growth exponent", "at most", 1.15, growth["median"])] if growth else []
    lines += [("recall", "at least", 0.95, recall), ("precision", "at least", 0.98, precision)]
    lines += [(f"speed over the faster peer, {kind}", "at least", 1.0, speed(kind)) for kind in ("exact", "estimated")]
    return [
        {"target": name, "asked": f"{bound} {value}", "measured": f"{found:.3f}"}
        | {"met": "yes" if (found <= value if bound == "at most" else found >= value) else "no"}
        for name, bound, value, found in lines
    ]


def main() -> None:
    began = time.perf_counter()
    parser = common.parser(__doc__)
    parser.add_argument("--documents", type=int, nargs="+", default=DOCUMENTS, metavar="COUNT", help="sizes to measure")
    parser.add_argument("--step-rounds", type=int, default=STEP_ROUNDS, help=f"of every step (default: {STEP_ROUNDS})")
    parser.add_argument("--sample", type=int, default=SAMPLE, help=f"rows judged at each size (default: {SAMPLE:,})")
    arguments = parser.parse_args()
    blocks, counts = docstrings(), sorted(set(arguments.documents))
    most = int(BLOCK * len(blocks) / REAL)
    if not 1_000 <= counts[0] <= counts[-1] <= most:
        parser.error(f"--documents takes counts from 1,000 to {most:,}, since {REAL:.0%} are docstrings as they are.")
    facts = common.machine()
    made = {count: documents(blocks, count) for count in counts}
    gc.collect()
    gc.freeze()  # what is there before is not searched for garbage while a variant runs
    print(f"{time.perf_counter() - began:.0f} s to read and make documents\n")
    results = {
        "near_duplicates": near_duplicates(made, arguments.rounds, arguments.sample),
        "steps": steps(made, arguments.step_rounds),
        "settings": {"threshold": THRESHOLD, "min_words": MIN_WORDS, "permutations": duplicates.PERMUTATIONS}
        | {"bands": duplicates.BANDS, "sample": arguments.sample, "docstrings": sum(map(len, blocks))},
    }
    results["targets"] = targets(results["near_duplicates"])
    for table in (
        speed_table(results["steps"], "step"),
        speed_table(results["near_duplicates"], "near-duplicates"),
        quality_table(results["near_duplicates"]),
        common.table(results["targets"]),
    ):
        print(f"\n{table}")
    results["seconds"] = time.perf_counter() - began
    print(f"\n{results['seconds'] / 60:.1f} minutes")
    common.write("data_preparation", arguments.output, facts, results)


if __name__ == "__main__":
    main()
