"""The table of words: what it learns, what it says, and that it is of the sentences that stand beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.books import BOOK
from wizard.core.target import Target
from wizard.core.wording import MOST_AGAINST, MOST_FEATURES, MOST_FOR, NOBODY, Wording, features
from wizard.flowfile.load import load_book
from wizard.flowfile.resources import flows_dir
from wizard.flowfile.source import FlowFileError
from wizard.flowfile.wording import TABLE, TOLD, Sentence, learn, load_wording, read_told
from wizard.session.driver import Driver

TWO = [
    Sentence("ttft_high", "the first token is late"),
    Sentence("ttft_high", "first tokens come late for long prompts"),
    Sentence("port_in_use", "the port is taken"),
    Sentence("port_in_use", "another server holds the port"),
    Sentence(NOBODY, "the server is fine"),
    Sentence(NOBODY, "all is fine with the server"),
]


def test_words_lose_their_endings_and_numbers_their_value() -> None:
    assert features("Loading 40 shards_of_it") == ("load", "#", "shard", "of", "it", "shards_of_it")
    assert features("") == ()


def test_the_table_speaks_for_the_cause_whose_words_it_knows() -> None:
    wording = Wording(learn(TWO))
    best = wording.weigh(features("first token late again"))[0]
    assert best.cause == "ttft_high"
    assert "late" in " ".join(best.words)
    assert wording.weigh(features("xylophone")) == ()
    assert wording.weigh(features("fine fine server")) == () or wording.weigh(features("fine"))[0].weight < 0
    assert all(w.cause != NOBODY for w in wording.weigh(features("the server is fine")))


def test_function_words_and_numbers_count_but_are_not_shown() -> None:
    sides = [
        Sentence("ttft_high", "why is the 7 late"),
        Sentence("port_in_use", "another server took mine"),
    ] * 4
    wording = Wording(learn([*sides, *TWO]))
    shown = {w.cause: w.words for w in wording.weigh(features("why is the 7 late"))}
    assert shown["ttft_high"] == ("late",)
    with_them, without = (
        {w.cause: w.weight for w in wording.weigh(features(text))}["ttft_high"]
        for text in ("why is the 7 late", "late")
    )
    assert with_them > without
    only = next(w for w in wording.weigh(features("why is the 7")) if w.cause == "ttft_high")
    assert (only.words, only.weight > 0) == ((), True)


def test_the_same_sentences_make_the_same_table() -> None:
    assert learn(TWO) == learn(TWO)


def test_the_table_that_ships_is_of_the_sentences_that_ship() -> None:
    assert learn(read_told(flows_dir())) == load_wording(flows_dir()).text


def test_what_was_observed_counts_more(tmp_path: Path) -> None:
    (tmp_path / TOLD).mkdir()
    (tmp_path / TOLD / "observed.txt").write_text("ttft_high|late\n", encoding="utf-8")
    (tmp_path / TOLD / "thought.txt").write_text("ttft_high|slow\n", encoding="utf-8")
    (tmp_path / TOLD / "well.txt").write_text("none|fine\n", encoding="utf-8")
    assert [s.counts for s in read_told(tmp_path)] == [3.0, 1.0, 1.5]
    sides = [[Sentence("ttft_high", "late", n), Sentence("itl_high", "late", 1.0)] * 4 for n in (1.0, 3.0)]
    once, thrice = (Wording(learn([*TWO, *told])).weigh(features("late")) for told in sides)
    weight = {c.cause: c.weight for c in once}["ttft_high"]
    assert thrice[0].cause == "ttft_high"
    assert weight < thrice[0].weight


def test_every_cause_has_sentences() -> None:
    told = {sentence.cause for sentence in read_told(flows_dir())}
    assert told == {*BOOK.causes, NOBODY}


@pytest.mark.parametrize(
    ("line", "says"), [("ttft_high|late late", "changed since"), ("a line without a bar", "cause|sentence")]
)
def test_sentences_that_the_table_was_not_learned_from_are_found(tmp_path: Path, line: str, says: str) -> None:
    copy = tmp_path / "flows"
    shutil.copytree(flows_dir(), copy)
    with (copy / TOLD / "none.txt").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(FlowFileError, match=says):
        load_book(copy)
    (copy / TABLE).unlink()
    assert load_wording(copy).weigh(features("first token late")) == ()


def test_a_table_of_a_cause_that_is_none_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "flows"
    shutil.copytree(flows_dir(), copy)
    shutil.rmtree(copy / TOLD)
    text = (copy / TABLE).read_text(encoding="utf-8").replace("\tttft_high", "\tttft_hi", 1)
    (copy / TABLE).write_text(text, encoding="utf-8")
    with pytest.raises(FlowFileError, match='"ttft_hi", which is no cause'):
        load_book(copy)


@given(st.text(max_size=3000))
def test_no_words_weigh_more_than_they_may(text: str) -> None:
    found = features(text)
    assert len(found) <= MOST_FEATURES
    for item in BOOK.wording.weigh(found):
        assert -MOST_AGAINST <= item.weight <= MOST_FOR


@pytest.mark.parametrize("sentence", [s.text for s in read_told(flows_dir()) if s.cause == NOBODY][::8])
async def test_words_of_no_trouble_accuse_nobody(sentence: str, tmp_path: Path) -> None:
    (tmp_path / "empty.log").write_text("")
    driver = Driver(BOOK, read_only=True, window_s=0.1)
    state = await driver.examine(Target(port=0, log_path=str(tmp_path / "empty.log"), symptom=sentence))
    assert [h.cause.id for h in state.hypotheses if h.status == "supported"] == []


async def test_what_the_words_say_is_shown_with_its_words(tmp_path: Path) -> None:
    (tmp_path / "empty.log").write_text("")
    driver = Driver(BOOK, read_only=True, window_s=0.1)
    words = "prefix reuse never happens, every turn prefills its whole history again"
    state = await driver.examine(Target(port=0, log_path=str(tmp_path / "empty.log"), symptom=words))
    first = state.hypotheses[0]
    assert first.cause.id == "ttft_high"
    assert any("people use these words for this" in e.says for e in first.supporting)
