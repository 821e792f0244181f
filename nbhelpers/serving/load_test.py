"""Many requests at once to an OpenAI-compatible server, through the official client, and what each of them took.

Requests are streamed. Tokens are counted by the server's own usage; where it sends none they are counted with the
tokenizer, and the result says so. A request that fails is counted and enters no percentile; those that warm up enter
nothing at all.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from nbhelpers.core.errors import ParameterError
from nbhelpers.cost import prices

WARM_UP = 2  # requests that are not counted


@dataclass(frozen=True)
class Request:
    """One request. Times are seconds from its planned start; `first_token` is None where no token came."""

    seconds: float
    first_token: float | None
    tokens: int
    prompt_tokens: int
    text: str
    gaps: tuple[float, ...] = ()
    estimated: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Load:
    """All requests at one concurrency, and the wall time from the first start to the last end."""

    concurrency: int
    seconds: float
    requests: list[Request] = field(default_factory=list)

    @property
    def done(self) -> list[Request]:
        return [request for request in self.requests if request.error is None]

    @property
    def errors(self) -> int:
        return len(self.requests) - len(self.done)

    @property
    def tokens_per_second(self) -> float:
        return sum(request.tokens for request in self.done) / self.seconds

    @property
    def requests_per_second(self) -> float:
        return len(self.done) / self.seconds


def percentile(values: Sequence[float], share: float) -> float | None:
    """An observed value that `share` of them do not exceed; None where there are too few to have seen it.

    The p99 of ten requests would be a guess: at least 1 / (1 - share) values are needed.
    """
    if len(values) < round(1 / (1 - share)):
        return None
    return float(sorted(values)[math.ceil(share * len(values)) - 1])


def run(
    url: str, model: str, prompts: list[list[dict]], concurrency: int, max_tokens: int, tokenizer=None,
    key: str = "none", seconds: float = 120.0, extra: dict | None = None,
) -> Load:  # fmt: skip
    """Send every prompt once, `concurrency` at a time, greedy.

    Args:
        url: of the server, without `/v1`.
        model: as the server names it.
        prompts: lists of messages; the first `WARM_UP` are sent before as well, and not counted.
        max_tokens: of an answer.
        tokenizer: to count tokens where the server sends no usage.
        key: of the server's API.
        seconds: without a word from the server, after which a request counts as failed.
        extra: fields of this server alone, such as `{"cache_prompt": False}` of llama.cpp.

    Raises:
        ParameterError: no prompts, or a concurrency below 1.
    """
    if not prompts or concurrency < 1:
        raise ParameterError(f"{len(prompts)} prompts at concurrency={concurrency}: at least one of each is needed.")
    work = _run(url, model, prompts, concurrency, max_tokens, tokenizer, key, seconds, extra)
    with ThreadPoolExecutor(1) as thread:  # a notebook has a loop of its own in this one
        return thread.submit(asyncio.run, work).result()


async def _run(url, model, prompts, concurrency, max_tokens, tokenizer, key, seconds, extra) -> Load:
    import httpx
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    # A connection for each request, as clients of their own have: one that a server closes just as it is used again
    # would count as a failure of the server.
    http = DefaultAsyncHttpxClient(limits=httpx.Limits(max_keepalive_connections=0))
    options = {"timeout": seconds, "max_retries": 0, "http_client": http}
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key=key, **options) as client:
        gate = asyncio.Semaphore(concurrency)

        async def one(messages) -> Request:
            async with gate:
                return await _request(client, model, messages, max_tokens, tokenizer, extra)

        for messages in prompts[:WARM_UP]:
            await one(messages)
        started = time.perf_counter()
        requests = await asyncio.gather(*map(one, prompts))
        return Load(concurrency, time.perf_counter() - started, requests)


async def _request(client, model: str, messages: list[dict], max_tokens: int, tokenizer, extra) -> Request:
    from openai import OpenAIError

    started, arrivals, parts, usage, finished = time.perf_counter(), [], [], None, False
    try:
        stream = await client.chat.completions.create(
            model=model, messages=messages, max_tokens=max_tokens, temperature=0.0, stream=True,
            stream_options={"include_usage": True}, extra_body=extra,
        )  # fmt: skip
        async for chunk in stream:
            usage = chunk.usage or usage
            choice = chunk.choices[0] if chunk.choices else None  # the last chunk may have none
            finished |= choice is not None and choice.finish_reason is not None
            text = choice.delta.content if choice else None
            if text:
                arrivals.append(time.perf_counter() - started)
                parts.append(text)
    except OpenAIError as error:
        seconds = time.perf_counter() - started
        return Request(seconds, None, 0, 0, "", error=f"{type(error).__name__}: {str(error)[:200]}")
    if not finished:  # a server that was killed may look like one that has said all
        return Request(time.perf_counter() - started, None, 0, 0, "", error="the stream broke off")
    text, seconds = "".join(parts), time.perf_counter() - started
    if usage is not None and usage.completion_tokens > max_tokens:
        return Request(seconds, None, 0, 0, "", error=f"{usage.completion_tokens} tokens: max_tokens was ignored")
    gaps = tuple(float(gap) for gap in np.diff(arrivals))
    first = arrivals[0] if arrivals else None
    if usage is not None:
        return Request(seconds, first, usage.completion_tokens, usage.prompt_tokens, text, gaps)
    counted = len(tokenizer(text, add_special_tokens=False)["input_ids"]) if tokenizer else 0
    return Request(seconds, first, counted, 0, text, gaps, estimated=True)


def table(loads: list[Load], dollars_per_hour: float | None = None):
    """A `pandas.DataFrame`, a row for each concurrency: the 50th, 95th and 99th percentile of what a client waits for.

    A percentile that too few values could show is blank, and left out where no concurrency has enough of them.

    Args:
        dollars_per_hour: of the machine, for the price of a million tokens of answers; None: left out.
    """
    import pandas as pd

    def shown(values: Sequence[float], share: float) -> str:
        found = percentile(values, share)
        return "" if found is None else f"{found:.2f}"

    rows = {}
    for load in loads:
        firsts = [request.first_token for request in load.done if request.first_token is not None]
        gaps = [gap for request in load.done for gap in request.gaps]
        times = [request.seconds for request in load.done]
        rows[load.concurrency] = {
            "requests": len(load.requests), "errors": load.errors,
            **{f"{name} p{round(100 * share)} (s)": shown(values, share)
               for name, values in {"first token": firsts, "between chunks": gaps, "request": times}.items()
               for share in (0.5, 0.95, 0.99)},
            "slowest (s)": f"{max(times):.2f}" if times else "",
            "requests/s": f"{load.requests_per_second:.2f}", "tokens/s": f"{load.tokens_per_second:.1f}",
            "tokens are": "estimated" if any(request.estimated for request in load.done) else "the server's count",
        }  # fmt: skip
        if dollars_per_hour is not None and load.tokens_per_second:
            price = prices.dollars(1e6 / load.tokens_per_second, dollars_per_hour)
            rows[load.concurrency]["dollars per million tokens"] = f"{price:.2f}"
    found = pd.DataFrame.from_dict(rows, orient="index").rename_axis("at once")
    unseen = [name for name in found.columns if " p9" in name and (found[name] == "").all()]
    return found.drop(columns=unseen)
