"""The value of `--search` as a search provider.

In: `corpus:FOLDER`, `exa`, `you`, `searxng:URL` or `replay:FILE`. Out: a `SearchProvider`. Keys come from the caller,
which reads them from the environment.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from ossia.tools.addresses import AddressGuard
from ossia.tools.browser.corpus import CorpusProvider
from ossia.tools.browser.fetch import WebFetcher
from ossia.tools.browser.http_client import HttpClient, HttpLimits
from ossia.tools.browser.providers import EXA, YOU, ExaProvider, SearxngProvider, WebPages, YouProvider, host_of
from ossia.tools.browser.replay import ReplayProvider
from ossia.tools.browser.search import SearchProvider
from ossia.tools.browser.urls import is_allowed

EXA_KEY = "EXA_API_KEY"
YOU_KEY = "YDC_API_KEY"
FORMS = "corpus:FOLDER, exa, you, searxng:URL or replay:FILE"


def search_provider(
    value: str,
    keys: Mapping[str, str],
    allow_hosts: Collection[str] = (),
    allowed_domains: Collection[str] = (),
    limits: HttpLimits | None = None,
    allow_private: bool = False,
) -> SearchProvider:
    """A provider for a value of `--search`. Raises ValueError if it is none, or its key is missing.

    keys: EXA_API_KEY and YDC_API_KEY. allow_hosts: hosts of pages that may have private addresses and other ports.
    allowed_domains: pages of other domains are not fetched, also after a redirect. allow_private: of all pages.
    """
    kind, _, rest = value.partition(":")
    if kind == "corpus" and rest:
        return CorpusProvider(Path(rest))
    if kind == "replay" and rest:
        return ReplayProvider(Path(rest))
    fetcher = _fetcher(allow_hosts, allowed_domains, limits, allow_private)
    if kind == "searxng" and rest:
        service = HttpClient(
            AddressGuard(frozenset({host_of(rest)})), limits
        )  # the operator's own, so it may be private
        return SearxngProvider(service, fetcher, rest)
    service = HttpClient(AddressGuard(), limits)
    if value == "exa":
        return ExaProvider(service, fetcher, _key(keys, EXA_KEY, value), EXA)
    if value == "you":
        return YouProvider(service, fetcher, _key(keys, YOU_KEY, value), YOU)
    raise ValueError(f"--search {value!r} is not a search provider; give {FORMS}")


def web_pages(allow_private: bool = False, limits: HttpLimits | None = None) -> SearchProvider:
    """Pages of the web without a search service."""
    return WebPages(_fetcher((), (), limits, allow_private))


def _fetcher(
    allow_hosts: Collection[str], domains: Collection[str], limits: HttpLimits | None, allow_private: bool
) -> WebFetcher:
    guard = AddressGuard(frozenset(allow_hosts), allow_private=allow_private)
    return WebFetcher(HttpClient(guard, limits), lambda url: is_allowed(url, domains))


def _key(keys: Mapping[str, str], name: str, value: str) -> str:
    key = keys.get(name, "").strip()
    if not key or not key.isascii() or any(each.isspace() for each in key):
        raise ValueError(f"--search {value} needs a key; set the environment variable {name}")
    return key
