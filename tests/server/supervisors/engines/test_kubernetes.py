"""Kubernetes: whose the workload is, and the patch as the real kubectl merges it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.server.supervisors.engines.conftest import NEW, World
from wizard.core.target import Launch
from wizard.server.supervisors.kubernetes import KUBELET, container_patch
from wizard.server.supervisors.recipe import CannotRecreate, Change, Write

KUBECTL = shutil.which("kubectl")
Make = Callable[[str], World]
DEPLOYMENT = "deployment.apps/sglang"


def deployment(doc: dict[str, Any]) -> Any:
    return doc["cluster"]["objects"][DEPLOYMENT]


def owned(kind: str, name: str, version: str = "x/v1") -> list[dict[str, Any]]:
    return [{"kind": kind, "name": name, "controller": True, "apiVersion": version}]


def label(key: str, value: str, where: str = "labels") -> Callable[[Any], object]:
    return lambda doc: deployment(doc)["doc"]["metadata"].update({where: {key: value}})


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (label("app.kubernetes.io/managed-by", "Helm"), "helm upgrade"),
        (label("meta.helm.sh/release-name", "llm", "annotations"), "Helm release llm"),
        (label("argocd.argoproj.io/tracking-id", "a:b", "annotations"), "Argo CD"),
        (label("kustomize.toolkit.fluxcd.io/name", "f"), "Flux"),
        (label("serving.kserve.io/inferenceservice", "m"), "KServe"),
        (
            lambda doc: deployment(doc)["doc"]["metadata"].update(ownerReferences=owned("LLMService", "big")),
            "run by LLMService big",
        ),
        (lambda doc: deployment(doc)["history"][0].update(paused=True), "paused"),
        (lambda doc: doc["cluster"].update(may=False), "may not patch deployment/sglang in namespace llm"),
        (lambda doc: doc["cluster"]["pods"][0]["metadata"].update(ownerReferences=[]), "no owner"),
        (
            lambda doc: doc["cluster"]["pods"][0]["metadata"].update(ownerReferences=owned("Job", "j")),
            "run by Job j",
        ),
        (
            lambda doc: doc["cluster"]["pods"][0]["metadata"].update(
                ownerReferences=owned("StatefulSet", "s", "apps.kruise.io/v1")
            ),
            "run by StatefulSet s",
        ),
        (lambda doc: doc["cluster"].update(pods=[]), "its pod is not found"),
        (lambda doc: doc["cluster"]["objects"].pop("replicaset.apps/sglang-6f"), "ReplicaSet cannot be read"),
        (
            lambda doc: doc["cluster"]["pods"][0]["status"].update(containerStatuses=[]),
            "not in the pod's status",
        ),
        (lambda doc: doc.update(fails="kubectl get pods"), "told to fail"),
    ],
)
def test_a_workload_that_is_not_patched(make: Make, how: Callable[[Any], object], why: str) -> None:
    world = make("kubernetes")
    world.edit(how)
    before = world.doc
    assert world.found().restarts == KUBELET
    reasons = world.refusal()
    assert any(why in reason for reason in reasons), reasons
    assert world.doc == before


def test_the_blast_radius_names_all_pods_and_the_second_gpu(make: Make) -> None:
    world = make("kubernetes")
    assert "all 2 pods" in world.recipe().blast
    assert "free GPU" in world.recipe().blast
    world.edit(lambda doc: deployment(doc)["history"][0].update(strategy={"type": "Recreate"}, replicas=1))
    found = world.recipe().blast
    assert "the pod of it" in found
    assert "free GPU" not in found


WORDS = ["python3", "-m", "sglang.launch_server", "--model-path", "m"]
FLAG = ["--mem-fraction-static", "0.9"]


@pytest.mark.parametrize(
    ("command", "args", "field", "new"),
    [
        (WORDS[:3], [*WORDS[3:], *FLAG], "args", [*WORDS[3:], FLAG[0], "0.8"]),
        ([*WORDS, *FLAG], None, "command", [*WORDS, FLAG[0], "0.8"]),
        (None, [*WORDS, *FLAG], "args", [*WORDS, FLAG[0], "0.8"]),
        ([*WORDS, *FLAG], ["--host", "$(HOST)"], "command", [*WORDS, FLAG[0], "0.8"]),
        (["bash", "-c"], [" ".join([*WORDS, *FLAG])], "args", [" ".join([*WORDS, FLAG[0], "0.8"])]),
    ],
)
def test_only_the_list_with_the_flag_is_patched(
    make: Make, command: list[str] | None, args: list[str] | None, field: str, new: list[str]
) -> None:
    change = Change(Launch((*WORDS, *FLAG), "/"), (*WORDS, FLAG[0], "0.8"), version="0.5.20")
    found = container_patch({"name": "c", "command": command, "args": args}, change)
    assert found == {"name": "c", field: new}


def test_variables_that_the_workload_does_not_hold_itself(make: Make) -> None:
    world = make("kubernetes")
    args = [*NEW]
    one = {"name": "c", "args": args, "env": [{"name": "K", "valueFrom": {"secretKeyRef": {}}}]}
    same = {"new_argv": world.change().old.argv}
    for environ in ({"K": "v"}, {"GONE": None}):
        with pytest.raises(CannotRecreate, match="the variable"):
            container_patch(
                {**one, "args": list(world.change().old.argv)}, world.change(environ=environ, **same)
            )
    found = container_patch({**one, "args": list(world.change().old.argv)}, world.change(environ={"A": "$(B)"}))
    assert found["env"] == [{"name": "A", "value": "$$(B)"}]


@pytest.mark.skipif(KUBECTL is None, reason="no kubectl here")
def test_the_real_kubectl_merges_the_patch(make: Make, tmp_path: Path) -> None:
    world = make("kubernetes")
    found = world.recipe(environ={"NAME": None, "A": "1"})
    patch = next(step.act for step in found.steps if isinstance(step.act, Write))
    spec = deployment(world.doc)["history"][0]
    meta = {"name": "sglang", "namespace": "llm"}
    selector = {"matchLabels": {"app": "x"}}
    before: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {**spec, "selector": selector},
    }
    (tmp_path / "d.json").write_text(json.dumps(before))
    (tmp_path / "p.json").write_text(patch.content)
    done = subprocess.run(
        [str(KUBECTL), "patch", "--local", "-f", str(tmp_path / "d.json"), "--type=strategic", "-o", "json",
         f"--patch-file={tmp_path / 'p.json'}"],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    after = json.loads(done.stdout)
    one = after["spec"]["template"]["spec"]["containers"]
    old = before["spec"]["template"]["spec"]["containers"]
    assert one[0] == old[0]
    assert one[1]["env"] == [{"name": "A", "value": "1"}]
    assert one[1]["args"] == [{"0.9": "0.8"}.get(word, word) for word in old[1]["args"]]
    assert {**one[1], "env": 0, "args": 0} == {**old[1], "env": 0, "args": 0}
