import email.message
import json
import os
import platform
import stat

import datasets
import huggingface_hub
import pandas as pd
import pytest

from nbhelpers.core.errors import DataError, ParameterError
from nbhelpers.data import datacard

STEPS = pd.DataFrame(
    [
        ("normalise", 10, 0, 4, 10, ""),
        ("quality", 10, 3, 0, 7, {"too short": 2, "a | b": 1}),
    ],
    columns=["step", "read", "dropped", "changed", "kept", "reasons"],
)
SOURCES = [{"source": "pydocs", "rows": 10, "note": "first line\nsecond"}, {"source": "more", "rows": 2, "note": None}]


@pytest.fixture
def folder(tmp_path):
    for split, rows in (("train", 5), ("test", 2)):
        lines = [json.dumps({"id": f"{split}-{i}", "text": "näher"}) + "\n" for i in range(rows)]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "other.jsonl").write_text('{"something": "else"}\n')
    return tmp_path


def write(folder, **options):
    given = {"name": "Docs & more: ä", "sources": SOURCES, "steps": STEPS, "splits": {"train": 5, "test": 2}}
    return datacard.write(folder, **given | {"hashes": {"train": "ab12"}} | options)


def test_load_dataset_reads_the_folder_by_its_card(folder, tmp_path_factory):
    write(folder)
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path_factory.mktemp("cache")))
    assert {split: rows["id"] for split, rows in loaded.items()} == {
        "train": [f"train-{i}" for i in range(5)],
        "test": ["test-0", "test-1"],
    }


def test_the_front_matter_is_that_of_a_dataset_card(folder):
    path = write(folder, licence="apache-2.0", languages=("en", "de"), task_categories=("summarization",))
    assert path == folder / "README.md"
    card = huggingface_hub.DatasetCard.load(path)
    assert card.data.to_dict() == {
        "pretty_name": "Docs & more: ä",
        "license": "apache-2.0",
        "language": ["en", "de"],
        "size_categories": ["n<1K"],
        "task_categories": ["summarization"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": "train", "path": "train.jsonl"},
                    {"split": "test", "path": "test.jsonl"},
                ],
            }
        ],
    }
    assert card.text.strip().startswith("# Docs & more: ä")


@pytest.mark.parametrize(("rows", "size"), [(0, "n<1K"), (999, "n<1K"), (1_000, "1K<n<10K"), (10_000, "10K<n<100K")])
def test_the_size_is_that_of_all_splits_together(tmp_path, rows, size):
    (tmp_path / "train.jsonl").write_text('{"id": "x"}\n' * rows)
    assert f"- {size}\n" in write(tmp_path, splits={"train": rows}).read_text()


def test_every_count_hash_source_and_problem_is_in_the_body(folder):
    licences = datacard.package_licences(["ast"])
    options = {"summary": "Rows of docs.", "licences": licences, "problems": ("One.", "Two."), "how_to": "make data"}
    text = write(folder, **options).read_text(encoding="utf-8")
    for line in (
        "Rows of docs.",
        "| source | rows | note |\n| --- | --- | --- |\n| pydocs | 10 | first line second |\n| more | 2 |  |\n",
        f"| ast | {platform.python_version()} | PSF-2.0 |",
        "| normalise | 10 | 0 | 4 | 10 |  |\n| quality | 10 | 3 | 0 | 7 | too short 2, a \\| b 1 |\n",
        "| train | `train.jsonl` | 5 |\n| test | `test.jsonl` | 2 |\n",
        "| train | ab12 |",
        "- One.\n- Two.\n",
        "```\nmake data\n```",
    ):
        assert line in text
    titles = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        *("Where the rows come from", "Licences", "Cleaning", "Splits", "Content hashes"),
        *("Known problems", "How to make it again"),
    ]
    bare = write(folder).read_text(encoding="utf-8")
    assert "## Licences" not in bare
    assert "None was recorded." in bare


def test_the_same_data_gives_the_same_card_and_the_table_of_steps_stays_as_it_was(folder):
    before = STEPS.copy(deep=True)
    assert write(folder).read_bytes() == write(folder).read_bytes()
    pd.testing.assert_frame_equal(STEPS, before)


def test_a_write_that_fails_leaves_the_old_card(folder, monkeypatch):
    path = write(folder)
    old = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(folder, name="another")
    assert path.read_bytes() == old
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "other.jsonl", "test.jsonl", "train.jsonl"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"splits": {"train": 5, "dev": 1}}, DataError, "dev.jsonl does not exist"),
        ({"splits": {"train": 6}}, DataError, "has 5 rows, and the card would say 6"),
        ({"splits": {"../train": 5}}, ParameterError, "'../train' is no name of a split"),
        ({"steps": STEPS.drop(columns=["changed"])}, DataError, "lack changed"),
        ({"steps": STEPS.assign(kept=[10, 8])}, DataError, "'quality' read 10 rows, but dropped 3 and kept 8"),
    ],
)
def test_a_card_that_would_not_be_true_is_refused(folder, options, error, message):
    with pytest.raises(error, match=message):
        write(folder, **options)
    assert not (folder / "README.md").exists()


# --- licences -----------------------------------------------------------------------------------------------------


def facts(licence=None, expression=None, classifiers=()):
    message = email.message.Message()
    if expression:
        message["License-Expression"] = expression
    if licence:
        message["License"] = licence
    for classifier in classifiers:
        message["Classifier"] = classifier
    return message


OSI = "License :: OSI Approved"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (facts("BSD", "MIT OR 0BSD", [f"{OSI} :: BSD License"]), "MIT OR 0BSD"),
        (facts("BSD", None, [f"{OSI} :: MIT License"]), "BSD"),
        (facts("UNKNOWN", None, [OSI, f"{OSI} :: MIT License", "Topic :: Text"]), "MIT License"),
        (facts(None, None, [f"{OSI} :: MIT License", f"{OSI} :: BSD License"]), "MIT License; BSD License"),
        (facts("The Licence\n\nPermission is\ngranted", None, [f"{OSI} :: MIT License"]), "MIT License"),
        (facts("The Licence\n\nPermission is\ngranted"), "The Licence"),
        (facts("UNKNOWN", None, [OSI]), "unknown"),
        (facts(), "unknown"),
    ],
)
def test_the_licence_is_the_first_that_is_stated(given, expected):
    assert datacard._licence(given) == expected


def test_licences_of_installed_packages_by_the_name_they_are_imported_by():
    table = datacard.package_licences(["ast", "PIL", "pillow", "numpy", "no_such_package"]).set_index("package")
    assert table.columns.tolist() == ["version", "licence"]
    assert table.loc["ast"].tolist() == [platform.python_version(), "PSF-2.0"]
    assert table.loc["PIL"].tolist() == table.loc["pillow"].tolist() != ["unknown", "unknown"]
    assert table.loc["numpy", "version"] == __import__("numpy").__version__
    assert "BSD" in table.loc["numpy", "licence"]
    assert table.loc["no_such_package"].tolist() == ["unknown", "unknown"]
