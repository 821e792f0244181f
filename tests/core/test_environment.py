import socket
from contextlib import closing

from nbhelpers.core import environment, hardware


def test_a_host_that_does_not_answer_is_a_fact_and_no_error():
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        assert not environment.reachable("127.0.0.1", port)
        server.listen()
        assert environment.reachable("127.0.0.1", port)


def test_a_name_that_is_not_found_is_no_error_either(monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "create_connection", fail)
    assert not environment.reachable("no-such-host.invalid")


def test_the_description_has_a_word_for_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "reachable", lambda host: False)
    facts = environment.describe(hardware.detect(), "float32", tmp_path / "not" / "there")
    assert {"processor", "memory", "GPU", "computes in", "disk"} <= facts.keys()
    assert all(facts.values())
    assert "embedded" in facts["Hugging Face Hub"]


def test_a_package_that_is_missing_says_so(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "no-such-package"))
    found = environment.versions()
    assert found["no-such-package"] == "not installed"
    assert found["torch"][0].isdigit()
