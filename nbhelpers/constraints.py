"""Instructions that a program can check: how an answer is to be written, whatever it says.

In the spirit of IFEval (Zhou et al. 2023, https://arxiv.org/abs/2311.07911), with wordings of our own. Each kind draws
its arguments, says what is wanted, and checks an answer. The kinds that are trained can also rewrite an answer so that
it obeys, which makes training rows of any task; those that are held out cannot, and are only ever asked.
"""

import itertools
import json
import random
import re
import statistics
import string
from collections.abc import Callable
from dataclasses import dataclass, field

from nbhelpers import evaluation
from nbhelpers.errors import ParameterError
from nbhelpers.run import repository_root

OPENERS = ("In short:", "Here it is:", "Summary:", "Answer:")
CLOSERS = ("That is all.", "End of answer.", "I hope this helps.")
RARE_WORDS = ("lantern", "harbor", "copper", "meadow", "velvet", "orchard", "thunder", "pebble")
_WORD = re.compile(r"\w+")
_COMMA = re.compile(r"(?<!\d),|,(?!\d)")  # but that of a number
_NO_END = r"(?<![.\s][A-HJ-Za-z]\.)(?<!\b[DM]r\.)(?<!\bMrs\.)(?<!\bvs\.)"  # behind the point of e.g., Dr., ...
_SENTENCE_END = re.compile(_NO_END + r"(?<=[.!?])[\"')\]]*(?:\s+|$)|\n+")


@dataclass(frozen=True)
class Kind:
    """One kind of constraint. All functions take its arguments by keyword.

    draw: `(rng, answer) -> arguments`, chosen so that some answer like this one can obey.
    say: arguments -> the instruction.
    holds: `(answer, **arguments)`: whether an answer obeys.
    write: `(answer, **arguments)` -> the same answer, obeying; None: this kind is held out from training.
    """

    draw: Callable[[random.Random, str], dict]
    say: Callable[..., str]
    holds: Callable[..., bool]
    write: Callable[..., str] | None = None


@dataclass(frozen=True)
class Constraint:
    """A kind with its arguments, as it stands behind a prompt."""

    kind: str
    arguments: dict = field(default_factory=dict)

    @property
    def instruction(self) -> str:
        return KINDS[self.kind].say(**self.arguments)

    def holds(self, answer: str) -> bool:
        """Whether the answer, to the letter, does what was asked; a blank one never does."""
        return bool(answer.strip()) and bool(KINDS[self.kind].holds(answer, **self.arguments))

    def holds_loosely(self, answer: str) -> bool:
        """Whether it does without its first line, its last line or its asterisks (Zhou et al. 2023, section 2.2).

        A model may say "Sure, here it is:" or write in bold and have understood all the same.
        """
        lines = answer.split("\n")
        parts = ["\n".join(part).strip() for part in (lines, lines[1:], lines[:-1], lines[1:-1])]
        return any(self.holds(text) for part in parts for text in (part, part.replace("*", "")))

    def write(self, answer: str) -> str:
        """The answer, obeying. Raises ParameterError for a kind that is held out."""
        write = KINDS[self.kind].write
        if write is None:
            raise ParameterError(f"{self.kind} is held out from training: nothing is written by it.")
        return write(answer, **self.arguments)


def words(text: str) -> int:
    """How many words a text has: runs of letters, digits and underscores."""
    return len(_WORD.findall(text))


def sentences(text: str) -> int:
    """How many sentences: pieces that end with a full stop, question or exclamation mark, or with their line.

    The mark counts before a space or the end; the point of `e.g.`, of a title and of a single letter ends none.
    """
    return sum(bool(_WORD.search(piece)) for piece in _SENTENCE_END.split(text.strip()))


def bullets(text: str) -> int:
    """How many lines are bullet points that begin with `*` (not bold) or `-`."""
    return len(re.findall(r"^\s*(?:\*[^*].*|-.*)$", text, re.M))


def _occurrences(word: str, text: str) -> int:
    return len(re.findall(re.escape(word), text, re.I))


def _is_json(text: str) -> bool:
    try:
        json.loads(re.sub(r"\A```(?:json)?|```\Z", "", text.strip(), flags=re.I))
    except (ValueError, RecursionError):
        return False
    return True


def _numbered(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"^\s*(\d+)[.)]\s+\S", text, re.M)]


def _highlights(text: str) -> int:
    found = re.findall(r"\*[^\n*]*\*", text) + re.findall(r"\*\*[^\n*]*\*\*", text)
    return sum(bool(part.strip("*").strip()) for part in found)


def _two_answers(text: str) -> bool:
    first, *between, last = [part.strip() for part in text.split("******")]
    parts = [*filter(None, [first]), *between, *filter(None, [last])]
    return len(parts) == 2 == len(set(parts) - {""})


def _paragraphs(text: str) -> list[str]:
    return [part for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]


def _split_evenly(text: str, parts: int) -> list[str]:
    """A text in `parts` pieces of about as many words each, none empty where there are words enough."""
    found = text.split()
    cuts = [round(i * len(found) / parts) for i in range(parts + 1)]
    return [" ".join(found[a:b]) for a, b in itertools.pairwise(cuts)]


def _keyword(rng: random.Random, answer: str) -> str:
    """A longer word of the answer itself, so that including it is no trick; else a rare one."""
    long = sorted({word.lower() for word in re.findall(r"[A-Za-z]{5,}", answer)})
    return rng.choice(long or list(RARE_WORDS))


def _shorten(answer: str, count: int) -> str:
    """The first `count` words, and what stands between them."""
    found = list(_WORD.finditer(answer))
    return answer if len(found) <= count else answer[: found[count - 1].end()]


def _plain(text: str) -> str:
    """Without the marks that other kinds count: asterisks, double quotation marks, and commas but those in numbers."""
    return _COMMA.sub("", re.sub(r"[*\"]", "", text))


def _nothing(rng: random.Random, answer: str) -> dict:
    return {}


KINDS: dict[str, Kind] = {
    # --- trained ---------------------------------------------------------------------------------------------------
    "at most words": Kind(
        lambda rng, answer: {"count": words(answer) + rng.randint(1, 4)},
        lambda count: f"Use at most {count} words.",
        lambda answer, count: words(answer) <= count,
        lambda answer, count: _shorten(answer, count),
    ),
    "lowercase": Kind(
        _nothing,
        lambda: "Write everything in lowercase letters.",
        lambda answer: answer.islower(),
        lambda answer: answer.lower(),
    ),
    "uppercase": Kind(
        _nothing,
        lambda: "Write everything in capital letters.",
        lambda answer: answer.isupper(),
        lambda answer: answer.upper(),
    ),
    "starts with": Kind(
        lambda rng, answer: {"phrase": rng.choice(OPENERS)},
        lambda phrase: f'Begin your answer with "{phrase}"',
        lambda answer, phrase: answer.lstrip().startswith(phrase),
        lambda answer, phrase: f"{phrase} {answer}",
    ),
    "ends with": Kind(
        lambda rng, answer: {"phrase": rng.choice(CLOSERS)},
        lambda phrase: f'End your answer with "{phrase}" and write nothing behind it.',
        lambda answer, phrase: answer.strip().strip('"').lower().endswith(phrase.lower()),
        lambda answer, phrase: f"{answer} {phrase}",
    ),
    "quoted": Kind(
        _nothing,
        lambda: "Put your whole answer between double quotation marks.",
        lambda answer: len(answer.strip()) > 1 and answer.strip()[0] == answer.strip()[-1] == '"',
        lambda answer: f'"{answer}"',
    ),
    "no commas": Kind(
        _nothing,
        lambda: "Do not use any commas.",
        lambda answer: "," not in answer,
        lambda answer: _COMMA.sub("", answer),  # of 3,5 nothing else can be made: such an answer does not obey
    ),
    "bullets": Kind(
        lambda rng, answer: {"count": rng.randint(2, 3)},
        lambda count: f"Write exactly {count} bullet points, each on a line that begins with *.",
        lambda answer, count: bullets(answer) == count,
        lambda answer, count: "\n".join(f"* {part}" for part in _split_evenly(_plain(answer), count) if part),
    ),
    "json": Kind(
        _nothing,
        lambda: "Give your whole answer as JSON.",
        _is_json,
        lambda answer: json.dumps({"answer": answer}, ensure_ascii=False),
    ),
    "title": Kind(
        _nothing,
        lambda: "Put a title above your answer, in double angle brackets like <<a title>>.",
        lambda answer: any(found.strip("<> ") for found in re.findall(r"<<[^\n]+>>", answer)),
        lambda answer: f"<<{_shorten(answer, 3)}>>\n{answer}",
    ),
    "include": Kind(
        lambda rng, answer: {"word": _keyword(rng, answer)},
        lambda word: f'Use the word "{word}".',
        lambda answer, word: _occurrences(word, answer) > 0,
        lambda answer, word: answer if _occurrences(word, answer) else f"{answer} ({word})",
    ),
    "postscript": Kind(
        _nothing,
        lambda: "Add a postscript at the end that begins with P.S.",
        lambda answer: re.search(r"p\.\s?s\.", answer.lower()) is not None,
        lambda answer: f"{answer}\nP.S. {CLOSERS[0]}",
    ),
    "one sentence": Kind(
        _nothing,
        lambda: "Answer in exactly one sentence.",
        lambda answer: sentences(answer) == 1,
        lambda answer: re.sub(rf"[.!?]+{_NO_END}(?=[\"')\]]*\s)", ";", " ".join(answer.split())),
    ),
    # --- held out: asked, never trained ----------------------------------------------------------------------------
    "at least words": Kind(
        lambda rng, answer: {"count": rng.randint(15, 30)},
        lambda count: f"Use at least {count} words.",
        lambda answer, count: words(answer) >= count,
    ),
    "avoid": Kind(
        lambda rng, answer: {"word": _keyword(rng, answer)},
        lambda word: f'Do not use the word "{word}".',
        lambda answer, word: re.search(rf"\b{re.escape(word)}\b", answer, re.I) is None,
    ),
    "word count": Kind(
        lambda rng, answer: {"word": rng.choice(RARE_WORDS), "count": rng.randint(2, 3)},
        lambda word, count: f'The word "{word}" must appear at least {count} times.',
        lambda answer, word, count: _occurrences(word, answer) >= count,
    ),
    "letter count": Kind(
        lambda rng, answer: {"letter": rng.choice(string.ascii_lowercase), "count": rng.randint(3, 6)},
        lambda letter, count: f"The letter {letter} must appear fewer than {count} times.",
        lambda answer, letter, count: answer.lower().count(letter) < count,
    ),
    "numbered": Kind(
        lambda rng, answer: {"count": rng.randint(2, 4)},
        lambda count: f"Write a numbered list of exactly {count} items, from 1. to {count}.",
        lambda answer, count: _numbered(answer) == list(range(1, count + 1)),
    ),
    "highlighted": Kind(
        lambda rng, answer: {"count": rng.randint(1, 2)},
        lambda count: f"Highlight at least {count} part{'s' * (count > 1)} of your answer with asterisks, *like this*.",
        lambda answer, count: _highlights(answer) >= count,
    ),
    "paragraphs": Kind(
        lambda rng, answer: {"count": rng.randint(2, 3)},
        lambda count: f"Write exactly {count} paragraphs with an empty line between them.",
        lambda answer, count: len(_paragraphs(answer)) == count,
    ),
    "placeholders": Kind(
        lambda rng, answer: {"count": rng.randint(1, 2)},
        lambda count: f"Use at least {count} placeholder{'s' * (count > 1)} in square brackets, such as [name].",
        lambda answer, count: len(re.findall(r"\[.*?\]", answer)) >= count,
    ),
    "two answers": Kind(
        _nothing,
        lambda: "Give two different answers with a line of six asterisks (******) between them.",
        lambda answer: "******" in answer and _two_answers(answer),
    ),
}
TRAINED = tuple(name for name, kind in KINDS.items() if kind.write)
HELD_OUT = tuple(name for name, kind in KINDS.items() if not kind.write)


def draw(kind: str, answer: str, seed: int) -> Constraint:
    """A constraint of this kind that fits an answer; the same seed gives the same one.

    Raises:
        ParameterError: there is no such kind.
    """
    if kind not in KINDS:
        raise ParameterError(f"kind={kind!r} is not one of {', '.join(KINDS)}.")
    return Constraint(kind, KINDS[kind].draw(random.Random(f"{seed} {kind} {answer}"), answer))


def constrained(row: dict, kind: str, seed: int, where: str = "behind") -> tuple[dict, Constraint]:
    """`(row, constraint)`: a row of one question and answer that also asks for the constraint.

    For a kind that is trained the answer obeys; for one that is held out the answer is as it was and only serves as
    the reference of the task.

    Args:
        where: the instruction stands `behind` the question, in the `system` prompt, or `later`, in a second turn that
            asks for the same answer once more.

    Raises:
        ParameterError: it stands nowhere else.
    """
    *before, question, answer = row["messages"]
    constraint = draw(kind, answer["content"], seed)
    instruction = constraint.instruction
    match where:
        case "behind":
            asked = [*before, question | {"content": f"{question['content']}\n\n{instruction}"}]
        case "system":
            own = [turn["content"] for turn in before if turn["role"] == "system"]
            system = {"role": "system", "content": "\n\n".join([*own, instruction])}
            asked = [system, *before[len(own) :], question]
        case "later":
            asked = [*before, question, answer, {"role": "user", "content": f"Give that answer again. {instruction}"}]
        case _:
            raise ParameterError(f"where={where!r} is neither behind, system nor later.")
    obeys = answer | {"content": constraint.write(answer["content"])} if KINDS[kind].write else answer
    return row | {"messages": [*asked, obeys], "reference": obeys["content"]}, constraint


def requests() -> list[dict]:
    """Ordinary requests with a short reply (`data/instructions.json`), as rows `{id, task, messages, reference}`.

    They are only asked, never trained on; the reply is what a constraint takes its measure from.
    """
    content = json.loads((repository_root() / "data" / "instructions.json").read_text(encoding="utf-8"))
    return [
        {"id": f"ordinary-{number}", "task": "ordinary", "reference": pair["reply"]}
        | {
            "messages": [
                {"role": "user", "content": pair["question"]},
                {"role": "assistant", "content": pair["reply"]},
            ]
        }
        for number, pair in enumerate(content["requests"], 1)
    ]


def mixture(
    rows: list[dict], share: float, seed: int, kinds: tuple[str, ...] = TRAINED, where: str = "behind"
) -> list[dict]:
    """The same rows, a share of which, drawn by the seed, also ask for a constraint.

    The kinds take turns, so that each is learned from as many rows; one that an answer cannot be made to obey, such as
    `42` in capital letters, is passed over.

    Args:
        rows: of one question and answer, in plain text: a JSON answer in capital letters is none.
        share: 0 to 1.
        kinds: those that can be trained, in turn.
        where: as for `constrained`.

    Raises:
        ParameterError: the share is outside of its range.
    """
    if not 0 <= share <= 1:
        raise ParameterError(f"share={share} is outside of 0 to 1.")
    chosen = set(random.Random(seed).sample(range(len(rows)), round(share * len(rows))))
    turns, made = itertools.cycle(kinds), []
    for i, row in enumerate(rows):
        for kind in itertools.islice(turns, len(kinds) if i in chosen else 0):
            asking, constraint = constrained(row, kind, seed, where)
            if constraint.holds(asking["reference"]):
                row = asking
                break
        made.append(row)
    return made


def questions(
    rows: list[dict], each: int, seed: int, kinds: tuple[str, ...] = TRAINED + HELD_OUT, where: str = "behind"
) -> list[tuple[list[dict], Constraint]]:
    """`(prompt, constraint)`, `each` for every kind, in their order.

    Args:
        rows: of a question with some answer, from which a constraint takes its measure; used in turn.
        where: as for `constrained`.

    Raises:
        ParameterError: there are fewer rows than `each`.
    """
    if len(rows) < each:
        raise ParameterError(f"{len(rows)} rows are too few to ask every kind of constraint {each} times.")
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    turns = itertools.cycle(rows[i] for i in order)
    made = [constrained(next(turns), kind, seed, where) for kind in kinds for _ in range(each)]
    return [(row["messages"][:-1], constraint) for row, constraint in made]


@dataclass(frozen=True)
class Obedience:
    """What a model did when it was asked for constraints: for every question the kind and what became of it."""

    kinds: list[str]
    strict: list[bool]
    loose: list[bool]
    stopped: list[bool]
    answers: list[str]

    def values(self, kinds: tuple[str, ...], how: str = "strict") -> list[float]:
        """`strict`, `loose` or `stopped` of the questions of these kinds, as 0 or 1, in order."""
        return [float(x) for kind, x in zip(self.kinds, getattr(self, how), strict=True) if kind in kinds]


def measure(model, tokenizer, asked: list[tuple[list[dict], Constraint]], **options) -> Obedience:
    """Ask a model and check each answer: instruction-level accuracy, strict and loose (Zhou et al. 2023, section 2.2).

    Args:
        asked: as `questions` returns it.
        options: of `evaluation.generate`.
    """
    answers = evaluation.generate(model, tokenizer, [prompt for prompt, _ in asked], **options)
    pairs = [(constraint, answer.text) for (_, constraint), answer in zip(asked, answers, strict=True)]
    return Obedience(
        [constraint.kind for constraint, _ in pairs],
        [constraint.holds(text) for constraint, text in pairs],
        [constraint.holds_loosely(text) for constraint, text in pairs],
        [answer.stopped for answer in answers],
        [text for _, text in pairs],
    )


def table(found: dict[str, Obedience]):
    """A `pandas.DataFrame`: a row a kind that was asked, trained ones first, and for each model its strict accuracy."""
    import pandas as pd

    asked = {kind for obedience in found.values() for kind in obedience.kinds}
    rows = {
        kind if kind in TRAINED else f"{kind} (held out)": {
            name: statistics.fmean(obedience.values((kind,))) for name, obedience in found.items()
        }
        for kind in (*TRAINED, *HELD_OUT)
        if kind in asked
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("kind")
