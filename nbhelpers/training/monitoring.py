"""Named rules that tell, while a training runs, that it goes wrong: it diverges, stands still, or overfits.

Each rule is a function of the losses so far; `Diagnosis` applies them live. A sound training breaks none of them: its
end, where the schedule lets the learning rate fall to nothing, is no plateau.
"""

import math
import statistics
from dataclasses import dataclass

import numpy as np
from transformers import TrainerCallback

WINDOW = 4  # training losses that are averaged: a batch's loss depends on which rows are in it
PATIENCE = 2  # held-out losses in a row that must agree
LEAST = 0.01  # share of a held-out loss below which a change is none


def divergence(losses: list[float], guessing: float, window: int = WINDOW, factor: float = 2.0) -> str | None:
    """Each of the last `window` training losses is `factor` times the lowest mean of as many before it.

    Each, because batches differ: a few of a harder kind in a row raise the mean of a sound training. A rate that breaks
    the model at once leaves no lower mean behind: then each is `factor` times the first loss, and above a third of what
    guessing costs, because the first batch may have been an easy one.

    Args:
        guessing: nats a token of who guesses evenly among all tokens: the logarithm of their number.
    """
    if len(losses) <= window:
        return None
    before, recent = losses[:-window], losses[-window:]
    limit, lowest = max(factor * losses[0], guessing / 3), losses[0]
    if len(before) >= window:
        mean = float(np.convolve(before, np.full(window, 1 / window), mode="valid").min())
        limit, lowest = min((limit, lowest), (factor * mean, mean))
    if min(recent) > limit:
        return f"the training loss has risen from {lowest:.2f} to {statistics.fmean(recent):.2f}"
    return None


def overfitting(
    losses: list[float], held_out: list[float], patience: int = PATIENCE, least: float = LEAST
) -> str | None:
    """The last `patience` held-out losses lie above the best by `least` of it and do not fall, the training loss has.

    Args:
        losses: of training, since the beginning.
        held_out: losses on held-out rows, at even distances, the first before or soon after the beginning.
    """
    if not losses or len(held_out) <= patience:
        return None
    best, recent = min(held_out[:-patience]), held_out[-patience:]
    part = max(1, len(losses) // len(held_out))
    fell = statistics.fmean(losses[-part:]) < statistics.fmean(losses[:part])
    if fell and min(recent) > best * (1 + least) and recent[-1] >= recent[0]:
        return f"the held-out loss has risen from {best:.2f} to {recent[-1]:.2f} while the training loss fell"
    return None


def plateau(held_out: list[float], patience: int = PATIENCE, least: float = LEAST) -> str | None:
    """The last `patience` held-out losses differ by less than `least` from the one before them."""
    if len(held_out) <= patience:
        return None
    before, recent = held_out[-patience - 1], held_out[-patience:]
    if all(abs(loss - before) < least * before for loss in recent):
        return f"the held-out loss has stood at {before:.2f} for {patience} evaluations"
    return None


@dataclass(frozen=True)
class Finding:
    """A rule that was broken, at which step, and how."""

    rule: str
    step: int
    text: str


class Diagnosis(TrainerCallback):
    """Applies the rules at every log of a trainer, prints the first finding of each, and may stop the training.

    Held-out losses come from a trainer with `eval_strategy="steps"` (`sft.keep_best`). A plateau is looked for
    while the learning rate is at least half of the highest so far. All is read from the state that checkpoints hold: a
    training that goes on where it was cut off is judged by all of its losses.

    Args:
        stop: rules at which training ends.
    """

    def __init__(self, stop: tuple[str, ...] = ()):
        self.stop = stop
        self.on_train_begin()

    def on_train_begin(self, *args, **kwargs):
        self.findings: list[Finding] = []
        self.logged: dict[str, list[float]] = {"loss": [], "eval_loss": [], "learning_rate": []}
        self.read = 0

    def on_log(self, args, state, control, logs=None, model=None, **kwargs):
        for entry in state.log_history[self.read :]:
            for key, values in self.logged.items():
                values += [float(entry[key])] if key in entry else []
        self.read = len(state.log_history)
        losses, held_out, rates = self.logged.values()
        texts = {}
        if "loss" in (logs or {}):
            texts = {"divergence": divergence(losses, math.log(model.config.get_text_config().vocab_size))}
        if "eval_loss" in (logs or {}):
            texts = {"overfitting": overfitting(losses, held_out)}
            if rates and rates[-1] >= max(rates) / 2:
                texts["plateau"] = plateau(held_out)
        for rule, text in texts.items():
            if text and rule not in {finding.rule for finding in self.findings}:
                self.findings.append(Finding(rule, state.global_step, text))
                print(f"step {state.global_step}: {rule}: {text}")
                control.should_training_stop |= rule in self.stop


class _EarlyStop(TrainerCallback):
    """Transformers' own counts evaluations in memory, and begins to count anew when a training is resumed."""

    def __init__(self, patience: int):
        self.patience = patience

    def on_evaluate(self, args, state, control, **kwargs):
        held_out = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
        before, recent = held_out[: -self.patience], held_out[-self.patience :]
        control.should_training_stop |= bool(before) and min(recent) >= min(before)

    on_train_begin = on_evaluate  # resumed where it had ended: after one step more, the least that the Trainer takes


def stop_early(trainer, patience: int = 2) -> None:
    """End a training with `sft.keep_best` when the held-out loss has not fallen for `patience` evaluations."""
    trainer.add_callback(_EarlyStop(patience))
