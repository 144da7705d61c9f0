"""The flows that ship, read once for all test modules of a process; tests/flowfile/test_load.py proves them."""

from __future__ import annotations

from wizard.flowfile.load import load_book
from wizard.flowfile.resources import flows_dir

BOOK = load_book(flows_dir(), proven=True)
