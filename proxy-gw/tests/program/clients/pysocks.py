"""PySocks at a gateway. Usage: pysocks.py RELAY SOCKS_PORT HTTP_PORT ADDRESS NAME

At ADDRESS, which is NAME's, an HTTP origin is at port 8000 and a datagram echo at port 7; nobody listens on 9.
Prints a line for each thing that went well; anything else ends it with an error.
"""
import hashlib
import http.client
import socket
import socks
import sys

relay, socks_port, http_port, address, name = sys.argv[1:]
proxies = {"socks5": (socks.SOCKS5, int(socks_port)), "http": (socks.HTTP, int(http_port))}
content = b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(30000))


def connect(kind, host, port):
    proxy_type, proxy_port = proxies[kind]
    return socks.create_connection(
        (host, port), 50, None, proxy_type, relay, proxy_port, True)


for kind in proxies:
    for host in (address, name):
        connection = http.client.HTTPConnection(host, 8000)
        connection.sock = connect(kind, host, 8000)
        connection.request("POST", "/echo", content)
        response = connection.getresponse()
        assert response.status == 200 and response.read() == content, (kind, host)
        connection.close()
        print(f"{kind} {host}", flush=True)

try:
    connect("socks5", address, 9)
except socks.ProxyConnectionError as error:
    raise AssertionError(error)
except socks.ProxyError as error:
    assert "0x05: Connection refused" in str(error), error
    print("refused", flush=True)

with socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
    datagrams.set_proxy(socks.SOCKS5, relay, int(socks_port))
    datagrams.settimeout(20)
    for host in (address, name):
        for size in (0, 1, 1400):
            datagrams.sendto(content[:size], (host, 7))
            assert datagrams.recvfrom(2048) == (content[:size], (address, 7)), (host, size)
        print(f"datagrams {host}", flush=True)
