"""What the notebooks predicted before training, beside what they measured."""

from pathlib import Path

from nbhelpers.core import storage

TRAINING = ("02_peft_qlora", "03_full_fine_tuning", "04_instruction_tuning", "05_rlhf_dpo")
WHAT = {"peak_memory_bytes": "peak bytes", "seconds": "seconds", "probed_seconds": "seconds, after three steps"}


def compared(folder: Path):
    """A `pandas.DataFrame`, a row for each training and quantity (peak bytes, seconds), with the `error`.

    Args:
        folder: of a run id. A notebook that is not there is taken from the committed reference, and `from` says so.
    """
    import pandas as pd

    reference, rows = storage.repository_root() / "outputs" / "reference", []
    for name in TRAINING:
        place = next(
            path for path in (folder, reference) if path is reference or (path / name / "metrics.json").exists()
        )
        if not (place / name / "metrics.json").exists():
            continue
        found = storage.read_json(place / name / "metrics.json")
        for key, predicted in found["predicted"].items():
            variant, _, what = key.rpartition(".")
            if what in WHAT and found["measured"].get(key):
                measured = found["measured"][key]
                rows.append(
                    {
                        "notebook": name, "training": variant, "what": WHAT[what], "predicted": predicted,
                        "measured": measured, "error": predicted / measured - 1,
                        "from": "reference" if place is reference else "this run",
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)
