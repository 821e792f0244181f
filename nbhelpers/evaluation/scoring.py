"""A model's answers scored on held-out rows, and two models set side by side on the same rows."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from nbhelpers.core.errors import AuditError
from nbhelpers.core.statistics import Metric, estimate
from nbhelpers.evaluation import generation, scores
from nbhelpers.evaluation.generation import Answer
from nbhelpers.models import encoding


@dataclass(frozen=True)
class Evaluation:
    """One model on held-out rows: `rows` has, in order, `{id, task, reference, answer, stopped, scores}`."""

    name: str
    rows: list[dict]

    def values(self, task: str, score: str) -> list[float]:
        """One score of every row of a task, in order."""
        return [row["scores"][score] for row in self.rows if row["task"] == task]

    @property
    def scores(self) -> list[tuple[str, str]]:
        """Every (task, score) there is, in order."""
        return list(dict.fromkeys((row["task"], score) for row in self.rows for score in row["scores"]))


def evaluate(name: str, model, tokenizer, rows, examples: dict | None = None, **options) -> Evaluation:
    """Answer every row's question and score the answer against its reference.

    Args:
        name: what tables call this model.
        rows: `datasets.Dataset` with `id, task, messages, reference`.
        examples: task -> solved conversations shown before the question (few-shot); None: zero-shot.
        options: as for `generation.generate`.
    """
    return evaluate_answers(name, partial(generation.generate, model, tokenizer, **options), rows, examples)


def evaluate_answers(name: str, ask: Callable, rows, examples: dict | None = None) -> Evaluation:
    """`evaluate` for whatever answers: `ask(prompts)` gives one `generation.Answer` for each, in order."""
    prompts = [encoding.with_examples(row["messages"], (examples or {}).get(row["task"], [])) for row in rows]
    tasks = list(rows["task"])
    answers: dict[int, Answer] = {}
    for task in dict.fromkeys(tasks):  # answers of one task are alike in length, so that a batch ends together
        members = [i for i, name in enumerate(tasks) if name == task]
        answers |= zip(members, ask([prompts[i] for i in members]), strict=True)
    scored = [
        {key: row[key] for key in ("id", "task", "reference")}
        | {"answer": answers[i].text, "stopped": answers[i].stopped}
        | {"scores": scores.score(row["task"], answers[i].text, row["reference"])}
        for i, row in enumerate(rows)
    ]
    return Evaluation(name, scored)


def solved_examples(rows, tasks: list[str], count: int = 3) -> dict[str, list[list[dict]]]:
    """Task -> `count` solved conversations from rows to train on, short but not the shortest, for `evaluate`."""
    found = {}
    for task in tasks:
        ordered = sorted((row for row in rows if row["task"] == task), key=lambda row: len(row["input_ids"]))
        found[task] = [row["messages"] for row in ordered[len(ordered) // 4 :][:count]]
    return found


def compare(tuned: Evaluation, baseline: Evaluation) -> dict[str, Metric]:
    """`"task.score"` -> the tuned model's mean and interval beside the baseline's mean, on the same rows."""
    return {
        f"{task}.{score}": estimate(tuned.values(task, score), baseline.values(task, score))
        for task, score in tuned.scores
    }


def gain(tuned: Evaluation, baseline: Evaluation, task: str, score: str) -> Metric:
    """The mean difference tuned - baseline with the interval of the paired differences.

    An interval that does not hold 0 is an effect beyond chance for these rows and this seed.
    """
    pairs = zip(tuned.values(task, score), baseline.values(task, score), strict=True)
    return estimate([t - b for t, b in pairs])


def headlines(evaluation: Evaluation) -> list[tuple[str, str]]:
    """The (task, score) that are compared: all but `keys_f1`, which is a part of another."""
    return [(task, score) for task, score in evaluation.scores if score != "keys_f1"]


def gains(tuned, baselines) -> dict[str, Metric]:
    """`"A over B, task.score"` -> the paired gain, for every evaluation of `tuned` over every one of `baselines`."""
    baselines = list(baselines)
    return {
        f"{first.name} over {second.name}, {task}.{score}": gain(first, second, task, score)
        for task, score in headlines(baselines[0])
        for first in tuned
        for second in baselines
    }


def gains_table(found: dict[str, Metric]):
    """The gains with their intervals, as a `pandas.DataFrame`."""
    import pandas as pd

    cells = {key: f"{m.value:+.2f} [{m.low:+.2f}, {m.high:+.2f}]" for key, m in found.items()}
    return pd.Series(cells, name="gain").to_frame()


def results(evaluations: list[Evaluation], baseline: Evaluation) -> dict[str, Metric]:
    """`"A.task.score"` -> what `compare` gives, of all evaluations: what `run.finish` writes."""
    return {f"{one.name}.{key}": metric for one in evaluations for key, metric in compare(one, baseline).items()}


def show_side_by_side(evaluations: list[Evaluation], per_task: int = 2, width: int = 120) -> None:
    """Print the first questions of each task: the reference, and under it what each model answered."""
    rows = evaluations[0].rows
    for task in dict.fromkeys(row["task"] for row in rows):
        for i in [i for i, row in enumerate(rows) if row["task"] == task][:per_task]:
            print(f"{task}\n  {'reference':20} {rows[i]['reference']}")
            for one in evaluations:
                print(f"  {one.name:20} {one.rows[i]['answer'][:width]!r}")


def require_effect(gains: dict[str, Metric], least: dict[str, float], strict: bool) -> None:
    """Check that tuning did what it promises: each gain's interval lies above 0 and each value is at least `least`.

    Args:
        gains: name -> value or paired difference with its interval; those that `least` does not name are left alone.
        least: name -> the smallest acceptable value.
        strict: raise AuditError on a miss (the project's own default run); otherwise print a warning.
    """
    misses = [
        f"{name} is {m.value:.2f} [{m.low:.2f}, {m.high:.2f}], expected at least {least[name]:.2f} and a low above 0"
        for name, m in ((name, gains[name]) for name in least)
        if m.value < least[name] or m.low <= 0
    ]
    if misses and strict:
        raise AuditError("Tuning did not have its effect:\n  - " + "\n  - ".join(misses))
    for miss in misses:
        print(f"WARNING: {miss}")


def table(evaluations: list[Evaluation]):
    """A `pandas.DataFrame`: a row a score, a column a model, each cell `mean [low, high]`."""
    import pandas as pd

    cells = {}
    for evaluation in evaluations:
        for task, score in evaluation.scores:
            m = estimate(evaluation.values(task, score))
            cells.setdefault((task, score), {})[evaluation.name] = f"{m.value:.2f} [{m.low:.2f}, {m.high:.2f}]"
    frame = pd.DataFrame.from_dict(cells, orient="index")
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=["task", "score"])
    return frame
