"""Direct preference optimization (Rafailov et al. 2023) by TRL: the reference is the policy without its adapter.

The policy to start from must be a whole model: an SFT adapter is merged into it first. On a base with the SFT adapter
beside it, "adapter off" would be the model before SFT, and the loss would not begin at log 2.
"""

import contextlib

import datasets
import trl.trainer.utils
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig
from trl import DPOTrainer as TRLDPOTrainer

from nbhelpers.core.errors import AuditError, DataError
from nbhelpers.core.seeding import seed_everything
from nbhelpers.data import preferences
from nbhelpers.models import encoding, fast_paths, templates
from nbhelpers.training import batching, checkpoints, sft
from nbhelpers.training.callbacks import Watch
from nbhelpers.training.session import Session


class LeanSession(Session):
    """A `Session` whose steps make no needless copies, as SFT's do; loss and gradients are the same to rounding."""

    def train(self, *args, **kwargs):
        with fast_paths.in_place_lora(self.model), fast_paths.float32_attention(self.model.device.type):
            return super().train(*args, **kwargs)


class DPOTrainer(LeanSession, TRLDPOTrainer):
    """TRL's, counted and resumed as every training here, without projecting tokens that no loss reads."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.count(inputs)
        with answers_only():
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


@contextlib.contextmanager
def answers_only():
    """Within the block TRL leaves prompts and padding out of the vocabulary projection on a CPU too, as on a GPU.

    TRL 1.16 ties this to Triton, which only its kernels need; what is computed is the same.
    """
    kept = trl.trainer.utils._use_triton
    trl.trainer.utils._use_triton = lambda device: True
    try:
        yield
    finally:
        trl.trainer.utils._use_triton = kept


@contextlib.contextmanager
def without_bars():
    """Within the block `datasets` draws no progress bars, which are many lines of an executed notebook."""
    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


def dpo_trainer(
    run, model, tokenizer, pairs: list[dict], peft_config, beta: float = 0.1, sft_weight: float = 0.0,
    max_length: int = 1024, name: str = "dpo", **overrides,
) -> DPOTrainer:  # fmt: skip
    """A trainer for pairs (`data.preferences`) on a fresh adapter, in batches of like length.

    Args:
        model: the policy to start from, without an adapter.
        beta: of the implied KL penalty, above 0: how far the policy may go from the reference for a preference.
        sft_weight: of the chosen answers' own loss per token, beside DPO's: it keeps them likely, where DPO alone may
            lower both answers (Pal et al. 2024).
        max_length: tokens of prompt and answer together; longer pairs are dropped, and the count printed.
        overrides: of TRL's `DPOConfig`.

    Raises:
        AuditError: the model carries an adapter already, so that the reference would not be the policy.
        DataError: no pair is left.
    """
    if hasattr(model, "peft_config"):
        raise AuditError(
            "The policy has an adapter already: with it off, the reference would be the model before it. Merge it "
            "first (model.merge_and_unload())."
        )
    rows = datasets.Dataset.from_list(preferences.conversational(pairs))
    lengths = [max(len(_ids(pair, side, tokenizer)) for side in ("chosen", "rejected")) for pair in pairs]
    fits = [i for i, length in enumerate(lengths) if length <= max_length]
    if len(fits) < len(rows):
        print(f"{len(rows) - len(fits)} of {len(rows)} pairs are longer than max_length={max_length} and left out")
    if not fits:
        raise DataError(f"None of {len(rows)} pairs is as short as max_length={max_length} tokens. Raise it.")
    losses = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, sft_weight]} if sft_weight else {}
    config = DPOConfig(**sft.trainer_arguments(run, **losses | {"beta": beta} | overrides))
    config.output_dir = f"{config.output_dir}/{name}"
    size, parts = config.per_device_train_batch_size, config.gradient_accumulation_steps
    counted = rows.select(fits).add_column("input_ids", [[0] * lengths[i] for i in fits])
    ordered = batching.length_grouped(counted, size, config.max_steps * parts, config.seed, parts)
    seed_everything(run.parameters.seed)
    with without_bars():
        made = DPOTrainer(
            model, args=config, train_dataset=ordered.remove_columns("input_ids"), processing_class=tokenizer,
            peft_config=peft_config,
        )  # fmt: skip
    audit(made.train_dataset, tokenizer)
    tokens = sum(
        2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in made.train_dataset
    )
    return ready(made, {"loss": f"{config.loss_type} {config.loss_weights} {beta}"}, tokens)


def ready(trainer, facts: dict[str, str], tokens: int):
    """A trainer of TRL's with a `Session`, as `session.train` takes it: watched, sealed, its adapter in float32.

    Args:
        facts: what tells this training from others of the same rows and settings, such as its loss.
        tokens: that the whole training will read.
    """
    trainer.planned_tokens = tokens
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Watch())
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    trainer.identity = checkpoints.identity(trainer) | facts
    trainer.add_callback(checkpoints.Keeper(trainer.identity, trainer.progress))
    return trainer


def audit(rows, tokenizer) -> None:
    """Check what TRL made of the pairs: the prompt stands once, and both answers end with one end token.

    Raises:
        AuditError: an answer has no end token, or only one of the two has; names the pair.
    """
    stops = encoding.stop_token_ids(tokenizer)
    for number, row in enumerate(rows):
        ends = [sum(token in stops for token in row[f"{side}_ids"]) for side in ("chosen", "rejected")]
        if ends != [1, 1]:
            raise AuditError(
                f"Pair {number}: its answers have {ends[0]} and {ends[1]} end tokens; each needs one, or the model "
                "learns that ending is good or bad. Check the chat template."
            )


def _ids(pair: dict, side: str, tokenizer) -> list[int]:
    turns = [*pair["prompt"], {"role": "assistant", "content": pair[side]}]
    return tokenizer(templates.render(turns, tokenizer), add_special_tokens=False)["input_ids"]
