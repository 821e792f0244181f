"""Many variants side by side, each in a process of its own.

- `comparison`: variants side by side, with intervals over rows and seeds
- `format_comparison`: what those formats cost and keep, beside the unquantised model
- `formats`: one number format, made and measured
- `jobs`: many jobs, each in a process of its own, each result kept
- `memory_stages`: where the memory of one training step goes
- `preference_comparison`: what those methods found, as gains over the policy they began at
- `preference_methods`: methods of learning from preferences, from one policy
- `variant`: one variant: trained, measured, scored and timed
"""
