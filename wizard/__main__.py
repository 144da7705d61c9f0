"""``sgl-wizard`` and ``python -m wizard``. Imports nothing heavy: ``--version`` answers at once."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; returns the exit code (see ``wizard.cli.output``)."""
    from wizard.cli.main import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
