"""What a person told: the symptom, the hardware and the launch command, read for clues."""

from __future__ import annotations

from wizard.core.argv import shell_join
from wizard.core.clue import search
from wizard.core.reading import Outcome, ProbeResult, Trust, Value
from wizard.core.redact import clean, redact_argv, redact_text
from wizard.core.target import Target
from wizard.probes.base import NoData, ProbeContext, ProbeSpec


class ToldProbe:
    """Readings symptom.*, command.* and hardware.*: clues, and the words that matched."""

    spec = ProbeSpec("told", "What you told", timeout_s=2.0, cost="nothing")

    async def read(self, ctx: ProbeContext) -> ProbeResult:
        values: dict[str, Value] = {}
        for place, text in texts(ctx.target).items():
            ids, quotes = search(ctx.clues, place, text)
            values[f"{place}.clues"] = Value(ids, Trust.REPORTED, place)
            values[f"{place}.quotes"] = Value(quotes, Trust.REPORTED, place)
        if not values:
            raise NoData("nobody told anything", "give --symptom TEXT, --hardware TEXT or --command STR")
        return ProbeResult("told", Outcome.OK, values)


def texts(target: Target) -> dict[str, str]:
    """The texts by place, secrets hidden; a place without a text is left out."""
    command = target.command_text
    if not command and target.launch is not None:
        command = shell_join(redact_argv(target.launch.argv))
    told = {"symptom": target.symptom, "hardware": target.hardware, "command": command}
    return {place: clean(redact_text(text)) for place, text in told.items() if text and text.strip()}
