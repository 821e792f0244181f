"""Time and money.

- `hosted`: what a hosted service would ask for training
- `prices`: what machines cost
- `training_time`: operations of a training, and how fast this machine does them
"""
