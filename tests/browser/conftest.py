"""Chromium, in which tests open the daemon's pages. Without Chromium they are skipped."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Error,
    Page,
    Playwright,
    async_playwright,
)

CHROMIUM = os.environ.get("TEMWATCH_CHROMIUM") or shutil.which("chromium")
TIMEOUT_MS = 30_000
"""Time-out of each expectation of a page; long, because the machine may be busy."""
START_TIMEOUT_MS = 90_000
"""Time-out of one start of a browser, which may read 300 MB from a disk."""
START_ATTEMPTS = 3
TEST_TIMEOUT_S = 600
"""Time-out of a test with its browser: more than all attempts to start it."""


async def start(playwright: Playwright) -> Browser:
    """Start Chromium. A start that hangs or fails is repeated with a new process."""
    launch = partial(
        playwright.chromium.launch,
        executable_path=CHROMIUM,
        args=["--disable-gpu"],
        chromium_sandbox=os.geteuid() != 0,  # Chromium's sandbox refuses root.
        timeout=START_TIMEOUT_MS,
    )
    for _ in range(START_ATTEMPTS - 1):
        with contextlib.suppress(Error):
            return await launch()
    return await launch()


@dataclass
class Viewer:
    """A person with a browser, and the problems in it."""

    browser: Browser
    problems: list[str] = field(default_factory=list)
    """Errors of scripts, violations of the content security policy, unexpected dialogs."""
    contexts: list[BrowserContext] = field(default_factory=list)
    confirms: str = ""
    """The question of a page that this person confirms."""

    async def open(
        self, url: str = "about:blank", *, phone: bool = False, scheme: str = "light", script: bool = True
    ) -> Page:
        """Open a page in a new browser context, which shares no cookies with the others.

        The first page of a context takes several times the CPU of the next ones: a test of many pages uses one.
        """
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
async def viewer() -> AsyncIterator[Viewer]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: chromium)")
    async with async_playwright() as playwright:
        browser = await start(playwright)
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
        deadline = time.monotonic() + 60
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
        process.wait(60)
