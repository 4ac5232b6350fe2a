# Sixteen MPTCP sessions at once through the gateway to an echo server beside it. Prints what the operator's
# endpoint says while they are open, and fails unless every octet came back.
import hashlib, json, socket, sys, threading, time

DATA = b''.join(hashlib.sha256(b'%d' % i).digest() for i in range(16384))
SESSIONS = 16
wrong = []
half_way = threading.Barrier(SESSIONS + 1)
go_on = threading.Event()


def echo(connection):
    while True:
        part = connection.recv(65536)
        if not part:
            break
        connection.sendall(part)
    connection.shutdown(socket.SHUT_WR)


def serve(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=echo, args=(connection,), daemon=True).start()


def receive(s, count):
    got = bytearray()
    while len(got) < count:
        part = s.recv(count - len(got))
        assert part, '%d of %d octets' % (len(got), count)
        got += part
    return bytes(got)


def exchange(s):
    sender = threading.Thread(target=s.sendall, args=(DATA,))
    sender.start()
    got = receive(s, len(DATA))
    sender.join()
    assert got == DATA, 'other octets came back'


def session():
    try:
        s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
        s.settimeout(60)
        s.connect(('10.1.0.1', 1080))
        s.sendall(b'\x05\x01\x00')
        assert receive(s, 2) == b'\x05\x00'
        s.sendall(b'\x05\x01\x00\x01' + socket.inet_aton('10.9.0.2') + (7).to_bytes(2, 'big'))
        assert receive(s, 10)[:2] == b'\x05\x00'
        exchange(s)
        half_way.wait(60)
        go_on.wait()
        exchange(s)
        s.shutdown(socket.SHUT_WR)
        assert s.recv(1) == b''
    except Exception as error:
        wrong.append(repr(error))
        half_way.abort()


def ask(path, what):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(path)
    s.sendall(b'GET /%s HTTP/1.0\r\nHost: plait\r\n\r\n' % what.encode())
    answer = b''.join(iter(lambda: s.recv(65536), b''))
    head, body = answer.split(b'\r\n\r\n', 1)
    assert b' 200 ' in head.split(b'\r\n')[0] + b' ', head
    return body.decode()


listener = socket.create_server(('10.9.0.2', 7), backlog=64)
threading.Thread(target=serve, args=(listener,), daemon=True).start()
sessions = [threading.Thread(target=session) for _ in range(SESSIONS)]
for one in sessions:
    one.start()
try:
    half_way.wait(60)
    # The kernel joins its second address when it sees fit; then every session has two subflows.
    for _ in range(600):
        connections = json.loads(ask(sys.argv[1], 'connections'))
        if all(len(one['subflows']) > 1 for one in connections):
            break
        time.sleep(0.1)
    paths = json.loads(ask(sys.argv[1], 'paths'))
    print('connections', len(connections))
    print('ids', len({one['id'] for one in connections}))
    print('joined', sum(len(one['subflows']) > 1 for one in connections))
    print('path_shards', len({one['shard'] for one in paths}))
    # Of one metric, the sum over the shards.
    sums = {}
    for line in ask(sys.argv[1], 'metrics').splitlines():
        name = line.split('{')[0].split(' ')[0]
        if 'shard="' in line:
            sums[name] = sums.get(name, 0) + int(line.rsplit(' ', 1)[1])
    for name in ('sessions', 'shard_handed_over_packets_total', 'shard_joins_steered_total',
                 'shard_steered_flows', 'shard_ring_full_packets_total'):
        print(name, sums['plait_' + name])
except threading.BrokenBarrierError:
    pass
finally:
    go_on.set()
for one in sessions:
    one.join()
assert not wrong, wrong
