"""The version of horovod-partial; Horovod's own is in front of it: see setup.py."""

__version__ = "0.1.0"
