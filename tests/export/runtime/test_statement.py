import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from export.runtime.errors import BundleRefused, EnvironmentLacks, UsageError
from export.runtime.keys import key_id
from export.runtime.statement import (
    DOMAIN,
    MAX_FILE_BYTES,
    RevokedKey,
    Statement,
    TrustedKey,
    parse_statement,
    read_records,
    sign_statement,
    take,
    trusted_by,
    walk,
)
from export.runtime.strictjson import canonical_bytes
from export.runtime.trust import DOMAIN as BUNDLES
from export.runtime.trust import sign

A, B, C = (Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)) for number in (1, 2, 3))
ID = {name: key_id(key.public_key()) for name, key in (("A", A), ("B", B), ("C", C))}
TIME = "2025-01-31T12:00:00Z"


def described(private: Ed25519PrivateKey, name: str = "W1") -> TrustedKey:
    public = private.public_key()
    return TrustedKey(key_id=key_id(public), public=public.public_bytes_raw().hex(), name=name)


def says(
    sequence: int, *trusted: Ed25519PrivateKey, revoked: tuple[str, ...] = (), oldest: dict[str, str] | None = None
) -> Statement:
    return Statement(
        sequence=sequence,
        issued=TIME,
        trusted=tuple(map(described, trusted)),
        revoked=tuple(RevokedKey(key_id=identity, reason="stolen", since=TIME) for identity in revoked),
        oldest=oldest or {},
    )


HAND = {ID["A"]: A.public_key()}


def refused(record: bytes, held: Statement | None = None, hand: dict[str, Any] = HAND) -> str:
    with pytest.raises(BundleRefused) as error:
        take(record, held, hand)
    return str(error.value)


def test_a_statement_is_taken_from_a_key_trusted_here_and_brings_its_keys() -> None:
    said = says(1, A, B)
    assert take(sign_statement(said, A), None, HAND) == said
    assert set(trusted_by(said, HAND)) == {ID["A"], ID["B"]}
    assert said.keys[ID["B"]].public_bytes_raw() == B.public_key().public_bytes_raw()
    later = says(2, B, revoked=(ID["A"],))
    assert take(sign_statement(later, B), said, HAND) == later
    assert set(trusted_by(later, HAND)) == {ID["B"]}


@pytest.mark.parametrize(
    ("record", "held", "said"),
    [
        (sign_statement(says(1, B), B), None, "signed by a key not trusted here"),
        (sign_statement(says(3, A, C), A), says(2, B, revoked=(ID["A"],)), "signed by a key not trusted here"),
        (sign_statement(says(2, B, revoked=(ID["A"],)), A), says(1, A), "revokes the key"),
        (sign_statement(says(2, A), A), says(2, A), "expected a sequence above 2, found 2"),
        (sign_statement(says(1, A), A), says(2, A), "is not newer"),
        (sign_statement(says(3, A), A), says(2, A, revoked=(ID["C"],)), f"nothing about {ID['C']}"),
        (sign_statement(says(3, A), A), says(2, A, oldest={"x": TIME}), "allows older bundles again: found x"),
        (
            sign_statement(says(3, A, oldest={"x": "2024-01-31T12:00:00Z"}), A),
            says(2, A, oldest={"x": TIME}),
            "allows older bundles again",
        ),
        (sign_statement(says(1, A), A)[:-2] + b"\n", None, "changed after signing"),
        (sign(canonical_bytes(says(1, A)), A, BUNDLES) + canonical_bytes(says(1, A)), None, "changed after signing"),
        (sign_statement(says(1, A), A)[:70], None, "cut short"),
    ],
)
def test_what_a_station_does_not_take(record: bytes, held: Statement | None, said: str) -> None:
    assert said in refused(record, held)


def test_nothing_is_parsed_before_the_signature_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.runtime.statement.parse_statement", lambda document: pytest.fail("parsed"))
    assert "changed after signing" in refused(sign(b"{}", A, DOMAIN) + b"[" * 100_000)


def test_a_station_that_was_away_walks_from_key_to_key() -> None:
    records = [
        sign_statement(says(1, A, B), A),
        sign_statement(says(3, B, C, revoked=(ID["A"],)), B),
        sign_statement(says(5, C, revoked=(ID["A"], ID["B"])), C),
    ]
    reached = walk(records, None, HAND)
    assert reached == says(5, C, revoked=(ID["A"], ID["B"]))
    assert walk(records, says(3, B, C, revoked=(ID["A"],)), HAND) == reached  # it knows the beginning
    assert walk(records, None, {ID["C"]: C.public_key()}) == reached  # a new station knows the end alone
    with pytest.raises(BundleRefused, match="not trusted here"):
        walk([records[0], records[2]], None, HAND)  # a link is missing
    with pytest.raises(BundleRefused, match="changed after signing"):
        walk([*records[:2], records[2][:-3] + b" }\n"], None, HAND)


def test_a_revoked_key_leads_nowhere_though_it_lies_in_the_store() -> None:
    held = says(2, B, revoked=(ID["A"],))
    thief = [sign_statement(says(7, A, C, revoked=()), A), sign_statement(says(8, C), C)]
    with pytest.raises(BundleRefused, match="not trusted here"):
        walk(thief, held, {**HAND, ID["B"]: B.public_key()})


Edit = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda s: s.update(sequence=0), "the sequence is no count"),
        (lambda s: s.update(sequence=2**53 + 1), "the sequence is no count"),
        (lambda s: s.update(sequence=True), "a whole number"),
        (lambda s: s.update(issued="2025"), "not in UTC"),
        (lambda s: s["oldest"].update(x="\u0662025-01-31T12:00:00Z"), "not in UTC"),
        (lambda s: s["oldest"].update({"": TIME}), "a name is empty"),
        (lambda s: s["revoked"][0].update(since="now"), "not in UTC"),
        (lambda s: s["revoked"][0].update(reason="a\x1b[2Jb"), "unprintable"),
        (lambda s: s["revoked"][0].update(key_id="x"), "16 hex digits"),
        (lambda s: s["trusted"][0].update(name="x" * 201), "too long"),
        (lambda s: s["trusted"][0].update(key_id="0" * 16), "do not belong together"),
        (lambda s: s["trusted"][0].update(public="AB" * 32), "do not belong together"),
        (lambda s: s["trusted"][0].update(public=described(C).public), "do not belong together"),
        (lambda s: s["trusted"].append(s["trusted"][0]), "a key stands twice"),
        (lambda s: s["revoked"].append(s["revoked"][0]), "a key stands twice"),
        (lambda s: s["trusted"].clear(), "no key is trusted any more"),
        (lambda s: s["revoked"][0].update(key_id=ID["B"]), "both trusted and revoked"),
        (lambda s: s["oldest"].update({str(n): TIME for n in range(1001)}), "more than 1000"),
        (lambda s: s.update(extra=1), "has unknown 'extra'"),
        (lambda s: s.pop("oldest"), "lacks 'oldest'"),
        (lambda s: s["oldest"].update(x=1), "statement.oldest['x'] is not as it must be"),
    ],
)
def test_a_statement_that_contradicts_itself_is_refused_though_signed(edit: Edit, said: str) -> None:
    document = json.loads(canonical_bytes(says(1, A, B, revoked=("0" * 16,), oldest={"x": TIME})))
    edit(document)
    data = canonical_bytes(document)
    assert said in refused(sign(data, A, DOMAIN) + data)


def test_another_spelling_and_another_schema_are_refused() -> None:
    document = json.loads(canonical_bytes(says(1, A)))
    with pytest.raises(BundleRefused, match="canonical spelling"):
        parse_statement(json.dumps(document).encode())
    with pytest.raises(EnvironmentLacks, match="found schema 2"):
        parse_statement(canonical_bytes(document | {"schema": 2}))


def test_a_file_holds_its_records_and_nothing_else(tmp_path: Path) -> None:
    first = sign_statement(says(1, A), A)
    # A signature may hold any byte, so also one that ends a line.
    second = next(record for n in range(2, 500) if b"\n" in (record := sign_statement(says(n, A), A))[:72])
    path = tmp_path / "k.trust"
    path.write_bytes(first + second)
    assert read_records(path) == [first, second]
    for data in (b"", first[:-1], first + b"x", first + b"\n" * 5, first + second[:60]):
        path.write_bytes(data)
        with pytest.raises(BundleRefused, match="no whole trust statement"):
            read_records(path)


def test_a_file_is_looked_at_before_it_is_read(tmp_path: Path) -> None:
    huge, link = tmp_path / "huge", tmp_path / "link"
    with huge.open("wb") as stream:
        stream.truncate(1 << 40)
    link.symlink_to(huge)
    for path, said in ((huge, f"at most {MAX_FILE_BYTES} bytes"), (link, "is a link"), (tmp_path, "not a plain file")):
        with pytest.raises(BundleRefused, match=said):
            read_records(path)
    with pytest.raises(UsageError, match="No such file"):
        read_records(tmp_path / "none")


def test_a_time_is_compared_as_a_time() -> None:
    older, newer = says(1, A, oldest={"x": TIME}), says(2, A, oldest={"x": "2025-02-01T00:00:00Z", "y": TIME})
    assert take(sign_statement(newer, A), older, HAND) == newer
    assert take(sign_statement(replace(newer, oldest=older.oldest), A), older, HAND).oldest == older.oldest
