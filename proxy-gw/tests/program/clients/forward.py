"""Carries what comes to a local port, by UDP and by TCP, through a SOCKS5 server, for programs that know no SOCKS.

Usage: forward.py PORT RELAY RELAY_PORT HOST HOST_PORT
Datagrams go by PySocks' UDP ASSOCIATE, one question and its answer at a time.
"""
import socket
import socks
import sys
import threading

port, relay, relay_port, host, host_port = sys.argv[1:]
local = ("127.0.0.1", int(port))
target = (host, int(host_port))
proxy = (socks.SOCKS5, relay, int(relay_port))


def copy(source, sink):
    while data := source.recv(65536):
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)


def streams(listener):
    while True:
        near, _ = listener.accept()
        far = socks.create_connection(target, 50, None, *proxy)
        for ends in ((near, far), (far, near)):
            threading.Thread(target=copy, args=ends, daemon=True).start()


listener = socket.create_server(local)
threading.Thread(target=streams, args=(listener,), daemon=True).start()
near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
near.bind(local)
far = socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM)
far.set_proxy(*proxy)
far.settimeout(20)
print("Serving", flush=True)
while True:
    question, source = near.recvfrom(2048)
    far.sendto(question, target)
    near.sendto(far.recvfrom(65536)[0], source)
