"""Repositories of The Update Framework made by python-tuf, which is not ours: honest ones, and lying ones.

    repositories.py make FOLDER               a repository with one component, version 1; the root's threshold is 2 of 3
    repositories.py offer FOLDER VERSION FILE another version of its component
    repositories.py rotate FOLDER             a new root: every key but one of the root's is replaced
    repositories.py attack FOLDER NAME        what an enemy does who holds the web server, or some keys
    repositories.py update FOLDER URL ROOT NAME  the reference client: updates from URL, prints the bytes of a target

Keys and state lie beside FOLDER, in FOLDER.keys.
"""

import hashlib
import json
import shutil
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    MetaFile,
    Metadata,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer
from tuf.ngclient import Updater, UpdaterConfig

COMPONENT = "tool"
# So many keys has a role, and so many of them must sign.
KEYS = {"root": (3, 2), "targets": (2, 2), "snapshot": (1, 1), "timestamp": (1, 1)}


def later(days=30):
    return datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=days)


class Repository:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.keys = Path(f"{folder}.keys")

    # keys

    def new_key(self, name):
        key = Ed25519PrivateKey.generate()
        self.keys.mkdir(exist_ok=True)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.keys / f"{name}.pem").write_bytes(pem)

    def signer(self, name):
        return CryptoSigner(load_pem_private_key((self.keys / f"{name}.pem").read_bytes(), None))

    def signers(self, role):
        return [self.signer(f"{role}{number}") for number in range(KEYS[role][0])]

    # metadata

    def newest(self, role):
        if role == "timestamp":
            return Metadata.from_file(str(self.folder / "metadata/timestamp.json"))
        return Metadata.from_file(str(self.newest_file(role)))

    def newest_file(self, role):
        found = (self.folder / "metadata").glob(f"*.{role}.json")
        return max(found, key=lambda path: int(path.name.split(".")[0]))

    def write(self, metadata, signers, name=None):
        metadata.signatures.clear()
        for signer in signers:
            metadata.sign(signer, append=True)
        role = metadata.signed.type
        version = metadata.signed.version
        name = name or ("timestamp.json" if role == "timestamp" else f"{version}.{role}.json")
        metadata.to_file(str(self.folder / "metadata" / name), JSONSerializer(compact=False))

    def make(self):
        (self.folder / "metadata").mkdir(parents=True)
        (self.folder / "targets").mkdir()
        root = Root(expires=later(365))
        for role, (count, threshold) in KEYS.items():
            for number in range(count):
                self.new_key(f"{role}{number}")
                root.add_key(self.signer(f"{role}{number}").public_key, role)
            root.roles[role].threshold = threshold
        self.write(Metadata(root), self.signers("root")[:2])
        targets = Metadata(Targets(version=1, expires=later()))
        snapshot = Metadata(Snapshot(version=1, expires=later()))
        timestamp = Metadata(Timestamp(version=1, expires=later()))
        self.publish(targets, snapshot, timestamp, {COMPONENT: ("1", b"one")})

    def publish(self, targets, snapshot, timestamp, files, signers=None):
        for name, (version, content) in files.items():
            digest = hashlib.sha256(content).hexdigest()
            described = TargetFile(len(content), {"sha256": digest}, name, {"custom": {"version": version}})
            targets.signed.targets[name] = described
            if "/" not in name:
                (self.folder / "targets" / f"{digest}.{name}").write_bytes(content)
        targets.signed.version += 1
        self.write(targets, signers or self.signers("targets"))
        snapshot.signed.meta["targets.json"] = MetaFile(targets.signed.version)
        snapshot.signed.version += 1
        self.write(snapshot, self.signers("snapshot"))
        timestamp.signed.snapshot_meta = MetaFile(snapshot.signed.version)
        timestamp.signed.version += 1
        self.write(timestamp, self.signers("timestamp"))

    def all_newest(self):
        return self.newest("targets"), self.newest("snapshot"), self.newest("timestamp")

    def offer(self, version, content):
        self.publish(*self.all_newest(), {COMPONENT: (version, content)})

    def rotate(self):
        root = self.newest("root")
        old = self.signers("root")[:2]
        for role, (count, threshold) in KEYS.items():
            for number in range(count):
                name = f"{role}{number}"
                if name == "root0":
                    continue
                root.signed.revoke_key(self.signer(name).public_key.keyid, role)
                shutil.copy(self.keys / f"{name}.pem", self.keys / f"old-{name}.pem")
                self.new_key(name)
                root.signed.add_key(self.signer(name).public_key, role)
            root.signed.roles[role].threshold = threshold
        root.signed.version += 1
        self.write(root, old + self.signers("root")[1:])
        self.publish(*self.all_newest(), {})

    # attacks: each begins with a repository that offers version 2, which the victim has not seen

    def attack(self, name):
        getattr(self, "attack_" + name.replace("-", "_"))()

    def target_file(self):
        described = self.newest("targets").signed.targets[COMPONENT]
        return self.folder / "targets" / f"{described.hashes['sha256']}.{COMPONENT}"

    def attack_longer_file(self):
        with open(self.target_file(), "ab") as file:
            file.write(b" and more")

    def attack_other_file(self):
        self.target_file().write_bytes(b"TWO")

    def attack_shorter_file(self):
        self.target_file().write_bytes(b"tw")

    def attack_no_file(self):
        self.target_file().unlink()

    def attack_freeze(self):
        """Nobody signs the timestamp any more: an enemy keeps serving the last one."""
        timestamp = self.newest("timestamp")
        timestamp.signed.expires = later(-1)
        self.write(timestamp, self.signers("timestamp"))

    def attack_expired_snapshot(self):
        targets, snapshot, timestamp = self.all_newest()
        snapshot.signed.expires = later(-1)
        self.publish(targets, snapshot, timestamp, {})

    def attack_expired_targets(self):
        targets, snapshot, timestamp = self.all_newest()
        targets.signed.expires = later(-1)
        self.publish(targets, snapshot, timestamp, {})

    def attack_expired_root(self):
        root = self.newest("root")
        root.signed.expires = later(-1)
        root.signed.version += 1
        self.write(root, self.signers("root")[:2])

    def attack_too_few(self):
        """One of the two keys of the targets is stolen."""
        self.publish(*self.all_newest(), {COMPONENT: ("3", b"evil")}, self.signers("targets")[:1])

    def attack_one_key_twice(self):
        """The same, and its signature stands there under both names."""
        self.publish(*self.all_newest(), {COMPONENT: ("3", b"evil")}, self.signers("targets")[:1])
        targets = self.newest("targets")
        path = self.folder / "metadata" / f"{targets.signed.version}.targets.json"
        document = json.loads(path.read_text())
        document["signatures"] *= 2
        document["signatures"].append(dict(document["signatures"][0], keyid=self.signers("targets")[1].public_key.keyid))
        path.write_text(json.dumps(document))

    def attack_forged_timestamp(self):
        self.new_key("enemy")
        timestamp = self.newest("timestamp")
        timestamp.signed.version += 1
        self.write(timestamp, [self.signer("enemy")])

    def attack_forged_root(self):
        root = self.newest("root")
        self.new_key("enemy")
        root.signed.add_key(self.signer("enemy").public_key, "timestamp")
        root.signed.version += 1
        self.write(root, [self.signer("enemy"), *self.signers("root")[:1]])

    def attack_root_of_one_key_twice(self):
        """One of the root's keys is stolen, and its signature stands there twice."""
        root = self.newest("root")
        root.signed.version += 1
        self.write(root, self.signers("root")[:1])
        path = self.folder / "metadata" / f"{root.signed.version}.root.json"
        document = json.loads(path.read_text())
        document["signatures"] *= 2
        path.write_text(json.dumps(document))

    def attack_root_skips_a_version(self):
        root = self.newest("root")
        root.signed.version += 2
        self.write(root, self.signers("root")[:2], f"{root.signed.version - 1}.root.json")

    def attack_mix_and_match(self):
        """A snapshot of today with the targets of yesterday under today's name."""
        targets = self.newest("targets").signed.version
        metadata = self.folder / "metadata"
        shutil.copy(metadata / f"{targets - 1}.targets.json", metadata / f"{targets}.targets.json")

    def attack_old_snapshot(self):
        snapshot = self.newest("snapshot").signed.version
        metadata = self.folder / "metadata"
        shutil.copy(metadata / f"{snapshot - 1}.snapshot.json", metadata / f"{snapshot}.snapshot.json")

    def attack_outside(self):
        """A target that would be written outside of where it belongs."""
        files = {"../../../etc/cron.d/evil": ("1", b"evil"), COMPONENT: ("3", b"three")}
        self.publish(*self.all_newest(), files)

    def attack_dots(self):
        self.publish(*self.all_newest(), {"..": ("1", b"evil")})

    def attack_bad_version(self):
        self.publish(*self.all_newest(), {COMPONENT: ("../../3", b"three")})

    def attack_no_metadata(self):
        (self.folder / "metadata/timestamp.json").write_text("<html>Log in to the hotel's network</html>")

    def attack_unending_file(self):
        """What is signed as the length is more than anybody takes."""
        targets, snapshot, timestamp = self.all_newest()
        self.publish(targets, snapshot, timestamp, {})
        targets.signed.targets[COMPONENT].length = 1 << 60
        targets.signed.targets[COMPONENT].hashes["sha256"] = "0" * 64
        self.publish(targets, snapshot, timestamp, {})

    def delegate(self, names, files, paths):
        """Roles that delegate to one another in this order; the last lists files."""
        self.new_key("delegate")
        signer = self.signer("delegate")
        targets, snapshot, timestamp = self.all_newest()
        below = Targets(expires=later())
        for name, content in files.items():
            digest = hashlib.sha256(content).hexdigest()
            custom = {"custom": {"version": "666"}}
            below.targets[name] = TargetFile(len(content), {"sha256": digest}, name, custom)
        for name in reversed(names):
            self.write(Metadata(below), [signer], self.role_file(name))
            snapshot.signed.meta[f"{name}.json"] = MetaFile(1)
            role = DelegatedRole("any", [signer.public_key.keyid], 1, False, paths=paths)
            delegations = Delegations({signer.public_key.keyid: signer.public_key}, {"any": role})
            # Some names this library makes no role of; others might.
            role.name = name
            delegations.roles = {name: role}
            below = Targets(expires=later(), delegations=delegations)
        targets.signed.delegations = below.delegations
        self.publish(targets, snapshot, timestamp, {})

    def role_file(self, name):
        return f"1.{name}.json" if self.newest("root").signed.consistent_snapshot else f"{name}.json"

    def attack_delegate_mislabels(self):
        """A delegate that may speak for others only says what the component is."""
        self.delegate(["community"], {COMPONENT: b"evil"}, ["community-*"])

    def attack_chain_of_roles(self):
        """Whoever has the online keys delegates on and on."""
        self.delegate([f"role{number}" for number in range(600)], {}, ["*"])

    def attack_role_called_root(self):
        """A delegate takes the name of the role that says whom to trust, where names have no numbers."""
        root = self.newest("root")
        root.signed.consistent_snapshot = False
        root.signed.version += 1
        self.write(root, self.signers("root")[:2])
        self.delegate(["root"], {}, ["*"])
        for role in ("targets", "snapshot"):
            shutil.copy(self.newest_file(role), self.folder / "metadata" / f"{role}.json")

    def attack_large_metadata(self):
        """Not signed at all, and far larger in memory than on the wire."""
        text = '{"x":[' + '{"":{"":{"":0}}},' * 1_000_000 + "0]}"
        (self.folder / "metadata/timestamp.json").write_text(text)

    def attack_rotated_keys(self):
        """Whoever has the keys of before the rotation goes on from the root of before it."""
        metadata = self.folder / "metadata"
        root = Metadata.from_file(str(metadata / "1.root.json"))
        old = [self.signer("root0"), self.signer("old-root1")]
        root.signed.version = 2
        self.write(root, old)
        for role, (count, _) in KEYS.items():
            for number in range(count):
                if f"{role}{number}" != "root0":
                    shutil.copy(self.keys / f"old-{role}{number}.pem", self.keys / f"{role}{number}.pem")
        targets, snapshot, timestamp = self.all_newest()
        self.publish(targets, snapshot, timestamp, {COMPONENT: ("9", b"evil")})


def update(folder, url, root, name):
    folder = Path(folder)
    metadata, targets = folder / "metadata", folder / "targets"
    metadata.mkdir(parents=True, exist_ok=True)
    targets.mkdir(exist_ok=True)
    config = UpdaterConfig(prefix_targets_with_hash=True)
    updater = Updater(
        str(metadata), f"{url}/metadata/", str(targets), f"{url}/targets/", config=config, bootstrap=Path(root).read_bytes()
    )
    updater.refresh()
    described = updater.get_targetinfo(name)
    assert described is not None, f"{name} is not listed"
    path = updater.download_target(described)
    sys.stdout.write(Path(path).read_bytes().decode(errors="replace"))


def main(verb, *arguments):
    if verb == "update":
        return update(*arguments)
    repository = Repository(arguments[0])
    if verb == "offer":
        return repository.offer(arguments[1], Path(arguments[2]).read_bytes())
    return getattr(repository, verb)(*arguments[1:])


if __name__ == "__main__":
    main(*sys.argv[1:])
