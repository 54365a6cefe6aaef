"""Configs of models and runs, one file each, documented by its docstring."""
