"""On PYTHONPATH of a notebook's kernel: every connection to anything but this machine is refused."""

import ipaddress
import socket


def _refuse(address) -> None:
    host = address[0] if isinstance(address, tuple) else ""
    if host in ("", "localhost"):
        return
    try:
        local = ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        local = False
    if not local:
        raise OSError(f"a notebook under test reached for the network: {address!r}")


def _guarded(method):
    def call(self, address, *args):
        _refuse(address)
        return method(self, address, *args)

    return call


def _lookup(host, *args, **kwargs):
    _refuse((host.decode() if isinstance(host, bytes) else host or "",))
    return _getaddrinfo(host, *args, **kwargs)


_getaddrinfo = socket.getaddrinfo
socket.socket.connect = _guarded(socket.socket.connect)
socket.socket.connect_ex = _guarded(socket.socket.connect_ex)
socket.getaddrinfo = _lookup
