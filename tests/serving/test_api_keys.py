"""API keys that change while the server runs, and keys that are guessed. The clock is the tests' own."""

import logging
import os

import pytest

from amalgam_edge.errors import AmalgamError
from amalgam_edge.serving.api_keys import FREE_GUESSES, LONGEST_WAIT, ApiKeys, GuessLimiter, read_key_file


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "keys.txt"
    path.write_text("one\n\n two \nschlüssel\n", "utf-8")
    return path


def keys_of(file, clock):
    return ApiKeys(read_key_file(file), file, clock)


def accepted(keys, *candidates):
    return [name for name in candidates if keys.find(f"Bearer {name}".encode())]


def test_a_key_is_found_by_its_header_only(file, clock):
    keys = keys_of(file, clock)
    assert accepted(keys, "one", "two", "schlüssel", "three", "", "one two", "on", "onee") == [
        "one",
        "two",
        "schlüssel",
    ]
    assert keys.find(b"bearer   one ")
    for header in (b"", b"one", b"Basic one", b"Bearer", b"Bearer\x00one", b"Bearer \xff\xfe", b"Bearerone"):
        assert keys.find(header) is None
    assert keys.find(b"Bearer one") == keys.find(b"bearer one") != keys.find(b"Bearer two")


def test_no_key_stays_in_memory(file, clock):
    keys = keys_of(file, clock)
    assert keys.find(b"Bearer one")
    assert "schlüssel" not in repr(vars(keys))


def test_keys_are_read_again_once_their_file_has_changed(file, clock):
    keys = keys_of(file, clock)
    file.write_text("three\n", "utf-8")
    assert accepted(keys, "one", "three") == ["one"]  # it is looked at once a second
    clock.now += 1
    assert accepted(keys, "one", "three") == ["three"]


def test_keys_are_read_again_from_a_file_that_took_the_place_of_the_first(file, clock, tmp_path):
    keys = keys_of(file, clock)
    stat = file.stat()
    other = tmp_path / "other"
    other.write_text("ONE\n\n TWO \nSCHLÜSSEL\n", "utf-8")
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(file)
    clock.now += 1
    assert accepted(keys, "one", "ONE") == ["ONE"]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe", None])
def test_keys_stay_if_their_file_becomes_useless_and_the_log_says_so(file, clock, content, caplog):
    keys = keys_of(file, clock)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    for _ in range(5):
        clock.now += 1
        assert accepted(keys, "one", "two") == ["one", "two"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "the 3 keys read before stay" in record.getMessage()
    file.write_text("four\n")
    clock.now += 1
    assert accepted(keys, "one", "four") == ["four"]


@pytest.mark.parametrize(("content", "message"), [(b" \n", "holds no API key"), (b"\xff", "cannot be read")])
def test_a_useless_file_is_refused_at_the_start(file, content, message):
    file.write_bytes(content)
    with pytest.raises(AmalgamError, match=message):
        read_key_file(file)


def waits(limiter, address, n_guesses, clock):
    """Seconds to wait after each guess, each made once the wait before is over."""
    seconds = []
    for _ in range(n_guesses):
        limiter.add_wrong(address)
        seconds.append(limiter.seconds_to_wait(address, None))
        clock.now += seconds[-1]
    return seconds


def test_an_address_waits_longer_after_each_wrong_key(clock):
    limiter = GuessLimiter(clock)
    seconds = waits(limiter, "10.0.0.1", FREE_GUESSES + 2000, clock)
    assert seconds[:FREE_GUESSES] == [0.0] * FREE_GUESSES
    assert seconds[FREE_GUESSES : FREE_GUESSES + 8] == [1, 2, 4, 8, 16, 32, LONGEST_WAIT, LONGEST_WAIT]
    assert set(seconds[FREE_GUESSES + 8 :]) == {LONGEST_WAIT}


def test_other_addresses_do_not_wait(clock):
    limiter = GuessLimiter(clock)
    for _ in range(100):
        limiter.add_wrong("10.0.0.1")
    assert limiter.seconds_to_wait("10.0.0.1", b"right") > 0  # or the wait would tell a right key from others
    assert limiter.seconds_to_wait("10.0.0.2", None) == 0


def test_a_key_that_was_right_before_from_there_does_not_wait(clock):
    limiter = GuessLimiter(clock)
    limiter.add_right("10.0.0.1", b"right")
    for _ in range(100):
        limiter.add_wrong("10.0.0.1")
    assert limiter.seconds_to_wait("10.0.0.1", b"right") == 0
    assert limiter.seconds_to_wait("10.0.0.1", b"another right one") > 0
    assert limiter.seconds_to_wait("10.0.0.1", None) > 0


def test_wrong_keys_are_forgotten_after_a_while(clock):
    limiter = GuessLimiter(clock)
    waits(limiter, "10.0.0.1", FREE_GUESSES + 3, clock)
    clock.now += 1000
    assert waits(limiter, "10.0.0.1", 1, clock) == [0.0]


def test_all_addresses_of_an_ipv6_network_are_one_client(clock):
    limiter = GuessLimiter(clock)
    for k in range(100):
        limiter.add_wrong(f"2001:db8:1:2::{k:x}")
    assert limiter.seconds_to_wait("2001:db8:1:2:ffff::1%eth0", None) > 0
    assert limiter.seconds_to_wait("2001:db8:1:3::1", None) == 0
    for _ in range(100):
        limiter.add_wrong("::ffff:10.0.0.1")
    assert limiter.seconds_to_wait("::ffff:10.0.0.2", None) == 0


def test_memory_is_bounded_however_many_addresses_guess(clock):
    limiter = GuessLimiter(clock)
    for k in range(20_000):
        limiter.add_wrong(f"10.{k >> 16}.{k >> 8 & 255}.{k & 255}")
        limiter.add_right("10.0.0.1", str(k).encode())
    assert len(limiter._guesses) == len(limiter._proven) == 4096


def test_the_log_has_one_line_in_ten_seconds_with_the_number(clock, caplog):
    limiter = GuessLimiter(clock)
    for _ in range(500):
        limiter.add_wrong("10.0.0.1")
    clock.now += 10
    limiter.add_wrong("10.0.0.2")
    assert [record.getMessage() for record in caplog.records] == [
        "1 requests with a wrong API key, the last one from 10.0.0.1",
        "500 requests with a wrong API key, the last one from 10.0.0.2",
    ]
