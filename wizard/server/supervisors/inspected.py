"""``docker create`` options that make the container that ``docker inspect`` describes: a table, and no loss.

Every field of ``HostConfig`` and ``Config`` is either written by a row of these tables, or made by the engine
itself, or must be empty. A field with a value that no row covers is named, and then nothing is recreated.
Sources: the Docker Engine API 1.50 (ContainerInspect, ContainerCreate) and docker/cli opts (28.2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wizard.server.supervisors.recipe import CannotRecreate

Doc = Mapping[str, Any]
Writer = Callable[[Any], list[str]]


def _one(option: str) -> Writer:
    return lambda x: [f"{option}={x}"]


def _many(option: str) -> Writer:
    return lambda xs: [f"{option}={x}" for x in xs]


def _pairs(option: str) -> Writer:
    return lambda xs: [f"{option}={name}={value}" for name, value in sorted(xs.items())]


def _switch(option: str) -> Writer:
    return lambda x: [option]


def _unless(usual: object, writer: Writer) -> Writer:
    return lambda x: [] if x == usual else writer(x)


def _devices(xs: Sequence[Doc]) -> list[str]:
    return [f"--device={x['PathOnHost']}:{x['PathInContainer']}:{x['CgroupPermissions']}" for x in xs]


def _gpus(xs: Sequence[Doc]) -> list[str]:
    words = []
    for x in xs:
        ids = x.get("DeviceIDs") or []
        if x.get("Driver") == "cdi" and ids:
            words += [f"--device={one}" for one in ids]
            continue
        capabilities = x.get("Capabilities") or []
        if len(capabilities) != 1:
            raise CannotRecreate("a device request with several sets of capabilities")
        fields = [f"driver={x['Driver']}"] if x.get("Driver") else []
        fields += [f'"device={",".join(ids)}"'] if ids else [f"count={x.get('Count') or 0}"]
        more = [one for one in capabilities[0] if one != "gpu"]
        fields += [f'"capabilities={",".join(more)}"'] if more else []
        options = x.get("Options") or {}
        fields += [f'"options={",".join(f"{k}={v}" for k, v in sorted(options.items()))}"'] if options else []
        words.append(f"--gpus={','.join(fields)}")
    return words


def _ports(xs: Mapping[str, Sequence[Doc] | None]) -> list[str]:
    words = []
    for inside, bindings in sorted(xs.items()):
        for one in bindings or ():
            if not one.get("HostPort"):
                raise CannotRecreate(f"port {inside} is published at a port that the engine chose")
            host = one.get("HostIp") or ""
            host = f"[{host}]" if ":" in host else host
            words.append(f"--publish={f'{host}:' if host else ''}{one['HostPort']}:{inside}")
    return words


_MOUNT_FIELDS = frozenset({"Type", "Source", "Target", "ReadOnly", "BindOptions"})


def _mounts(xs: Sequence[Doc]) -> list[str]:
    words = []
    for x in xs:
        bind = x.get("BindOptions") or {}
        strange = [k for k, v in x.items() if v and k not in _MOUNT_FIELDS]
        strange += [k for k, v in bind.items() if v and k != "Propagation"]
        if strange:
            raise CannotRecreate(f"a mount at {x.get('Target')} with {', '.join(strange)}")
        fields = [f"type={x['Type']}"]
        fields += [f"source={x['Source']}"] if x.get("Source") else []
        fields += [f"target={x['Target']}"]
        fields += ["readonly"] if x.get("ReadOnly") else []
        fields += [f"bind-propagation={bind['Propagation']}"] if bind.get("Propagation") else []
        if any(char in field for field in fields for char in ',"\n'):
            raise CannotRecreate(f"a mount at {x['Target']} whose path holds a comma or a quote")
        words.append(f"--mount={','.join(fields)}")
    return words


def _log(x: Doc) -> list[str]:
    return [f"--log-driver={x['Type']}", *_pairs("--log-opt")(x.get("Config") or {})] if x.get("Type") else []


def _restart(x: Doc) -> list[str]:
    return [f"--restart={restart_word(x)}"]


def restart_word(policy: Doc) -> str:
    """A restart policy as the command line writes it."""
    most = policy.get("MaximumRetryCount") or 0
    return f"{policy.get('Name') or 'no'}{f':{most}' if most else ''}"


def _tmpfs(xs: Mapping[str, str]) -> list[str]:
    return [f"--tmpfs={path}{f':{options}' if options else ''}" for path, options in sorted(xs.items())]


def _ulimits(xs: Sequence[Doc]) -> list[str]:
    return [f"--ulimit={x['Name']}={x['Soft']}:{x['Hard']}" for x in xs]


def _security(xs: Sequence[str]) -> list[str]:
    if any(x.startswith("seccomp={") for x in xs):
        raise CannotRecreate("a seccomp profile, whose file is not known")
    return _many("--security-opt")(xs)


def _oom_kill(x: bool) -> list[str]:
    return ["--oom-kill-disable"] if x else []


HOST: Mapping[str, Writer] = {
    "Binds": _many("--volume"),
    "Mounts": _mounts,
    "Tmpfs": _tmpfs,
    "VolumesFrom": _many("--volumes-from"),
    "VolumeDriver": _one("--volume-driver"),
    "PortBindings": _ports,
    "PublishAllPorts": _switch("--publish-all"),
    "DeviceRequests": _gpus,
    "Devices": _devices,
    "DeviceCgroupRules": _many("--device-cgroup-rule"),
    "ShmSize": _one("--shm-size"),
    "IpcMode": _one("--ipc"),
    "PidMode": _one("--pid"),
    "UTSMode": _one("--uts"),
    "UsernsMode": _one("--userns"),
    "CgroupnsMode": _one("--cgroupns"),
    "CgroupParent": _one("--cgroup-parent"),
    "NetworkMode": _unless("default", _one("--network")),
    "Dns": _many("--dns"),
    "DnsOptions": _many("--dns-option"),
    "DnsSearch": _many("--dns-search"),
    "ExtraHosts": _many("--add-host"),
    "Ulimits": _ulimits,
    "CapAdd": _many("--cap-add"),
    "CapDrop": _many("--cap-drop"),
    "Privileged": _switch("--privileged"),
    "SecurityOpt": _security,
    "GroupAdd": _many("--group-add"),
    "Sysctls": _pairs("--sysctl"),
    "StorageOpt": _pairs("--storage-opt"),
    "Annotations": _pairs("--annotation"),
    "ReadonlyRootfs": _switch("--read-only"),
    "Init": lambda x: [f"--init={str(x).lower()}"],
    "Runtime": _one("--runtime"),
    "LogConfig": _log,
    "RestartPolicy": _restart,
    "OomScoreAdj": _one("--oom-score-adj"),
    "OomKillDisable": _oom_kill,
    "PidsLimit": _one("--pids-limit"),
    "Memory": _one("--memory"),
    "MemorySwap": _one("--memory-swap"),
    "MemoryReservation": _one("--memory-reservation"),
    "MemorySwappiness": _one("--memory-swappiness"),
    "NanoCpus": lambda x: [f"--cpus={x / 1e9:.9f}".rstrip("0").rstrip(".")],
    "CpuShares": _one("--cpu-shares"),
    "CpuPeriod": _one("--cpu-period"),
    "CpuQuota": _one("--cpu-quota"),
    "CpuRealtimePeriod": _one("--cpu-rt-period"),
    "CpuRealtimeRuntime": _one("--cpu-rt-runtime"),
    "CpusetCpus": _one("--cpuset-cpus"),
    "CpusetMems": _one("--cpuset-mems"),
    "BlkioWeight": _one("--blkio-weight"),
}
_ZERO_SAYS = frozenset({"Init", "MemorySwappiness", "StopTimeout"})
"""Zero or false is another thing than nothing there."""
HOST_MADE = frozenset({"ContainerIDFile", "ConsoleSize", "MaskedPaths", "ReadonlyPaths", "Isolation"})
"""Made by the client or the engine; masked paths are looked at apart."""

CONFIG: Mapping[str, Writer] = {
    "User": _one("--user"),
    "WorkingDir": _one("--workdir"),
    "Domainname": _one("--domainname"),
    "Tty": _switch("--tty"),
    "OpenStdin": _switch("--interactive"),
    "StopSignal": _one("--stop-signal"),
    "StopTimeout": _one("--stop-timeout"),
    "MacAddress": _one("--mac-address"),
    "Labels": _pairs("--label"),
    "ExposedPorts": lambda xs: [f"--expose={port}" for port in sorted(xs)],
}
CONFIG_MADE = frozenset(
    {
        "Hostname",
        "Image",
        "Cmd",
        "Entrypoint",
        "Env",
        "Healthcheck",
        "Volumes",
        "ArgsEscaped",
        "OnBuild",
        "Shell",
    }
    | {"AttachStdin", "AttachStdout", "AttachStderr", "StdinOnce"}
)
"""Written by ``docker`` itself, or only where they differ from the image."""
_HEALTH = (
    ("Interval", "--health-interval"),
    ("Timeout", "--health-timeout"),
    ("StartPeriod", "--health-start-period"),
    ("StartInterval", "--health-start-interval"),
)


def create_options(doc: Doc, image: Doc) -> list[str]:
    """Options for ``docker create`` (without name, environment, entrypoint, image and words).

    Raises CannotRecreate with every field that they could not bring back.
    """
    words: list[str] = []
    missing: list[str] = []
    host, config, base = doc["HostConfig"], doc["Config"], image.get("Config") or {}
    for table, made, fields, usual in ((HOST, HOST_MADE, host, {}), (CONFIG, CONFIG_MADE, config, base)):
        for name, value in fields.items():
            value = _beyond(value, usual.get(name))
            if name in made or value is None or (not value and name not in _ZERO_SAYS):
                continue
            try:
                words += table[name](value) if name in table else []
                missing += [] if name in table else [name]
            except CannotRecreate as reason:
                missing += reason.reasons
            except (KeyError, TypeError, AttributeError):
                missing.append(f"{name}={value!r}"[:80])
    for part in (_hostname, _masked, _volumes, _networks, _health):
        try:
            words += part(doc, base)
        except CannotRecreate as reason:
            missing += reason.reasons
    if missing:
        raise CannotRecreate(*(f"its container has what cannot be made again: {one}" for one in missing))
    return words


def _beyond(value: Any, usual: Any) -> Any:
    """What the container says beyond its image."""
    if value == usual:
        return None
    if isinstance(value, Mapping) and isinstance(usual, Mapping):
        return {name: x for name, x in value.items() if usual.get(name) != x or name not in usual}
    return value


def _hostname(doc: Doc, base: Doc) -> list[str]:
    name = doc["Config"].get("Hostname") or ""
    shared = doc["HostConfig"].get("NetworkMode") == "host" or doc["HostConfig"].get("UTSMode") == "host"
    return [] if not name or shared or name == doc["Id"][:12] else [f"--hostname={name}"]


def _masked(doc: Doc, base: Doc) -> list[str]:
    host = doc["HostConfig"]
    if host.get("Privileged") or host.get("MaskedPaths") or "MaskedPaths" not in host:
        return []  # the command line knows the usual list and none
    return ["--security-opt=systempaths=unconfined"]


def _volumes(doc: Doc, base: Doc) -> list[str]:
    return [f"--volume={one}" for one in extra_volumes(doc)]


def extra_volumes(doc: Doc) -> list[str]:
    """Volumes of the image that got no name from anybody: the new container is to get the very same."""
    host = doc["HostConfig"]
    said = {bind.split(":")[1] for bind in host.get("Binds") or () if ":" in bind}
    said |= {x.get("Target") for x in host.get("Mounts") or ()}
    found = []
    for x in doc.get("Mounts") or ():
        if x["Type"] == "volume" and x["Destination"] not in said and not host.get("VolumesFrom"):
            found.append(f"{x['Name']}:{x['Destination']}{'' if x.get('RW', True) else ':ro'}")
    return found


def _networks(doc: Doc, base: Doc) -> list[str]:
    networks: Mapping[str, Doc] = (doc.get("NetworkSettings") or {}).get("Networks") or {}
    if len(networks) > 1:
        raise CannotRecreate(f"{len(networks)} networks ({', '.join(sorted(networks))})")
    words = []
    given = {doc["Id"][:12], doc["Name"].lstrip("/")}
    for name, x in networks.items():
        if x.get("Links") or x.get("DriverOpts"):
            raise CannotRecreate(f"links or driver options in network {name}")
        fixed = x.get("IPAMConfig") or {}
        words += [f"--ip={fixed['IPv4Address']}"] if fixed.get("IPv4Address") else []
        words += [f"--ip6={fixed['IPv6Address']}"] if fixed.get("IPv6Address") else []
        words += [f"--link-local-ip={one}" for one in fixed.get("LinkLocalIPs") or ()]
        words += [f"--network-alias={one}" for one in x.get("Aliases") or () if one not in given]
    return words


def _health(doc: Doc, base: Doc) -> list[str]:
    check = doc["Config"].get("Healthcheck")
    if not check or check == base.get("Healthcheck"):
        return []
    test = check.get("Test") or []
    words = [f"{option}={check[name]}ns" for name, option in _HEALTH if check.get(name)]
    words += [f"--health-retries={check['Retries']}"] if check.get("Retries") else []
    match test:
        case ["NONE"]:
            return ["--no-healthcheck"]
        case ["CMD-SHELL", text]:
            return [f"--health-cmd={text}", *words]
        case []:
            return words
    raise CannotRecreate("a health check that is no shell text")
