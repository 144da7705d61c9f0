"""What reaches the app from the engine's thread and from workers. Posted, never called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textual.message import Message

if TYPE_CHECKING:
    from wizard.core.session import SessionState
    from wizard.core.target import Target


class StateChanged(Message):
    """The session has a new state. Only the newest of a burst is handled."""

    def __init__(self, state: SessionState) -> None:
        super().__init__()
        self.state = state

    def can_replace(self, message: Message) -> bool:
        return isinstance(message, StateChanged)


class TargetsFound(Message):
    """Servers of this machine, and sessions kept on it (``SessionSummary``, newest first)."""

    def __init__(self, targets: tuple[Target, ...], sessions: tuple[Any, ...]) -> None:
        super().__init__()
        self.targets = targets
        self.sessions = sessions


class EngineReady(Message):
    def __init__(self, engine: Any) -> None:
        super().__init__()
        self.engine = engine


class EngineFailed(Message):
    """The engine could not start; ``why`` is one line for the person."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self.why = why


class Fetched(Message):
    """What a worker brought for the screen ``for_screen`` (its id); ``error`` is set instead when it failed."""

    def __init__(self, for_screen: str, value: Any = None, error: str = "") -> None:
        super().__init__()
        self.for_screen = for_screen
        self.value = value
        self.error = error
