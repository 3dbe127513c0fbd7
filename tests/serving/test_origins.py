"""Names of the server, and origins of pages."""

import pytest

from amalgam_edge.serving.origins import is_known_host, known_hosts, may_send


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.9.1", "LOCALHOST"])
def test_a_server_on_loopback_knows_its_names(host):
    assert known_hosts(host, ()) == {host.lower()}
    assert known_hosts(host, ["Box.example."]) == {host.lower(), "box.example"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "box.example"])
def test_a_server_on_the_network_answers_to_any_name_unless_names_are_given(host):
    assert known_hosts(host, ()) is None
    assert known_hosts(host, ["box.example"]) == {host, "box.example"}


@pytest.mark.parametrize(
    ("header", "known"),
    [
        *((name, True) for name in ("localhost", "localhost:8080", "LOCALHOST.", "app.localhost:1", "box", "Box:80")),
        *((name, True) for name in ("127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:8080", "10.1.2.3:80")),
        *(
            (name, False)
            for name in ("evil.example", "evil.example:8080", "box.evil.example", "localhost.evil.example")
        ),
        *(
            (name, False)
            for name in ("", ":80", "127.0.0.1.evil.example", "evil.example:80@localhost", "box@evil", "é")
        ),
        *((name, False) for name in ("evil[::1]", "[evil]", "127.0.0.1:80:80", "notlocalhost", "localhost:x")),
    ],
)
def test_names_and_addresses_by_which_a_request_may_ask(header, known):
    assert is_known_host(header, frozenset({"box"})) is known


@pytest.mark.parametrize(
    ("origin", "site", "host", "allowed", "may"),
    [
        (None, None, "localhost:8080", (), True),  # no browser
        (None, "same-origin", "localhost:8080", (), True),
        (None, "none", "localhost:8080", (), True),
        (None, "cross-site", "localhost:8080", (), False),
        (None, "same-site", "localhost:8080", (), False),
        ("http://localhost:8080", "same-origin", "localhost:8080", (), True),
        ("http://LOCALHOST:8080", None, "localhost:8080", (), True),
        ("https://box.example", None, "box.example", (), True),  # behind a proxy that speaks HTTPS
        ("http://box.example", None, "box.example:80", (), True),
        ("http://[::1]:8080", None, "[::1]:8080", (), True),
        ("http://localhost:3000", "same-site", "localhost:8080", (), False),
        ("http://localhost", None, "localhost:8080", (), False),
        ("http://evil.example", "cross-site", "localhost:8080", (), False),
        ("null", None, "localhost:8080", (), False),
        ("", None, "", (), False),
        ("http://", None, "", (), False),
        ("http://[", None, "[", (), False),
        ("http://a:b", None, "a:b", (), False),
        ("http://evil.example", "cross-site", "localhost:8080", ("http://evil.example",), True),
        ("http://evil.example", "cross-site", "localhost:8080", ("http://good.example",), False),
        ("http://evil.example", "cross-site", "localhost:8080", ("*",), True),
        ("null", None, "localhost:8080", ("null",), True),
    ],
)
def test_pages_that_may_have_the_server_do_something(origin, site, host, allowed, may):
    assert may_send(origin, site, host, allowed) is may
