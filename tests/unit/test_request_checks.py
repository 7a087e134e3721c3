"""Checks that all servers share, on headers as ASGI gives them."""

from __future__ import annotations

import pytest

from zprl.request_checks import (
    bearer_token,
    cookie_value,
    from_page,
    is_loopback,
    named_host,
    only,
    same_secret,
)


def raw(*pairs: tuple[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in pairs]


def test_a_header_that_is_given_twice_is_empty() -> None:
    headers = raw(("host", "a"), ("origin", "b"), ("origin", "b"))
    assert (only(headers, "host"), only(headers, "origin"), only(headers, "cookie")) == (
        "a",
        "",
        None,
    )


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("localhost:5000", ("localhost", "5000")),
        ("LocalHost", ("localhost", "")),
        ("127.0.0.1:1", ("127.0.0.1", "1")),
        ("[::1]:8000", ("::1", "8000")),
        ("127.0.0.1:5000.evil.example", None),
        ("a@127.0.0.1:5000", None),
        ("127.0.0.1:123456", None),
        ("127.0.0.1:5000\n", None),
        ("a" * 254, None),
        ("", None),
    ],
)
def test_a_host_header_names_one_host_or_none(value: str, named: tuple[str, str] | None) -> None:
    assert named_host(raw(("host", value))) == named


def test_no_host_and_two_hosts_name_none() -> None:
    assert named_host([]) is None
    assert named_host(raw(("host", "localhost"), ("host", "localhost"))) is None


@pytest.mark.parametrize(
    ("origin", "same"),
    [
        ("http://here:1", True),
        ("https://here:1", False),
        ("http://here:2", False),
        ("http://here:1.evil.example", False),
        ("null", False),
        ("", False),
    ],
)
def test_an_origin_is_the_named_host_or_another_site(origin: str, same: bool) -> None:
    assert from_page(raw(("host", "here:1"), ("origin", origin))) is same


def test_programs_send_no_origin() -> None:
    assert from_page(raw(("host", "here:1"))) is None


def test_two_origins_and_an_origin_without_a_host_are_another_site() -> None:
    twice = ("origin", "http://here")
    assert from_page(raw(("host", "here"), twice, twice)) is False
    assert from_page(raw(("origin", "http://"))) is False
    assert from_page(raw(("origin", "http://None"))) is False


def test_a_server_behind_tls_takes_both_schemes() -> None:
    headers = raw(("host", "here"), ("origin", "https://here"))
    assert from_page(headers, schemes=("http", "https")) is True


@pytest.mark.parametrize(
    ("header", "token"),
    [("Bearer abc", "abc"), ("bearer  abc ", "abc"), ("Basic abc", ""), ("abc", ""), (None, "")],
)
def test_a_bearer_token(header: str | None, token: str) -> None:
    assert bearer_token(header) == token


@pytest.mark.parametrize(
    ("header", "value"),
    [("a=1; b=2", "2"), ("a=1", ""), ("b", ""), ("\x00=\x00", ""), (None, "")],
)
def test_a_cookie(header: str | None, value: str) -> None:
    assert cookie_value(header, "b") == value


def test_secrets_are_compared_whatever_letters_they_hold() -> None:
    assert same_secret("köln", "köln")
    assert not same_secret("\udcff", "x")
    assert not same_secret("", "x")


@pytest.mark.parametrize(
    ("host", "here"),
    [("localhost", True), ("127.3.2.1", True), ("::1", True), ("0.0.0.0", False), ("here", False)],
)
def test_loopback(host: str, here: bool) -> None:
    assert is_loopback(host) is here
