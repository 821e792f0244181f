"""How long something took or will take, in words; and how far something is that takes long."""

import os
import time
from collections.abc import Iterable, Iterator

FIRST, BETWEEN = 5.0, 30.0  # seconds before the first line, and between two


def duration(seconds: float) -> str:
    """`0.4 s`, `48 s`, `3 min 05 s` or `1 h 02 min`."""
    if seconds < 9.95:
        return f"{seconds:.3g} s" if seconds < 0.1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def interactive() -> bool:
    """Whether somebody is there to move a slider: True in a live notebook front end, False wherever nobody can answer.

    A front end says with every cell that it runs whether it could ask its user for input (`allow_stdin` of the Jupyter
    messaging protocol). JupyterLab says yes; nbclient, nbconvert and papermill say no. Voilà, which runs the cells for
    somebody who then moves the sliders, names itself to the kernel. A script and IPython in a terminal cannot show
    widgets: False.
    """
    if os.environ.get("SERVER_SOFTWARE", "").startswith("voila/"):
        return True
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return False
    return bool(kernel.get_parent().get("content", {}).get("allow_stdin", False))


def live_bar(what: str, total: int):
    """A bar of `tqdm` in a live notebook, which goes when it is closed; None elsewhere, and for a single thing."""
    if total < 2 or not interactive():
        return None
    from tqdm.notebook import tqdm

    return tqdm(total=total, desc=what, leave=False)


class Progress:
    """How far a long piece of work is: a bar in a live notebook, which goes when all is done; headless a few lines.

        with Progress("answers", 200) as progress:
            for batch in batches:
                ...
                progress.advance(len(batch))

    Headless nothing is printed in the first 5 seconds and one line each half minute after that, with the time to go.
    """

    def __init__(self, what: str, total: int):
        self.what, self.total, self.done = what, total, 0
        self.started, self.said, self.bar = time.monotonic(), None, None

    def __enter__(self) -> "Progress":
        self.bar = live_bar(self.what, self.total)
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.close()

    def advance(self, count: int = 1) -> None:
        """Say that `count` more are done."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
            return
        now = time.monotonic()
        due = now - self.started >= FIRST if self.said is None else now - self.said >= BETWEEN
        if due and self.done < self.total:
            left = (now - self.started) / self.done * (self.total - self.done)
            print(f"{self.what}: {self.done:,} of {self.total:,}, {duration(left)} to go")
            self.said = now


def each(items: Iterable, what: str) -> Iterator:
    """The items of a sized iterable one by one, with their `Progress`."""
    with Progress(what, len(items)) as progress:
        for item in items:
            yield item
            progress.advance()
