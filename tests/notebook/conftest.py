"""A real kernel behind `jupyter_client`, and a real JupyterLab in a headless Chromium."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager
from playwright.sync_api import Browser, Page, sync_playwright

SECONDS = 60.0
"""How long a test waits before it gives up; no measure of anything."""


def plain(text: str) -> str:
    """Return a traceback without its colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@dataclass
class Reply:
    """All that a kernel said about one cell, its messages in order of arrival.

    Attributes:
        status: ``"ok"`` or ``"error"``.
        error: The name of the exception; empty if there was none.
        text: What the exception says.
    """

    status: str = ""
    error: str = ""
    text: str = ""
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the contents of all messages of one kind."""
        return [content for name, content in self.messages if name == kind]

    def stream(self, name: str) -> str:
        """Return what was written to stdout or stderr."""
        return "".join(content["text"] for content in self.of("stream") if content["name"] == name)

    @property
    def result(self) -> str | None:
        """The text of the cell's value."""
        results = self.of("execute_result")
        return str(results[-1]["data"]["text/plain"]) if results else None

    @property
    def traceback(self) -> str:
        """The error as a person reads it; empty if there was none."""
        return plain("\n".join(line for content in self.of("error") for line in content["traceback"]))


class Kernel:
    """A kernel that runs cells as a front end asks it to."""

    def __init__(self, manager: KernelManager) -> None:
        self.manager = manager
        self.client = manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=SECONDS)

    def run(
        self,
        code: str,
        *,
        front_end: str = "console",
        on_message: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> Reply:
        """Run one cell to its end.

        Args:
            code: The cell.
            front_end: ``"lab"`` says which cell it is, ``"nbclient"`` says that nobody can be asked, ``"console"``
                says nothing.
            on_message: Is called with each message while the cell runs.
        """
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": front_end != "nbclient",
            "stop_on_error": True,
        }
        metadata = {"cellId": secrets.token_hex(4)} if front_end == "lab" else {}
        request = self.client.session.msg("execute_request", content, metadata=metadata)
        self.client.shell_channel.send(request)
        reply = Reply()
        deadline = time.monotonic() + SECONDS
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.0, deadline - time.monotonic()))
            if message["parent_header"].get("msg_id") != request["header"]["msg_id"]:
                continue
            reply.messages.append((message["msg_type"], message["content"]))
            if on_message is not None:
                on_message(message["msg_type"], message["content"])
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
        while True:
            answer = self.client.get_shell_msg(timeout=max(0.0, deadline - time.monotonic()))
            if answer["parent_header"].get("msg_id") == request["header"]["msg_id"]:
                answered = answer["content"]
                reply.status = answered["status"]
                reply.error, reply.text = answered.get("ename", ""), answered.get("evalue", "")
                return reply

    def complete(self, code: str) -> list[str]:
        """Return what the kernel offers at the end of `code`."""
        request = self.client.complete(code, len(code))
        while True:
            answer = self.client.get_shell_msg(timeout=SECONDS)
            if answer["parent_header"].get("msg_id") == request:
                return list(answer["content"]["matches"])

    def close(self) -> None:
        """End the kernel."""
        self.client.stop_channels()
        self.manager.shutdown_kernel()


@pytest.fixture
def bare_kernel() -> Iterator[Kernel]:
    """A fresh kernel."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    kernel = Kernel(manager)
    yield kernel
    kernel.close()


@pytest.fixture
def kernel(bare_kernel: Kernel) -> Kernel:
    """A fresh kernel with the extension loaded."""
    assert bare_kernel.run("%load_ext poolmagic").status == "ok"
    return bare_kernel


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab.

    Attributes:
        root: The folder that it shows.
        url: Where it listens.
        token: What lets a browser in.
    """

    root: Path
    url: str
    token: str


_SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab with folders of its own, which asks nothing and saves nothing by itself."""
    home = tmp_path_factory.mktemp("jupyter")
    root = home / "root"
    root.mkdir()
    for name, settings in _SETTINGS.items():
        path = home / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))
    env = os.environ | {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    lab = Lab(root, f"http://127.0.0.1:{free_port()}", secrets.token_hex(8))
    options = {
        "ServerApp.port": lab.url.rpartition(":")[2],
        "ServerApp.port_retries": "0",
        "ServerApp.root_dir": str(root),
        "IdentityProvider.token": lab.token,
        "LabApp.expose_app_in_browser": "True",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "LabApp.news_url": "",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    log = home / "lab.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())], env=env, stdout=out, stderr=out
        )
    try:
        wait_for_server(server, lab.url, log)
        yield lab
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def wait_for_server(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Return when the server answers; fails with its log if it does not."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{url}/api", timeout=1):  # noqa: S310 - our own server
                return
        except (OSError, urllib.error.URLError):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"JupyterLab did not start:\n{log.read_text()}")
            try:
                server.wait(0.1)
            except subprocess.TimeoutExpired:
                continue


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium: the system's, or else Playwright's own.

    For one module only: as long as Playwright is open, an event loop runs in the tests' thread.
    """
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, headless=True, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield browser
        browser.close()


_READY = """() => {
    const panel = window.jupyterapp.shell.currentWidget;
    return panel && panel.context.isReady && panel.sessionContext.isReady
        && panel.sessionContext.session?.kernel?.status === 'idle';
}"""

_RUN = """index => {
    window.jupyterapp.shell.currentWidget.content.activeCellIndex = index;
    window.jupyterapp.commands.execute('notebook:run-cell');
}"""

_DONE = r"""index => {
    const cells = window.jupyterapp.shell.currentWidget.content.widgets;
    const count = cells[index].model.executionCount;
    return count !== null && count !== undefined && cells[index].model.executionState !== 'running'
}"""


class Notebook:
    """A notebook that is open in JupyterLab."""

    def __init__(self, lab: Lab, page: Page, path: Path) -> None:
        self.lab = lab
        self.page = page
        self.path = path

    def open(self) -> None:
        """Open it, and wait for its kernel."""
        self.page.goto(f"{self.lab.url}/lab/tree/{self.path.name}?token={self.lab.token}&reset")
        self.page.wait_for_selector(".jp-NotebookPanel .jp-Notebook .jp-CodeCell", timeout=SECONDS * 1000)
        self.page.wait_for_function(_READY, timeout=SECONDS * 1000)

    def run(self, index: int) -> None:
        """Start to run a cell; markdown cells count."""
        self.page.evaluate(_RUN, index)

    def wait(self, index: int) -> None:
        """Wait until a cell has run."""
        self.page.wait_for_function(_DONE, arg=index, timeout=SECONDS * 1000)

    def outputs(self, index: int) -> list[str]:
        """Return the texts of a cell's outputs, as a person sees them."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index).locator(".jp-OutputArea-output").all_inner_texts()

    def save(self) -> dict[str, Any]:
        """Save it, and return what is in the file then."""
        self.page.evaluate("async () => { await window.jupyterapp.commands.execute('docmanager:save') }")
        return dict(json.loads(self.path.read_text()))

    def shut_down(self) -> None:
        """End its kernel."""
        self.page.evaluate("async () => { await window.jupyterapp.serviceManager.sessions.shutdownAll() }")


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty tab."""
    context = browser.new_context(viewport={"width": 1200, "height": 1600})
    yield context.new_page()
    context.close()
