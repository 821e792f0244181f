"""Chat templates: what they make of a conversation, where its answers stand, and text that must not forge a turn.

Rendering is transformers' own, in its sandbox.
"""

import contextlib
import json
import re
from datetime import date

from nbhelpers.core.errors import AuditError, DataError, ModelError

_DAY = date(2024, 7, 26)  # the day that Llama 3's own template falls back on
_CONTENT = "\ue000content\ue000"  # private use: no template and no text has it


def render(messages: list[dict], tokenizer, add_generation_prompt: bool = False) -> str:
    """The text that the tokenizer's chat template makes of the messages.

    Raises:
        ModelError: the tokenizer has no template.
        DataError: the template refuses the conversation (Gemma's has no system turn).
    """
    from jinja2.exceptions import TemplateError

    if not tokenizer.chat_template:
        raise ModelError(
            f"The tokenizer of {tokenizer.name_or_path or 'this model'} has no chat template, so nobody knows how it "
            "writes a conversation. Set the parameter chat_template, for example to chatml, or take the variant of the "
            "model that was tuned for chats."
        )
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in messages)
        raise DataError(f"The chat template refuses turns of {roles}: {error}", "refused by the template") from error


def answers(messages: list[dict], tokenizer) -> tuple[str, list[tuple[int, int]]]:
    """The rendered conversation, and where in it each answer stands: `(start, end)` in characters, its end included.

    What stands before an answer must be exactly what a server would render to ask for it.

    Raises:
        AuditError: the template rewrites a turn once others follow, so that the model would be trained on prompts that
            it never sees again; it changes an answer by more than white space, as Qwen3's does with `</think>`; it
            leaves out a turn; or it writes the head of an answer only when the answer is there.
    """
    text, spans = render(messages, tokenizer), []
    for i, turn in enumerate(messages):
        if turn["role"] != "assistant":
            continue
        asked = render(messages[:i], tokenizer, add_generation_prompt=True)
        answered = render(messages[: i + 1], tokenizer)
        if i + 1 < len(messages) and not text.startswith(answered):  # Phi-3 closes the whole conversation with EOS
            answered = answered.removesuffix(tokenizer.eos_token or "")
        if not answered.startswith(asked) or not text.startswith(answered):
            raise AuditError(
                f"The template renders the prompt of turn {i} differently when its answer follows. Training and "
                "inference would see different prompts: use the model's training-safe template."
            )
        if turn["content"].strip() not in answered[len(asked) :]:
            raise AuditError(
                f"The template changes the answer of turn {i}, {turn['content']!r:.60}: something else would be "
                "trained. Take what the template reads as its own out of it, or take the row out."
            )
        head, _, _ = answered[len(asked) :].partition(turn["content"].strip())
        if head.strip() and asked == render(messages[:i], tokenizer):
            raise AuditError(
                f"The template ignores add_generation_prompt: it writes {head!r:.60} before the answer of turn {i}, "
                "but not when a server asks for one. The model would be trained to write that head itself: use a "
                "template that ends with it where add_generation_prompt is set."
            )
        spans.append((len(asked), len(answered)))
    _refuse_a_lost_turn(messages, text)
    return text, spans


def _refuse_a_lost_turn(messages: list[dict], text: str) -> None:
    """Raises AuditError where a turn does not stand in the rendered text, after the turn before it.

    A system turn may stand elsewhere: some templates put it into the last question.
    """
    place, lost = 0, None
    for i, turn in enumerate(messages):
        content = turn["content"].strip()
        forms = [content, *(json.dumps(content, ensure_ascii=ascii)[1:-1] for ascii in (True, False))]
        begin = 0 if turn["role"] == "system" else place
        found = [(text.find(form, begin), len(form)) for form in forms if text.find(form, begin) >= 0]
        if not found:
            lost = i
            break
        if turn["role"] != "system" or messages[1]["content"].strip() not in content:
            at, length = min(found)
            place = at + length if turn["role"] != "system" else place
    if lost is None and messages[0]["role"] == "system":
        others = [turn["content"].strip() for turn in messages[1:]]
        said = messages[0]["content"].strip()
        if text.count(said) <= sum(other.count(said) for other in others):
            lost = 0  # it stands only where another turn says the same
    if lost is not None:
        raise AuditError(
            f"The template leaves out turn {lost}, the {messages[lost]['role']}'s: "
            f"{messages[lost]['content'].strip()!r:.60} does not stand where it belongs. Use a template that renders "
            "it, put the text into the user's turn, or remove the turn."
        )


def make_trainable(tokenizer) -> str:
    """Give a tokenizer TRL's training template where its own one renders a prompt differently once an answer follows.

    Qwen3's, for one, takes the reasoning out of earlier turns. The model has to be served with the template that it
    was trained with: save this tokenizer beside it. TRL's marks of what is trained, which only transformers reads, are
    taken out.

    Returns: what was done, in a sentence; empty where the own template is good, or where there is none that is better.
    """
    if not tokenizer.chat_template or _keeps_its_prompts(tokenizer):
        return ""
    from trl.chat_template_utils import get_training_chat_template

    own = tokenizer.chat_template
    try:
        marks = [(r"\{%(-?)\s*generation\b", r"{%\1 if true"), (r"\{%(-?)\s*endgeneration\b", r"{%\1 endif")]
        template = get_training_chat_template(tokenizer) or own
        for mark, neutral in marks:
            template = re.sub(mark, neutral, template)
        tokenizer.chat_template = template
    except ValueError:  # a family that TRL does not know
        return ""
    if tokenizer.chat_template == own or not _keeps_its_prompts(tokenizer):
        tokenizer.chat_template = own
        return ""
    return "The model's own chat template rewrites earlier turns; TRL's training template of its family stands for it."


def fix_date(tokenizer) -> str:
    """Have a template that writes today's date write one fixed day, and say so; empty where it writes none.

    Otherwise a training that was cut off could not go on tomorrow, since its prompts would be others, and no run could
    be repeated. The tokenizer that is saved keeps the day, so that what is served renders what was trained.
    """
    if "strftime_now" not in (tokenizer.chat_template or ""):
        return ""

    def written(match: re.Match) -> str:
        return repr(_DAY.strftime(match[2]))

    fixed = re.sub(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)", written, tokenizer.chat_template)
    tokenizer.chat_template = re.sub(r"strftime_now is (not )?defined", r"true is \1true", fixed)
    return (
        f"The chat template writes today's date; here it always writes {_DAY:%d %B %Y}, so that runs can be repeated."
    )


def _keeps_its_prompts(tokenizer) -> bool:
    try:
        answers(_conversation(*TURNS), tokenizer)
    except (AuditError, DataError):
        return False
    return True


TURNS = ("user", "assistant", "user", "assistant")


def _conversation(*roles: str) -> list[dict]:
    return [{"role": role, "content": _CONTENT} for role in roles]


def markers(tokenizer) -> list[str]:
    """What a template begins and ends turns with, longest first: special tokens, and literal signs like `[/INST]`.

    Turns of the system and of tools count where the family has them. A literal counts where it is more than a word:
    `assistant` alone forges nothing. So does every special token written `<|...|>`, whether the template spells it
    out or puts it together; others that the template does not know, such as those for code files, are no borders.
    """
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokens = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")
    lines = _lines_between(_conversation(*TURNS), tokenizer)
    for roles in (("system", *TURNS), (*TURNS, "tool", "assistant")):
        with contextlib.suppress(DataError, TypeError):  # the family has no such turn
            lines += _lines_between(_conversation(*roles), tokenizer)
    literal = {sign for line in lines for piece in tokens.split(line) for sign in _signs(piece.strip())}
    written = {token for token in special if token in tokenizer.chat_template or re.fullmatch(r"<\|.+\|>", token)}
    ends = {token for token in (tokenizer.bos_token, tokenizer.eos_token) if token}
    return sorted(written | ends | literal, key=len, reverse=True)


def _lines_between(messages: list[dict], tokenizer) -> list[str]:
    """What a template writes around contents, but not within an answer; before the first only what is no prose."""
    text = render(messages, tokenizer)
    with contextlib.suppress(AuditError):
        for start, _ in reversed(answers(messages, tokenizer)[1]):
            text = text[:start] + text[text.index(_CONTENT, start) :]
    first, *between = text.split(_CONTENT)
    before = [line for line in first.strip().splitlines()[-1:] if re.fullmatch(r"[^\w\s].*[^\w\s]", line)]
    return [*before, *(line for part in between for line in part.splitlines())]


def _signs(piece: str) -> list[str]:
    """A literal piece as it is, or its parts where each stands in brackets; nothing of words or punctuation alone."""
    parts = piece.split()
    if len(parts) > 1 and all(part[0] in "[<{|" and part[-1] in "]>}|" for part in parts):
        return [sign for part in parts for sign in _signs(part)]
    return [piece] if re.search(r"\w", piece) and re.search(r"[^\w\s]", piece) else []


def forged(text: str, tokenizer, signs: list[str] | None = None) -> list[str]:
    """The markers in a text, with which it would begin or end a turn of its own.

    Args:
        signs: `markers(tokenizer)`, where many texts are looked at.
    """
    signs = signs or markers(tokenizer)
    found = [sign for sign in signs if sign in text]
    if not found:  # a tokenizer that normalises text reads a marker in other letters too
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])
        found = sorted(set(tokens).intersection(signs))
    return found


def defuse(text: str, tokenizer, signs: list[str] | None = None) -> str:
    """The same text with a space set into every marker: it is read as text and forges no turn.

    Args:
        signs: as in `forged`.

    Raises:
        DataError: a marker is left that is written in other letters.
    """
    signs = signs or markers(tokenizer)
    while found := [sign for sign in signs if len(sign) > 1 and sign in text]:
        for sign in found:
            text = text.replace(sign, f"{sign[0]} {sign[1:]}")
    if left := forged(text, tokenizer, signs):
        raise DataError(f"{text!r:.60} is read as {', '.join(left)} in other letters: change it", "forges a turn")
    return text
