"""Time and money.

- `hosted`: what a hosted service would ask for training
- `inference`: what answers cost, self-hosted or by the token
- `ownership`: rented, reserved or bought; return and payback
- `planner`: every GPU, method and batch for a job, ranked
- `prices`: what machines cost, and what their GPUs are
- `project`: interruptions, people, storage, energy, budget
- `training_time`: operations of a training, and how fast this machine does them
"""
