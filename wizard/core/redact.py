"""Nothing secret on a screen, in a report or in a log; nothing foreign that drives a terminal.

Secrets are found by the name they stand behind (``--api-key``, ``HF_TOKEN=``, ``Authorization:``) or by
their own shape (``hf_...``, ``sk-...``). It is better to hide a word too many.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

HIDDEN = "***"

# "token" alone is the field's everyday word (--bucket-time-to-first-token), so it needs company
_SECRET_FLAG = (
    r"^--?(?:(?:[\w-]*-)?(?:api-key|secret|secret-key|access-key|password|passwd|credentials?)"
    r"|(?:[\w-]*-)?(?:hf|hub|auth|access|api|bearer|admin|secret)-token|token)$"
)
_SECRET_VARIABLE = (
    r"(?i:(?:^|_)(?:TOKEN|KEY|KEYS|APIKEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|AUTH)(?:$|_)"
    r"|(?:^|_)(?:PASS|PAT|JWT|COOKIES?|DSN|SAS)(?:$|_)|_PWD?$|(?:TOKEN|KEY|PASSWD)$|SECRET|PASSWORD|APIKEY)"
)

# Patterns are texts: re compiles each once, when it is first needed, which keeps the import fast.
# Every pattern below starts at a literal and is bounded: hostile text costs no more than its length.
_QUOTED = r"'(?:[^'\\\n]|\\.)*'?|\"(?:[^\"\\\n]|\\.)*\"?"
_BARE = r"[^\s,;&|)\]}'\"]+"
_HEADER = r"(?i)(authorization['\"]?\s{0,4}[:=]\s{0,4}['\"]?(?:(?:bearer|basic|token)\s{1,4})?)([^\s'\",]+)"
_BEARER = r"(?i)\b(bearer\s{1,4})([^\s'\",]+)"
_FLAG_IN_TEXT = (
    r"((?<=-)(?:api-key|secret|secret-key|access-key|password|passwd|credentials?"
    r"|(?:hf|hub|auth|access|api|bearer|admin|secret)-token)|(?<![\w-])--token)"
    rf"(?![\w-])(['\"]?[=,]?[ \t]{{0,8}}(?<![\w-]))({_QUOTED}|[^\s,]+)"
)
_ASSIGNED = (
    r"((?:(?i:(?:api|access|private)[_-]?key|secret|passwd|password|passphrase|credential)[\w.-]{0,40}"
    r"|(?i:(?:hf|hub|auth|access|api|bearer|admin|session|refresh)[_-]?token)"
    r"|(?<=[A-Z0-9]_)(?:TOKEN|KEY|AUTH))['\"]?)"
    rf"([ \t]{{0,4}}[=:][ \t]{{0,4}}(?:[bru]{{1,2}}(?=['\"]))?)({_QUOTED}|{_BARE})"
)
_SHAPES = (
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{8,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}"
    r"|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+)"
)
_URL_PASSWORD = r"(://[^\s/:@'\"]{0,100}:)([^\s@'\"]{1,300}(?:@[^\s/@'\"]{0,100}){0,4})(@)"

# A quote as it stands in a text that was quoted itself: JSON within a log line's JSON
_Q = r"\\{0,3}['\"]"
_UNTIL = r"(?:(?!\2)(?:[^\\\n]|\\.))+"
"""What stands behind the quote of group 2, to the next one like it, or to the end of the line."""
_IS = rf"(?:(?:{_Q})?\s{{0,4}}[:=]|{_Q}\s{{0,4}},)\s{{0,4}}[bru]{{0,2}}"
"""Between a name and its value: ``Name: v``, ``name=v``, ``"name": "v"``, ``(b'name', b'v')``."""
_SCHEMES = "digest|negotiate|ntlm|hawk|signature|aws4-hmac-sha256|apikey"
_HEADER_NAMES = r"(?:cookies?|x-[a-z-]{0,40}(?:key|token|secret|auth|session|signature|password))"
_KEYS = (
    r"(?:(?:hf|hub|auth|access|api|bearer|admin|session|refresh|id|csrf|xsrf|client|bot|user|security)[_-])?token"
    r"|[\w-]{0,30}(?:pass|passwd|password|pwd|passphrase|jwt|auth|secret)"
)
_LIKELY = rf",\s{{0,4}}{_Q}(?:logprob|bytes|top_logprobs)"
_FORMS: tuple[tuple[str, str], ...] = (
    # a header in quotes: all of it; and a scheme of several parts
    (rf"(?i)((?:cookies?|authorization){_IS})({_Q}){_UNTIL}", rf"\1\2{HIDDEN}"),
    (rf"(?i)(authorization\s{{0,4}}[:=]\s{{0,4}}(?:{_SCHEMES})\s{{1,4}})()[^\n]+", rf"\1{HIDDEN}"),
    (rf"(?i)((?<![\w-]){_HEADER_NAMES}{_IS})({_Q}){_UNTIL}", rf"\1\2{HIDDEN}"),
    # a header as it goes over the wire: cookies to the end of the line, for they are many in one
    (rf"(?i)(cookies?(?:{_Q})?\s{{0,4}}[:=]\s{{0,4}})()(?!\s|{_Q})[^\n'\"\\]+", rf"\1{HIDDEN}"),
    (rf"(?i)((?<![\w-]){_HEADER_NAMES}(?:{_Q})?\s{{0,4}}[:=]\s{{0,4}})()(?!{_Q})[^\s'\",\\]+", rf"\1{HIDDEN}"),
    # a field of JSON or of a dict; a token with its log probability is the model's, and no secret
    (
        rf"(?i)({_Q}(?:{_KEYS}){_Q}\s{{0,4}}:\s{{0,4}}[bru]{{0,2}})({_Q})(?!{_UNTIL}\2{_LIKELY}){_UNTIL}",
        rf"\1\2{HIDDEN}",
    ),
    # a query of an address
    (
        rf"(?i)([?&](?:{_KEYS}|key|sig|signature|x-amz-[\w-]{{1,30}}|x-goog-[\w-]{{1,30}})=)()[^&\s#'\"\\]+",
        rf"\1{HIDDEN}",
    ),
)
"""Secrets that are known by the form around them: pattern, and what is left of it (the value is not)."""
_NAMED = r"(?i)key|token|secret|pass|pwd|jwt|credential|cookie|auth|[?&]sig|x-"

_HARMLESS_VALUES = frozenset({"none", "null", "true", "false", "''", '""', ""})


def is_secret_flag(flag: str) -> bool:
    """Whether the value of an option is a secret: ``--api-key``, ``--admin-api-key``, ``--x-password``."""
    return bool(re.match(_SECRET_FLAG, flag.replace("_", "-").lower()))


def is_secret_variable(name: str) -> bool:
    """Whether an environment variable holds a secret, by its name: ``HF_TOKEN``, ``AWS_SECRET_ACCESS_KEY``."""
    return bool(re.search(_SECRET_VARIABLE, name))


def redact_argv(argv: Sequence[str]) -> list[str]:
    """The same words with secrets hidden: values of secret flags, assignments, ``-c`` texts.

    An abbreviation counts too: argparse takes ``--api`` and ``--admin`` for the API keys.
    """
    words: list[str] = []
    hide_next = False
    for word in argv:
        if hide_next:
            hide_next = False
            if not word.startswith("--"):
                words.append(HIDDEN)
                continue
        name, equals, _ = word.partition("=")
        if word.startswith("-") and _names_secret(name):
            words.append(f"{name}={HIDDEN}" if equals else word)
            hide_next = not equals
        elif equals and re.fullmatch(r"[A-Za-z_]\w*", name) and is_secret_variable(name):
            words.append(f"{name}={HIDDEN}")
        else:
            words.append(redact_text(word))
    return words


def _names_secret(option: str) -> bool:
    if is_secret_flag(option):
        return True
    return len(option) >= 4 and any(f.startswith(option) for f in ("--api-key", "--admin-api-key"))


def redact_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The same variables with the secret ones hidden, by name and by shape."""
    return {k: HIDDEN if is_secret_variable(k) and v else redact_text(v) for k, v in environ.items()}


def redact_text(text: str, secrets: Iterable[str] = ()) -> str:
    """Free text with secrets hidden. ``secrets``: known ones (an argv's own API key), hidden anywhere."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= 4:
            text = text.replace(secret, HIDDEN)
    if re.search(_NAMED, text):
        for form, left in _FORMS:
            text = re.sub(form, left, text)
    text = re.sub(_HEADER, rf"\1{HIDDEN}", text)
    text = re.sub(_BEARER, rf"\1{HIDDEN}", text)
    if re.search(_NAMED, text):
        text = re.sub(_FLAG_IN_TEXT, lambda m: m[1] + m[2] + _hidden(m[3]), text)
        text = re.sub(_ASSIGNED, lambda m: m[1] + m[2] + _hidden(m[3]), text)
    text = re.sub(_URL_PASSWORD, rf"\1{HIDDEN}\3", text)
    return re.sub(_SHAPES, HIDDEN, text)


def _hidden(value: str) -> str:
    if value.strip().lower() in _HARMLESS_VALUES:
        return value
    quote = value[0] if value[0] in "'\"" else ""
    return f"{quote}{HIDDEN}{quote}"


def secrets_of(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The secret values in a launch, to be hidden wherever they turn up again."""
    found: list[str] = []
    for i, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if word.startswith("-") and _names_secret(name):
            if equals:
                found.append(value)
            elif i + 1 < len(argv) and not argv[i + 1].startswith("--"):
                found.append(argv[i + 1])
    found += [v for k, v in (environ or {}).items() if is_secret_variable(k)]
    return tuple(dict.fromkeys(v for v in found if len(v) >= 4))


_SEQUENCES = (
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)"  # OSC, DCS, SOS, PM, APC
    r"|\x1b[ -/]*[0-~]?"  # two-character escapes, and a lone ESC
)
_CONTROLS = r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]"


def clean(text: str) -> str:
    """Foreign text that is safe to print: no escape sequences, control bytes or direction marks.

    Tabs and newlines stay; a carriage return (progress bars) becomes a newline.
    """
    text = text.replace("\r\n", "\n")
    text = re.sub(_SEQUENCES, "", text)
    text = text.replace("\r", "\n")
    return re.sub(_CONTROLS, "", text)


def clean_lines(text: str) -> str:
    """``clean`` line by line: a sequence that nobody ends takes the rest of its line, not the next."""
    return "\n".join(clean(line) for line in text.split("\n"))
