from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from meshd.crypto.aead import TAG_SIZE, Suite, new_aead, nonce
from meshd.errors import LocalProtocolError

KEY = bytes(range(32))

# RFC 8439, section 2.8.2, with its nonce as given there
RFC8439_KEY = bytes(range(0x80, 0xA0))
RFC8439_NONCE = bytes.fromhex("070000004041424344454647")
RFC8439_AAD = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
RFC8439_TEXT = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it."
RFC8439_TAG = bytes.fromhex("1ae10b594f09e26a7e902ecbd0600691")
# The GCM Specification (McGrew and Viega), test case 16 of appendix B
GCM16_KEY = bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2)
GCM16_NONCE = bytes.fromhex("cafebabefacedbaddecaf888")
GCM16_AAD = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
GCM16_TEXT = bytes.fromhex(
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
)
GCM16_TAG = bytes.fromhex("76fc6ece0f4e1768cddf8853bb2d551b")


def test_published_vectors() -> None:
    sealed = new_aead(Suite.CHACHA20_POLY1305, RFC8439_KEY).seal(RFC8439_NONCE, RFC8439_TEXT, RFC8439_AAD)
    assert sealed[-TAG_SIZE:] == RFC8439_TAG
    sealed = new_aead(Suite.AES_256_GCM, GCM16_KEY).seal(GCM16_NONCE, GCM16_TEXT, GCM16_AAD)
    assert sealed[-TAG_SIZE:] == GCM16_TAG


def test_plain_is_gmac_over_both_and_shows_the_text() -> None:
    plain, gcm = new_aead(Suite.PLAIN, KEY), new_aead(Suite.AES_256_GCM, KEY)
    sealed = plain.seal(nonce(7), b"text", b"header")
    assert sealed == b"text" + gcm.seal(nonce(7), b"", b"headertext")
    assert not Suite.PLAIN.secret
    assert Suite.AES_256_GCM.secret


@pytest.mark.parametrize("suite", list(Suite))
@given(text=st.binary(max_size=200), aad=st.binary(max_size=32), counter=st.integers(0, 2**64 - 1))
def test_round_trip_and_refusal(suite: Suite, text: bytes, aad: bytes, counter: int) -> None:
    aead = new_aead(suite, KEY)
    sealed = aead.seal(nonce(counter), bytearray(text), memoryview(aad))
    assert len(sealed) == len(text) + TAG_SIZE
    assert aead.open(nonce(counter), memoryview(sealed), bytearray(aad)) == text
    with pytest.raises(InvalidTag):
        aead.open(nonce(counter ^ 1), sealed, aad)
    with pytest.raises(InvalidTag):
        aead.open(nonce(counter), sealed, aad + b"x")
    with pytest.raises(InvalidTag):
        aead.open(nonce(counter), sealed[:-1], aad)
    forged = bytearray(sealed)
    forged[counter % len(forged)] ^= 1
    with pytest.raises(InvalidTag):
        aead.open(nonce(counter), forged, aad)


@pytest.mark.parametrize("suite", list(Suite))
@pytest.mark.parametrize("length", [0, 1, 15])
def test_too_short_for_a_tag(suite: Suite, length: int) -> None:
    with pytest.raises(InvalidTag):
        new_aead(suite, KEY).open(nonce(0), bytes(length), b"")


def test_suites_do_not_open_each_other() -> None:
    sealed = {suite: new_aead(suite, KEY).seal(nonce(0), b"text", b"") for suite in Suite}
    for suite in Suite:
        for other in set(Suite) - {suite}:
            with pytest.raises(InvalidTag):
                new_aead(suite, KEY).open(nonce(0), sealed[other], b"")


def test_nonce_layout() -> None:
    assert nonce(0x0102030405060708) == bytes.fromhex("000000000807060504030201")


def test_a_short_key_is_our_own_bug() -> None:
    with pytest.raises(LocalProtocolError):
        new_aead(Suite.AES_256_GCM, bytes(16))
