"""Clients for the demo: ``python -m wizard.measure.traffic --url U``: a closed loop that measures nothing.

Each client sends its next request when the last one ended, waits out a restart of the server, and
the whole ends after ``--seconds``. Only loopback addresses are accepted: it is for servers of one's own.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import random
import sys
import time
from urllib.parse import urlsplit

RETRY_S = 0.3
MOST_CLIENTS = 256
MOST_SECONDS = 3600.0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m wizard.measure.traffic", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--input-tokens", type=int, default=512)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args(argv)
    host = urlsplit(args.url).hostname or ""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        print(f"only loopback addresses: {host} is none", file=sys.stderr)
        return 2
    clients = max(1, min(args.clients, MOST_CLIENTS))
    asyncio.run(_load(args, clients, time.monotonic() + min(args.seconds, MOST_SECONDS)))
    return 0


async def _load(args: argparse.Namespace, clients: int, until: float) -> None:
    import httpx

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(
        base_url=args.url, limits=limits, timeout=httpx.Timeout(300.0, connect=5.0), trust_env=False
    ) as http:
        await asyncio.gather(*(_client(http, args, number, until) for number in range(clients)))


async def _client(http: object, args: argparse.Namespace, number: int, until: float) -> None:
    import httpx

    assert isinstance(http, httpx.AsyncClient)
    rng = random.Random(args.seed * 1000 + number)
    while time.monotonic() < until:
        body = {
            "input_ids": [rng.randrange(10, 1000) for _ in range(args.input_tokens)],
            "sampling_params": {"max_new_tokens": args.output_tokens, "ignore_eos": True, "temperature": 0},
        }
        try:
            answer = await http.post("/generate", json=body)
            if answer.status_code != 200:
                await asyncio.sleep(RETRY_S)
        except httpx.HTTPError:
            await asyncio.sleep(RETRY_S)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
