"""Identity, binding and mesh key: stored forms, what is refused and how, and that nothing shows a secret."""

from __future__ import annotations

import random

import pytest
from cryptography.hazmat.primitives.hashes import BLAKE2s
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from meshd.crypto.aead import Suite
from meshd.crypto.identity import BINDING_SIZE, IDENTITY_SIZE, Identity, host_id_of, verify_binding, verify_signature
from meshd.crypto.meshkey import MeshKey, check_password, hkdf
from meshd.errors import DecodeError, UserError

ALICE = Identity.generate(random.Random("alice").randbytes)
BOB = Identity.generate(random.Random("bob").randbytes)
MESH_ID = bytes(range(16))
KEY = MeshKey.generate(random.Random(1).randbytes)


def test_identity_round_trip() -> None:
    again = Identity.from_bytes(ALICE.to_bytes())
    assert again.host_id == ALICE.host_id == host_id_of(ALICE.ed25519_public)
    assert again.x25519_public == ALICE.x25519_public
    assert len(ALICE.host_id) == 16
    assert verify_signature(ALICE.ed25519_public, again.sign(b"message"), b"message")


@pytest.mark.parametrize("data", [b"", bytes(IDENTITY_SIZE), ALICE.to_bytes()[:-1], ALICE.to_bytes() + b"x"])
def test_bad_stored_identity(data: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        Identity.from_bytes(data)
    assert ALICE.to_bytes()[1:9].hex() not in str(caught.value)


def test_repr_shows_the_host_id_only() -> None:
    assert repr(ALICE) == f"Identity({ALICE.host_id.hex()})"


def test_verify_signature_refuses_everything_else() -> None:
    signature = ALICE.sign(b"message")
    assert not verify_signature(BOB.ed25519_public, signature, b"message")
    assert not verify_signature(ALICE.ed25519_public, signature, b"massage")
    assert not verify_signature(ALICE.ed25519_public, signature[:-1], b"message")
    assert not verify_signature(b"short", signature, b"message")


def test_binding_ties_both_keys_and_the_mesh() -> None:
    binding = ALICE.binding(MESH_ID)
    assert len(binding) == BINDING_SIZE == 97
    assert verify_binding(binding, MESH_ID, ALICE.x25519_public) == ALICE.ed25519_public
    for mesh_id, static in ((bytes(16), ALICE.x25519_public), (MESH_ID, BOB.x25519_public)):
        with pytest.raises(DecodeError):
            verify_binding(binding, mesh_id, static)
    for position in range(BINDING_SIZE):
        forged = bytearray(binding)
        forged[position] ^= 1
        with pytest.raises(DecodeError):
            verify_binding(bytes(forged), MESH_ID, ALICE.x25519_public)
    with pytest.raises(DecodeError):
        verify_binding(binding[:-1], MESH_ID, ALICE.x25519_public)


@given(st.binary(max_size=64), st.binary(min_size=1, max_size=32))
def test_hkdf_against_another_implementation(key: bytes, label: bytes) -> None:
    assert hkdf(key, label) == HKDF(algorithm=BLAKE2s(32), length=32, salt=None, info=label).derive(key)


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32), st.sampled_from(Suite), st.booleans())
def test_text_round_trip(mesh_id: bytes, key: bytes, suite: Suite, from_password: bool) -> None:
    mesh = MeshKey(suite=suite, mesh_id=mesh_id, key=key, from_password=from_password)
    text = mesh.to_text()
    again = MeshKey.parse(f"  {text.upper()}\r\n")
    assert again == mesh
    assert (again.psk, again.mac1_bootstrap) == (mesh.psk, mesh.mac1_bootstrap)
    assert len(text) == 92


def test_pinned_text_and_derivations() -> None:
    mesh = MeshKey(suite=Suite.AES_256_GCM, mesh_id=MESH_ID, key=bytes(range(32)), from_password=False)
    assert (
        mesh.to_text() == "mk1-aaaqaaicamcakbqhbaequcymbuha6aabaibqibiga4eascqlbqgq4dyqcejbgfavcylrqgi2dmob2hq7njzprgoa"
    )
    assert mesh.psk.hex() == "781b27318e64d3e1c4571cdc2cd8e1957fc3b6123a4fdf7b456587510adf7632"
    assert mesh.mac1_bootstrap.hex() == "4ca9c28c5faaf9f2998b332da5c9b249efb0140c498f2ad51de779d0b077912c"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no mesh key"),
        ("correct horse battery staple", "no mesh key"),
        ("mk2-" + "a" * 88, "version"),
        (KEY.to_text()[:-1], "cut short: 87 of 88"),
        (KEY.to_text() + "a", "too long"),
        (KEY.to_text()[:50] + "1" + KEY.to_text()[51:], "typing error: it holds"),
        (KEY.to_text()[:50] + ("a" if KEY.to_text()[50] != "a" else "b") + KEY.to_text()[51:], "checksum"),
        (KEY.to_text().replace("mk1-", "mk1"), "no mesh key"),
    ],
)
def test_bad_text_says_what_is_wrong_and_never_the_key(text: str, why: str) -> None:
    with pytest.raises(UserError) as caught:
        MeshKey.parse(text)
    assert why in str(caught.value)
    assert len(text) < 10 or text[10:20] not in str(caught.value)


@given(st.text(max_size=120))
def test_any_text_is_a_user_error(text: str) -> None:
    for candidate in (text, "mk1-" + text, "mk1-" + (text + "a" * 88)[:88]):
        with pytest.raises(UserError):
            MeshKey.parse(candidate)


def test_unknown_suite_and_kind() -> None:
    for field, value, why in ((0, 7, "kind"), (1, 9, "suite 9")):
        with pytest.raises(UserError, match=why):
            MeshKey.parse(_text_with(field, value))


def _text_with(field: int, value: int) -> str:
    import base64

    from meshd.crypto import meshkey

    body = bytearray(bytes((0, 1)) + bytes(48))
    body[field] = value
    return "mk1-" + base64.b32encode(bytes(body) + meshkey._checksum(bytes(body))).decode().lower()


def test_password_key() -> None:
    mesh = MeshKey.derive("twelve characters", "meshd")
    again = MeshKey.parse(mesh.to_text())
    assert again == mesh
    assert again.from_password
    assert again.mac1_bootstrap == mesh.mac1_bootstrap
    assert mesh.key.hex() == "39e622566dcbc0fcde222ec5a86b3447fe674f32e2f0e5a9456aae59268043c7"
    other_password = MeshKey.derive("thirteen characters", "meshd")
    assert (other_password.mesh_id, other_password.mac1_bootstrap) == (mesh.mesh_id, mesh.mac1_bootstrap)
    assert other_password.psk != mesh.psk
    other_name = MeshKey.derive("twelve characters", "x")  # a name shorter than any salt may be
    assert other_name.mesh_id != mesh.mesh_id
    assert other_name.key != mesh.key


def test_random_keys_share_nothing_visible() -> None:
    other = MeshKey.generate(random.Random(2).randbytes)
    assert other.mesh_id != KEY.mesh_id
    assert other.mac1_bootstrap != KEY.mac1_bootstrap


def test_short_passwords_are_refused() -> None:
    check_password("x" * 12)
    with pytest.raises(UserError, match="11 characters") as caught:
        check_password("hunter2hunt")
    assert "hunter2" not in str(caught.value)


def test_mesh_key_repr_shows_no_secret() -> None:
    shown = repr(KEY) + str(KEY)
    for secret in (KEY.key, KEY.psk, KEY.mac1_bootstrap):
        assert secret.hex() not in shown
        assert repr(secret)[2:12] not in shown
