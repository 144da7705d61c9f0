"""Typing the address of a server."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from textual.app import ComposeResult
from textual.widgets import Input

from wizard.core.target import Target
from wizard.tui.format import Line, line, wrap
from wizard.tui.screens.base import Overlay
from wizard.tui.widgets.rows import Lines


def parse_address(text: str) -> Target | str:
    """A target from ``30001``, ``host:port`` or a URL; a text when it is none of these."""
    typed = text.strip()
    if typed.isdigit():
        typed = f"127.0.0.1:{typed}"
    try:
        parts = urlsplit(typed if "://" in typed else f"http://{typed}")
        port = parts.port
    except ValueError:
        return f"{typed}: not an address. Type a port (30000), host:port, or http://host:port."
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return f"{typed}: not an address. Type a port (30000), host:port, or http://host:port."
    if port == 0:
        return f"{typed}: port 0 is no port."
    default = 443 if parts.scheme == "https" else 30000
    local = parts.hostname in ("127.0.0.1", "localhost", "::1", "0.0.0.0")
    return Target(host=parts.hostname, port=port or default, scheme=parts.scheme, remote=True, local=local)


class AddressScreen(Overlay):
    kind = "address"
    AUTO_FOCUS = "Input"
    help_text = "Type a port (30000), host:port, or http://host:port, then enter."
    error = ""

    def body(self) -> ComposeResult:
        yield Lines(self._head)
        box = Input(placeholder="30000 or http://host:port", id="address")
        box.cursor_blink = False
        yield box
        yield Lines(id="error")

    def _head(self, width: int) -> list[Line]:
        return [
            line((" Where does the server answer?", "strong")),
            *wrap("A port, host:port, or a URL.", width),
            (),
        ]

    def draw(self) -> None:
        error = self.error
        self.query_one("#error", Lines).show(lambda w: wrap(error, w, role="bad") if error else [])

    def keys(self) -> Sequence[tuple[str, str]]:
        return (("enter", "go on"), ("esc", "back"))

    def on_input_submitted(self, message: Input.Submitted) -> None:
        found = parse_address(message.value)
        if isinstance(found, str):
            self.error = found
            self.draw()
            return
        self.dismiss(None)
        self.wizard.open_target(self.wizard.known(found))
