"""Planted rows to be dropped: broken conversations, foreign languages, texts from which nothing can be learnt."""

import random
import string
import textwrap

from nbhelpers.data.defects import Item, Planted, capitalise, check, find_carriers, plant
from nbhelpers.data.planted_text import ALPHABETS, characters, expand, texts


def _turns(text: str, rng: random.Random) -> list[dict]:
    question = rng.choice(texts("questions")).format(expand("%{noun}", rng))
    return [{"role": "user", "content": question}, {"role": "assistant", "content": text}]


def _break(kind: str, turns: list[dict], rng: random.Random) -> dict:
    """The row `{"messages"}`, or `{}`, that these two turns become when broken in this way."""
    place = rng.randrange(len(turns))
    user, assistant = turns
    if kind == "messages missing":
        return rng.choice([{}, {"messages": None}])
    if kind == "no turns":
        return {"messages": []}
    if kind == "turn is no dict":
        turns[place] = rng.choice([turns[place]["content"], None, ["user", "Hello"], 7])
    elif kind == "unknown role":
        turns[place] = {
            **turns[place],
            "role": rng.choice(["moderator", "judge", "narrator", "", None, "Assistants", 1]),
        }
        if rng.random() < 0.2:
            del turns[place]["role"]
    elif kind == "content is None":
        turns[place] = {**turns[place], "content": None}
        if rng.random() < 0.3:
            del turns[place]["content"]
    elif kind == "content is no text":
        turns[place] = {**turns[place], "content": rng.choice([3, 0.5, True, [3], {"text": "Hello"}, []])}
    elif kind == "content is blank":
        turns[place] = {**turns[place], "content": rng.choice(["", " ", "\n\t", "\xa0", "\u3000", "\u200b", "\r\n"])}
    elif kind == "last turn is the user's":
        turns = rng.choice([[user], [user, assistant, {"role": "user", "content": "Thanks. And then?"}]])
    elif kind == "two user turns":
        turns = [
            user,
            {"role": "user", "content": rng.choice(["Hello?", "Please answer.", user["content"]])},
            assistant,
        ]
    else:
        system = {"role": "system", "content": "Answer briefly."}
        turns = rng.choice([[user, system, assistant], [user, assistant, system, user, assistant]])
    return {"messages": turns}


BROKEN = (
    "messages missing", "no turns", "turn is no dict", "unknown role", "content is None", "content is no text",
    "content is blank", "last turn is the user's", "two user turns", "system turn not first",
)  # fmt: skip


def broken(rows: list[dict], seed: int, count: int) -> Planted:
    """Rows `{"id", "messages"}` broken in the ten ways of `BROKEN`; every carrier becomes a question with its answer.

    Hard negatives, which are valid: a system turn first, several turns, an answer of code only, an answer such as
    "0" or "No", tool turns between assistant turns. A blank carrier can be no answer and is left out.

    Truth: id -> the way it is broken.

    Raises DataError where all rows are blank, ParameterError on a count below 1.
    """
    check(rows, count)
    rng = random.Random(seed)
    carriers = find_carriers(rows, lambda text: bool(text.strip()), "a text that is not blank", rng)
    items: list[Item] = []
    for i in range(count):
        kind = BROKEN[i % len(BROKEN)]
        items.append((kind, _break(kind, _turns(carriers[i % len(carriers)]["text"], rng), rng), kind))
    for i in range(count):
        turns = _turns(carriers[-1 - i % len(carriers)]["text"], rng)
        answer = {"role": "assistant", "content": rng.choice(texts("short_answers"))}
        family, messages = (
            ("system first", [{"role": "system", "content": "Answer briefly."}, *turns]),
            ("several turns", [*turns, {"role": "user", "content": "And then?"}, answer]),
            ("code only", [turns[0], {"role": "assistant", "content": "```python\nx = [1]\n```"}]),
            ("short answer", [turns[0], answer]),
            ("tool turn", [turns[0], answer, {"role": "tool", "content": '{"n": 3}'}, turns[1]]),
        )[i % 5]
        items.append((f"not: {family}", {"messages": messages}, None))
    clean = [{"id": row["id"], "messages": _turns(row["text"], rng)} for row in carriers]
    return plant("broken", clean, seed, items, rng)


def foreign(rows: list[dict], seed: int, count: int) -> Planted:
    """Passages of 3 to 6 technical sentences in the 14 languages of `passages`, every third after an English sentence.

    Hard negatives, which are English: with code, formulas, identifiers, foreign names and loan words, of 8 to 12
    words, or a list of identifiers after an English lead. Truth: id -> ISO 639-1 code.

    Raises DataError where there are no rows, ParameterError on a count below 1.
    """
    check(rows, count)
    rng = random.Random(seed)
    carriers = find_carriers(rows, lambda text: True, "there", rng)
    passages, english, fillers = list(texts("passages").items()), list(texts("english").items()), texts("fillers")
    items: list[Item] = []
    for i in range(count):
        code, sentences = passages[i % len(passages)]
        sentences = rng.sample(sentences, rng.randint(4 if i % 3 == 2 else 3, 6))
        text = ("" if code in ("zh", "ja") else " ").join(sentences)
        if i % 3 == 2:
            text = f"{rng.choice(fillers)} {text}"
        family = f"{code} after English" if i % 3 == 2 else code
        items.append((family, {**carriers[i % len(carriers)], "text": text}, code))
    for i in range(count):
        family, forms = english[i % len(english)]
        text = expand(rng.choice(forms), rng)
        if family != "short" and rng.random() < 0.5:
            text = f"{rng.choice(fillers)}\n\n{text}"
        items.append((f"not: {family}", {**carriers[i % len(carriers)], "text": text}, None))
    return plant("foreign", rows, seed, items, rng)


def _worthless(kind: str, text: str, rng: random.Random) -> str:
    if kind == "too short":
        return rng.choice(texts("too_short"))
    if kind == "repetition":
        opening, filler, noun = " ".join(text.split()[:8]), rng.choice(texts("fillers")), expand("%{noun}", rng)
        line = rng.choice([opening, filler, noun, "ha", "Error 404"])
        return rng.choice(["\n", " ", ", ", ""]).join([line] * rng.randint(8, 40))
    if kind == "symbols":
        signs = rng.choice(["=-_*#~", "|+-", "!@#$%^&*()", "{}[]<>;:,./\\", "▒░█◆●", "0123456789.,- "])
        return "".join(rng.choice(signs + " ") for _ in range(rng.randint(60, 400)))
    if kind == "blob":
        width = rng.choice([64, 76, 10_000])
        blob = characters(rng.choice("hb"), rng.randint(120, 800), rng)
        return rng.choice(["", "data:image/png;base64,"]) + "\n".join(textwrap.wrap(blob, width))
    if kind == "gibberish":
        keys = rng.choice([string.ascii_lowercase, "asdfghjkl", "qwertyuiopasdfghjklzxcvbnm;", ALPHABETS["w"]])
        words = ["".join(rng.choices(keys, k=rng.randint(2, 14))) for _ in range(rng.randint(8, 60))]
        return " ".join(words)
    return expand(rng.choice(texts("boilerplate")), rng)


WORTHLESS = ("too short", "repetition", "symbols", "blob", "gibberish", "boilerplate")


def low_quality(rows: list[dict], seed: int, count: int) -> Planted:
    """Texts from which nothing can be learnt, in the six kinds of `WORTHLESS`.

    Hard negatives, which must be kept: short but whole sentences, parameter lists, doctest sessions, formulas, bullet
    lists, tables, a text that says one sentence twice, a sentence that mentions a licence. Truth: id -> kind.

    Raises DataError where all rows are blank, ParameterError on a count below 1.
    """
    check(rows, count)
    rng = random.Random(seed)
    carriers = find_carriers(rows, lambda text: bool(text.strip()), "a text that is not blank", rng)
    worthwhile = list(texts("worthwhile").items())
    items: list[Item] = []
    for i in range(count):
        kind, row = WORTHLESS[i % len(WORTHLESS)], carriers[i % len(carriers)]
        items.append((kind, {**row, "text": _worthless(kind, row["text"], rng)}, kind))
    for i in range(count):
        family, forms = worthwhile[i % len(worthwhile)]
        text = capitalise(expand(rng.choice(forms), rng))
        items.append((f"not: {family}", {**carriers[i % len(carriers)], "text": text}, None))
    return plant("low_quality", rows, seed, items, rng)
