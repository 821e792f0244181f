"""The errors a user can meet. Each message names the value that is wrong and what to do about it.

    NotebookError
    ├── ParameterError    a notebook parameter is unknown, of the wrong type or out of range
    ├── DataError         a dataset is missing, empty, malformed or of a shape nobody recognises
    ├── ModelError        a model or tokenizer cannot be fetched, loaded or used as asked
    ├── AuditError        the run would have gone on and been silently wrong
    ├── DivergedError     a training broke: its loss or gradient is not finite
    ├── ResourceError     the machine has not got what the run needs
    └── StoppedError      SIGTERM came while a model was trained; its checkpoint is written

All are ValueErrors: a caller who knows nothing of this module still catches them as bad input.
"""


class NotebookError(ValueError):
    """Base of every error this package raises on purpose."""


class ParameterError(NotebookError):
    """One or more notebook parameters are wrong; the message lists all of them."""


class DataError(NotebookError):
    """A dataset is missing, empty, malformed or of an unknown shape.

    `reason` is the kind of fault in a few words, by which dropped rows are counted.
    """

    def __init__(self, message: str, reason: str = "broken"):
        super().__init__(message)
        self.reason = reason


class ModelError(NotebookError):
    """A model or tokenizer cannot be fetched, loaded or used as asked."""


class AuditError(NotebookError):
    """A silent mistake was found; going on would have produced a model that looks trained and is not."""


class DivergedError(NotebookError):
    """A training broke: its loss, or the norm of its gradient, is not finite."""


class ResourceError(NotebookError):
    """Not enough memory, disk or time for what was asked."""


class StoppedError(NotebookError):
    """SIGTERM came while a model was trained. Its newest step is saved; `resume` goes on from there."""
