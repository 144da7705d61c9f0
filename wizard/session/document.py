"""The documents that leave a session: ``check --json``, and the case that a run keeps for its report."""

from __future__ import annotations

from typing import Any

from wizard.core.findings import Checked
from wizard.core.flow import FlowBook
from wizard.core.plan import FlagChange
from wizard.core.redact import HIDDEN, is_secret_flag, redact_argv, redact_text
from wizard.core.session import Offer, SessionState, current_cause
from wizard.core.target import Target
from wizard.core.triage import Hypothesis, named

SCHEMA_VERSION = 1


def target_document(target: Target | None) -> dict[str, Any]:
    """The target as people may see it: no environment, no secrets."""
    if target is None:
        return {}
    doc: dict[str, Any] = {
        "url": target.base_url if target.is_live or target.launch else None,
        "pid": target.identity.pid if target.identity else None,
        "name": target.name,
        "version": target.version,
        "simulated": target.simulated,
        "log": target.log_path,
        "note": target.note,
    }
    if target.launch is not None:
        doc["command"] = list(redact_argv(target.launch.argv))
        doc["cwd"] = target.launch.cwd
    elif target.command_text:
        doc["command"] = redact_text(target.command_text)
    return doc


def offer_document(offer: Offer) -> dict[str, Any]:
    """A remedy as DESIGN.md's JSON has it."""
    return {
        "id": offer.remedy.id,
        "title": offer.remedy.title,
        "set": {flag: value for flag, value in offer.intents if value is not None},
        "unset": [flag for flag, value in offer.intents if value is None],
        "env": dict(offer.remedy.environ),
        "actions": list(offer.actions),
        "why": offer.why,
        "cost": offer.cost,
        "applicable": offer.plan is not None,
        "why_not": offer.why_not,
    }


def cause_document(hypothesis: Hypothesis, offers: tuple[Offer, ...]) -> dict[str, Any]:
    cause = hypothesis.cause
    useful = [o for o in offers if o.plan is not None or o.intents or (o.actions and not o.remedy.changes)]
    return {
        "id": cause.id,
        "family": cause.family,
        "title": cause.title,
        "confidence": round(hypothesis.confidence, 3),
        "arithmetic": hypothesis.arithmetic(),
        "evidence": [redacted(e) for item in hypothesis.supporting for e in item.to_json()],
        "against": [redacted(e) for item in hypothesis.against for e in item.to_json()],
        "why": cause.why,
        "see": cause.see,
        "remedies": [offer_document(o) for o in useful if not o.why_not.startswith("does not apply")],
    }


def change_document(change: FlagChange) -> dict[str, Any]:
    """One flag's change, the value of a secret flag hidden."""
    doc = change.to_json()
    if is_secret_flag(change.flag):
        doc.update(old=change.old and HIDDEN, new=change.new and HIDDEN)
    return doc


def redacted(doc: dict[str, Any]) -> dict[str, Any]:
    return {k: redact_text(v) if isinstance(v, str) else v for k, v in doc.items()}


def check_document(
    state: SessionState, offers: dict[str, tuple[Offer, ...]], checked: Checked | None = None
) -> dict[str, Any]:
    """The one document of ``check --json`` (stable: tests outside the project read it).

    ``checked``: what is to be said of the launch command, where one is known.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "target": target_document(state.target),
        "verdict": state.verdict,
        "causes": [cause_document(h, offers.get(h.cause.id, ())) for h in named(state.hypotheses)],
        "hypotheses": [
            {
                "id": h.cause.id,
                "status": h.status,
                "confidence": round(h.confidence, 3),
                "arithmetic": h.arithmetic(),
                "not_seen": list(h.unknown),
            }
            for h in state.hypotheses
        ],
        "command_line": command_document(checked, state),
        "probes": [
            {"id": r.probe, "outcome": r.outcome.value, "reason": r.reason, "remedy": r.remedy}
            for r in state.snapshot.results.values()
        ],
    }


def command_document(checked: Checked | None, state: SessionState) -> dict[str, Any] | None:
    """The findings about the launch command, and the version that it was held against."""
    if checked is None:
        return None
    known = state.snapshot.get("command.version_known")
    return {
        "version": checked.version,
        "version_known": known is not None and known.x is True,
        "findings": [redacted(f.to_json()) for f in checked.findings],
    }


def case_document(state: SessionState, book: FlowBook) -> dict[str, Any]:
    """What was found, for the journal: the path, the cause with its evidence, the readings."""
    cause = current_cause(state, book)
    hypothesis = next((h for h in state.hypotheses if cause and h.cause.id == cause.id), None)
    return {
        "target": target_document(state.target),
        "path": [
            {"flow": p.flow, "node": p.node, "answer": p.answer, "by": p.by, "why": list(p.why)}
            for p in state.path
        ],
        "cause": cause_document(hypothesis, ()) if hypothesis else None,
        "readings": {name: value.to_json() for name, value in state.snapshot.values().items()},
    }
