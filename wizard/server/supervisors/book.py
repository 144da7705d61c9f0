"""What was done to a holder, on disk before it is done: the recipe, and each act of it, one JSON line each."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wizard.server.supervisors.contract import SupervisorError
from wizard.server.supervisors.recipe import Recipe


class Book:
    """A file beside the session's journal, 0600: a recipe holds secrets. A torn last line is none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def exists(self) -> bool:
        return self.path.exists()

    def recipe(self) -> Recipe | None:
        """The recipe that was begun, or None."""
        found = next((doc["recipe"] for doc in self._lines() if "recipe" in doc), None)
        return Recipe.from_json(found) if found is not None else None

    def begun(self) -> list[str]:
        """Names of the steps that were begun, also the one that a runner died in."""
        return [doc["name"] for doc in self._lines() if doc.get("is") == "doing"]

    def open(self, recipe: Recipe) -> None:
        """Write the recipe down. Raises SupervisorError."""
        self._append({"recipe": recipe.to_json()})

    def __call__(self, event: str, name: str, data: Mapping[str, Any]) -> None:
        self._append({"is": event, "name": name, **data})

    def try_to(self, event: str, name: str, data: Mapping[str, Any]) -> None:
        """As a call, yet a full disk does not stop the way back, whose acts may all be repeated."""
        with contextlib.suppress(SupervisorError):
            self(event, name, data)

    def _append(self, doc: Mapping[str, Any]) -> None:
        line = ("\n" + json.dumps(doc, ensure_ascii=False) + "\n").encode()  # after a torn one, too
        try:
            number = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                if os.write(number, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(number)
            finally:
                os.close(number)
        except OSError as error:
            raise SupervisorError(f"{self.path} cannot be written: {error.strerror}") from None

    def _lines(self) -> Iterator[dict[str, Any]]:
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return
        for line in text.splitlines():
            try:
                doc = json.loads(line)
            except ValueError:
                continue
            if isinstance(doc, dict):
                yield doc
