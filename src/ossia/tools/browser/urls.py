"""URLs of pages: joining, domains, and the filter of allowed domains. It resolves no names.

In: URLs as pages and models write them. Out: absolute URLs, domains. Pages of a local folder have URLs of the form
`corpus://path/to/file.html`.
"""

from collections.abc import Collection
from urllib.parse import urljoin, urlparse

CORPUS = "corpus://"
_CORPUS_AS_HTTP = "http://corpus.invalid/"  # urljoin knows http


def joined(base: str, url: str) -> str:
    """The absolute URL of a link on the page `base`. Raises ValueError for a malformed URL."""
    if not base.startswith(CORPUS):
        return urljoin(base, url)
    found = urljoin(_CORPUS_AS_HTTP + base.removeprefix(CORPUS), url)
    return CORPUS + found.removeprefix(_CORPUS_AS_HTTP) if found.startswith(_CORPUS_AS_HTTP) else found


def domain_of(url: str) -> str:
    """The host and port of a URL, also without a scheme; of all pages of a corpus, the same. ValueError if malformed."""
    if url.startswith(CORPUS):
        return "corpus"
    return urlparse(url if "http" in url else "http://" + url).netloc


def with_scheme(url: str) -> str:
    """A web URL as models write it, with https:// if it has no scheme."""
    domain = url.partition("/")[0]
    return "https://" + url if "://" not in url and "." in domain and " " not in domain else url


def label_of(url: str) -> str:
    """A short name for a link to this URL: the domain without www., or the name of a corpus file."""
    if url.startswith(CORPUS):
        return url.rstrip("/").rsplit("/", 1)[-1]
    try:
        return domain_of(url).rpartition("@")[2].removeprefix("www.")
    except ValueError:
        return ""


def is_allowed(url: str, domains: Collection[str]) -> bool:
    """Whether the URL's host is one of the domains or below one. All are allowed without domains."""
    if not domains or url.startswith(CORPUS):
        return True
    try:
        host = (urlparse(url).hostname or "").rstrip(".").lower()
    except ValueError:
        return False
    return any(host == domain or host.endswith("." + domain) for each in domains if (domain := _plain(each)))


def _plain(domain: str) -> str:
    return domain.strip().lower().removeprefix("*.").strip(".")
