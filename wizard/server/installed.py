"""stub"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

from wizard.server.catalogue import installed_version


def version_of(argv: Sequence[str], environ: Mapping[str, str]) -> str | None:
    return installed_version(argv, environ)
