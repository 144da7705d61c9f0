"""``tune`` on the simulator: the checklist reads the live server, the open box is applied and measured."""

from __future__ import annotations

import json

from tests.scenarios.conftest import Ground, argv_of


def test_the_cap_that_harms_throughput_is_lifted_and_measured(ground: Ground) -> None:
    server = ground.server("--max-running-requests", "8").ready()
    ran = ground.change_under_load(server, (32, 512, 128), "tune", "throughput")
    assert ran.code == 0, (ran.out, ran.err)
    doc = json.loads(ran.out)
    assert doc["verdict"] in ("fixed", "better")
    boxes = {b["id"]: b for b in doc["checklist"]["boxes"]}
    assert boxes["running_cap"]["status"] == "harmful"
    assert boxes["continuous_batching"]["status"] == "done"
    assert boxes["radix_cache"]["status"] == "done"
    (now,) = ground.servers()
    assert "--max-running-requests" not in argv_of(now.identity.pid)


def test_a_checklist_without_open_boxes_changes_nothing(ground: Ground) -> None:
    server = ground.server().ready()
    before = argv_of(ground.servers()[0].identity.pid)
    ran = ground.run("tune", "memory", "--url", server.url, "--json", "--yes", "--window", "0.5")
    assert (ran.code, json.loads(ran.out)["verdict"]) == (0, "nothing_wrong")
    assert argv_of(ground.servers()[0].identity.pid) == before
    assert ground.sessions() == []
