"""The plan's change in the holder's own words: wrappers, shell texts, variables, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wizard.core.argv import parse
from wizard.core.target import Launch
from wizard.server.catalogue import for_version
from wizard.server.supervisors.recipe import CannotRecreate, Change
from wizard.server.supervisors.words import carried_over

HEAD = ("python3", "-m", "sglang.launch_server", "--model-path", "m")
OLD = (*HEAD, "--mem-fraction-static", "0.9", "--disable-radix-cache")


def change(old: tuple[str, ...], new: tuple[str, ...]) -> Change:
    return Change(Launch(old, "/"), new, version="0.5.20")


LOWER = change(OLD, tuple("0.8" if word == "0.9" else word for word in OLD))
CACHE = change(OLD, OLD[:-1])
GRAPHS = change(OLD, (*OLD, "--disable-cuda-graph"))


@pytest.mark.parametrize(
    ("held", "what", "found"),
    [
        (OLD, LOWER, LOWER.new_argv),
        (("numactl", "-N", "0", *OLD), LOWER, ("numactl", "-N", "0", *LOWER.new_argv)),
        (("/usr/bin/tini", "--", *OLD), CACHE, ("/usr/bin/tini", "--", *OLD[:-1])),
        (
            ("bash", "-c", "ulimit -n 9; exec python3 -m sglang.launch_server --model-path $M "
             "--mem-fraction-static=0.9 --disable-radix-cache # x"),
            LOWER,
            ("bash", "-c", "ulimit -n 9; exec python3 -m sglang.launch_server --model-path $M "
             "--mem-fraction-static=0.8 --disable-radix-cache # x"),
        ),
        (
            ("docker", "run", "--name", "x", "-e", "A=1", "image", *OLD),
            GRAPHS,
            ("docker", "run", "--name", "x", "-e", "A=1", "image", *OLD, "--disable-cuda-graph"),
        ),
        (  # filled in by its holder: the rest of the words is another text than in /proc
            (*HEAD[:-1], "${MODEL}", "--mem-fraction-static", "0.9", "--disable-radix-cache"),
            CACHE,
            (*HEAD[:-1], "${MODEL}", "--mem-fraction-static", "0.9"),
        ),
    ],
)  # fmt: skip
def test_only_the_changed_flag_differs(held: tuple[str, ...], what: Change, found: tuple[str, ...]) -> None:
    assert carried_over(held, what) == found


@pytest.mark.parametrize(
    ("held", "what", "why"),
    [
        (("/opt/run.sh",), LOWER, "do not start SGLang themselves"),
        ((), LOWER, "do not start SGLang themselves"),
        (("bash", "/opt/run.sh", "--mem-fraction-static", "0.9"), LOWER, "do not start SGLang themselves"),
        ((*HEAD, "$ARGS"), LOWER, "--mem-fraction-static does not come from its command line"),
        ((*HEAD, "--mem-fraction-static", "$F", "--disable-radix-cache"), LOWER, "does not come from"),
        (("bash", "-c", f"{' '.join(OLD)} $MORE"), LOWER, "cannot be edited"),
        (OLD, change(OLD, ("python3.9", *OLD[1:])), "more than flags"),
    ],
)
def test_what_cannot_be_changed_there_is_refused(held: tuple[str, ...], what: Change, why: str) -> None:
    with pytest.raises(CannotRecreate, match=why):
        carried_over(held, what)


FLAGS = {"--mem-fraction-static": "0.9", "--chunked-prefill-size": "4096", "--max-running-requests": "8",
         "--schedule-policy": "lpm", "--disable-radix-cache": None, "--host": "0.0.0.0"}  # fmt: skip
given_flags = st.lists(st.sampled_from(sorted(FLAGS)), unique=True)


def words(flags: list[str], **other: str | None) -> tuple[str, ...]:
    pairs = [(f, other.get(f[2:].replace("-", "_"), FLAGS[f])) for f in flags]
    return tuple(word for pair in pairs for word in pair if word is not None)


@given(given_flags, given_flags, st.sampled_from([(), ("numactl", "-N", "0"), ("bash", "-c")]))
def test_any_change_of_flags_goes_over_whole(old: list[str], new: list[str], wrapper: tuple[str, ...]) -> None:
    before, after = (*HEAD, *words(old)), (*HEAD, *words(new, mem_fraction_static="0.7"))
    held = (*wrapper, " ".join(before)) if wrapper == ("bash", "-c") else (*wrapper, *before)
    found = parse(carried_over(held, change(before, after)), for_version("0.5.20"))
    wanted = parse(after, for_version("0.5.20"))
    assert {u.flag: u.values for u in found.flags} == {u.flag: u.values for u in wanted.flags}
    assert found.argv[: len(wrapper)] == wrapper
