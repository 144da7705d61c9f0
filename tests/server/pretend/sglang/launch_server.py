"""``python -m sglang.launch_server`` with this folder on PYTHONPATH: a tree of processes like SGLang's.

Flags: --host, --port; everything else is taken and ignored. Behaviour, JSON in the variable PRETEND:
``children`` (forked; each forks one more), ``orphans`` (children outlive the parent), ``start_s`` (until
the port is bound), ``drain_s`` (after SIGTERM), ``deaf`` (SIGTERM does nothing), ``exit`` (ends with that
code at start), ``port`` (bound instead of --port), ``unbound`` (never binds), ``lines`` (written to stderr
at start), ``status`` (of /health).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOW = json.loads(os.environ.get("PRETEND", "{}"))
ENDED = threading.Event()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503 if ENDED.is_set() else HOW.get("status", 200))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True


def sleep_below(depth: int) -> None:
    parent = os.getpid()
    if os.fork():
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if not HOW.get("orphans"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, as SGLang's children have it
        if os.getppid() != parent:
            os._exit(1)
    if depth:
        sleep_below(depth - 1)
    while True:
        time.sleep(60)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=30000)
    args, _ = parser.parse_known_args()
    signal.signal(signal.SIGTERM, lambda *_: None if HOW.get("deaf") else ENDED.set())
    for _ in range(HOW.get("children", 0)):
        sleep_below(1)
    for line in HOW.get("lines", ()):
        print(line, file=sys.stderr, flush=True)
    print("out: started", flush=True)
    if "exit" in HOW:
        return int(HOW["exit"])
    ENDED.wait(HOW.get("start_s", 0.0))
    if not HOW.get("unbound"):
        try:
            server = Server((args.host, HOW.get("port", args.port)), Handler)
        except OSError:
            text = (
                f"[Errno 98] error while attempting to bind on address ('{args.host}', {args.port}): address "
            )
            print(f"[2026-11-22 08:04:56] ERROR:    {text}already in use", file=sys.stderr, flush=True)
            ENDED.wait()
            return 1
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("The server is fired up and ready to roll!", file=sys.stderr, flush=True)
    ENDED.wait()
    time.sleep(HOW.get("drain_s", 0.0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
