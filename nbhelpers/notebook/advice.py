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
TRAININGS = 10  # a project seldom ends with the first
NAMES = {"full": "full fine-tuning", "lora": "LoRA", "qlora": "QLoRA"}
WHY = {
    "full": "many rows, and it fits; measure what is forgotten",
    "lora": "most of the gain with an adapter of megabytes",
    "qlora": "it fits in four bits, in about 1.4 times the time of LoRA",
}
FEW, PAIRS, MANY = 50, 100, 10_000  # examples: for prompts alone, at least of preferences, for changing every weight


@dataclass(frozen=True)
class Advice:
    """A step to take, why, and the notebook that shows it."""

    step: str
    why: str
    notebook: str


@dataclass(frozen=True)
class Wish:
    """What somebody wants and has.

    Args:
        goal: one of `GOALS`.
        examples: rows of the task that there are, or pairs where the goal is `behaviour`.
        updates: how often what the model must know changes: one of `UPDATES`.
        gpu_memory_bytes: of the GPU that there is or that would be rented; 0: none.
        budget: dollars for `TRAININGS` trainings.
        model: a name of data/model_shapes.json.
        instruct: whether it is a chat model already.
        milliseconds: that a token of an answer may take; 0: it does not matter.
        commercial: whether the result is sold.
    """

    goal: str
    examples: int
    updates: str = "never"
    gpu_memory_bytes: int = 24 * 2**30
    budget: float = 100.0
    model: str = "Llama-3.1-8B"
    instruct: bool = True
    milliseconds: float = 0.0
    commercial: bool = True


def advise(wish: Wish) -> list[Advice]:
    """What to try, in order: each step is cheaper to try than the one behind it.

    Raises:
        ParameterError: an unknown goal or rate of updates, or a negative number.
        ModelError: an unknown model.
    """
    if wish.goal not in GOALS or wish.updates not in UPDATES:
        raise ParameterError(
            f"goal={wish.goal!r}, updates={wish.updates!r}: choose of {', '.join(GOALS)}; {', '.join(UPDATES)}."
        )
    for name in ("examples", "gpu_memory_bytes", "budget", "milliseconds"):
        if getattr(wish, name) < 0:
            raise ParameterError(f"{name}={getattr(wish, name)!r}: 0 or more.")
    steps, examples = [], wish.examples
    if wish.goal == "size":
        steps.append(Advice("quantise", "eight bits change little; measure four bits on your own task", "06"))
    if wish.goal == "facts":
        changes = wish.updates != "never"
        why = "facts that change must be looked up, not learned" if changes else "it cites and forgets nothing"
        steps.append(Advice("retrieval", f"{why}: give the model the passages with the question", "none here"))
    if wish.goal != "size":
        steps.append(Advice("a prompt with examples", "costs nothing to try, and is the baseline to beat", "02"))
        if not wish.instruct:
            steps.append(Advice("instruction tuning", "a base model does not know when an answer ends", "04"))
    few, what = (PAIRS, "pairs") if wish.goal == "behaviour" else (FEW, "rows")
    if wish.goal != "size" and examples < few:
        notebook = "05" if wish.goal == "behaviour" else "01"
        steps.append(
            Advice("collect and clean", f"{examples:,} {what} are few: {few} or more of good quality", notebook)
        )
    elif wish.goal != "size":
        steps += _tuning(wish)
    if 0 < wish.milliseconds < 50:
        why = f"{wish.milliseconds:g} ms a token asks for fewer bits and a server that batches"
        steps.append(Advice("serve it well", why, "06"))
    if wish.commercial:
        licence = planner.Shape.licence(wish.model)
        steps.append(Advice("read the licence", f"{wish.model}: {licence}; and that of every data set", "06"))
    return steps


def _tuning(wish: Wish) -> list[Advice]:
    model, rows = wish.model, 2 if wish.goal == "behaviour" else 1  # both answers of a pair
    job = planner.Job(model, max(1, wish.examples), 400, 1024)
    shape = planner.Shape.named(model)
    peaks = {method: planner.peak(job, shape, method, "bfloat16", rows, True) for method in planner.METHODS}
    fitting = [method for method, peak in peaks.items() if peak <= wish.gpu_memory_bytes]
    if not fitting:
        rent = "07 ranks what can be rented" if wish.gpu_memory_bytes else "without a GPU take a small one, or rent"
        return [Advice("a smaller model, or a larger GPU", f"no method fits {model} here; {rent}", "07")]
    large = wish.goal == "skill" and wish.examples >= MANY and wish.updates == "never"
    method = "full" if large and "full" in fitting else "lora" if "lora" in fitting else "qlora"
    profile = _profile(wish.gpu_memory_bytes)
    if wish.goal == "behaviour":
        step = Advice(f"DPO with {NAMES[method]}", f"{wish.examples:,} pairs; run 05 with profile={profile}", "05")
    else:
        step = Advice(NAMES[method], f"{WHY[method]}; profile={profile}", "03" if method == "full" else "02")
    cheapest = planner.rank(job, 1e6, methods=(method,))[0]
    cost = TRAININGS * cheapest.dollars
    if cost > wish.budget:
        over = f"{TRAININGS} trainings cost about ${cost:,.0f} of ${wish.budget:,.0f}: fewer rows, a smaller model"
        return [Advice("plan the money first", over, "07"), step]
    return [step]


def _profile(gpu_memory_bytes: int) -> str:
    gigabytes = gpu_memory_bytes / 1e9
    return "a100 or h100" if gigabytes > 39 else "rtx4090" if gigabytes > 22 else "t4"


def table(steps: list[Advice]):
    """A `pandas.DataFrame` of the steps, in order."""
    import pandas as pd

    return pd.DataFrame([vars(step) for step in steps], index=range(1, len(steps) + 1))


def chooser(wish: Wish):
    """Controls above the steps, as an ipywidget; headless the steps for this wish are printed, and None returned."""
    if not widgets.interactive():
        print(table(advise(wish)).to_string())
        return None
    import ipywidgets as w

    wide = {"style": {"description_width": "11em"}, "layout": {"width": "30em"}}
    goals = [(text, name) for name, text in GOALS.items()]
    gib = wish.gpu_memory_bytes / 2**30
    controls = {
        "goal": w.Dropdown(options=goals, value=wish.goal, description="I want", **wide),
        "examples": w.BoundedIntText(wish.examples, 0, 10**9, description="examples", **wide),
        "updates": w.Dropdown(options=UPDATES, value=wish.updates, description="facts change", **wide),
        "gib": w.BoundedFloatText(gib, min=0, max=10_000, description="GPU memory (GiB)", **wide),
        "budget": w.BoundedFloatText(wish.budget, min=0, max=1e9, description="budget ($)", **wide),
        "model": w.Dropdown(options=planner.Shape.names(), value=wish.model, description="model", **wide),
        "instruct": w.Checkbox(wish.instruct, description="it is a chat model", **wide),
        "milliseconds": w.BoundedFloatText(
            wish.milliseconds, min=0, max=1e6, description="ms a token (0: any)", **wide
        ),
        "commercial": w.Checkbox(wish.commercial, description="the result is sold", **wide),
    }
    shown = w.HTML()

    def show(_=None) -> None:
        values = {name: control.value for name, control in controls.items()}
        shown.value = table(advise(Wish(gpu_memory_bytes=int(values.pop("gib") * 2**30), **values))).to_html()

    for control in controls.values():
        control.observe(show, "value")
    show()
    return w.VBox([w.HBox(list(controls.values()), layout={"flex_flow": "row wrap"}), shown])
