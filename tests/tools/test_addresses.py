"""The guard against requests to private addresses."""

import asyncio

import pytest

from ossia.tools.addresses import AddressGuard, AddressRefusedError, is_public


def resolver(*addresses: str):
    async def resolve(host: str, port: int):
        return list(addresses)

    return resolve


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "192.0.0.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
        "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "2002:a00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "::127.0.0.1", "fec0::1", "64:ff9b:1::7f00:1", "::ffff:0:7f00:1", "not an address", "",
    ],
)  # fmt: skip
def test_private_addresses_are_not_public(address: str):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_public_addresses_are_public(address: str):
    assert is_public(address)


def test_a_name_with_a_private_address_is_refused():
    guard = AddressGuard(resolve=resolver("169.254.169.254"))
    with pytest.raises(AddressRefusedError, match=r"'metadata\.example' has no public address"):
        asyncio.run(guard.addresses("metadata.example", 80))


def test_of_several_addresses_only_the_public_ones_are_used():
    guard = AddressGuard(resolve=resolver("10.0.0.1", "8.8.8.8", "::1"))
    assert asyncio.run(guard.addresses("both.example", 443)) == ["8.8.8.8"]


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "127.1", "[::1]", "localhost", "LOCALHOST."])
def test_spellings_of_loopback_are_refused(host: str):
    """The system resolves them, without a network."""
    with pytest.raises(AddressRefusedError):
        asyncio.run(AddressGuard().addresses(host, 80))


@pytest.mark.parametrize("host", ["", "a" * 300, "bad\x00name", "a..b", "é" * 100])
def test_names_that_cannot_be_resolved_are_refused(host: str):
    with pytest.raises(AddressRefusedError):
        asyncio.run(AddressGuard().addresses(host, 80))


def test_an_operator_can_allow_private_hosts():
    guard = AddressGuard(frozenset({"localhost:8000", "tools"}), resolver("127.0.0.1"))
    assert asyncio.run(guard.addresses("localhost", 8000)) == ["127.0.0.1"]
    assert asyncio.run(guard.addresses("tools", 1)) == ["127.0.0.1"]
    with pytest.raises(AddressRefusedError):
        asyncio.run(guard.addresses("localhost", 8001))


def test_a_user_can_allow_all_private_hosts():
    guard = AddressGuard(resolve=resolver("10.0.0.1"), allow_private=True)
    assert asyncio.run(guard.addresses("anything", 8080)) == ["10.0.0.1"]
    assert guard.is_trusted("anything", 8080)
    assert not AddressGuard().is_trusted("anything", 80)
