"""Who holds a server decides how it is relaunched: one module a holder, one contract (``contract.py``)."""
