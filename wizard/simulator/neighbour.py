"""`python -m wizard.simulator.neighbour --gb 60 [--seconds N]`: a foreign process that holds memory on the
card.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading

from wizard.simulator.card import CardFile, OutOfMemory, card_path
from wizard.simulator.gpu import GIB, card_from_env


def main() -> int:
    """Hold the memory until told to stop; 1 when the card cannot give it."""
    parser = argparse.ArgumentParser(prog="neighbour", description=__doc__)
    parser.add_argument("--gb", type=float, required=True, help="GiB to hold")
    parser.add_argument("--seconds", type=float, default=None, help="give it back after this long")
    arguments = parser.parse_args()
    card = CardFile(card_path(), card_from_env())
    try:
        free = card.allocate(int(arguments.gb * GIB), "python3")
    except OutOfMemory as error:
        print(f"neighbour: {error}", file=sys.stderr)
        return 1
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    print(f"holding {arguments.gb:g} GiB, {free / GIB:.2f} GiB left", flush=True)
    stop.wait(arguments.seconds)
    card.release()
    return 0


if __name__ == "__main__":
    sys.exit(main())
