"""Takes a port as soon as it is free and answers 200 to everything, as somebody else's server would.

``python tests/faults/squatter.py PORT SECONDS``: says "has it" once it listens; leaves after SECONDS.
"""

from __future__ import annotations

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TRY_S = 30.0


class Handler(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b'{"who": "squatter"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


def main() -> int:
    port, seconds = int(sys.argv[1]), float(sys.argv[2])
    until = time.monotonic() + TRY_S
    while True:
        try:
            server = Server(("127.0.0.1", port), Handler)
            break
        except OSError:
            if time.monotonic() > until:
                print("never free", flush=True)
                return 1
            time.sleep(0.001)
    print("has it", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    time.sleep(seconds)
    server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
