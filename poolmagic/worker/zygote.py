"""The zygote: a clean, single-threaded process that forks the workers of a prefork pool.

The kernel has many threads and must never be forked; a process that only imported modules may. It reaps its workers
and reports their ends. One loop, which waits in one place for the supervisor and for the end of children.

Arguments: link, start as JSON.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import socket
import sys

from poolmagic.messages import Fork, Forked, Gone, Message
from poolmagic.wire import Decoder, encode
from poolmagic.worker.process import make_runner, run_worker
from poolmagic.worker.start import take_over

__all__ = ["main"]


class _Zygote:
    def __init__(self, link: int) -> None:
        self._link = socket.socket(fileno=link)
        self._decoder = Decoder()
        self._descriptors: list[int] = []
        self._workers: dict[int, int] = {}  # pid: worker
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._ringer.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler must exist for the wake-up to be written
        signal.set_wakeup_fd(self._ringer.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        """Fork and reap until the supervisor is gone."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._link, selectors.EVENT_READ)
            selector.register(self._bell, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._bell in ready:
                    self._bell.recv(4096)
                    self._reap()
                if self._link in ready and not self._obey():
                    return

    def _obey(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._link, 4096, 64)
        if not data:
            return False
        self._descriptors += descriptors
        for message in self._decoder.feed(data):
            assert isinstance(message, Fork)
            self._fork(message)
        return True

    def _fork(self, message: Fork) -> None:
        link, board = self._descriptors[:2]
        del self._descriptors[:2]
        pid = os.fork()
        if pid == 0:
            self._become_worker(link, board, message.slots)
        self._workers[pid] = message.worker
        os.close(link)
        os.close(board)
        self._send(Forked(message.worker, pid))

    def _become_worker(self, link: int, board: int, slots: int) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (self._link, self._bell, self._ringer):
            end.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        gc.enable()
        run_worker(link, board, make_runner("prefork", slots))

    def _reap(self) -> None:
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            worker = self._workers.pop(pid, None)
            if worker is not None:
                self._send(Gone(worker, os.waitstatus_to_exitcode(status)))

    def _send(self, message: Message) -> None:
        for piece in encode(message):
            self._link.sendall(piece)


def main() -> None:
    """Be a zygote; returns when the supervisor is gone."""
    link, start = sys.argv[1:]
    take_over(json.loads(start))
    # What is here now is shared with all workers; a collection in one of them must not touch, and so copy, it.
    gc.disable()
    gc.freeze()
    zygote = _Zygote(int(link))
    zygote.serve()
    os._exit(0)  # nothing here is worth an exit handler


if __name__ == "__main__":
    main()
