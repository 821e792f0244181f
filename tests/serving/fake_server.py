"""A server that does as it is told: python fake_server.py PORT healthy|deaf|dies

Healthy, it streams an answer of hundreds of tokens to every request, twenty a second.
"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port, manner = int(sys.argv[1]), sys.argv[2]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if manner == "healthy" else 503)
        self.end_headers()

    def do_POST(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        chunk = {"id": "a", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        for _ in range(400):
            part = chunk | {"choices": [{"index": 0, "delta": {"content": "word "}}]}
            self.wfile.write(f"data: {json.dumps(part)}\n\n".encode())
            self.wfile.flush()
            time.sleep(0.05)

    def log_message(self, *_):
        pass


if manner == "dies":
    print("no chat template in this folder", flush=True)
    sys.exit(3)
print("loading", flush=True)
server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
time.sleep(0.2)
server.serve_forever()
