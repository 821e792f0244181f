"""Models written so that nothing is lost on the way."""

from nbhelpers.models import loading, saving


def test_a_temperature_without_sampling_does_not_lose_the_weights(model, tokenizer, tmp_path, capsys):
    model.generation_config.temperature = 0.9
    saving.save(model, tokenizer, tmp_path)
    assert "sampling is switched on" in capsys.readouterr().out
    assert loading.load(str(tmp_path), "float32")[0].generation_config.do_sample
