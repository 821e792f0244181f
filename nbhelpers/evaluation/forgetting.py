"""What a model has forgotten: things the untuned one can do and the training rows do not teach, asked again after.

The probes are in `data/probes.json`, written for this project; `data/README.md` says how they were made.

- `facts`, `arithmetic`: a question with four replies that differ in one word, the answer. The model chooses the reply
  that it finds most likely. The wrong answers are the right ones of other questions of the same group, so that every
  answer is right once and wrong three times: to prefer answers that are short, long, common or early in the alphabet
  gets about a quarter, as guessing does.
- `chat`, `prose`: how surprised the model is by an ordinary reply, and by ordinary prose (nats a token).
"""

import json
from dataclasses import dataclass

import datasets

from nbhelpers.core.statistics import Metric, estimate
from nbhelpers.core.storage import repository_root
from nbhelpers.evaluation import likelihood
from nbhelpers.models import encoding

CHOICES = 4
KINDS = {"facts": "share right", "arithmetic": "share right", "chat": "nats a token", "prose": "nats a token"}


@dataclass(frozen=True)
class Probe:
    """A question with its right reply and the wrong ones; a kind without wrong replies is measured by its loss."""

    kind: str
    question: str
    reply: str
    wrong: tuple[str, ...] = ()


def probes() -> list[Probe]:
    """All probes but the prose, in the order of the file."""
    content = _content()
    found = []
    for group in content["choices"]:
        pairs, count = group["pairs"], len(group["pairs"])
        for i, (subject, _) in enumerate(pairs):
            replies = [group["reply"].format(subject, pairs[(i + k) % count][1]) for k in range(CHOICES)]
            found.append(Probe(group["kind"], group["question"].format(subject), replies[0], tuple(replies[1:])))
    return found + [Probe("chat", question, reply) for question, reply in content["chat"]]


def _content() -> dict:
    return json.loads((repository_root() / "data" / "probes.json").read_text(encoding="utf-8"))


def measure(model, tokenizer, batch_size: int = 32, dtype: str | None = None) -> dict[str, list[float]]:
    """Kind -> one value a probe, in order: 1.0 or 0.0 where a reply was chosen, else nats a token.

    Args: as for `likelihood.held_out_loss`.
    """
    asked, encoded = probes(), []
    for probe in asked:
        for reply in (probe.reply, *probe.wrong):
            turns = [{"role": "user", "content": probe.question}, {"role": "assistant", "content": reply}]
            encoded.append(encoding.encode(turns, tokenizer))
    rows = datasets.Dataset.from_list(encoded).select_columns(["input_ids", "labels"])
    means = iter(likelihood.held_out_loss(model, tokenizer, rows, batch_size, dtype))
    tokens = iter(sum(label != encoding.IGNORE for label in row["labels"]) for row in encoded)
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for probe in asked:
        losses = [(next(means), next(tokens)) for _ in range(1 + len(probe.wrong))]
        if probe.wrong:
            surprise = [mean * count for mean, count in losses]  # of the whole reply: minus its log probability
            found[probe.kind].append(float(surprise[0] < min(surprise[1:])))
        else:
            found[probe.kind].append(losses[0][0])
    prose = likelihood.text_rows(_content()["prose"], tokenizer, max_length=256)
    found["prose"] = likelihood.held_out_loss(model, tokenizer, prose, batch_size, dtype)
    return found


def estimates(tuned: dict[str, list[float]], untuned: dict[str, list[float]]) -> dict[str, Metric]:
    """`"forgetting.<kind>"` -> the tuned model's mean and interval beside the untuned one's mean."""
    return {
        f"forgetting.{kind}": estimate(tuned[kind], untuned[kind], unit=unit, higher_is_better=unit == "share right")
        for kind, unit in KINDS.items()
    }


def results(measured: dict[str, dict[str, list[float]]], untuned: str) -> dict[str, Metric]:
    """`"A.forgetting.<kind>"` -> what `estimates` gives, of all models but the untuned one: for `run.finish`."""
    return {
        f"{name}.{key}": metric
        for name in measured
        if name != untuned
        for key, metric in estimates(measured[name], measured[untuned]).items()
    }


def change(tuned: dict[str, list[float]], untuned: dict[str, list[float]], kind: str) -> Metric:
    """The mean difference tuned - untuned of one kind, with the interval of the paired differences."""
    pairs = zip(tuned[kind], untuned[kind], strict=True)
    return estimate([t - u for t, u in pairs], unit=KINDS[kind], higher_is_better=KINDS[kind] == "share right")


def table(measured: dict[str, dict[str, list[float]]]):
    """A `pandas.DataFrame`: a row a kind, a column a model: the untuned one first, the others with their change."""
    import pandas as pd

    names = list(measured)
    untuned = measured[names[0]]
    cells: dict[str, dict[str, str]] = {name: {} for name in names}
    for kind, unit in KINDS.items():
        row = f"{kind} ({unit})"
        cells[names[0]][row] = f"{estimate(untuned[kind]).value:.2f}"
        for name in names[1:]:
            mean, moved = estimate(measured[name][kind]).value, change(measured[name], untuned, kind)
            cells[name][row] = f"{mean:.2f} ({moved.value:+.2f} [{moved.low:+.2f}, {moved.high:+.2f}])"
    return pd.DataFrame(cells)
