"""Instruction rows with checkable answers, made from docstrings by rule."""

import hashlib
import json
import re

INSTRUCTIONS = {
    "summary": "Write the one-line summary of this Python docstring.",
    "parameters": "List the parameters that this Python docstring documents as a JSON object from each name to its "
    "type, without defaults. Answer with the JSON alone.",
    "signature": "Write the call signature that this Python docstring documents, without types or default values.",
    "package": "Name the Python package that this docstring comes from. Answer with the name alone.",
}
_NAME = r"\*{0,2}[A-Za-z_]\w*"
_SPHINX = re.compile(rf"^:param(?:eter)?\s+(?:(?P<type>[\w.\[\], |]+?)\s+)?(?P<name>{_NAME})\s*:", re.M)
_GOOGLE_ENTRY = re.compile(rf"^(?P<name>{_NAME})\s*(?:\((?P<type>.+?)\))?\s*:(?:\s|$)")
_NUMPY_ENTRY = re.compile(rf"^(?P<name>{_NAME}(?:\s*,\s*{_NAME})*)\s*(?::\s*(?P<type>.+?))?\s*$")


def _block(lines: list[str], start: int) -> list[str]:
    """The lines after `start` up to the next line that is not indented and is not empty."""
    out = []
    for line in lines[start:]:
        if line.strip() and not line[0].isspace():
            break
        out.append(line)
    return out


def _entries(lines: list[str]) -> list[str]:
    """The least indented lines of a block: where each documented parameter begins."""
    indents = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    return [line.strip() for line in lines if line.strip() and len(line) - len(line.lstrip()) == min(indents)]


_LINK = re.compile(r"(?<![\w\[])\[[~!]?([\w.]+)\]")  # a cross-reference, `[~state.DistributedType]`; not `list[int]`
_ROLE = re.compile(r":[\w:]+:(?=`)|(?<=`)[~.!]+")  # Sphinx marks, as in :class:`~torch.Tensor`
_NOT_TYPE = re.compile(r"[\s,(\[]*\*?\b(?:optional|defaults?|keyword[- ]only)\b.*$", re.I)


def _clean_type(text: str | None) -> str | None:
    """A documented type without its code and link marks, without `optional` and without a default value.

    None where a bracket stays open: that is a part of a type.
    """
    text = _LINK.sub(r"\1", _ROLE.sub("", text or "").replace("`", ""))
    text = _NOT_TYPE.sub("", text).strip(" ,*:")
    whole = all(text.count(a) == text.count(b) for a, b in ("()", "[]", "{}"))
    return text if text and whole else None


def documented_parameters(text: str) -> dict[str, str | None] | None:
    """The parameters a docstring documents, name -> type or None, in order; None where it has no such section.

    Reads the numpydoc, Google and Sphinx conventions. A section with a line it cannot read gives None,
    because an answer that is only partly right is no reference.
    """
    lines = text.splitlines()
    found: dict[str, str | None] = {}
    for i, line in enumerate(lines):
        head = line.strip()
        if head == "Parameters" and i + 1 < len(lines) and set(lines[i + 1].strip()) == {"-"}:
            section = []
            for j in range(i + 2, len(lines)):
                if j + 1 < len(lines) and len(lines[j + 1].strip()) > 2 and set(lines[j + 1].strip()) == {"-"}:
                    break
                section.append(lines[j])
            for entry in _entries(section):
                match = _NUMPY_ENTRY.match(entry)
                if not match:
                    return None
                for name in re.split(r"\s*,\s*", match["name"]):
                    found[name.lstrip("*")] = _clean_type(match["type"])
            return found or None
        if head in ("Args:", "Arguments:", "Parameters:"):
            for entry in _entries(_block(lines, i + 1)):
                match = _GOOGLE_ENTRY.match(entry.replace("`", "", 2) if entry.startswith("`") else entry)
                if not match:
                    return None
                found[match["name"].lstrip("*")] = _clean_type(match["type"])
            return found or None
    for line in lines:
        if line.startswith(":param"):
            match = _SPHINX.match(line)
            if not match:
                return None
            found[match["name"].lstrip("*")] = _clean_type(match["type"])
    return found or None


def split_summary(text: str) -> tuple[str, str] | None:
    """`(summary, body)` where the first line is a sentence of its own and prose follows it; else None."""
    first, _, rest = text.partition("\n\n")
    first, body = first.strip(), rest.strip()
    prose = bool(re.match(r"[A-Z`\"']", body)) and not re.match(r"[^\n]*\n[-=~^]{3,}|\w+:\n", body)
    if "\n" in first or not first.endswith(".") or not prose or len(body) < 80:
        return None
    return (first, body) if 4 <= len(first.split()) <= 25 else None


def make_rows(entries: list[dict], max_characters: int = 1_500) -> list[dict]:
    """Instruction rows `{id, task, package, module, messages, reference}` from `corpus()`, by rule and in order.

    A docstring longer than `max_characters` gives none: cutting it could cut the answer out of the question. A space is
    set into signs such as `<|endoftext|>`, of which docstrings of tokenizers speak.
    """
    rows, seen = [], set()

    def add(task: str, entry: dict, content: str, answer: str) -> None:
        key = hashlib.sha256(f"{task}\n{content}".encode()).hexdigest()[:16]
        if key in seen:
            return
        seen.add(key)
        content, answer = (re.sub(r"<\|(?=\S+?\|>)", "< |", text) for text in (content, answer))  # forges no turn
        prompt = {"role": "user", "content": f"{INSTRUCTIONS[task]}\n\n{content}"}
        rows.append(
            {"id": f"{task}-{key}", "task": task, "package": entry["package"], "module": entry["module"]}
            | {"messages": [prompt, {"role": "assistant", "content": answer}], "reference": answer}
        )

    for entry in entries:
        text = entry["text"]
        if len(text) > max_characters:
            continue
        summary = split_summary(text)
        if summary:
            add("summary", entry, summary[1], summary[0])
            if entry["package"].lower() not in text.lower():
                add("package", entry, text, entry["package"])
        parameters, arguments = documented_parameters(text), entry["arguments"] or []
        names = [argument.lstrip("*") for argument in arguments if argument != "*"]
        if parameters and set(parameters) <= set(names):  # the code itself confirms what was read
            if all(kind and len(kind) <= 60 for kind in parameters.values()):
                add("parameters", entry, text, json.dumps(parameters, ensure_ascii=False))
            if names == list(parameters) and entry["kind"] == "function":
                call = f"{entry['name'].rpartition('.')[2]}({', '.join(arguments)})"
                add("signature", entry, f"{entry['name'].rpartition('.')[2]}\n\n{text}", call)
    return rows


WORDINGS = {
    "summary": ["What does this do? Answer in one sentence.", "Sum up this docstring in a single line."],
    "parameters": ["Which parameters does this take? Give a JSON object from name to type, without defaults."],
    "signature": ["How is this called? Write the signature without types or default values."],
    "package": ["Which Python package is this from? One word."],
}  # task -> other ways to say its instruction

NOT_DOCUMENTED = "This docstring documents no parameters."


def unanswerable(rows: list[dict]) -> list[dict]:
    """Rows of the task `unanswerable`: `parameters` asked of docstrings that document none, which the answer says.

    Args:
        rows: as `make_rows` returns them; those of the task `package` have whole docstrings to ask about.
    """
    head, made = INSTRUCTIONS["package"] + "\n\n", []
    for row in rows:
        text = row["messages"][0]["content"].removeprefix(head)
        if row["task"] != "package" or re.search(r"(?i)param|args|arguments", text):
            continue
        turns = [{"role": "user", "content": f"{INSTRUCTIONS['parameters']}\n\n{text}"}]
        turns += [{"role": "assistant", "content": NOT_DOCUMENTED}]
        own = {"id": row["id"].replace("package", "unanswerable"), "task": "unanswerable", "reference": NOT_DOCUMENTED}
        made.append(row | own | {"messages": turns})
    return made
