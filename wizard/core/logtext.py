"""What lines of a server log mean: signatures as data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Role = Literal["lead", "victim", "noise", "info"]
ROLES = ("lead", "victim", "noise", "info")


@dataclass(frozen=True)
class Signature:
    """A pattern that names what a log line says.

    ``role`` lead = may name the failure; victim = a consequence; noise = seen on healthy servers;
    info = a fact, no failure. Raises ValueError for a pattern that does not compile or a role that
    is none.
    """

    id: str
    pattern: str
    role: Role
    phase: str = ""
    cause: str = ""
    versions: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f'role "{self.role}" is none of {", ".join(ROLES)}')
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"the pattern does not compile: {error}") from None

    @cached_property
    def regex(self) -> re.Pattern[str]:
        return re.compile(self.pattern)
