"""A study: many jobs, each in a process of its own, each result kept as soon as it is there.

A fresh process gives every variant the same start, so that peaks and times compare, and takes its memory with it when
it ends. A study that was cut off goes on with the jobs that are missing.
"""

import dataclasses
import enum
import hashlib
import inspect
import json
import re
import time
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from functools import partial
from pathlib import Path
from typing import Any

from nbhelpers.core import fingerprint, process
from nbhelpers.core.errors import NotebookError, ParameterError
from nbhelpers.core.parameters import BOOKKEEPING
from nbhelpers.core.progress import duration
from nbhelpers.core.storage import read_json, repository_root, sha256_of, write_json

JOB_BYTES = 8 * 2**30  # memory that a machine should have for each job at a time


def at_once(hardware) -> int:
    """How many jobs run at a time: without a GPU one a core, and one for every 8 GiB; with a GPU one.

    Two trainings with a core each do more than two trainings one after the other with two: what does not run in
    parallel, from imports to the writing of answers, is a good part of a short job.
    """
    return 1 if hardware.gpu else max(1, min(hardware.cores, hardware.memory // JOB_BYTES))


def compute(run, jobs: dict[str, partial]) -> dict[str, dict]:
    """The result of every job by name, in order: those computed before from the same inputs are read, others computed.

    `at_once` of them run at a time and share the cores evenly; a job that has another among its arguments waits for
    it. Results lie in the run's folder as `artifacts/study/<name>.json`, with a hash of what they were computed from:
    the job's function, the code of its module and of this package, the files of `data/`, its arguments, model, data
    set, library versions and machine. `resume="never"` computes all. All of them together are the artefact `study`,
    one file.

    Args:
        jobs: name -> `partial(function, ...)`; the function returns what JSON can hold. An argument `folder` is where
            the job leaves files: where they are gone it is computed again.

    Raises:
        ParameterError: a name has a dot, which ends the variant in the names of figures; nothing was computed.
        NotebookError: jobs failed. The others have been computed, and their results are kept.
    """
    if dotted := [name for name in jobs if "." in name]:
        raise ParameterError(f"Names with a dot: {', '.join(dotted)}. Write them without.")
    folder, together = run.folder / "artifacts" / "study", at_once(run.hardware)
    threads = max(1, run.hardware.cores // together) if together > 1 else None
    if threads:
        print(f"{together} jobs at a time, {threads} of {run.hardware.cores} cores each")
    took: list[float] = []
    failures: list[str] = []
    done: dict[Future, str] = {}
    with ThreadPoolExecutor(together) as pool:
        for name, job in jobs.items():  # in order: what a job waits for has begun before it
            needed = [future for future, other in done.items() if _takes(job, jobs[other])]
            done[pool.submit(_result, run, job, folder / f"{slug(name)}.json", threads, needed)] = name
        try:
            for number, future in enumerate(as_completed(done), 1):
                how = "computed before"
                try:
                    if seconds := future.result()["seconds"]:
                        took.append(seconds)
                        left = (len(jobs) - number) * sum(took) / len(took) / together
                        how = f"{duration(seconds)}, about {duration(left)} to go"
                except NotebookError as error:
                    failures.append(f"{done[future]}: {error}")
                    how = "FAILED"
                print(f"{number}/{len(jobs)}  {done[future]:32} {how}", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failures:
        raise NotebookError("Jobs failed:\n  - " + "\n  - ".join(failures))
    found = {name: future.result()["result"] for future, name in done.items()}
    facts = {name: getattr(run.parameters, name, None) for name in ("model_id", "dataset", "max_steps", "eval_rows")}
    content = {"schema": 1, "facts": facts, "results": _rounded(found)}
    write_json(run.artifact("study", folder.with_suffix(".json")), content, indent=None)
    return _said(found)


def _result(run, job: partial, path: Path, threads: int | None, needed: list[Future]) -> dict:
    """`result` of a job and the `seconds` it took, None where it was computed before from the same inputs."""
    wait(needed)
    inputs = _digest(run, job)
    kept = read_json(path) if run.parameters.resume == "auto" and _files_are_there(job) else None
    if kept and kept.get("inputs") == inputs:
        return kept | {"seconds": None}
    start = time.perf_counter()
    result = process.call(job, path.with_suffix(".log"), threads)
    made = {"schema": 1, "inputs": inputs, "seconds": round(time.perf_counter() - start, 1), "result": result}
    write_json(path, made)
    return made


def _takes(job: partial, other: partial) -> bool:
    """Whether one job has another among its arguments, by itself or in a list."""
    given = [*job.args, *job.keywords.values()]
    return any(other is part for value in given for part in (value if isinstance(value, list | tuple) else [value]))


def _files_are_there(job: partial) -> bool:
    folder = job.keywords.get("folder")
    return folder is None or any(Path(folder).glob("*"))


def reference(notebook: str) -> dict[str, dict]:
    """The committed results of `notebooks/studies/<notebook>`, as `compute` returned them; prints where they are from.

    A `note` in its manifest is printed too, such as what has changed since.

    Raises:
        NotebookError: there is none.
    """
    folder = repository_root() / "outputs" / "reference" / "studies" / notebook
    study, manifest = (read_json(folder / f"{part}.json") for part in ("study", "manifest"))
    if study is None or manifest is None:
        raise NotebookError(
            f"{folder} has no study to show; run notebooks/studies/{notebook}.ipynb with study='full' to compute it."
        )
    machine, facts = manifest["hardware"], study["facts"]
    print(
        f"reference study of {manifest['started_at'][:10]}: {facts['model_id']} on {facts['dataset']}, "
        f"{facts['max_steps']} steps, {facts['eval_rows']} rows a task scored, {manifest['dtype']}, "
        f"{machine['cpu']}, {machine['cores']} cores" + (f"; {manifest['note']}" if "note" in manifest else "")
    )
    return _said(study["results"])


def _said(results: dict[str, dict]) -> dict[str, dict]:
    """The same, after a line for each variant that was left out."""
    for name, result in results.items():
        if reason := result.get("left_out"):
            print(f"{name} is left out: {reason}")
    return results


def _rounded(value: Any) -> Any:
    """Floats to six digits, which a file in a repository should not exceed."""
    if isinstance(value, dict):
        return {key: _rounded(x) for key, x in value.items()}
    if isinstance(value, list):
        return [_rounded(x) for x in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def slug(name: str) -> str:
    """A name as a file name: its letters and digits, and a hash that tells it from names written alike."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}".lstrip("-")


def _digest(run, job: partial) -> str:
    facts = {name: run.manifest.get(name) for name in ("model_hash", "data_hash", "versions", "dtype", "hardware")}
    sources = [Path(inspect.getfile(job.func)).read_text(encoding="utf-8")]
    files = sorted(path for path in (repository_root() / "data").iterdir() if path.suffix in (".json", ".csv"))
    code = [fingerprint.code_hash(sources), fingerprint.module_hashes(), [sha256_of(path) for path in files]]
    return hashlib.sha256(json.dumps([job, code, facts], default=_plain, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Arguments as JSON that is the same in every process."""
    if hasattr(value, "manifest"):  # a run: what it was asked for
        return {name: x for name, x in vars(value.parameters).items() if name not in BOOKKEEPING}
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, partial):
        return [value.func.__qualname__, value.args, value.keywords]
    if dataclasses.is_dataclass(value):
        return {"type": type(value).__name__} | {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Path):
        return value.name
    if hasattr(value, "to_list"):  # a dataset: its rows
        return hashlib.sha256(json.dumps(value.to_list(), sort_keys=True).encode()).hexdigest()
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be an argument of a job.")
