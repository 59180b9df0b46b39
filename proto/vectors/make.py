"""Makes vectors with code that is not ours: securesystemslib signs, rfc9162.py builds the tree.

usage: make.py FOLDER
"""

import base64
import datetime
import hashlib
import json
import pathlib
import sys
import uuid

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

import rfc9162
from schema import HERE, message

AUTHORITY = Ed25519PrivateKey.from_private_bytes(bytes([1] * 32))
SIGNING = Ed25519PrivateKey.from_private_bytes(bytes([2] * 32))
AUTHORITY_P256 = ec.derive_private_key(int.from_bytes(bytes([1] * 32)), ec.SECP256R1())
SIGNING_P256 = ec.derive_private_key(int.from_bytes(bytes([2] * 32)), ec.SECP256R1())

COMPRESSED_P256_PREFIX = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")


def spki(private) -> bytes:
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def keyid(private) -> str:
    return hashlib.sha256(spki(private)).hexdigest()


def sign(private, signed: bytes) -> bytes:
    if isinstance(private, ec.EllipticCurvePrivateKey):
        # RFC 6979, so that the file is the same whenever it is made.
        return private.sign(signed, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    public = {"public": private.public_key().public_bytes_raw().hex()}
    signer = CryptoSigner(private, SSlibKey(keyid(private), "ed25519", "ed25519", public))
    return bytes.fromhex(signer.sign(signed).signature)


def sealed(purpose: str, payload, private, reencode=lambda sig: sig):
    envelope = Envelope(payload.SerializeToString(deterministic=True), f"application/vnd.writ.{purpose}.v1+protobuf", {})
    ours = message("Envelope")(payload=envelope.payload, payload_type=envelope.payload_type)
    ours.signatures.add(keyid=keyid(private), sig=reencode(sign(private, envelope.pae())))
    return ours


def delivery(case: dict, private, ids: list, index: int, number: int, **how) -> dict:
    command = message("Command")()
    now, count = case["now_ms"], len(ids)
    command.command_id = bytes([number] * 16)
    command.fleet_id = bytes([0xF1] * 16)
    command.audience.root = rfc9162.tree_hash(ids)
    command.audience.count = count
    command.issued_at_ms = now
    command.not_before_ms = now
    command.expires_at_ms = now + 3_600_000
    command.requested_by = "python"
    command.ping.SetInParent()

    ours = sealed("command", command, private, **how)
    made = message("Delivery")(envelope=ours.SerializeToString(deterministic=True))
    made.proof.index = index
    made.proof.path.extend(rfc9162.path(index, ids))
    text = base64.b64encode(made.SerializeToString(deterministic=True)).decode()
    return case | {"agent_id": str(uuid.UUID(bytes=ids[index])), "delivery": text}


def agents(count: int) -> list:
    return [bytes([n] * 16) for n in range(1, count + 1)]


def audiences(template: dict):
    for count in (1, 2, 3, 5, 7, 8):
        for index in sorted({0, count // 2, count - 1}):
            case = delivery(template["delivery"], SIGNING, agents(count), index, 0xD0 + count)
            says = f"signed by python securesystemslib: agent {index + 1} of {count}"
            yield f"audience-{count}-agent-{index}", "accept", "3, 4.7", says, {"delivery": case}


def bundle_of(text: str):
    envelope = message("Envelope").FromString(base64.b64decode(text))
    return message("TrustBundle").FromString(envelope.payload)


def text_of(bundle, *signers) -> str:
    envelope = sealed("trust-bundle", bundle, signers[0])
    for more in signers[1:]:
        envelope.signatures.extend(sealed("trust-bundle", bundle, more).signatures)
    return base64.b64encode(envelope.SerializeToString(deterministic=True)).decode()


def certificate(private, now_ms: int) -> bytes:
    now = datetime.datetime.fromtimestamp(now_ms / 1000, datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vectors")])
    builder = x509.CertificateBuilder(name, name, private.public_key(), 1, now, now + datetime.timedelta(days=1096))
    return builder.sign(private, hashes.SHA256(), ecdsa_deterministic=True).public_bytes(Encoding.DER)


def raw_signature(sig: bytes) -> bytes:
    r, s = decode_dss_signature(sig)
    return r.to_bytes(32) + s.to_bytes(32)


def p256(template: dict):
    case = template["delivery"]
    bundle = bundle_of(case["bundle"])
    bundle.signing[0].certificate = certificate(SIGNING_P256, bundle.signing[0].sign_from_ms)
    case = case | {"bundle": text_of(bundle, AUTHORITY)}

    def vector(name: str, expect: str, clause: str, says: str, private=SIGNING_P256, **how):
        made = delivery(case, private, agents(3), 1, 0xE0, **how)
        return name, expect, clause, says, {"delivery": made}

    yield vector("p256", "accept", "2.3", "a command signed with ECDSA on P-256")
    yield vector("p256-raw-signature", "bad_signature", "2.3", "the right signature as r and s side by side, not DER",
                 reencode=raw_signature)
    yield vector("p256-altered-signature", "bad_signature", "2.3", "one bit of s is another",
                 reencode=lambda sig: sig[:-1] + bytes([sig[-1] ^ 1]))
    yield vector("p256-unlisted-key", "unknown_key", "4.3", "a good signature by a P-256 key nobody listed",
                 private=AUTHORITY_P256)
    held = bundle_of(case["bundle"])
    held_text = case["bundle"]
    held_digest = hashlib.sha256(pae(held_text)).digest()
    offered = message("TrustBundle").FromString(held.SerializeToString(deterministic=True))
    offered.version = held.version + 1
    del offered.prev[:]
    offered.prev.append(held_digest)
    offered.authority.keys[0] = spki(AUTHORITY_P256)
    case_of = lambda bundle, *signers: {"chain": {"held": held_text, "offered": text_of(bundle, *signers)}}
    yield ("bundle-to-p256", "accept", "5.3", "the authority moves from Ed25519 to P-256, both sign",
           case_of(offered, AUTHORITY, AUTHORITY_P256))
    compressed = message("TrustBundle").FromString(offered.SerializeToString(deterministic=True))
    point = AUTHORITY_P256.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    compressed.authority.keys[0] = COMPRESSED_P256_PREFIX + point
    yield ("bundle-compressed-p256", "malformed_payload", "2.4", "an authority's P-256 key as a compressed point",
           case_of(compressed, AUTHORITY, AUTHORITY_P256))


def pae(text: str) -> bytes:
    envelope = message("Envelope").FromString(base64.b64decode(text))
    return Envelope(envelope.payload, envelope.payload_type, {}).pae()


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    # The bundle, with its certificate, is taken from a vector of ours.
    template = json.loads((HERE / "accept/ping.json").read_text())
    for name, expect, clause, says, case in [*audiences(template), *p256(template)]:
        made = {"says": says, "clause": clause, "expect": expect} | case
        (folder / f"{name}.json").write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
