"""Models and adapters written so that others can load and serve them, and compared by their logits."""

import contextlib
import re
from pathlib import Path

from nbhelpers.core.errors import ModelError
from nbhelpers.core.storage import read_json, write_json
from nbhelpers.models import encoding


def save(model, tokenizer, folder: Path) -> None:
    """Write model and tokenizer (with its chat template) as one folder that `load` and any server read.

    A generation config with a temperature or its like, and no sampling, would have transformers refuse to save at the
    very end of a training: those settings, which do nothing without sampling, are taken out and named.
    """
    config = getattr(model, "generation_config", None)
    if config is not None and not config.do_sample:
        neutral = {"temperature": (None, 1.0), "top_p": (None, 1.0), "top_k": (None, 0, 50), "min_p": (None,)}
        idle = {name: value for name, none in neutral.items() if (value := getattr(config, name, None)) not in none}
        for name in idle:
            setattr(config, name, None)
        if idle:
            print(f"generation config: {idle} without do_sample does nothing and is left out")
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def quiet():
    """Hide the progress bars of a loading or saving: in an executed notebook they are hundreds of lines."""
    from tqdm import tqdm
    from transformers.utils import logging

    shown, begin = logging.is_progress_bar_enabled(), tqdm.__init__
    logging.disable_progress_bar()
    tqdm.__init__ = lambda self, *given, **named: begin(self, *given, **named | {"disable": True})
    try:
        yield
    finally:
        tqdm.__init__ = begin
        if shown:
            logging.enable_progress_bar()


def folder_bytes(folder: Path) -> int:
    """Bytes of the weights in a saved model or adapter."""
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def save_adapter(model, tokenizer, folder: Path) -> None:
    """Write an adapter with all that it takes to serve it: the tokenizer, its chat template, and where to stop.

    `AutoModelForCausalLM.from_pretrained(folder)` loads the base, by its Hub id or from its folder, with the adapter on
    it, and `AutoTokenizer` the template that it was trained with. `generation_config.json` names the end tokens for
    whoever reads it there; transformers takes those of the base.
    """
    from transformers import GenerationConfig

    model.save_pretrained(folder)
    config = read_json(Path(folder) / "adapter_config.json")
    write_json(Path(folder) / "adapter_config.json", config | _on_the_hub(config["base_model_name_or_path"]))
    tokenizer.save_pretrained(folder)
    ends = sorted(encoding.stop_token_ids(tokenizer, model))
    ids = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": ends}
    GenerationConfig(**ids).save_pretrained(folder)


def _on_the_hub(base: str) -> dict[str, str]:
    """Hub id and revision of a base that lies in the Hub's cache, as another machine can read them; else nothing."""
    found = re.search(r"models--([^/\\]+)[/\\]snapshots[/\\](\w+)", base)
    return {"base_model_name_or_path": found[1].replace("--", "/", 1), "revision": found[2]} if found else {}


def logits(model, input_ids):
    """Float32 logits (rows, tokens, vocabulary) without gradients."""
    import torch

    with torch.inference_mode():
        return model(input_ids=input_ids.to(model.device)).logits.float().cpu()


def largest_difference(first, second) -> float:
    """The largest absolute difference of two tensors of one shape. Raises ModelError where the shapes differ."""
    if first.shape != second.shape:
        raise ModelError(f"Logits of shape {tuple(first.shape)} and {tuple(second.shape)} cannot be compared.")
    return (first - second).abs().max().item()
