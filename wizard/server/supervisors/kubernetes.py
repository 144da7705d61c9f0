"""A server in a Kubernetes pod: a strategic patch of its workload's words, a watched rollout, and its undo.

Only a Deployment, StatefulSet or DaemonSet that nobody else writes is patched: what an operator, Helm or a
GitOps controller owns would be put back by them, or would quietly differ from what they think it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from wizard.server.supervisors import clients
from wizard.server.supervisors.recipe import (
    CannotRecreate,
    Change,
    Check,
    Found,
    Guard,
    Recipe,
    Remove,
    Run,
    Step,
    Undo,
    Write,
)
from wizard.server.supervisors.words import carried_over

KUBELET = "the kubelet starts it again"
_ROLLED = {"Deployment": "deployment", "StatefulSet": "statefulset", "DaemonSet": "daemonset"}
"""Kinds that ``kubectl rollout`` knows."""
_WRITERS = (
    ("labels", "app.kubernetes.io/managed-by", "Helm", "Helm: change its values and run helm upgrade"),
    ("annotations", "meta.helm.sh/release-name", None, "Helm release {}: run helm upgrade"),
    ("annotations", "argocd.argoproj.io/tracking-id", None, "Argo CD ({}): change it in its repository"),
    ("labels", "argocd.argoproj.io/instance", None, "Argo CD ({}): change it in its repository"),
    ("labels", "kustomize.toolkit.fluxcd.io/name", None, "Flux ({}): change it in its repository"),
    ("labels", "helm.toolkit.fluxcd.io/name", None, "Flux ({}): change it in its repository"),
    ("labels", "app.kubernetes.io/managed-by", "kserve", "KServe: change its InferenceService"),
    ("labels", "serving.kserve.io/inferenceservice", None, "KServe ({}): change its InferenceService"),
    ("labels", "leaderworkerset.sigs.k8s.io/name", None, "LeaderWorkerSet {}: change it there"),
)
"""Where it is said that somebody else writes the workload: field, key, value (None: any), and what to do."""


def find(pod_uid: str, container_id: str, hostname: str) -> Found:
    """The workload above a pod, given by what the cgroup of one of its processes names. Only asks."""
    pod, why = _pod(pod_uid, hostname)
    if pod is None:
        short = pod_uid or container_id[:12]
        return Found("kubernetes", f"pod {short}", KUBELET, {}, (f"its pod is not found: {why}",))
    meta = pod["metadata"]
    namespace, obstacles = str(meta.get("namespace", "default")), []
    container = _container_name(pod, container_id)
    workload, why = _workload(pod, namespace)
    if workload is None:
        name = f"{namespace}/{meta['name']}"
        return Found("kubernetes", name, KUBELET, {}, (why,))
    kind, name = workload["kind"], workload["metadata"]["name"]
    above = _controller(workload)
    if above is not None:
        obstacles.append(f"it is run by {above['kind']} {above['name']}: change it there")
    for where, key, value, says in _WRITERS:
        said = (workload["metadata"].get(where) or {}).get(key)
        if said is not None and value in (None, said):
            obstacles.append(f"it is run by {says.format(said)}")
            break
    if workload["spec"].get("paused"):
        obstacles.append("its rollout is paused")
    if (workload["spec"].get("updateStrategy") or {}).get("type") == "OnDelete":
        obstacles.append("its pods are replaced by hand only (OnDelete)")
    may = ("kubectl", "auth", "can-i", "patch", f"{_ROLLED[kind]}s.apps/{name}", f"--namespace={namespace}")
    allowed = clients.ask(may)
    if not allowed.ok or allowed.out.strip() != "yes":
        obstacles.append(f"kubectl may not patch {_ROLLED[kind]}/{name} in namespace {namespace}")
    if container is None:
        obstacles.append("its container is not in the pod's status")
    facts: dict[str, Any] = {"workload": workload, "container": container, "namespace": namespace}
    where = f"{namespace}/{_ROLLED[kind]}/{name}"
    return Found("kubernetes", where, KUBELET, facts, tuple(dict.fromkeys(obstacles)))


def _pod(uid: str, hostname: str) -> tuple[dict[str, Any] | None, str]:
    """The pod with this uid: asked for by its likely name first, then among all of this node."""
    why = "kubectl knows no such pod"
    for selector in (f"metadata.name={hostname}" if hostname else "", f"spec.nodeName={os.uname().nodename}"):
        if not selector:
            continue
        asked = ("kubectl", "get", "pods", "--all-namespaces", f"--field-selector={selector}", "--output=json")
        doc, said = clients.ask_json(asked, limit_s=10.0)
        if said:
            return None, said
        for pod in clients.value_at(doc, "items") or ():
            if clients.value_at(pod, "metadata.uid") == uid:
                return pod, ""
    return None, why


def _container_name(pod: Mapping[str, Any], container_id: str) -> str | None:
    statuses = clients.value_at(pod, "status.containerStatuses") or ()
    found = (one for one in statuses if str(one.get("containerID", "")).endswith(f"//{container_id}"))
    return next((str(one["name"]) for one in found), None)


def _controller(doc: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((one for one in doc["metadata"].get("ownerReferences") or () if one.get("controller")), None)


def _workload(pod: Mapping[str, Any], namespace: str) -> tuple[dict[str, Any] | None, str]:
    """What ``kubectl rollout`` can roll above a pod; or why there is none."""
    owner = _controller(pod)
    if owner is not None and owner["kind"] == "ReplicaSet":
        above, why = _get("replicaset", owner["name"], namespace)
        if above is None:
            return None, f"its ReplicaSet cannot be read: {why}"
        owner = _controller(above)
    if owner is None:
        return None, "its pod has no owner that would make a new one: delete it and create it with the change"
    if owner["kind"] not in _ROLLED or not str(owner.get("apiVersion", "")).startswith("apps/"):
        return None, f"it is run by {owner['kind']} {owner['name']}: change it there"
    found, why = _get(_ROLLED[owner["kind"]], owner["name"], namespace)
    return found, f"its {owner['kind']} cannot be read: {why}"


def _get(kind: str, name: str, namespace: str) -> tuple[dict[str, Any] | None, str]:
    asked = ("kubectl", "get", f"{kind}.apps", name, f"--namespace={namespace}", "--output=json")
    doc, why = clients.ask_json(asked)
    return (doc, "") if isinstance(doc, dict) and "spec" in doc else (None, why or "no answer")


def recipe(found: Found, change: Change) -> Recipe:
    """The patch and its rollout. Raises CannotRecreate."""
    workload, namespace = found.facts["workload"], found.facts["namespace"]
    kind, name = _ROLLED[workload["kind"]], workload["metadata"]["name"]
    containers = workload["spec"]["template"]["spec"]["containers"]
    at = next((i for i, one in enumerate(containers) if one["name"] == found.facts["container"]), None)
    if at is None:
        raise CannotRecreate("its container is not in the workload (injected by a webhook?)")
    patch = container_patch(containers[at], change)
    text = json.dumps({"spec": {"template": {"spec": {"containers": [patch]}}}}, ensure_ascii=False) + "\n"
    path = os.path.join(change.folder, f"{kind}-{name}.patch.json")
    place = f"spec.template.spec.containers.{at}"
    where = (f"{kind}.apps/{name}", f"--namespace={namespace}")
    look = ("kubectl", "get", *where, "--output=json")
    fields = ("name", "image", "command", "args", "env")
    before = {f"{place}.{field}": containers[at].get(field) for field in fields}
    limit = change.drain_limit_s + 1800.0
    watch = Run(("kubectl", "rollout", "status", *where, f"--timeout={int(limit)}s"), limit + 30.0)
    as_before = Guard(look, expect=before)
    return Recipe(
        kind="kubernetes",
        name=found.name,
        blast=_blast(workload),
        steps=(
            Step("still as seen", Check(as_before, "the workload was changed meanwhile")),
            Step("write patch", Write(path, text, 0o600)),
            Step("patch", Run(("kubectl", "patch", *where, "--type=strategic", f"--patch-file={path}"))),
            Step("remove patch", Remove(path, text)),
        ),
        wait=(Step("rollout", watch),),
        undo=(
            Undo("remove patch", Remove(path, text), "write patch"),
            # done twice without its guard, an undo would bring the change back
            Undo("rollout undo", Run(("kubectl", "rollout", "undo", *where), unless=as_before), "patch"),
            Undo("as before", Check(as_before, "the workload is not what it was"), "patch"),
            Undo("watch it", watch, "patch"),
        ),
        keeps="whoever applies the workload's file again takes the change back: put it into that file",
    )


def container_patch(container: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """The strategic patch of one container: its name (the merge key), new words, variables (merged by name)."""
    command, args = tuple(container.get("command") or ()), tuple(container.get("args") or ())
    words = carried_over((*command, *args), change)
    new = dict(_split(command, args, words))
    patch: dict[str, Any] = {"name": container["name"]}
    old = {"command": command, "args": args}
    patch.update({name: _literals(old[name], x) for name, x in new.items() if x != old[name]})
    environ: list[dict[str, Any]] = []
    for name, value in change.environ.items():
        environ.append({"name": name, "$patch": "delete"} if value is None else {"name": name, "value": value})
    given = {one["name"]: one for one in container.get("env") or ()}
    for one in environ:
        before = given.get(one["name"])
        if before is not None and "valueFrom" in before:
            raise CannotRecreate(f"the variable {one['name']} comes from a Secret or ConfigMap")
        if before is None and "$patch" in one:
            raise CannotRecreate(f"the variable {one['name']} does not come from the workload")
        if "value" in one:
            one["value"] = literal(one["value"])
    return {**patch, "env": environ} if environ else patch


def _split(
    command: tuple[str, ...], args: tuple[str, ...], words: tuple[str, ...]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if args and words[: len(command)] == command:
        return (("command", command), ("args", words[len(command) :]))
    if not args:
        return (("command", words),)
    if words[-len(args) :] == args:
        return (("command", words[: -len(args)]), ("args", args))
    raise CannotRecreate("its flags stand half in the command and half in the args")


def _literals(old: tuple[str, ...], new: tuple[str, ...]) -> list[str]:
    """Words as they stand in the workload: what was there keeps its ``$(VAR)``, what is new holds none."""
    return [word if word in old else literal(word) for word in new]


def literal(text: str) -> str:
    """A text in which the kubelet fills in nothing: ``$$`` is a ``$`` (core/v1 Container, args)."""
    return text.replace("$(", "$$(")


def _blast(workload: Mapping[str, Any]) -> str:
    spec = workload["spec"]
    count = spec.get("replicas", 1)
    pods = f"all {count} pods" if count != 1 else "the pod"
    text = f"{workload['kind']} {workload['metadata']['name']}: {pods} of it are replaced"
    grace = clients.value_at(spec, "template.spec.terminationGracePeriodSeconds") or 30
    text += f"; running requests may finish, at most {grace} s."
    strategy = spec.get("strategy") or {}
    if workload["kind"] == "Deployment" and strategy.get("type", "RollingUpdate") == "RollingUpdate":
        text += " The new pod starts beside the old one: without a free GPU it waits, and the rollout with it."
    return text
