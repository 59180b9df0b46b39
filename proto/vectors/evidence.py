"""Checks an evidence file with code that is not ours: DSSE by securesystemslib, the tree from the text of RFC 9162.

usage: evidence.py FILE PIN        (PIN: hex digest of a trust bundle known from elsewhere)
"""

import base64
import hashlib
import json
import sys
import uuid

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from securesystemslib.dsse import Envelope

import rfc9162
from check import key_of
from schema import canonical, message


def counted(entries: list, signers: set, at: int, realm: str | None = None) -> bool:
    """Whether some bundle let one of these keys sign at a time, for a realm."""
    return any(
        signing_key(entry.certificate).keyid in signers
        and entry.sign_from_ms <= at < entry.accept_until_ms
        and (realm is None or realm in entry.realms)
        for entry in entries
    )


def verified(dsse: dict, purpose: str, name: str, keys: list, threshold: int = 1):
    """The payload of a DSSE envelope that so many of these keys signed for this purpose, its digest, and whose they are."""
    envelope = Envelope.from_dict(dsse | {"signatures": dsse["signatures"]})
    assert envelope.payload_type == f"application/vnd.writ.{purpose}.v1+protobuf", envelope.payload_type
    signers = set(envelope.verify(keys, threshold))
    payload = message(name).FromString(envelope.payload)
    assert canonical(payload) == envelope.payload, f"a {purpose} is not written as protocol.md 2.5 asks"
    return payload, hashlib.sha256(envelope.pae()).digest(), signers


def check_rules(bundle) -> None:
    """protocol.md 5.2, without what only a bundle's makers need."""
    roles = [bundle.authority] + [rule.operators for rule in bundle.class_rules]
    for role in roles:
        assert 1 <= role.threshold <= len(role.keys) == len(set(role.keys)), "a role of a bundle is void"
    keys = [signing_key(entry.certificate).keyid for entry in bundle.signing]
    assert len(set(keys)) == len(keys), "a key signs twice in a bundle"
    for entry in bundle.signing:
        ends = x509.load_der_x509_certificate(entry.certificate).not_valid_after_utc
        assert entry.sign_from_ms < entry.accept_until_ms <= ends.timestamp() * 1000, "a bundle has void dates"
        realms = list(entry.realms)
        assert realms and realms == sorted(set(realms), key=str.encode), "a bundle has void realms"
    assert bundle.version >= 1 and (bundle.version == 1) == (not bundle.prev), "a bundle has void predecessors"


def chain_from(bundles: list, pin: bytes) -> list:
    """Every bundle from the pinned one on, each signed by the thresholds of the one before and its own."""
    chain = []
    for dsse in bundles:
        payload = base64.b64decode(dsse["payload"])
        offered = message("TrustBundle").FromString(payload)
        digest = hashlib.sha256(Envelope(payload, dsse["payloadType"], {}).pae()).digest()
        if not chain and digest != pin:
            continue
        for bundle in [b for b, _ in chain[-1:]] + [offered]:
            keys = [key_of(spki) for spki in bundle.authority.keys]
            verified(dsse, "trust-bundle", "TrustBundle", keys, bundle.authority.threshold)
        check_rules(offered)
        if chain:
            assert chain[-1][1] in offered.prev and offered.version > chain[-1][0].version
            assert offered.fleet_id == chain[-1][0].fleet_id, "a bundle is another fleet's"
        chain.append((offered, digest))
    assert chain, "no bundle has the pinned digest"
    return [bundle for bundle, _ in chain]


def signing_key(certificate: bytes):
    public = x509.load_der_x509_certificate(certificate).public_key()
    return key_of(public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def main() -> None:
    evidence = json.loads(open(sys.argv[1], "rb").read())
    assert evidence["format"] == "writ-evidence/1"
    chain = chain_from(evidence["bundles"], bytes.fromhex(sys.argv[2]))
    entries = [entry for bundle in chain for entry in bundle.signing]
    keys = list({key.keyid: key for key in (signing_key(entry.certificate) for entry in entries)}.values())
    command, digest, signers = verified(evidence["command"], "command", "Command", keys)
    assert counted(entries, signers, command.issued_at_ms), "no bundle let its key sign then"
    assert command.fleet_id == chain[-1].fleet_id
    agents = [target["agent_id"] for target in evidence["targets"]]
    assert len(set(map(uuid.UUID, agents))) == len(agents) <= command.audience.count, "an agent stands in it twice"
    released = command.audience.count
    if command.HasField("rollout"):
        released = 0
        if "release" in evidence:
            release, _, releasers = verified(evidence["release"], "release", "Release", keys)
            assert counted(entries, releasers, release.released_at_ms), "no bundle let the release's key sign then"
            assert release.fleet_id == command.fleet_id and release.command_digest == digest
            released = release.released
    receipts = 0
    for target in evidence["targets"]:
        agent = uuid.UUID(target["agent_id"]).bytes
        path = [bytes.fromhex(h) for h in target["proof"]["path"]]
        found = rfc9162.verify(target["proof"]["index"], command.audience.count, agent, path, command.audience.root)
        assert found == "good", found
        record, _, recorders = verified(target["identity_record"], "identity-record", "IdentityRecord", keys)
        assert record.agent_id == agent and record.fleet_id == command.fleet_id
        assert counted(entries, recorders, record.recorded_at_ms), "no bundle let the record's key sign then"
        assert counted(entries, signers, command.issued_at_ms, record.realm), "the key is not for the agent's realm"
        if target["receipt"] is None:
            continue
        receipt, _, _ = verified(target["receipt"], "receipt", "Receipt", [key_of(record.public_key)])
        assert receipt.agent_id == agent and receipt.command_digest == digest
        assert receipt.fleet_id == command.fleet_id and receipt.command_id == command.command_id
        assert target["proof"]["index"] < released, "an agent answered that no release reaches"
        receipts += 1
    for keyid in sorted({signing_key(entry.certificate).keyid for entry in entries if entry.revoked}):
        print(f"revoked, so its signatures are not time-proven: {keyid}")
    print(f"holds: {len(evidence['targets'])} targets, {receipts} receipts")


if __name__ == "__main__":
    main()
