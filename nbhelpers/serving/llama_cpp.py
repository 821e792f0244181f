"""llama.cpp's server on a GGUF file: `python -m nbhelpers.serving.llama_cpp FILE PORT`, from the package `xllamacpp`.

Where `llama-server` is installed, that one is taken.
"""

import json
import shutil
import statistics
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

from nbhelpers.serving.server import HOST


def command(file: Path, threads: int, context: int = 2048, parallel: int = 4) -> Callable[[int], list[str]]:
    """`port -> command` that serves a GGUF file with so many `parallel` answers of `context` tokens each."""
    if program := shutil.which("llama-server"):
        options = ["--threads", str(threads), "--ctx-size", str(context * parallel), "--parallel", str(parallel)]
        return lambda port: [program, "--model", str(file), "--host", HOST, "--port", str(port), *options]
    numbers = [str(number) for number in (threads, context, parallel)]
    return lambda port: [sys.executable, "-m", __name__, str(file), str(port), *numbers]


def complete(url: str, prompt: list[int], tokens: int, **extra) -> dict:
    """`{"tokens", "prefill", "decode"}`: a greedy answer to a prompt of token ids, and its speeds in tokens per second.

    The speeds are the server's own; nothing of an earlier prompt is taken from its cache.

    Args:
        extra: further fields of the request, such as `ignore_eos`.
    """
    body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "return_tokens": True, "cache_prompt": False}
    answer = _post(f"{url}/completion", body | extra)
    timings = answer["timings"]
    speeds = {"prefill": timings["prompt_per_second"], "decode": timings["predicted_per_second"]}
    return {"tokens": answer["tokens"]} | speeds


def answers(url: str, prompts: list[list[int]], tokens: int, **extra) -> tuple[list[list[int]], dict[str, float]]:
    """Greedy answers of at most `tokens` tokens, one after the other, and the median speeds in tokens per second."""
    found = [complete(url, prompt, tokens, **extra) for prompt in prompts]
    speeds = {f"{what} tokens/s": statistics.median(x[what] for x in found) for what in ("prefill", "decode")}
    return [x["tokens"] for x in found], speeds


def tokenize(url: str, text: str) -> list[int]:
    """A text as llama.cpp cuts it, the signs of the chat template as the tokens that they are."""
    return _post(f"{url}/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]


def _post(url: str, body: dict) -> dict:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


def main(file: str, port: int, threads: int, context: int, parallel: int) -> None:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = file
    parameters.hostnames, parameters.port = [HOST], port
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.n_ctx, parameters.n_parallel = context * parallel, parallel
    parameters.use_jinja, parameters.warmup = True, True
    server = xllamacpp.Server(parameters)
    print("listening on", server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
