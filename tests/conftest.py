"""For every test: no network, one thread, examples that are always the same, and the tiny `smoke` model, made once."""

import copy
import ipaddress
import os
import socket

import hypothesis
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the Hub libraries are imported; child processes inherit it
# The smoke model is too small to share: on a busy machine two threads wait for each other most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported; child processes inherit it
hypothesis.settings.register_profile("same every time", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same every time")


def _is_here(host) -> bool:
    host = host.decode() if isinstance(host, bytes) else host
    if host in (None, "", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


@pytest.fixture(scope="session", autouse=True)
def _attempts():
    """Refuses every address but this machine's own, and keeps the list of those that were tried."""
    attempts = []

    def refuse(host) -> None:
        attempts.append(host)
        raise AssertionError(f"A test tried to reach {host!r}: tests run without a network.")

    def guarded(method):
        def call(self, address, *args):
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0]):
                refuse(address[0])
            return method(self, address, *args)

        return call

    def guarded_lookup(function):
        def call(host, *args, **kwargs):
            return function(host, *args, **kwargs) if _is_here(host) else refuse(host)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
        for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
            patch.setattr(socket, name, guarded_lookup(getattr(socket, name)))
        yield attempts


@pytest.fixture(autouse=True)
def no_network(_attempts):
    """Fails a test that tried to leave this machine, even where the code under test caught the refusal."""
    _attempts.clear()
    yield _attempts
    assert not _attempts, f"This test tried to reach {', '.join(map(str, _attempts))}."


@pytest.fixture(scope="session")
def smoke():
    """`(model, tokenizer)` of about a million random parameters, for tests that do not change it."""
    from nbhelpers.models import loading

    return loading.load("smoke", "float32")


@pytest.fixture
def model(smoke):
    """A copy of the smoke model that a test may change."""
    return copy.deepcopy(smoke[0])


@pytest.fixture
def tokenizer(smoke):
    """A copy of the smoke tokenizer that a test may change."""
    return copy.deepcopy(smoke[1])
