"""Functions of the operating system, taken before any monkey-patching.

A green worker imports this module first of all. Its control thread must be a real thread with real waits, or it would
be deaf while a task keeps the hub from running. Only C modules are imported here, which no other module hides behind.
"""

from __future__ import annotations

from _socket import socket
from _thread import allocate_lock, get_ident, start_new_thread
from os import read, write
from select import POLLIN, poll
from time import perf_counter

__all__ = [
    "POLLIN",
    "allocate_lock",
    "get_ident",
    "perf_counter",
    "poll",
    "read",
    "socket",
    "start_new_thread",
    "write",
]
