"""Makes vectors with code that is not ours: securesystemslib signs, rfc9162.py builds the tree.

usage: make.py FOLDER
"""

import base64
import hashlib
import json
import pathlib
import sys
import uuid

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

import rfc9162
from schema import HERE, message

SIGNING_SEED = bytes([2] * 32)
SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")


def signer() -> CryptoSigner:
    private = Ed25519PrivateKey.from_private_bytes(SIGNING_SEED)
    raw = private.public_key().public_bytes_raw()
    keyid = hashlib.sha256(SPKI_PREFIX + raw).hexdigest()
    return CryptoSigner(private, SSlibKey(keyid, "ed25519", "ed25519", {"public": raw.hex()}))


def vector(template: dict, count: int, index: int) -> dict:
    ids = [bytes([n] * 16) for n in range(1, count + 1)]
    case = dict(template["delivery"])
    command = message("Command")()
    now = case["now_ms"]
    command.command_id = bytes([0xD0 + count] * 16)
    command.fleet_id = bytes([0xF1] * 16)
    command.audience.root = rfc9162.tree_hash(ids)
    command.audience.count = count
    command.issued_at_ms = now
    command.not_before_ms = now
    command.expires_at_ms = now + 3_600_000
    command.requested_by = "python"
    command.ping.SetInParent()

    envelope = Envelope(command.SerializeToString(deterministic=True), "application/vnd.writ.command.v1+protobuf", {})
    signature = envelope.sign(signer())
    ours = message("Envelope")(payload=envelope.payload, payload_type=envelope.payload_type)
    ours.signatures.add(keyid=signature.keyid, sig=bytes.fromhex(signature.signature))
    delivery = message("Delivery")(envelope=ours.SerializeToString(deterministic=True))
    delivery.proof.index = index
    delivery.proof.path.extend(rfc9162.path(index, ids))

    case["agent_id"] = str(uuid.UUID(bytes=ids[index]))
    case["delivery"] = base64.b64encode(delivery.SerializeToString(deterministic=True)).decode()
    return {
        "says": f"signed by python securesystemslib: agent {index + 1} of {count}",
        "clause": "3, 4.7",
        "expect": "accept",
        "delivery": case,
    }


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    # The bundle, with its certificate, is taken from a vector of ours.
    template = json.loads((HERE / "accept/ping.json").read_text())
    for count in (1, 2, 3, 5, 7, 8):
        for index in sorted({0, count // 2, count - 1}):
            made = vector(template, count, index)
            text = json.dumps(made, indent=2) + "\n"
            (folder / f"audience-{count}-agent-{index}.json").write_text(text)


if __name__ == "__main__":
    main()
