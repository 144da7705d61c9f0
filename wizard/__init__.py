"""sgl-wizard: from "my SGLang server is in trouble" to a fix and the measurement that shows it."""

__version__ = "0.1.0"
