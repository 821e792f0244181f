"""Notebooks as a reader and a batch see them: run, reported, drawn, browsed.

- `advice`: which method for which goal
- `attempts`: one task of a batch, started as often as the options allow
- `child`: papermill in a process that ends with the runner
- `command_line`: `python -m nbhelpers run`, `report`, `check`, `compare`, `reference` and `stale`
- `copies`: results copied to an address that outlives the machine
- `cost_plots`: figures of memory and cost
- `cost_widgets`: sliders over the planner
- `executors`: where the tasks of a batch are computed: threads, or a Ray cluster
- `forecasts`: what was predicted before training, beside what was measured
- `labeller`: which of two answers is better, labelled blind
- `launch`: what a notebook is started with, and whether its result still stands
- `notebook_file`: notebooks as files: cells, tags, declared parameters
- `notebook_page`: an executed notebook as HTML
- `page`: the style and the policy of all HTML pages
- `plan`: what a batch will run: notebooks, and points of a sweep
- `plots`: the figures
- `reference`: the committed reference of an executed notebook
- `report`: one page about a run
- `run_folder`: the folder of a run as it was left, and its table of results
- `runner`: one notebook in a child process, judged by what it left
- `staleness`: which notebooks differ from what their reference was made with
- `suite`: a batch of notebooks, one or several at a time
- `suite_map`: the question of each notebook, and how long it takes
- `usage`: memory, cores and GPU that a notebook uses
- `verdicts`: a run compared with the reference, or with another run
- `widgets`: browsers and a chat that print when nobody can click
"""
