"""What a hosted service would ask for training on a data set."""

from dataclasses import dataclass

from nbhelpers.core.errors import ParameterError
from nbhelpers.cost import prices
from nbhelpers.data import conversion


@dataclass(frozen=True)
class TrainingPrice:
    """One row of data/finetuning_prices.csv."""

    provider: str
    model: str
    dollars_per_million_training_tokens: float
    source: str
    date: str


def finetuning_prices() -> dict[str, TrainingPrice]:
    """Published prices by model. Raises NotebookError where data/finetuning_prices.csv is not there."""
    rows = prices.table("finetuning_prices", "dollars_per_million_training_tokens")
    return {row["model"]: TrainingPrice(**row) for row in rows}


@dataclass(frozen=True)
class Estimate:
    """`tokens` of one epoch and the `dollars` of all; `warning` is empty, or says why OpenAI would not take the set."""

    tokens: int
    dollars: float
    warning: str


def openai_price(rows, tokenizer, epochs: int, dollars_per_million: float) -> Estimate:
    """What OpenAI would ask for training on these conversations: tokens x epochs x price.

    An estimate: the tokens are those of `tokenizer`, not of OpenAI's own, whose count is the one that is billed.
    Around the contents stand 4 tokens a turn and 3 a row, as OpenAI's cookbook counts chat messages. Since 2026 the
    fine-tuning platform takes no new users (developers.openai.com/api/docs/guides/direct-preference-optimization).

    Rows that OpenAI's shape cannot hold are not priced; the warning counts them.

    Raises ParameterError: epochs below 1, or a negative price.
    """
    if epochs < 1 or dollars_per_million < 0:
        raise ParameterError(
            f"epochs={epochs!r} and dollars_per_million={dollars_per_million!r}: at least 1 epoch and 0 dollars."
        )
    converted = conversion.convert(rows, "openai")
    contents = [[turn["content"] for turn in row["messages"]] for row in converted.rows]
    tokens = sum(3 + sum(4 + len(ids) for ids in tokenizer(c, add_special_tokens=False)["input_ids"]) for c in contents)
    refused = ", ".join(f"{count} rows not priced ({reason})" for reason, count in converted.refused.items())
    warning = "; ".join(filter(None, (refused, converted.warning)))
    return Estimate(tokens, tokens * epochs * dollars_per_million / 1e6, warning)
