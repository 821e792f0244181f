"""The load test against a server that answers as each case says: streams, usage, errors, and few requests."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nbhelpers.core.errors import ParameterError
from nbhelpers.serving import load_test
from nbhelpers.serving.load_test import Load, Request

USAGE = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}


class Fake:
    """Answers with the chunks `content`, then a chunk without choices; `manner(number)` says how the n-th request ends.

    `ok`, `no usage`, `empty`, `error`, or `cut`: the connection is closed in the middle.
    """

    def __init__(self, manner, delay: float = 0.0):
        self.manner, self.delay, self.bodies, self.now, self.most = manner, delay, [], 0, 0
        self.lock = threading.Lock()

    def __enter__(self):
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with fake.lock:
                    fake.bodies.append(body)
                    how = fake.manner(len(fake.bodies) - 1)
                    fake.now += 1
                    fake.most = max(fake.most, fake.now)
                try:
                    self.answer(how)
                finally:
                    with fake.lock:
                        fake.now -= 1

            def answer(self, how):
                self.send_response(500 if how == "error" else 200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                if how == "error":
                    return
                for text in [] if how == "empty" else ["one ", "two", " three"]:
                    time.sleep(fake.delay)
                    self.send({"choices": [{"index": 0, "delta": {"content": text}}]})
                    if how == "cut":
                        self.wfile.flush()
                        self.connection.close()
                        return
                self.send({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
                self.send({"choices": []} | ({} if how == "no usage" else {"usage": USAGE}))
                self.wfile.write(b"data: [DONE]\n\n")

            def send(self, part: dict):
                chunk = {"id": "a", "object": "chat.completion.chunk", "created": 1, "model": "m"} | part
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
                self.wfile.flush()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def prompts(number: int) -> list:
    return [[{"role": "user", "content": str(i)}] for i in range(number)]


def test_tokens_are_those_of_the_usage_and_not_the_chunks():
    with Fake(lambda _: "ok") as fake:
        load = load_test.run(fake.url, "m", prompts(4), 2, max_tokens=5)
    assert [(one.tokens, one.prompt_tokens, one.text, one.estimated) for one in load.requests] == [
        (5, 12, "one two three", False)
    ] * 4
    assert load.errors == 0
    for body in fake.bodies:  # what servers are known to ignore is not sent, and sampling is said
        assert body["max_tokens"] == 5
        assert body["temperature"] == 0
        assert body["stream_options"] == {"include_usage": True}
    assert len(fake.bodies) == 4 + load_test.WARM_UP


def test_without_usage_tokens_are_counted_and_said_to_be_estimated(tokenizer):
    with Fake(lambda _: "no usage") as fake:
        load = load_test.run(fake.url, "m", prompts(1), 1, max_tokens=5, tokenizer=tokenizer)
    (request,) = load.requests
    assert request.estimated
    assert request.tokens == len(tokenizer("one two three")["input_ids"]) > 0


def test_failed_requests_are_counted_and_enter_no_percentile():
    with Fake(lambda number: "error" if number == 4 else "cut" if number == 5 else "ok") as fake:
        load = load_test.run(fake.url, "m", prompts(20), 1, max_tokens=5)
    assert load.errors == 2
    assert len(load.done) == 18
    assert load.tokens_per_second == pytest.approx(18 * 5 / load.seconds)
    errors = [request.error.split(":")[0] for request in load.requests if request.error]
    assert errors == ["InternalServerError", "the stream broke off"]


def test_an_answer_without_a_token_has_no_time_to_first_token():
    with Fake(lambda _: "empty") as fake:
        (request,) = load_test.run(fake.url, "m", prompts(1), 1, max_tokens=5).requests
    assert request.first_token is None
    assert request.gaps == ()


@pytest.mark.parametrize("at_once", [1, 3])
def test_as_many_requests_are_open_as_asked_and_none_waits_in_the_figures(at_once):
    with Fake(lambda _: "ok", delay=0.02) as fake:
        load = load_test.run(fake.url, "m", prompts(9), at_once, max_tokens=5)
    assert fake.most == at_once
    assert sum(request.seconds for request in load.requests) <= at_once * load.seconds * 1.01


def test_a_server_that_is_gone_leaves_errors_and_no_exception():
    with Fake(lambda _: "ok") as fake:
        url = fake.url
    load = load_test.run(url, "m", prompts(3), 2, max_tokens=5)
    assert load.errors == 3
    assert load_test.table([load]).loc[2, "errors"] == 3


def test_percentiles_are_observed_values_and_few_requests_have_no_high_one():
    times = [1.0] * 9 + [10.0]
    assert load_test.percentile(times, 0.5) == 1.0
    assert load_test.percentile(times, 0.95) is None
    assert load_test.percentile(times * 2, 0.95) == 10.0
    assert load_test.percentile(list(range(1, 101)), 0.99) == 99
    assert load_test.percentile([], 0.5) is None


def load_of(at_once: int, times: list[float]) -> Load:
    return Load(at_once, 19.0, [Request(t, t / 2, 5, 12, "a", (0.1,)) for t in times])


def test_the_table_shows_the_slowest_where_a_percentile_is_withheld():
    found = load_test.table([load_of(1, [1.0] * 9 + [10.0])])
    row = found.loc[1]
    assert [name for name in found if " p" in name] == [
        "first token p50 (s)", "between chunks p50 (s)", "request p50 (s)"
    ]  # fmt: skip
    assert (row["request p50 (s)"], row["slowest (s)"]) == ("1.00", "10.00")
    assert (row["requests"], row["tokens/s"]) == (10, f"{50 / 19:.1f}")


def test_the_table_shows_high_percentiles_where_one_concurrency_has_enough_requests():
    found = load_test.table([load_of(1, [1.0]), load_of(2, [1.0] * 18 + [4.0, 10.0])])
    assert found["first token p95 (s)"].tolist() == ["", "2.00"]
    assert found["request p95 (s)"].tolist() == ["", "4.00"]
    assert "request p99 (s)" not in found


@pytest.mark.parametrize(("number", "at_once"), [(0, 1), (2, 0)])
def test_nothing_to_send_is_refused(number, at_once):
    with pytest.raises(ParameterError, match=f"{number} prompts at concurrency={at_once}"):
        load_test.run("http://127.0.0.1:1", "m", prompts(number), at_once, 5)
