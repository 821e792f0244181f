"""The mixture that notebook 04 trains on, and the adapter that comes of it: found where a run has it, else made."""

from pathlib import Path

import datasets
import numpy as np
from peft import LoraConfig

from nbhelpers.core import memory_usage
from nbhelpers.data import sources
from nbhelpers.evaluation import constraints
from nbhelpers.models import encoding, loading, saving
from nbhelpers.training import continual_learning, sft

TASKS = ("summary", "parameters", "signature")  # of `pydocs`
WEIGHTS = {"tasks": 0.25, "requests": 0.1, "forms": 0.65}  # shares of the rows that a training reads
BRIEF = "Answer in one or two short sentences."  # said to the model that answers the requests, not in the rows
BRIEFEST = 48  # requests that are kept, those with the shortest answers


def steps(profile) -> int:
    """Optimizer steps by default: the rows are short, so that as many tokens as elsewhere are more of them."""
    return profile.max_steps * 3 // 2


def rows_read(run) -> int:
    """Rows that a training of this run reads."""
    p = run.parameters
    return p.max_steps * p.per_device_train_batch_size * p.gradient_accumulation_steps


def encode_pool(rows: list[dict], tokenizer, max_length: int, name: str = "rows") -> datasets.Dataset:
    """Rows `{id, task, messages, reference}` as tokens; those that are too long are dropped, and the count printed."""
    columns = ("id", "task", "messages", "reference")
    table = datasets.Dataset.from_list([{name: row[name] for name in columns} for row in rows])
    encoded = encoding.encode_rows(table, tokenizer, max_length)
    print(f"{name}: {encoded}")
    return encoded.dataset


def brief_requests(model, tokenizer, seed: int) -> list[dict]:
    """Ordinary requests with the untuned model's own brief answers (`continual_learning.own_answers`)."""
    answered = continual_learning.own_answers(model, tokenizer, seed, hint=BRIEF, temperature=0.3)
    return sorted(answered, key=lambda row: len(row["reference"]))[:BRIEFEST]


def pools(run, source, tasks: list[str], requests: list[dict], tokenizer) -> dict[str, datasets.Dataset]:
    """The encoded rows to mix from, by kind: `tasks`, `requests`, and `forms`, each request in several forms."""
    seed, count = run.parameters.seed, rows_read(run)
    rows = {
        "tasks": list(sources.balanced(source.train, tasks, 2 * count, seed)),
        "requests": requests,
        "forms": constraints.mixture(6 * requests, 1.0, seed),
    }
    return {name: encode_pool(kind, tokenizer, run.parameters.max_length, name) for name, kind in rows.items()}


def mix(pools: dict[str, datasets.Dataset], count: int, **shares: float) -> datasets.Dataset:
    """About `count` rows, of which each pool gives its share, repeated where it has too few."""
    parts = {name: np.resize(range(len(pools[name])), round(share * count)) for name, share in shares.items()}
    return datasets.concatenate_datasets([pools[name].select(rows) for name, rows in parts.items()])


def lora_config(rank: int) -> LoraConfig:
    """LoRA on all linear layers, scaled by 2."""
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")


def inputs(run, source, tasks: list[str], weights: dict[str, float] = WEIGHTS) -> dict:
    """What the adapter follows from, for `Run.artifact` and `Run.find_artifact`."""
    names = (
        "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "lora_rank",
        "max_length", "seed",
    )  # fmt: skip
    facts = {"model_hash": loading.model_hash(run.parameters.model_id), "data_hash": source.hash, "dtype": run.dtype}
    return facts | {"tasks": list(tasks), "weights": weights} | {name: getattr(run.parameters, name) for name in names}


def sft_adapter(run) -> Path:
    """The folder of the adapter that notebook 04 trains by default for this run's model, profile and seed.

    It is taken from a notebook of this `run_id` that made it from the same inputs; else it is trained here, with what
    `Run.artifact` registers, so that the next one finds it.
    """
    its_run = run.having(**vars(run.profile) | {"model_id": run.parameters.model_id, "max_steps": steps(run.profile)})
    p, source = its_run.parameters, sources.load("pydocs")
    made_from = inputs(its_run, source, list(TASKS))
    if found := run.find_artifact("sft_adapter", made_from):
        print(f"sft_adapter: found in {found.parent.parent.name}")
        return found
    print("sft_adapter: trained here, as notebook 04 does by default")
    model, tokenizer = loading.load(p.model_id, run.dtype, run.hardware.device)
    requests = brief_requests(model, tokenizer, p.seed)
    rows = mix(pools(its_run, source, list(TASKS), requests, tokenizer), rows_read(its_run), **WEIGHTS)
    trainer = sft.sft_trainer(its_run, model, tokenizer, rows, lora_config(p.lora_rank), name="sft")
    sft.train(trainer, p.resume)
    folder = run.artifact("sft_adapter", inputs=made_from)
    saving.save_adapter(trainer.model, tokenizer, folder)
    del model, trainer
    memory_usage.free()
    return folder
