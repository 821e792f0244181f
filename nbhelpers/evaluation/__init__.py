"""What a model can do, has learned and has forgotten, with intervals.

- `baseline`: the untuned model, asked once and shared by the notebooks of a run
- `constraint_kinds`: the kinds of instruction that a program can check
- `constraints`: a model asked for them, and whether it obeyed
- `fidelity`: how near a changed model is to the one it was made from
- `forgetting`: probes of what a model could do before
- `generation`: many prompts asked at once, greedy or sampled
- `judge`: a model as a judge of two answers, in both orders
- `latency`: how long a model takes for a token, and how fast it reads and writes
- `likelihood`: how likely a model finds given text
- `preference_task`: a task whose true score a program knows, and the pairs of a policy's samples
- `safety`: refuses what it should, answers what it may, keeps to its task
- `scores`: one prediction against one reference, from 0 to 1
- `scoring`: answers scored on held-out rows, and two models side by side
- `uncertainty`: how unsure a model is of its own answers
"""
