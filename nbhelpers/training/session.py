"""What every training has in common, whatever its loss: it is measured, goes on where it was, and fails clearly."""

import time
from dataclasses import dataclass

import torch
from transformers import TrainerCallback

from nbhelpers.core import memory_usage
from nbhelpers.core.errors import ResourceError
from nbhelpers.training import checkpoints, memory_advice

PROBED = 3  # steps


@dataclass(frozen=True)
class Training:
    """What one training did.

    `losses` has one mean negative log-likelihood (nats a labelled token) an optimizer step; `tokens` counts real
    tokens, padding left out; `seconds` is wall time of the steps. `probed_seconds` is what the first steps of this very
    model said of all of them (`probed`); None where there were too few.
    """

    losses: list[float]
    tokens: int
    seconds: float
    probed_seconds: float | None = None

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


class _Probe(TrainerCallback):
    """After PROBED steps of this very model: how long all of them will take, printed and kept as `seconds`.

    Args:
        tokens: that the whole training will read; None: not known, and nothing is said.
    """

    def __init__(self, progress, tokens: int | None):
        self.progress, self.tokens, self.marks, self.seconds = progress, tokens, [], None

    def on_step_end(self, args, state, control, **kwargs):
        if self.tokens is None or len(self.marks) >= PROBED:
            return
        if args.device.type == "cuda":
            torch.cuda.synchronize()
        self.marks.append(self.progress())
        self.seconds = probed(self.marks, self.tokens)
        if self.seconds:
            print(f"after {PROBED} steps: about {self.seconds:.0f} s in all", flush=True)


def probed(marks: list[checkpoints.Progress], tokens: int) -> float | None:
    """Seconds of a training of `tokens` by its first steps: what they took, and the rest at their rate.

    The first step, which compiles and warms up, counts as it was and not in the rate.
    """
    if len(marks) < PROBED or tokens <= marks[-1].tokens:
        return None
    first, last = marks[0], marks[-1]
    rate = (last.seconds - first.seconds) / (last.tokens - first.tokens)
    return last.seconds + rate * (tokens - last.tokens)


class Session:
    """Beside a trainer of TRL's: its real tokens and seconds, those of earlier sessions included."""

    real_tokens = 0
    before = checkpoints.Progress()
    started = 0.0
    identity: dict[str, str] | None = None

    def progress(self) -> checkpoints.Progress:
        seconds = time.perf_counter() - self.started
        return checkpoints.Progress(self.before.tokens + self.real_tokens, self.before.seconds + seconds)

    def count(self, inputs: dict) -> None:
        """Add the real tokens of a batch while the model trains; without a mask there is no padding."""
        if self.model.training:
            mask = inputs.get("attention_mask")
            self.real_tokens += inputs["input_ids"].numel() if mask is None else int(mask.sum())


def computing_dtype(args) -> str:
    """The precision that a Trainer with these arguments computes in."""
    return "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"


def train(trainer, resume: str = "never") -> Training:
    """Run a trainer and report what its steps took.

    Args:
        resume: `auto` goes on from the newest whole checkpoint of this very training, where there is one: weights,
            optimizer, schedule, random state and place in the data are restored. `never` begins anew, and what it
            saves takes the place of older checkpoints in the same folder.

    Raises:
        DivergedError: a loss or the norm of a gradient is not finite.
        ResourceError: out of memory; names what the batch was and what would lower the peak.
        StoppedError: SIGTERM came; the step at hand is saved.
    """
    found = checkpoints.newest(trainer.args.output_dir, trainer.identity) if resume == "auto" else None
    folder, trainer.before = found or (None, checkpoints.Progress())
    if folder:
        print(f"going on from {folder.name} of {trainer.args.max_steps} steps")
    probe = _Probe(trainer.progress, getattr(trainer, "planned_tokens", None))
    trainer.add_callback(probe)
    trainer.real_tokens, trainer.started = 0, time.perf_counter()
    try:
        trainer.train(resume_from_checkpoint=str(folder) if folder else None)
    except (RuntimeError, MemoryError) as error:
        if not memory_usage.is_exhausted(error):
            raise
        raise ResourceError(memory_advice.what_would_fit(trainer, computing_dtype(trainer.args))) from error
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, checkpoints.Keeper):
                callback.release()
    done = trainer.progress()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    trainer.remove_callback(probe)
    return Training([float(loss) for loss in losses], done.tokens, done.seconds, probe.seconds)
