"""The zygote: a clean, single-threaded process that forks the workers of a prefork pool.

The kernel has many threads and must never be forked; a process that only imported modules may. It imports what it is
told to, so that workers start with it and share the memory of it, reaps its workers and reports their ends. A module
that starts a thread ends its use: it says so and forks no more, and another zygote is started without that module.
When the kernel is gone it ends its workers, with all that their tasks have started. When it is killed itself, the
system kills the workers.

One thread and one loop, which waits in one place for the supervisor and for the end of children. Arguments: link,
start as JSON.
"""

from __future__ import annotations

import gc
import json
import os
import select
import selectors
import signal
import socket
import sys
from contextlib import suppress
from typing import Any, Final, NoReturn

from poolmagic.inner_threads import limit_loaded, set_variables
from poolmagic.lifelines import LOOK_SECONDS, Child, die_with_parent, end_group
from poolmagic.messages import Fork, Forked, Gone, Hello, Message, Preload, Preloaded
from poolmagic.wire import Decoder, encode
from poolmagic.worker.preload import count_other_threads, import_quietly
from poolmagic.worker.process import make_runner, run_worker
from poolmagic.worker.start import take_over

__all__ = ["main"]

GIVEN: Final = 4
"""As many descriptors come with the order to fork a worker; see `processes.ProcessLink`."""
LOOK: Final = 0.1
"""Seconds after which it looks up from a long import: a worker may have ended, or the kernel."""


class _Zygote:
    def __init__(self, link: int, start: dict[str, Any]) -> None:
        self._link = socket.socket(fileno=link)
        self._link.set_inheritable(False)
        self._start = start
        self._decoder = Decoder()
        self._descriptors: list[int] = []
        self._pid = os.getpid()
        self._workers: dict[int, Child] = {}
        self._importing = False
        self._preloads = False
        self._may_fork = True
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._ringer.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        """Hear of the ends of children."""
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler must exist for the wake-up to be written
        signal.set_wakeup_fd(self._ringer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGALRM, lambda *_: self._look_up())
        signal.signal(signal.SIGTERM, lambda *_: self.end())

    def end(self) -> NoReturn:
        """End all workers, with what their tasks have started, and this process."""
        if os.getpid() == self._pid:  # not a worker that has been forked a moment ago
            for child in self._workers.values():
                end_group(child.pid)
        os._exit(0)  # nothing here is worth an exit handler

    def serve(self) -> None:
        """Import, fork and reap until the supervisor is gone."""
        die_with_parent(self._start["parent"], signal.SIGTERM)
        self._send(Hello(os.getpid()))
        with selectors.DefaultSelector() as selector:
            selector.register(self._link, selectors.EVENT_READ)
            selector.register(self._bell, selectors.EVENT_READ)
            while True:
                looks = any(child.is_stopped for child in self._workers.values())
                ready = {key.fileobj for key, _ in selector.select(LOOK_SECONDS if looks else None)}
                if self._bell in ready:
                    self._bell.recv(4096)
                if self._bell in ready or not ready:
                    self._reap()
                if self._link in ready and not self._obey():
                    return

    def _obey(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._link, 4096, 64, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
        if not data:
            return False
        self._descriptors += descriptors
        for message in self._decoder.feed(data):
            if isinstance(message, Preload):
                self._preload(message.module)
            else:
                assert isinstance(message, Fork)
                self._fork(message)
        return True

    def _preload(self, module: str) -> None:
        if not self._may_fork:
            return
        self._preloads = self._importing = True
        signal.setitimer(signal.ITIMER_REAL, LOOK, LOOK)
        error = import_quietly(module)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._importing = False
        self._listen()  # in case the module took the signals for itself
        # What is here now is shared with all workers; a collection in one of them must not touch, and so copy, it.
        gc.disable()
        gc.freeze()
        threads = count_other_threads()
        self._may_fork = threads == 0
        self._send(Preloaded(module, threads, error))

    def _look_up(self) -> None:
        """Look at what cannot wait for the end of an import; called between two instructions of it."""
        if self._importing:
            line = select.poll()
            line.register(self._link, 0)
            if line.poll(0):  # nobody is at the other end
                self.end()
            self._reap()

    def _fork(self, message: Fork) -> None:
        descriptors = self._descriptors[:GIVEN]
        del self._descriptors[:GIVEN]
        if self._may_fork:
            try:
                pid = os.fork()
            except OSError as error:  # too many processes, or no memory
                print(f"poolmagic: cannot start a worker: {error}", file=sys.stderr)
                self._send(Gone(message.worker, 1, 0))
            else:
                if pid == 0:
                    self._become_worker(descriptors, message.slots)
                with suppress(ProcessLookupError):
                    os.setpgid(pid, pid)  # it does so itself, but may have to be killed before
                self._workers[message.worker] = Child(pid)
                self._send(Forked(message.worker, pid))
        for descriptor in descriptors:
            os.close(descriptor)

    def _become_worker(self, descriptors: list[int], slots: int) -> None:
        os.setpgid(0, 0)
        die_with_parent(self._pid, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGALRM, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        for end in (self._link, self._bell, self._ringer):
            end.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        set_variables(self._start["variables"])
        if self._preloads:
            limit_loaded(os.environ)
        if "numpy.random" in sys.modules:  # it does not reseed itself, as `random` does: all would draw the same
            sys.modules["numpy.random"].seed()
        take_over(self._start)
        gc.enable()
        run_worker(descriptors, make_runner("prefork", slots))

    def _reap(self) -> None:
        for worker, child in list(self._workers.items()):  # not any child: a module may have started processes
            if child.has_ended():
                exitcode, peak = child.reap()
                del self._workers[worker]
                self._send(Gone(worker, 1 if exitcode is None else exitcode, peak))

    def _send(self, message: Message) -> None:
        for piece in encode(message)[0]:
            self._link.sendall(piece)


def main() -> None:
    """Be a zygote; returns when the supervisor is gone."""
    link, start = sys.argv[1:]
    gc.freeze()
    zygote = _Zygote(int(link), json.loads(start))
    zygote.serve()
    zygote.end()


if __name__ == "__main__":
    main()
