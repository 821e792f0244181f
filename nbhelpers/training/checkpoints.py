"""Checkpoints that can be trusted: sealed when they are whole, examined before use, and of this training alone.

The Trainer writes a checkpoint file by file in its place, and resumes from the highest number it finds. After a kill,
a full disk or a dropped connection that one may be half there, and one without its optimizer is taken without a word.
Here the last file of a checkpoint is a seal that lists all others with their sha256 and says which training they
belong to; the newest checkpoint with an unbroken seal is the one to go on from.
"""

import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainerCallback

from nbhelpers.core.errors import StoppedError
from nbhelpers.core.storage import sha256_of, write_json
from nbhelpers.training import remote_checkpoints
from nbhelpers.training.remote_checkpoints import SEAL

NEEDED = ("*.safetensors", "optimizer.pt", "scheduler.pt", "rng_state*.pth", "trainer_state.json")
UNUSED = "unused-"  # before the name of a checkpoint that was set aside


@dataclass(frozen=True)
class Progress:
    """What a training has taken, over all its sessions: real tokens and seconds."""

    tokens: int = 0
    seconds: float = 0.0


READ = ("input_ids", "labels", "prompt_ids", "chosen_ids", "rejected_ids")  # columns of which a row may have some
SAME = (  # what a training must have in common with a checkpoint to go on from it
    "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type",
    "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2",
    "adam_epsilon", "max_grad_norm", "label_smoothing_factor", "neftune_noise_alpha", "bf16", "fp16", "seed",
    "world_size",
)  # fmt: skip


def identity(trainer) -> dict[str, str]:
    """What makes a training this one: its settings, the rows in their order, and the weights that it begins with."""
    trained, adapter = hashlib.sha256(), hashlib.sha256()
    for name, parameter in trainer.model.named_parameters():
        trained.update(f"{name} {tuple(parameter.shape)} {parameter.dtype} {parameter.requires_grad}".encode())
        trained.update(parameter.detach().flatten()[:256].cpu().float().numpy().tobytes())
    for name, config in getattr(trainer.model, "peft_config", {}).items():
        fields = {key: sorted(x) if isinstance(x, set) else x for key, x in vars(config).items()}
        adapter.update(repr((name, sorted(fields.items(), key=lambda field: field[0]))).encode())
    found = {name: str(getattr(trainer.args, name)) for name in SAME}
    found |= {"weights": trained.hexdigest()[:16], "adapter": adapter.hexdigest()[:16]}
    found |= {"rows": digest_of_rows(trainer.train_dataset)}
    if trainer.eval_dataset is not None:  # decides which checkpoint is the best
        found |= {"held-out rows": digest_of_rows(trainer.eval_dataset)}
    return found | {"model": str(trainer.model.config._name_or_path)}


def digest_of_rows(rows) -> str:
    """Sixteen digits that stand for encoded rows in their order."""
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps([row[name] for name in READ if name in row]).encode())
    return found.hexdigest()[:16]


def seal(folder: Path, identity: dict[str, str], progress: Progress) -> None:
    """Write the seal of a finished checkpoint.

    Args:
        folder: the checkpoint.
        identity: what makes this training this one, as names and texts. Another training does not go on from it.
    """
    (folder / SEAL).unlink(missing_ok=True)
    files = {path.relative_to(folder).as_posix(): sha256_of(path) for path in _files(folder)}
    write_json(folder / SEAL, {"schema": 1, "identity": identity, "progress": progress, "files": files})


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def fault(folder: Path, identity: dict[str, str]) -> str | None:
    """Why a checkpoint cannot be gone on from; None where it can."""
    try:
        content = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        files, whose, _ = content["files"], content["identity"], Progress(**content["progress"])
    except FileNotFoundError:
        return "it was not finished"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its seal cannot be read ({type(error).__name__})"
    other = [key for key in sorted({*whose, *identity}) if whose.get(key) != identity.get(key)]
    if other:
        return "it belongs to another training: " + ", ".join(
            f"{key} {whose.get(key)} there, {identity.get(key)} now" for key in other
        )
    for pattern in NEEDED:
        if not any(Path(name).match(pattern) for name in files):
            return f"it has no {pattern}"
    for name, digest in files.items():
        try:
            found = sha256_of(folder / name)
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if found != digest:
            return f"{name} is damaged"
    return None


def _first_decides(decide: Callable[[], object]):
    """What the first of several processes decides, in all of them; in a process of its own, what it decides."""
    if not torch.distributed.is_initialized():
        return decide()
    found = [decide() if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(found, src=0)
    return found[0]


def newest(folder: str | Path, identity: dict[str, str]) -> tuple[Path, Progress] | None:
    """The newest whole checkpoint of this training and its progress; None where there is none.

    Those that cannot be used are named with the reason, and set aside under another name: nothing is deleted, and
    `Keeper` does not count them among the old ones that it removes.
    """
    return _first_decides(lambda: _newest(folder, identity) or _fetched(folder, identity))


def _fetched(folder: str | Path, identity: dict[str, str]) -> tuple[Path, Progress] | None:
    """The newest checkpoint of this training that another machine left at the address for them."""
    names = remote_checkpoints.fetch(Path(folder), identity)
    if names:
        print(f"fetched from {remote_checkpoints.ADDRESS}: {', '.join(names)}")
    return _newest(folder, identity) if names else None


def _numbered(folder: str | Path) -> list[Path]:
    return [path for path in Path(folder).glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]


def _number(path: Path) -> int:
    return int(path.name.removeprefix("checkpoint-"))


def _newest(folder: str | Path, identity: dict[str, str]) -> tuple[Path, Progress] | None:
    for path in sorted(_numbered(folder), key=_number, reverse=True):
        reason = fault(path, identity)
        if reason is None:
            return path, Progress(**json.loads((path / SEAL).read_text(encoding="utf-8"))["progress"])
        aside = next(name for i in range(10_000) if not (name := path.with_name(f"{UNUSED}{i}-{path.name}")).exists())
        path.rename(aside)
        print(f"{path.name} is not used: {reason}. It now lies in {aside.name}.")
    return None


class Keeper(TrainerCallback):
    """Saves a checkpoint every `seconds` and when SIGTERM comes, seals each one, and then removes old ones.

    Saving by time suits steps of any length: a short training writes nothing, a long one loses at most that much. Old
    ones go when the new one is sealed (the Trainer, with `save_total_limit`, removes them before that): the newest two
    stay, and the best one where there is one. A machine that is about to be taken away sends SIGTERM: the step at hand
    ends, its checkpoint is written, and the training stops with a `StoppedError`.

    Args:
        identity: as for `seal`.
        progress: called when a checkpoint was written.
    """

    def __init__(self, identity: dict[str, str], progress: Callable[[], Progress], seconds: float = 600.0):
        self.identity, self.progress, self.seconds = identity, progress, seconds
        self.told, self.handler = False, None  # whether SIGTERM came, and what it did before

    def _tell(self, *_) -> None:
        self.told = True

    def on_train_begin(self, args, state, control, **kwargs):
        self.saved, self.told = time.perf_counter(), False
        if threading.current_thread() is threading.main_thread():
            self.handler = signal.signal(signal.SIGTERM, self._tell)
        if state.best_global_step and not state.best_model_checkpoint:  # the Trainer looked where the folder was once
            state.best_model_checkpoint = str(Path(args.output_dir, f"checkpoint-{state.best_global_step}"))

    def on_step_end(self, args, state, control, **kwargs):
        if _first_decides(lambda: self.told or time.perf_counter() - self.saved >= self.seconds):
            control.should_save = True

    def release(self) -> None:
        """Give SIGTERM back to what it did before the training."""
        if self.handler is not None:
            signal.signal(signal.SIGTERM, self.handler)
            self.handler = None

    def on_save(self, args, state, control, **kwargs):
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # every process has written its part
        if state.is_world_process_zero:
            newest = Path(args.output_dir, f"checkpoint-{state.global_step}")
            seal(newest, self.identity, self.progress())
            remote_checkpoints.upload(newest, self.identity)
            others = [path for path in _numbered(args.output_dir) if path.name != newest.name]
            others.sort(key=lambda path: (path.stat().st_mtime_ns, _number(path)))  # a drive may keep no times
            for old in others[:-1]:
                if old.name == Path(state.best_model_checkpoint or "").name:
                    continue
                try:
                    shutil.rmtree(old)
                except OSError as error:  # open elsewhere, or a drive that is gone for a moment: no reason to stop
                    print(f"{old.name} is old and could not be removed: {error.strerror}.")
        self.saved = time.perf_counter()
        if _first_decides(lambda: self.told):
            raise StoppedError(
                f"SIGTERM came: step {state.global_step} of {state.max_steps} is saved. Run the notebook again with "
                "the same run_id and resume='auto' to go on from there."
            )


class _Kill(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows ends a process by either


def kill_after(trainer, step: int) -> None:
    """Have the process of a trainer killed outright after a step, before its checkpoint: a disconnect, on purpose."""
    trainer.add_callback(_Kill(step))
