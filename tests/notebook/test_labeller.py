import pytest

from nbhelpers.core.errors import ParameterError
from nbhelpers.data import labels
from nbhelpers.notebook.labeller import Labeller, label

ITEMS = [
    {"id": str(i), "prompt": [{"role": "user", "content": f"<b>Question</b> {i}"}], "answers": [f"a {i}", f"b {i}"]}
    for i in range(4)
]


def shown(widget) -> list[str]:
    return [
        next(text for text in widget.item["answers"] if f">{text}<" in box.value) for box in (widget.left, widget.right)
    ]


def test_a_click_writes_one_label_and_moves_on_by_one(tmp_path):
    path = tmp_path / "labels.jsonl"
    first, second = Labeller(ITEMS, path, "ann"), Labeller(ITEMS, path, "ann")  # the cell was run twice
    item, left = first.item, shown(first)[0]
    first.buttons["left"].click()
    (written,) = labels.read(path)
    assert item["answers"][labels.preferred(written)] == left
    assert first.item != item
    assert first.progress.value == "1 of 4 labelled by ann"
    second.buttons["right"].click()  # still shows what is labelled by now
    assert labels.read(path) == [written]
    assert second.item == first.item


def test_it_goes_on_where_it_was_and_ends(tmp_path):
    path = tmp_path / "labels.jsonl"
    order = labels.order(ITEMS, "ann", 0)
    for number, key in enumerate("120"):
        widget = Labeller(ITEMS, path, "ann")
        assert widget.item == order[number]
        widget.typed.value = key
        assert widget.typed.value == ""
    assert [x["choice"] for x in labels.read(path)] == ["left", "right", "tie"]
    widget.typed.value = "x"
    assert len(labels.read(path)) == 3
    widget.typed.value = ""
    widget.typed.value = "1"
    assert widget.item is None
    assert "All are labelled" in widget.question.value
    widget.choose("left")
    assert len(labels.read(path)) == 4
    assert Labeller(ITEMS, path, "ben").item is not None


def test_text_of_a_model_is_shown_as_text(tmp_path):
    widget = Labeller(ITEMS, tmp_path / "labels.jsonl", "ann")
    assert "&lt;b&gt;Question&lt;/b&gt;" in widget.question.value


def test_without_anybody_the_labels_are_counted(tmp_path, capsys):
    path = tmp_path / "labels.jsonl"
    labels.append(path, {"item": "0", "labeller": "ann", "left": 0, "choice": "left"})
    assert label(ITEMS, path, "ann") is None
    assert "1 labels in labels.jsonl" in capsys.readouterr().out


def test_a_name_and_a_jsonl_file_are_needed(tmp_path):
    with pytest.raises(ParameterError, match="labeller is empty"):
        Labeller(ITEMS, tmp_path / "labels.jsonl", " ")
    with pytest.raises(ParameterError, match=r"does not end in \.jsonl"):
        Labeller(ITEMS, tmp_path / "labels.csv", "ann")
