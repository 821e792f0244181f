"""The untuned model on held-out rows: asked once a `run_id`, and shared by its notebooks.

    with Baseline(run, tokenizer) as untuned:
        zero_shot = untuned.evaluate("untuned, zero-shot", test_rows)

Answers lie in `<output_dir>/<run_id>/baseline/`, one file for each model, precision and way of decoding, keyed by the
prompt as it was rendered. What is there is read, and only the rest is asked; where nothing is missing, the model is not
loaded.
"""

import hashlib
import json
from functools import partial

from filelock import FileLock

from nbhelpers.core import fingerprint, memory_usage
from nbhelpers.core.storage import read_json, repository_root, sha256_of, write_json
from nbhelpers.evaluation import constraints, forgetting, generation, scoring
from nbhelpers.models import loading, templates

ASKED_BY = ["from nbhelpers.evaluation import forgetting, generation, likelihood"]  # what an answer is computed by


def _digest(*facts) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Baseline:
    """The model of a run before any training. `model` loads it; leaving the block gives its memory back.

    `counts` says how many answers and probes were `computed` and how many `found`. With `resume="never"` nothing that
    was kept before is read.
    """

    def __init__(self, run, tokenizer):
        self.run, self.tokenizer, self._model = run, tokenizer, None
        self.counts = {"computed": 0, "found": 0}
        p = run.parameters
        facts = {name: run.manifest["versions"].get(name) for name in ("torch", "transformers")}
        facts |= {"model_hash": loading.model_hash(p.model_id), "dtype": run.dtype, "device": run.hardware.device}
        settings = sorted(x for x in loading.fetch(p.model_id).iterdir() if x.suffix in (".json", ".jinja", ".txt"))
        facts |= {
            "settings": _digest([(file.name, sha256_of(file)) for file in settings])
        }  # end tokens, rotations, ...
        self._facts = facts | {"code": fingerprint.module_hashes(ASKED_BY)}
        self._begun: set = set()  # files that this run has written with resume="never"

    @property
    def model(self):
        if self._model is None:
            p = self.run.parameters
            self._model, _ = loading.load(p.model_id, self.run.dtype, self.run.hardware.device)
        return self._model

    def __enter__(self) -> "Baseline":
        return self

    def __exit__(self, *_) -> None:
        self.release()

    def release(self) -> None:
        """Give the model's memory back, and say what was computed; where it is needed again, it is loaded again."""
        self._model = None
        memory_usage.free()
        print(f"baseline: {self.counts['computed']} answers and probes computed, {self.counts['found']} found")

    def ask(self, prompts: list[list[dict]], max_new_tokens: int) -> list[generation.Answer]:
        """Greedy answers to conversations that end with a user turn, in their order."""
        keys = [_digest(templates.render(messages, self.tokenizer, add_generation_prompt=True)) for messages in prompts]

        def compute(missing: list[int]) -> list:
            asked, size = [prompts[i] for i in missing], self.run.parameters.eval_batch_size
            answers = generation.generate(self.model, self.tokenizer, asked, max_new_tokens, size)
            return [[answer.text, answer.tokens, answer.stopped] for answer in answers]

        kept = self._shared({"decoding": "greedy", "max_new_tokens": max_new_tokens}, keys, compute)
        return [generation.Answer(*kept[key]) for key in keys]

    def evaluate(self, name: str, rows, examples: dict | None = None) -> scoring.Evaluation:
        """As `scoring.evaluate`."""
        ask = partial(self.ask, max_new_tokens=self.run.parameters.max_new_tokens)
        return scoring.evaluate_answers(name, ask, rows, examples)

    def obey(self, asked: list, max_new_tokens: int) -> constraints.Obedience:
        """As `constraints.measure`."""
        return constraints.check_answers(partial(self.ask, max_new_tokens=max_new_tokens), asked)

    def probe(self) -> dict[str, list[float]]:
        """As `forgetting.measure`."""
        key = _digest(sha256_of(repository_root() / "data" / "probes.json"), self.tokenizer.chat_template)

        def compute(missing: list[int]) -> list:
            return [forgetting.measure(self.model, self.tokenizer, self.run.parameters.eval_batch_size)]

        return self._shared({"probes": True}, [key], compute)[key]

    def _shared(self, how: dict, keys: list[str], compute) -> dict:
        """What is kept for these keys, after `compute(numbers of those missing)` gave the rest."""
        facts = self._facts | how
        path = self.run.folder.parent / "baseline" / f"{_digest(facts)[:16]}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            anew = self.run.parameters.resume == "never" and path not in self._begun
            content = None if anew else read_json(path)
            if not isinstance(content, dict) or not isinstance(content.get("answers"), dict):  # none yet, or damaged
                content = {"schema": 1, "facts": facts, "answers": {}}
            kept = content["answers"]
            missing = list({key: i for i, key in enumerate(keys) if key not in kept}.values())
            if missing:
                kept |= {keys[i]: value for i, value in zip(missing, compute(missing), strict=True)}
                write_json(path, content, indent=None)
        self._begun.add(path)
        self.counts["computed"] += len(missing)
        self.counts["found"] += len(set(keys)) - len(missing)
        self.run.artifact("baseline", path.parent)
        return kept
