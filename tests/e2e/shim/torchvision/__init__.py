"""Lets SGLang and transformers import torchvision where it has no CPU build: a text model calls none of it."""

__version__ = "0.28.0"
