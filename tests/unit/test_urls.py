"""Which URLs a job may name as an input file, as far as their text tells."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.application.payloads.schema_faults import problems
from coordinator.application.payloads.schemas import PayloadSchemas, compile_schema
from coordinator.domain.errors import Code
from coordinator.domain.service import Pricing, RegisteredService, ServiceSpec
from coordinator.wire.http.urls import UnsafeUrl, Url, check_url, is_public, parse_allowed
from tests.harness.cases import every

SAFE = [
    "https://example.com/a.wav",
    "http://example.com",
    "https://example.com:8443/a?b=c&d=%20",
    "https://sub-domain.example.co.uk./x",
    "https://xn--bcher-kva.example/a",
    "https://93.184.216.34/a",
    "https://[2606:2800:220:1:248:1893:25c8:1946]/a",
    "https://bucket_name.s3.example.com/key?X-Signature=abc~def",
    "https://example.com?x=1",
]
UNSAFE = [
    # other schemes, and none
    *("file:///etc/passwd", "ftp://example.com/a", "data:text/plain,x", "gopher://example.com/", "", "a.wav"),
    *("javascript:alert(1)", "//example.com/a", "blob:x", "http:example.com", "http:/example.com", "https://"),
    # this machine and its network
    *("http://127.0.0.1/", "http://127.1.2.3/", "http://10.0.0.1/", "http://172.16.9.9/", "http://192.168.1.1/"),
    *("http://169.254.169.254/latest/meta-data", "http://100.100.100.200/", "http://0.0.0.0/", "http://0/"),
    *("http://localhost/", "http://LOCALHOST./", "http://a.localhost/", "http://printer.local/", "http://db/"),
    *("http://metadata.google.internal/", "http://router.home.arpa/", "http://host.docker.internal/"),
    *("http://224.0.0.1/", "http://255.255.255.255/", "http://240.0.0.1/", "http://192.0.2.1/", "http://198.18.0.1/"),
    # the same in IPv6, and IPv4 inside it
    *("http://[::1]/", "http://[::]/", "http://[fe80::1]/", "http://[fc00::1]/", "http://[ff02::1]/"),
    *("http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://[64:ff9b::7f00:1]/", "http://[::7f00:1]/"),
    *("http://[64:ff9b:1::1]/", "http://[2002:7f00:1::]/", "http://[2001:0:1::1]/", "http://[2001:db8::1]/"),
    *("http://[fec0::1]/", "http://[fe80::1%25eth0]/", "http://[1.2.3.4]/", "http://[::1", "http://[]/"),
    # addresses in odd spellings
    *("http://2130706433/", "http://0x7f.1/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.1/"),
    *("http://127.0.0.1./", "http://127.0.0.01/", "http://1.2.3.4.5/", "http://0x/", "http://example.0x1/"),
    *("http://256.256.256.256/", "http://\uff11\uff12\uff17.0.0.1/", "http://127\u30020\u30020\u30021/", "http://%31%32%37.0.0.1/"),
    # what two parsers may read differently
    *("http://user@example.com/", "http://user:pw@example.com/", "http://example.com@127.0.0.1/"),
    *("http://example.com\\@127.0.0.1/", "http://example.com/a\\b", "http://exa mple.com/", " http://example.com/"),
    *("http://example.com/\r\nHost: x", "http://example.com/a b", "http://example.com/\u00e9", "http://example.com/\0"),
    *("http://example..com/", "http://-a.example/", f"http://{'a' * 64}.example/", f"http://{'a.' * 127}bc/"),
    "https://example.com/" + "a" * 2048,
    # ports of other protocols
    *("http://example.com:22/", "http://example.com:25/", "http://example.com:0/", "http://example.com:65536/"),
    *("http://example.com:6667/", "http://example.com:99999/", "http://example.com:/", "http://example.com:8o/"),
]  # fmt: skip


@every("text", SAFE)
def test_public_urls_are_taken(text: str) -> None:
    """Names and addresses of the public internet, over http and https."""
    assert check_url(text).host in text.lower()


@every("text", UNSAFE)
def test_unsafe_urls_are_refused(text: str) -> None:
    """Whatever is not plainly a file of the public internet; and the reason quotes nothing of it."""
    with pytest.raises(UnsafeUrl) as refused:
        check_url(text)

    assert len(text) < 12 or text not in str(refused.value)


def test_a_url_is_read_one_way() -> None:
    """Case and fragments mean nothing, a default port is not named, and a path there always is."""
    expected = Url("https", "example.com", 443, "/?q=A", allowed=False)

    assert expected == check_url("HTTPS://Example.COM?q=A#part")
    assert expected.authority == "example.com"
    assert check_url("http://example.com:8080/").authority == "example.com:8080"
    assert check_url("https://[2606:2800:220:1::1]:8443/").authority == "[2606:2800:220:1::1]:8443"


def test_named_hosts_may_be_anywhere() -> None:
    """A host of the settings is let in with its port, or with all where none is named; nothing besides."""
    allowed = parse_allowed(["127.0.0.1:8080", "Files.Internal", "[::1]:81"])

    assert check_url("http://127.0.0.1:8080/a", allowed).allowed
    assert check_url("http://files.internal:22/a", allowed).allowed
    assert check_url("http://[::1]:81/a", allowed).allowed
    for text in (
        "http://127.0.0.1:8081/a",
        "http://127.0.0.1/a",
        "http://a.files.internal/",
        "http://[::1]/",
    ):
        with pytest.raises(UnsafeUrl):
            check_url(text, allowed)
    with pytest.raises(UnsafeUrl):
        check_url("ftp://127.0.0.1:8080/a", allowed)


@every("entry", ["", "http://a.b", "a.b/path", "user@host", "a b", "host:port"])
def test_hosts_of_the_settings_are_hosts(entry: str) -> None:
    """A setting that names no host is told of at the start."""
    with pytest.raises(ValueError, match="host"):
        parse_allowed([entry])


@given(st.ip_addresses())
def test_no_special_address_is_public(address: object) -> None:
    """What Python knows to be private, reserved or multicast is never taken for public."""
    ip = ip_address(str(address))

    if ip.is_private or ip.is_reserved or ip.is_multicast or ip.is_link_local or ip.is_loopback:
        assert not is_public(str(ip))


SCHEMA = {
    "type": "object",
    "properties": {
        "file": {"$ref": "#/$defs/file"},
        "more": {"type": "array", "items": {"$ref": "#/$defs/file"}},
        "when": {"type": "string", "format": "date"},
    },
    "$defs": {"file": {"type": ["string", "null"], "format": "uri"}},
}


def test_a_services_file_fields_are_checked() -> None:
    """A field with the format `uri` takes a blob or a public URL; what is refused is named, and not shown."""
    validator = compile_schema(SCHEMA, parse_allowed(["127.0.0.1:8080"]))
    good = {"file": None, "more": ["blob:" + "0" * 64, "https://example.com/a", "http://127.0.0.1:8080/a"]}
    bad = {
        "more": ["https://example.com/a", "http://10.0.0.7/secret"],
        "when": "no date, which is not asserted",
    }

    assert validator.is_valid(good)
    [problem] = problems(validator, bad)
    assert ("more/1", "format") == (problem.place, problem.keyword)
    assert "10.0.0.7" not in problem.text


def test_a_refusal_names_the_field() -> None:
    """A submit whose file can't be fetched is INVALID_PAYLOAD, at its place in the payload."""
    spec = ServiceSpec(
        id="any_service",
        name="Any",
        category="ai_ml",
        description="Any.",
        input_schema=SCHEMA,
        output_schema={},
        pricing=Pricing(unit="second", amount="1"),
    )
    refusal = PayloadSchemas().check(RegisteredService(spec, 1), {"file": "file:///etc/passwd"})

    assert refusal is not None
    assert refusal.code is Code.INVALID_PAYLOAD
    assert refusal.detail.startswith("any_service: file can't be fetched: ")
