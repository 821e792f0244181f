"""Chat templates: what they make of a conversation, where its answers stand, and text that must not forge a turn.

Rendering is transformers' own, in its sandbox.
"""

import re

from nbhelpers.errors import AuditError, DataError, ModelError

_USER, _ASSISTANT = "\ue000question\ue000", "\ue000answer\ue000"  # private use: no template and no text has them


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
            "writes a conversation. Take the instruction-tuned variant of the model, set tokenizer.chat_template to "
            "the template that it will be served with, or take over that of another model: models.adopt_template."
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
        AuditError: the template rewrites a turn once others follow; the model would be trained on prompts that it
            never sees again.
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
        spans.append((len(asked), len(answered)))
    return text, spans


def make_trainable(tokenizer) -> str:
    """Give a tokenizer TRL's training template where its own one renders a prompt differently once an answer follows.

    Qwen3's, for one, takes the reasoning out of earlier turns. The model has to be served with the template that it
    was trained with: save this tokenizer beside it.

    Returns: what was done, in a sentence; empty where the own template is good, or where there is none that is better.
    """
    if not tokenizer.chat_template or _keeps_its_prompts(tokenizer):
        return ""
    from trl.chat_template_utils import get_training_chat_template

    own = tokenizer.chat_template
    try:
        tokenizer.chat_template = get_training_chat_template(tokenizer) or own
    except ValueError:  # a family that TRL does not know
        return ""
    if tokenizer.chat_template == own or not _keeps_its_prompts(tokenizer):
        tokenizer.chat_template = own
        return ""
    return "The model's own chat template rewrites earlier turns; TRL's training template of its family stands for it."


def _keeps_its_prompts(tokenizer) -> bool:
    try:
        answers(_plain_conversation(), tokenizer)
    except (AuditError, DataError):
        return False
    return True


def _plain_conversation() -> list[dict]:
    turns = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ASSISTANT}]
    return turns + turns


def markers(tokenizer) -> list[str]:
    """What a template begins and ends turns with, longest first: special tokens, and literal signs like `[/INST]`.

    A literal counts where it is more than a word: `assistant` alone forges nothing. Special tokens that the template
    does not know, such as those for code files, are no borders.
    """
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    between = re.split(f"{_USER}|{_ASSISTANT}", render(_plain_conversation(), tokenizer))[1:]
    tokens = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")
    pieces = [piece.strip() for part in between for line in part.splitlines() for piece in tokens.split(line)]
    literal = {piece for piece in pieces if re.search(r"\w", piece) and re.search(r"[^\w\s]", piece)}
    written = {token for token in special if token in tokenizer.chat_template}
    ends = {token for token in (tokenizer.bos_token, tokenizer.eos_token) if token}
    return sorted(written | ends | literal, key=len, reverse=True)


def forged(text: str, tokenizer, signs: list[str] | None = None) -> list[str]:
    """The markers in a text, with which it would begin or end a turn of its own.

    Args:
        signs: `markers(tokenizer)`, where many texts are looked at.
    """
    signs = signs or markers(tokenizer)
    found = [sign for sign in signs if sign in text]
    if not found:  # a tokenizer that normalises text reads a marker in other letters too
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])
        found = sorted({token for token in tokens if token in signs})
    return found


def defuse(text: str, tokenizer, signs: list[str] | None = None) -> str:
    """The same text with a space set into every marker: it is read as text and forges no turn.

    Args:
        signs: as in `forged`.

    Raises:
        DataError: a marker is left that is written in other letters.
    """
    signs = signs or markers(tokenizer)
    while found := [sign for sign in signs if sign in text]:
        for sign in found:
            text = text.replace(sign, f"{sign[0]} {sign[1:]}")
    if left := forged(text, tokenizer, signs):
        raise DataError(f"{text!r:.60} is read as {', '.join(left)} in other letters: change it", "forges a turn")
    return text
