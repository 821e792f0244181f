"""The card of a data set: a README.md that Hugging Face's tools read and that a person can check the data by."""

import platform
import re
import sys
from importlib import metadata
from pathlib import Path

from nbhelpers.core.errors import DataError, ParameterError
from nbhelpers.core.storage import replaced

STEP_COLUMNS = ("step", "read", "dropped", "changed", "kept", "reasons")
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


def package_licences(names: list[str]):
    """The licence of each Python package as it states it itself: a DataFrame of package, version, licence.

    The licence is the distribution's `License-Expression`, else a `License` of one line, else its licence classifiers,
    else the first line of a longer `License`, else "unknown"; so is all of a package that is not installed. Modules of
    the standard library are under PSF-2.0. A package that several distributions share has a line for each.

    Args:
        names: names that are imported (`PIL`), or of distributions (`pillow`).
    """
    import pandas as pd

    owners = metadata.packages_distributions()
    lines = []
    for name in names:
        if name in sys.stdlib_module_names:
            lines.append((name, platform.python_version(), "PSF-2.0"))
            continue
        for owner in sorted(set(owners.get(name, [name]))):
            try:
                distribution = metadata.distribution(owner)
            except metadata.PackageNotFoundError:
                lines.append((name, "unknown", "unknown"))
            else:
                lines.append((name, distribution.version, _licence(distribution.metadata)))
    return pd.DataFrame(lines, columns=["package", "version", "licence"])


def _licence(facts) -> str:
    """The licence in a distribution's metadata, a message with headers."""
    expression, text = facts.get("License-Expression"), (facts.get("License") or "").strip()
    text = "" if text.upper() == "UNKNOWN" else text
    classifiers = [
        line.split(" :: ")[-1] for line in facts.get_all("Classifier") or () if line.startswith("License ::")
    ]
    classifiers = [line for line in classifiers if line != "OSI Approved"]
    one_line = text if "\n" not in text else ""
    return expression or one_line or "; ".join(classifiers) or text.partition("\n")[0].strip() or "unknown"


PROBLEMS = ("Names and postal addresses are not redacted.", "Near-duplicates that differ in a fact are dropped too.")


def write(
    folder: str | Path,
    name: str,
    sources,
    steps,
    splits: dict[str, int],
    hashes: dict[str, str],
    *,
    summary: str = "",
    licences=None,
    licence: str = "other",
    languages: tuple[str, ...] = ("en",),
    task_categories: tuple[str, ...] = ("text-generation",),
    problems: tuple[str, ...] = (),
    how_to: str = "",
) -> Path:
    """Write `README.md` beside the files of a data set, in one step, and return its path.

    Its front matter is that of a Hugging Face dataset card, so that `datasets.load_dataset(folder)` finds the splits.

    Args:
        folder: holds `<split>.jsonl` for each split.
        name: what the data set is called.
        sources: where the rows come from, a DataFrame or a list of dicts; one line of a table each.
        steps: DataFrame with the columns step, read, dropped, changed, kept, reasons (a text, or reason -> rows), one
            line a cleaning step in its order.
        splits: split -> rows.
        hashes: what was hashed -> its hash.
        summary: one paragraph: what a row is and what it is for.
        licences: DataFrame as `package_licences` gives.
        licence: of the whole, by its identifier on the Hub; "other" where the sources have different ones.
        languages: ISO 639-1 codes.
        task_categories: as the Hub names them.
        problems: what is known to be wrong with the data, one sentence each.
        how_to: the command that makes it again.

    Raises:
        ParameterError: a split's name is not made of letters, digits, `_` and `.`.
        DataError: a file of a split is missing or has another number of rows, a column of `steps` is missing, or a
            step does not account for every row (read == dropped + kept).
    """
    import pandas as pd
    from huggingface_hub import DatasetCardData

    folder, sources = Path(folder), pd.DataFrame(sources)
    _check_splits(folder, splits)
    steps = _check_steps(pd.DataFrame(steps))
    total = sum(splits.values())
    facts = DatasetCardData(
        pretty_name=name,
        license=licence,
        language=list(languages),
        size_categories=[next((label for limit, label in _SIZES if total < limit), "n>10M")],
        task_categories=list(task_categories),
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}.jsonl"} for split in splits],
            }
        ],
    )
    split_table = pd.DataFrame(
        [(split, f"`{split}.jsonl`", rows) for split, rows in splits.items()], columns=["split", "file", "rows"]
    )
    as_stated = "Each source keeps its own licence. These are as the packages state them; nobody has checked them."
    sections = {
        "Where the rows come from": _table(sources),
        "Licences": "" if licences is None else f"{as_stated}\n\n{_table(licences)}",
        "Cleaning": f"Every row is counted: in every step, read and added are dropped and kept.\n\n{_table(steps)}",
        "Splits": _table(split_table),
        "Content hashes": _table(pd.DataFrame(list(hashes.items()), columns=["content", "hash"])),
        "Known problems": "\n".join(f"- {problem}" for problem in problems) or "None was recorded.",
        "How to make it again": f"```\n{how_to.strip()}\n```" if how_to else "",
    }
    body = [f"# {name}", summary.strip(), *(f"## {title}\n\n{text}" for title, text in sections.items() if text)]
    text = f"---\n{facts.to_yaml(line_break=chr(10)).strip()}\n---\n\n" + "\n\n".join(part for part in body if part)
    with replaced(folder / "README.md") as file:
        file.write(text + "\n")
    return folder / "README.md"


def _check_splits(folder: Path, splits: dict[str, int]) -> None:
    for split, rows in splits.items():
        if not re.fullmatch(r"\w+(\.\w+)*", split):
            raise ParameterError(f"{split!r} is no name of a split. Use letters, digits, _ and . as in train or test.")
        file = folder / f"{split}.jsonl"
        if not file.is_file():
            raise DataError(f"{file} does not exist. Write the rows of each split before the card.")
        with open(file, encoding="utf-8") as lines:
            found = sum(bool(line.strip()) for line in lines)
        if found != rows:
            raise DataError(
                f"{file} has {found} rows, and the card would say {rows}. Count the rows that were written."
            )


def _check_steps(steps):
    """The steps with the card's columns in their order and each dict of reasons as a text."""
    missing = [column for column in STEP_COLUMNS if column not in steps.columns]
    if missing:
        raise DataError(f"The cleaning steps lack {', '.join(missing)}. A card shows {', '.join(STEP_COLUMNS)}.")
    for step in steps.to_dict("records"):
        if step["read"] + step.get("added", 0) != step["dropped"] + step["kept"]:
            raise DataError(
                f"The step {step['step']!r} read {step['read']} rows, but dropped {step['dropped']} and kept "
                f"{step['kept']}. Count every row that it drops."
            )
    steps = steps[[name for name in steps.columns if name in (*STEP_COLUMNS, "added")]].copy()
    if "added" in steps.columns:
        steps["added"] = steps["added"].astype(int)
    steps["reasons"] = [
        ", ".join(f"{reason} {rows}" for reason, rows in reasons.items()) if isinstance(reasons, dict) else reasons
        for reasons in steps["reasons"]
    ]
    return steps


def _table(frame) -> str:
    """A DataFrame as a Markdown table; a cell without a value is empty."""
    import pandas as pd

    def cell(value) -> str:
        text = "" if pd.api.types.is_scalar(value) and pd.isna(value) else str(value)
        return " ".join(text.split()).replace("|", "\\|")

    lines = [list(map(str, frame.columns)), ["---"] * len(frame.columns)]
    lines += [[cell(value) for value in row] for row in frame.astype(object).itertuples(index=False)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
