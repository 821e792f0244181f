"""Instructions that a program can check: how an answer is to be written, whatever it says.

In the spirit of IFEval (Zhou et al. 2023, https://arxiv.org/abs/2311.07911), with wordings of our own. Each kind draws
its arguments, says what is wanted, and checks an answer. The kinds that are trained can also rewrite an answer so that
it obeys, which makes training rows of any task; those that are held out cannot, and are only ever asked.
"""

import itertools
import json
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from nbhelpers.core.errors import ParameterError
from nbhelpers.core.statistics import Metric, estimate
from nbhelpers.core.storage import repository_root
from nbhelpers.evaluation import generation
from nbhelpers.evaluation.constraint_kinds import HELD_OUT, KINDS, TRAINED


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

    Notebook 05 alone trains on answers to some of them; the reply is what a constraint takes its measure from.
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
        options: of `generation.generate`.
    """
    return check_answers(partial(generation.generate, model, tokenizer, **options), asked)


def check_answers(ask: Callable, asked: list[tuple[list[dict], Constraint]]) -> Obedience:
    """`measure` for whatever answers: `ask(prompts)` gives one `generation.Answer` for each, in order."""
    answers = ask([prompt for prompt, _ in asked])
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


def by_group(found: dict[str, Obedience], groups: dict[str, tuple[str, ...]]) -> dict[str, dict[str, list[float]]]:
    """`"group.strict"` and `"group.loose"` -> model -> for each question of the group's kinds whether it was obeyed."""
    return {
        f"{group}.{how}": {name: obedience.values(kinds, how) for name, obedience in found.items()}
        for group, kinds in groups.items()
        for how in ("strict", "loose")
    }


def gains_table(values: dict[str, dict[str, list[float]]], gains: dict[str, Metric]):
    """A `pandas.DataFrame`: a row a group, a column a model and the gain, each cell `mean [low, high]`."""
    import pandas as pd

    cells = {
        name: {who: estimate(found) for who, found in by_model.items()} | {"gain": gains[name]}
        for name, by_model in values.items()
    }
    return pd.DataFrame(cells).T.map(lambda m: f"{m.value:.2f} [{m.low:.2f}, {m.high:.2f}]")
