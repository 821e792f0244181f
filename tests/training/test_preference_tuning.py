import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from stand_in import run

from nbhelpers.core.errors import AuditError, DataError
from nbhelpers.models import templates
from nbhelpers.training import preference_tuning, session

LORA = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")


def pairs(count: int = 12) -> list[dict]:
    fillers = ["the list", "of values", "an open file", "every path", "a name"]
    return [
        {"prompt": [{"role": "user", "content": f"Read the {fillers[i % 5]}."}]}
        | {"chosen": f"yes {fillers[i % 4]}", "rejected": f"no {fillers[i % 3]} and more"}
        for i in range(count)
    ]


def trainer(tmp_path, model, tokenizer, rows=None, **options):
    return preference_tuning.dpo_trainer(run(tmp_path), model, tokenizer, rows or pairs(), LORA, **options)


def log_probs(model, tokenizer, rows, side):
    """log p(answer | prompt) of each pair, one row at a time."""
    found = []
    for row in rows:
        turns = [*row["prompt"], {"role": "assistant", "content": row[side]}]
        prompt = tokenizer(templates.render(row["prompt"], tokenizer, True), add_special_tokens=False)["input_ids"]
        ids = tokenizer(templates.render(turns, tokenizer), add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            predicted = model(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        found.append(predicted.gather(1, torch.tensor(ids[len(prompt) :])[:, None]).sum())
    return torch.stack(found)


def by_hand(model, tokenizer, rows, beta):
    with model.disable_adapter():
        reference = [log_probs(model, tokenizer, rows, side) for side in ("chosen", "rejected")]
    policy = [log_probs(model, tokenizer, rows, side) for side in ("chosen", "rejected")]
    margins = (policy[0] - reference[0]) - (policy[1] - reference[1])
    return -torch.nn.functional.logsigmoid(beta * margins).mean().item()


def batch_loss(made, count):
    batch = made.data_collator([made.train_dataset[i] for i in range(count)])
    return made.compute_loss(made.model, batch).item()


def test_the_loss_begins_at_log_2_and_is_that_of_the_paper_once_the_policy_moved(model, tokenizer, tmp_path):
    made = trainer(tmp_path, model, tokenizer, beta=0.3, max_steps=6)
    made.model.eval()
    assert batch_loss(made, 4) == pytest.approx(math.log(2), abs=1e-5)
    done = session.train(made)
    assert done.tokens == made.planned_tokens
    assert done.probed_seconds > 0
    made.model.eval()
    assert done.losses[-1] < done.losses[0]
    assert done.tokens > 0
    texts = [
        tokenizer.decode(made.train_dataset[i]["prompt_ids"] + made.train_dataset[i]["chosen_ids"]) for i in range(4)
    ]
    rows = [next(p for p in pairs() if p["chosen"] in text and p["prompt"][0]["content"] in text) for text in texts]
    expected = by_hand(made.model, tokenizer, rows, 0.3)
    assert expected < 0.69
    assert batch_loss(made, 4) == pytest.approx(expected, abs=1e-4)


def test_what_is_left_out_of_the_projection_changes_no_loss(model, tokenizer, tmp_path, monkeypatch):
    made = trainer(tmp_path, model, tokenizer, sft_weight=0.2)
    for parameter in made.model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    made.model.eval()
    compact = batch_loss(made, 4)
    monkeypatch.setattr(preference_tuning, "answers_only", preference_tuning.contextlib.nullcontext)
    assert batch_loss(made, 4) == pytest.approx(compact, abs=1e-5)


def test_the_chosen_answers_own_loss_is_added(model, tokenizer, tmp_path):
    rows = pairs(4)
    made = trainer(tmp_path, model, tokenizer, rows, sft_weight=0.2)
    made.model.eval()
    total = sum(-log_probs(made.model, tokenizer, rows, "chosen"))
    tokens = sum(len(made.train_dataset[i]["chosen_ids"]) for i in range(4))
    assert batch_loss(made, 4) == pytest.approx(math.log(2) + 0.2 * (total / tokens).item(), abs=1e-4)


def test_a_policy_with_an_adapter_is_refused(model, tokenizer, tmp_path):
    with pytest.raises(AuditError, match="Merge it first"):
        trainer(tmp_path, get_peft_model(model, LORA), tokenizer)


def test_pairs_too_long_are_dropped_and_counted(model, tokenizer, tmp_path, capsys):
    long = pairs(1)[0] | {"rejected": "list of values " * 60}
    with pytest.raises(DataError, match="None of 1 pairs"):
        trainer(tmp_path, model, tokenizer, [long], max_length=64)
    capsys.readouterr()
    made = trainer(tmp_path, model, tokenizer, [long, *pairs(4)], max_length=64)
    assert "1 of 5 pairs are longer than max_length=64" in capsys.readouterr().out
    assert max(len(ids) for ids in made.train_dataset["rejected_ids"]) < 64


def test_an_end_on_one_side_only_is_found(tokenizer):
    end = tokenizer.eos_token_id
    preference_tuning.audit([{"chosen_ids": [5, end, 9], "rejected_ids": [6, end, 9]}], tokenizer)
    for chosen, rejected in (([5, end], [6]), ([5], [6]), ([5, end, end], [6, end])):
        with pytest.raises(AuditError, match="Pair 0"):
            preference_tuning.audit([{"chosen_ids": chosen, "rejected_ids": rejected}], tokenizer)
