"""What answers cost: on a GPU of one's own, or by the token."""

import math
from dataclasses import dataclass

from nbhelpers.core.errors import ParameterError
from nbhelpers.cost import prices
from nbhelpers.cost.ownership import HOURS_PER_MONTH
from nbhelpers.cost.prices import table
from nbhelpers.cost.project import not_negative, positive


@dataclass(frozen=True)
class ApiPrice:
    """One row of data/api_prices.csv: dollars a million tokens. `tuned`: of a model that was fine-tuned there."""

    provider: str
    model: str
    input_per_million: float
    cached_input_per_million: float
    output_per_million: float
    tuned: bool
    source: str
    date: str

    def dollars(self, input_tokens: float, output_tokens: float, cached_input_tokens: float = 0) -> float:
        """Price of a use. Cached tokens are a part of the input and reasoning tokens of the output: not added again.

        Raises:
            ParameterError: a negative number, or more cached tokens than input.
        """
        not_negative(input_tokens=input_tokens, output_tokens=output_tokens, cached_input_tokens=cached_input_tokens)
        if cached_input_tokens > input_tokens:
            raise ParameterError(
                f"cached_input_tokens={cached_input_tokens:g} is more than input_tokens={input_tokens:g}, of which it "
                "is a part."
            )
        fresh = input_tokens - cached_input_tokens
        return (
            fresh * self.input_per_million
            + cached_input_tokens * self.cached_input_per_million
            + output_tokens * self.output_per_million
        ) / 1e6


def api_prices(path=None) -> dict[str, ApiPrice]:
    """The table by model. Raises NotebookError or ParameterError as `prices.table`."""
    numbers = ("input_per_million", "cached_input_per_million", "output_per_million")
    return {
        row["model"]: ApiPrice(**(row | {"tuned": row["tuned"] == "1"}))
        for row in table("api_prices", *numbers, path=path)
    }


def api_price(model: str, path=None) -> ApiPrice:
    """One model by its name in data/api_prices.csv. Raises ParameterError that lists those that are known."""
    known = api_prices(path)
    if model not in known:
        raise ParameterError(f"api={model!r} is not in data/api_prices.csv; it has {', '.join(known)}.")
    return known[model]


@dataclass(frozen=True)
class Way:
    """One way to answer: dollars a month of a machine that is paid all day, and dollars a million answer tokens."""

    fixed: float
    per_million: float
    tokens_per_second: float = math.inf

    def per_month(self, million_tokens: float) -> float:
        """Dollars a month: as many machines as the tokens need, each paid whole, and what is paid by use."""
        not_negative(million_tokens=million_tokens)
        busy = million_tokens * 1e6 / self.tokens_per_second / 3600
        machines = max(1, math.ceil(busy / HOURS_PER_MONTH)) if self.fixed else 0
        return machines * self.fixed + self.per_million * million_tokens


def ways(gpu: str, tokens_per_second: float, api: str, input_ratio: float = 0.0, path=None) -> dict[str, Way]:
    """How a month of answers can be paid: each kind of machine with this GPU, and an API by the token.

    Args:
        tokens_per_second: of answers, of a machine under load, prompts included in its time.
        api: a model of data/api_prices.csv.
        input_ratio: tokens of a prompt for each token of an answer, which an API bills too.
        path: another price table, as `prices.prices`.

    Raises:
        ParameterError: an unknown model, no offer of this GPU, or a rate that is not above 0.
    """
    positive(tokens_per_second=tokens_per_second)
    not_negative(input_ratio=input_ratio)
    found = {}
    for offer in prices.offers(path):
        if offer.gpu == gpu and offer.gpus == 1 and f"{gpu}, {offer.kind}" not in found:  # the cheapest of a kind
            by_use = offer.dollars_per_hour / 3600 / tokens_per_second * 1e6
            active = Way(offer.dollars_per_hour * HOURS_PER_MONTH, 0.0, tokens_per_second)
            found[f"{gpu}, {offer.kind}"] = active if offer.kind == "active" else Way(0.0, by_use, tokens_per_second)
    if not found:
        raise ParameterError(f"gpu={gpu!r}: the price table has no offer of one.")
    bought = api_price(api)
    return found | {api: Way(0.0, bought.output_per_million + input_ratio * bought.input_per_million)}


def self_hosted(dollars_per_hour: float, tokens_per_second: float, utilisation: float = 1.0) -> float:
    """Dollars a million tokens of a machine that is paid all the time and busy for a share of it.

    Raises:
        ParameterError: a price or rate that is not above 0, or a utilisation above 1.
    """
    positive(dollars_per_hour=dollars_per_hour, tokens_per_second=tokens_per_second, utilisation=utilisation)
    if utilisation > 1:
        raise ParameterError(f"utilisation={utilisation:g}: at most 1.")
    return dollars_per_hour / 3600 / tokens_per_second / utilisation * 1e6


def break_even_tokens(dollars_per_month: float, dollars_per_million: float) -> float:
    """Tokens a month from which a machine at a fixed price is cheaper than paying by the token."""
    positive(dollars_per_month=dollars_per_month, dollars_per_million=dollars_per_million)
    return dollars_per_month / dollars_per_million * 1e6


def break_even_utilisation(active_per_hour: float, flex_per_hour: float) -> float:
    """Share of the day from which a worker that always runs is cheaper than one that is billed while it works.

    Raises:
        ParameterError: a price that is not above 0.
    """
    positive(active_per_hour=active_per_hour, flex_per_hour=flex_per_hour)
    return active_per_hour / flex_per_hour
