"""Runs cells as one session of IPython in a process of its own; `test_docs.py` starts it.

The cells come as a JSON list of texts on stdin; one JSON object per cell that was run, with what it showed and the
exception that it raised, if any, goes to the file named on the command line. The session stops at the first cell whose
exception was not announced, so a report shorter than the list tells where.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


class _Page(BaseHTTPRequestHandler):
    """Answers every address with one line that names it."""

    def do_GET(self) -> None:
        body = f"<title>Page {self.path.strip('/')}</title>\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Say nothing; the cells own stderr."""


@contextmanager
def served_pages(count: int) -> Iterator[list[str]]:
    """Serve `count` small pages on the loopback interface; gives their addresses."""
    with _Server(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield [f"http://127.0.0.1:{server.server_port}/{number}" for number in range(count)]
        server.shutdown()


def run_cells(cells: list[dict[str, str]], report: Path) -> None:
    """Run every cell in turn; a cell may announce, as ``raises``, the name of the exception it ends with."""
    config = Config()
    config.HistoryManager.enabled = False
    shell: Any = InteractiveShell.instance(config=config, colors="nocolor")
    with served_pages(40) as urls, report.open("w", encoding="utf-8") as lines:
        shell.user_ns["urls"] = urls
        for cell in cells:
            with capture_output() as shown:
                result = shell.run_cell(cell["source"], store_history=True)
            error = result.error_before_exec or result.error_in_exec
            raised = type(error).__name__ if error is not None else ""
            text = shown.stdout + shown.stderr
            lines.write(json.dumps({"shown": text, "raised": raised}) + "\n")
            lines.flush()
            if raised != cell["raises"]:
                return


if __name__ == "__main__":
    sys.path[0] = ""  # as in a notebook: the folder that it is in
    run_cells(json.load(sys.stdin), Path(sys.argv[1]))
