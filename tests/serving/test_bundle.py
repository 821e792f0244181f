"""Bundles: what is refused, what lies in them, and the Hub that they are sent to."""

import json
import subprocess

import pytest
from hub import Client, Hub

from nbhelpers.core.errors import AuditError, ModelError
from nbhelpers.core.statistics import Metric
from nbhelpers.core.storage import read_json, write_json
from nbhelpers.models import loading, saving
from nbhelpers.serving import bundle

SHAPE = {
    "max_position_embeddings": 2048, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576,
    "num_hidden_layers": 30,
}  # fmt: skip
CARD = bundle.Card("org/base", "apache-2.0", "Rows of a test", limits=("A test.",))
CARD.measured({"summary.rouge_l": Metric(0.5, 0.4, 0.6, 20)})


@pytest.fixture
def saved(model, tokenizer, tmp_path):
    saving.save(model, tokenizer, tmp_path / "model")
    return tmp_path / "model"


def written(saved):
    flags = bundle.vllm_flags(read_json(saved / "config.json"), 10, "float32", 512, 4)
    return bundle.write(saved, saved.parent / "bundle", "tuned", flags, CARD)


def test_a_bundle_is_the_model_with_all_that_serves_it(saved):
    folder = written(saved)
    assert {"README.md", "Dockerfile", "compose.yaml", bundle.SUMS, "chat_template.jinja"} <= {
        path.name for path in folder.iterdir()
    }
    assert bundle.verify(folder) == []
    assert subprocess.run(["sha256sum", "-c", "--quiet", bundle.SUMS], cwd=folder).returncode == 0
    card = (folder / "README.md").read_text()
    for part in ("license: apache-2.0", "base_model: org/base", "--max-model-len 512", "0.50 [0.40, 0.60]", "A test."):
        assert part in card
    import yaml

    service = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["model"]
    assert service["command"][:4] == ["--model", "/model", "--served-model-name", "tuned"]
    assert "--max-num-seqs" in service["command"]
    command = (folder / "Dockerfile").read_text().split("CMD ")[1]
    assert json.loads(command)[-6:] == service["command"][-6:]
    model, _ = loading.load(str(folder), "float32")
    assert model.config.vocab_size == 2048


def test_the_card_says_how_the_adapter_was_trained(tmp_path):
    write_json(tmp_path / "adapter_config.json", {"peft_type": "LORA", "r": 16, "target_modules": ["q_proj"]})
    card = bundle.Card("org/base", "mit", "Rows")
    card.describe_adapter(tmp_path, "int8")
    assert card.method == "A LoRA adapter, merged into its base and stored as int8."
    assert card.parameters == {"r": "16", "target_modules": "['q_proj']"}


def test_a_changed_or_missing_file_is_named(saved):
    folder = written(saved)
    (folder / "config.json").write_text("{}")
    (folder / "README.md").unlink()
    assert sorted(bundle.verify(folder)) == ["README.md", "config.json"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "extra.pkl", "modeling.py", "deep.er/x.joblib"])
def test_what_can_run_code_is_not_bundled(saved, name):
    (saved / name).parent.mkdir(exist_ok=True)
    (saved / name).write_bytes(b"x")
    with pytest.raises(AuditError, match=f"{name} can run code"):
        written(saved)
    assert not (saved.parent / "bundle").exists()


def test_every_fault_is_named_at_once(saved):
    (saved / "chat_template.jinja").unlink()
    (saved / "model.safetensors").unlink()
    with pytest.raises(AuditError, match=r"(?s)no chat template.*no weights"):
        written(saved)


def test_an_end_that_is_not_the_templates_is_refused(saved):
    write_json(saved / "generation_config.json", {"eos_token_id": 0})
    with pytest.raises(AuditError, match=r"ends answers at \[0\], the template at 2 \('<\|im_end\|>'\)"):
        written(saved)


def test_the_template_is_written_where_older_servers_read_it(saved, tokenizer):
    from transformers import AutoTokenizer

    bundle.with_template_inside(saved)
    (saved / "chat_template.jinja").unlink()
    assert AutoTokenizer.from_pretrained(saved).chat_template == tokenizer.chat_template


def test_flags_follow_from_the_shape_and_the_machine():
    flags = {x.name: x.value for x in bundle.vllm_flags(SHAPE, 269_030_016, "bfloat16", 2048, 8, 4, 24 * 2**30)}
    assert flags["--tensor-parallel-size"] == "3"  # nine heads on four GPUs
    cache = 2 * 30 * 3 * 64 * 2 * 2048 * 8
    share = ((269_030_016 + cache) / 3 + 2 * 2**30) / (24 * 2**30)
    assert float(flags["--gpu-memory-utilization"]) == pytest.approx(share + 0.05, abs=0.01)
    qwen = SHAPE | {"num_attention_heads": 28, "num_key_value_heads": 4, "hidden_size": 3584}
    flags = {x.name: x.value for x in bundle.vllm_flags(qwen, 15 * 2**30, "bfloat16", 2048, 8, 8, 24 * 2**30)}
    assert flags["--tensor-parallel-size"] == "4"  # seven divide the heads, and not the keys and values
    assert "--tensor-parallel-size" not in {x.name for x in bundle.vllm_flags(SHAPE, 1, "float32", 2048, 8)}


def test_what_does_not_fit_is_refused():
    with pytest.raises(ModelError, match="max_length=4096 is above the model's 2048 positions"):
        bundle.vllm_flags(SHAPE, 1, "float32", 4096, 8)
    with pytest.raises(ModelError, match=r"need 2\d\.\d GiB on each of 1 GPUs, of which 16\.0 GiB"):
        bundle.vllm_flags(SHAPE, 20 * 2**30, "bfloat16", 2048, 8, 1, 16 * 2**30)


def test_a_bundle_is_sent_to_the_hub_and_the_token_is_never_shown(saved, tmp_path):
    folder = written(saved)
    (tmp_path / "hub").mkdir()
    call = f"__import__('nbhelpers.serving.bundle').serving.bundle.push({str(folder)!r}, 'org/tuned')"
    with Hub(tmp_path / "hub", tokens={"hf_secret"}) as hub, Client(tmp_path / "client", hub.endpoint) as client:
        assert client.value(call, token="hf_secret").startswith(hub.endpoint)
        sent = hub.folder / "models" / "org" / "tuned"
        assert {path.name for path in folder.iterdir()} <= {path.name for path in sent.iterdir()}
        assert bundle.verify(sent) == []
        assert "org/tuned" in hub.private
        refused = client.refusal(call, token="hf_wrong")
        assert refused["error"] == "ModelError"
        (folder / "config.json").write_text("{}")
        changed = client.refusal(call, token="hf_secret")
        assert "Changed since the bundle was written: config.json" in changed["message"]
        shown = [part for answer in (refused, changed) for part in answer.values()]
        assert not any(token in part for part in shown for token in ("hf_secret", "hf_wrong"))
    assert "hf_secret" not in client.output.read_text()
