"""What may not stand in a result that others will see: folders of this machine, and secrets."""

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from nbhelpers.core.storage import repository_root

# Tokens by their form: Hugging Face, OpenAI, GitHub, AWS, Slack, JSON web tokens, and a password in an address.
SECRET = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[pousr]_\w{16,}|github_pat_\w{16,}|AKIA[A-Z0-9]{12,}|xox[abp]-[\w-]{10,}|"
    r"eyJ[\w-]{10,}\.[\w-]{10,})|(?<=://)[^/\s:@]+:[^/\s:@]+(?=@)"
)
ANY_HOME = re.compile(r"(?<![\w.~-])/(?:home|Users)/[\w.-]+")  # of whoever ran it, here or elsewhere
PICTURES = ("image/png", "image/jpeg")  # in base64
SECRET_NAME = re.compile(r"token$|secret|password|passwd|api_?key|credential", re.I)


def folders() -> dict[str, str]:
    """Folder of this machine -> what stands for it, the longest first: `.` is the repository, `~` the home folder."""
    found = {Path(tempfile.gettempdir()): "<tmp>", Path(sys.prefix): "<python>"}
    found |= {Path.home(): "~", repository_root(): "."}
    found |= {path.resolve(): name for path, name in found.items()}
    names = {str(path): name for path, name in found.items() if len(path.parts) > 1}
    return dict(sorted(names.items(), key=lambda item: -len(item[0])))


def holds_secret(text: str) -> bool:
    """Whether a text has the form of a secret, or holds the value of an environment variable called like one."""
    return bool(SECRET.search(text)) or any(value in text for value in _secrets())


def _secrets() -> list[str]:
    """The values of environment variables that are called like secrets."""
    return [value for name, value in os.environ.items() if SECRET_NAME.search(name) and len(value) >= 8]


def redact(text: str) -> str:
    """A text in which paths of the repository are relative, other folders of this machine and secrets are replaced."""
    for folder, name in folders().items():
        path = rf"(\x1b\[[0-9;]*m|(?<![\w.~-])){re.escape(folder)}(?![\w-])(/?)"  # a traceback colours its paths
        text = re.sub(path, lambda m, name=name: m[1] + ("" if name == "." and m[2] else name + m[2]), text)
    text = ANY_HOME.sub("~", text)
    for value in _secrets():
        text = text.replace(value, "<secret>")
    return SECRET.sub("<secret>", text)


def redacted(value: Any) -> Any:
    """The same content of JSON with every text in it redacted, but those of pictures."""
    if isinstance(value, dict):
        return {key: x if key in PICTURES else redacted(x) for key, x in value.items()}
    if isinstance(value, list):
        return [redacted(x) for x in value]
    return redact(value) if isinstance(value, str) else value
