"""Helpers for the fine-tuning notebooks: small modules, one job each, and no work at import time."""

__version__ = "0.1.0"
