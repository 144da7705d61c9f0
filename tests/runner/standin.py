"""A small server that stands in for SGLang: /health and /generate, a slow start, a crash or a drain on demand.

Run as a script, with ``--port N`` and: ``--start-s S`` (until the port is bound), ``--crash`` (an error line
and exit code 2 at start), ``--drain-s S`` (503 for so long after SIGTERM), ``--signals FILE`` (each signal
that came is written there).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    draining = False

    def _answer(self, status: int, doc: object) -> None:
        body = json.dumps(doc).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        status = 503 if Handler.draining else 200
        self._answer(status, {"argv": sys.argv, "pid": os.getpid(), "model_path": "standin"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer(200, {"text": "ok", "meta_info": {"finish_reason": {"type": "length"}}})

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=30000)
    parser.add_argument("--start-s", type=float, default=0.0)
    parser.add_argument("--drain-s", type=float, default=0.0)
    parser.add_argument("--max-running-requests", type=int)
    parser.add_argument("--api-key")
    parser.add_argument("--crash", action="store_true")
    parser.add_argument("--decoy", action="store_true")
    parser.add_argument("--signals")
    args = parser.parse_args()
    ended = threading.Event()

    def on_signal(number: int, _frame: object) -> None:
        if args.signals:
            with open(args.signals, "a", encoding="ascii") as file:
                file.write(f"{number}\n")
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, on_signal)
    print(f"server_args=ServerArgs(port={args.port}, api_key={args.api_key!r})", flush=True)
    if args.decoy:
        print("decoy stands", flush=True)
        ended.wait(120)
        return 0
    if ended.wait(args.start_s):
        return 0
    if args.crash:
        print("ValueError: this stand-in crashes as asked", flush=True)
        return 2
    server = ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("The server is fired up and ready to roll!", flush=True)
    while not ended.wait(0.5):
        if os.getppid() == 0:
            break
    Handler.draining = True
    time.sleep(args.drain_s)
    server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
