"""Look at rows: a browser with filters where somebody can use it, a printed sample where nobody can."""

import html
import json
import math
import random
import textwrap

from nbhelpers.core.errors import DataError, ParameterError
from nbhelpers.core.progress import interactive
from nbhelpers.data import chat
from nbhelpers.models import templates

BODY = ("messages", "text")  # the columns that hold a row's text
_COLOURS = {"system": "#f0f0f0", "user": "#e4eef8", "assistant": "#e3f3e6", "tool": "#f8f1de"}


def browse(rows, columns: list[str] | None = None, count: int = 5, seed: int = 0):
    """A browser of the rows with filters, as an ipywidget; headless (see `interactive`) it prints a sample instead.

    Args:
        rows: `datasets.Dataset` or list of dicts; `messages` are shown turn by turn.
        columns: columns to filter by; by default those of 2 to 20 different short values.
        count: rows a page, or printed rows; 1 and up.
        seed: of the printed sample.

    Returns:
        The widget, which a notebook shows where it is the last value of a cell; None where the sample was printed.

    Raises:
        ParameterError: `count` is below 1.
        DataError: there is no row, or a column of `columns` is in none of them.
    """
    if count < 1:
        raise ParameterError(f"count={count} is below 1. It is the number of rows that are shown at once.")
    if not len(rows):
        raise DataError("There is no row to show. Look at what the step before has dropped.")
    names = list(dict.fromkeys(name for row in rows for name in row)) if isinstance(rows, list) else rows.column_names
    missing = [name for name in columns or () if name not in names]
    if missing:
        raise DataError(f"No column {', '.join(missing)} to filter by. The rows have {', '.join(names)}.")
    if interactive():
        return _browser(rows, _filters(rows, names) if columns is None else columns, count)
    print(sample_text(rows, count, seed))
    return None


def sample_text(rows, count: int, seed: int, width: int = 100) -> str:
    """`count` rows drawn by the seed as plain text, in their order, lines wrapped at `width` characters."""
    chosen = sorted(random.Random(seed).sample(range(len(rows)), min(count, len(rows))))
    blocks = [f"{len(chosen)} of {len(rows)} rows"]
    for i in chosen:
        facts, turns = _parts(rows[i])
        lines = [f"--- {i + 1}: {facts}"]
        for role, text in turns:
            paragraphs = [textwrap.fill(line, width - 4, replace_whitespace=False) for line in text.splitlines()]
            lines += [f"{role}:", textwrap.indent("\n".join(paragraphs), "    ")]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _parts(row: dict) -> tuple[str, list[tuple[str, str]]]:
    """The short columns of a row in one line, and `(heading, text)` of what is read in it.

    A broken row is shown as it is, since finding those is the point; a column that repeats a turn is left out.
    """
    try:
        turns = [(str(turn["role"]), turn["content"]) for turn in row.get("messages") or ()]
    except (TypeError, KeyError):
        turns = [("messages", row["messages"])]
    if row.get("text") is not None:
        turns.append(("text", row["text"]))
    said = [text for _, text in turns]
    others = {k: v for k, v in row.items() if k not in BODY and v is not None and v not in said}
    facts = " · ".join(f"{name}={value}" for name, value in others.items() if _is_short(value))
    turns += [(name, value) for name, value in others.items() if not _is_short(value)]
    return facts, [
        (name, v if isinstance(v, str) else json.dumps(v, ensure_ascii=False, default=str)) for name, v in turns
    ]


def _is_short(value) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 80)


def _values(rows, name: str):
    return [row.get(name) for row in rows] if isinstance(rows, list) else rows[name]


def _filters(rows, names: list[str]) -> list[str]:
    """The columns of 2 to 20 different values, each a short text, a whole number or a truth value."""
    found = []
    for name in names:
        values = set()
        for value in _values(rows, name):
            if value is not None and (isinstance(value, float) or not _is_short(value)):
                values.clear()
                break
            values.add(value)
            if len(values) > 20:
                break
        if 2 <= len(values) <= 20 and len(values) < len(rows) and name not in BODY:
            found.append(name)
    return found


def row_html(row: dict) -> str:
    """One row as HTML: its short columns in a line, then its turns on coloured grounds; text escaped and wrapped."""
    facts, turns = _parts(row)
    parts = [f'<div style="color:#666;font-size:90%">{html.escape(facts)}</div>']
    for role, text in turns:
        parts.append(
            f'<div style="background:{_COLOURS.get(role, "#f6f6f6")};color:#000;margin:3px 0;padding:4px 8px;'
            f'border-radius:4px;line-height:1.35"><b>{html.escape(role)}</b><div style="white-space:pre-wrap;'
            f'overflow-wrap:anywhere">{html.escape(text)}</div></div>'
        )
    return f'<div style="border-bottom:1px solid #ccc;padding:8px 0">{"".join(parts)}</div>'


def _browser(rows, columns: list[str], count: int):
    import ipywidgets

    by_column = {name: [str(value) for value in _values(rows, name)] for name in columns}
    searched: list[str] = []  # what the text filter looks in, made when it is first used
    matching = list(range(len(rows)))

    drop_downs = {}
    for name, found in by_column.items():
        options = [("all", None)] + [(value, value) for value in sorted(set(found))]
        drop_downs[name] = ipywidgets.Dropdown(options=options, description=name)
    words = ipywidgets.Text(description="contains", placeholder="text, then Enter", continuous_update=False)
    page = ipywidgets.IntSlider(1, 1, 1, description="page", continuous_update=False)
    number, body = ipywidgets.Label(), ipywidgets.HTML()

    def show(_=None) -> None:
        first = (page.value - 1) * count
        body.value = "".join(row_html(rows[i]) for i in matching[first : first + count])

    def choose(_=None) -> None:
        if words.value and not searched:
            for facts, turns in map(_parts, rows):
                searched.append(" ".join([facts, *(text for _, text in turns)]).lower())
        wanted = words.value.lower()
        matching[:] = [
            i
            for i in range(len(rows))
            if all(d.value in (None, by_column[name][i]) for name, d in drop_downs.items())
            and (not wanted or wanted in searched[i])
        ]
        number.value = f"{len(matching)} of {len(rows)} rows"
        page.max = max(1, math.ceil(len(matching) / count))
        page.value = 1
        show()

    for control in (*drop_downs.values(), words):
        control.observe(choose, "value")
    page.observe(show, "value")
    choose()
    controls = ipywidgets.HBox([*drop_downs.values(), words, page, number], layout={"flex_flow": "row wrap"})
    return ipywidgets.VBox([controls, body])


def converse(model, tokenizer, prompts: list[str], system: str = "", max_new_tokens: int = 128):
    """A chat with a model, its history kept, as an ipywidget; headless the prompts are asked one after the other.

    What is written cannot begin or end a turn (`templates.defuse`), neither the user's words nor the model's, which it
    reads again. An answer that runs into the limit is marked where it is shown.

    Args:
        prompts: what is asked headless, each with all turns before it; in a front end the first is suggested.
        system: a system prompt; empty: none.

    Returns:
        The widget, which a notebook shows where it is the last value of a cell; None where the chat was printed.

    Raises:
        ParameterError: a prompt is not text, or blank.
    """
    from nbhelpers.evaluation import generation

    for prompt in prompts:
        if not isinstance(prompt, str) or chat.is_blank(prompt):
            raise ParameterError(f"prompts has {prompt!r:.60}: write each as text, such as 'What is a volcano?'.")
    begun = [{"role": "system", "content": system}] if system else []
    read, shown = list(begun), list(begun)

    def ask(text: str) -> str:
        asked = {"role": "user", "content": templates.defuse(text, tokenizer)}
        answer = generation.generate(model, tokenizer, [[*read, asked]], max_new_tokens)[0]
        read.extend([asked, {"role": "assistant", "content": templates.defuse(answer.text, tokenizer)}])
        said = answer.text + ("" if answer.stopped else " [cut off]")
        shown.extend([asked, {"role": "assistant", "content": said}])
        return said

    def forget() -> None:
        read[:], shown[:] = begun, begun

    if interactive():
        return _chat(shown, ask, forget, next(iter(prompts), ""))
    for prompt in prompts:
        print(f"user       {prompt}\nassistant  {ask(prompt)}\n")
    return None


def _chat(shown: list[dict], ask, forget, suggestion: str):
    import ipywidgets

    said = ipywidgets.HTML()
    words = ipywidgets.Textarea(placeholder=suggestion, layout={"width": "100%", "height": "4em"})
    send, again = ipywidgets.Button(description="Send"), ipywidgets.Button(description="New chat")

    def answer(_) -> None:
        if chat.is_blank(words.value or suggestion):
            return
        send.disabled = True
        try:
            ask(words.value or suggestion)
            words.value = ""
        finally:
            send.disabled = False
            said.value = row_html({"messages": shown})

    def begin_again(_) -> None:
        forget()
        said.value = ""

    send.on_click(answer)
    again.on_click(begin_again)
    return ipywidgets.VBox([said, words, ipywidgets.HBox([send, again])])
