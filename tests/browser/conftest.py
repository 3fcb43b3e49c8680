"""Chromium, in which tests open the daemon's pages. Without Chromium they are skipped."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, async_playwright

CHROMIUM = os.environ.get("TEMWATCH_CHROMIUM") or shutil.which("chromium")
TIMEOUT_MS = 30_000
"""Time-out of each expectation of a page; long, because the machine may be busy."""
START_TIMEOUT_MS = 120_000
"""Time-out of the start of a browser, which may read 300 MB from a disk."""


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start Chromium; yield the address of its debugger."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: chromium)")
    directory = tmp_path_factory.mktemp("chromium")
    log = directory / "log"
    arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [CHROMIUM, *arguments, "--remote-debugging-port=0", f"--user-data-dir={directory / 'profile'}"],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_MS / 1000
        while not (found := re.search(r"DevTools listening on (ws://\S+)", log.read_text(errors="replace"))):
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < deadline, log.read_text(errors="replace")
            time.sleep(0.05)
        yield found[1]
    finally:
        process.terminate()
        process.wait(20)


@dataclass
class Viewer:
    """A person with a browser, and the problems in it."""

    browser: Browser
    problems: list[str] = field(default_factory=list)
    """Errors of scripts, violations of the content security policy, unexpected dialogs."""
    contexts: list[BrowserContext] = field(default_factory=list)
    confirms: str = ""
    """The question of a page that this person confirms."""

    async def open(self, url: str, *, phone: bool = False, scheme: str = "light", script: bool = True) -> Page:
        """Open a page in a new browser context, which shares no cookies with the others."""
        context = await self.browser.new_context(
            viewport={"width": 390, "height": 844} if phone else {"width": 1280, "height": 900},
            color_scheme=scheme,
            timezone_id="America/New_York",
            java_script_enabled=script,
        )
        self.contexts.append(context)
        context.set_default_timeout(TIMEOUT_MS)
        return await self.open_tab(context, url)

    async def open_tab(self, context: BrowserContext, url: str) -> Page:
        """Open a page in a new tab of a context."""
        page = await context.new_page()
        page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        page.on("console", self._note)
        page.on("dialog", self._answer)
        await page.goto(url)
        return page

    async def _answer(self, dialog: Dialog) -> None:
        if dialog.message == self.confirms:
            await dialog.accept()
        else:
            self.problems.append(f"dialog: {dialog.message}")
            await dialog.dismiss()

    def _note(self, message: ConsoleMessage) -> None:
        # Failed requests are not a problem: a test may have stopped the daemon.
        if message.type == "error" and "Content Security Policy" in message.text:
            self.problems.append(message.text)


@pytest.fixture
async def viewer(chromium: str) -> AsyncIterator[Viewer]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(chromium, timeout=START_TIMEOUT_MS)
        person = Viewer(browser)
        try:
            yield person
        finally:
            for context in person.contexts:
                await context.close()
            await browser.close()
    assert person.problems == []


@contextlib.contextmanager
def proxied(directory: Path, upstream: str, path: str) -> Iterator[str]:
    """Run nginx in front of the pages; yield their address below `path`."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed (Debian: nginx-light)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    directory.mkdir(exist_ok=True)
    config = directory / "nginx.conf"
    places = " ".join(f"{each}_temp_path {each};" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config.write_text(
        f"""{"user root;" if os.geteuid() == 0 else ""} daemon off; pid nginx.pid; events {{}}
http {{ access_log off; {places} server {{ listen 127.0.0.1:{port}; location {path}/ {{
  proxy_pass {upstream}; proxy_http_version 1.1; proxy_read_timeout 1h;
  proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;
  proxy_set_header X-Remote-User annabel; }} }} }}"""
    )
    process = subprocess.Popen([program, "-p", str(directory), "-e", "error.log", "-c", str(config)])
    try:
        deadline = time.monotonic() + 20
        while True:
            assert process.poll() is None, (directory / "error.log").read_text()
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}{path}/"
    finally:
        process.terminate()
        process.wait(20)
