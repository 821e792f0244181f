"""How fast are answers for an evaluation: one by one, in batches as they come, and as `generation.generate` does it?

SmolLM2-135M-Instruct answers held-out `pydocs` questions greedily, at most 48 tokens each, as the notebooks ask, with
the KV cache and a stop at the end token everywhere. Tokens a second count what was written up to the end of each
answer. Texts are compared with those of one by one: in float32 they must be the same to the letter. All ways run in one
process, whose C library keeps the pages of freed tensors (`memory_usage.keep_pages`); that helps one by one as well.

- one by one: `model.generate` on each prompt.
- batches: of 50 prompts in the order they come, padded on the left.
- nbhelpers: `generation.generate`: what all prompts begin with is computed once, rows that have stopped are left out.
- sampled: the latter two at temperature 1 from the likeliest tokens that hold 0.9; their texts are not compared.
"""

import time
from functools import partial

import common
import torch

from nbhelpers.core import hardware
from nbhelpers.data import sources
from nbhelpers.evaluation import generation
from nbhelpers.models import encoding, loading, templates

MODEL, PROMPTS, NEW_TOKENS, BATCH = "smollm2-135m", 50, 48, 50


def main() -> None:
    options = common.parser(__doc__).parse_args()
    facts = common.machine()
    model, tokenizer = loading.load(MODEL, "float32", hardware.detect().device)
    held_out = sources.balanced(sources.load("pydocs", seed=0).test, ["summary"], 20 * PROMPTS, 0)
    encoded = encoding.encode_rows(held_out, tokenizer, 256).dataset
    stops = sorted(encoding.stop_token_ids(tokenizer, model))
    texts: dict[str, list[str]] = {}

    def prompts_of(number: int) -> list[list[dict]]:
        rows = encoded.shuffle(seed=number).select(range(PROMPTS))
        return [row["messages"][:-1] for row in rows]

    def padded(prompts: list[list[dict]], **sampling) -> list[generation.Answer]:
        rendered = [templates.render(messages, tokenizer, add_generation_prompt=True) for messages in prompts]
        ids = tokenizer(rendered, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
        options = {"max_new_tokens": NEW_TOKENS, "eos_token_id": stops, "pad_token_id": tokenizer.pad_token_id}
        with torch.inference_mode():
            output = model.generate(**ids.to(model.device), **options, **(sampling or {"do_sample": False}))
        written = output[:, ids["input_ids"].shape[1] :].tolist()
        ends = [next((k for k, token in enumerate(row) if token in stops), None) for row in written]
        return [
            generation.Answer(
                tokenizer.decode(row[:end], skip_special_tokens=True), len(row) if end is None else end + 1, True
            )
            for row, end in zip(written, ends, strict=True)
        ]

    def timed(name: str, answer):
        def measure(number: int) -> dict[str, float]:
            prompts = prompts_of(number)
            start = time.perf_counter()
            answers = answer(prompts)
            seconds = time.perf_counter() - start
            texts[name] = texts.get(name, []) + [one.text for one in answers]
            return {"tokens_per_second": sum(one.tokens for one in answers) / seconds, "seconds": seconds}

        return measure

    ours = partial(generation.generate, model, tokenizer, max_new_tokens=NEW_TOKENS, batch_size=BATCH)
    ways = {
        "one by one": lambda prompts: [padded([prompt])[0] for prompt in prompts],
        "batches": padded,
        "nbhelpers": ours,
        "batches, sampled": partial(padded, do_sample=True, temperature=1.0, top_p=0.9, top_k=0),
        "nbhelpers, sampled": partial(ours, temperature=1.0),
    }
    figures = common.interleave({name: timed(name, answer) for name, answer in ways.items()}, options.rounds)
    results, lines = {}, []
    for name in ways:
        speed = common.spread(figures[name]["tokens_per_second"])
        over = common.ratio(figures, "seconds", "one by one", name)
        same = None if "sampled" in name else sum(map(str.__eq__, texts[name], texts["one by one"]))
        results[name] = {"tokens_per_second": speed, "faster_than_one_by_one": over, "same_text": same,
                         "prompts": len(texts[name])}  # fmt: skip
        lines.append({"answers": name, "tokens/s": f"{speed['median']:.0f} [{speed['low']:.0f}, {speed['high']:.0f}]",
                      "times one by one": f"{over['median']:.1f} [{over['low']:.1f}, {over['high']:.1f}]",
                      "same text": "" if same is None else f"{same} of {len(texts[name])}"})  # fmt: skip
    print(f"\n{common.table(lines)}")
    common.write("generation", options.output, facts, results)


if __name__ == "__main__":
    main()
