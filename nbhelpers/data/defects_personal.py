"""Planted personal data and secrets, each value with its place in the text."""

import random
import re

from nbhelpers.data.defects import Item, Planted, check, plant
from nbhelpers.data.planted_text import expand, texts


def _value(kind: str, form: str, rng: random.Random) -> str:
    """A random value of this format, its personal part enclosed as ⟦KIND:value⟧."""
    value = expand(form if "⟦" in form else f"⟦{form}⟧", rng)
    return value.replace("⟦", f"⟦{kind}:")


def unmark(marked: str) -> tuple[str, list[tuple[int, int, str]]]:
    """The text without its marks, and where they were: (start, end, kind)."""
    text, spans, last = "", [], 0
    for match in re.finditer(r"⟦([A-Z]+):(.*?)⟧", marked, re.DOTALL):
        text += marked[last : match.start()] + match[2]
        spans.append((len(text) - len(match[2]), len(text), match[1]))
        last = match.end()
    return text + marked[last:], spans


def pii(seed: int, count: int) -> Planted:
    """Texts of one to four sentences with personal data or a secret in them, in the families of `personal`.

    A row holds one value, or two to four in the family "several: kinds"; every third has a hard negative beside it.
    Hard negatives alone (no span) are the families of `not_personal`: versions, hashes, ISBNs, reserved addresses and
    so on.

    Truth: id -> list of (start, end, kind), the characters `text[start:end]` of one value, kind EMAIL, PHONE, IP, CARD,
    IBAN or KEY. A span is the value alone: no `mailto:` or `tel:`, no quotes or brackets, no port, of an assignment its
    right side, of a URL the password; an extension belongs to its telephone number, the BEGIN and END lines to a key.

    Raises ParameterError on a count below 1.
    """
    check([], count)
    rng = random.Random(seed)
    formats, not_personal = texts("personal"), texts("not_personal")
    single = [(kind, family) for kind, found in formats.items() for family in found]
    families = rng.sample([*single, ("several", "kinds")], len(single) + 1)

    def sentence(kind: str, family: str) -> str:
        value = _value(kind, rng.choice(formats[kind][family]), rng)
        return rng.choice(texts("personal_sentences")[kind]).replace("{}", value)

    def harmless() -> tuple[str, str]:
        family, forms = rng.choice(list(not_personal.items()))
        return family, expand(rng.choice(forms), rng)

    def row(parts: list[str]) -> tuple[dict, list[tuple[int, int, str]]]:
        parts = parts + rng.sample(texts("fillers"), rng.randint(0, 2))
        rng.shuffle(parts)
        prose = all(part.endswith(".") and "\n" not in part for part in parts[:-1])
        text, spans = unmark((rng.choice([" ", "\n"]) if prose else "\n").join(parts))
        return {"text": text}, spans

    items: list[Item] = []
    for i in range(count):
        kind, family = families[i % len(families)]
        if kind == "several":
            parts = [sentence(*rng.choice(single)) for _ in range(rng.randint(2, 4))]
        else:
            parts = [sentence(kind, family)]
        if i % 3 == 2:
            parts.append(harmless()[1])
        items.append((f"{kind}: {family}", *row(parts)))
    for _ in range(count):
        family, text = harmless()
        items.append((f"not: {family}", row([text])[0], None))
    return plant("pii", [], seed, items, rng)
