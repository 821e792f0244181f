import math

import pytest
import torch
from stand_in import run

from nbhelpers.core.errors import AuditError, DataError, ModelError
from nbhelpers.models import loading
from nbhelpers.training import reward_model, session

QUESTIONS = ["Name a colour.", "Say a word.", "What is this?", "Read the file."]


def pairs(count: int = 24) -> list[dict]:
    """The preferred answer says `yes`, wherever in it."""
    fillers = ["the list", "of values", "an open file", "every path", "a name"]
    return [
        {"prompt": [{"role": "user", "content": QUESTIONS[i % 4]}]}
        | {"chosen": f"{fillers[i % 5]} yes", "rejected": f"{fillers[(i + 2) % 5]} no"}
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def trained(smoke, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward")
    rows = reward_model.encode_pairs(pairs(), smoke[1], 512)
    base = reward_model.load(loading.fetch("smoke"), "float32")
    trainer = reward_model.trainer(run(folder, max_steps=12, per_device_train_batch_size=8), base, smoke[1], rows, 4)
    first = trainer.compute_loss(trainer.model, trainer.data_collator([rows[i] for i in range(4)])).item()
    done = session.train(trainer)
    assert done.tokens == trainer.planned_tokens > 0
    assert done.probed_seconds > 0
    return trainer, rows, first


def test_it_begins_where_every_answer_is_worth_the_same(trained):
    assert trained[2] == pytest.approx(math.log(2), abs=1e-6)


def test_it_learns_what_is_preferred(trained, smoke):
    trainer, _, _ = trained
    unseen = [pair | {"chosen": "a file yes", "rejected": "a file no"} for pair in pairs(4)]
    unseen = reward_model.encode_pairs(unseen, smoke[1], 512)
    assert reward_model.accuracy(reward_model.margins(trainer.model, unseen)).value == 1


def test_the_loss_of_trl_is_that_of_bradley_and_terry_on_our_scores(trained):
    trainer, rows, _ = trained
    few = rows.select(range(8))
    trainer.model.eval()
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(list(few))).item()
    margins = torch.tensor(reward_model.margins(trainer.model, few, batch_size=3))
    assert -torch.nn.functional.logsigmoid(margins).mean().item() == pytest.approx(loss, abs=1e-4)


@pytest.mark.parametrize("checked", [True, False])
def test_saved_and_loaded_in_a_new_place_it_gives_the_same_scores(trained, smoke, tmp_path, checked):
    trainer, rows, _ = trained
    trainer.model.save_pretrained(tmp_path)
    again = reward_model.attach(loading.fetch("smoke"), tmp_path, "float32", tokenizer=smoke[1] if checked else None)
    expected = reward_model.score(trainer.model, rows["chosen_ids"][:6])
    assert reward_model.score(again, rows["chosen_ids"][:6]) == pytest.approx(expected, abs=1e-4)
    assert len(set(expected)) > 1


def test_an_adapter_without_a_head_is_refused(trained, tmp_path):
    from safetensors.torch import load_file, save_file

    trained[0].model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    save_file({name: weight for name, weight in load_file(path).items() if "score" not in name}, path)
    with pytest.raises(ModelError, match="without a score head"):
        reward_model.attach(loading.fetch("smoke"), tmp_path, "float32")


def test_the_end_of_an_answer_is_seen_where_the_end_pads_too(trained, tokenizer):
    """Read at the last token that does not pad, a finished and a cut answer would score alike."""
    assert tokenizer.pad_token == tokenizer.eos_token
    prompt = [{"role": "user", "content": "Name a colour."}]
    finished, cut = (reward_model.encode(prompt, "yes", tokenizer, ended) for ended in (True, False))
    assert finished == [*cut, tokenizer.eos_token_id]
    scores = reward_model.score(trained[0].model, [finished, cut, finished[:-2]])
    assert len({round(score, 5) for score in scores}) == 3


def test_a_reward_model_that_would_not_see_an_end_is_refused(trained, tokenizer, monkeypatch):
    model = trained[0].model
    monkeypatch.setattr(model.config.get_text_config(), "pad_token_id", tokenizer.eos_token_id)
    with pytest.raises(
        AuditError, match=f"1 of 2 rows end with token {tokenizer.eos_token_id}, which the reward model"
    ):
        reward_model.score(model, [[5, 6, tokenizer.eos_token_id], [5, 6]])


def test_a_score_does_not_depend_on_its_batch(trained):
    trainer, rows, _ = trained
    ids = rows["chosen_ids"][:7]
    alone = [reward_model.score(trainer.model, [row])[0] for row in ids]
    assert reward_model.score(trainer.model, ids, batch_size=7) == pytest.approx(alone, abs=1e-4)


def test_a_tokenizer_whose_only_special_token_ends_answers_is_refused(tokenizer, monkeypatch):
    assert reward_model.padding_token(tokenizer) != tokenizer.eos_token
    monkeypatch.setattr(type(tokenizer), "all_special_tokens", property(lambda self: [self.eos_token]))
    tokenizer.unk_token = None
    with pytest.raises(AuditError, match="none can pad"):
        reward_model.padding_token(tokenizer)


def test_tokenizers_that_differ_are_refused(smoke, tokenizer):
    reward_model.same_tokenizer(smoke[1], tokenizer)
    tokenizer.chat_template = "{{ messages }}"
    with pytest.raises(AuditError, match="other chat templates"):
        reward_model.same_tokenizer(smoke[1], tokenizer)
    tokenizer.add_tokens(["<new>"])
    with pytest.raises(AuditError, match="2,048 and 2,049 tokens"):
        reward_model.same_tokenizer(smoke[1], tokenizer)


def test_ties_are_no_right_answers():
    assert reward_model.accuracy([0.0, 0.0]).value == 0.5
    assert reward_model.accuracy([1.0, -1.0, 2.0, 0.0]).value == pytest.approx(0.625)


def test_calibration_sets_what_is_said_against_what_is():
    table = reward_model.calibration([3.0, 3.0, 3.0, -3.0, 0.1, -0.1])
    assert table["pairs"].tolist() == [2, 4]
    assert table["right"].tolist() == [0.5, 0.75]
    assert table["said"].iloc[1] == pytest.approx(1 / (1 + math.exp(-3)))


def test_pairs_too_long_are_left_out_and_counted(tokenizer, capsys):
    long = pairs(1)[0] | {"chosen": "list of values " * 60}
    rows = reward_model.encode_pairs([long, *pairs(3)], tokenizer, 64)
    assert len(rows) == 3
    assert "1 of 4 pairs are longer than max_length=64" in capsys.readouterr().out
    with pytest.raises(DataError, match="None of 1 pairs is as short as max_length=64"):
        reward_model.encode_pairs([long], tokenizer, 64)


def test_accuracy_over_prompts_counts_each_prompt_once():
    found = reward_model.accuracy([1.0, 1.0, 1.0, -1.0], ["a", "a", "a", "b"])
    assert (found.value, found.n) == (0.5, 2)


def test_accuracies_tell_apart_what_gives_the_order_away():
    rows = {"group": ["a", "b", "c"], "kind": ["old", "old", "new"], "both_ended": [True, False, True]}
    found = reward_model.accuracies([-1.0, 1.0, 1.0], rows, ("new",))
    assert {name: (m.value, m.n) for name, m in found.items()} == {
        "kinds shown": (0.5, 2), "both answers ended": (0.0, 1), "kinds never shown": (1.0, 1),
    }  # fmt: skip
    assert "kinds never shown" not in reward_model.accuracies([-1.0, 1.0, 1.0], rows)


def test_length_bias_is_that_of_the_scores_beside_that_of_the_pairs():
    rows = {"chosen_ids": [[1, 2, 3], [1], [1]], "rejected_ids": [[1], [1, 2], [5]]}
    assert reward_model.longer_preferred([1.0, 1.0, 1.0], rows) == (0.5, 0.5)
    assert reward_model.longer_preferred([1.0, -1.0, 1.0], rows) == (1.0, 0.5)


def test_a_reward_model_of_another_tokenizer_is_refused_when_it_is_loaded(trained, tokenizer, tmp_path):
    trained[0].model.save_pretrained(tmp_path)
    tokenizer.add_tokens(["<new>"])
    with pytest.raises(AuditError, match="other vocabularies"):
        reward_model.attach(loading.fetch("smoke"), tmp_path, "float32", tokenizer=tokenizer)


def test_pairs_whose_prompt_and_answer_make_one_token_are_counted(tokenizer, capsys):
    tokenizer.chat_template = "{% for turn in messages %}{{ turn.content }}{% endfor %}"  # nothing stands between
    turns = [{"role": "user", "content": "Read the li"}]
    one = {"prompt": turns, "chosen": "st of values", "rejected": "st"}
    reward_model.encode_pairs([one, {"prompt": turns, "chosen": " no", "rejected": " list"}], tokenizer, 64)
    assert "1 of 2 pairs: the end of the prompt" in capsys.readouterr().out
