"""What the benchmarks share: the machine, interleaved rounds, child processes, a table and a JSON file.

Every benchmark compares variants within one run. A round runs each variant once, one after the other, so that a
machine which slows down hits all of them alike; the median over the rounds is quoted, with the lowest and the highest.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from nbhelpers.core import hardware
from nbhelpers.core.storage import repository_root, write_json
from nbhelpers.cost import training_time

PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "rensa", "datasketch")
ROUNDS = 5


def parser(description: str, rounds: int = ROUNDS) -> argparse.ArgumentParser:
    """A command line with `--rounds` and `--output`."""
    made = argparse.ArgumentParser(description=description.partition("\n")[0])
    made.add_argument("--rounds", type=int, default=rounds, help=f"rounds of every variant (default: {rounds})")
    made.add_argument("--output", type=Path, default=repository_root() / "outputs" / "benchmarks", metavar="FOLDER")
    return made


def machine() -> dict:
    """What a reader needs to judge the figures: date, processor, versions, load, matrix-product peaks (FLOP/s)."""
    machine = hardware.detect()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": machine.cpu,
        "cores": machine.cores,
        "memory_bytes": machine.memory,
        "gpu": machine.gpu,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in PACKAGES if find_spec(name)},
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "precision": hardware.precision(machine),
        "matrix_product_peak": {
            dtype: training_time.matrix_product_rate(dtype, machine.device) for dtype in ("float32", "bfloat16")
        },
    }


def interleave(variants: dict[str, Callable[[int], dict[str, float]]], rounds: int) -> dict[str, dict[str, list]]:
    """`variants[name](round)` returns figures; run all of them once a round; figures as lists, one entry a round."""
    figures: dict[str, dict[str, list]] = {name: {} for name in variants}
    for number in range(rounds):
        for name, measure in variants.items():
            found = measure(number)
            for key, value in found.items():
                figures[name].setdefault(key, []).append(value)
            shown = ", ".join(f"{key} {value:,.4g}" for key, value in found.items())
            print(f"round {number + 1}/{rounds}  {name:34} {shown}", flush=True)
    return figures


def run_python(*arguments: str) -> str:
    """What a fresh Python prints. Raises RuntimeError with the end of its errors where it fails."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=repository_root())
    if done.returncode:
        raise RuntimeError(f"python {' '.join(arguments):.200} failed:\n{done.stderr[-2_000:]}")
    return done.stdout


def child(script: str, *arguments: str) -> dict:
    """Run a benchmark's own script in a fresh process; the JSON object that it prints last."""
    return json.loads(run_python(script, *arguments).strip().splitlines()[-1])


def spread(values: list[float]) -> dict[str, float]:
    """median, low, high and n of a variant's rounds."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "n": len(values)}


def ratio(figures: dict, key: str, of: str, over: str) -> dict[str, float]:
    """The spread of `of` / `over`, taken round by round, so that what slows a round falls out."""
    pairs = zip(figures[of][key], figures[over][key], strict=True)
    return spread([a / b for a, b in pairs])


def table(rows: list[dict]) -> str:
    """Rows of equal keys as aligned text."""
    heads = list(rows[0])
    cells = [heads] + [[str(row[head]) for head in heads] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def write(name: str, folder: Path, facts: dict, results: dict) -> None:
    """Write `<folder>/<name>.json`: the machine, the load before and after, and the results."""
    after = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    content = {"schema": 1, "benchmark": name, "machine": facts | {"load_average_after": after}, "results": results}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", content)
    print(f"\n{folder / f'{name}.json'}")
