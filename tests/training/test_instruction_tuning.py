"""The adapter of notebook 04 is made once for a run: found by what it was made from, else trained."""

import json

import datasets
import pytest

from nbhelpers.core.run import Run
from nbhelpers.data import sources
from nbhelpers.models import audits, loading
from nbhelpers.training import instruction_tuning as tuning
from nbhelpers.training import sft


def start(tmp_path, notebook, **values):
    values = {"profile": "smoke", "run_id": "default", "output_dir": str(tmp_path), "seed": 0} | values
    return Run.start(notebook, values | {"resume": "auto", "report_to": "none", "force": False})


def test_it_is_trained_where_there_is_none_and_found_by_the_next(tmp_path, monkeypatch, capsys):
    first = start(tmp_path, "05_first")
    folder = tuning.sft_adapter(first)
    assert (folder / "adapter_model.safetensors").exists()
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert "trained here" in capsys.readouterr().out
    first.finish({})
    monkeypatch.setattr(sft, "train", lambda *_: pytest.fail("it was trained once more"))
    second = start(tmp_path, "06_second")
    second.note(data_hash="of rows of its own")
    assert tuning.sft_adapter(second) == folder
    assert "found in 05_first" in capsys.readouterr().out
    with pytest.raises(pytest.fail.Exception, match="once more"):
        tuning.sft_adapter(start(tmp_path, "06_second", seed=1))


def test_what_notebook_04_makes_by_default_is_what_is_looked_for(tmp_path, monkeypatch):
    maker = start(tmp_path, "04_instruction_tuning")
    maker = maker.having(max_steps=tuning.steps(maker.profile))
    made_from = tuning.inputs(maker, sources.load("pydocs"), list(tuning.TASKS))
    path = maker.artifact("sft_adapter", inputs=made_from)
    path.mkdir()
    maker.finish({})
    monkeypatch.setattr(sft, "train", lambda *_: pytest.fail("it was trained once more"))
    assert tuning.sft_adapter(start(tmp_path, "05_seeks")) == path


def test_a_mixture_has_its_shares_and_passes_the_audits(tmp_path):
    run = start(tmp_path, "04_instruction_tuning")
    model, tokenizer = loading.load("smoke", "float32")
    requests = tuning.brief_requests(model, tokenizer, 0)
    assert len(requests) <= tuning.BRIEFEST
    pools = tuning.pools(run, sources.load("pydocs"), list(tuning.TASKS), requests, tokenizer)
    rows = tuning.mix(pools, 40, tasks=0.25, requests=0.1, forms=0.65)
    assert len(rows) == 40
    tasks = datasets.Dataset.to_pandas(rows)["task"]
    assert tasks.isin(tuning.TASKS).sum() == 10
    assert audits.audit(rows, tokenizer, model)["rows"] == 40
