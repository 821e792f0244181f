"""Models written so that nothing is lost on the way."""

import pytest

from nbhelpers.models import loading, saving


@pytest.mark.parametrize("setting", [{"temperature": 0.9}, {"temperature": 0.0}, {"top_p": 0.5}, {"min_p": 0.1}])
def test_a_sampling_setting_without_sampling_does_not_lose_the_weights(setting, model, tokenizer, tmp_path, capsys):
    for name, value in setting.items():
        setattr(model.generation_config, name, value)
    saving.save(model, tokenizer, tmp_path)
    assert f"{setting} without do_sample" in capsys.readouterr().out
    assert loading.load(str(tmp_path), "float32")[0].config.vocab_size == 2048
