"""Training, watched and forecast.

- `batching`: rows in batches: by length, by curriculum, packed
- `callbacks`: a watch that prints progress and stops on what is not finite
- `checkpoints`: sealed when whole, examined before use
- `continual_learning`: replay and elastic weight consolidation
- `forecast`: memory, time and money expected, and what it took
- `instruction_tuning`: the mixture of notebook 04, and the adapter that comes of it
- `learning_rates`: learning-rate range test and layer-wise decay
- `memory_advice`: what to change when a training does not fit
- `monitoring`: named rules: divergence, overfitting, plateau
- `policy_gradient`: rewards of tokens, advantages, the losses of PPO
- `policy_scores`: true score, reward model's score, length and KL of a policy
- `ppo`: proximal policy optimization with an adapter as the policy
- `preference_forecast`: what pairs and rollouts are expected to take
- `preference_tuning`: TRL's DPO on a policy that is its own reference
- `remote_checkpoints`: copies of checkpoints at an address that outlives the machine
- `reward_model`: a score head learned from pairs, and how right it is
- `row_encoding`: rows of a source as tokens, to train on and to score
- `session`: what every training has in common: measured, resumed, out of memory with advice
- `sft`: a TRL trainer from a run's parameters
"""
