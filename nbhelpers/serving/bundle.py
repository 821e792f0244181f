"""A folder that someone else can serve: the model, where it comes from, how it is started, and what must not change."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from nbhelpers.core.errors import AuditError, ModelError
from nbhelpers.core.statistics import Metric
from nbhelpers.core.storage import read_json, sha256_of, write_json
from nbhelpers.data.hub import explain_hub_error
from nbhelpers.models import loading, templates

HARMLESS = (".safetensors", ".json", ".jinja", ".txt", ".model", ".md", ".yaml", ".gguf")  # nothing in them runs
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
    """What a model card says; `license` is that of the tuned model, `parameters` and `metrics` are name -> text."""

    base: str
    license: str
    data: str
    method: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    limits: tuple[str, ...] = ("Measured on held-out rows of the tasks above.", "Not tested for safety.")

    def describe_adapter(self, folder: Path, stored_as: str) -> None:
        """Take over what an adapter's own configuration says of how it was trained."""
        made = read_json(Path(folder) / "adapter_config.json")
        kind = made["peft_type"].replace("LORA", "LoRA")
        self.method = f"A {kind} adapter, merged into its base and stored as {stored_as}."
        self.parameters |= {name: str(made[name]) for name in ("r", "lora_alpha", "target_modules") if name in made}

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
    key_values = config.get("num_key_value_heads") or heads
    fitting = [n for n in range(1, gpus + 1) if heads % n == 0 and (key_values % n == 0 or n % key_values == 0)]
    size = max(fitting)
    why = f"the most of {gpus} GPUs that {heads} attention heads and {key_values} key-value heads can be shared among"
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
    files = sorted(path for path in temporary.rglob("*") if path.is_file())
    sums = {path.relative_to(temporary).as_posix(): sha256_of(path) for path in files}
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
    files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    if unknown := [name for name in files if not name.endswith(HARMLESS)]:
        faults.append(f"{', '.join(unknown)} can run code or is no part of a model: save the weights as safetensors")
    config, generation = (read_json(folder / f"{part}.json") or {} for part in ("config", "generation_config"))
    settings = read_json(folder / "tokenizer_config.json") or {}
    if "auto_map" in config or "auto_map" in settings:
        faults.append("config.json or tokenizer_config.json names code of its own (auto_map)")
    template = folder / "chat_template.jinja"
    if not template.exists() and not settings.get("chat_template"):
        faults.append("there is no chat template: save the tokenizer that the model was trained with")
    if not list(folder.glob("*.safetensors")):
        faults.append("there are no weights (*.safetensors)")
    ends = generation.get("eos_token_id", config.get("eos_token_id"))
    ends = ends if isinstance(ends, list) else [ends]
    if not faults:
        tokenizer = loading.load_tokenizer(str(folder))
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        closing = templates.render(turns, tokenizer).rpartition("b")[2]
        end = next(iter(tokenizer(closing, add_special_tokens=False)["input_ids"]), None)
        if end not in ends:
            faults.append(
                f"generation_config.json ends answers at {ends}, the template at {end} ({closing.strip()!r}): a server "
                "would write on until the limit. Put the template's end into generation_config.json"
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
    parameters = "\n".join(f"- `{key}`: {value}" for key, value in card.parameters.items())
    limits = "\n".join(f"- {line}" for line in card.limits)
    return f"""---
license: {card.license}
base_model: {card.base}
pipeline_tag: text-generation
---
# {name}

{card.method} The base is {card.base}, whose licence holds as well. {card.data}.

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

## Parameters

{parameters}

## Limits

{limits}
"""
