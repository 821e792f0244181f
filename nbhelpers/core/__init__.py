"""What every other room stands on, and no room's own subject.

- `environment`: disk, network, driver, versions
- `errors`: what a notebook can refuse, one class a kind
- `fingerprint`: hashes of code that imports, comments and docstrings do not change
- `hardware`: processor, cores, memory, GPU, and the precision to compute in
- `memory_usage`: memory in use, its peak over a block, and giving it back
- `parameters`: a notebook's parameters, read from its cell and checked all at once
- `process`: a function called in a fresh process
- `profiles`: the defaults sized for each kind of machine
- `progress`: how far long work is, and how time is shown
- `redaction`: folders of the machine and secrets, taken out of results
- `run`: one execution of one notebook: its folder, manifest and metrics
- `seeding`: random numbers that a seed decides
- `statistics`: a number with its interval: bootstrap of a mean, score interval of a share
- `storage`: where repository and cache are, files written in one step, hashes
"""
