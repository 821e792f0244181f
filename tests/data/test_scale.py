"""A hundred thousand documents through every cleaning step, in a child process that counts its memory."""

import json
import subprocess
import sys

import pytest

DOCUMENTS, GROWTH = 100_000, 2e9  # bytes

CHILD = """
import json, random, sys, time
import datasets, ftfy, pandas, phonenumbers, py3langid, rensa
from nbhelpers.core import memory_usage
from nbhelpers.data import cleaning, contamination, duplicates, pydocs, splits

def documents(count):
    entries, rng = pydocs.corpus(workers=1), random.Random(0)
    for number in range(count):
        entry = entries[number % len(entries)]
        words = entry["text"].split(" ")
        for _ in range(1 + len(words) // 8):  # one word in eight, so that no two documents are near-duplicates
            words.insert(rng.randrange(len(words) + 1), f"{rng.choice(('item', 'case', 'part'))}{rng.randrange(10**6)}")
        yield {"text": " ".join(words) + f" This is document {number}.", "package": entry["package"]}

began = time.perf_counter()
with memory_usage.peak() as peak:
    raw = list(documents(int(sys.argv[1])))
    done = [cleaning.validate(raw)]
    for step in (cleaning.normalise, cleaning.keep_language, cleaning.filter_quality, duplicates.drop_exact,
                 duplicates.drop_near, cleaning.redact):
        done.append(step(done[-1].rows))
    table = cleaning.account(done)
    train, test = splits.split(done[-1].rows, seed=0)
    leaked = contamination.decontaminate(train, test)
    train = leaked.rows
    splits.prove_disjoint(train, test)
print(table.to_string(), file=sys.stderr)
print(json.dumps({"seconds": time.perf_counter() - began, "growth": peak.bytes,
                  "dropped": int(table.dropped.sum()) + sum(leaked.dropped.values()),
                  "read": done[0].read, "train": len(train), "test": len(test)}))
"""


@pytest.mark.slow
def test_a_hundred_thousand_documents_go_end_to_end_within_two_gigabytes():
    command = [sys.executable, "-c", CHILD, str(DOCUMENTS)]
    child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1_800)
    assert child.returncode == 0, child.stderr[-2_000:]
    found = json.loads(child.stdout.splitlines()[-1])  # after the lines of progress
    print(f"{child.stderr}\n{found['seconds']:.0f} s, {found['growth'] / 1e9:.2f} GB more than at the start")
    assert found["read"] == DOCUMENTS == found["dropped"] + found["train"] + found["test"]
    assert found["train"] + found["test"] > 0.5 * DOCUMENTS  # most went through every step
    assert 0 < found["growth"] < GROWTH
