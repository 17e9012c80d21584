"""Tools that a server runs, for tests: a browser over a small folder, and a Python that answers from a table."""

import asyncio
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path

from ossia.harmony.messages import ToolNamespace
from ossia.server.core.hosted import HostedRequest, HostedSessions, MadeSessions
from ossia.tools.browser.corpus import CorpusProvider
from ossia.tools.browser.session import BrowserSession, token_splitter
from ossia.tools.data_folder import DataFolder
from ossia.tools.functions import ToolOutput
from ossia.tools.python.results import PythonResult
from ossia.tools.session import Report, ToolProgress, ToolSession, ToolUnavailableError, ignore
from tests.support.vocabularies import small

PICTURE = (  # one red point
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)
PAGES = {
    "plums.md": "# Plums\n\nPlums are blue.\nThey grow on trees.\n",
    "pears.html": "<html><title>Pears</title><body><h1>Pears</h1><p>Pears are green.</p></body></html>",
}


class FakePython:
    """Answers code from a table. It counts its cells, and can break or wait. Code that begins with "plot" draws."""

    def __init__(self, answers: Mapping[str, str] | None = None, broken: bool = False, waits: bool = False) -> None:
        self.answers, self.broken, self.waits = answers or {}, broken, waits
        self.data = DataFolder()
        self.cells = 0
        self.open_now = self.cancelled = False

    @property
    def namespace(self) -> ToolNamespace:
        return ToolNamespace("python", "Runs Python.")

    async def open(self) -> None:
        if self.broken:
            raise ToolUnavailableError("python cannot start: there is no sandbox here")
        self.open_now = True

    async def run(self, name: str, text: str, report: Report = ignore) -> ToolOutput:
        self.cells += 1
        report(ToolProgress("working", "stdout"))
        if self.waits:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        if text == "break":
            raise ToolUnavailableError("the sandbox broke")
        said = self.answers.get(text, f"cell {self.cells}\n")
        images = ("figure_1.png",) if text.startswith("plot") else ()
        for name in images:
            await asyncio.to_thread(self.data.write, name, b64decode(PICTURE.partition(",")[2]))
        return ToolOutput(said, failed=text == "1/0", details=PythonResult(text, said, images=images))

    async def close(self) -> None:
        self.open_now = False
        await asyncio.to_thread(self.data.close)


def hosted(folder: Path | None = None, *pythons: FakePython, **options: float) -> HostedSessions:
    """Sessions of a browser over `PAGES` in the folder, and of these Pythons, one for each new session."""
    left = list(pythons)
    if folder:
        folder.mkdir(exist_ok=True)
    for name, text in PAGES.items() if folder else ():
        (folder / name).write_text(text)  # type: ignore[operator]

    def make(request: HostedRequest) -> MadeSessions:
        made: list[ToolSession] = []
        for name in request.names:
            if name == "browser" and folder:
                made.append(BrowserSession(CorpusProvider(folder), token_splitter(small()), request.browser))
            if name == "python":
                made.append(left.pop(0))
        return MadeSessions(made)

    names = [*(["browser"] if folder else []), *(["python"] if pythons else [])]
    return HostedSessions(names, make, **options)  # type: ignore[arg-type]
