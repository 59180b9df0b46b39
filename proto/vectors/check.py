"""Judges every vector with code that is not ours and compares with what the vector says.

usage: check.py        all of them        check.py -        one, on standard input, as run.py hands it over

DSSE, Ed25519 and P-256 by python-securesystemslib, X.509 by cryptography, protobuf by Google's runtime, the tree from the
text of RFC 9162. Only the order of the checks is written again here, from docs/protocol.md.
"""

import base64
import hashlib
import json
import re
import sys
import uuid

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from google.protobuf.message import DecodeError
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Signature, SSlibKey

import rfc9162
from schema import HERE, canonical, message

DAY_MS = 86_400_000
SKEW_MS = 60_000
ED25519_PREFIX = bytes.fromhex("302a300506032b6570032100")
P256_PREFIX = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")


class Refused(Exception):
    pass


def key_of(spki: bytes, otherwise: str = "bundle_invalid") -> SSlibKey:
    keyid = hashlib.sha256(spki).hexdigest()
    if spki.startswith(ED25519_PREFIX) and len(spki) == 44:
        return SSlibKey(keyid, "ed25519", "ed25519", {"public": spki[12:].hex()})
    if spki.startswith(P256_PREFIX + b"\x04") and len(spki) == 91:
        public = serialization.load_der_public_key(spki)
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return SSlibKey(keyid, "ecdsa", "ecdsa-sha2-nistp256", {"public": pem.decode()})
    raise Refused(otherwise)


def is_good(key: SSlibKey, signature, signed: bytes) -> bool:
    try:
        key.verify_signature(Signature(key.keyid, signature.sig.hex()), signed)
        return True
    except (UnverifiedSignatureError, VerificationError, ValueError):
        return False


def verify(data: bytes, most: int, purpose: str, name: str, keys: list, threshold: int = 1):
    """protocol.md 4.1 to 4.5. `keys` are (key, None or the code that says why it does not count)."""
    if len(data) > most:
        raise Refused("oversized")
    envelope = message("Envelope")()
    try:
        envelope.ParseFromString(data)
    except DecodeError:
        raise Refused("malformed_envelope") from None
    if canonical(envelope) != data or not 1 <= len(envelope.signatures) <= 16:
        raise Refused("malformed_envelope")
    if any(len(signature.keyid.encode()) > 64 for signature in envelope.signatures):
        raise Refused("malformed_envelope")
    signed = Envelope(envelope.payload, envelope.payload_type, {}).pae()
    good, rejected, known = set(), None, False
    for signature in envelope.signatures:
        for key, standing in keys:
            if signature.keyid not in ("", key.keyid) or key.keyid in good:
                continue
            known = True
            if is_good(key, signature, signed):
                if standing is None:
                    good.add(key.keyid)
                else:
                    rejected = standing
    if len(good) < threshold:
        if rejected:
            raise Refused(rejected)
        if good:
            raise Refused("threshold_not_met")
        if not keys:
            raise Refused("no_trust")
        raise Refused("bad_signature" if known else "unknown_key")
    if envelope.payload_type != f"application/vnd.writ.{purpose}.v1+protobuf":
        raise Refused("wrong_purpose")
    payload = message(name)()
    try:
        payload.ParseFromString(envelope.payload)
    except DecodeError:
        raise Refused("malformed_payload") from None
    if canonical(payload) != envelope.payload:
        raise Refused("non_canonical")
    # The library's own verification must agree with the count above.
    ours = {s.keyid: Signature(s.keyid, s.sig.hex()) for s in envelope.signatures if s.keyid in good}
    if ours:
        accepted = Envelope(envelope.payload, envelope.payload_type, ours).verify([k for k, _ in keys], threshold)
        assert set(accepted) >= good, "securesystemslib accepts fewer keys"
    return payload, hashlib.sha256(signed).digest(), good


def signing_keys(bundle, realm: str, now: int):
    keys = []
    for entry in bundle.signing:
        certificate = x509.load_der_x509_certificate(entry.certificate)
        spki = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        if entry.revoked:
            standing = "certificate_revoked"
        elif realm not in entry.realms:
            standing = "wrong_realm"
        elif now < entry.sign_from_ms:
            standing = "certificate_not_yet_valid"
        elif now >= entry.accept_until_ms:
            standing = "certificate_expired"
        else:
            standing = None
        keys.append((key_of(spki), standing))
    return keys


def trust_bundle(data: bytes, predecessor=None):
    """protocol.md 5.2 and 5.3, for the bundle itself."""
    envelope = message("Envelope").FromString(data)
    offered = message("TrustBundle").FromString(envelope.payload)
    if predecessor is not None:
        authority = [(key_of(spki), None) for spki in predecessor.authority.keys]
        verify(data, 65536, "trust-bundle", "TrustBundle", authority, predecessor.authority.threshold)
        # The predecessor's authority vouches for the bytes, so a key that is none is a fault of the payload.
        for spki in offered.authority.keys:
            key_of(spki, "malformed_payload")
    own = [(key_of(spki), None) for spki in offered.authority.keys]
    if offered.authority.threshold == 0 or len({k.keyid for k, _ in own}) != len(own):
        raise Refused("bundle_invalid")
    bundle, digest, _ = verify(data, 65536, "trust-bundle", "TrustBundle", own, offered.authority.threshold)
    if len({entry.certificate for entry in bundle.signing}) != len(bundle.signing):
        raise Refused("bundle_invalid")
    for entry in bundle.signing:
        certificate = x509.load_der_x509_certificate(entry.certificate)
        not_after = int(certificate.not_valid_after_utc.timestamp() * 1000)
        if not entry.sign_from_ms < entry.accept_until_ms <= not_after:
            raise Refused("bundle_invalid")
    if not 1 <= len(bundle.endpoints) <= 8:
        raise Refused("bundle_invalid")
    return bundle, digest


# What agents do of themselves, and how harmful it is. A scan that only reports is harmless.
OWN = {"upgrade": "destructive", "scan": "change", "stop_scan": "change", "stop_command": "change", "restore_quarantined": "change", "delete_quarantined": "destructive"}
# What agents have a use for.
COMPONENTS = {"file-reputation-filter", "suspicious-objects", "web-reputation-filter"}


def check_component(update) -> None:
    name = re.fullmatch("[a-z0-9][a-z0-9-]{0,63}", update.component)
    version = re.fullmatch("[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", update.version)
    if not name or not version or len(update.sha256) != 32 or not 1 <= update.size_bytes <= 256 << 20:
        raise Refused("malformed_payload")


def check_upgrade(upgrade) -> None:
    names = [package.component for package in upgrade.packages]
    for package in upgrade.packages:
        check_component(package)
    is_package = all(name.startswith("agent-") and name != "agent-" for name in names)
    is_one_version = len({package.version for package in upgrade.packages}) == 1
    is_ascending = all(a < b for a, b in zip(names, names[1:]))
    if not 1 <= len(names) <= 16 or not (is_package and is_one_version and is_ascending):
        raise Refused("malformed_payload")
    if not 10 <= upgrade.greet_within_seconds <= 1800:
        raise Refused("malformed_payload")


def check_scan(scan) -> None:
    def is_path(text: str) -> bool:
        parts = text[1:].split("/") if text != "/" else []
        is_plain = not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text) and len(text.encode()) <= 4096
        return text.startswith("/") and is_plain and not any(part in ("", ".", "..") for part in parts)

    paths = list(scan.roots) + list(scan.exclude)
    if not 1 <= len(scan.roots) <= 64 or len(scan.exclude) > 64 or not all(map(is_path, paths)):
        raise Refused("malformed_payload")
    if scan.remedy not in (1, 2, 3) or scan.max_file_bytes == 0 or not 1 <= scan.max_seconds <= 86_400:
        raise Refused("malformed_payload")
    if scan.remedy == 1 and (scan.strict or scan.packaged or scan.max_remedied):
        raise Refused("malformed_payload")
    if scan.remedy != 1 and not 1 <= scan.max_remedied <= 10_000:
        raise Refused("malformed_payload")


def check_command(command) -> None:
    """The field rules of protocol.md 4.5."""
    if len(command.command_id) != 16 or len(command.fleet_id) != 16 or len(command.audience.root) != 32:
        raise Refused("malformed_payload")
    window = command.issued_at_ms, command.not_before_ms, command.expires_at_ms
    if 0 in window or not window[0] <= window[1] < window[2] or window[2] - window[0] > 30 * DAY_MS:
        raise Refused("malformed_payload")
    by = command.requested_by
    if not 1 <= len(by.encode()) <= 128 or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in by):
        raise Refused("malformed_payload")
    if command.HasField("rollout") and command.rollout.seed == 0:
        raise Refused("malformed_payload")
    if command.WhichOneof("action") is None:
        raise Refused("malformed_payload")
    if command.WhichOneof("action") == "update_component":
        check_component(command.update_component)
    if command.WhichOneof("action") == "upgrade":
        check_upgrade(command.upgrade)
    if command.WhichOneof("action") == "scan":
        check_scan(command.scan)
    if command.WhichOneof("action") in ("restore_quarantined", "delete_quarantined"):
        if len(getattr(command, command.WhichOneof("action")).sha256) != 32:
            raise Refused("malformed_payload")
    if command.WhichOneof("action") == "stop_command" and len(command.stop_command.command_id) != 16:
        raise Refused("malformed_payload")
    names = [p.name for p in command.run.parameters]
    if any(a >= b for a, b in zip(names, names[1:])):
        raise Refused("malformed_payload")


def check_audience(command, delivery, agent: bytes) -> None:
    path = list(delivery.proof.path)
    if not delivery.HasField("proof") or any(len(h) != 32 for h in path):
        raise Refused("broken_proof")
    if not 1 <= command.audience.count <= 1 << 20:
        raise Refused("broken_proof")
    found = rfc9162.verify(delivery.proof.index, command.audience.count, agent, path, command.audience.root)
    if found != "good":
        raise Refused({"broken": "broken_proof", "wrong": "wrong_agent"}[found])


def check_release(command, digest: bytes, delivery, keys) -> None:
    """protocol.md 3.6 and the end of 4.7."""
    if not delivery.release:
        raise Refused("not_released")
    release, _, _ = verify(delivery.release, 32768, "release", "Release", keys)
    if len(release.fleet_id) != 16 or len(release.command_digest) != 32 or release.released_at_ms == 0:
        raise Refused("malformed_payload")
    if not 1 <= release.released <= 1 << 20:
        raise Refused("malformed_payload")
    if release.fleet_id != command.fleet_id:
        raise Refused("wrong_fleet")
    if release.command_digest != digest or delivery.proof.index >= release.released:
        raise Refused("not_released")


def check_approvals(bundle, action_class: str, command, digest: bytes, approvals) -> None:
    number = {"read": 1, "change": 2, "destructive": 3}[action_class]
    for rule in bundle.class_rules:
        if getattr(rule, "class") != number:
            continue
        keys = [(key_of(spki), None) for spki in rule.operators.keys]
        approved = set()
        for data in approvals:
            try:
                approval, _, signers = verify(data, 32768, "approval", "Approval", keys)
            except Refused:
                continue
            if approval.command_digest == digest and approval.fleet_id == command.fleet_id:
                approved |= signers
        if len(approved) < rule.operators.threshold:
            raise Refused("threshold_not_met")


def check_action(command) -> None:
    """The one action the vectors allow: echo, with a word of small letters."""
    kind = command.WhichOneof("action")
    # No host of the vectors lets its agent be replaced.
    if kind == "ping" or kind in OWN and kind != "upgrade":
        return
    if kind == "update_component" and command.update_component.component in COMPONENTS:
        return
    if kind != "run" or command.run.name != "echo":
        raise Refused("action_not_allowed")
    given = {p.name: p.value for p in command.run.parameters}
    if set(given) != {"word"} or not re.fullmatch("[a-z]+", given["word"]):
        raise Refused("invalid_parameters")


def delivery(case: dict) -> str:
    agent, now, journal = uuid.UUID(case["agent_id"]).bytes, case["now_ms"], case["journal"]
    bundle, _ = trust_bundle(base64.b64decode(case["bundle"]))
    delivered = message("Delivery").FromString(base64.b64decode(case["delivery"]))
    # The proof's shape is judged with the frame, before the envelope is looked at.
    if not delivered.HasField("proof") or any(len(h) != 32 for h in delivered.proof.path):
        raise Refused("broken_proof")
    keys = signing_keys(bundle, case["realm"], now)
    command, digest, _ = verify(delivered.envelope, 65536, "command", "Command", keys)
    check_command(command)
    if command.fleet_id != bundle.fleet_id:
        raise Refused("wrong_fleet")
    check_audience(command, delivered, agent)
    if command.HasField("rollout"):
        check_release(command, digest, delivered, keys)
    for known, known_digest in journal["known"]:
        if uuid.UUID(known).bytes == command.command_id:
            if bytes.fromhex(known_digest) != digest:
                raise Refused("id_reused")
            return "redelivery"
    if now < command.not_before_ms - SKEW_MS:
        raise Refused("not_yet_valid")
    if now >= command.expires_at_ms:
        raise Refused("expired")
    if command.expires_at_ms <= journal["forgotten_until_ms"] or command.issued_at_ms < journal["birth_ms"]:
        raise Refused("too_old")
    kind = command.WhichOneof("action")
    listed = kind == "run" and command.run.name == "echo"
    changes = listed or kind == "update_component"
    reports = kind == "ping" or kind == "scan" and command.scan.remedy == 1
    action_class = "read" if reports else OWN.get(kind, "change" if changes else "destructive")
    check_approvals(bundle, action_class, command, digest, delivered.approvals)
    check_action(command)
    if len(journal["known"]) >= journal["max_entries"]:
        raise Refused("journal_full")
    return "accept"


def chain(case: dict) -> str:
    held, held_digest = trust_bundle(base64.b64decode(case["held"]))
    offered, _ = trust_bundle(base64.b64decode(case["offered"]), predecessor=held)
    if offered.fleet_id != held.fleet_id:
        raise Refused("wrong_fleet")
    if offered.version <= held.version:
        raise Refused("bundle_not_newer")
    if held_digest not in offered.prev:
        raise Refused("bundle_wrong_prev")
    return "accept"


def hello(case: dict) -> str:
    bundle, _ = trust_bundle(base64.b64decode(case["bundle"]))
    data = base64.b64decode(case["hello"])
    # The greeting brings its own time; the signer's dates are judged by it.
    envelope = message("Envelope").FromString(data)
    said = message("ServerHello").FromString(envelope.payload).time_ms
    keys = signing_keys(bundle, case["realm"], said)
    greeting, _, _ = verify(data, 32768, "server-hello", "ServerHello", keys)
    if greeting.fleet_id != bundle.fleet_id:
        raise Refused("wrong_fleet")
    if greeting.agent_nonce.hex() != case["nonce"]:
        raise Refused("hello_mismatch")
    if bytes.fromhex(case["tls_leaf_spki_digest"]) not in greeting.tls_leaf_spki_digests:
        raise Refused("hello_mismatch")
    if case["round_trip_ms"] > SKEW_MS:
        raise Refused("round_trip_too_long")
    if said < case["floor_ms"]:
        raise Refused("time_went_back")
    return "accept"


def reputation(case: dict) -> str:
    bundle, _ = trust_bundle(base64.b64decode(case["bundle"]))
    keys = signing_keys(bundle, case["realm"], case["now_ms"])
    said, _, _ = verify(base64.b64decode(case["reputation"]), 32768, "reputation", "Reputation", keys)
    listed = list(said.listed)
    if len(said.fleet_id) != 16 or len(said.agent_id) != 16 or len(said.question) != 32 or len(said.list) != 32:
        raise Refused("malformed_payload")
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", said.version) or said.answered_at_ms == 0:
        raise Refused("malformed_payload")
    if len(listed) > 512 or listed != sorted(set(listed)) or len({len(value) for value in listed} | {0}) > 2:
        raise Refused("malformed_payload")
    if any(len(value) not in (16, 20, 32) for value in listed) or not 1 <= said.counts_for_s <= 86_400:
        raise Refused("malformed_payload")
    if said.fleet_id != bundle.fleet_id:
        raise Refused("wrong_fleet")
    if said.agent_id != uuid.UUID(case["agent_id"]).bytes:
        raise Refused("wrong_agent")
    if said.question != hashlib.sha256(base64.b64decode(case["question"])).digest():
        raise Refused("wrong_question")
    return "accept"


KINDS = {"delivery": delivery, "chain": chain, "hello": hello, "reputation": reputation}


def judge(vector: dict) -> str:
    kind = next(kind for kind in KINDS if kind in vector)
    try:
        return KINDS[kind](vector[kind])
    except Refused as refused:
        return str(refused)


def main() -> None:
    if sys.argv[1:] == ["-"]:
        print(judge(json.load(sys.stdin)))
        return
    count, wrong = 0, []
    for path in sorted(HERE.rglob("*.json")):
        vector = json.loads(path.read_text())
        judged = judge(vector)
        count += 1
        if judged != vector["expect"]:
            wrong.append(f"{path.relative_to(HERE)}: {judged}, the vector says {vector['expect']}")
    print("\n".join(wrong + [f"{count} vectors, {len(wrong)} judged differently"]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
