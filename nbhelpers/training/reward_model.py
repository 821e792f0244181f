"""A reward model: a head that scores an answer, learned from pairs by the likelihood of Bradley and Terry (1952).

The training is TRL's (Ouyang et al. 2022, eq. 1). What it is given are tokens, so that an answer that the limit cut is
seen without an end; rendered by a chat template every answer would look finished. Rows are padded with a token that
ends no answer: transformers reads the score at the last token that is not padding, and where both are one token the
end of an answer, and whether there is one, would be invisible.
"""

import contextlib
import copy
from pathlib import Path

import datasets
import torch
from peft import LoraConfig, PeftModel
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging
from trl import RewardConfig
from trl import RewardTrainer as TRLRewardTrainer

from nbhelpers.core.errors import AuditError, DataError, ModelError
from nbhelpers.core.seeding import seed_everything
from nbhelpers.core.statistics import Metric, estimate
from nbhelpers.evaluation import generation
from nbhelpers.models import encoding, loading, saving, templates
from nbhelpers.training import batching, preference_tuning, sft


class RewardTrainer(preference_tuning.LeanSession, TRLRewardTrainer):
    """TRL's, counted and resumed as every training here."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.count(inputs)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


def padding_token(tokenizer, model=None) -> str:
    """A token of the vocabulary to pad with: the tokenizer's own where it ends no answer, else another special one.

    Raises:
        AuditError: every special token ends an answer.
    """
    stops = encoding.stop_token_ids(tokenizer, model)
    names = [tokenizer.pad_token, tokenizer.unk_token, *tokenizer.all_special_tokens]
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in names if name is not None}
    free = [name for name, number in ids.items() if number not in stops and number != tokenizer.bos_token_id]
    if not free:
        raise AuditError(
            f"Every special token of the tokenizer ({', '.join(ids)}) ends an answer, so that none can pad: a reward "
            "model would not see where an answer ends. Add one: tokenizer.add_special_tokens({'pad_token': '<pad>'})."
        )
    return free[0]


def same_tokenizer(policy, reward) -> None:
    """Check that a reward model reads the tokens that a policy writes.

    Raises:
        AuditError: the vocabularies or the chat templates differ; says which.
    """
    known = reward.get_vocab()
    other = {token for token, number in policy.get_vocab().items() if known.get(token) != number}
    if other or len(policy) != len(reward):
        raise AuditError(
            f"Policy and reward model have other vocabularies: {len(policy):,} and {len(reward):,} tokens, "
            f"{len(other):,} of the policy's with another number or none, such as {sorted(other)[:3]}. Train the "
            "reward model on the policy's own base, or score decoded text."
        )
    if policy.chat_template != reward.chat_template:
        raise AuditError(
            "Policy and reward model have other chat templates, so that one prompt is not the same tokens for both. "
            "Give the reward model the policy's tokenizer and train it with that."
        )


def encode(prompt: list[dict], answer: str, tokenizer, ended: bool = True) -> list[int]:
    """The tokens that are scored: the prompt as rendered, the answer, and its end where the model wrote one."""
    text = templates.render(prompt, tokenizer, add_generation_prompt=True) + answer
    return tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] * ended


def encode_pairs(pairs: list[dict], tokenizer, max_length: int) -> datasets.Dataset:
    """`chosen_ids` and `rejected_ids` of pairs (`data.preferences`); too long ones are dropped, and the count printed.

    Pairs in which the end of the prompt and the beginning of an answer make one token are counted and printed: such an
    answer was not written behind these very tokens.

    A pair may say `chosen_ended` and `rejected_ended`; an answer counts as ended where it does not. `group`, `kind`
    and `both_ended` are carried over.
    """
    rows, merged = [], 0
    for pair in pairs:
        prompt = tokenizer(templates.render(pair["prompt"], tokenizer, True), add_special_tokens=False)["input_ids"]
        ended = {side: pair.get(f"{side}_ended", True) for side in ("chosen", "rejected")}
        ids = {f"{side}_ids": encode(pair["prompt"], pair[side], tokenizer, ended[side]) for side in ended}
        merged += any(row[: len(prompt)] != prompt for row in ids.values())
        facts = {name: pair.get(name, "") for name in ("group", "kind")}
        rows.append(ids | facts | {"both_ended": all(ended.values())})
    kept = [row for row in rows if max(len(row["chosen_ids"]), len(row["rejected_ids"])) <= max_length]
    if merged:
        print(f"{merged} of {len(rows)} pairs: the end of the prompt and the beginning of an answer make one token")
    if len(kept) < len(rows):
        print(f"{len(rows) - len(kept)} of {len(rows)} pairs are longer than max_length={max_length} and left out")
    if not kept:
        raise DataError(f"None of {len(rows)} pairs is as short as max_length={max_length} tokens. Raise it.")
    return datasets.Dataset.from_list(kept)


@contextlib.contextmanager
def errors_only():
    """Within the block transformers does not warn, as it does of every head that is new."""
    shown = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(shown)


def load(folder: str | Path, dtype: str, device: str = "cpu"):
    """The model of a folder with a head of one output in place of its vocabulary. The head begins at 0: all are equal.

    Args:
        folder: of a whole causal model, such as the policy that the answers are of.
    """
    with saving.quiet(), errors_only():
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=getattr(torch, dtype))
    torch.nn.init.zeros_(model.score.weight)
    return model.to(device)


def lora_config(rank: int) -> LoraConfig:
    """LoRA on all linear layers of the trunk, with the head trained and saved beside it."""
    return LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"]
    )


def trainer(run, model, tokenizer, rows, rank: int, name: str = "reward_model", **overrides) -> RewardTrainer:
    """A trainer for rows of `encode_pairs`, in batches of like length; `session.train` runs it.

    Args:
        overrides: fields of TRL's `RewardConfig`.

    Raises:
        AuditError: as `padding_token`.
    """
    seed_everything(run.parameters.seed)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = padding_token(tokenizer, model)
    config = RewardConfig(**sft.trainer_arguments(run, **overrides))
    config.output_dir = f"{config.output_dir}/{name}"
    both = [a + b for a, b in zip(rows["chosen_ids"], rows["rejected_ids"], strict=True)]
    size, parts = config.per_device_train_batch_size, config.gradient_accumulation_steps
    ordered = batching.length_grouped(
        rows.add_column("input_ids", both), size, config.max_steps * parts, config.seed, parts
    )
    made = RewardTrainer(
        model, config, train_dataset=ordered.select_columns(["chosen_ids", "rejected_ids"]),
        processing_class=tokenizer, peft_config=lora_config(rank),
    )  # fmt: skip
    return preference_tuning.ready(made, {"loss": "Bradley-Terry"}, sum(map(len, ordered["input_ids"])))


@torch.no_grad()
def score(model, rows: list[list[int]], batch_size: int = 32, dtype: str | None = None) -> list[float]:
    """The score of each row of tokens (`encode`), in order; read at its last token.

    Raises:
        AuditError: the model pads with a token that ends a row, and would read the score before it.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    pad = model.config.get_text_config().pad_token_id
    if unseen := sum(row[-1] == pad for row in rows):
        raise AuditError(
            f"{unseen} of {len(rows)} rows end with token {pad}, which the reward model takes for padding: it would "
            "not see their ends. Set model.config.pad_token_id to the id of reward_model.padding_token(tokenizer)."
        )
    scores: dict[int, float] = {}
    was_training = model.training
    model.eval()
    for begin in range(0, len(order), batch_size):
        batch = order[begin : begin + batch_size]
        longest = max(len(rows[i]) for i in batch)
        ids = torch.tensor([rows[i] + [pad] * (longest - len(rows[i])) for i in batch], device=model.device)
        mask = torch.tensor([[1] * len(rows[i]) + [0] * (longest - len(rows[i])) for i in batch], device=model.device)
        with generation.autocast(model.device.type, dtype):
            found = model(input_ids=ids, attention_mask=mask).logits[:, 0]
        scores |= zip(batch, found.float().tolist(), strict=True)
    model.train(was_training)
    return [scores[i] for i in range(len(rows))]


def score_answers(model, tokenizer, prompts: list[list[dict]], texts: list[str], ended: list[bool]) -> list[float]:
    """The score of each answer to its prompt; an answer that was not ended is seen without an end."""
    return score(model, [encode(*row) for row in zip(prompts, texts, [tokenizer] * len(texts), ended, strict=True)])


def margins(model, rows, **options) -> list[float]:
    """score(chosen) - score(rejected) of rows of `encode_pairs`."""
    chosen, rejected = (score(model, rows[f"{side}_ids"][:], **options) for side in ("chosen", "rejected"))
    return [a - b for a, b in zip(chosen, rejected, strict=True)]


def accuracy(margins: list[float], groups: list[str] | None = None) -> Metric:
    """The share of pairs that are put in the right order; a tie counts half, so that a constant model gets 0.5.

    Args:
        groups: of which prompt each pair is. Pairs of one prompt are not independent: the share is then the mean of
            the prompts' own, and the interval is over prompts.
    """
    by_group: dict = {}
    for margin, group in zip(margins, groups or range(len(margins)), strict=True):
        by_group.setdefault(group, []).append(0.5 if margin == 0 else float(margin > 0))
    return estimate([sum(right) / len(right) for right in by_group.values()], unit="share")


def accuracies(margins: list[float], rows, new_kinds: tuple[str, ...] = ()) -> dict[str, Metric]:
    """`accuracy` over prompts of rows of `encode_pairs`, by what gives the order away; groups without a pair are none.

    Args:
        new_kinds: kinds that no training pair had.
    """
    facts = list(zip(margins, rows["group"], rows["kind"], rows["both_ended"], strict=True))
    groups = {
        "kinds shown": [row for row in facts if row[2] not in new_kinds],
        "both answers ended": [row for row in facts if row[2] not in new_kinds and row[3]],
        "kinds never shown": [row for row in facts if row[2] in new_kinds],
    }
    return {
        name: accuracy([row[0] for row in those], [row[1] for row in those]) for name, those in groups.items() if those
    }


def longer_preferred(margins: list[float], rows) -> tuple[float, float]:
    """Of pairs of unlike length, the share in which the longer answer scores higher, and in which it is the chosen."""
    sides = zip(rows["chosen_ids"], rows["rejected_ids"], strict=True)
    lengths = [len(chosen) - len(rejected) for chosen, rejected in sides]
    unlike = [(margin, length) for margin, length in zip(margins, lengths, strict=True) if length]
    said = [(margin > 0) == (length > 0) for margin, length in unlike]
    return sum(said) / max(1, len(unlike)), sum(length > 0 for _, length in unlike) / max(1, len(unlike))


def calibration(margins: list[float], bins: int = 5):
    """What the model says against what is: a `pandas.DataFrame`, a row for each bin of predicted probability.

    The probability that the order is right is sigmoid(|margin|), 0.5 to 1, and `right` the share that is.
    """
    import pandas as pd

    size = torch.tensor(margins).abs()
    table = pd.DataFrame({"said": torch.sigmoid(size), "right": [0.5 if m == 0 else float(m > 0) for m in margins]})
    edges = [0.5 + 0.5 * i / bins for i in range(bins + 1)]
    groups = table.groupby(pd.cut(table["said"], edges, include_lowest=True), observed=True)
    return groups.agg(said=("said", "mean"), right=("right", "mean"), pairs=("right", "size"))


def attach(base: str | Path, adapter: Path, dtype: str, device: str = "cpu", tokenizer=None):
    """A reward model loaded back: `trainer(...).model.save_pretrained` wrote the adapter.

    Args:
        tokenizer: of the policy whose answers it will score; None: that in the folder of `base`.

    Raises:
        AuditError: as `same_tokenizer` and `padding_token`.
        ModelError: the adapter holds no head, so that every score would be a random number.
    """
    with safe_open(Path(adapter) / "adapter_model.safetensors", "pt") as weights:
        if not any("score" in name for name in weights.keys()):  # noqa: SIM118 - a safe_open is no dict
            raise ModelError(
                f"{adapter} holds an adapter without a score head: its rewards would be random numbers. Train it with "
                "modules_to_save=['score'], as `reward_model.lora_config` does, and save it again."
            )
    model = PeftModel.from_pretrained(load(base, dtype, device), adapter)
    if tokenizer is None:
        tokenizer = loading.load_tokenizer(str(base))
    else:
        same_tokenizer(tokenizer, loading.load_tokenizer(str(base)))
    number = tokenizer.convert_tokens_to_ids(padding_token(tokenizer, model))
    model.config.get_text_config().pad_token_id = number
    return model
