"""Notebooks as a reader and a batch see them: run, reported, drawn, browsed.

- `advice`: which method for which goal
- `command_line`: `python -m nbhelpers run`, `report`, `check`, `compare`, `reference` and `stale`
- `cost_plots`: figures of memory and cost
- `cost_widgets`: sliders over the planner
- `forecasts`: what was predicted before training, beside what was measured
- `labeller`: which of two answers is better, labelled blind
- `notebook_file`: notebooks as files: cells, tags, declared parameters
- `plots`: the figures
- `reference`: the committed reference of an executed notebook
- `report`: one page about a run
- `runner`: one notebook in a child process, judged by what it left
- `staleness`: which notebooks differ from what their reference was made with
- `suite`: notebooks run one after the other
- `suite_map`: the question of each notebook, and how long it takes
- `verdicts`: a run compared with the reference, or with another run
- `widgets`: browsers and a chat that print when nobody can click
"""
