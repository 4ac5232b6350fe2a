"""A datagram echo server. Usage: echo.py HOST PORT"""
import socket
import sys

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], int(sys.argv[2])))
print("Serving", flush=True)
while True:
    data, source = server.recvfrom(2048)
    server.sendto(data, source)
