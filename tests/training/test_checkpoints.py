"""Checkpoints: damage is named and stepped over, a kill loses nothing but the steps since, and nothing is restarted."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from nbhelpers.core import hardware
from nbhelpers.core.errors import NotebookError, ParameterError, StoppedError
from nbhelpers.models import encoding, loading
from nbhelpers.training import checkpoints, monitoring, sft
from nbhelpers.training.checkpoints import Progress

STEPS, EVERY = 8, 2


def trainer_of(folder: Path, adapter: str, **overrides):
    """A trainer of the smoke model on the CPU in float32, its rows, adapter and dropout the same in every process."""
    from types import SimpleNamespace

    parameters = SimpleNamespace(
        max_steps=STEPS, per_device_train_batch_size=2, gradient_accumulation_steps=1, learning_rate=1e-3, seed=3,
        gradient_checkpointing=False, report_to="none",
    )  # fmt: skip
    machine = hardware.Hardware("cpu", 2, 2**34, None, 0, "Linux")
    run = SimpleNamespace(parameters=parameters, hardware=machine, dtype="float32", folder=Path(folder))
    model, tokenizer = loading.load("smoke", "float32")
    rng, words = np.random.default_rng(0), ["read", "write", "the", "file", "name", "returns", "list"]

    def row():
        turns = [" ".join(rng.choice(words, rng.integers(3, 12))) for _ in range(2)]
        messages = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), turns, strict=True)]
        return encoding.encode(messages, tokenizer)

    rows = datasets.Dataset.from_list([row() for _ in range(30)])
    torch.manual_seed(3)
    fields = {"r": 4, "lora_dropout": 0.2 if adapter == "dropout" else 0.0, "target_modules": "all-linear"}
    lora = None if adapter == "full" else LoraConfig(**fields, task_type="CAUSAL_LM")
    overrides = {"save_strategy": "steps", "save_steps": EVERY} | overrides
    return sft.sft_trainer(run, model, tokenizer, rows, lora, eval_dataset=rows.select(range(4)), **overrides)


KINDS = ("lora", "dropout", "full")


def train_and_die(folder: str, step: int) -> None:
    """Train every kind, each in a process that is killed after this many steps; print how each ended."""
    for kind in KINDS:
        if (child := os.fork()) == 0:  # a fork need not import torch again
            trainer = trainer_of(Path(folder, kind), kind)
            checkpoints.kill_after(trainer, step)
            sft.train(trainer)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """A folder with what a training of each kind left that was killed after five steps."""
    folder, here = tmp_path_factory.mktemp("killed"), Path(__file__)
    code = f"import {here.stem} as t; t.train_and_die({str(folder)!r}, 5)"
    child = subprocess.run([sys.executable, "-c", code], cwd=here.parent, capture_output=True, text=True)
    codes = [line for line in child.stdout.splitlines() if line.lstrip("-").isdecimal()]
    assert codes == [str(-signal.SIGKILL)] * len(KINDS), child.stderr[-2_000:]
    return folder


@pytest.fixture(scope="module", params=KINDS)
def whole(request, tmp_path_factory):
    """`(kind, folder of the checkpoints, losses, final weights)` of an uninterrupted training."""
    folder = tmp_path_factory.mktemp(request.param)
    trainer = trainer_of(folder, request.param)
    done = sft.train(trainer)
    return request.param, folder, done, weights(trainer)


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


@pytest.fixture
def copied(whole, tmp_path):
    """`(kind, run folder, folder of the checkpoints)`: a copy that a test may damage."""
    shutil.copytree(whole[1], tmp_path / "run")
    return whole[0], tmp_path / "run", tmp_path / "run" / "artifacts" / "checkpoints"


def own(folder: Path) -> dict:
    return json.loads((folder / checkpoints.SEAL).read_text())["identity"]


def test_the_newest_two_are_kept_and_sealed(copied):
    _, _, folder = copied
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-8"]
    found, progress = checkpoints.newest(folder, own(folder / "checkpoint-8"))
    assert found.name == "checkpoint-8"
    assert progress.tokens > 0
    assert progress.seconds > 0


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def unreadable(folder: Path) -> None:
    (folder / "optimizer.pt").unlink()
    (folder / "optimizer.pt").mkdir()


def unsealed(folder: Path) -> None:
    (folder / checkpoints.SEAL).unlink()


DAMAGE = {
    "no trainer state": (lambda c: (c / "trainer_state.json").unlink(), "trainer_state.json is missing"),
    "weights cut short": (lambda c: cut(next(c.glob("*.safetensors"))), "safetensors is damaged"),
    "one bit of the weights": (lambda c: flip(next(c.glob("*.safetensors"))), "safetensors is damaged"),
    "optimizer cut short": (lambda c: cut(c / "optimizer.pt"), "optimizer.pt is damaged"),
    "no optimizer": (lambda c: (c / "optimizer.pt").unlink(), "optimizer.pt is missing"),
    "no schedule": (lambda c: (c / "scheduler.pt").unlink(), "scheduler.pt is missing"),
    "no random state": (lambda c: (c / "rng_state.pth").unlink(), "rng_state.pth is missing"),
    "no weights": (lambda c: next(c.glob("*.safetensors")).unlink(), "safetensors is missing"),
    "a file that cannot be read": (unreadable, "optimizer.pt cannot be read"),
    "empty folder": (emptied, "it was not finished"),
    "no seal": (unsealed, "it was not finished"),
    "a seal that is no JSON": (lambda c: cut(c / checkpoints.SEAL), "its seal cannot be read"),
    "a seal of another kind": (lambda c: (c / checkpoints.SEAL).write_text("[]"), "its seal cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(damage, copied, capsys):
    folder = copied[2]
    harm, reason = DAMAGE[damage]
    identity = own(folder / "checkpoint-6")
    harm(folder / "checkpoint-8")
    found, _ = checkpoints.newest(folder, identity)
    assert found.name == "checkpoint-6"
    said = capsys.readouterr().out
    assert "checkpoint-8 is not used" in said
    assert reason in said
    assert (folder / "unused-0-checkpoint-8").is_dir(), "what was found is still there"
    checkpoints.newest(folder, identity)
    assert not capsys.readouterr().out, "said once"


def test_resuming_past_the_damage_ends_as_if_nothing_had_happened(whole, copied, capsys):
    kind, run, folder = copied
    (folder / "checkpoint-8" / "optimizer.pt").unlink()
    trainer = trainer_of(run, kind)
    done = sft.train(trainer, resume="auto")
    assert "going on from checkpoint-6 of 8 steps" in capsys.readouterr().out
    assert done.losses == pytest.approx(whole[2].losses, abs=1e-5)
    for name, weight in weights(trainer).items():
        torch.testing.assert_close(weight, whole[3][name], rtol=0, atol=1e-6)
    assert sorted(p.name for p in folder.glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-8"]


def test_after_a_kill_the_losses_are_those_of_the_uninterrupted_training(whole, killed):
    kind, _, expected, last = whole
    trainer = trainer_of(killed / kind, kind)
    started = []

    class First(TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
            if not started:
                moments = [entry["exp_avg"] for entry in optimizer.state.values()]
                started.append((state.global_step, len(moments), max(m.abs().max().item() for m in moments)))

    trainer.add_callback(First())
    done = sft.train(trainer, resume="auto")
    step, moments, largest = started[0]
    assert step == 4, "the newest sealed one"
    assert moments == len(weights(trainer))
    assert largest > 0, "the optimizer went on with what it had"
    assert len(done.losses) == STEPS
    assert done.losses == pytest.approx(expected.losses, abs=1e-5)
    assert done.tokens == expected.tokens, "tokens of both sessions"
    for name, weight in weights(trainer).items():
        torch.testing.assert_close(weight, last[name], rtol=0, atol=1e-6)


def test_a_finished_training_is_not_trained_again(whole, copied):
    kind, run, _ = copied
    trainer = trainer_of(run, kind)
    done = sft.train(trainer, resume="auto")
    assert done.losses == pytest.approx(whole[2].losses, abs=1e-9)
    assert done.tokens == whole[2].tokens
    assert trainer.real_tokens == 0
    for name, weight in weights(trainer).items():
        assert torch.equal(weight, whole[3][name]), name


def test_never_begins_anew(whole, copied):
    kind, run, _ = copied
    trainer = trainer_of(run, kind)
    assert sft.train(trainer).losses == pytest.approx(whole[2].losses, abs=1e-6)
    assert trainer.real_tokens == whole[2].tokens


@pytest.mark.parametrize("change", [{"learning_rate": 2e-3}, {"max_steps": 9}, {"seed": 4}])
def test_another_training_s_checkpoints_are_not_taken(change, copied, capsys):
    kind, run, folder = copied
    trainer = trainer_of(run, kind, **change)
    assert checkpoints.newest(folder, trainer.identity) is None
    said = capsys.readouterr().out
    assert "checkpoint-8 is not used: it belongs to another training: " in said
    assert re.search(rf"{next(iter(change))} \S+ there, {getattr(trainer.args, next(iter(change)))} now", said)


def test_other_rows_and_another_adapter_are_another_training(tmp_path):
    trainer = trainer_of(tmp_path, "lora")
    first = checkpoints.identity(trainer)
    assert checkpoints.identity(trainer_of(tmp_path / "elsewhere", "lora")) == first
    trainer.train_dataset = trainer.train_dataset.select(range(len(trainer.train_dataset) - 1, -1, -1))
    trainer.model.peft_config["default"].lora_alpha = 99
    trainer.model.get_input_embeddings().weight.data[0, 0] += 1  # the same path, other weights
    second = checkpoints.identity(trainer)
    assert {key for key in first if first[key] != second[key]} == {"rows", "adapter", "weights"}


def test_several_processes_follow_the_first(tmp_path):
    asks = (
        "import os, sys, torch.distributed as d\n"
        "from nbhelpers.training import checkpoints\n"
        "rank = 0 if os.fork() else 1\n"
        f"d.init_process_group('gloo', init_method='file://{tmp_path}/meet', rank=rank, world_size=2)\n"
        "print(checkpoints._first_decides(lambda: f'process {rank} decides'), flush=True)\n"
        "d.destroy_process_group()\n"
        "sys.exit(os.wait()[1] if rank == 0 else 0)\n"
    )
    child = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, timeout=600)
    assert child.returncode == 0, child.stderr[-2_000:]
    assert (child.stdout.count("process 0 decides"), child.stdout.count("decides")) == (2, 2)  # lines may be mixed


def test_none_where_there_is_none(tmp_path):
    assert checkpoints.newest(tmp_path / "nowhere", {}) is None
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert checkpoints.newest(tmp_path, {}) is None


def test_checkpoints_are_saved_by_time(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path, "lora", save_strategy="no")
    sft.train(trainer)
    folder = tmp_path / "artifacts" / "checkpoints"
    assert not list(folder.glob("checkpoint-*")), "a short training writes none"
    trainer = trainer_of(tmp_path, "lora", save_strategy="no")
    keeper = next(c for c in trainer.callback_handler.callbacks if isinstance(c, checkpoints.Keeper))
    keeper.seconds = 0.0
    sft.train(trainer)
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-7", "checkpoint-8"]
    assert all((path / checkpoints.SEAL).exists() for path in folder.glob("checkpoint-*"))


class Terminate(TrainerCallback):
    """Sends this process SIGTERM in the middle of a step, as a machine does that is about to be taken away."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("address", [False, True])
def test_sigterm_saves_the_step_and_another_machine_goes_on_from_it(address, tmp_path, monkeypatch, capsys):
    if address:
        monkeypatch.setenv("NBHELPERS_CHECKPOINTS", (tmp_path / "bucket").as_uri())
    before = signal.getsignal(signal.SIGTERM)
    whole = trainer_of(tmp_path / "whole", "lora", save_strategy="no")
    sft.train(whole)
    trainer = trainer_of(tmp_path / "first", "lora", save_strategy="no")
    trainer.add_callback(Terminate())
    with pytest.raises(StoppedError, match="step 3 of 8 is saved"):
        sft.train(trainer)
    assert signal.getsignal(signal.SIGTERM) == before
    folder = tmp_path / ("second" if address else "first")
    trainer = trainer_of(folder, "lora", save_strategy="no")
    sft.train(trainer, resume="auto")
    printed = capsys.readouterr().out
    assert "going on from checkpoint-3 of 8 steps" in printed
    assert ("fetched from NBHELPERS_CHECKPOINTS: checkpoint-3" in printed) == address
    for name, weight in weights(trainer).items():
        assert torch.equal(weight, weights(whole)[name]), name


def test_the_address_has_the_newest_checkpoint_alone_and_a_half_copied_one_is_not_used(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NBHELPERS_CHECKPOINTS", str(tmp_path / "bucket"))
    trainer = trainer_of(tmp_path / "first", "lora")
    sft.train(trainer)
    (place,) = (tmp_path / "bucket").iterdir()
    assert [path.name for path in place.iterdir()] == [f"checkpoint-{STEPS}"]
    (place / f"checkpoint-{STEPS}" / checkpoints.SEAL).unlink()
    assert checkpoints.newest(tmp_path / "other", trainer.identity) is None
    assert "is not used: it was not finished" in capsys.readouterr().out
    monkeypatch.setenv("NBHELPERS_CHECKPOINTS", "nosuch://bucket")
    with pytest.raises(ParameterError, match="nosuch"):
        checkpoints.newest(tmp_path / "third", trainer.identity)


def test_a_local_tracker_gets_every_loss(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    training = sft.train(trainer_of(tmp_path, "lora", report_to="tensorboard", save_strategy="no"))
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    log = EventAccumulator(str(events)).Reload()
    assert [event.value for event in log.Scalars("train/loss")] == pytest.approx(training.losses, abs=1e-4)
    assert len(training.losses) == STEPS


def test_the_best_by_held_out_loss_is_kept_and_is_the_model_at_the_end(tmp_path):
    def worsening(self):  # the held-out loss falls to step 4 and rises after it
        return lambda *args, **kwargs: {"eval_loss": abs(self.state.global_step - 4) + 1.0}

    trainer = trainer_of(tmp_path, "lora", **sft.keep_best(2))
    seen = {}
    trainer.evaluate = worsening(trainer)

    class Note(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            seen[state.global_step] = weights(trainer)

    trainer.add_callback(Note())
    sft.train(trainer)
    kept = {path.name for path in (tmp_path / "artifacts" / "checkpoints").glob("checkpoint-*")}
    assert kept == {"checkpoint-4", "checkpoint-6", "checkpoint-8"}
    for name, weight in weights(trainer).items():
        assert torch.equal(weight, seen[4][name])
        assert "lora_B" not in name or not torch.equal(weight, seen[8][name])


@pytest.mark.parametrize("damage", ["a byte", "gone"])
def test_a_damaged_best_checkpoint_is_named_and_not_taken(damage, tmp_path):
    trainer = trainer_of(tmp_path, "lora", **sft.keep_best(2))
    trainer.evaluate = lambda *args, **kwargs: {"eval_loss": abs(trainer.state.global_step - 4) + 1.0}

    class Damage(TrainerCallback):
        def on_train_end(self, args, state, control, **kwargs):
            raise AssertionError("the training ended as if its best weights were there")

        def on_save(self, args, state, control, **kwargs):
            weights = Path(args.output_dir, "checkpoint-4", "adapter_model.safetensors")
            if state.global_step == STEPS and damage == "gone":
                shutil.rmtree(weights.parent)
            elif state.global_step == STEPS:
                content = bytearray(weights.read_bytes())
                content[-1] ^= 1
                weights.write_bytes(content)

    trainer.add_callback(Damage())
    with pytest.raises(NotebookError, match=r"best checkpoint, checkpoint-4, cannot be used: .*(damaged|not finished)"):
        sft.train(trainer)


def test_an_old_checkpoint_that_cannot_be_removed_stops_no_training(tmp_path, monkeypatch, capsys):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(checkpoints.shutil, "rmtree", refuse)
    assert len(sft.train(trainer_of(tmp_path, "lora")).losses) == STEPS
    assert "checkpoint-2 is old and could not be removed: Permission denied." in capsys.readouterr().out


def test_held_out_loss_is_that_of_the_rows(tmp_path):
    from nbhelpers.evaluation import likelihood

    trainer = trainer_of(tmp_path, "full", per_device_eval_batch_size=1, **sft.keep_best(2))
    rows = trainer.eval_dataset
    losses = likelihood.held_out_loss(trainer.model, trainer.processing_class, rows)
    counts = [sum(label != encoding.IGNORE for label in row["labels"][1:]) for row in rows]
    expected = np.average(losses, weights=counts)
    assert abs(expected - np.mean(losses)) > 1e-3, "where rows are alike, every mean is the same"
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4)


def test_the_trainer_alone_restarts_the_optimizer_without_a_word(copied):
    """Why there is a seal. When this fails, the Trainer has learned to refuse, and `fault` may be simpler."""
    kind, run, folder = copied
    (folder / "checkpoint-8").rename(folder / "aside")
    (folder / "checkpoint-6" / "optimizer.pt").unlink()
    assert get_last_checkpoint(str(folder)).endswith("checkpoint-6")
    trainer, fresh = trainer_of(run, kind, save_strategy="no"), []

    class First(TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
            fresh.append((state.global_step, len(optimizer.state)))

    trainer.add_callback(First())
    trainer.train(resume_from_checkpoint=True)
    assert fresh[0] == (6, 0)


def test_progress_goes_through_a_seal(tmp_path):
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "trainer_state.json"):
        (tmp_path / "checkpoint-3" / "below").mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkpoint-3" / name).write_text(name)
    checkpoints.seal(tmp_path / "checkpoint-3", {"a": "1"}, Progress(7, 1.5))
    found = checkpoints.newest(tmp_path, {"a": "1"})
    assert found == (tmp_path / "checkpoint-3", Progress(7, 1.5))
    (tmp_path / "checkpoint-3" / "scheduler.pt").unlink()
    checkpoints.seal(tmp_path / "checkpoint-3", {"a": "1"}, Progress(7, 1.5))
    assert checkpoints.fault(tmp_path / "checkpoint-3", {"a": "1"}) == "it has no scheduler.pt"


def test_on_a_drive_that_keeps_no_times_the_newest_checkpoint_stays(tmp_path, monkeypatch):
    stat = Path.stat

    def timeless(path, **kwargs):
        found = stat(path, **kwargs)
        return os.stat_result([*found[:7], 0, 0, 0]) if path.name.startswith("checkpoint-") else found

    monkeypatch.setattr(Path, "stat", timeless)
    monkeypatch.setattr(Path, "glob", lambda path, pattern: sorted(path.rglob(pattern), reverse=True))
    sft.train(trainer_of(tmp_path, "lora", save_steps=1, max_steps=11))
    kept = {path.name for path in (tmp_path / "artifacts" / "checkpoints").iterdir() if path.is_dir()}
    assert kept == {"checkpoint-10", "checkpoint-11"}


def worsening(trainer, best: int):
    """The held-out loss of a training, as the Trainer reports and logs it, is lowest at one step."""

    def evaluate(*args, **kwargs):
        found = {"eval_loss": abs(trainer.state.global_step - best) + 1.0}
        trainer.log(found)
        trainer.control = trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, found)
        return found

    trainer.evaluate = evaluate
    return trainer


def test_patience_is_not_counted_anew_after_a_resume(tmp_path):
    def early(folder):
        trainer = worsening(trainer_of(folder, "lora", **sft.keep_best(1)), best=3)
        monitoring.stop_early(trainer, patience=2)
        return trainer

    sft.train(early(tmp_path / "whole"))
    for path in (tmp_path / "whole" / "artifacts" / "checkpoints").glob("checkpoint-*"):
        if path.name != "checkpoint-5":  # the one at which patience ended
            shutil.copytree(path, tmp_path / "cut" / "artifacts" / "checkpoints" / path.name)
    assert {path.name for path in (tmp_path / "cut").rglob("checkpoint-*")} == {"checkpoint-3", "checkpoint-4"}
    again = early(tmp_path / "cut")
    sft.train(again, resume="auto")
    assert again.state.max_steps == STEPS
    assert again.state.best_global_step == 3
    steps = [entry["step"] for entry in again.state.log_history if "eval_loss" in entry]
    assert steps == [1, 2, 3, 4, 5], "stopped where the uninterrupted training was"


def test_a_training_resumed_where_its_patience_ended_takes_one_step_more(tmp_path):
    for end in (6, 7):
        trainer = worsening(trainer_of(tmp_path, "lora", **sft.keep_best(2)), best=2)
        monitoring.stop_early(trainer, patience=2)
        sft.train(trainer, resume="auto")
        assert (trainer.state.global_step, trainer.state.best_global_step) == (end, 2)


def test_the_best_checkpoint_is_found_again_when_the_folder_was_moved(tmp_path):
    first = worsening(trainer_of(tmp_path / "here", "lora", **sft.keep_best(2)), best=4)
    sft.train(first)
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = worsening(trainer_of(tmp_path / "there", "lora", **sft.keep_best(2)), best=4)
    sft.train(moved, resume="auto")
    for name, weight in weights(moved).items():
        assert torch.equal(weight, weights(first)[name])
    shutil.rmtree(tmp_path / "there" / "artifacts" / "checkpoints" / "checkpoint-4")
    shutil.move(tmp_path / "there", tmp_path / "elsewhere")
    lost = worsening(trainer_of(tmp_path / "elsewhere", "lora", **sft.keep_best(2)), best=4)
    with pytest.raises(NotebookError, match="best checkpoint, checkpoint-4, cannot be used: it was not finished"):
        sft.train(lost, resume="auto")


def test_other_held_out_rows_are_another_training(tmp_path):
    trainer = trainer_of(tmp_path, "lora")
    before = checkpoints.identity(trainer)
    trainer.eval_dataset = trainer.eval_dataset.select([0, 1])
    after = checkpoints.identity(trainer)
    assert [name for name in before if before[name] != after[name]] == ["held-out rows"]
