"""What a cgroup path says of the container that a process lives in."""

from __future__ import annotations

import os

import pytest

from tests.server.supervisors.engines.conftest import CONTAINER_ID as ID
from tests.server.supervisors.engines.conftest import POD_UID as POD
from wizard.server.supervisors import cgroups
from wizard.server.supervisors.cgroups import Container, container_of

OTHER = "cd" * 32
SLICE = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{POD.replace('-', '_')}.slice"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"0::/system.slice/docker-{ID}.scope", Container("docker", ID)),
        (f"12:memory:/docker/{ID}\n0::/", Container("docker", ID)),
        (f"0::/../docker-{ID}.scope", Container("docker", ID)),
        (f"0::/machine.slice/libpod-{ID}.scope/container", Container("podman", ID)),
        (
            f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope",
            Container("podman", ID),
        ),
        (f"0::{SLICE}/cri-containerd-{ID}.scope", Container("kubernetes", ID, POD)),
        (f"0::{SLICE}/crio-{ID}.scope", Container("kubernetes", ID, POD)),
        (f"5:cpu:/kubepods/besteffort/pod{POD}/{ID}", Container("kubernetes", ID, POD)),
        (f"0::/docker/{OTHER}/kubelet/kubepods/pod{POD}/{ID}", Container("kubernetes", ID, POD)),
        (f"0::/default/{ID}", Container("containerd", ID)),
        ("0::/system.slice/docker.service", None),
        ("0::/user.slice/user-1000.slice/session-4.scope", None),
        (f"0::/docker/{ID[:-1]}", None),
        (f"0::/docker/{ID.upper()}", None),
        ("", None),
    ],
)
def test_which_container_a_cgroup_names(text: str, found: Container | None) -> None:
    assert container_of(text) == found


def test_the_text_of_a_process() -> None:
    assert cgroups.read("self") == cgroups.read(os.getpid())
    assert ":" in cgroups.read("self")
    assert cgroups.read(2**22 + 1) == ""
