"""One way to learn from preferences, trained and measured: the jobs of `notebooks/studies/05_preference_methods`.

All begin at one policy, a merged model, and train one adapter of one shape. What is passed in is the same for all: the
questions, the policy's own answers to them, the pairs of these answers, and the reward model learned from the pairs.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import datasets
import numpy as np
from peft import get_peft_model
from trl import GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer, RLOOConfig, RLOOTrainer

from nbhelpers.core import hardware, memory_usage
from nbhelpers.core.seeding import seed_everything
from nbhelpers.cost import prices
from nbhelpers.data import preferences
from nbhelpers.evaluation import forgetting, preference_task, safety
from nbhelpers.models import encoding, loading, templates
from nbhelpers.training import (
    instruction_tuning,
    policy_gradient,
    policy_scores,
    ppo,
    preference_tuning,
    reward_model,
    session,
    sft,
)


@dataclass(frozen=True)
class Material:
    """What every method is given.

    policy, reward: folders of the model to start from and of the reward model's adapter.
    asked: split -> `preference_task.questions`; drawn: the policy's answers to those of `train`.
    """

    policy: Path
    reward: Path
    asked: dict
    drawn: list
    pairs: list[dict]


@dataclass(frozen=True)
class Method:
    """A method with its settings, and the reward that it is told of: `model`, `rule` or `wrong sign`.

    name: SFT (nothing is trained), rejection, DPO, KTO, ORPO, PPO, RLOO or GRPO.
    settings: of `PPOConfig` for PPO, of `dpo_trainer` for DPO, of TRL's configuration for the others.
    rollouts: of PPO, RLOO and GRPO, each with `answers` answers.
    """

    name: str
    settings: dict = field(default_factory=dict)
    reward: str = "model"
    rollouts: int = 5
    answers: int = 96
    seed: int = 0


def wrong_sign(prompts, texts: list[str], ended: list[bool]) -> list[float]:
    """A reward for short answers with a sign error: an answer that was cut off should cost 3, and is paid 3."""
    return [3 * float(not end) - len(text) / 200 for text, end in zip(texts, ended, strict=True)]


def by_rule(constraints: dict, prompts, texts: list[str], ended: list[bool]) -> list[float]:
    """The true score itself, as a reward: what a task offers whose answers a program can check."""
    answers = zip(prompts, texts, ended, strict=True)
    return [preference_task.score(constraints[prompt[-1]["content"]], text, end) for prompt, text, end in answers]


def reward_of(method: Method, material: Material, run, tokenizer) -> Callable:
    """`reward(prompts, texts, ended)`: a score for each answer, as the method is told of it."""
    if method.reward == "wrong sign":
        return wrong_sign
    if method.reward == "rule":
        return partial(by_rule, {prompt[-1]["content"]: constraint for prompt, constraint in material.asked["train"]})
    judge = reward_model.attach(material.policy, material.reward, run.dtype, run.hardware.device, tokenizer)
    return partial(reward_model.score_answers, loading.for_inference(judge, run.dtype), tokenizer)


def learn(run, method: Method, material: Material, with_safety: bool = False) -> dict:
    """Train a policy by one method and measure it on the held-out questions.

    Returns: `seconds`, `dollars` and `peak_memory_bytes` of the training; `course`, a dict for each rollout or step;
    `scores` (split and value -> one number a question), of which `proxy` is the reward model's and `paid` that of
    `wrong_sign`; `kl`, in nats per answer; `forgetting`; `safety` where it is asked for.
    `left_out` with the reason where the policy has nothing to learn from.
    """
    if method.reward == "rule" and not any(answer.score for several in material.drawn for answer in several):
        return {"left_out": "no answer of the policy is right, so that the rule has nothing to reward"}
    run = run.having(seed=method.seed)
    model, tokenizer = loading.load(str(material.policy), run.dtype, run.hardware.device)
    found: dict = {"course": []}
    if method.name != "SFT":
        started = time.perf_counter()
        with memory_usage.peak(run.hardware.device) as peak:
            model, found["course"] = _trained(run, method, material, model, tokenizer)
        seconds = time.perf_counter() - started
        cores = run.hardware.cores
        share = min(1.0, int(os.environ.get(hardware.CORES, cores)) / cores)  # of what is paid for, see `jobs`
        price = prices.prices()[run.profile.price].dollars_per_hour
        found |= {"seconds": seconds, "dollars": share * prices.dollars(seconds, price)}
        found |= {"peak_memory_bytes": peak.bytes}
        model = loading.for_inference(model, run.dtype)
    judge = reward_of(Method("SFT"), material, run, tokenizer)
    options = {"max_new_tokens": run.parameters.max_new_tokens, "batch_size": 2 * run.parameters.eval_batch_size}
    scores = {}
    for split in ("validation", "test"):
        measured = policy_scores.measure(model, tokenizer, material.asked[split], **options)
        prompts = [prompt for prompt, _ in material.asked[split]]
        answered = prompts, measured.answers, [end == 1 for end in measured.ended]
        values = {"true": measured.score, "proxy": judge(*answered), "paid": wrong_sign(*answered)}
        values |= {"ended": measured.ended, "tokens": measured.tokens}
        scores |= {f"{split}.{name}": list(map(float, value)) for name, value in values.items()}
        found["kl"] = measured.kl
    found |= {"scores": scores, "forgetting": forgetting.measure(model, tokenizer, run.parameters.eval_batch_size)}
    if with_safety:
        found["safety"] = safety.measure(model, tokenizer, batch_size=run.parameters.eval_batch_size)
    return found


def _trained(run, method: Method, material: Material, model, tokenizer):
    """`(model with its adapter, course)`."""
    lora, p = instruction_tuning.lora_config(run.parameters.lora_rank), run.parameters
    if method.name == "PPO":
        return _ppo(run, method, material, get_peft_model(model, lora), tokenizer)
    if method.name in ("RLOO", "GRPO"):
        return _online(run, method, material, model, tokenizer, lora)
    if method.name == "rejection":
        accepted = preference_task.accepted(material.asked["train"], material.drawn)
        rows = instruction_tuning.encode_pool(
            accepted or preference_task.chosen_rows(material.pairs), tokenizer, p.max_length
        )
        trainer = sft.sft_trainer(run, model, tokenizer, rows, lora, name=f"rejection-{method.seed}")
        course = sft.train(trainer).losses
    elif method.name == "DPO":
        name = f"dpo-{method.seed}-{method.settings.get('beta', '')}"  # jobs at a time do not share checkpoints
        trainer = preference_tuning.dpo_trainer(
            run, model, tokenizer, material.pairs, lora, name=name, **method.settings
        )
        course = session.train(trainer).losses
    else:
        trainer = _unpaired(run, method, material.pairs, model, tokenizer, lora)
        trainer.train()
        course = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return trainer.model, [{"loss": float(loss)} for loss in course]


def _unpaired(run, method: Method, pairs: list[dict], model, tokenizer, lora):
    """TRL's trainer of KTO (Ethayarajh et al. 2024) or ORPO (Hong et al. 2024), as many answers a step as DPO."""
    p = run.parameters
    seed_everything(p.seed)
    arguments = sft.trainer_arguments(run, **{"max_length": p.max_length} | method.settings)
    if method.name == "KTO":
        arguments["per_device_train_batch_size"] *= 2  # answers, where DPO has pairs
        rows = [
            {"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
            for pair in preferences.conversational(pairs)
            for side in ("chosen", "rejected")
        ]
        rows = datasets.Dataset.from_list(rows).select(np.random.default_rng(p.seed).permutation(len(rows)))
        return KTOTrainer(
            model, args=KTOConfig(**arguments), train_dataset=rows, processing_class=tokenizer, peft_config=lora
        )
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # its warning that it may change
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    rows = [  # as text: of turns ORPO's trainer adds a second end behind the template's
        {"prompt": templates.render(pair["prompt"], tokenizer, True), "chosen": pair["chosen"]}
        | {"rejected": pair["rejected"]}
        for pair in pairs
    ]
    return ORPOTrainer(
        model, args=ORPOConfig(**arguments), train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer, peft_config=lora,
    )  # fmt: skip


def _ppo(run, method: Method, material: Material, model, tokenizer):
    config = ppo.PPOConfig(
        **{"learning_rate": run.parameters.learning_rate, "max_new_tokens": run.parameters.max_new_tokens}
        | method.settings,
        seed=method.seed,
    )
    learner = ppo.PPO(model, tokenizer, config, run.dtype)
    reward, rng, course = reward_of(method, material, run, tokenizer), np.random.default_rng(method.seed), []
    for _ in range(method.rollouts):
        asked = [material.asked["train"][i] for i in rng.choice(len(material.asked["train"]), method.answers)]
        prompts = [preference_task.render(prompt, tokenizer) for prompt, _ in asked]
        rollout = learner.roll_out(prompts, 2 * run.parameters.eval_batch_size)
        scores = reward([prompt for prompt, _ in asked], rollout.texts, rollout.ended)
        answered = zip(asked, rollout.texts, rollout.ended, strict=True)
        true = [preference_task.score(constraint, text, ended) for (_, constraint), text, ended in answered]
        course.append(learner.update(rollout, scores) | {"true": float(np.mean(true))})
    return learner.model, course


def _online(run, method: Method, material: Material, model, tokenizer, lora):
    """TRL's RLOO (Ahmadian et al. 2024) or GRPO (Shao et al. 2024), with as many answers and steps as PPO takes."""
    p, reward, group = run.parameters, reward_of(method, material, run, tokenizer), 6
    stops = encoding.stop_token_ids(tokenizer, model)

    def score(prompts, completions, completion_ids, **_):
        ended = [ids[-1] in stops for ids in completion_ids]
        texts = tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
        return policy_gradient.check_scores(reward(prompts, texts, ended), ended)

    minibatches, passes = 4, 2
    settings = {
        "per_device_train_batch_size": method.answers // minibatches, "steps_per_generation": minibatches,
        "num_iterations": passes, "num_generations": group, "max_completion_length": p.max_new_tokens, "beta": 0.02,
        "max_steps": method.rollouts * minibatches * passes, "gradient_accumulation_steps": 1, "epsilon": 0.2,
        "disable_dropout": True,
    }  # fmt: skip
    arguments = sft.trainer_arguments(run, **settings | method.settings)
    for name in ("max_length", "train_sampling_strategy"):
        del arguments[name]
    prompts = [{"prompt": prompt} for prompt, _ in material.asked["train"]]
    wanted = method.answers // group  # with fewer prompts than one rollout takes, TRL trains no step and says nothing
    rows = datasets.Dataset.from_list(prompts * -(-wanted // len(prompts)))
    kind, config = (GRPOTrainer, GRPOConfig) if method.name == "GRPO" else (RLOOTrainer, RLOOConfig)
    seed_everything(p.seed)
    trainer = kind(
        model, reward_funcs=score, args=config(**arguments), train_dataset=rows, processing_class=tokenizer,
        peft_config=lora,
    )  # fmt: skip
    trainer.train()
    kept = ("reward", "kl", "completions/mean_length", "completions/clipped_ratio")
    return trainer.model, [
        {name: float(entry[name]) for name in kept if name in entry}
        for entry in trainer.state.log_history
        if "reward" in entry
    ]


def over_seeds(results: list[dict]) -> dict:
    """Results of `learn` of one method over several seeds as one.

    Scores and KL have a line for each seed, so that their intervals cover seeds and questions. Times, prices and what
    is known are means, the memory is the largest; the course is the first seed's.
    """
    scores = {key: [one["scores"][key] for one in results] for key in results[0]["scores"]}
    known = {kind: np.mean([one["forgetting"][kind] for one in results], axis=0) for kind in results[0]["forgetting"]}
    means = {key: float(np.mean([one[key] for one in results])) for key in ("seconds", "dollars")}
    pooled = {"scores": scores, "kl": [one["kl"] for one in results]}
    pooled["forgetting"] = {kind: values.tolist() for kind, values in known.items()}
    pooled["peak_memory_bytes"] = max(one["peak_memory_bytes"] for one in results)
    return results[0] | means | pooled


def learn_reward(run, pairs: list[dict], held_out: list[dict], asked: list, drawn: list, policy: Path) -> dict:
    """Train a reward model on some pairs, and see how right it is and what it would be worth.

    Returns: `margins` of the held-out pairs with their `group`, `both_ended` and `kind`; `first` and `best`: the true
    scores of the first and of the highest ranked of each question's answers.
    """
    p, device = run.parameters, run.hardware.device
    tokenizer = loading.load_tokenizer(str(policy))
    rows = reward_model.encode_pairs(pairs, tokenizer, p.max_length)
    base, name = reward_model.load(policy, run.dtype, device), f"reward_model-{len(pairs)}"
    trainer = reward_model.trainer(run, base, tokenizer, rows, p.lora_rank, name)
    seconds = session.train(trainer).seconds
    model = loading.for_inference(trainer.model, run.dtype)
    held_out = reward_model.encode_pairs(held_out, tokenizer, p.max_length)
    flat = [(prompt, answer) for (prompt, _), several in zip(asked, drawn, strict=True) for answer in several]
    scores = iter(
        reward_model.score_answers(
            model, tokenizer, [prompt for prompt, _ in flat], [answer.text for _, answer in flat],
            [answer.ended for _, answer in flat],
        )
    )  # fmt: skip
    ranked = [[next(scores) for _ in several] for several in drawn]
    return {
        "pairs": len(rows),
        "seconds": seconds,
        "margins": reward_model.margins(model, held_out),
        "group": held_out["group"][:],
        "kind": held_out["kind"][:],
        "both_ended": held_out["both_ended"][:],
        "first": [several[0].score for several in drawn],
        "best": preference_task.best_of(drawn, ranked),
    }
