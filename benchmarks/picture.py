"""The picture of the README: what notebook 02 taught and what was forgotten, from its committed reference.

.venv/bin/python benchmarks/picture.py
"""

import json

from nbhelpers.core import storage

NAMES = ("untuned", "three examples\nin the prompt", "LoRA", "QLoRA")
PANELS = {  # title -> metric, and the names that have it
    "parameters exactly right\n(held-out packages)": ("parameters.exact_match", NAMES),
    "valid JSON": ("parameters.json_validity", NAMES),
    "sums still right\n(nothing that was trained)": ("forgetting.arithmetic", ("untuned", "LoRA", "QLoRA")),
}


FOLDER = storage.repository_root() / "outputs" / "reference"
PICTURE = FOLDER / "learned_and_forgotten.png"


def shown() -> dict[str, dict]:
    """The metrics that the picture shows, as they are in the reference; the picture carries them as its description."""
    metrics = storage.read_json(FOLDER / "02_peft_qlora" / "metrics.json")["metrics"]
    keys = ("value", "low", "high", "baseline")
    wanted = [f"{name}.{metric}" for metric, _ in PANELS.values() for name in ("untuned, 3-shot", "LoRA", "QLoRA")]
    return {name: {key: metrics[name][key] for key in keys} for name in wanted if name in metrics}


def main() -> None:
    import matplotlib.pyplot as plt

    metrics = shown()
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), layout="constrained")
    for ax, (title, (metric, names)) in zip(axes, PANELS.items(), strict=True):
        for place, name in enumerate(reversed(names)):
            own = {"untuned": "LoRA", NAMES[1]: "untuned, 3-shot"}.get(name, name)
            row = metrics[f"{own}.{metric}"]
            untuned = name == "untuned"
            value = row["baseline"] if untuned else row["value"]
            reach = None if untuned else [[value - row["low"]], [row["high"] - value]]
            colour = "0.65" if untuned else "#8fb3d9" if name == NAMES[1] else "#2f6db5"
            ax.barh(place, value, xerr=reach, color=colour, capsize=3, ecolor="0.25")
        ax.set_yticks(range(len(names)), reversed(names))
        ax.set(title=title, xlim=(0, 1.05))
        ax.title.set_fontsize(10)
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, dpi=110, facecolor="white", metadata={"Description": json.dumps(metrics)})


if __name__ == "__main__":
    main()
