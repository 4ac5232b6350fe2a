"""A SOCKS5 client that waits for a connection (BIND), and the peers that come.

Usage: bind.py RELAY_HOST RELAY_PORT PEER STRANGER
Prints one line per step; any other outcome ends it with an error.
"""
import socket
import struct
import sys

relay, relay_port, peer, stranger = sys.argv[1:]
IPPROTO_MPTCP = 262


def address(reply):
    assert reply[:4] == b"\5\0\0\1", reply
    return socket.inet_ntoa(reply[4:8]), struct.unpack("!H", reply[8:])[0]


def comes(source, to):
    s = socket.socket()
    s.settimeout(20)
    s.bind((source, 0))
    s.connect(to)
    return s


def exactly(s, count):
    heard = b""
    while len(heard) < count:
        part = s.recv(count - len(heard))
        assert part, heard
        heard += part
    return heard


control = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
control.settimeout(20)
control.connect((relay, int(relay_port)))
control.sendall(b"\5\1\0\5\2\0\1" + socket.inet_aton(peer) + b"\0\0")
assert exactly(control, 2) == b"\5\0"
bound = address(exactly(control, 10))
print("waits", flush=True)
try:
    comes(stranger, bound)
    raise SystemExit("a stranger was connected")
except ConnectionRefusedError:
    print("refused", flush=True)
data = comes(peer, bound)
assert address(exactly(control, 10)) == data.getsockname()
print("connected", flush=True)
try:
    comes(peer, bound)
    raise SystemExit("a second one was connected")
except ConnectionRefusedError:
    pass
object = bytes(range(256)) * 4000
data.sendall(object)
data.shutdown(socket.SHUT_WR)
assert exactly(control, len(object)) == object
assert control.recv(1) == b""
control.sendall(b"thanks")
control.close()
assert exactly(data, 6) == b"thanks" and data.recv(1) == b""
print("through", flush=True)
