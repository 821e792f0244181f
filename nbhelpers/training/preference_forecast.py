"""What learning from preferences is expected to take: pairs through a policy and its reference, and PPO's rollouts."""

import datasets

from nbhelpers.core import hardware
from nbhelpers.models import encoding, memory_limits
from nbhelpers.training import forecast, ppo
from nbhelpers.training.forecast import RECORDED, Forecast


def both_answers(rows, labelled: bool = True) -> datasets.Dataset:
    """The two answers of each row of `reward_model.encode_pairs` as rows; labelled is what they do not share."""
    found = []
    for chosen, rejected in zip(rows["chosen_ids"], rows["rejected_ids"], strict=True):
        pairs = zip(chosen, rejected, strict=False)
        shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))
        for ids in (chosen, rejected):
            begin = shared if labelled else len(ids)
            found.append({"input_ids": ids, "labels": [encoding.IGNORE] * begin + ids[begin:]})
    return datasets.Dataset.from_list(found)


def pairs(run, name: str, rows, reference: bool) -> Forecast:
    """Predict, record and print a training on pairs with LoRA.

    A batch holds both answers of its pairs. The reference reads them once more without a backward pass, which costs
    what a repeated forward pass would, and keeps nothing.

    Args:
        rows: of `reward_model.encode_pairs`.
        reference: DPO has one; a reward model has none, and no vocabulary either.

    Raises:
        ResourceError: as `forecast.forecast`.
    """
    twice = run.having(per_device_train_batch_size=2 * run.parameters.per_device_train_batch_size)
    rows = both_answers(rows, labelled=reference)
    found = forecast.expected(twice, "lora", rows)
    if reference:
        longer = forecast.expected(twice.having(gradient_checkpointing=True), "lora", rows)
        found = Forecast(found.parts, longer.seconds, longer.dollars)
    return _recorded(run, name, found)


def rollouts(
    run, name: str, rows, updates: int, answers: int, config: ppo.PPOConfig, tokens_per_second: float, pace: float = 1.0
):
    """Predict, record and print PPO: tokens written at a measured rate, read by policy and reference, and the updates.

    Args:
        rows: encoded answers of the policy to start from, such as the first rollout will be.
        answers: of one rollout.
        tokens_per_second: at which this policy was seen to write. The first rollout counts too.
        pace: how many times as long as predicted a training like this one took.

    Raises:
        ResourceError: as `forecast.forecast`.
    """
    steps, size = updates * config.minibatches, max(1, answers // config.minibatches)
    trained = run.having(
        max_steps=steps * config.epochs, per_device_train_batch_size=size, gradient_accumulation_steps=1
    )
    found = forecast.expected(trained, "lora", rows)
    # Policy and reference read a rollout once, forward only: 4 operations a weight and token, as one pass of LoRA.
    read = found.seconds / config.epochs
    written = sum(label != encoding.IGNORE for row in rows["labels"] for label in row) / len(rows) * updates * answers
    seconds = pace * (found.seconds + read) + written / tokens_per_second
    return _recorded(run, name, Forecast(found.parts, seconds, found.dollars * seconds / found.seconds))


def _recorded(run, name: str, found: Forecast) -> Forecast:
    fits = memory_limits.check(found.peak_memory_bytes, hardware.memory_free(run.hardware.device), run.parameters.force)
    print(f"{name:18} {fits}; about {found.seconds:.0f} s, ${found.dollars:.4f}")
    run.predict(**{f"{name}.{key}": getattr(found, key) for key in RECORDED})
    return found
