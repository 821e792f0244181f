"""Which method for which goal: prompting, retrieval, tuning; then which notebook and what it takes."""

from dataclasses import dataclass

from nbhelpers.core.errors import ParameterError
from nbhelpers.cost import planner
from nbhelpers.notebook import widgets

GOALS = {
    "facts": "answers from knowledge of my own",
    "format": "answers in a form or style",
    "skill": "a task that the model does badly",
    "behaviour": "answers that people prefer",
    "size": "the same answers, smaller or faster",
}
UPDATES = ("never", "monthly", "daily")
FEW, PAIRS, MANY = 50, 100, 10_000  # examples: for prompts alone, at least of preferences, for changing every weight


@dataclass(frozen=True)
class Advice:
    """A step to take, why, and the notebook that shows it."""

    step: str
    why: str
    notebook: str


def advise(
    goal: str, examples: int, updates: str = "never", gpu_memory_bytes: int = 0, model: str = "Llama-3.1-8B",
    instruct: bool = True, milliseconds: float | None = None, commercial: bool = True,
) -> list[Advice]:  # fmt: skip
    """What to try, in order: each step is cheaper to try than the one behind it.

    Args:
        goal: one of `GOALS`.
        examples: rows of the task that there are, or pairs where the goal is `behaviour`.
        updates: how often what it must know changes: `never`, `monthly`, `daily`.
        gpu_memory_bytes: of the GPU that there is; 0: none.
        model: a name of data/model_shapes.json, for what fits.
        instruct: whether it is a chat model already.
        milliseconds: that a token of an answer may take; None: it does not matter.
        commercial: whether the result is sold.

    Raises:
        ParameterError: an unknown goal or rate of updates, or a negative count.
        ModelError: an unknown model.
    """
    if goal not in GOALS or updates not in UPDATES:
        raise ParameterError(f"goal={goal!r}, updates={updates!r}: choose of {', '.join(GOALS)}; {', '.join(UPDATES)}.")
    if examples < 0:
        raise ParameterError(f"examples={examples!r}: 0 or more.")
    steps = []
    if goal == "size":
        steps.append(Advice("quantise", "eight bits change little; measure four bits on your own task", "06"))
    if goal == "facts":
        why = (
            "facts that change must be looked up, not learned" if updates != "never" else "it cites and forgets nothing"
        )
        steps.append(Advice("retrieval", f"{why}: give the model the passages with the question", "none here"))
    if goal != "size":
        steps.append(Advice("a prompt with examples", "costs nothing to try, and is the baseline to beat", "02"))
    if goal == "behaviour":
        if examples >= PAIRS:
            steps.append(Advice("DPO on pairs", f"{examples:,} comparisons are enough to try", "05"))
        else:
            steps.append(Advice("compare answers first", f"{examples:,} pairs are few: label {PAIRS} or more", "05"))
    elif goal != "size" and examples < FEW:
        steps.append(Advice("clean and collect", f"{examples:,} rows are few: {FEW} or more of good quality", "01"))
    elif goal != "size":
        steps += _tuning(goal, examples, updates, gpu_memory_bytes, model, instruct)
    if milliseconds is not None and milliseconds < 50 and goal != "size":
        steps.append(Advice("quantise and serve", f"{milliseconds:g} ms a token asks for a server that batches", "06"))
    if commercial:
        steps.append(Advice("read the licence", f"of {model}, and of every data set: some forbid commercial use", "06"))
    return steps


def _tuning(goal: str, examples: int, updates: str, gpu_memory_bytes: int, model: str, instruct: bool) -> list[Advice]:
    steps = []
    if not instruct:
        steps.append(Advice("instruction tuning", "a base model does not know when an answer ends", "04"))
    job = planner.Job(model, max(1, examples), 400, 1024)
    shape = planner.Shape.named(model)
    fitting = [m for m in planner.METHODS if planner.peak(job, shape, m, "bfloat16", 1, True) <= gpu_memory_bytes]
    if not fitting:
        rent = "rent one: 07 ranks them" if gpu_memory_bytes else "without a GPU take a small model, or rent one"
        steps.append(Advice("a smaller model, or a larger GPU", f"no method fits {model} here; {rent}", "07"))
    elif goal == "skill" and examples >= MANY and "full" in fitting and updates == "never":
        steps.append(Advice("full fine-tuning", f"{examples:,} rows, and it fits; measure what is forgotten", "03"))
    elif "lora" in fitting:
        steps.append(Advice("LoRA", "most of the gain, little forgotten, an adapter of megabytes", "02"))
    else:
        steps.append(Advice("QLoRA", f"in four bits {model} fits; about 1.4 times the time of LoRA", "02"))
    return steps


def table(steps: list[Advice]):
    """A `pandas.DataFrame` of the steps, in order."""
    import pandas as pd

    return pd.DataFrame([vars(step) for step in steps], index=range(1, len(steps) + 1))


def chooser(goal: str, examples: int, updates: str, gpu_memory_bytes: int, model: str, instruct: bool):
    """Controls above the steps, as an ipywidget; headless the steps for these values are printed, and None returned."""
    if not widgets.interactive():
        print(table(advise(goal, examples, updates, gpu_memory_bytes, model, instruct)).to_string())
        return None
    import ipywidgets as w

    wide = {"style": {"description_width": "9em"}, "layout": {"width": "28em"}}
    controls = {
        "goal": w.Dropdown(
            options=[(text, name) for name, text in GOALS.items()], value=goal, description="I want", **wide
        ),
        "examples": w.BoundedIntText(examples, 0, 10**9, description="examples", **wide),
        "updates": w.Dropdown(options=UPDATES, value=updates, description="facts change", **wide),
        "gpu": w.BoundedFloatText(gpu_memory_bytes / 2**30, min=0, max=10_000, description="GPU memory (GiB)", **wide),
        "model": w.Dropdown(options=planner.Shape.names(), value=model, description="model", **wide),
        "instruct": w.Checkbox(instruct, description="it is a chat model", **wide),
        "latency": w.BoundedFloatText(0, min=0, max=10_000, description="ms a token (0: any)", **wide),
        "commercial": w.Checkbox(True, description="the result is sold", **wide),
    }
    shown = w.HTML()

    def show(_=None) -> None:
        v = {name: control.value for name, control in controls.items()}
        steps = advise(
            v["goal"], v["examples"], v["updates"], int(v["gpu"] * 2**30), v["model"], v["instruct"],
            v["latency"] or None, v["commercial"],
        )  # fmt: skip
        shown.value = table(steps).to_html()

    for control in controls.values():
        control.observe(show, "value")
    show()
    return w.VBox([w.HBox(list(controls.values()), layout={"flex_flow": "row wrap"}), shown])
