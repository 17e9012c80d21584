"""What the built-in tools cost. One part for each tool; no network.

Run: python benchmarks/tools.py [--part NAME]. Parts: pages (HTML to text, views, find, search in a folder), sandbox
(start, cells, commands, kill, cleanup; in `tools_sandbox.py`), round-trip (calls of an answer through the server; in
`tools_round_trip.py`).
"""

import argparse
import asyncio
import lzma
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from tools_round_trip import round_trip_part
from tools_sandbox import sandbox_part

from ossia.tokenizer.tokenizer import Tokenizer
from ossia.tokenizer.tokenizer_json import o200k_harmony
from ossia.tools.browser.corpus import CorpusProvider
from ossia.tools.browser.page import found_in, view
from ossia.tools.browser.search import Document
from ossia.tools.browser.session import page_of, token_splitter

RECORDED = Path(__file__).parents[1] / "tests" / "data" / "browser_golden.jsonl.xz"
FILES = 1_000
SECTION = (
    "<h2>Section {i}</h2><p>The <b>harbor</b> of <a href='/place/{i}'>place {i}</a> has {i} cranes, "
    + "and the river beside it is wide and slow in winter. " * 6
    + "</p><ul><li>stone</li><li>copper</li></ul><table><tr><td>a</td><td>{i}</td></tr></table>"
)


def best(work: Callable[[], object], repeats: int = 5) -> float:
    """The shortest time of a run, in seconds."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def pages() -> None:
    """The recorded small pages, one large page, and a folder of files."""
    split = token_splitter(Tokenizer(o200k_harmony()))
    recorded = [msgspec.json.decode(line) for line in lzma.decompress(RECORDED.read_bytes()).splitlines()]
    small = [Document(each["url"], each["html"]) for each in recorded]
    large = Document(
        "https://a.test/large", "<title>Large</title>" + "".join(SECTION.format(i=i) for i in range(1_000))
    )
    print("| work | result |\n|---|---|")
    sizes = [len(each.text) for each in small]
    seconds = best(lambda: [view(page_of(each), 0, 0, -1, 1_024, split) for each in small])
    print(
        f"| small pages ({statistics.mean(sizes) / 1e3:.1f} kB), to their first view | {len(small) / seconds:.0f} a second |"
    )
    seconds = best(lambda: page_of(large).lines)
    size = len(large.text) / 1e6
    print(f"| large page ({size:.2f} MB), to lines | {1e3 * seconds:.0f} ms, {size / seconds:.1f} MB/s |")
    page = page_of(large)
    print(f"| view of 1,024 tokens in it | {1e3 * best(lambda: view(page, 0, 500, -1, 1_024, split)):.2f} ms |")
    print(f"| find in it | {1e3 * best(lambda: found_in(page, 'place 999')):.2f} ms |")
    asyncio.run(_folder(small))


async def _folder(documents: list[Document]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number in range(FILES):
            Path(folder, f"{number}.html").write_text(documents[number % len(documents)].text, "utf-8")
        started = time.perf_counter()
        provider = CorpusProvider(Path(folder))
        await provider.search("harbor", 10)
        built = time.perf_counter()
        for _ in range(20):
            await provider.search("copper winter harbor", 10)
        searched = (time.perf_counter() - built) / 20
        print(
            f"| index of {FILES} files | {built - started:.2f} s |\n| search in it, 10 results | {1e3 * searched:.1f} ms |"
        )


PARTS: dict[str, Callable[[], None]] = {"pages": pages, "sandbox": sandbox_part, "round-trip": round_trip_part}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=sorted(PARTS), help="one part; all without it")
    chosen = parser.parse_args().part
    for name, part in PARTS.items():
        if chosen in (None, name):
            print(f"\n## {name}\n")
            part()


if __name__ == "__main__":
    main()
