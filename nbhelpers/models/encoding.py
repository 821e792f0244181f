"""From messages to what the model is trained on: the rendered template, token ids and labels; and the audits.

`encode` renders the turns (`shapes` makes them of a row) with the tokenizer's own template and labels the assistant's
tokens only, so that one function decides what every notebook shows, trains on and audits.
"""

from dataclasses import dataclass
from pathlib import Path

from nbhelpers.core.errors import AuditError, DataError
from nbhelpers.core.storage import read_json
from nbhelpers.models import templates

IGNORE = -100  # the label that the loss leaves out


def encode(messages: list[dict], tokenizer) -> dict[str, list[int]]:
    """`{"input_ids", "labels"}`, both of length n: the rendered conversation, labelled where the assistant speaks.

    A label is the token itself for every assistant turn and its end token, and -100 elsewhere.

    Raises:
        AuditError: the template rewrites a prompt once its answer follows, or changes the answer; or the tokens of the
            prompt are others when the answer follows: the model would be trained on prompts that it never sees again.
        DataError: the template refuses the conversation, or an answer is not to be trained.
    """
    if untrained := [i for i, turn in enumerate(messages) if turn.get("weight") == 0 and turn["role"] == "assistant"]:
        raise DataError(f"turn {untrained[0]} has weight 0, while every answer here is trained", "weight 0")
    text, spans = templates.answers(messages, tokenizer)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    for start, _ in spans:
        served = tokenizer(text[:start], add_special_tokens=False)["input_ids"]
        if encoded["input_ids"][: len(served)] != served:
            raise AuditError(
                f"The end of the prompt, {text[:start][-20:]!r}, and the start of the answer "
                f"{text[start : start + 20]!r} make other tokens together than the prompt alone: training and "
                "inference would see different prompts. Strip the white space at the start of the answer (of code: put "
                "a line before it, such as ```), or use a template whose prompt ends with a special token."
            )
    labels = [
        token if any(start <= begin < end for start, end in spans) else IGNORE
        for token, (begin, _) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]
    return {"input_ids": encoded["input_ids"], "labels": labels}


def _refuse_forged(messages: list[dict], tokenizer, signs: list[str]) -> None:
    for i, turn in enumerate(messages):
        if found := templates.forged(turn["content"], tokenizer, signs):
            raise AuditError(
                f"turn {i} ({turn['role']}) contains {', '.join(found)}, which the model reads as a border of turns: "
                "what follows would speak in another's name. Remove the row, or write the text with templates.defuse."
            )


@dataclass(frozen=True)
class Encoded:
    """Tokenised rows and what became of every row read: `read == kept + dropped`."""

    dataset: object  # datasets.Dataset with input_ids and labels
    read: int
    dropped_too_long: int

    def __str__(self) -> str:
        return f"{self.read} rows read = {len(self.dataset)} kept + {self.dropped_too_long} longer than max_length"


def encode_rows(rows, tokenizer, max_length: int) -> Encoded:
    """Encode a dataset with a `messages` column. A row over `max_length` tokens is dropped and counted, never cut:
    a cut takes the end, and the end is the answer.

    Args:
        rows: `datasets.Dataset`.
        max_length: tokens a row, prompt and answer together.

    Raises:
        DataError: there is no row, or not one fits; names the length of the shortest.
        AuditError: as `encode`, or a text that would begin or end a turn (`templates.forged`); with the row's `id`, or
            its number from 1.
    """
    import datasets

    encoded, signs = [], templates.markers(tokenizer)
    for number, row in enumerate(rows, 1):
        try:
            _refuse_forged(row["messages"], tokenizer, signs)
            encoded.append(row | encode(row["messages"], tokenizer))
        except (AuditError, DataError) as error:
            raise type(error)(f"Row {row.get('id', number)}: {error}") from None
    if not encoded:
        raise DataError("There is no row to encode.")
    lengths = [len(row["input_ids"]) for row in encoded]
    fits = [i for i, length in enumerate(lengths) if length <= max_length]
    if not fits:
        raise DataError(
            f"max_length={max_length} is shorter than every row: the shortest of {len(lengths)} has "
            f"{min(lengths)} tokens. Raise max_length or shorten the rows."
        )
    kept = datasets.Dataset.from_list([encoded[i] for i in fits])
    return Encoded(kept, len(lengths), len(lengths) - len(fits))


def stop_token_ids(tokenizer, model=None) -> set[int]:
    """The tokens at which generation ends: the model's generation config where it says, and the tokenizer's EOS.

    Without a model its generation config is read from the folder that the tokenizer came from, where there is one.
    """
    if model is None:
        kept = read_json(Path(tokenizer.name_or_path, "generation_config.json")) if tokenizer.name_or_path else None
        configured = kept.get("eos_token_id") if isinstance(kept, dict) else None
    else:
        configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return {i for i in (*ids, tokenizer.eos_token_id) if i is not None}


def with_examples(messages: list[dict], examples: list[list[dict]]) -> list[dict]:
    """The prompt of `messages` (all but its answer) with solved `examples` as earlier turns: few-shot prompting."""
    system = [turn for turn in messages[:1] if turn["role"] == "system"]
    shots = [turn for example in examples for turn in example if turn["role"] != "system"]
    return system + shots + messages[len(system) : -1]
