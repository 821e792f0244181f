"""The untuned model is asked once: what was answered before is read, and whatever differs is asked anew."""

import json
import shutil
from types import SimpleNamespace

import datasets
import pytest

from nbhelpers.evaluation import baseline, constraints, forgetting, generation, scoring
from nbhelpers.evaluation.baseline import Baseline
from nbhelpers.models import loading

OPTIONS = {"max_new_tokens": 6, "batch_size": 4}


def run(tmp_path, notebook="02_a", dtype="float32", **parameters):
    values = {"model_id": "smoke", "eval_batch_size": 4, "max_new_tokens": 6, "resume": "auto"} | parameters
    return SimpleNamespace(
        folder=tmp_path / notebook, dtype=dtype, parameters=SimpleNamespace(**values), artifact=lambda *_: None,
        hardware=SimpleNamespace(device="cpu"), manifest={"versions": {"torch": "2", "transformers": "5"}},
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    questions = ["Say yes.", "What is read?", "Which file is open?", "Name a list.", "Say no."]
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": "Yes."}] for q in questions]
    tasks = ["summary", "parameters"]
    return datasets.Dataset.from_list(
        [{"id": str(i), "task": tasks[i % 2], "messages": t, "reference": "Yes."} for i, t in enumerate(turns)]
    )


@pytest.fixture
def asked(monkeypatch):
    """The prompts that reached the model, a list a call of `generate`."""
    calls, generate = [], generation.generate

    def counted(model, tokenizer, prompts, *args, **kwargs):
        calls.append([prompt[-1]["content"] for prompt in prompts])
        return generate(model, tokenizer, prompts, *args, **kwargs)

    monkeypatch.setattr(generation, "generate", counted)
    return calls


def test_what_it_answers_is_what_the_model_answers(tmp_path, rows, smoke):
    expected = scoring.evaluate("untuned", *smoke, rows, **OPTIONS)
    few = {task: [rows[0]["messages"]] for task in ("summary", "parameters")}
    with Baseline(run(tmp_path), smoke[1]) as untuned:
        assert untuned.evaluate("untuned", rows) == expected
        assert untuned.evaluate("untuned", rows, few) == scoring.evaluate("untuned", *smoke, rows, few, **OPTIONS)
        assert untuned.probe() == forgetting.measure(*smoke, batch_size=4)
        forms = constraints.questions(constraints.requests(), 1, 0, ("lowercase", "json"))
        assert untuned.obey(forms, 6) == constraints.measure(*smoke, forms, **OPTIONS)
    assert Baseline(run(tmp_path, "03_b"), smoke[1]).evaluate("untuned", rows) == expected


def test_another_notebook_of_the_run_asks_only_what_is_new_and_loads_no_model_for_the_rest(
    tmp_path, rows, smoke, asked, monkeypatch, capsys
):
    with Baseline(run(tmp_path), smoke[1]) as untuned:
        untuned.evaluate("untuned", rows.select(range(4)))
        probed = untuned.probe()
    assert [len(call) for call in asked] == [2, 2]  # a task at a time
    assert "baseline: 5 answers and probes computed, 0 found\n" in capsys.readouterr().out
    with Baseline(run(tmp_path, "04_c"), smoke[1]) as untuned:
        untuned.evaluate("untuned", rows)
    assert asked[2:] == [["Say no."]]
    assert "baseline: 1 answers and probes computed, 4 found\n" in capsys.readouterr().out
    monkeypatch.setattr(baseline.loading, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    again = Baseline(run(tmp_path, "03_b"), smoke[1])
    again.evaluate("untuned", rows)
    assert again.probe() == probed
    assert len(asked) == 3


@pytest.mark.parametrize(
    "other",
    [
        {"dtype": "bfloat16"},
        {"max_new_tokens": 7},
        {"resume": "never"},
        {"manifest": {"versions": {"torch": "3", "transformers": "5"}}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_precision_length_or_version_is_asked_anew(tmp_path, rows, smoke, asked, other):
    few = rows.select([0, 2])
    for changes in ({}, other, {}):
        fields = {key: value for key, value in changes.items() if key in ("dtype", "manifest")}
        its_run = run(tmp_path, **{key: value for key, value in changes.items() if key != "manifest"})
        vars(its_run).update(fields)
        Baseline(its_run, smoke[1]).evaluate("untuned", few)
    assert len(asked) == 2


def test_another_model_template_or_code_is_asked_anew(tmp_path, rows, smoke, tokenizer, asked, monkeypatch):
    few = rows.select([0])
    for _ in range(2):
        Baseline(run(tmp_path), smoke[1]).evaluate("untuned", few)
    assert len(asked) == 1
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<|im_end|> ")
    Baseline(run(tmp_path), tokenizer).evaluate("untuned", few)
    monkeypatch.setattr(baseline.loading, "model_hash", lambda *_: "another")
    Baseline(run(tmp_path), smoke[1]).evaluate("untuned", few)
    monkeypatch.setattr(baseline.fingerprint, "module_hashes", lambda _: {"generation": "changed"})
    Baseline(run(tmp_path), smoke[1]).evaluate("untuned", few)
    assert len(asked) == 4


def test_one_prompt_asked_twice_is_one_question_and_never_resumed_runs_keep_their_own(tmp_path, rows, smoke, asked):
    twice = rows.select([0, 0])
    its_run = run(tmp_path, resume="never")
    untuned = Baseline(its_run, smoke[1])
    first, second = untuned.evaluate("untuned", twice).rows
    assert first == second
    untuned.evaluate("untuned", twice)
    assert asked == [["Say yes."]]
    (path,) = (tmp_path / "baseline").glob("*.json")
    assert len(json.loads(path.read_text())["answers"]) == 1


def test_other_settings_of_the_same_weights_are_asked_anew(tmp_path, rows, smoke, asked, monkeypatch):
    few, folder = rows.select([0]), tmp_path / "model"
    shutil.copytree(loading.fetch("smoke"), folder)
    its_run = run(tmp_path, model_id=str(folder))
    for _ in range(2):
        Baseline(its_run, smoke[1]).evaluate("untuned", few)
    assert len(asked) == 1
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"repetition_penalty": 1.3}))
    Baseline(its_run, smoke[1]).evaluate("untuned", few)
    assert len(asked) == 2


@pytest.mark.parametrize("damaged", ["[1]", "{}", '{"answers": null}', "not json"])
def test_a_damaged_file_is_computed_anew(tmp_path, rows, smoke, asked, damaged):
    few = rows.select([0])
    Baseline(run(tmp_path), smoke[1]).evaluate("untuned", few)
    (path,) = (tmp_path / "baseline").glob("*.json")
    path.write_text(damaged)
    Baseline(run(tmp_path), smoke[1]).evaluate("untuned", few)
    assert len(asked) == 2
