"""A SOCKS5 client whose datagrams come from whichever network its control connection has joined from.

Usage: roaming.py RELAY_HOST RELAY_PORT ECHO_HOST ECHO_PORT FIRST SECOND STRANGER
Prints one line per step; any other outcome ends it with an error.
"""
import socket
import struct
import sys
import time

relay, relay_port, echo, echo_port, first, second, stranger = sys.argv[1:]
IPPROTO_MPTCP = 262
control = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
control.settimeout(20)
control.bind((first, 0))
control.connect((relay, int(relay_port)))
control.sendall(b"\5\1\0")
assert control.recv(2) == b"\5\0"
control.sendall(b"\5\3\0\1" + bytes(6))
reply = control.recv(10)
assert reply[:4] == b"\5\0\0\1", reply
bound = (socket.inet_ntoa(reply[4:8]), struct.unpack("!H", reply[8:])[0])
print("associated", flush=True)


def asks(source, patience):
    """Whether an echo comes back to a socket at `source`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind((source, 0))
        datagrams.settimeout(0.2)
        header = b"\0\0\0\1" + socket.inet_aton(echo) + struct.pack("!H", int(echo_port))
        until = time.monotonic() + patience
        while time.monotonic() < until:
            datagrams.sendto(header + source.encode(), bound)
            try:
                answer, _ = datagrams.recvfrom(2048)
            except TimeoutError:
                continue
            assert answer == header + source.encode(), answer
            return True
    return False


assert asks(first, 20), "the first network"
print("first", flush=True)
assert asks(second, 20), "the network that joined"
print("second", flush=True)
assert asks(first, 20), "the first network again"
assert not asks(stranger, 1), "an address that is not the client's"
print("stranger", flush=True)
control.close()
