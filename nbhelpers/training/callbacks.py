"""A watch over a running training: it prints how far it is, and stops on numbers that are not finite."""

import math
import time

from transformers import TrainerCallback

from nbhelpers.core import progress
from nbhelpers.core.errors import DivergedError

SKIPPED = 20  # logs in a row of skipped float16 steps that stop: the loss scale, 65,536 at first, is below 1 after 17


class Watch(TrainerCallback):
    """Says how far a training is, and stops it on a loss that is not finite before a checkpoint can hold it.

    It prints a line ten times a training; in a live notebook a bar moves with every step. The time to go leaves out the
    first step, which takes longer than the others.

    In float16 a norm that is not finite is how the loss scale is found: that step is skipped and the scale halved.
    `SKIPPED` of them in a row stop the training, and so does its end if every step was skipped.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        self.started, self.first, self.begun = time.perf_counter(), state.global_step, state.global_step
        self.skipped = self.logged = 0
        self.bar = progress.live_bar("steps", state.max_steps - state.global_step)

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.begun + 1:
            self.started, self.first = time.perf_counter(), state.global_step

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(1)

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()
        if self.skipped and self.skipped == self.logged:
            raise DivergedError(
                f"All {self.logged} steps were skipped, for in float16 their gradients are not finite: nothing was "
                "learned. Train for more steps, so that the loss scale can fall, or compute in float32."
            )

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}) and state.global_step % max(1, state.max_steps // 10) == 0:
            a_step = (time.perf_counter() - self.started) / max(1, state.global_step - self.first)
            left = a_step * (state.max_steps - state.global_step)
            print(f"step {state.global_step}/{state.max_steps}  loss {float(logs['loss']):.3f}  {left:.0f} s to go")
        loss, norm = (logs or {}).get("loss"), (logs or {}).get("grad_norm")
        if norm is not None:
            self.logged += 1
            self.skipped = 0 if math.isfinite(float(norm)) else self.skipped + 1
        scaling = args.fp16 and self.skipped < SKIPPED
        for name, value in (("loss", loss), ("gradient norm", None if scaling else norm)):
            if value is not None and not math.isfinite(float(value)):
                raise DivergedError(
                    f"The {name} is {value} at step {state.global_step} (learning_rate={args.learning_rate:g}). "
                    "Training was stopped: every later step would be lost. Lower learning_rate, or compute in "
                    "bfloat16 instead of float16."
                )
