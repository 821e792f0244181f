"""Rows of a data set on the Hub, and what the errors of its client mean."""

import re

from nbhelpers.core.errors import DataError


def read_hub(name: str, limit: int) -> list[dict]:
    """The first `limit` rows of a Hub set `org/name[:config][@revision][#split]`, streamed.

    Raises DataError where the Hub cannot be reached, the set does not exist or is closed to you, naming the remedy.
    """
    import datasets
    import huggingface_hub

    repository, config, revision, split = re.fullmatch(
        r"([^:@#]+)(?::([^@#]+))?(?:@([^#]+))?(?:#(\w+))?", name
    ).groups()
    try:
        huggingface_hub.HfApi().dataset_info(repository, revision=revision)  # fails at once and says why
        stream = datasets.load_dataset(repository, config, split=split or "train", revision=revision, streaming=True)
        return list(stream.take(limit))
    except Exception as error:  # every kind the Hub client raises is a plain fact to the user
        raise DataError(f"{name}: {explain_hub_error(error, 'data set')}") from error


def explain_hub_error(error: BaseException, what: str) -> str:
    """One sentence for an error of the Hub client, naming the remedy. `what` is `model` or `data set`."""
    chain, seen = [], error
    while seen is not None and seen not in chain:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    kinds = {kind.__name__ for e in chain for kind in type(e).__mro__}
    status = next((s for e in chain if (s := getattr(getattr(e, "response", None), "status_code", None))), None)
    if "GatedRepoError" in kinds or status == 403 or "is a gated dataset" in str(error):
        return (
            f"the {what} is gated (403). Ask for access on its page, then set HF_TOKEN to a token of the account "
            "that was granted it."
        )
    if status == 401:
        return (
            f"the {what} does not exist, or is private and no valid token was given (401). Check the spelling; for a "
            "private one set HF_TOKEN (on Colab: a secret of that name)."
        )
    if "RepositoryNotFoundError" in kinds or "DatasetNotFoundError" in kinds or status == 404:
        return (
            f"there is no such {what} or revision on the Hub (404), or it is private. Check the spelling; for a "
            "private one set HF_TOKEN to a token of an account that may read it."
        )
    if kinds & {"TransportError", "ConnectionError", "LocalEntryNotFoundError"}:
        local = "the embedded smollm2-135m" if what == "model" else "the embedded pydocs"
        return (
            f"the Hub cannot be reached and this {what} is not in the cache. Go online, or use a local path or {local}."
        )
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
