"""A web of invented pages: towns, rivers, companies and people, with facts and links between them.

In: a split. Out: a `Web` of 200 pages, always the same, and a `SearchProvider` of its pages. The splits share no names.
"""

import random
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from ossia.mini.parts.words import made_up
from ossia.task import Split
from ossia.tools.browser.corpus import CorpusProvider

Kind = Literal["town", "river", "company", "person"]
COUNTS: dict[Kind, int] = {"town": 50, "river": 30, "company": 50, "person": 70}
INSTRUMENTS: dict[Split, tuple[str, ...]] = {
    "train": ("piano", "violin", "flute", "drum", "guitar", "trumpet"),
    "held": ("harp", "cello", "organ", "oboe"),
}
SEED = "the web of ossia-mini"


@dataclass(frozen=True, slots=True)
class InventedPage:
    """One thing. facts: attribute to value. links: relation to the name of another page. sentences: the text's lines,
    by attribute or relation.
    """

    kind: Kind
    name: str
    facts: dict[str, str]
    links: dict[str, str]
    sentences: dict[str, str]

    @property
    def html(self) -> str:
        body = "".join(f"<p>{sentence}</p>" for sentence in self.sentences.values())
        return f"<html><head><title>{self.name}</title></head><body><h1>{self.name}</h1>{body}</body></html>"


@dataclass(frozen=True, slots=True)
class Web:
    """The pages of a split, by name."""

    pages: dict[str, InventedPage]

    def of_kind(self, kind: Kind) -> list[InventedPage]:
        return [page for page in self.pages.values() if page.kind == kind]


@lru_cache
def web(split: Split) -> Web:
    rng = random.Random(f"{SEED}/{split}")
    names = _names(split)
    named: dict[Kind, list[str]] = {}
    for kind, count in COUNTS.items():
        named[kind], names = names[:count], names[count:]
    pages = [_page(rng, split, kind, name, named) for kind, found in named.items() for name in found]
    return Web({page.name: page for page in pages})


def _names(split: Split) -> list[str]:
    """Made-up names: those of both splits are drawn from one row of different ones."""
    rng, count = random.Random(SEED), sum(COUNTS.values())
    found: dict[str, None] = {}
    while len(found) < 2 * count:
        name = made_up(rng, rng.randint(2, 3)).capitalize()
        if len(name) >= 5:
            found[name] = None
    return list(found)[:count] if split == "train" else list(found)[count:]


def _page(rng: random.Random, split: Split, kind: Kind, name: str, named: dict[Kind, list[str]]) -> InventedPage:
    facts: dict[str, str] = {}
    links: dict[str, str] = {}

    def linked(relation: str, other: Kind) -> str:
        links[relation] = rng.choice(named[other])
        return f'<a href="{links[relation]}.html">{links[relation]}</a>'

    def number(fact: str, low: int, high: int) -> str:
        facts[fact] = str(rng.randint(low, high))
        return facts[fact]

    match kind:
        case "town":
            sentences = {
                "kind": f"{name} is a town.",
                "people": f"It has {number('people', 1_001, 98_999)} inhabitants.",
                "river": f"It is on the river {linked('river', 'river')}.",
                "builder": f"Its bridge was built by {linked('builder', 'company')}.",
            }
        case "river":
            sentences = {
                "kind": f"{name} is a river.",
                "length": f"It is {number('length', 11, 999)} kilometers long.",
                "town": f"The largest town on it is {linked('town', 'town')}.",
            }
        case "company":
            sentences = {
                "kind": f"{name} is a company that builds bridges.",
                "year": f"It was founded in {number('year', 1801, 1999)}.",
                "founder": f"Its founder is {linked('founder', 'person')}.",
                "seat": f"Its seat is in {linked('seat', 'town')}.",
            }
        case _:
            facts["instrument"] = rng.choice(INSTRUMENTS[split])
            sentences = {
                "kind": f"{name} is a musician and a merchant.",
                "instrument": f"{name} plays the {facts['instrument']}.",
                "home": f"{name} was born in {linked('home', 'town')}.",
            }
    return InventedPage(kind, name, facts, links, sentences)


@lru_cache
def pages_provider(split: Split) -> CorpusProvider:
    """Searches the pages. They are files of a temporary folder, which is removed at the end of the process."""
    folder = Path(tempfile.mkdtemp(prefix="ossia-pages-"))
    for name, page in web(split).pages.items():
        (folder / f"{name}.html").write_text(page.html, "utf-8")
    provider = CorpusProvider(folder)
    weakref.finalize(provider, shutil.rmtree, folder, True)
    return provider
