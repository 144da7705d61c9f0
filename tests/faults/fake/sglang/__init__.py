"""No SGLang: a name, so that a decoy's command line is that of a server (see decoy.py)."""
