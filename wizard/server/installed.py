"""The SGLang that is installed here: its version, and its flags read from its own sources.

The catalogue that ships with the wizard ends with the versions of its day and knows no fork. Where the
installed sources say something else (a newer version, a development build, a patched one) they count.
Nothing is imported: importing sglang imports torch, which takes seconds and may hang on a sick GPU.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from wizard.core.flags import Catalogue, FlagSpec
from wizard.server.catalogue import catalogued_versions, for_version, installed_package, learn
from wizard.server.sources import ClassOf, Module, Sources, TooMuch, Unknown

SERVER_ARGS = "sglang.srt.server_args"
FIELDS = "sglang.srt.arg_groups.fields"
MOST_RECORD_BYTES = 8 << 20
_DEFINING = ("sglang/srt/server_args.py", "sglang/srt/arg_groups/fields/", "sglang/srt/arg_groups/choices.py")

_HOW = {
    "DeprecatedStoreTrueAction": "warns, still applied",
    "DeprecatedStoreConstAction": "warns, mapped to the new flag",
    "DeprecatedAliasStoreAction": "warns, value moved to the new flag",
}
_SAID = re.compile(r"^\W*(?:\[|\()?(?:note: .*)?(?:deprecated|removed)\b", re.I)
_SAID_WITHIN = re.compile(r"\b(?:is|are|has been) (?:now )?deprecated\b|\(deprecated", re.I)
_USE = re.compile(
    r"(?:use|instead of|set|in favor of)\s+[`'\"]?(--[a-z0-9][\w{},-]*(?:[= ]?[\w<>{}-]+)?)", re.I
)


def version_of(argv: Sequence[str], environ: Mapping[str, str], root: str = "") -> str | None:
    """The version that a command would run; its own flags stand for that version from now on.

    ``root``: /proc/PID/root of a server whose files are not the wizard's (a container).

    None when it cannot be told. Never raises: sources that cannot be read leave the catalogue in force.
    """
    package = installed_package(argv, environ, root)
    if package is None:
        return None
    folder, version = package
    if folder is not None:
        try:
            stamp = (folder / "sglang" / "srt" / "server_args.py").stat().st_mtime_ns
        except OSError:
            return version
        own = _differing(folder, version, stamp)
        if own is not None:
            learn(own)
    return version


@lru_cache(maxsize=16)
def _differing(folder: Path, version: str, _stamp: int) -> Catalogue | None:
    """The flags of the sources where the catalogue has others for that version; None where it is right."""
    known = for_version(version)
    same = known.version == version and version in catalogued_versions()
    if same and _as_released(folder, version):
        return None  # reading all of it takes most of a second
    try:
        own = read(folder, version)
    except Unknown:
        return None
    if same and {o for s in own.specs for o in s.options} == set(known.by_option):
        return None
    return own


def _as_released(folder: Path, version: str) -> bool:
    """Whether the files that define flags are those of the wheel, by the hashes in its RECORD."""
    try:
        with (folder / f"sglang-{version}.dist-info" / "RECORD").open(
            encoding="utf-8", errors="replace"
        ) as file:
            lines = file.read(MOST_RECORD_BYTES).splitlines()
        wanted = [line.split(",") for line in lines if line.startswith(_DEFINING)]
        checked = 0
        for path, noted, *_ in wanted:
            if not path.endswith(".py"):
                continue
            digest = hashlib.sha256((folder / path).read_bytes()).digest()
            if noted != "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode():
                return False
            checked += path == _DEFINING[0]
    except (OSError, ValueError):
        return False
    return checked == 1


def read(folder: Path, version: str) -> Catalogue:
    """The flags of the ``sglang`` below a folder. Raises Unknown when its sources cannot be read."""
    sources = Sources(folder)
    module = sources.module(SERVER_ARGS)
    owner = module.name("ServerArgs")
    if not isinstance(owner, ClassOf):
        raise Unknown("there is no class ServerArgs")
    fatal = _deprecated_is_fatal(module)
    records: dict[str, FlagSpec] = {}
    defaults: dict[str, Any] = {}
    for one in (owner, *_namespaces(sources)):
        for node in one.node.body:
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
                continue
            if node.value is not None:
                defaults[node.target.id] = one.module.try_value(node.value, {})
            records.pop(node.target.id, None)
            spec = _from_field(node, one.module)
            if spec is not None:
                records[node.target.id] = spec
    specs = [*records.values(), *_from_calls(owner, module, defaults, fatal)]
    if not specs:
        raise Unknown("its sources define no flags")
    newest = for_version(None)
    ordered = tuple(_canonical(s, newest) for s in specs)
    return Catalogue(version=version, specs=ordered, spans=newest.spans, asked=version)


def _namespaces(sources: Sources) -> Iterator[ClassOf]:
    """The classes that fields are declared in from 0.5.20 on: those with a ``_NS_PATH``."""
    for dotted in sources.names_in(FIELDS):
        module = sources.module(dotted)
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and any(
                isinstance(s, ast.Assign)
                and isinstance(s.targets[0], ast.Name)
                and s.targets[0].id == "_NS_PATH"
                for s in node.body
            ):
                yield ClassOf(module, node)


def _canonical(spec: FlagSpec, newest: Catalogue) -> FlagSpec:
    """The spelling first that the newest catalogued version puts first: ``--tp-size``."""
    for option in spec.options:
        known = newest.by_option.get(option)
        if known is not None and known.flag in spec.options and known.flag != spec.flag:
            rest = tuple(o for o in spec.options if o != known.flag)
            return _spec({**vars(spec), "options": (known.flag, *rest)})
    return spec


def _spec(values: Mapping[str, Any]) -> FlagSpec:
    return FlagSpec(**{k: v for k, v in values.items() if k in FlagSpec.__dataclass_fields__})


def _deprecated_is_fatal(module: Module) -> bool:
    """Whether this version's DeprecatedAction ends the start (up to 0.5.6) or only warns."""
    try:
        action = module.name("DeprecatedAction")
    except TooMuch:
        raise
    except Unknown:
        return False
    if not isinstance(action, ClassOf):
        return False
    calls = [n for n in action.node.body if isinstance(n, ast.FunctionDef) and n.name == "__call__"]
    return any(isinstance(s, ast.Raise) for f in calls for s in f.body)


def _known(value: Any) -> Any:
    """A plain value, or None where it cannot be told."""
    return None if isinstance(value, (Unknown, ClassOf, ast.AST)) else value


def _choices(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, (list, tuple, dict, set)) and not any(isinstance(x, Unknown) for x in value):
        return tuple(str(x) for x in value)
    return None


def _default(value: Any) -> Any:
    value = _known(value)
    return value if value is None or isinstance(value, (bool, int, float, str, list)) else None


def _from_field(node: ast.AnnAssign, module: Module) -> FlagSpec | None:
    """The flag of ``name: A[T, "help" | Arg(...)] = default`` (0.5.14+); None for a field without one."""
    annotation: ast.expr = node.annotation
    if not (
        isinstance(annotation, ast.Subscript)
        and ast.unparse(annotation.value).split(".")[-1] in ("A", "Annotated")
    ):
        return None
    parts = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    given = _metadata(parts[1:], module)
    if given is None or module.try_value(given.get("no_cli", ast.Constant(False)), {}) is True:
        return None

    def get(key: str) -> Any:
        return _known(module.try_value(given[key], {})) if key in given else None

    assert isinstance(node.target, ast.Name)
    name = node.target.id
    options = [get("cli_name") or "--" + name.replace("_", "-"), *(get("aliases") or [])]
    kind, literal, listed = _type(parts[0])
    action, nargs = None, get("nargs")
    if "type_parser" in given:
        raw = ast.unparse(given["type_parser"])
        kind, listed = ("json" if raw == "json.loads" else raw.split(".")[-1]), False
    if "action" in given:
        action = ast.unparse(given["action"]).split(".")[-1].strip("'\"")
        kwargs = get("action_kwargs")
        nargs = kwargs.get("nargs") if isinstance(kwargs, dict) else nargs
        nargs = _known(nargs)
        if action == "BooleanOptionalAction":
            options += ["--no-" + o[2:] for o in options]
    elif listed:
        nargs = nargs or "+"
    elif kind == "bool" and "type_parser" not in given:
        action = "store_true"
    help_text = get("help")
    deprecated, replacement = _deprecation(
        help_text if isinstance(help_text, str) else "", action, False, None, None
    )
    return FlagSpec(
        options=tuple(options),
        dest=name,
        type=kind,
        nargs=nargs,
        action=action,
        default=_default(module.try_value(node.value, {})) if node.value is not None else None,
        choices=_choices(module.try_value(given["choices"], {})) if "choices" in given else literal,
        required=node.value is None and get("required") is not False,
        deprecated=deprecated,
        replacement=replacement,
        const=get("const"),
    )


def _metadata(parts: Sequence[ast.expr], module: Module) -> dict[str, ast.expr] | None:
    for part in parts:  # the first Arg(...) or text says it
        if isinstance(part, ast.Call):
            if ast.unparse(part.func).split(".")[-1] == "Arg":
                found = {k.arg: k.value for k in part.keywords if k.arg}
                if part.args:
                    found.setdefault("help", part.args[0])
                return found
        elif isinstance(module.try_value(part, {}), str):
            return {"help": part}
    return None


def _type(node: ast.expr) -> tuple[str, tuple[str, ...] | None, bool]:
    """The converter's word of a type, its literals, and whether it is a list."""
    text = ast.unparse(node)
    while True:
        inner = re.fullmatch(r"(?:typing\.)?Optional\[(.*)\]|(?:typing\.)?Union\[(.*), None\]", text, re.S)
        if inner is None:
            break
        text = inner[1] or inner[2]
    parts = [p.strip() for p in re.split(r"\|(?![^\[]*\])", text) if p.strip() != "None"]
    text = "|".join(parts)
    if re.match(r"(?:typing\.)?Literal\[", text):
        try:
            values = ast.literal_eval(text[text.index("[") :])
        except (ValueError, SyntaxError):
            return "str", None, False
        return type(values[0]).__name__, tuple(str(v) for v in values), False
    listed = re.match(r"(?:typing\.)?[Ll]ist\[(.*)\]$", text, re.S)
    if listed:
        return (listed[1] if listed[1] in ("str", "int", "float") else "str"), None, True
    return (text if text in ("str", "int", "float", "bool") else "str"), None, False


def _from_calls(owner: ClassOf, module: Module, defaults: Mapping[str, Any], fatal: bool) -> list[FlagSpec]:
    """The flags of ``parser.add_argument`` calls in ``ServerArgs.add_cli_args``."""
    function = next(
        (n for n in owner.node.body if isinstance(n, ast.FunctionDef) and n.name == "add_cli_args"), None
    )
    found: list[FlagSpec] = []
    scope: dict[str, Any] = {}

    def walk(statements: Sequence[ast.stmt]) -> None:
        for one in statements:
            if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name):
                scope[one.targets[0].id] = module.try_value(one.value, scope)
            elif isinstance(one, (ast.If, ast.With, ast.Try, ast.For)):
                walk(one.body)
                walk(getattr(one, "orelse", []))
            elif isinstance(one, ast.Expr) and isinstance(one.value, ast.Call):
                call = one.value
                if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
                    spec = _from_call(call, module, scope, defaults, fatal)
                    if spec is not None:
                        found.append(spec)

    walk(function.body if function is not None else [])
    return found


def _from_call(
    call: ast.Call, module: Module, scope: Mapping[str, Any], defaults: Mapping[str, Any], fatal: bool
) -> FlagSpec | None:
    options = [x for x in (_known(module.try_value(a, scope)) for a in call.args) if isinstance(x, str)]
    longs = [o for o in options if o.startswith("--")]
    if not longs:
        return None
    given = {k.arg: k.value for k in call.keywords if k.arg}

    def get(key: str) -> Any:
        return _known(module.try_value(given[key], scope)) if key in given else None

    action = None
    if "action" in given:
        action = str(get("action") or ast.unparse(given["action"])).split(".")[-1].strip("'\"")
    kind = "str" if action is None else ""
    if "type" in given:
        raw = ast.unparse(given["type"])
        kind = (
            "json"
            if raw == "json.loads"
            else "str"
            if isinstance(given["type"], ast.Lambda)
            else raw.split(".")[-1]
        )
    if action in ("store_true", "store_false", "BooleanOptionalAction", *_HOW, "DeprecatedAction") and not kind:
        kind = "bool"
    if action == "BooleanOptionalAction":
        options += ["--no-" + o[2:] for o in longs]
    default = get("default")
    source = given.get("default")
    if isinstance(source, ast.Attribute) and ast.unparse(source.value) == "ServerArgs":
        default = _known(defaults.get(source.attr))
    elif isinstance(source, ast.Call) and ast.unparse(source.func) == "_declared_default" and source.args:
        default = _known(defaults.get(str(_known(module.try_value(source.args[0], scope)))))
    elif source is None and action == "store_true":
        default = False
    help_text, message, new_flag = get("help"), get("error_message"), get("new_flag")
    deprecated, replacement = _deprecation(help_text or "", action, fatal, new_flag, message)
    return FlagSpec(
        options=tuple(options),
        dest=str(get("dest") or longs[0].lstrip("-").replace("-", "_")),
        type=kind or "str",
        nargs=get("nargs"),
        action=action,
        default=_default(default),
        choices=_choices(module.try_value(given["choices"], scope)) if "choices" in given else None,
        required=bool(get("required")),
        deprecated=deprecated,
        replacement=replacement,
        const=get("const"),
    )


def _deprecation(
    help_text: str, action: str | None, fatal: bool, new_flag: str | None, message: str | None
) -> tuple[str | None, str | None]:
    """What happens when a flag is given that is on its way out, and what to write instead."""
    text = " ".join(help_text.split())
    head = re.match(r"(.{10,}?[.!?])(?:\s|$)", text)
    if action == "DeprecatedAction":
        how = "fatal: parser error" if fatal or message else "warns, ignored"
    elif action in _HOW:
        how = _HOW[action]
    elif _SAID.match(text) or _SAID_WITHIN.search((head[1] if head else text)[:240]):
        how = "said so in help; still parsed"
    else:
        return None, None
    if not new_flag:
        match = _USE.search(f"{message or ''} {text}")
        new_flag = re.sub(r" (with|instead|to|and|for|or)$", "", match[1].rstrip(".,'\"`")) if match else None
    return how, new_flag
