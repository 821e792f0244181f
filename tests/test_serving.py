"""A server reads what was saved as it was trained. vLLM wants an environment of its own, so that this runs where asked:

VLLM=/path/to/bin/vllm make test ARGS="-m slow tests/test_serving.py"
"""

import os
import socket
import subprocess
import time

import httpx
import pytest
import torch
from peft import LoraConfig, get_peft_model

from nbhelpers import evaluation, models, templates

MODEL, ASKED = "smollm2-135m", ["Why does ice float?", "Say hello in capital letters.", "Name a colour."]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """`(model, tokenizer, folder)` of an adapter that changes what is written."""
    model, tokenizer = models.load(MODEL, "float32")
    torch.manual_seed(0)
    tuned = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")).eval()
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    folder = tmp_path_factory.mktemp("sft_adapter")
    models.save_adapter(tuned, tokenizer, folder)
    return tuned, tokenizer, folder


@pytest.fixture(scope="module")
def server(saved):
    """The address of vLLM, started by the line that notebook 04 gives."""
    if not os.environ.get("VLLM"):
        pytest.skip("VLLM names no executable")
    base, folder = models.fetch(MODEL), saved[-1]
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
            for _ in range(600):
                assert process.poll() is None, log.read_text()[-3000:]
                try:
                    httpx.get(address + "/health")
                    break
                except httpx.ConnectError:
                    time.sleep(1)
            yield address
        finally:
            process.terminate()


@pytest.mark.slow
def test_a_server_reads_the_prompt_and_writes_the_answer_of_the_model_that_was_saved(saved, server):
    tuned, tokenizer, _ = saved
    prompts = [[{"role": "user", "content": text}] for text in ASKED]
    expected = evaluation.generate(tuned, tokenizer, prompts, max_new_tokens=32)
    with tuned.disable_adapter():
        untuned = evaluation.generate(tuned, tokenizer, prompts, max_new_tokens=32)
    assert [answer.text for answer in expected] != [answer.text for answer in untuned]
    for messages, answer in zip(prompts, expected, strict=True):
        asked = {"model": "tuned", "messages": messages, "temperature": 0, "max_tokens": 32}
        found = httpx.post(server + "/v1/chat/completions", json=asked, timeout=300).raise_for_status().json()
        read = tokenizer(templates.render(messages, tokenizer, True), add_special_tokens=False)["input_ids"]
        assert found["usage"]["prompt_tokens"] == len(read)
        assert found["choices"][0]["message"]["content"] == answer.text
        assert found["choices"][0]["finish_reason"] == ("stop" if answer.stopped else "length")
