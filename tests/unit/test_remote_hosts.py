import asyncio
import ipaddress
import socket

import pytest
from helpers_remote import QUICK

from eo_cate.errors import ImageryError
from eo_cate.imagery.remote import HostPolicy, HostRefusedError, RangeClient
from eo_cate.imagery.remote import hosts as hosts_module

PUBLIC = HostPolicy(hosts=("data.example.org", ".blob.example.net"))


@pytest.mark.parametrize(
    "href", ["https://data.example.org/a.tif", "https://DATA.example.org:8443/a", "https://x.y.blob.example.net/a"]
)
def test_listed_hosts_pass(href):
    assert str(PUBLIC.check(href)).startswith("https://")


@pytest.mark.parametrize(
    "href",
    [
        "http://data.example.org/a.tif",
        "file:///etc/passwd",
        "/etc/passwd",
        "a.tif",
        "/vsicurl/https://data.example.org/a.tif",
        "s3://data.example.org/a.tif",
        "https://evil.org/a.tif",
        "https://data.example.org@evil.org/a.tif",
        "https://data.example.org.evil.org/a.tif",
        "https://blob.example.net/a.tif",
        "https://xblob.example.net/a.tif",
        "https://127.0.0.1/a.tif",
        "https://[::1]/a.tif",
        "https://data.example.org:port/a.tif",
        "https:///a.tif",
        "http://localhost/a.tif",
        "",
    ],
)
def test_other_addresses_are_refused(href):
    with pytest.raises(ImageryError):
        PUBLIC.check(href)


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "192.168.1.1", "169.254.169.254", "127.0.0.1", "0.0.0.0", "100.64.0.1", "224.0.0.1", "::1",
             "fe80::1", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::"]
)  # fmt: skip
@pytest.mark.parametrize("loopback", [False, True])
def test_private_addresses_are_refused_even_when_listed(host, loopback):
    loopback = loopback and not ipaddress.ip_address(host).is_loopback
    literal = f"[{host}]" if ":" in host else host
    with pytest.raises(HostRefusedError, match="private or local"):
        HostPolicy(hosts=(host,), loopback=loopback).check(f"https://{literal}/a.tif")


def test_messages_never_hold_a_signature():
    with pytest.raises(HostRefusedError) as caught:
        PUBLIC.check("https://evil.org/a.tif?sig=SECRET")
    assert "a.tif at evil.org" in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_a_listed_name_that_resolves_to_a_private_address_is_refused_at_connection(monkeypatch):
    async def resolve(self, host, port=0, family=socket.AF_INET):
        address = {"hostname": host, "host": "127.0.0.1", "port": port, "family": family, "proto": 0, "flags": 0}
        return [{**address, "host": "93.184.215.14"}, address]

    monkeypatch.setattr(hosts_module.ThreadedResolver, "resolve", resolve)

    async def read():
        async with RangeClient(PUBLIC, retry=QUICK) as client:
            with pytest.raises(HostRefusedError, match="private or local"):
                await client.fetch("https://data.example.org/a.tif", 0, 10)
            assert client.counts.retries == 0

    asyncio.run(read())


def test_policy_of_a_catalogue():
    assert HostPolicy.from_catalog("https://API.example.org/v1", hosts=[".x.org"]) == HostPolicy(
        ("api.example.org", ".x.org")
    )
    assert HostPolicy.from_catalog("/data/catalog.json", hosts=["x.org"]) == HostPolicy(("x.org",))
    assert HostPolicy.from_catalog("http://127.0.0.1:99/v1").loopback
    assert not HostPolicy.from_catalog("https://10.0.0.1/v1").loopback


def test_a_public_name_must_not_be_this_machine_even_under_a_loopback_policy():
    policy = HostPolicy(hosts=("127.0.0.1", "data.example.org"), loopback=True)
    policy.check_address(ipaddress.ip_address("127.0.0.1"), "localhost")
    with pytest.raises(HostRefusedError):
        policy.check_address(ipaddress.ip_address("127.0.0.1"), "data.example.org")
