"""An HTTP origin, with TLS where it is given a key and certificate. Usage: origin.py HOST PORT [FILE]

GET /        a page with a hundred scripts, each of which brings a text of its own; the page knows what it
             must be, and says how many were right once all have come
POST /echo   what was sent
"""
import http.server
import ssl
import sys

OBJECTS = 100
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def text(i):
    """Longer from object to object, 5 MB in all, and the same for no two."""
    return "".join(LETTERS[(at * 7 + i * 3 + at // 26 * (i + 1)) % 26] for at in range(1000 + 1013 * i))


PAGE = """<!doctype html>
<title>objects</title>
<script>
const letters = 'LETTERS';
const text = i => {
  let all = '';
  for (let at = 0; at < 1000 + 1013 * i; at++)
    all += letters[(at * 7 + i * 3 + Math.floor(at / 26) * (i + 1)) % 26];
  return all;
};
const right = new Set();
const got = (i, what) => { if (what === text(i)) right.add(i); };
addEventListener('load', () => { document.body.textContent = right.size + ' objects are right'; });
</script>
<body>
SCRIPTS
"""
SCRIPTS = "\n".join(f'<script async src="/object/{i}"></script>' for i in range(OBJECTS))
PAGE = PAGE.replace("LETTERS", LETTERS).replace("SCRIPTS", SCRIPTS)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, kind, body, status=200):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/":
            return self.answer("text/html", PAGE.encode())
        if self.path.startswith("/object/"):
            i = int(self.path.removeprefix("/object/"))
            return self.answer("text/javascript", f"got({i}, '{text(i)}')".encode())
        return self.answer("text/plain", b"", 404)

    def do_POST(self):
        self.answer("application/octet-stream", self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler)
if len(sys.argv) > 3:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(sys.argv[3])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print("Serving", flush=True)
server.serve_forever()
