"""From a row to what the model is trained on: messages, the rendered template, token ids and labels; and the audits.

A row of any known shape becomes `messages`, a list of `{"role", "content"}` turns. `encode` renders the messages with
the tokenizer's own template and labels the assistant's tokens only, so that one function decides what every notebook
shows, trains on and audits.
"""

import html
import itertools
import json
from dataclasses import dataclass

from nbhelpers import templates
from nbhelpers.errors import AuditError, DataError

IGNORE = -100  # the label that the loss leaves out
_WIDTHLESS = frozenset("\u00ad\u200b\u200c\u200d\u2060\ufeff")
ROLES = ("system", "user", "assistant", "tool")
SHAPES = {
    "messages": {"messages"},
    "sharegpt": {"conversations"},
    "preference": {"chosen", "rejected"},
    "prompt/completion": {"prompt", "completion"},
    "alpaca": {"instruction", "output"},
    "text": {"text"},
}  # shape -> the columns it is recognised by, most specific first
_LOST = ("tool_calls", "function_call", "thinking", "reasoning_content", "images", "audio")  # keys of a turn
_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def is_blank(text: str) -> bool:
    """Whether nothing of a text would be seen: it is empty, white space, or characters without width."""
    return all(sign.isspace() or sign in _WIDTHLESS for sign in text)


def known_shape(columns: set[str]) -> str | None:
    """The name of the shape that these columns make, if any."""
    return next((shape for shape, needed in SHAPES.items() if needed <= columns), None)


def recognise(columns: set[str]) -> str:
    """The name of the shape that these columns make. Raises DataError with the shapes there are."""
    if shape := known_shape(columns):
        return shape
    known = "; ".join(f"{shape}: {', '.join(sorted(needed))}" for shape, needed in SHAPES.items())
    found = ", ".join(sorted(columns)).encode(errors="backslashreplace").decode() or "(none)"
    raise DataError(
        f"The columns {found:.200} make no known shape. Known are {known}. Rename them, or "
        "tell notebook 01 which is which: columns='question=prompt, reply=completion'."
    )


def _turns(prompt, completion) -> list[dict]:
    if isinstance(prompt, list) and isinstance(completion, list):
        return [*prompt, *completion]
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]


def _history(pairs) -> list[dict]:
    """Earlier turns of an Alpaca row as LLaMA-Factory writes them: a list of [question, answer]."""
    pairs = pairs or []
    if not isinstance(pairs, list) or any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs):
        raise DataError(f"history is {pairs!r:.60}, expected a list of [question, answer]", "bad history")
    return [turn for question, answer in pairs for turn in _turns(question, answer)]


def refuse_tools(row: dict) -> None:
    """Raises DataError where a row declares tools, which plain turns cannot call."""
    if row.get("tools"):
        raise DataError("the row declares tools, which plain turns cannot call", "tools")


def to_messages(row: dict, shape: str, weights: bool = False) -> list[dict]:
    """The turns of one row of a known shape, checked as `check_messages` does; nothing that is trained is left out.

    The `system` column of Alpaca and ShareGPT rows becomes the first turn, the `history` of Alpaca rows the turns
    before the question.

    Args:
        weights: as in `check_messages`.

    Raises:
        DataError: says what is wrong with this row; the caller adds which row it is.
    """
    refuse_tools(row)
    if shape == "messages":
        messages = row["messages"]
    elif shape == "sharegpt":
        if not isinstance(row["conversations"], list):
            raise DataError(f"conversations is {type(row['conversations']).__name__}, expected a list of turns")
        messages = [
            turn | {"role": _SHAREGPT_ROLES.get(turn["from"], turn["from"]), "content": turn.get("value")}
            if isinstance(turn, dict) and isinstance(turn.get("from"), str)
            else turn
            for turn in row["conversations"]
        ]
    elif shape == "prompt/completion":
        messages = _turns(row["prompt"], row["completion"])
    elif shape == "alpaca":
        for name in ("instruction", "input"):
            if not isinstance(row.get(name), str | None):
                raise DataError(f"{name} is {row[name]!r:.60}, expected text", "content is not text")
        extra = f"\n\n{row['input']}" if row.get("input") else ""
        messages = _turns(f"{row['instruction']}{extra}" if row["instruction"] else None, row["output"])
        messages = _history(row.get("history")) + messages
    else:
        raise DataError(f"{shape} rows hold no question with one answer; supervised tuning needs messages")
    if row.get("system") and shape in ("alpaca", "sharegpt"):
        messages = [{"role": "system", "content": row["system"]}, *messages]
    return check_messages(messages, weights)


def check_messages(messages, weights: bool = False) -> list[dict]:
    """The same messages, as plain `{"role", "content"}` turns.

    Args:
        weights: keep OpenAI's `weight` 0, an answer not to be trained, as a key of its turn instead of refusing it.

    Raises DataError on the first turn that cannot be used: of no known role, with what a plain turn cannot say (tool
    calls, images, ...), without text, of a weight other than 1, a system turn that is not the first, two turns in a
    row of the user or of the assistant, no answer at the end, none that is trained.
    """
    if not isinstance(messages, list) or not messages:
        raise DataError(f"messages is {messages!r:.60}, expected a list of turns", "no messages")
    before = None
    for i, turn in enumerate(messages):
        if not isinstance(turn, dict) or turn.get("role") not in ROLES:
            kind = "unknown role" if isinstance(turn, dict) else "not a turn"
            raise DataError(f"turn {i} is {turn!r:.60}, expected a role of {', '.join(ROLES)}", kind)
        role, content, weight = turn["role"], turn.get("content"), turn.get("weight")
        if lost := [key for key in _LOST if turn.get(key)]:
            raise DataError(f"turn {i} has {', '.join(lost)}, which a plain turn cannot say", "more than plain turns")
        if not isinstance(content, str) or is_blank(content):
            kind = "empty turn" if content is None or isinstance(content, str) else "content is not text"
            raise DataError(f"turn {i} ({role}) has content {content!r:.60}, expected text", kind)
        if weight not in (None, 0, 1):
            raise DataError(f"turn {i} has weight {weight!r:.60}, expected 0 or 1", "bad weight")
        if weight == 0 and role == "assistant" and not weights:
            raise DataError(
                f"turn {i} has weight 0, while every answer here is trained; remove the row, or the key to train it",
                "an answer of weight 0",
            )
        if role == "system" and i > 0:
            raise DataError(f"turn {i} is a system turn; only the first may be one", "system not first")
        if role == before and role in ("user", "assistant"):
            raise DataError(f"turns {i - 1} and {i} are both the {role}'s; join them", "two turns in a row")
        before = role
    if before != "assistant":
        raise DataError(f"the last turn is the {before}'s; there is no answer to learn", "no answer at the end")
    out = [{"role": turn["role"], "content": turn["content"]} for turn in messages]
    untrained = [i for i, turn in enumerate(messages) if turn["role"] == "assistant" and turn.get("weight") == 0]
    if len(untrained) == sum(turn["role"] == "assistant" for turn in out):
        raise DataError("every answer has weight 0; there is none to learn", "no answer to learn")
    for i in untrained:
        out[i]["weight"] = 0
    return out


def encode(messages: list[dict], tokenizer) -> dict[str, list[int]]:
    """`{"input_ids", "labels"}`, both of length n: the rendered conversation, labelled where the assistant speaks.

    A label is the token itself for every assistant turn and its end token, and -100 elsewhere.

    Raises:
        AuditError: the template rewrites a prompt once its answer follows, or a token reaches from the prompt into the
            answer: the model would be trained on prompts that it never sees again.
        DataError: the template refuses the conversation.
    """
    text, spans = templates.answers(messages, tokenizer)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    for start, _ in spans:
        if any(begin < start < end for begin, end in encoded["offset_mapping"]):
            raise AuditError(
                f"The end of the prompt and the start of the answer {text[start : start + 20]!r} make one token, which "
                "the prompt alone does not have: training and inference would see different prompts. Strip the white "
                "space at the start of the answer, or use a template whose prompt ends with a special token."
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
    """The tokens at which generation ends: the model's generation config where it says, and the tokenizer's EOS."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return {i for i in (*ids, tokenizer.eos_token_id) if i is not None}


def audit(dataset, tokenizer, model=None) -> dict[str, float]:
    """Check every tokenised row for the mistakes that train without complaint; return what was counted.

    Args:
        dataset: rows with `input_ids` and `labels`, as the trainer will see them.
        model: adds the stop tokens of its generation config.

    Raises:
        AuditError: rows with no label at all, answers whose end token is not trained, or a doubled BOS. The message
            names the rows and the remedy.
    """
    if not len(dataset):
        raise DataError("There is no row to train on.")
    stops = stop_token_ids(tokenizer, model)
    masked, endless, doubled = [], [], []
    labelled = total = 0
    for i, row in enumerate(dataset):
        ids, labels = row["input_ids"], row["labels"]
        trained = [label for label in labels if label != IGNORE]
        labelled, total = labelled + len(trained), total + len(ids)
        if not trained:
            masked.append(i)
        elif not stops & set(trained[-3:]):  # templates may close a turn with white space after the end token
            endless.append(i)
        if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
            doubled.append(i)

    def rows(which: list[int]) -> str:
        return f"{len(which)} of {len(dataset)} rows (first: {which[:5]})"

    problems = []
    if masked:
        problems.append(
            f"{rows(masked)} have no label: their loss is nothing and they teach nothing. The answer was cut off or "
            "the mask covers it; raise max_length, or look at the row with chat.show."
        )
    if endless:
        names = ", ".join(repr(tokenizer.decode([i])) for i in sorted(stops)) or "none is set"
        problems.append(
            f"{rows(endless)} do not train the end of the answer (stop tokens: {names}): the tuned model would not "
            "know when to stop. Set tokenizer.eos_token to the token with which the template ends a turn."
        )
    if doubled:
        problems.append(
            f"{rows(doubled)} begin with BOS twice: the template writes it and the tokenizer adds it again. Tokenise "
            "rendered text with add_special_tokens=False."
        )
    if problems:
        raise AuditError("The data would train a broken model:\n  - " + "\n  - ".join(problems))
    return {"rows": len(dataset), "tokens": total, "labelled_tokens": labelled, "labelled_share": labelled / total}


class TokenView:
    """A tokenised row, drawn: token by token in a notebook, trained text in «guillemets» as plain text.

    In a notebook trained tokens stand on green, the others on grey, in two shades in turn so that borders show;
    special tokens have an outline, and a tooltip gives position, id and label. Tokens that make one character
    together are drawn as one.
    """

    _GROUNDS = (("#eeeeee", "#f8f8f8"), ("#a9dca9", "#d4eed4"))  # untrained, trained

    def __init__(self, row: dict, tokenizer):
        special = set(tokenizer.all_special_ids)
        self.runs: list[tuple[bool, str]] = []
        self.tokens: list[tuple[bool, bool, str, str]] = []  # trained, special, tooltip, text
        tokens = list(zip(row["input_ids"], row["labels"], strict=True))
        for trained, run in itertools.groupby(enumerate(tokens), lambda at: at[1][1] != IGNORE):
            positions, pairs = zip(*run, strict=True)
            ids, labels = zip(*pairs, strict=True)
            self.runs.append((trained, tokenizer.decode(ids)))
            for start, stop, text in self._pieces(ids, special, tokenizer):
                facts = {"position": positions, "id": ids, "label": labels}
                tooltip = ", ".join(f"{name} {' '.join(map(str, x[start:stop]))}" for name, x in facts.items())
                self.tokens.append((trained, not special.isdisjoint(ids[start:stop]), tooltip, text))

    @staticmethod
    def _pieces(ids: tuple[int, ...], special: set[int], tokenizer) -> list[tuple[int, int, str]]:
        """`(start, stop, text)` of every token, or of the tokens whose bytes make a character together.

        A token is decoded behind the one before it, because some tokenizers strip the white space of a first token.
        """
        pieces, before, start = [], 0, 0
        for stop in range(1, len(ids) + 1):
            text = tokenizer.decode(ids[before:stop])
            if not text.endswith("\ufffd") or stop == len(ids) or ids[stop] in special:
                pieces.append((start, stop, text[len(tokenizer.decode(ids[before:start])) :]))
                before, start = start, stop
        whole = tokenizer.decode(ids)
        return pieces if "".join(text for *_, text in pieces) == whole else [(0, len(ids), whole)]

    def __repr__(self) -> str:
        return "".join(f"«{text}»" if trained else text for trained, text in self.runs)

    def _repr_html_(self) -> str:
        spans = []
        for i, (trained, special, tooltip, text) in enumerate(self.tokens):
            outline = ";outline:1px solid #666;outline-offset:-1px" if special else ""
            style = f"background:{self._GROUNDS[trained][i % 2]};color:#000{outline}"
            spans.append(f'<span style="{style}" title="{tooltip}">{html.escape(text)}</span>')
        return f'<pre style="white-space:pre-wrap">{"".join(spans)}</pre>'


def show(row: dict, tokenizer) -> TokenView:
    """One tokenised row as the model sees it, with the trained tokens marked."""
    return TokenView(row, tokenizer)


def with_examples(messages: list[dict], examples: list[list[dict]]) -> list[dict]:
    """The prompt of `messages` (all but its answer) with solved `examples` as earlier turns: few-shot prompting."""
    system = [turn for turn in messages[:1] if turn["role"] == "system"]
    shots = [turn for example in examples for turn in example if turn["role"] != "system"]
    return system + shots + messages[len(system) : -1]


def content_of(row: dict, shape: str) -> dict:
    """`{"text"}` of a row of plain text, `{"messages", "reference"}` of any other: what a row holds to learn from.

    Raises DataError, whose `reason` is the kind of fault in a few words.
    """
    if not isinstance(row, dict):
        raise DataError(f"{row!r:.60} is not an object like {{...}}", "not an object")
    lacks = SHAPES[shape] - {key for key, value in row.items() if value is not None}
    if lacks:
        raise DataError(f"lacks {', '.join(sorted(lacks))}", "a column is missing")
    if shape == "text":
        if not isinstance(row["text"], str) or is_blank(row["text"]):
            raise DataError(f"text is {row['text']!r:.60}, expected text", "no text")
        return {"text": row["text"]}
    messages = to_messages(row, shape)
    return {"messages": messages, "reference": messages[-1]["content"]}


def text_of(row: dict) -> str:
    """The `text` of a row, or the contents of its `messages` with a blank line between turns."""
    return row["text"] if "text" in row else "\n\n".join(turn["content"] for turn in row["messages"])


def fold(messages: list[dict]) -> str:
    """A key for the question of a conversation: its turns before the answer, white space and case folded."""
    return json.dumps([(t["role"], " ".join(t["content"].lower().split())) for t in messages[:-1]])
