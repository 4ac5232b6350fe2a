"""A SOCKS5 client that leaves it to the kernel which way its datagrams go.

Usage: changing.py RELAY RELAY_PORT ECHO ECHO_PORT
For each line on stdin it has twenty datagrams echoed, and says so.
"""
import socket
import struct
import sys
import time

relay, relay_port, echo, echo_port = sys.argv[1:]
IPPROTO_MPTCP = 262
control = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
control.settimeout(20)
control.connect((relay, int(relay_port)))
control.sendall(b"\5\1\0")
assert control.recv(2) == b"\5\0"
control.sendall(b"\5\3\0\1" + bytes(6))
reply = control.recv(10)
assert reply[:4] == b"\5\0\0\1", reply
bound = (socket.inet_ntoa(reply[4:8]), struct.unpack("!H", reply[8:])[0])
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.settimeout(0.2)
header = b"\0\0\0\1" + socket.inet_aton(echo) + struct.pack("!H", int(echo_port))
print("associated", flush=True)


def echoed(number):
    """A datagram there and back; one that is lost is repeated."""
    message = header + b"%d" % number
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            datagrams.sendto(message, bound)
            while datagrams.recvfrom(2048)[0] != message:
                pass
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"datagram {number}")


number = 0
for _ in sys.stdin:
    for _ in range(20):
        number += 1
        echoed(number)
    print(f"{number} echoed", flush=True)
control.close()
