"""Proximal policy optimization of a language model whose policy is an adapter.

The objective is that of Schulman et al. 2017 (https://arxiv.org/abs/1707.06347), applied to text as in Ziegler et al.
2019 (https://arxiv.org/abs/1909.08593) and Ouyang et al. 2022 (https://arxiv.org/abs/2203.02155). The reference is the
same model with its adapter off, so that no second model is kept. The formulas are in `policy_gradient`.
"""

import math
from dataclasses import dataclass

import torch

from nbhelpers.core.errors import AuditError, DivergedError, ParameterError
from nbhelpers.evaluation import generation
from nbhelpers.models import encoding, fast_paths
from nbhelpers.training import policy_gradient as formulas

LOWEST_KL = -1.0  # nats per answer: an estimate of 0 is seldom so far below it


@dataclass(frozen=True)
class PPOConfig:
    """What PPO can be told; `TRL_NAMES` has the names that TRL's PPOConfig (until 1.12) gave to the same things."""

    learning_rate: float = 2e-4  # of AdamW, for the adapter
    value_learning_rate: float = 1e-3  # of AdamW, for the value head
    epochs: int = 2  # passes over a rollout
    minibatches: int = 4  # optimizer steps a pass
    kl_coefficient: float = 0.02  # of the penalty for leaving the reference, subtracted from each token's reward
    kl_target: float | None = None  # nats per answer that the coefficient is adapted to; None: it stays as it is
    kl_horizon: int = 1000  # answers over which the coefficient follows
    kl_stop: float = 0.1  # nats per token from the sampling policy, at which the passes over a rollout end
    gamma: float = 1.0  # discount per token, 0 to 1
    gae_lambda: float = 0.95  # 0: the value head is trusted; 1: the sum of rewards is
    clip_range: float = 0.2  # of the ratio of probabilities
    value_clip_range: float = 0.2  # of a value's change
    value_coefficient: float = 0.1  # weight of the value loss
    missing_end_penalty: float = 0.0  # subtracted from the score of an answer that was cut
    max_gradient_norm: float = 1.0
    temperature: float = 1.0  # of the samples and of the log-probabilities
    max_new_tokens: int = 48
    seed: int = 0

    def __post_init__(self):
        ranges = {
            "learning_rate": (0, 1), "value_learning_rate": (0, 1), "epochs": (1, 1000), "minibatches": (1, 10**6),
            "kl_coefficient": (0, math.inf), "kl_horizon": (1, math.inf), "gamma": (0, 1), "gae_lambda": (0, 1),
            "clip_range": (0, 1), "temperature": (1e-3, 100), "max_new_tokens": (1, 10**6),
        }  # fmt: skip
        wrong = [
            f"{name}={getattr(self, name)} is outside of {low} to {high}"
            for name, (low, high) in ranges.items()
            if not low <= getattr(self, name) <= high
        ]
        if wrong:
            raise ParameterError(f"{'; '.join(wrong)}. The defaults of PPOConfig are a place to begin.")


TRL_NAMES = {
    "learning_rate": "learning_rate", "num_ppo_epochs": "epochs", "num_mini_batches": "minibatches",
    "kl_coef": "kl_coefficient", "init_kl_coef": "kl_coefficient", "target": "kl_target", "horizon": "kl_horizon",
    "target_kl": "kl_stop", "gamma": "gamma", "lam": "gae_lambda", "cliprange": "clip_range",
    "cliprange_value": "value_clip_range", "vf_coef": "value_coefficient",
    "missing_eos_penalty": "missing_end_penalty", "max_grad_norm": "max_gradient_norm", "temperature": "temperature",
    "response_length": "max_new_tokens", "seed": "seed",
}  # fmt: skip


@dataclass(frozen=True)
class Rollout:
    """Answers sampled from the policy, with what PPO needs to know of the moment at which they were.

    `prompts` and `answers` are token ids, `texts` the answers decoded, `ended` says which the model ended itself.
    Log-probabilities and values have the shape (rows, tokens).
    """

    prompts: list[list[int]]
    answers: list[list[int]]
    texts: list[str]
    ended: list[bool]
    mask: torch.Tensor
    log_probs: torch.Tensor
    reference_log_probs: torch.Tensor
    values: torch.Tensor

    @property
    def kl(self) -> torch.Tensor:
        """log p / p_reference summed over each answer, in nats, shape (rows,): its mean estimates the KL divergence."""
        return ((self.log_probs - self.reference_log_probs) * self.mask).sum(1)


def adapted_kl_coefficient(coefficient: float, kl: float, config: PPOConfig, answers: int) -> float:
    """The coefficient after a rollout with this mean KL per answer (Ziegler et al. 2019, section 2.2)."""
    if config.kl_target is None:
        return coefficient
    error = min(max(kl / config.kl_target - 1, -0.2), 0.2)
    return coefficient * (1 + error * answers / config.kl_horizon)


class PPO:
    """A policy with its value head and its optimizer. The loop over prompts is the caller's: `roll_out`, then `update`.

    Args:
        model: a `PeftModel` with one trainable adapter. With the adapter off it must be the policy to start from, the
            reference: merge an SFT adapter before the new one is added.
        dtype: precision to compute in, under autocast.
    """

    def __init__(self, model, tokenizer, config: PPOConfig | None = None, dtype: str | None = None):
        self.model, self.tokenizer, self.dtype = model, tokenizer, dtype
        self.config = config or PPOConfig()
        self.kl_coefficient, self.rollouts, self.offset = self.config.kl_coefficient, 0, None
        self.tokens = 0  # real ones that updates have read, prompts included
        self.value_head = torch.nn.Linear(model.config.get_text_config().hidden_size, 1).to(model.device)
        torch.nn.init.zeros_(self.value_head.weight)
        torch.nn.init.zeros_(self.value_head.bias)
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": self.trained, "lr": self.config.learning_rate},
            {"params": list(self.value_head.parameters()), "lr": self.config.value_learning_rate},
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        self.generator = torch.Generator().manual_seed(self.config.seed)

    def evaluate(self, prompts: list[list[int]], answers: list[list[int]]):
        """`(log-probabilities, values)` of the answers, float32, shape (rows, longest answer), 0 behind their ends."""
        lengths = [len(answer) for answer in answers]
        rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        device, longest = self.model.device, max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)  # padding: never read
        mask = formulas.answer_mask(lengths).to(device)
        places = torch.tensor([[len(prompt) - 1] for prompt in prompts]) + torch.arange(max(lengths))
        places = places.clamp(max=longest - 1).to(device)  # the place before a token predicts it
        causal, exact = self.model.get_base_model(), fast_paths.float32_attention(device.type, always=True)
        with generation.autocast(device.type, self.dtype), fast_paths.in_place_lora(self.model), exact:
            hidden = causal.base_model(input_ids=ids, use_cache=False).last_hidden_state
            hidden = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))
            logits = causal.get_output_embeddings()(hidden[mask])
        targets = ids.gather(1, (places + 1).clamp(max=longest - 1))[mask]
        chosen = torch.log_softmax(logits.float() / self.config.temperature, -1).gather(1, targets[:, None])[:, 0]
        log_probs = torch.zeros(mask.shape, device=device).masked_scatter(mask, chosen)
        return log_probs, self.value_head(hidden.float())[..., 0] * mask

    @torch.no_grad()
    def _evaluate_all(self, prompts, answers, batch_size: int):
        """`evaluate` in batches of answers of like length, as two tensors of shape (rows, longest answer)."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + len(answers[i]))
        both = torch.zeros(2, len(answers), max(map(len, answers)), device=self.model.device)
        for begin in range(0, len(order), batch_size):
            batch = order[begin : begin + batch_size]
            found = torch.stack(self.evaluate([prompts[i] for i in batch], [answers[i] for i in batch]))
            both[:, batch, : found.shape[-1]] = found
        return both

    def roll_out(
        self, prompts: list[list[int]], batch_size: int = 32, answers: list[list[int]] | None = None
    ) -> Rollout:
        """Sample one answer to each prompt from the whole distribution, and evaluate it under policy and reference.

        Args:
            prompts: token ids, rendered by the chat template; a prompt may stand there several times.
            answers: token ids that this very policy has drawn before, such as the reference's own samples for the first
                rollout; None: they are drawn here.
        """
        config = self.config
        if answers is None:
            answers = generation.continue_tokens(
                self.model, self.tokenizer, prompts, config.max_new_tokens, batch_size, self.dtype,
                config.temperature, seed=config.seed + 1000 * self.rollouts, top_p=1.0,
            )  # fmt: skip
        self.rollouts += 1
        self.model.eval()  # without dropout the ratio is 1 before the first update
        log_probs, values = self._evaluate_all(prompts, answers, batch_size)
        with self.model.disable_adapter():
            reference, _ = self._evaluate_all(prompts, answers, batch_size)
        mask = formulas.answer_mask([len(answer) for answer in answers]).to(self.model.device)
        stops = encoding.stop_token_ids(self.tokenizer, self.model)
        texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        ended = [answer[-1] in stops for answer in answers]
        return Rollout(prompts, answers, texts, ended, mask, log_probs, reference, values)

    def update(self, rollout: Rollout, scores) -> dict[str, float]:
        """Several optimizer steps on one rollout; returns what to watch.

        A constant added to every score changes nothing: comparisons leave it open, and the mean score of the first
        rollout is subtracted from all, as Ziegler et al. 2019 do with their reward model.

        Args:
            scores: a finite number for each answer.

        Raises:
            AuditError: the answers are not the policy's: the mean KL, which is above 0, is estimated far below; or as
                `check_scores`.
            DataError: as `check_scores`.
            DivergedError: a loss is not finite.
        """
        config, mask, kl = self.config, rollout.mask, rollout.kl.mean().item()
        if kl < LOWEST_KL:
            raise AuditError(
                f"The KL from the reference is estimated at {kl:.1f} nats per answer, and it cannot be below 0: the "
                "answers were not drawn from the whole distribution of this policy. Sample with top_p 1, top_k 0 and "
                "the temperature of the config, and update before the policy moves."
            )
        scores = torch.tensor(formulas.check_scores(scores, rollout.ended), device=mask.device)
        scores = scores - config.missing_end_penalty * ~torch.tensor(rollout.ended, device=mask.device)
        self.offset = scores.mean() if self.offset is None else self.offset
        rewards = formulas.token_rewards(
            scores - self.offset, rollout.log_probs, rollout.reference_log_probs, mask, self.kl_coefficient
        )
        advantages, returns = formulas.gae(rewards, rollout.values, mask, config.gamma, config.gae_lambda)
        advantages = formulas.whiten(advantages, mask)
        figures = []
        for _ in range(config.epochs):
            order = torch.randperm(len(scores), generator=self.generator)
            for rows in order.tensor_split(min(config.minibatches, len(scores))):
                figures.append(self._step(rollout, rows, advantages, returns))
            if figures[-1]["kl_from_samples"] > config.kl_stop:
                break
        self.kl_coefficient = adapted_kl_coefficient(self.kl_coefficient, kl, config, len(scores))
        means = {name: sum(step[name] for step in figures) / len(figures) for name in figures[0]}
        lengths = mask.sum(1).float().mean().item()
        watched = {"score": scores.mean().item(), "kl": kl, "tokens": lengths, "steps": len(figures)}
        return watched | means | {"kl_coefficient": self.kl_coefficient}

    def _step(self, rollout: Rollout, rows, advantages, returns) -> dict[str, float]:
        """One optimizer step on some rows of a rollout."""
        config = self.config
        prompts, answers = ([parts[i] for i in rows] for parts in (rollout.prompts, rollout.answers))
        self.tokens += sum(map(len, prompts)) + sum(map(len, answers))
        width = max(map(len, answers))
        mask, old, old_values = (x[rows, :width] for x in (rollout.mask, rollout.log_probs, rollout.values))
        log_probs, values = self.evaluate(prompts, answers)
        of_policy, clipped = formulas.policy_loss(log_probs, old, advantages[rows, :width], mask, config.clip_range)
        of_values = formulas.value_loss(values, old_values, returns[rows, :width], mask, config.value_clip_range)
        loss = of_policy + config.value_coefficient * of_values
        if not torch.isfinite(loss):
            raise DivergedError(f"The loss of PPO is {loss.item()}. Lower learning_rate={config.learning_rate}.")
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, config.max_gradient_norm)
        self.optimizer.step()
        log_ratio = (log_probs - old).detach() * mask
        from_samples = formulas.masked_mean(log_ratio.exp() - 1 - log_ratio, mask)  # never below 0 (Schulman's k3)
        figures = {
            "policy_loss": of_policy,
            "value_loss": of_values,
            "clipped": clipped,
            "kl_from_samples": from_samples,
        }
        return {name: value.item() for name, value in figures.items()}
