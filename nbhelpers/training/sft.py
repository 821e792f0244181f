"""A TRL trainer from a run's parameters, and what one training cost: losses, tokens/s, peak memory.

`SFTTrainer` here is TRL's with the loss computed on the labelled tokens only, and with the audits run before the
first step. Everything else (LoRA, data collation, optimizer, schedule, logging) is TRL's and transformers' own.
"""

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig
from trl import SFTTrainer as TRLSFTTrainer

from nbhelpers.core.errors import AuditError, NotebookError
from nbhelpers.core.seeding import seed_everything
from nbhelpers.evaluation import likelihood
from nbhelpers.models import audits, base_models, encoding, fast_paths
from nbhelpers.training import batching, checkpoints, monitoring, session
from nbhelpers.training.callbacks import Watch
from nbhelpers.training.session import Session, Training


class SFTTrainer(Session, TRLSFTTrainer):
    """TRL's SFT trainer without the work that its step does for nothing; loss and gradients are the same to rounding.

    - The vocabulary projection is applied to labelled tokens only: the answer is often a tenth of a row, and tens of
      thousands of logits a token, with their softmax and backward pass, are the most expensive part of a small model.
    - No mask for padding on the right, which a causal model never looks at (`forward.labelled_logits` does both).
    - LoRA's update is computed in place (`fast_paths.in_place_lora`).
    - Entropy and token accuracy are not computed.

    A mixture of experts that balances its experts by a loss of their own (`output_router_logits`) takes TRL's own way.
    """

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if getattr(self.model.config, "output_router_logits", False):  # a mixture of experts, whose loss has more terms
            self.count(inputs)
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        logits, targets = fast_paths.labelled_logits(model, head, inputs)
        smoothing = self.args.label_smoothing_factor
        total = torch.nn.functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
        loss = total / (max(1, len(targets)) if num_items_in_batch is None else num_items_in_batch)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # the count is that of all processes; DDP takes the mean
        self.count(inputs)
        return (loss, {"logits": logits}) if return_outputs else loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """The held-out loss, every labelled token counting alike; the Trainer takes the mean of its batches' means."""
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        size = self.args.per_device_eval_batch_size
        losses = likelihood.held_out_loss(
            self.model, self.processing_class, rows, size, session.computing_dtype(self.args)
        )
        counts = [sum(label != encoding.IGNORE for label in labels[1:]) for labels in rows["labels"]]
        found = {f"{metric_key_prefix}_loss": float(np.average(losses, weights=counts))}
        self.log(found)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def _load_best_model(self):
        """As transformers does, which takes a damaged checkpoint as it is, and of a missing one only logs a warning."""
        best = Path(self.state.best_model_checkpoint)
        if self.identity and (reason := checkpoints.fault(best, self.identity)):
            raise NotebookError(
                f"The best checkpoint, {best.name}, cannot be used: {reason}. The weights in memory are those of the "
                "last step. Train anew (resume='never'), or take the last weights by training without keep_best."
            )
        super()._load_best_model()

    def train(self, *args, **kwargs):
        with fast_paths.in_place_lora(self.model), fast_paths.float32_attention(self.model.device.type):
            return super().train(*args, **kwargs)


def trainer_arguments(run, **overrides) -> dict:
    """What every TRL configuration gets from a run's parameters; any field of it can be overridden by keyword."""
    p = run.parameters
    on_cpu, steps = run.hardware.device == "cpu", overrides.get("max_steps", p.max_steps)
    values = {
        "output_dir": str(run.folder / "artifacts" / "checkpoints"),
        "max_steps": p.max_steps,
        "per_device_train_batch_size": p.per_device_train_batch_size,
        "gradient_accumulation_steps": p.gradient_accumulation_steps,
        "learning_rate": p.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1 if steps >= 20 else 0,  # a share; of a few steps it would be one without effect
        "max_length": None,  # rows are cut to length, or rather dropped, when they are encoded
        "gradient_checkpointing": p.gradient_checkpointing,
        "bf16": run.dtype == "bfloat16",
        "fp16": run.dtype == "float16",
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "optim": "adamw_torch_fused",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # transformers would replace a NaN loss by the last good one
        "save_strategy": "no",  # `checkpoints.Keeper` saves by time, and removes old ones
        "report_to": p.report_to,
        "seed": p.seed,
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",  # the rows come ordered by `batching`
    }
    return values | overrides


def sft_config(run, **overrides) -> SFTConfig:
    """TRL's configuration from a run's parameters; any field of it can be overridden by keyword."""
    return SFTConfig(**trainer_arguments(run, **overrides))


def keep_best(steps: int) -> dict:
    """Overrides of `sft_config`: held-out loss and a checkpoint every `steps` steps, and the best model at the end.

    On disk stay the newest two checkpoints and the best one.
    """
    return {
        "eval_strategy": "steps",
        "eval_steps": steps,
        "save_strategy": "steps",
        "save_steps": steps,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
    }


def sft_trainer(
    run, model, tokenizer, train_dataset, peft_config=None, eval_dataset=None, name: str = "", stop=(), **overrides
) -> SFTTrainer:
    """A trainer for encoded rows (`input_ids`, `labels`). The audits run first and stop on a silent mistake.

    Args:
        eval_dataset: held-out rows, encoded alike, for `keep_best`.
        name: of the variant, where a run has several: its checkpoints have a folder of that name.
        stop: rules of `monitoring` at which training ends; what they find is printed in any case.
        overrides: of `sft_config`.

    Raises:
        AuditError: as `audits.audit`.
    """
    audits.audit(train_dataset, tokenizer, model)
    peft_config = copy.deepcopy(peft_config)  # PEFT writes into it which layers of this model it found
    if peft_config is not None and (added := base_models.added_tokens(model)):
        peft_config.trainable_token_indices = added
    seed_everything(run.parameters.seed)  # an adapter begins with random numbers, whatever ran before
    config = sft_config(run, **overrides)
    config.output_dir = str(Path(config.output_dir, name))
    size, parts = config.per_device_train_batch_size, config.gradient_accumulation_steps
    ordered = batching.length_grouped(train_dataset, size, config.max_steps * parts, config.seed, parts)
    trainer = SFTTrainer(
        model,
        config,
        train_dataset=ordered.select_columns(["input_ids", "labels"]),
        eval_dataset=eval_dataset.select_columns(["input_ids", "labels"]) if eval_dataset else None,
        processing_class=tokenizer,
        peft_config=peft_config,
        callbacks=[Watch()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.diagnosis = monitoring.Diagnosis(stop)
    trainer.add_callback(trainer.diagnosis)
    for parameter in trainer.model.parameters():  # TRL puts QLoRA's adapters in bfloat16, which a T4 has not, and
        if parameter.requires_grad and peft_config is not None:  # leaves LoRA's in float32: one precision for both
            parameter.data = parameter.data.float()
    trainer.planned_tokens = sum(map(len, ordered["input_ids"]))
    trainer.identity = checkpoints.identity(trainer)
    trainer.add_callback(checkpoints.Keeper(trainer.identity, trainer.progress))
    return trainer


def audit_batch(trainer) -> None:
    """Check on the first batch that the collator hands on every label.

    Raises:
        AuditError: it takes some away. Where the padding token is the end token, a collator that masks padding masks
            every end too, and the model never learns to stop.
    """
    size = min(trainer.args.per_device_train_batch_size, len(trainer.train_dataset))
    rows = [trainer.train_dataset[i] for i in range(size)]
    wanted = Counter(label for row in rows for label in row["labels"] if label != encoding.IGNORE)
    found = Counter(trainer.data_collator(rows)["labels"].flatten().tolist())
    if lost := wanted - found:
        names = ", ".join(repr(trainer.processing_class.decode([token])) for token in list(lost)[:3])
        raise AuditError(
            f"The collator takes {lost.total()} of {wanted.total()} labels of the first batch away: {names}. One that "
            "masks padding masks the end of every answer where both are one token: use TRL's own, or give the "
            "tokenizer a padding token of its own."
        )


def train(trainer: SFTTrainer, resume: str = "never") -> Training:
    """Run the trainer and report what its steps took.

    Args:
        resume: `auto` goes on from the newest whole checkpoint of this very training, where there is one: weights,
            optimizer, schedule, random state and place in the data are restored. `never` begins anew, and what it
            saves takes the place of older checkpoints in the same folder.

    Raises:
        AuditError: as `audit_batch`.
        DivergedError: a loss or the norm of a gradient is not finite.
        NotebookError: with `keep_best`, the best checkpoint cannot be used.
        ResourceError: out of memory; names what the batch was and what would lower the peak.
    """
    audit_batch(trainer)
    return session.train(trainer, resume)
