"""The command line on a unit of a real systemd, which runs as the first process of a container of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines.conftest import IMAGE, REPOSITORY, run

pytestmark = pytest.mark.parametrize("engine", ["docker"])
SYSTEMD = "/usr/lib/systemd/systemd"
CHANGE = ("fix", "--no-load-test", "--yes", "--json", "--set")
DROP_IN = "/etc/systemd/system/sglang.service.d/zz-sgl-wizard.conf"
UNIT = """[Service]
Environment=PYTHONPATH={repository} PYTHONDONTWRITEBYTECODE=1
Environment=SGLANG_SIM_START_S=1 "NOTE=a b 100%%"
WorkingDirectory={repository}
ExecStart={python} -m wizard.simulator --model-path m --api-key sk-inside99 --max-running-requests 8
Restart=always
RestartSec=1
"""


class Host:
    """A container that is a whole host: systemd, a unit of it, and the wizard beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, f"sgl-wizard-systemd-{os.getpid()}"

    def boot(self) -> None:
        roots = {"/usr", "/lib", "/lib64", "/bin", "/sbin", sys.base_prefix, sys.prefix, str(REPOSITORY)}
        words = [f"--volume={one}:{one}:ro" for one in sorted(roots) if os.path.exists(one)]
        words += ["--cap-add=SYS_ADMIN", "--security-opt=seccomp=unconfined", "--cgroupns=private"]
        words += ["--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw", "--tmpfs=/run", "--tmpfs=/run/lock"]
        run(
            "docker", "run", "--detach", f"--name={self.name}", "--env=container=docker", *words, IMAGE, SYSTEMD
        )
        self.wait("systemctl list-units --no-legend", "multi-user.target")
        unit = UNIT.format(repository=REPOSITORY, python=sys.executable)
        self.sh("cat > /etc/systemd/system/sglang.service", stdin=unit)
        self.sh("systemctl daemon-reload && systemctl start sglang")
        self.until_ready()

    def sh(self, line: str, stdin: str = "") -> str:
        words = ("docker", "exec", "--interactive", self.name, "/bin/sh", "-c", line)
        return run(*words, stdin=stdin.encode())

    def wait(self, line: str, says: str, limit_s: float = 60.0) -> None:
        end = time.monotonic() + limit_s
        while True:
            words = ("docker", "exec", self.name, "/bin/sh", "-c", line)
            done = subprocess.run(words, capture_output=True, text=True, timeout=30)
            if done.returncode == 0 and says in done.stdout:
                return
            assert time.monotonic() < end, f"{line}: {done.stdout[-300:]} {done.stderr[-300:]}"
            time.sleep(0.3)

    def until_ready(self) -> None:
        ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:30000/health', timeout=5).status)"
        self.wait(f'{sys.executable} -c "{ask}"', "200")

    def wizard(self, *words: str) -> tuple[int, dict[str, Any]]:
        env = [f"--env=PYTHONPATH={REPOSITORY}", "--env=SGL_WIZARD_STATE_DIR=/run/wizard"]
        argv = ["docker", "exec", *env, self.name, sys.executable, "-m", "wizard", *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=150)
        doc = json.loads(done.stdout) if done.stdout.startswith("{") else {}
        return done.returncode, doc

    @property
    def cap(self) -> str:
        """--max-running-requests of what runs, as systemd tells it."""
        words = self.sh("systemctl show sglang --property=ExecStart").split()
        return words[words.index("--max-running-requests") + 1]

    @property
    def files(self) -> list[str]:
        return self.sh(
            "ls -d /etc/systemd/system/sglang.service.d/* /run/systemd/system/*.d/* 2>/dev/null || true"
        ).split()


@pytest.fixture
def host(engine: str, images: dict[str, str], tmp_path: Path) -> Iterator[Host]:
    if not os.path.exists(SYSTEMD):
        pytest.skip("no systemd is installed here to boot")
    made = Host(tmp_path)
    try:
        made.boot()
        yield made
    finally:
        subprocess.run(["docker", "rm", "--force", made.name], capture_output=True, timeout=60)


def test_a_unit_of_a_real_systemd(host: Host) -> None:
    before = host.sh("cat /etc/systemd/system/sglang.service")
    code, doc = host.wizard(*CHANGE, "max_running_requests=16")
    assert (code, doc["outcome"], doc["serving"]) == (0, "kept", "new"), doc
    assert (host.cap, host.files) == ("16", [DROP_IN])
    host.sh("systemctl kill --signal=SIGKILL sglang")
    time.sleep(3)
    host.until_ready()
    assert host.cap == "16", "and systemd starts it again as it was changed"

    session = str(doc["session"])
    code, doc = host.wizard("sessions", "rollback", session, "--yes", "--json")
    assert (host.cap, host.files) == ("8", []), doc
    host.until_ready()

    code, doc = host.wizard(*CHANGE, "mem_fraction_static=0.02")
    assert (code, doc["outcome"], doc["serving"]) == (4, "rolled_back", "old"), doc
    assert (host.cap, host.files) == ("8", [])
    assert "sk-inside99" not in json.dumps(doc)
    host.until_ready()

    words = " ".join([sys.executable, "-m", "wizard", *CHANGE, "max_running_requests=16"])
    host.sh(f"PYTHONPATH={REPOSITORY} SGL_WIZARD_STATE_DIR=/run/wizard {words} >/dev/null 2>&1 & "
            f"while ! test -e {DROP_IN}; do sleep 0.05; done; pkill -9 -f '[w]izard.runner'")  # fmt: skip
    time.sleep(1)
    _, doc = host.wizard("sessions", "list", "--json")
    last = doc["sessions"][0]
    assert (last["outcome"], last["runner_alive"]) == (None, False), last
    host.wizard("sessions", "rollback", str(last["id"]), "--yes", "--json")
    assert (host.cap, host.files) == ("8", [])
    host.until_ready()
    assert host.sh("cat /etc/systemd/system/sglang.service") == before


HELD = """
import json, subprocess
from wizard.server.supervisors import units
pid = subprocess.run(["systemctl", "show", "sglang", "-p", "MainPID", "--value"], capture_output=True).stdout
held = units.held_by(int(pid), "sglang.service")
print(json.dumps({**held.to_json(), "overruled": units.overrules(held, {"HF_ENDPOINT"})}))
"""


def test_what_a_real_systemd_says_of_a_unit(host: Host) -> None:
    """Its words for a prefix, for files of variables and for a unit that stops along."""

    def held(*edits: str) -> dict[str, Any]:
        for edit in edits:
            host.sh(f"sed -i '{edit}' /etc/systemd/system/sglang.service")
        host.sh("systemctl daemon-reload && systemctl restart sglang")
        said = host.sh(f"PYTHONPATH={REPOSITORY} {sys.executable} -", stdin=HELD)
        return dict(json.loads(said))

    plain = held()
    assert (plain["why_not"], plain["details"]["prefix"], plain["overruled"]) == ("", "", "")
    host.sh("echo HF_ENDPOINT=https://one >/etc/sglang.env")
    files = "a EnvironmentFile=-/etc/none.env\\nEnvironmentFile=/etc/sglang.env"
    found = held("s/^ExecStart=/ExecStart=-/", f"/^Environment=/{files}")
    assert (found["why_not"], found["details"]["prefix"]) == ("", "-")
    assert found["overruled"].startswith("/etc/sglang.env (EnvironmentFile=) sets HF_ENDPOINT")
    host.until_ready()
    code, doc = host.wizard(*CHANGE, "max_running_requests=16")
    assert (code, doc["serving"], host.cap) == (0, "new", "16"), doc
    assert host.sh(f"grep -c ^ExecStart=- {DROP_IN}") == "1"
    host.wizard("sessions", "rollback", str(doc["session"]), "--yes", "--json")
    assert (host.cap, host.files) == ("8", [])

    assert "a prefix (+)" in held("s/^ExecStart=-/ExecStart=+/")["why_not"]
    host.sh("printf '[Service]\\nExecStart=/bin/sleep 600\\n[Unit]\\nBindsTo=sglang.service\\n' "
            ">/etc/systemd/system/proxy.service; systemctl daemon-reload; systemctl start proxy")  # fmt: skip
    host.sh("sed -i 's/^ExecStart=+/ExecStart=/' /etc/systemd/system/sglang.service; systemctl daemon-reload")
    said = json.loads(host.sh(f"PYTHONPATH={REPOSITORY} {sys.executable} -", stdin=HELD))
    assert "proxy.service would be stopped with it" in said["why_not"]
