"""What a person told: the symptom, the hardware and the launch command, read for clues."""

from __future__ import annotations

from wizard.core.argv import shell_join
from wizard.core.cards import bandwidth_gbs
from wizard.core.clue import accusing, quoted, search
from wizard.core.hardware import MIG_NOTE, mig_slice, read
from wizard.core.reading import Outcome, ProbeResult, Scalar, Trust, Value
from wizard.core.redact import clean, redact_argv, redact_text
from wizard.core.request import MOST_BYTES, examine
from wizard.core.target import Target
from wizard.core.wording import features
from wizard.probes.base import NoData, ProbeContext, ProbeSpec, Unavailable, in_thread


class ToldProbe:
    """Readings symptom.*, command.* and hardware.*: clues, and the words that matched."""

    spec = ProbeSpec("told", "What you told", timeout_s=2.0, cost="nothing")

    async def read(self, ctx: ProbeContext) -> ProbeResult:
        values: dict[str, Value] = {}
        for place, text in texts(ctx.target).items():
            ids, quotes = search(ctx.clues, place, text)
            values[f"{place}.clues"] = Value(ids, Trust.REPORTED, place)
            values[f"{place}.quotes"] = Value(quotes, Trust.REPORTED, place)
            if place == "symptom":
                ids, lines = quoted(ctx.signatures, text)
                values["symptom.signatures"] = Value(ids, Trust.REPORTED, place)
                values["symptom.lines"] = Value(lines, Trust.REPORTED, place)
                values["symptom.words"] = Value(features(accusing(text)), Trust.REPORTED, place)
        if (mig := mig_slice(ctx.target.symptom or ""))[0]:
            values["gpu.mig"] = Value(True, Trust.REPORTED, "symptom")
            if mig[1] is not None:
                values["gpu.memory_total_gb"] = Value(mig[1], Trust.REPORTED, "symptom")
        values.update(of_hardware(ctx.target.hardware))
        if ctx.target.request_path:
            values.update(await in_thread(of_request, ctx.target.request_path, ctx.target.request_endpoint))
        if not values:
            raise NoData("nobody told anything", "give --symptom TEXT, --hardware TEXT or --command STR")
        return ProbeResult("told", Outcome.OK, values, MIG_NOTE if "gpu.mig" in values else None)


def of_hardware(text: str) -> dict[str, Value]:
    """The cards that a person named, as far as they are known ones: what no NVML can tell of another host."""
    found = read(text)
    known: dict[str, Scalar | None] = {
        "gpu.name": found.name,
        "gpu.count": found.count,
        "gpu.memory_total_gb": found.memory_gb,
        "gpu.capability": found.capability,
        "gpu.mig": found.mig or None,
        "gpu.memory_bandwidth_gbs": bandwidth_gbs(found.name) if found.name and not found.mig else None,
        "server.device": "cuda" if found.capability else None,
    }
    return {k: Value(x, Trust.DOCUMENTED, "hardware told") for k, x in known.items() if x is not None}


def of_request(path: str, endpoint: str = "") -> dict[str, Value]:
    """A request body as readings. Raises Unavailable when the file cannot be read."""
    try:
        with open(path, "rb") as file:
            text = file.read(MOST_BYTES + 1).decode("utf-8", "replace")
    except OSError as error:
        why = f"the request {path} cannot be read: {error.strerror}"
        raise Unavailable(why, "give --request FILE") from None
    facts = examine(text, endpoint)
    known: dict[str, Scalar | None] = {
        "request.problems": tuple(i for i, _ in facts.problems),
        "request.says": tuple(clean(redact_text(says)) for _, says in facts.problems),
        "request.endpoint": facts.endpoint or None,
        "request.judged": facts.judged,
        "request.prompt_tokens": facts.prompt_tokens,
        "request.max_tokens": facts.max_tokens,
        "request.largest_id": facts.largest_id,
        "request.tools": facts.tools,
        "request.schema": facts.schema,
        "request.stream": facts.stream,
    }
    source = path.rpartition("/")[2]
    return {k: Value(x, Trust.REPORTED, source) for k, x in known.items() if x is not None}


def texts(target: Target) -> dict[str, str]:
    """The texts by place, secrets hidden; a place without a text is left out."""
    command = target.command_text
    if not command and target.launch is not None:
        command = shell_join(redact_argv(target.launch.argv))
    told = {"symptom": target.symptom, "hardware": target.hardware, "command": command}
    return {place: clean(redact_text(text)) for place, text in told.items() if text and text.strip()}
