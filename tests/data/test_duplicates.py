import math
import random
from collections import Counter
from functools import cache

import networkx
import pytest
from datasets import Dataset, concatenate_datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from nbhelpers.core.errors import ParameterError
from nbhelpers.data import cleaning, contamination, defects_copies, duplicates, pydocs, splits, wording
from nbhelpers.data.duplicates import DuplicateIndex

VOCABULARY = [f"{a}{b}" for a in ("ba", "do", "mi", "fu", "ge", "lo", "pa", "ri", "su", "te")
              for b in ("kan", "lor", "mis", "nut", "pes", "rav", "sol", "tig", "vum", "zed")]  # fmt: skip


def rows(texts: list[str], prefix: str = "row", **columns) -> Dataset:
    return Dataset.from_dict({"id": [f"{prefix}-{i}" for i in range(len(texts))], "text": texts} | columns)


def prose(count: int, words: int = 30, seed: int = 0) -> list[str]:
    """Texts of different words, no two of which are a keystroke apart."""
    rng = random.Random(seed)
    return [" ".join(rng.sample(VOCABULARY, words)) for _ in range(count)]


def named(texts: list[str], prefix: str) -> list[str]:
    return [f"{prefix}-{i}" for i in range(len(texts))]


@pytest.fixture(scope="module")
def docstrings() -> list[str]:
    """Real docstrings of 20 words or more, each once."""
    found = pydocs.packages_on_disk()
    texts = [row["text"] for name in ("jinja2", "requests") for row in pydocs.read_package(name, found[name])]
    return sorted({text for text in texts if len(wording.words(text)) >= 20})[:200]


# --- words and slips ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat's Tail, it_is; it's 3.5!", ["the", "cats", "tail", "it_is", "its", "3", "5"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("模型ok训练", ["模", "型", "ok", "训", "练"]),
        ("データ", ["デ", "ー", "タ"]),
        ("데이터 세트", ["데이터", "세트"]),
        ("--- ***", []),
        ("", []),
    ],
)
def test_words_of_known_texts(text, expected):
    assert wording.words(text) == expected


def damerau_levenshtein(a: str, b: str) -> int:
    """Edits that make one word of the other, by the recurrence of the restricted distance."""
    table = {(i, j): max(i, j) for i in range(len(a) + 1) for j in range(len(b) + 1) if not i or not j}
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            costs = [table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a[i - 1] != b[j - 1])]
            if i > 1 and j > 1 and a[i - 2 : i] == b[j - 2 : j][::-1]:
                costs.append(table[i - 2, j - 2] + 1)
            table[i, j] = min(costs)
    return table[len(a), len(b)]


@cache
def keystrokes(word: str, letters: str) -> set[str]:
    """Every word that one keystroke on letters alone makes of this one; of a single sign no other single one."""
    cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    deleted = {left + right[1:] for left, right in cuts if right and right[0] in letters}
    inserted = {left + sign + right for left, right in cuts for sign in letters}
    replaced = {left + sign + right[1:] for left, right in cuts if right and right[0] in letters for sign in letters}
    swapped = {
        left + right[1] + right[0] + right[2:]
        for left, right in cuts
        if len(right) > 1 and right[0] in letters and right[1] in letters
    }
    return {other for other in deleted | inserted | replaced | swapped if max(len(other), len(word)) > 1} - {word, ""}


SHORT = st.text("abc", min_size=1, max_size=5)


@given(SHORT, SHORT)
@settings(max_examples=200)
def test_a_slip_is_a_damerau_levenshtein_distance_of_one(a, b):
    assert wording.is_slip(a, b) == (damerau_levenshtein(a, b) == 1 and max(len(a), len(b)) > 1)


@given(st.text("ab12", min_size=1, max_size=5))
@settings(max_examples=60)
def test_no_slip_touches_a_digit(word):
    expected = keystrokes(word, "ab")
    near = {word[:i] + new + word[j:] for i in range(len(word) + 1) for j in range(i, len(word) + 1)
            for new in ("", "a", "b", "1", "2", word[i:j][::-1])} - {""}  # fmt: skip
    for other in near | expected:
        assert wording.is_slip(word, other) == wording.is_slip(other, word) == (other in expected), other


# --- the index against brute force --------------------------------------------------------------------------------


LETTERS = "abcdefghijklmnopqrstuvwxyz_"


def similarity(a: Counter, b: Counter, frequency: Counter, threshold: float) -> float:
    """What the module promises, by counting: shared words, and as many slips as can be paired; 0 far below."""
    total, shared = a.total() + b.total(), sum(min(count, b[word]) for word, count in a.items())
    if shared < 0.4 * max(a.total(), b.total()) or min(a.total(), b.total()) < threshold * max(a.total(), b.total()):
        return 0.0
    left, right = list((a - b).elements()), list((b - a).elements())

    def forgiven(x: str, y: str) -> bool:
        rare, common = sorted((frequency[x], frequency[y]))
        return rare <= max(1, common / 20) or bool({x, y} & duplicates._SMALL_WORDS)

    graph = networkx.Graph()
    graph.add_edges_from(
        (("left", i), ("right", j))
        for i, x in enumerate(left)
        for j, y in enumerate(right)
        if abs(len(x) - len(y)) < 2 and y in keystrokes(x, LETTERS) and forgiven(x, y)
    )
    shared += len(networkx.max_weight_matching(graph, maxcardinality=True))
    return shared / (total - shared)


def without(share: float, text: str, rng: random.Random) -> str:
    """The text with this share of its words left out."""
    words = text.split()
    gone = set(rng.sample(range(len(words)), round(share * len(words))))
    return " ".join(word for i, word in enumerate(words) if i not in gone)


@pytest.mark.parametrize("threshold", [0.95, 0.75, 0.55])
def test_the_index_finds_the_pairs_that_brute_force_finds_and_no_other(docstrings, threshold):
    rng = random.Random(1)
    families = [family for family in defects_copies.COPIES if family != "sentence reorder"]
    edited = [defects_copies.COPIES[families[i % len(families)]](text, rng) for i, text in enumerate(docstrings)]
    edited = [without(rng.choice([0, 0.03, 0.1, 0.25, 0.4]), text, rng) for text in edited]
    index = DuplicateIndex(threshold)
    index.add(named(docstrings, "kept"), docstrings, compare=False)
    found = index.add(named(edited, "edited"), edited, keep=False)

    kept, others = ([Counter(wording.words(text)) for text in texts] for texts in (docstrings, edited))
    frequency = Counter(word for words in kept + others for word in words)
    wanted = hits = equal = 0
    for words, match in zip(others, found, strict=True):
        if words.total() < 20:
            assert match is None
            continue
        values = [similarity(words, other, frequency, threshold) for other in kept]
        if match:
            assert threshold <= match[1] <= values[int(match[0].removeprefix("kept-"))] + 1e-12
            equal += match[1] == pytest.approx(max(values), abs=1e-12)
        wanted += max(values) >= threshold
        hits += match is not None
    assert 70 < wanted < len(edited) - 20
    assert 0.99 * wanted <= hits <= wanted
    assert equal >= 0.98 * hits  # one slip may be taken for two words; then the first has it


@pytest.mark.parametrize("family", ["case", "whitespace", "word swaps 10 %", "sentence reorder", "punctuation"])
def test_what_keeps_its_words_is_the_same_text(family):
    text = " ".join(f"{sentence.capitalize()}." for sentence in prose(4, words=10))
    copy = defects_copies.COPIES[family](text, random.Random(0))
    assert copy != text
    assert duplicates.drop_near(rows([text, copy])).log == [("row-1", "dropped", "near-duplicate", "row-0 1.000")]


def test_words_count_as_often_as_they_occur():
    text = prose(1, words=20)[0]
    assert not duplicates.drop_near(rows([text, f"{text} {text}"]), threshold=0.6).log
    assert duplicates.drop_near(rows([text, f"{text} {text.split()[0]}"])).log[0][3] == "row-0 0.952"  # 20 of 21


def test_the_threshold_itself_is_near_enough():
    text = prose(1, words=19)[0]
    texts = [text, f"{text} pineapple"]  # 19 of 20 words
    index = DuplicateIndex(0.95, min_words=19)
    assert index.add(["a", "b"], texts) == [None, ("a", 0.95)]
    assert DuplicateIndex(0.951, min_words=19).add(["a", "b"], texts) == [None, None]


def test_a_rare_word_a_keystroke_off_is_a_slip_and_a_usual_word_is_another_word():
    text = prose(1, words=25)[0]
    zebra, zebrq = f"{text} zebra", f"{text} zebrq"
    usual = [f"{word} {i} bottles" for i in range(3) for word in ("zebra", "zebrq")]
    assert duplicates.drop_near(rows([zebra, zebrq])).log[0][3] == "row-0 1.000"
    assert not duplicates.drop_near(rows([zebra, zebrq, *usual])).log  # 25 of 27 words
    assert duplicates.drop_near(rows([f"{text} of", f"{text} off", "of", "of", "off", "off"])).log  # a small word


def test_another_number_is_another_text():
    text = prose(1, words=25)[0]
    assert not duplicates.drop_near(rows([f"{text} version 3", f"{text} version 4"])).log
    assert not duplicates.drop_near(rows([f"{text} utf8", f"{text} utf7"])).log


@pytest.mark.parametrize("first", [0x4E00, 0x3042, 0x0E01])  # Chinese, Japanese, Thai
def test_scripts_without_spaces(first):
    rng = random.Random(first)
    signs = [chr(first + i) for i in range(40)]
    if first == 0x0E01:
        text = " ".join("".join(rng.choices(signs, k=4)) for _ in range(30))
        other = " ".join("".join(rng.choices(signs, k=4)) for _ in range(30))
    else:
        text, other = "".join(rng.sample(signs, 30)), "".join(chr(first + 50 + i) for i in range(30))
    found = duplicates.drop_near(rows([text, f"{text}。", other, f"「{text}」"]))
    assert [line[0] for line in found.log] == ["row-1", "row-3"]


def test_another_sign_is_another_word_in_a_script_without_spaces():
    text = "".join(chr(0x4E00 + i) for i in range(30))
    assert not duplicates.drop_near(rows([text, "甲乙丙" + text[3:]])).log  # three names of 30 signs


def test_the_witness_of_a_drop_is_a_kept_row(docstrings):
    rng = random.Random(0)
    edit, originals = defects_copies.COPIES["edits 1 %"], docstrings[:120]
    texts = originals + [edit(text, rng) for text in originals for _ in range(2)]
    rng.shuffle(texts)
    data = rows(texts)
    found = duplicates.drop_near(data)
    kept, dropped = set(found.rows["id"]), {name: detail.split() for name, _, _, detail in found.log}
    assert len(dropped) > 150
    assert kept.isdisjoint(dropped)
    place = {name: i for i, name in enumerate(data["id"])}
    for name, (witness, value) in dropped.items():
        assert witness in kept
        assert place[witness] < place[name]
        assert 0.95 <= float(value) <= 1
    assert [row["id"] for row in found.rows] == [name for name in data["id"] if name in kept]
    assert duplicates.drop_near(data).log == found.log


def test_the_nearest_row_is_the_witness():
    text = prose(1, words=40)[0].split()
    near, nearer = " ".join([*text[:-2], "apple", "banana"]), " ".join([*text[:-1], "apple"])
    index = DuplicateIndex(0.9)
    index.add(["near", "nearer"], [near, nearer], compare=False)
    assert index.add(["new"], [" ".join(text)], keep=False) == [("nearer", pytest.approx(39 / 41))]


def test_texts_that_are_only_compared_leave_no_trace():
    text = prose(1, words=25)[0]
    index = DuplicateIndex()
    assert index.add(["zebra"], [f"{text} zebra"]) == [None]
    new = prose(10, seed=5)
    again = [index.add(named(new, "new"), new, keep=False) for _ in range(2)]
    assert again == [[None] * 10] * 2  # the second time nothing of the first is there
    index.add(named(new, "many"), ["zebra zebrq"] * 10, keep=False)
    assert index.add(["zebrq"], [f"{text} zebrq"]) == [("zebra", 1.0)]  # so zebrq is still a rare word


def test_texts_that_are_not_compared_are_all_kept():
    text = prose(1)[0]
    index = DuplicateIndex()
    assert index.add(["a", "b"], [text, text], compare=False) == [None, None]
    assert index.add(["c"], [text]) == [("a", 1.0)]


@pytest.mark.parametrize("size", [1, 7, 100])
def test_shards_give_what_one_call_gives(size):
    rng = random.Random(2)
    texts = prose(100)
    texts += [defects_copies.COPIES["word swaps 5 %"](rng.choice(texts), rng) for _ in range(60)]
    texts += [without(0.04, text, rng) for text in texts[:60]]
    rng.shuffle(texts)
    data, index = rows(texts), DuplicateIndex()
    shards = [data.select(range(i, min(i + size, len(data)))) for i in range(0, len(data), size)]
    in_shards = [line for shard in shards for line in duplicates.drop_near(shard, index=index).log]
    assert in_shards == duplicates.drop_near(data).log
    assert len(in_shards) >= 100
    seen: dict[bytes, str] = {}
    exact = [line for shard in shards for line in duplicates.drop_exact(shard, seen).log]
    assert exact == duplicates.drop_exact(data).log


@pytest.mark.parametrize(("words", "dropped"), [(19, 0), (20, 1)])
def test_short_texts_are_no_near_duplicates(words, dropped):
    text = prose(1, words)[0]
    assert len(duplicates.drop_near(rows([text, f"{text}!"])).log) == dropped
    index = DuplicateIndex(min_words=words)
    assert len(duplicates.drop_near(rows([text, f"{text}!"]), index=index).log) == 1


def test_empty_texts():
    data = rows(["", "", " \n", "---"])
    assert [line[0] for line in duplicates.drop_exact(data).log] == ["row-1", "row-2"]
    assert not duplicates.drop_near(data).log
    assert [line[0] for line in duplicates.drop_near(data, index=DuplicateIndex(min_words=1)).log] == ["row-1", "row-2"]


@pytest.mark.parametrize("threshold", [0.5, 0, -1, 1.01, math.nan, math.inf])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(ParameterError, match=r"threshold=.* is outside 0.5 to 1"):
        duplicates.drop_near(rows(prose(2)), threshold)


def test_texts_that_have_little_in_common_are_not_compared(monkeypatch):
    rng, compared = random.Random(0), []
    vocabulary = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(5_000)]
    texts = [" ".join(rng.choices(vocabulary, k=25)) for _ in range(10_000)]
    plain = DuplicateIndex.similarity
    monkeypatch.setattr(DuplicateIndex, "similarity", lambda *args: compared.append(1) or plain(*args))
    index = DuplicateIndex()
    assert index.add(named(texts, "row"), texts) == [None] * len(texts)
    assert len(compared) < 10, "of 50 million pairs"
    assert index.add(["again"], texts[:1], keep=False) == [("row-0", 1.0)]
    assert compared


# --- exact duplicates ---------------------------------------------------------------------------------------------


def test_exact_duplicates_are_the_same_but_for_case_and_white_space():
    data = rows(["A  cat.\n", "a cat.", "A cat!", "A CAT.", "acat."], task=list("abcde"))
    found = duplicates.drop_exact(data)
    assert found.log == [(f"row-{i}", "dropped", "exact duplicate", "row-0") for i in (1, 3)]
    assert found.rows.to_list() == [data[i] for i in (0, 2, 4)]


def test_a_row_of_a_later_shard_is_found_under_whatever_id():
    seen: dict[bytes, str] = {}
    assert not duplicates.drop_exact(rows(["one", "two"]), seen).log
    assert duplicates.drop_exact(rows(["one", "three"]), seen).log == [("row-0", "dropped", "exact duplicate", "row-0")]


# --- evaluation rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [13, 8])
def test_a_run_of_size_words_is_contamination_and_one_word_less_is_not(size):
    evaluation, hosts = prose(1, words=40)[0].split(), prose(3, words=5, seed=9)
    runs = [evaluation[5 : 5 + length] for length in (size - 1, size, size + 2)]
    texts = [f"{host} Then: {', '.join(run).upper()}!" for host, run in zip(hosts, runs, strict=True)]
    found = contamination.decontaminate(rows(texts), rows([" ".join(evaluation)], "test"), size)
    reason = f"{size} words of an evaluation row"
    assert found.log == [("row-1", "dropped", reason, "test-0, 1 runs"), ("row-2", "dropped", reason, "test-0, 3 runs")]


def test_the_evaluation_row_named_is_that_of_most_runs():
    one, two = prose(2, words=40)
    text = f"{' '.join(one.split()[:14])} apple {' '.join(two.split()[:18])}"
    found = contamination.decontaminate(rows([text]), [rows([one], "one"), rows([two], "two")])
    assert found.log[0][3] == "two-0, 6 runs"


def test_rows_of_messages_and_of_text_meet():
    one, two, three = prose(3, words=20)
    turns = [[{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
             for question, answer in ((one, "Yes."), ("Why?", two), ("What?", "Nothing."))]  # fmt: skip
    messages = Dataset.from_dict({"id": ["a", "b", "c"], "messages": turns})
    assert [line[0] for line in contamination.decontaminate(messages, rows([one, two, three])).log] == ["a", "b"]
    found = contamination.decontaminate(rows([three, two, one]), messages)
    assert [line[0] for line in found.log] == ["row-1", "row-2"]
    assert contamination.decontaminate(messages, messages).dropped == {
        "13 words of an evaluation row": 2,
        "repeats an evaluation row": 1,
    }


def test_a_near_duplicate_without_a_long_run_is_contamination():
    words = prose(1, words=40)[0].split()
    for i in range(0, 40, 10):
        words[i], words[i + 1] = words[i + 1], words[i]
    found = contamination.decontaminate(rows([" ".join(words)]), rows(prose(1, words=40), "test"))
    assert found.log == [("row-0", "dropped", "repeats an evaluation row", "test-0 1.000")]


def test_a_short_evaluation_row_is_found_as_it_is_alone():
    data = rows(["What is 2 + 2?", "what is  2 + 2?\n", "What is 2 * 2?", "What is 2 + 2? And why?"])
    found = contamination.decontaminate(data, rows(["What is 2 + 2?"], "test"))
    assert [line[0] for line in found.log] == ["row-0", "row-1"]


def test_evaluation_rows_that_resemble_each_other_are_all_compared():
    words = prose(1, words=60)[0].split()
    broken = [*words[:12], "apple", *words[12:24], "banana", *words[24:36], *words[48:60], *words[36:48]]
    first, second, third = " ".join(words), " ".join(broken[:-1]), " ".join([*broken[:-3], "cherry"])
    found = duplicates.repeated(rows([third]), [rows([first, second], "test")], 0.92)
    assert found == [("test-1", pytest.approx(59 / 62))]
    assert duplicates.repeated(rows([third]), [rows([first], "test")], 0.92) == [None]


def test_the_rows_left_pass_the_proof(docstrings):
    texts = [{"id": str(i), "text": text} for i, text in enumerate(docstrings)]
    leaked, truth = defects_copies.leaks(texts[::2], texts[1::2], 0, 60)
    train, test = Dataset.from_list(leaked), Dataset.from_list(texts[1::2])
    left = contamination.decontaminate(train, test).rows
    assert len(set(truth) & set(left["id"])) <= 3
    assert splits.prove_disjoint(left, test)["leaked"] == 0


# --- every row is accounted for -----------------------------------------------------------------------------------

STEPS = {
    "exact": duplicates.drop_exact,
    "near": lambda data: duplicates.drop_near(data, 0.8, index=DuplicateIndex(0.8, min_words=2)),
    "decontaminate": lambda data: contamination.decontaminate(data, rows(["a b c", "", "b b b b c a"], "test"), 3),
}
TEXTS = st.lists(st.lists(st.sampled_from(["a", "b", "C", "abc", "abd", "...", "模型"]), max_size=8).map(" ".join))


@given(TEXTS, st.sampled_from(sorted(STEPS)))
@settings(max_examples=60)
def test_every_row_is_kept_or_dropped_once(texts, name):
    data = rows(texts)
    found = STEPS[name](data)
    dropped = [line[0] for line in found.log]
    assert len(set(dropped)) == len(dropped)
    assert sorted([*found.rows["id"], *dropped]) == sorted(data["id"])
    assert found.read == len(texts)
    left = found.rows if len(found.rows) else data.select([])
    assert not STEPS[name](left).log  # nothing is left to drop


@pytest.mark.parametrize("name", STEPS)
def test_rows_after_select_and_filter(name):
    texts = ["a b c", "A b  c", "abc abc", "abc abc", "", "b a c"]
    data = rows([*texts, *texts])
    part = data.filter(lambda row: int(row["id"].removeprefix("row-")) >= 6).select([5, 4, 3, 2, 1, 0])
    found, plain = STEPS[name](part), STEPS[name](Dataset.from_list(part.to_list()))
    assert found.log == plain.log != []
    assert found.rows.to_list() == plain.rows.to_list()
    empty = STEPS[name](data.select([]))
    assert (empty.read, len(empty.rows), empty.log) == (0, 0, [])
    assert cleaning.account([STEPS["exact"](data.select([])), empty])["kept"].tolist() == [0, 0]


def test_the_wording_of_a_template_is_no_leak_but_what_only_one_row_shares_is():
    form = "Please fill in the name of the version and the steps that lead to what you saw: "
    rows = text_rows([form + f"button {i} of window {i * 7} does nothing when pressed" for i in range(5)])
    alone = "the quick brown fox jumps over the lazy dog while nobody in the garden looks at it"
    evaluation = text_rows([form + "the colours are wrong on my second screen", alone])
    more = text_rows([form + "button 0 of window 0 does nothing when pressed", f"As they say, {alone}."])
    assert contamination.decontaminate(rows, evaluation).dropped == {}
    found = contamination.decontaminate(concatenate_datasets([rows, more]), evaluation)
    assert found.dropped == {"13 words of an evaluation row": 1}
    assert sum(contamination.decontaminate(rows, evaluation, common=5).dropped.values()) == 5
    often = text_rows(
        [f"Number {i} says: {alone}, as ever {i}." for i in range(9)]
    )  # half of it is a leak at any count
    assert sum(contamination.decontaminate(often, evaluation).dropped.values()) == 9


def text_rows(texts: list[str]):
    return Dataset.from_list([{"id": f"r{i}", "text": text} for i, text in enumerate(texts)])
