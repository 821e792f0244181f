"""Base models, which have no chat template of their own, made to speak one.

Template, end token and generation config belong together: a model that is trained to end its answers with one token,
and is stopped at another, never stops. `prepare` sets all three in a copy of the model, whose weights are links, before
anything is measured, so that every artefact made from it renders and stops alike.
"""

import re
import shutil
from pathlib import Path

from nbhelpers.core.errors import ModelError
from nbhelpers.core.storage import read_json, write_json
from nbhelpers.models import loading, saving, templates

_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_ZEPHYR = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_PLAIN = (
    "{% for message in messages %}### {{ message['role'] | capitalize }}:\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)
KNOWN = {  # name -> template, or the file of TRL that has it; and the tokens that it cannot do without, the end first
    "chatml": (_CHATML, ("<|im_end|>", "<|im_start|>")),
    "llama-3": ("llama3.jinja", ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")),
    "gemma": ("gemma.jinja", ("<end_of_turn>", "<start_of_turn>")),
    "zephyr": (_ZEPHYR, ()),
    "plain": (_PLAIN, ()),
}
FACTS = "base_model.json"  # in a prepared folder: where the weights are from, and which tokens were added


def prepare(run):
    """The run with a model that speaks the run's `chat_template`; the same run where that is None.

    The copy lies in the artefact `base_model`. Parameters: `chat_template` is a name of `KNOWN`, a Jinja file, or
    another model's folder or Hub id; `add_template_tokens` allows to add the template's tokens to a tokenizer that
    lacks them, with rows of the embedding that `sft.sft_trainer` trains beside a LoRA.

    Raises:
        ModelError: no such template; the tokenizer lacks its tokens; it ends a turn with no token.
    """
    p = run.parameters
    if p.chat_template is None:
        return run
    folder, source = run.artifact("base_model"), loading.fetch(p.model_id)
    if source.resolve() == folder.resolve():
        raise ModelError(f"{p.model_id} was prepared by this run before. Name the model that it was made of.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(_prepare(source, p.model_id, p.chat_template, p.add_template_tokens, folder))
    return run.having(model_id=str(folder))


def added_tokens(model) -> list[int]:
    """Ids of the tokens that `prepare` added to this model's tokenizer, whose rows are still to be learned."""
    facts = read_json(Path(str(model.config._name_or_path), FACTS))
    return facts["added_tokens"] if isinstance(facts, dict) else []


def _prepare(source: Path, name: str, wanted: str, add: bool, folder: Path) -> str:
    """Write the copy, and say in a line what was set."""
    tokenizer = loading.load_tokenizer(str(source))
    had = bool(tokenizer.chat_template)
    template, needed = _find(wanted)
    vocabulary = tokenizer.get_vocab()
    if (missing := [token for token in needed if token not in vocabulary]) and not add:
        raise ModelError(
            f"The tokenizer of {name} has not the tokens {', '.join(missing)} of the template {wanted!r}. Set "
            "add_template_tokens=True, which adds them with rows of the embedding that are trained, or take a template "
            "that needs none: zephyr or plain."
        )
    tokenizer.chat_template = template
    tokenizer.add_special_tokens({"additional_special_tokens": missing})
    tokenizer.eos_token = needed[0] if needed else _end_of(tokenizer, wanted)
    weights = {"*.safetensors", "*.safetensors.index.json", "config.json"}
    if missing:
        model, _ = loading.load(str(source), "float32", check_tokenizer=False)
        model.resize_token_embeddings(max(len(tokenizer), model.get_input_embeddings().num_embeddings))
        model.generation_config.eos_token_id = [tokenizer.eos_token_id]
        saving.save(model, tokenizer, folder)
    else:
        for file in {file for pattern in weights for file in source.glob(pattern)}:
            (folder / file.name).symlink_to(file.resolve())
        tokenizer.save_pretrained(folder)
        config = read_json(source / "generation_config.json")
        config = config if isinstance(config, dict) else {}
        write_json(folder / "generation_config.json", config | {"eos_token_id": [tokenizer.eos_token_id]})
    added = sorted(tokenizer.convert_tokens_to_ids(missing))
    write_json(folder / FACTS, {"source": name, "chat_template": wanted, "added_tokens": added})
    instead = " instead of the model's own" if had else ""
    more = f"; added {', '.join(missing)}" if missing else ""
    return f"chat template {wanted}{instead}; answers end with {tokenizer.eos_token}{more}"


def _find(wanted: str) -> tuple[str, tuple[str, ...]]:
    """The text of a template, and the tokens that it needs, the end of an answer first."""
    if wanted in KNOWN:
        template, needed = KNOWN[wanted]
        if template.endswith(".jinja"):
            from trl import chat_template_utils

            template = (Path(chat_template_utils.__file__).parent / "chat_templates" / template).read_text("utf-8")
        return template, needed
    path = Path(wanted).expanduser()
    if path.suffix in (".jinja", ".jinja2", ".j2"):
        if not path.is_file():
            raise ModelError(f"chat_template={wanted!r}: there is no such file.")
        try:
            return path.read_text("utf-8"), ()
        except UnicodeDecodeError:
            raise ModelError(f"chat_template={wanted!r} is not UTF-8. Save it as UTF-8.") from None
    try:
        other = loading.load_tokenizer(wanted)
    except ModelError as error:
        raise ModelError(
            f"chat_template={wanted!r} is none of {', '.join(KNOWN)}, no .jinja file, and no model with a template: "
            f"{error}"
        ) from error
    if not other.chat_template:
        raise ModelError(f"chat_template={wanted!r}: that model has no chat template either. Name a tuned one.")
    special = [token.content for token in other.added_tokens_decoder.values() if token.special]
    named = [token for token in special if token in other.chat_template and token != other.eos_token]
    return other.chat_template, (other.eos_token, *named)


def _end_of(tokenizer, wanted: str) -> str:
    """The token that a template writes behind an answer."""
    turns = [{"role": "user", "content": "Question"}, {"role": "assistant", "content": "Answer"}]
    written = templates.render(turns, tokenizer).rpartition("Answer")[2]
    ids = tokenizer(written, add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) | {
        i for i, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    if ends := [i for i in ids if i in special]:
        return tokenizer.convert_ids_to_tokens(ends[0])
    shown = re.sub(r"\s+", " ", written)
    raise ModelError(
        f"chat_template={wanted!r} ends an answer with {shown!r:.40}, of which nothing is a special token of this "
        "tokenizer, so that the model could not be stopped. Write {{ eos_token }} there."
    )
