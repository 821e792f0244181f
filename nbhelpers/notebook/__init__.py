"""Notebooks as a reader and a batch see them: run, reported, drawn, browsed.

- `command_line`: `python -m nbhelpers run`, `report`, `reference` and `stale`
- `labeller`: which of two answers is better, labelled blind
- `notebook_file`: notebooks as files: cells, tags, declared parameters
- `plots`: the figures
- `reference`: the committed reference of an executed notebook
- `report`: one page about a run
- `runner`: one notebook in a child process, judged by what it left
- `staleness`: which notebooks differ from what their reference was made with
- `suite`: notebooks run one after the other
- `widgets`: browsers and a chat that print when nobody can click
"""
