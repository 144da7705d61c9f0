"""A small closed-loop streaming load in asyncio, cheap enough to share two cores with the server it measures.

`python tests/simulator/load.py URL --clients 64 --requests 128 [--prompt 1024 --output 256 --jitter 0.5]`
prints one
JSON line: output tok/s, TTFT and ITL quantiles in milliseconds, errors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from urllib.parse import urlsplit


async def one(host: str, port: int, prompt: list[int], output: int) -> tuple[float, list[float], int]:
    """TTFT (s), gaps between events (s), tokens. Raises OSError or ValueError when the answer is none."""
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
    sampling = {"max_new_tokens": output, "ignore_eos": True, "temperature": 0}
    body = json.dumps({"input_ids": prompt, "sampling_params": sampling, "stream": True}).encode()
    began = last = time.perf_counter()
    head = f"POST /generate HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    first, gaps, final = 0.0, [], b""
    while data := await reader.read(1 << 18):
        if b"data: " not in data:
            continue
        now = time.perf_counter()
        if first:
            gaps.append(now - last)
        else:
            first = now - began
        last, final = now, data
    writer.close()
    mark = final.rfind(b'"completion_tokens":')
    if mark < 0 or b"[DONE]" not in final:
        raise ValueError(f"stream without an end: {final[-200:]!r}")
    return first, gaps, int(final[mark + 20 :].split(b",")[0].rstrip(b"}"))


def quantile(values: list[float], share: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


async def load(
    url: str,
    clients: int,
    requests: int,
    prompt: int = 1024,
    output: int = 256,
    jitter: float = 0.5,
    seed: int = 1,
) -> dict[str, float]:
    """Each client sends its next request when the last one ended."""
    parts, dice = urlsplit(url), random.Random(seed)
    work = [
        (
            [dice.randrange(100_000) for _ in range(round(prompt * dice.uniform(1 - jitter, 1 + jitter)))],
            max(round(output * dice.uniform(1 - jitter, 1 + jitter)), 1),
        )
        for _ in range(requests)
    ]
    work.reverse()
    firsts: list[float] = []
    gaps: list[float] = []
    tokens = errors = 0
    finished = began = time.perf_counter()

    async def client() -> None:
        nonlocal tokens, errors, finished
        while work:
            ids, length = work.pop()
            try:
                first, between, count = await one(parts.hostname or "127.0.0.1", parts.port or 80, ids, length)
            except (OSError, ValueError):
                errors += 1
                continue
            firsts.append(first)
            gaps.extend(between)
            tokens += count
            finished = time.perf_counter()

    await asyncio.gather(*(client() for _ in range(clients)))
    spent = finished - began
    return {
        "tok_s": round(tokens / spent, 1),
        "seconds": round(spent, 2),
        "ttft_p50_ms": round(quantile(firsts, 0.5) * 1e3, 1),
        "ttft_p99_ms": round(quantile(firsts, 0.99) * 1e3, 1),
        "itl_p50_ms": round(quantile(gaps, 0.5) * 1e3, 2),
        "itl_p99_ms": round(quantile(gaps, 0.99) * 1e3, 2),
        "errors": errors,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--output", type=int, default=256)
    parser.add_argument("--jitter", type=float, default=0.5)
    known = parser.parse_args()
    print(json.dumps(asyncio.run(load(**vars(known)))))
