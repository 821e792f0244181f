"""How fast is supervised fine-tuning: TRL as it comes, the recipe of older guides, a bare loop, and this project?

SmolLM2-135M-Instruct on `pydocs` rows, batches of 8 rows (2 packed rows of 512 tokens), LoRA of rank 16 on all linear
layers. Every path gets the same rows with the same labels; each round draws other rows, runs a step that is not counted
and times the next. Tokens are real ones, padding left out. All paths compute in the precision that this machine is fast
in, except the old recipe, which is float32. The peak is that of a fresh process that trains on such rows (of nbhelpers'
batches, grouped by length, the longest of twelve is among them), over what it held before it loaded the model.

- old recipe: float32, batches of 4 padded to 512, AdamW in a loop, transformers' own Trainer and loss.
- TRL: SFTTrainer with its defaults (activation checkpointing, dynamic padding, random order); packed: best-fit
  decreasing into rows of 512; fast: the same without checkpointing.
- bare: a loop in plain torch over TRL's packed batches: no checkpointing, adapters in float32, logits of every token.
- nbhelpers: `sft.sft_trainer` with the defaults of the `cpu` profile; lean: with activation checkpointing, which
  is what to hold against TRL's own peak.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import common
import datasets
import torch
import trl
from peft import LoraConfig
from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from nbhelpers.core import hardware, memory_usage
from nbhelpers.cost import training_time
from nbhelpers.data import sources
from nbhelpers.models import encoding, loading, memory
from nbhelpers.training import batching, sft

MODEL, MAX_LENGTH, TIMED_STEPS = "smollm2-135m", 256, 1
METHODS = {
    "lora": (
        "old recipe",
        "TRL",
        "TRL, fast",
        "TRL packed",
        "TRL packed, fast",
        "bare packed",
        "nbhelpers, lean",
        "nbhelpers",
    ),
    "qlora": ("TRL", "TRL packed", "TRL packed, fast", "nbhelpers, lean", "nbhelpers"),
    "full": ("TRL", "TRL packed", "TRL packed, fast", "nbhelpers, lean", "nbhelpers"),
}
TARGETS = {  # what must be at least how many times as fast as what
    "lora": {"old recipe": 10, "TRL": 2.5, "TRL packed": 2.5, "bare packed": 1.3},
    "qlora": {"TRL": 1.5, "TRL packed": 1.5},
    "full": {"TRL": 1.5, "TRL packed": 1.5},
}


def encoded_rows():
    """The rows that notebook 02 trains on."""
    tokenizer = loading.load_tokenizer(MODEL)
    chosen = sources.balanced(sources.load("pydocs", seed=0).train, ["summary", "parameters"], 1_000, 0)
    return encoding.encode_rows(chosen, tokenizer, MAX_LENGTH).dataset.select_columns(["input_ids", "labels"])


def lora() -> LoraConfig:
    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def settings(steps: int, checkpointing: bool, dtype: str, folder: str) -> SimpleNamespace:
    """A run, as far as `sft.sft_trainer` looks at it."""
    parameters = SimpleNamespace(
        max_steps=steps, per_device_train_batch_size=8, gradient_accumulation_steps=1, learning_rate=1e-4, seed=0,
        gradient_checkpointing=checkpointing, report_to="none",
    )  # fmt: skip
    return SimpleNamespace(parameters=parameters, hardware=hardware.detect(), dtype=dtype, folder=Path(folder))


class Clock(TrainerCallback):
    """The time at the end of every step."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.ends = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())


def build(method: str, path: str, rows, dtype: str, steps: int, folder: str):
    """The trainer of one path, not started; its model is its own."""
    machine = hardware.detect()
    dtype = "float32" if path == "old recipe" else dtype
    quantization = loading.four_bit(dtype) if method == "qlora" else None
    model, tokenizer = loading.load(MODEL, dtype, machine.device, quantization)
    adapter = None if method == "full" else lora()
    common_fields = {
        "output_dir": folder, "max_steps": steps, "learning_rate": 1e-4, "use_cpu": machine.device == "cpu",
        "bf16": dtype == "bfloat16", "report_to": "none", "save_strategy": "no", "disable_tqdm": True,
        "logging_steps": 1, "dataloader_pin_memory": machine.device != "cpu",
    }  # fmt: skip
    if path.startswith("nbhelpers"):
        run = settings(steps, path.endswith("lean"), dtype, folder)
        return sft.sft_trainer(run, model, tokenizer, rows, adapter)
    if path == "old recipe":
        from peft import get_peft_model

        arguments = TrainingArguments(per_device_train_batch_size=4, optim="adamw_torch", **common_fields)
        collate = DataCollatorForSeq2Seq(tokenizer, padding="max_length", max_length=512)
        model = get_peft_model(model, adapter)
        return Trainer(model, arguments, data_collator=collate, train_dataset=rows)
    packed = {"packing": True, "max_length": 512, "per_device_train_batch_size": 2} if "packed" in path else {}
    if path.endswith("fast"):
        packed["gradient_checkpointing"] = False
    arguments = trl.SFTConfig(**common_fields, **packed)
    return trl.SFTTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer, peft_config=adapter)


def real_tokens(inputs) -> int:
    mask = inputs.get("attention_mask")
    return inputs["input_ids"].numel() if mask is None else int(mask.sum())


def train(trainer, rows) -> dict[str, float]:
    """Train on `rows` from the start; real tokens a second of all steps but the first."""
    counts, clock, inner = [], Clock(), trainer.compute_loss

    def counted(model, inputs, **options):
        counts.append(real_tokens(inputs))
        return inner(model, inputs, **options)

    trainer.compute_loss, trainer.train_dataset = counted, rows
    trainer.add_callback(clock)
    trainer.train()
    trainer.remove_callback(clock)
    trainer.compute_loss = inner
    return {"tokens_per_second": sum(counts[1:]) / (clock.ends[-1] - clock.ends[0])}


def bare(trainer, rows) -> dict[str, float]:
    """A loop in plain torch over the batches that TRL packed."""
    trainer.train_dataset = rows
    model = trainer.model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    batches, dtype = iter(trainer.get_train_dataloader()), next(model.parameters()).dtype
    tokens, ends = 0, []
    for step in range(1 + TIMED_STEPS):
        batch = next(batches)
        labels = batch.pop("labels")
        with torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = model(**batch, use_cache=False).logits[:, :-1].float()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
        ends.append(time.perf_counter())
        tokens += real_tokens(batch) if step else 0
    return {"tokens_per_second": tokens / (ends[-1] - ends[0])}


class Contender:
    """One path with its trainer, ready for many rounds."""

    def __init__(self, method: str, path: str, rows, dtype: str, folder: str):
        self.trainer = build(method, path, rows, dtype, 1 + TIMED_STEPS, folder)
        self.trainer.remove_callback(PrinterCallback)
        self.path, self.prepared = path, rows if path.startswith("nbhelpers") else self.trainer.train_dataset

    def measure(self, number: int, longest: bool = False) -> dict[str, float]:
        """The figures of round `number`, on rows of its own; with `longest` the longest batch is among them."""
        if self.path.startswith("nbhelpers"):
            several = batching.length_grouped(self.prepared, 8, 12, seed=number)  # the longest of them stands first
            first = 0 if longest else 8
            rows = several.select(range(first, first + 8 * (1 + TIMED_STEPS)))
        else:
            rows = self.prepared.shuffle(seed=number)
        return (bare if self.path.startswith("bare") else train)(self.trainer, rows)


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--child", nargs=3, metavar=("METHOD", "PATH", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    dtype = hardware.precision(hardware.detect())
    datasets.disable_progress_bars()
    if options.child:
        method, path, folder = options.child
        with memory_usage.peak(hardware.detect().device) as peak:
            Contender(method, path, datasets.load_from_disk(f"{folder}/rows"), dtype, folder).measure(0, longest=True)
        print(json.dumps({"peak_memory_bytes": peak.bytes}))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = encoded_rows()
        rows.save_to_disk(f"{folder}/rows")
        facts = common.machine()
        for method in options.methods:
            found = compare(method, rows, dtype, folder, facts, options.rounds)
            common.write(f"training_throughput_{method}", options.output, facts, {method: found})


def compare(method: str, rows, dtype: str, folder: str, facts: dict, rounds: int) -> dict:
    """Every path of one method: tokens/s by interleaved rounds, and the peak of a process of its own."""
    alone = {path: common.child(__file__, "--child", method, path, folder) for path in METHODS[method]}
    paths = {path: Contender(method, path, rows, dtype, folder) for path in METHODS[method]}
    figures = common.interleave({f"{method}: {name}": path.measure for name, path in paths.items()}, rounds)
    del paths
    memory_usage.free()
    shape = memory.Shape.of(loading.fetch(MODEL))
    lengths = [len(row) for row in rows["input_ids"]]
    labelled = sum(label != encoding.IGNORE for row in rows["labels"] for label in row)
    plan = memory.Plan(sum(lengths), labelled, 0, 0)
    flops_a_token = training_time.training_flops(shape, method, plan) / plan.tokens
    found, lines = {}, []
    for path in METHODS[method]:
        speed = common.spread(figures[f"{method}: {path}"]["tokens_per_second"])
        peak_rate = facts["matrix_product_peak"]["float32" if path == "old recipe" else dtype]
        over = common.ratio(figures, "tokens_per_second", f"{method}: nbhelpers", f"{method}: {path}")
        share = speed["median"] * flops_a_token / peak_rate
        found[path] = {
            "tokens_per_second": speed, "peak_memory_bytes": alone[path]["peak_memory_bytes"], "share_of_peak": share,
            "nbhelpers_is_faster_by": over, "target": TARGETS[method].get(path),
        }  # fmt: skip
        lines.append(
            {
                method: path,
                "tokens/s": f"{speed['median']:.0f} [{speed['low']:.0f}, {speed['high']:.0f}]",
                "share of peak": f"{share:.0%}",
                "peak MiB": f"{alone[path]['peak_memory_bytes'] / 2**20:,.0f}",
                "nbhelpers / it": f"{over['median']:.2f}",
                "target": TARGETS[method].get(path, ""),
            }
        )
    print(f"\n{common.table(lines)}\n")
    return found


if __name__ == "__main__":
    main()
