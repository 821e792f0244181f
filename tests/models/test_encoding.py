import html
import itertools
import random
import re

import datasets
import pytest
from turns import ANSWER, ASK, SYSTEM, turn

from nbhelpers.core.errors import AuditError, DataError, ModelError
from nbhelpers.data import schemas
from nbhelpers.models import audits, encoding, templates, token_view

CONVERSATIONS = {
    "single": [ASK, ANSWER],
    "with system": [SYSTEM, ASK, ANSWER],
    "multi-turn": [ASK, ANSWER, turn("user", "And then?"), turn("assistant", "Then\n\nnothing.\n")],
    "multi-turn with system": [SYSTEM, ASK, ANSWER, turn("user", "And?"), turn("assistant", "def f(a):\n    pass")],
}


def random_conversation(seed: int) -> list[dict]:
    rng = random.Random(seed)
    words = ["word", "naïve", "日本語", "🙂", "<b>", "a_b(c)", "\n", "\t", "  ", "user", "x" * 30]

    def text() -> str:
        return "A" + " ".join(rng.choices(words, k=rng.randint(1, 15)))

    pairs = [t for _ in range(rng.randint(1, 4)) for t in (turn("user", text()), turn("assistant", text()))]
    return [turn("system", text()), *pairs] if rng.random() < 0.5 else pairs


ALL = [*CONVERSATIONS.values(), *map(random_conversation, range(20))]


# --- what is trained ----------------------------------------------------------------------------------------------


def trained_text(row: dict, tokenizer) -> str:
    return tokenizer.decode([label for label in row["labels"] if label != encoding.IGNORE])


@pytest.mark.parametrize("messages", ALL)
def test_the_labels_are_the_answers_and_their_end_as_the_template_writes_it(messages, smoke):
    row = encoding.encode(messages, smoke[1])
    answers = [t["content"] for t in messages if t["role"] == "assistant"]
    assert trained_text(row, smoke[1]) == "".join(f"{answer}<|im_end|>\n" for answer in answers)
    assert len(row["labels"]) == len(row["input_ids"])
    pairs = zip(row["input_ids"], row["labels"], strict=True)
    assert all(label in (token, encoding.IGNORE) for token, label in pairs)


@pytest.mark.parametrize("messages", ALL)
def test_the_prompt_trained_on_is_the_one_a_server_tokenises(messages, smoke):
    row = encoding.encode(messages, smoke[1])
    for i, t in enumerate(messages):
        if t["role"] == "assistant":
            prompt = templates.render(messages[:i], smoke[1], add_generation_prompt=True)
            ids = smoke[1](prompt, add_special_tokens=False)["input_ids"]
            assert row["input_ids"][: len(ids)] == ids
            assert row["labels"][len(ids) - 1] == encoding.IGNORE
            assert row["labels"][len(ids)] == row["input_ids"][len(ids)]


@pytest.fixture
def trl_rows(model, tokenizer, tmp_path):
    """What TRL's own SFTTrainer makes of a dataset."""
    from trl import SFTConfig, SFTTrainer

    def prepare(rows: list[dict], **options):
        config = SFTConfig(tmp_path, use_cpu=True, bf16=False, max_length=None, report_to="none", **options)
        data = datasets.Dataset.from_list(rows)
        return SFTTrainer(model, config, train_dataset=data, processing_class=tokenizer).train_dataset

    return prepare


def test_ids_and_labels_are_those_of_trl_for_prompt_and_completion(trl_rows, tokenizer):
    prepared = trl_rows([{"prompt": messages[:-1], "completion": messages[-1:]} for messages in ALL])
    assert len(prepared) == len(ALL)
    for messages, theirs in zip(ALL, prepared, strict=True):
        ours = encoding.encode(messages, tokenizer)
        assert ours["input_ids"] == theirs["input_ids"]
        if sum(t["role"] == "assistant" for t in messages) == 1:
            assert ours["labels"] == theirs["labels"]
        else:  # TRL trains the completion alone, we every answer
            assert [a for a, b in zip(ours["labels"], theirs["labels"], strict=True) if b != encoding.IGNORE] == [
                b for b in theirs["labels"] if b != encoding.IGNORE
            ]


def test_labels_are_those_of_trl_for_every_answer_of_a_conversation(trl_rows, tokenizer):
    plain = "{{ message['content'] }}<|im_end|>\n"
    marked = "{% if message['role'] == 'assistant' %}{% generation %}PLAIN{% endgeneration %}{% else %}PLAIN{% endif %}"
    assert plain in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace(plain, marked.replace("PLAIN", plain))
    prepared = trl_rows([{"messages": messages} for messages in ALL], assistant_only_loss=True)
    for messages, theirs in zip(ALL, prepared, strict=True):
        ours = encoding.encode(messages, tokenizer)
        assert (ours["input_ids"], ours["labels"]) == (theirs["input_ids"], theirs["labels"])


@pytest.mark.parametrize(
    "template",
    [
        pytest.param(
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role != 'assistant' or loop.last %}"
            "{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
            id="drops earlier answers",
        ),
        pytest.param(
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
            id="asks with a prefix that answers lack",
        ),
    ],
)
def test_a_template_that_rewrites_history_stops_the_run(template, tokenizer):
    tokenizer.chat_template = template
    with pytest.raises(AuditError, match="different prompts: use the model's training-safe template"):
        encoding.encode(CONVERSATIONS["multi-turn"], tokenizer)


def test_an_answer_that_merges_with_its_prompt_stops_the_run(smoke):
    with pytest.raises(AuditError, match=r"start of the answer '\\n\\n\\nBecause.*Strip the white space"):
        encoding.encode([ASK, turn("assistant", "\n\n\nBecause.")], smoke[1])


def test_a_tokenizer_without_a_template_is_refused(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="has no chat template"):
        encoding.encode(CONVERSATIONS["single"], tokenizer)


# --- rows of a dataset --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    return datasets.Dataset.from_list([{"id": str(i), "messages": m, "other": i} for i, m in enumerate(ALL)])


def test_rows_are_kept_whole_or_dropped_and_counted(rows, smoke):
    whole = [encoding.encode(messages, smoke[1]) for messages in ALL]
    lengths = sorted(len(row["input_ids"]) for row in whole)
    limit = lengths[len(lengths) // 2]
    encoded = encoding.encode_rows(rows, smoke[1], limit)
    expected = [row | ids for row, ids in zip(rows, whole, strict=True) if len(ids["input_ids"]) <= limit]
    assert encoded.dataset.to_list() == expected
    assert 0 < encoded.dropped_too_long < encoded.read
    assert encoded.read == len(encoded.dataset) + encoded.dropped_too_long == len(ALL)
    assert (
        str(encoded)
        == f"{len(ALL)} rows read = {len(expected)} kept + {len(ALL) - len(expected)} longer than max_length"
    )


def test_the_longest_row_fits_its_own_length(rows, smoke):
    longest = max(len(encoding.encode(messages, smoke[1])["input_ids"]) for messages in ALL)
    assert encoding.encode_rows(rows, smoke[1], longest).dropped_too_long == 0
    assert encoding.encode_rows(rows, smoke[1], longest - 1).dropped_too_long == 1


def test_a_limit_below_every_row_is_refused_with_the_length_of_the_shortest(rows, smoke):
    shortest = min(len(encoding.encode(messages, smoke[1])["input_ids"]) for messages in ALL)
    message = f"max_length={shortest - 1} is shorter than every row: the shortest of {len(ALL)} has {shortest} tokens"
    with pytest.raises(DataError, match=message):
        encoding.encode_rows(rows, smoke[1], shortest - 1)


def test_no_rows_are_refused_in_words(rows, smoke):
    with pytest.raises(DataError, match=r"There is no row to encode\."):
        encoding.encode_rows(rows.select([]), smoke[1], 100)


# --- audits -------------------------------------------------------------------------------------------------------


@pytest.fixture
def good(smoke):
    return [encoding.encode(messages, smoke[1]) for messages in ALL]


def test_good_rows_pass_and_are_counted(good, smoke):
    counted = audits.audit(good, smoke[1], smoke[0])
    labelled = sum(label != encoding.IGNORE for row in good for label in row["labels"])
    tokens = sum(len(row["input_ids"]) for row in good)
    share = pytest.approx(labelled / tokens)
    assert counted == {"rows": len(good), "tokens": tokens, "labelled_tokens": labelled, "labelled_share": share}


def mask(row: dict, tokenizer) -> None:
    row["labels"] = [encoding.IGNORE] * len(row["labels"])


def cut_the_end(row: dict, tokenizer) -> None:
    end = max(i for i, token in enumerate(row["input_ids"]) if token == tokenizer.eos_token_id)
    row["input_ids"], row["labels"] = row["input_ids"][:end], row["labels"][:end]


def mask_the_end(row: dict, tokenizer) -> None:
    ends = [i for i, token in enumerate(row["input_ids"]) if token == tokenizer.eos_token_id]
    row["labels"][ends[-1]] = encoding.IGNORE


def mask_an_earlier_end(row: dict, tokenizer) -> None:
    ends = [i for i, label in enumerate(row["labels"]) if label == tokenizer.eos_token_id]
    assert len(ends) > 1
    row["labels"][ends[0]] = encoding.IGNORE


def cut_the_last_answer(row: dict, tokenizer) -> None:
    starts = [i for i in range(1, len(row["labels"])) if row["labels"][i] >= 0 > row["labels"][i - 1]]
    row["input_ids"], row["labels"] = row["input_ids"][: starts[-1]], row["labels"][: starts[-1]]


def cut_into_the_last_answer(row: dict, tokenizer) -> None:
    starts = [i for i in range(1, len(row["labels"])) if row["labels"][i] >= 0 > row["labels"][i - 1]]
    row["input_ids"], row["labels"] = row["input_ids"][: starts[-1] + 1], row["labels"][: starts[-1] + 1]


def mask_all_but_the_end(row: dict, tokenizer) -> None:
    row["labels"] = [label if label == tokenizer.eos_token_id else encoding.IGNORE for label in row["labels"]]


def shift(row: dict, tokenizer) -> None:
    row["labels"] = [*row["labels"][1:], encoding.IGNORE]


def train_the_padding(row: dict, tokenizer) -> None:
    row["input_ids"] = row["input_ids"] + [tokenizer.pad_token_id] * 5
    row["labels"] = list(row["input_ids"])


def double_the_start_behind_padding(row: dict, tokenizer) -> None:
    double_the_start(row, tokenizer)
    row["input_ids"] = [tokenizer.pad_token_id] * 3 + row["input_ids"]
    row["labels"] = [encoding.IGNORE] * 3 + row["labels"]


def double_the_start(row: dict, tokenizer) -> None:
    row["input_ids"], row["labels"] = [row["input_ids"][0], *row["input_ids"]], [encoding.IGNORE, *row["labels"]]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            mask,
            r"1 of 24 rows \(first: \[3\]\) have no label.*raise max_length, or look at the row with token_view.show",
        ),
        (
            cut_the_end,
            r"1 of 24 rows \(first: \[3\]\) do not train the end.*'<\|im_end\|>'.*name a template by the parameter",
        ),
        (mask_an_earlier_end, r"1 of 24 rows \(first: \[3\]\) do not train the end"),
        (cut_the_last_answer, r"1 of 24 rows \(first: \[3\]\) go on behind their last answer"),
        (cut_into_the_last_answer, r"1 of 24 rows \(first: \[3\]\) do not train the end"),
        (mask_all_but_the_end, r"1 of 24 rows \(first: \[3\]\) have no label, or none on the words of an answer"),
        (shift, r"1 of 24 rows \(first: \[3\]\) have labels that are other tokens than their inputs"),
        (train_the_padding, r"1 of 24 rows \(first: \[3\]\) have labels on padding"),
        (double_the_start_behind_padding, r"1 of 24 rows \(first: \[3\]\) begin with BOS twice"),
        (mask_the_end, r"1 of 24 rows \(first: \[3\]\) do not train the end"),
        (double_the_start, r"1 of 24 rows \(first: \[3\]\) begin with BOS twice.*add_special_tokens=False"),
    ],
)
def test_one_spoilt_row_stops_the_run_with_the_remedy(spoil, message, good, tokenizer):
    assert len(good) == 24
    spoil(good[3], tokenizer)
    with pytest.raises(AuditError, match=message) as caught:
        audits.audit(good, tokenizer)
    assert str(caught.value).count("\n  - ") == 1


def test_every_mistake_is_named_at_once(good, tokenizer):
    for i, spoil in enumerate((mask, cut_the_end, double_the_start)):
        spoil(good[i], tokenizer)
    with pytest.raises(AuditError) as caught:
        audits.audit(good, tokenizer)
    assert str(caught.value).count("\n  - ") == 3


def test_an_eos_that_the_template_does_not_write_stops_the_run(good, tokenizer):
    tokenizer.eos_token = "<|endoftext|>"
    audits.audit(good, tokenizer)  # the generation config of the folder that it came from knows better
    tokenizer.name_or_path = ""
    with pytest.raises(AuditError, match=r"24 of 24 rows .* do not train the end .*'<\|endoftext\|>'"):
        audits.audit(good, tokenizer)


def test_a_row_that_is_padded_on_either_side_and_masked_there_passes(good, tokenizer):
    pad = [tokenizer.pad_token_id] * 5
    for row in good[:5]:
        row["input_ids"], row["labels"] = pad + row["input_ids"] + pad, [-100] * 5 + row["labels"] + [-100] * 5
    audits.audit(good, tokenizer)


@pytest.mark.parametrize("answer", ["4", "!", " four"])
def test_the_shortest_answers_pass(answer, tokenizer):
    audits.audit([encoding.encode([ASK, turn("assistant", answer)], tokenizer)], tokenizer)


def test_earlier_turns_may_close_with_a_token_of_their_own(good, tokenizer):
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|done|>"]})
    row, done = good[2], tokenizer.convert_tokens_to_ids("<|done|>")
    first = next(i for i, label in enumerate(row["labels"]) if label == tokenizer.eos_token_id)
    row["input_ids"][first] = row["labels"][first] = done
    audits.audit(good, tokenizer)


def test_the_stop_tokens_of_the_generation_config_count(good, model, tokenizer):
    end = tokenizer.eos_token_id
    tokenizer.eos_token = "<|endoftext|>"
    model.generation_config.eos_token_id = [end, 7]
    assert encoding.stop_token_ids(tokenizer, model) == {end, 7, tokenizer.eos_token_id}
    audits.audit(good, tokenizer, model)
    model.generation_config.eos_token_id = end
    assert encoding.stop_token_ids(tokenizer, model) == {end, tokenizer.eos_token_id}
    tokenizer.eos_token = model.generation_config.eos_token_id = None
    assert encoding.stop_token_ids(tokenizer, model) == set()


def test_tokenising_rendered_text_with_its_own_bos_is_found(good, tokenizer):
    from tokenizers.processors import TemplateProcessing

    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    text = templates.render(CONVERSATIONS["single"], tokenizer)
    ids = tokenizer(text)["input_ids"]
    with pytest.raises(AuditError, match="BOS twice"):
        audits.audit([{"input_ids": ids, "labels": ids}], tokenizer)
    audits.audit([encoding.encode(CONVERSATIONS["single"], tokenizer)], tokenizer)


# --- showing and prompting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("messages", ALL)
def test_a_shown_row_is_the_rendered_text_with_the_answers_marked(messages, smoke):
    view = token_view.show(encoding.encode(messages, smoke[1]), smoke[1])
    text = templates.render(messages, smoke[1])
    assert repr(view).replace("«", "").replace("»", "") == text
    answers = [f"{t['content']}<|im_end|>\n" for t in messages if t["role"] == "assistant"]
    assert re.findall("«(.*?)»", repr(view), re.S) == answers
    spans = tokens_of(view)
    assert "".join(text for *_, text in spans) == text
    runs = itertools.groupby(spans, lambda span: span[0] in TRAINED)
    assert ["".join(text for *_, text in run) for trained, run in runs if trained] == answers


TRAINED, UNTRAINED = {"#a9dca9", "#d4eed4"}, {"#eeeeee", "#f8f8f8"}


def tokens_of(view: token_view.TokenView) -> list[tuple[str, bool, str, str]]:
    """(ground, outlined, tooltip, text) of every span of the page, which must hold nothing else."""
    page = view._repr_html_()
    pattern = '<span style="background:(#[0-9a-f]{6});color:#000([^"]*)" title="([^"]*)">([^<]*)</span>'
    assert re.fullmatch(f'<pre style="white-space:pre-wrap">({pattern})*</pre>', page)
    return [
        (ground, "outline" in rest, tip, html.unescape(text)) for ground, rest, tip, text in re.findall(pattern, page)
    ]


@pytest.mark.parametrize("messages", ALL)
def test_a_shown_row_has_a_span_a_token_with_position_id_and_label(messages, smoke):
    row = encoding.encode(messages, smoke[1])
    spans = tokens_of(token_view.show(row, smoke[1]))
    seen = []
    for ground, outlined, tooltip, text in spans:
        position, token, label = re.fullmatch("position ([0-9 ]+), id ([0-9 ]+), label ([-0-9 ]+)", tooltip).groups()
        ids, labels = [int(x) for x in token.split()], [int(x) for x in label.split()]
        seen += zip((int(x) for x in position.split()), ids, labels, strict=True)
        assert text == smoke[1].decode(ids)
        assert "\ufffd" not in text
        assert ground in (UNTRAINED if encoding.IGNORE in labels else TRAINED)
        assert outlined == (ids[0] in smoke[1].all_special_ids)
        assert len(ids) == 1 or len(text) == 1  # only the bytes of one character are drawn together
    numbered = [(i, *pair) for i, pair in enumerate(zip(row["input_ids"], row["labels"], strict=True))]
    assert seen == numbered
    assert all(a[0] != b[0] for a, b in itertools.pairwise(spans))  # a border shows


def test_the_bytes_of_a_character_are_one_span_and_a_replacement_character_of_the_text_stays(smoke):
    row = encoding.encode([turn("user", "日🙂"), turn("assistant", "\ufffd")], smoke[1])
    texts = [text for *_, text in tokens_of(token_view.show(row, smoke[1]))]
    assert {"日", "🙂", "\ufffd", "<|im_end|>"} <= set(texts)
    assert len(texts) < len(row["input_ids"])


def test_tokens_that_strip_the_white_space_before_them_are_drawn_with_it():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "▁a": 1, "▁b": 2}, unk_token="[UNK]"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    view = token_view.show(
        {"input_ids": [1, 2, 1], "labels": [1, 2, 1]}, PreTrainedTokenizerFast(tokenizer_object=words)
    )
    assert [text for *_, text in tokens_of(view)] == ["a", " b", " a"]


def test_a_shown_row_cannot_put_markup_into_the_page(smoke):
    evil = "<script>alert('&')</script>"
    row = encoding.encode([turn("user", evil), turn("assistant", evil)], smoke[1])
    spans = tokens_of(token_view.show(row, smoke[1]))
    assert "".join(text for *_, text in spans).count(evil) == 2


def test_examples_stand_between_the_system_prompt_and_the_question():
    example = [turn("system", "Other."), turn("user", "1+1?"), turn("assistant", "2")]
    asked = encoding.with_examples([SYSTEM, ASK, ANSWER], [example, example[1:]])
    assert asked == [SYSTEM, *example[1:], *example[1:], ASK]
    assert encoding.with_examples([ASK, ANSWER], []) == [ASK]
    assert encoding.with_examples([SYSTEM, ASK, ANSWER], []) == [SYSTEM, ASK]


def test_the_key_of_a_question_leaves_out_its_answer_case_and_white_space():
    key = schemas.fold([turn("user", "Why  is\nit?"), ANSWER])
    assert key == schemas.fold([turn("user", "why is it?"), turn("assistant", "No.")])
    assert key != schemas.fold([turn("user", "Why is that?"), ANSWER])
    assert key != schemas.fold([SYSTEM, turn("user", "Why is it?"), ANSWER])
