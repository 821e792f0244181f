"""How long until something happens: import, model load, first training step, and the end of each notebook?

Every figure is of a fresh process. The notebooks' wall times are those of the reference run (`outputs/reference`), the
only one long enough to take once.
"""

import json
import sys
import time

import common

from nbhelpers.core.storage import repository_root

STAGES = {
    "python": "",
    "import nbhelpers": "import nbhelpers",
    "import nbhelpers.training.sft": "import nbhelpers.training.sft",
    "load the model": "from nbhelpers.models import loading; loading.load('smollm2-135m', 'float32')",
    "first training step": """
from types import SimpleNamespace
from pathlib import Path
import datasets, tempfile
from peft import LoraConfig
from nbhelpers.core import hardware
from nbhelpers.models import encoding, loading
from nbhelpers.training import sft
datasets.disable_progress_bars()
model, tokenizer = loading.load('smollm2-135m', 'float32')
turns = [{'role': 'user', 'content': 'Say yes.'}, {'role': 'assistant', 'content': 'Yes.'}]
rows = datasets.Dataset.from_list([encoding.encode(turns, tokenizer)] * 8)
parameters = SimpleNamespace(max_steps=1, per_device_train_batch_size=8, gradient_accumulation_steps=1, seed=0,
                             learning_rate=1e-4, gradient_checkpointing=False, report_to='none')
run = SimpleNamespace(parameters=parameters, hardware=hardware.detect(), dtype='float32',
                      folder=Path(tempfile.gettempdir()))
sft.train(sft.sft_trainer(run, model, tokenizer, rows, LoraConfig(r=16, target_modules='all-linear')))
""",
}


def main() -> None:
    options = common.parser(__doc__).parse_args()
    facts = common.machine()

    def timed(code: str):
        def measure(number: int) -> dict[str, float]:
            start = time.perf_counter()
            common.run_python("-c", code)
            return {"seconds": time.perf_counter() - start}

        return measure

    figures = common.interleave({name: timed(code) for name, code in STAGES.items()}, options.rounds)
    results = {name: common.spread(found["seconds"]) for name, found in figures.items()}
    lines = [
        {"from a new process to": name, "seconds": f"{x['median']:.2f} [{x['low']:.2f}, {x['high']:.2f}]"}
        for name, x in results.items()
    ]
    reference = repository_root() / "outputs" / "reference"
    for path in sorted(reference.glob("[0-9]*/metrics.json")):
        seconds = json.loads(path.read_text())["measured"]["notebook_seconds"]
        results[path.parent.name] = {"median": seconds, "n": 1}
        lines.append({"from a new process to": f"the end of {path.parent.name} (cpu)", "seconds": f"{seconds:.0f}"})
    print(f"\n{common.table(lines)}")
    common.write("startup", options.output, facts, results)


if __name__ == "__main__":
    sys.exit(main())
