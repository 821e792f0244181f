"""A folder that someone else can serve: the model, where it comes from, how it is started, and what must not change."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from nbhelpers.core.errors import AuditError, ModelError
from nbhelpers.core.statistics import Metric
from nbhelpers.core.storage import read_json, sha256_of, write_json
from nbhelpers.data.hub import explain_hub_error

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")  # files that can run code when they are read
SUMS = "SHA256SUMS"
OVERHEAD_BYTES = 2 * 2**30  # of a server on a GPU beside weights and cache: kernels, graphs, activations


@dataclass(frozen=True)
class Flag:
    """An option of `vllm serve` with its value and the reason for it."""

    name: str
    value: str
    reason: str


@dataclass
class Card:
    """What a model card says: `base` model, `license`, `method`, `data`, the `metrics` (name -> text) and `limits`."""

    base: str
    license: str
    method: str
    data: str
    metrics: dict[str, str] = field(default_factory=dict)
    limits: tuple[str, ...] = ("Measured on held-out rows of the tasks above.", "Not tested for safety.")

    def measured(self, metrics: dict[str, Metric]) -> None:
        """Take over metrics, each with its interval."""
        self.metrics |= {name: f"{m.value:.2f} [{m.low:.2f}, {m.high:.2f}], {m.n} rows" for name, m in metrics.items()}


def vllm_flags(
    config: dict, weights: int, dtype: str, max_length: int, requests: int, gpus: int = 1, gpu_bytes: int = 0
) -> list[Flag]:
    """The options to serve a model with, derived from its shape and the machine.

    Args:
        config: the model's config.json.
        weights: bytes of the weights.
        dtype: float32, bfloat16 or float16.
        max_length: tokens of prompt and answer together.
        requests: to be answered at the same time.
        gpus, gpu_bytes: how many, and the memory of each; 0 bytes: no GPU.

    Raises:
        ModelError: the model is longer than its positions, or does not fit into the memory.
    """
    positions, heads = config["max_position_embeddings"], config["num_attention_heads"]
    if max_length > positions:
        raise ModelError(f"max_length={max_length} is above the model's {positions} positions: lower it.")
    flags = [
        Flag("--dtype", dtype, "the precision that was measured"),
        Flag("--max-model-len", str(max_length), f"tokens of prompt and answer; the model has {positions} positions"),
        Flag("--max-num-seqs", str(requests), "answers written at the same time"),
    ]
    if not gpu_bytes:
        return flags
    size = max(n for n in range(1, gpus + 1) if heads % n == 0)
    why = f"the largest number up to {gpus} GPUs that divides the {heads} attention heads"
    key_values = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    cache = 2 * config["num_hidden_layers"] * key_values * head_dim * (4 if dtype == "float32" else 2)
    needed = (weights + cache * max_length * requests) / size + OVERHEAD_BYTES
    share = needed / gpu_bytes
    if share > 0.95:
        raise ModelError(
            f"{requests} answers of {max_length} tokens need {needed / 2**30:.1f} GiB on each of {size} GPUs, of which "
            f"{gpu_bytes / 2**30:.1f} GiB are there. Lower max_length or the requests, or serve fewer bits."
        )
    return [
        *flags,
        Flag("--tensor-parallel-size", str(size), why),
        Flag("--gpu-memory-utilization", f"{max(0.1, round(share + 0.05, 2)):.2f}", "weights, cache and 2 GiB beside"),
    ]


def write(model_folder: Path, folder: Path, name: str, flags: list[Flag], card: Card) -> Path:
    """Copy a saved model and write what it takes to serve it; checked before, whole or not at all.

    Beside the model: README.md (the card, with the commands), Dockerfile, compose.yaml and the checksums.

    Args:
        model_folder: as `saving.save` wrote it, or a quantised model with its tokenizer.
        folder: of the bundle; an earlier bundle there is replaced.
        name: as clients call the model.

    Raises:
        AuditError: pickled weights, no template, or ends that differ between tokenizer and generation config.
    """
    check(model_folder)
    temporary = Path(f"{folder}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(model_folder, temporary)
    command = " \\\n  ".join([f"vllm serve . --served-model-name {name}", *(f"{x.name} {x.value}" for x in flags)])
    (temporary / "README.md").write_text(_card(name, command, flags, card), encoding="utf-8")
    options = [part for flag in flags for part in (flag.name, flag.value)]
    listed = "".join(f"      - {part!r}\n" for part in ["--model", "/model", "--served-model-name", name, *options])
    (temporary / "compose.yaml").write_text(COMPOSE.format(command=listed), encoding="utf-8")
    (temporary / "Dockerfile").write_text(DOCKERFILE.format(options=", ".join(f'"{x}"' for x in options), name=name))
    sums = {path.name: sha256_of(path) for path in sorted(temporary.iterdir()) if path.is_file()}
    (temporary / SUMS).write_text("".join(f"{digest}  {file}\n" for file, digest in sums.items()))
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return Path(folder)


def check(folder: Path) -> None:
    """Refuse a model folder that would not be served as it was measured.

    Raises:
        AuditError: names every fault and its remedy.
    """
    folder, faults = Path(folder), []
    pickles = [path.name for path in folder.iterdir() if path.suffix in PICKLES]
    code = [path.name for path in folder.glob("*.py")]
    config, generation = (read_json(folder / f"{part}.json") or {} for part in ("config", "generation_config"))
    settings = read_json(folder / "tokenizer_config.json") or {}
    if pickles or code:
        faults.append(f"{', '.join(pickles + code)} can run code: save the weights as safetensors, and no programs")
    if "auto_map" in config:
        faults.append("config.json names code of its own (auto_map)")
    template = folder / "chat_template.jinja"
    if not template.exists() and not settings.get("chat_template"):
        faults.append("there is no chat template: save the tokenizer that the model was trained with")
    if not list(folder.glob("*.safetensors")):
        faults.append("there are no weights (*.safetensors)")
    tokenizer = read_json(folder / "tokenizer.json") or {"added_tokens": []}
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    token = settings.get("eos_token")
    end = ids.get(token["content"] if isinstance(token, dict) else token)
    ends = generation.get("eos_token_id", config.get("eos_token_id"))
    ends = ends if isinstance(ends, list) else [ends]
    if end is not None and end not in ends:
        faults.append(
            f"generation_config.json ends answers at {ends}, the tokenizer at {end} ({token}): a server would write on "
            "until the limit. Put the tokenizer's end into generation_config.json"
        )
    if faults:
        raise AuditError("This folder was not bundled:\n  - " + "\n  - ".join(faults))


def with_template_inside(folder: Path) -> None:
    """Write the chat template into tokenizer_config.json as well: older servers read it there only."""
    folder = Path(folder)
    template, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if template.exists():
        write_json(settings, (read_json(settings) or {}) | {"chat_template": template.read_text(encoding="utf-8")})


def verify(folder: Path) -> list[str]:
    """The files of a bundle that are missing or changed since it was written; an empty list for none."""
    folder, changed = Path(folder), []
    for line in (folder / SUMS).read_text().splitlines():
        digest, name = line.split("  ", 1)
        if not (folder / name).exists() or sha256_of(folder / name) != digest:
            changed.append(name)
    return changed


def push(folder: Path, repo_id: str, private: bool = True) -> str:
    """Upload a bundle to the Hub and return its address. The token is read from HF_TOKEN and never shown.

    Raises:
        AuditError: a file has changed since the bundle was written.
        ModelError: the Hub refuses or cannot be reached; says why.
    """
    from huggingface_hub import HfApi

    if changed := verify(folder):
        raise AuditError(f"Changed since the bundle was written: {', '.join(changed)}. Write it again.")
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder))
    except Exception as error:  # every kind the Hub client raises is a plain fact to the user
        raise ModelError(f"{repo_id}: {explain_hub_error(error, 'model')}") from error


DOCKERFILE = """\
FROM vllm/vllm-openai:latest
COPY . /model
CMD ["--model", "/model", "--served-model-name", "{name}", {options}]
"""
COMPOSE = """\
services:
  model:
    image: vllm/vllm-openai:latest
    ports: ["127.0.0.1:8000:8000"]
    ipc: host
    volumes: [".:/model:ro"]
    environment: ["HF_HUB_OFFLINE=1"]
    command:
{command}    deploy:
      resources:
        reservations:
          devices: [{{driver: nvidia, count: all, capabilities: [gpu]}}]
"""


def _card(name: str, command: str, flags: list[Flag], card: Card) -> str:
    """The model card, with the front matter that the Hub reads."""
    rows = "\n".join(f"| `{flag.name} {flag.value}` | {flag.reason} |" for flag in flags)
    metrics = "\n".join(f"| {key} | {value} |" for key, value in card.metrics.items())
    limits = "\n".join(f"- {line}" for line in card.limits)
    return f"""---
license: {card.license}
base_model: {card.base}
pipeline_tag: text-generation
---
# {name}

{card.method} The base is {card.base} ({card.license}). The training rows: {card.data}.

## Serve it

In this folder, with [vLLM](https://docs.vllm.ai) on a GPU or its build for CPUs:

```
{command}
```

| option | why |
| --- | --- |
{rows}

Or on any machine with `pip install "transformers[serving]"`:

```
transformers serve . --dtype {flags[0].value}
```

`sha256sum -c {SUMS}` says whether every file is as it was written.

## Measured

| | value |
| --- | --- |
{metrics}

## Limits

{limits}
"""
