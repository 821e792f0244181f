"""Does the fast path train the same model? Loss curves of 30 LoRA steps beside TRL's, on the same batches.

SmolLM2-135M-Instruct on `pydocs`, batches of 2 rows. Both paths get the same rows in the same order and the same
initial adapter; a round is a seed, which changes the adapter alone. Two figures are compared: how far the curves of
the two paths lie apart for one seed, and how far those of one path lie apart over the seeds (mean absolute difference
of the losses, nats a token). In float32 the paths agree to rounding; bfloat16 rounds coarsely enough to make it worth
a look.
"""

import itertools
import tempfile

import common
import datasets
import numpy as np
import torch
import trl
from training_throughput import MODEL, encoded_rows, lora, settings
from transformers import PrinterCallback

from nbhelpers.models import loading
from nbhelpers.training import batching, sft

STEPS, BATCH, SEEDS = 30, 2, 3


def curve(trainer_class, rows, dtype: str, seed: int, folder: str) -> list[float]:
    """The losses of `STEPS` steps."""
    run = settings(STEPS, False, dtype, folder)
    run.parameters.per_device_train_batch_size, run.parameters.learning_rate = BATCH, 1e-3
    model, tokenizer = loading.load(MODEL, dtype)
    torch.manual_seed(seed)
    config = sft.sft_config(run, seed=seed)
    trainer = trainer_class(model, config, train_dataset=rows, processing_class=tokenizer, peft_config=lora())
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def main() -> None:
    parser = common.parser(__doc__, rounds=SEEDS)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    options = parser.parse_args()
    datasets.disable_progress_bars()
    facts, rows = common.machine(), batching.length_grouped(encoded_rows(), BATCH, STEPS, seed=0)
    paths, curves = {"nbhelpers": sft.SFTTrainer, "TRL": trl.SFTTrainer}, {"nbhelpers": [], "TRL": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed, (path, trainer_class) in itertools.product(range(options.rounds), paths.items()):
            curves[path].append(curve(trainer_class, rows, options.dtype, seed, folder))
            print(f"seed {seed}  {path:10} {curves[path][-1][0]:.4f} to {curves[path][-1][-1]:.4f}", flush=True)
    ours, theirs = np.array(curves["nbhelpers"]), np.array(curves["TRL"])
    between_paths = np.abs(ours - theirs).mean(1)
    between_seeds = [np.abs(a - b).mean() for a, b in itertools.combinations(theirs, 2)]
    lines = [
        {"curves apart (nats a token)": name, "mean": f"{np.mean(x):.4f}", "largest": f"{np.max(x):.4f}"}
        for name, x in (("paths, same seed", between_paths), ("seeds, TRL", between_seeds))
    ]
    print(f"\n{common.table(lines)}")
    results = {"dtype": options.dtype, "between_paths": list(between_paths), "between_seeds": between_seeds}
    common.write("loss_curves", options.output, facts, results | {"curves": curves})


if __name__ == "__main__":
    main()
