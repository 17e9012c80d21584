"""Fetching pages: addresses, redirects, limits, content types, character sets, cancelling."""

import asyncio
import gzip
import ssl
import zlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ossia.tools.addresses import AddressGuard
from ossia.tools.browser.fetch import WebFetcher, decoded
from ossia.tools.browser.http_client import HttpClient, HttpLimits
from ossia.tools.browser.search import Document, ProviderError
from tests.support.waiting import until_async
from tests.support.web_server import Reply, WebServer, http, web_server

Value = TypeVar("Value")
LIMITS = HttpLimits(seconds=20, max_bytes=100_000)


def fetcher(web: WebServer, limits: HttpLimits = LIMITS) -> WebFetcher:
    return WebFetcher(HttpClient(AddressGuard({web.host}), limits))


def with_server(replies: dict[str, Reply], use: Callable[[WebServer], Awaitable[Value]]) -> Value:
    async def run() -> Value:
        async with web_server(replies) as web:
            return await use(web)

    return asyncio.run(run())


def fetched(reply: Reply, limits: HttpLimits = LIMITS) -> Document:
    return with_server({"/": reply}, lambda web: fetcher(web, limits).fetch(f"http://{web.host}/"))


def refused(reply: Reply, limits: HttpLimits = LIMITS) -> str:
    with pytest.raises(ProviderError) as error:
        fetched(reply, limits)
    return str(error.value)


class Names:
    """A resolver with several answers of one name, one after the other; the last is repeated."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def test_a_page_is_fetched_with_its_host_and_without_cookies_or_referrer():
    async def use(web: WebServer) -> None:
        found = await fetcher(web).fetch(f"http://{web.host}/a?b=%20c")
        assert found == Document(f"http://{web.host}/a?b=%20c", "<p>é", True)
        method, path, headers, _ = web.requests[0]
        assert (method, path, headers["host"]) == ("GET", "/a?b=%20c", web.host)
        assert not {"cookie", "referer", "authorization"} & set(headers)

    with_server({"/a": http("<p>é".encode(), set_cookie="a=b")}, use)


PRIVATE = [
    "127.0.0.1",
    "10.0.0.8",
    "169.254.169.254",
    "::1",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
    "fd00::1",
    "224.0.0.1",
    "0.0.0.0",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_with_a_private_address_is_not_reached(address: str):
    async def use(web: WebServer) -> list[object]:
        client = HttpClient(AddressGuard(resolve=Names([address])))
        with pytest.raises(ProviderError, match="has no public address"):
            await WebFetcher(client).fetch("http://evil.test/")
        return list(web.requests)

    assert with_server({}, use) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://[::1]/", "http://2130706433/", "http://0x7f.1/", "http://localhost/", "http://LOCALHOST./",
        "http://[::ffff:127.0.0.1]/", "http://0/", "http://127.1/",
    ],
)  # fmt: skip
def test_spellings_of_this_machine_are_not_reached(url: str):
    with pytest.raises(ProviderError, match=r"public address|valid http|cannot be resolved"):
        asyncio.run(WebFetcher(HttpClient(AddressGuard())).fetch(url))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://a.test/", "not a valid http or https URL"), ("file:///etc/passwd", "not a valid http or https URL"),
        ("javascript:alert(1)", "not a valid http or https URL"), ("", "not a valid http or https URL"), ("http://", "not a valid http or https URL"),
        ("http://[bad", "not a valid http or https URL"), ("http://a.test:99999/", "port 99999 of host"), ("\x00", "not a valid http or https URL"),
        ("http://user:secret@a.test/", "URLs with a user name are not opened"), ("http://a.test:22/", "port 22 of host 'a.test' is not reached"),
        ("http://" + "a" * 300 + ".test/", "is not a valid name|not a valid http"),
    ],
)  # fmt: skip
def test_other_urls_are_refused(url: str, reason: str):
    with pytest.raises(ProviderError, match=reason):
        asyncio.run(WebFetcher(HttpClient(AddressGuard(resolve=Names([])))).fetch(url))


def test_the_connection_goes_to_the_checked_address_although_the_name_changes():
    """The name has a trusted address first and another one later: it is resolved once for each request."""

    async def use(web: WebServer) -> None:
        names = Names(["127.0.0.1"], ["10.9.9.9"])
        found = await WebFetcher(HttpClient(AddressGuard({f"rebind.test:{web.port}"}, names))).fetch(
            f"http://rebind.test:{web.port}/"
        )
        assert found.text == "<p>page"
        assert names.asked == ["rebind.test"]
        assert web.requests[0][2]["host"] == f"rebind.test:{web.port}"

    with_server({"/": http(b"<p>page")}, use)


def certificate(name: str, folder: Path) -> tuple[Path, Path]:
    """A certificate of this name, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "cert.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "cert.pem", folder / "key.pem"


def test_tls_names_the_host_and_checks_its_certificate_although_the_connection_is_pinned(tmp_path: Path):
    public, private = certificate("pinned.test", tmp_path)
    offered = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    offered.load_cert_chain(public, private)
    names: list[str | None] = []
    offered.sni_callback = lambda connection, name, context: names.append(name)
    trusted = ssl.create_default_context(cafile=str(public))

    async def run() -> None:
        async with web_server({"/": http(b"<p>secret")}, tls=offered) as web:
            hosts = {f"{name}:{web.port}" for name in ("pinned.test", "other.test")}
            fetcher = WebFetcher(HttpClient(AddressGuard(hosts, Names(["127.0.0.1"])), tls=trusted))
            assert (await fetcher.fetch(f"https://pinned.test:{web.port}/")).text == "<p>secret"
            assert web.requests[0][2]["host"] == f"pinned.test:{web.port}"
            with pytest.raises(ProviderError, match="the connection failed"):
                await fetcher.fetch(f"https://other.test:{web.port}/")  # the certificate has another name
            assert len(web.requests) == 1

    asyncio.run(run())
    assert names == ["pinned.test", "other.test"]


def test_the_next_address_is_tried_if_the_first_does_not_answer():
    async def use(web: WebServer) -> None:
        names = Names(["::1", "127.0.0.1"])  # nothing listens on the first
        client = HttpClient(AddressGuard({f"both.test:{web.port}"}, names))
        assert (await WebFetcher(client).fetch(f"http://both.test:{web.port}/")).text == "<p>page"

    with_server({"/": http(b"<p>page")}, use)


def test_a_redirect_is_resolved_and_checked_again():
    async def use(web: WebServer) -> None:
        names = Names(["127.0.0.1"], ["10.9.9.9"])
        client = HttpClient(AddressGuard({f"first.test:{web.port}"}, names))
        with pytest.raises(ProviderError, match=r"'second\.test' has no public address"):
            await WebFetcher(client).fetch(f"http://first.test:{web.port}/")
        assert names.asked == ["first.test", "second.test"]

    with_server({"/": http(status="302 Found", location="http://second.test/admin")}, use)


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://127.0.0.1:1/", "port 1 of host"), ("http://127.0.0.1/", "has no public address"), ("http://[::1]/", "has no public address"),
        ("file:///etc/passwd", "not a valid http"), ("gopher://x/", "not a valid http"), ("//", "more than 5 redirects"), ("http://[", "not a valid http"),
        ("http://u:p@127.0.0.1/", "user name"),
    ],
)  # fmt: skip
def test_redirects_to_other_places_are_refused(location: str, reason: str):
    with pytest.raises(ProviderError, match=reason):
        fetched(http(status="301 Moved", location=location))


def test_five_redirects_are_followed_and_six_are_not():
    def chain(count: int) -> dict[str, Reply]:
        hops: dict[str, Reply] = {f"/{i}": http(status="302 Found", location=f"{i + 1}") for i in range(count)}
        return {**hops, f"/{count}": http(b"end")}

    assert with_server(chain(5), lambda web: fetcher(web).fetch(f"http://{web.host}/0")).text == "end"
    with pytest.raises(ProviderError, match="more than 5 redirects"):
        with_server(chain(6), lambda web: fetcher(web).fetch(f"http://{web.host}/0"))
    with pytest.raises(ProviderError, match="more than 5 redirects"):
        with_server(
            {"/": http(status="307 Again", location="/")}, lambda web: fetcher(web).fetch(f"http://{web.host}/")
        )


def test_the_filter_of_domains_holds_for_redirects():
    async def use(web: WebServer) -> None:
        allowed = WebFetcher(HttpClient(AddressGuard({web.host})), lambda url: "127.0.0.1" in url)
        with pytest.raises(ProviderError, match="its domain is not allowed"):
            await allowed.fetch(f"http://{web.host}/")

    with_server({"/": http(status="302 Found", location="http://elsewhere.test/")}, use)


@pytest.mark.parametrize(
    "reply",
    [
        http(b"x" * 100_001), http(b"x", content_length="200000"), http(b"x" * 150_000, content_length=""),
        http(gzip.compress(b"0" * 50_000_000), content_encoding="gzip"), http(zlib.compress(b"0" * 5_000_000), content_encoding="deflate"),
        http(zlib.compress(b"0" * 5_000_000)[2:-4], content_encoding="deflate"),
    ],
)  # fmt: skip
def test_a_page_over_the_limit_is_refused_also_after_decompression(reply: bytes):
    assert refused(reply) == "the page is larger than 100000 bytes"


@pytest.mark.parametrize(
    ("body", "encoding"),
    [(gzip.compress(b"<p>page"), "gzip"), (zlib.compress(b"<p>page"), "deflate"), (zlib.compress(b"<p>page")[2:-4], "deflate"), (b"<p>page", "identity")],
)  # fmt: skip
def test_compressed_pages_are_read(body: bytes, encoding: str):
    assert fetched(http(body, content_encoding=encoding)).text == "<p>page"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (http(b"no", "404 Not Found"), "404 Not Found"), (http(b"no", "500 "), "500"), (http(b"x", content_type="image/png"), "the content type 'image/png' is not text"),
        (http(b"x", content_type="application/pdf"), "the content type 'application/pdf' is not text"), (http(b"\x00\x01", content_type=""), "the content is not text"),
        (http(b"x", content_encoding="br"), "the content encoding 'br' is not supported"), (http(b"x", content_encoding="gzip, gzip"), "the content encoding 'gzip, gzip' is not supported"),
        (http(b"not gzip", content_encoding="gzip"), "the compressed page is damaged"), (b"garbage\r\n\r\n", "the connection broke"), (b"", "the connection broke"),
        (http(b"short", content_length="50"), "the connection broke"), (b"HTTP/1.1 200 OK\r\n" + b"A: " + b"x" * 500_000 + b"\r\n\r\n", "the connection broke"),
        (http(status="302 Found"), "302 Found"),
    ],
)  # fmt: skip
def test_replies_that_are_no_page_are_refused_with_the_reason(reply: bytes, reason: str):
    assert refused(reply) == reason


@pytest.mark.parametrize(
    ("kind", "is_html"),
    [("text/html; charset=utf-8", True), ("application/xhtml+xml", True), ("text/plain", False), ("application/json", False), ("application/ld+json", False),
     ("text/markdown", False), ("application/rss+xml", False), ("", True)],
)  # fmt: skip
def test_html_text_json_and_xml_are_read(kind: str, is_html: bool):
    assert fetched(http(b"<p>x", content_type=kind)).is_html == is_html


@pytest.mark.parametrize(
    ("body", "parameters", "text"),
    [
        ("é".encode(), "", "é"), ("é".encode("latin-1"), "charset=ISO-8859-1", "é"), ("é".encode("latin-1"), 'charset="latin1"', "é"),
        ("é".encode("utf-16"), "", "é"), (b"\xef\xbb\xbf\xc3\xa9", "charset=latin1", "é"), ("東".encode("shift_jis"), "charset=Shift_JIS", "東"),
        (b'<meta charset="windows-1251">' + "ж".encode("cp1251"), "", '<meta charset="windows-1251">ж'),
        (b"\xff\xfe\xfd", "charset=utf-8", "\ufeff\ufffd"[1:]), (b"\xc3(", "", "\ufffd("), (b"a", "charset=punycode", "a"), (b"a", "charset=zip", "a"), (b"a", "charset=nothing", "a"),
    ],
)  # fmt: skip
def test_bytes_are_decoded_by_their_charset(body: bytes, parameters: str, text: str):
    assert decoded(body, parameters.lower()) == text


async def _silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the client closes the connection


async def _drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("reply", [_silence, _drip])
def test_a_slow_page_ends_at_the_time_limit(reply: Reply):
    assert refused(reply, HttpLimits(seconds=0.2)) == "timed out after 0.2 s"


@pytest.mark.parametrize("reply", [_silence, _drip])
def test_cancelling_closes_the_connection(reply: Reply):
    async def use(web: WebServer) -> None:
        task = asyncio.create_task(fetcher(web).fetch(f"http://{web.host}/"))
        await until_async(lambda: len(web.requests) == 1, "the request")
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await until_async(lambda: web.open == 0, "closed connections")

    with_server({"/": reply}, use)


def test_a_connection_that_cannot_be_made_is_named_without_the_address():
    client = HttpClient(AddressGuard({"closed.test"}, Names(["127.0.0.1"])))
    with pytest.raises(ProviderError) as error:
        asyncio.run(WebFetcher(client).fetch("http://closed.test:1/"))
    assert str(error.value) == "the connection failed"
