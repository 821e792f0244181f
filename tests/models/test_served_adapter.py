"""A server reads what was saved as it was trained. vLLM wants an environment of its own, so that this runs where asked:

VLLM=/path/to/bin/vllm make test ARGS="-m slow tests/models/test_served_adapter.py"
"""

import os
import socket
import subprocess
import time

import httpx
import pytest
import torch
from peft import LoraConfig, get_peft_model

from nbhelpers.models import loading, saving, templates

MODEL, ASKED = "smollm2-135m", ["Why does ice float?", "Say hello in capital letters.", "Name a colour."]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """`(model, tokenizer, folder)` of an adapter that changes what is written."""
    model, tokenizer = loading.load(MODEL, "float32")
    torch.manual_seed(0)
    tuned = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")).eval()
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    folder = tmp_path_factory.mktemp("sft_adapter")
    saving.save_adapter(tuned, tokenizer, folder)
    return tuned, tokenizer, folder


@pytest.fixture(scope="module")
def server(saved):
    """The address of vLLM, started by the line that notebook 04 gives."""
    base, folder = loading.fetch(MODEL), saved[-1]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = (
        f"serve {base} --tokenizer {folder} --generation-config {folder} --enable-lora --lora-modules tuned={folder}"
    )
    small = f"--dtype float32 --max-model-len 512 --enforce-eager --host 127.0.0.1 --port {port}"
    settings = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    address, log = f"http://127.0.0.1:{port}", folder.parent / "vllm.log"
    with (
        open(log, "wb") as written,
        subprocess.Popen(
            [os.environ["VLLM"], *command.split(), *small.split()],
            env=os.environ | settings, stdout=written, stderr=written,
        ) as process,
    ):  # fmt: skip
        try:
            while not answers(address + "/health"):
                assert process.poll() is None, log.read_text()[-3000:]
                time.sleep(1)
            yield address
        finally:
            process.terminate()


def answers(address) -> bool:
    try:
        return httpx.get(address).is_success
    except httpx.TransportError:
        return False


@pytest.mark.slow
@pytest.mark.skipif("VLLM" not in os.environ, reason="VLLM names no executable")
def test_a_server_reads_the_prompt_and_predicts_what_the_model_did_that_was_saved(saved, server):
    tuned, tokenizer, _ = saved
    for text in ASKED:
        messages = [{"role": "user", "content": text}]
        read = tokenizer(templates.render(messages, tokenizer, True), add_special_tokens=False, return_tensors="pt")
        expected = saving.logits(tuned, read["input_ids"])[0, -1].log_softmax(-1)
        with tuned.disable_adapter():
            untuned = saving.logits(tuned, read["input_ids"])[0, -1].log_softmax(-1)
        asked = {"model": "tuned", "messages": messages, "max_tokens": 1, "logprobs": True, "top_logprobs": 5}
        asked |= {"return_tokens_as_token_ids": True}
        answer = httpx.post(server + "/v1/chat/completions", json=asked, timeout=300).raise_for_status().json()
        assert answer["usage"]["prompt_tokens"] == read["input_ids"].shape[1]
        likely = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        ids = [int(token["token"].removeprefix("token_id:")) for token in likely]
        found = torch.tensor([token["logprob"] for token in likely])
        assert saving.largest_difference(found, expected[ids]) < 0.01
        assert saving.largest_difference(found, untuned[ids]) > 0.1
