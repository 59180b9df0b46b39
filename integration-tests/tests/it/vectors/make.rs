//! Making the vectors: what each spoils of a good one.

use std::collections::BTreeMap;
use std::time::Duration;

use integration_tests::forge::{Forger, envelope, payload_type, sealed};
use prost::Message as _;
use writ_proto::v1::{self as proto, command::Action};
use writ_protocol::audience::AudienceTree;
use writ_protocol::id::Digest;
use writ_protocol::limits;
use writ_protocol::time::Timestamp;

use super::draft::*;
use super::{Case, ChainCase, HelloCase, Vector, agent, lists, rollouts};

/// All vectors by their path.
pub(super) fn all() -> BTreeMap<String, Vector> {
    let mut made = Made(BTreeMap::new());
    envelopes(&mut made);
    signers(&mut made);
    signatures(&mut made);
    certificates(&mut made);
    purposes(&mut made);
    forms_of_payloads(&mut made);
    bounds_of_payloads(&mut made);
    audiences(&mut made);
    novelty(&mut made);
    approvals(&mut made);
    allow_lists(&mut made);
    signed_chains(&mut made);
    valid_chains(&mut made);
    rollouts::rollouts(&mut made);
    lists::components(&mut made);
    lists::upgrades(&mut made);
    lists::scans(&mut made);
    lists::reputations(&mut made);
    hellos(&mut made);
    hellos_too_late(&mut made);
    made.0
}

fn envelopes(made: &mut Made) {
    made.delivery("accept", "ping", "4", "a ping for agent 1 of 3, by the listed key, in time", |_| {});
    made.delivery("oversized", "one-byte-too-many", "4.1", "an envelope of 65 537 bytes", |draft| {
        draft.bytes = |mut bytes| {
            bytes.resize(limits::MAX_COMMAND_BYTES + 1, 0);
            bytes
        };
    });
    let malformed = "malformed_envelope";
    made.delivery(
        malformed,
        "trailing-bytes",
        "4.2",
        "a field no envelope has follows the signed ones",
        |draft| {
            draft.bytes = |bytes| [bytes.as_slice(), &[0x7a, 0x01, 0x00]].concat();
        },
    );
    made.delivery(malformed, "not-protobuf", "4.2", "bytes that decode as nothing", |draft| {
        draft.bytes = |_| vec![0xff; 40];
    });
    made.delivery(malformed, "empty", "4.2", "no bytes at all", |draft| draft.bytes = |_| Vec::new());
    made.delivery(malformed, "no-signature", "4.2", "an envelope nobody signed", |draft| {
        draft.spoil = |envelope| envelope.signatures.clear();
    });
    made.delivery(malformed, "seventeen-signatures", "4.2", "more signatures than are looked at", |draft| {
        draft.spoil = |envelope| envelope.signatures = vec![envelope.signatures[0].clone(); 17];
    });
    made.delivery(
        malformed,
        "repeated-payload",
        "4.2",
        "the payload field stands twice; decoders keep the last",
        |draft| {
            draft.bytes = |bytes| [&[0x0a, 0x01, 0x00], bytes.as_slice()].concat();
        },
    );
}

fn signers(made: &mut Made) {
    made.delivery("accept", "hint-missing", "2.4", "no key id: every listed key is tried", |draft| {
        draft.spoil = |envelope| envelope.signatures[0].keyid.clear();
    });
    made.delivery(
        "accept",
        "second-signature-good",
        "4.3",
        "a stranger's signature beside a good one does no harm",
        |draft| {
            draft.spoil = |envelope| {
                let stranger = stranger().signature(&envelope.payload_type, &envelope.payload);
                envelope.signatures.insert(0, stranger);
            };
        },
    );
    made.delivery("no_trust", "bundle-without-signing-keys", "4.3", "the bundle lists nobody", |draft| {
        draft.bundle.signing.clear();
    });
    made.delivery(
        "unknown_key",
        "stranger",
        "4.3",
        "a good signature by a key the bundle does not list",
        |draft| {
            draft.signer = stranger();
        },
    );
    made.delivery(
        "unknown_key",
        "authority-key",
        "4.3",
        "the authority's key signs bundles, not commands",
        |draft| {
            draft.signer = authority();
        },
    );
}

fn signatures(made: &mut Made) {
    made.delivery("bad_signature", "altered-payload", "4.3", "one bit of the payload is flipped", |draft| {
        draft.spoil = |envelope| {
            let mut payload = envelope.payload.to_vec();
            payload[10] ^= 1;
            envelope.payload = payload.into();
        };
    });
    made.delivery(
        "bad_signature",
        "altered-payload-type",
        "4.3",
        "the payload type is under the signature too",
        |draft| {
            draft.spoil = |envelope| envelope.payload_type = payload_type("receipt");
        },
    );
    made.delivery(
        "bad_signature",
        "strangers-under-a-listed-name",
        "4.3",
        "a stranger's signature with a listed key id",
        |draft| {
            draft.signer = stranger();
            draft.spoil = |envelope| envelope.signatures[0].keyid = signing().public().id().to_string();
        },
    );
    made.delivery("bad_signature", "truncated", "4.3", "63 bytes of the signature", |draft| {
        draft.spoil = |envelope| envelope.signatures[0].sig.truncate(63);
    });
    made.delivery(
        "bad_signature",
        "strangers-without-a-name",
        "2.4",
        "a stranger's signature and no key id",
        |draft| {
            draft.signer = stranger();
            draft.spoil = |envelope| envelope.signatures[0].keyid.clear();
        },
    );
    made.delivery(
        "bad_signature",
        "altered-beside-a-stranger",
        "4.3",
        "a bad signature under a listed name is named before an unknown key",
        |draft| {
            draft.spoil = |envelope| {
                envelope.signatures[0].sig.truncate(63);
                let stranger = stranger().signature(&envelope.payload_type, &envelope.payload);
                envelope.signatures.push(stranger);
            };
        },
    );
    made.delivery("malformed_envelope", "long-hint", "2.4", "a key id of 65 bytes", |draft| {
        draft.spoil = |envelope| envelope.signatures[0].keyid.push('0');
    });
}

fn certificates(made: &mut Made) {
    let standing = "5.4";
    made.delivery(
        "certificate_not_yet_valid",
        "before-sign-from",
        standing,
        "signed before the entry's sign_from",
        |draft| {
            draft.bundle.signing[0].sign_from_ms = (NOW + HOUR).as_millis();
        },
    );
    made.delivery(
        "certificate_expired",
        "at-accept-until",
        standing,
        "judged at accept_until itself",
        |draft| {
            draft.bundle.signing[0].accept_until_ms = NOW.as_millis();
        },
    );
    made.delivery("certificate_revoked", "revoked", standing, "the entry is revoked", |draft| {
        draft.bundle.signing[0].revoked = true;
    });
    made.delivery(
        "certificate_revoked",
        "revoked-beside-stranger",
        standing,
        "a revoked key is named before an unknown one",
        |draft| {
            draft.bundle.signing[0].revoked = true;
            draft.spoil = |envelope| {
                let stranger = stranger().signature(&envelope.payload_type, &envelope.payload);
                envelope.signatures.push(stranger);
            };
        },
    );
    made.delivery(
        "certificate_expired",
        "last-of-two-reasons",
        "4.3",
        "a revoked key signs, then one that has ended: the last reason counts",
        |draft| {
            draft.bundle.signing[0].revoked = true;
            draft.bundle.signing.push(entry(&key(0x04)));
            draft.bundle.signing[1].accept_until_ms = NOW.as_millis();
            draft.spoil = |envelope| {
                let ended = key(0x04).signature(&envelope.payload_type, &envelope.payload);
                envelope.signatures.push(ended);
            };
        },
    );
    made.delivery(
        "wrong_realm",
        "other-realm",
        standing,
        "the agent belongs to a realm the entry does not name",
        |draft| {
            draft.realm = "plant-2";
        },
    );
}

fn purposes(made: &mut Made) {
    made.delivery(
        "wrong_purpose",
        "signed-as-hello",
        "4.4",
        "a good signature, made for a greeting",
        |draft| {
            draft.payload_type = payload_type("server-hello");
        },
    );
    made.delivery(
        "wrong_purpose",
        "signed-as-next-version",
        "4.4",
        "a good signature, made for a later version",
        |draft| {
            draft.payload_type = "application/vnd.writ.command.v2+protobuf".to_owned();
        },
    );
}

fn forms_of_payloads(made: &mut Made) {
    made.delivery("non_canonical", "unknown-field", "4.5", "field 1000 is signed too", |draft| {
        draft.payload = |payload| [payload.as_slice(), &[0xc2, 0x3e, 0x01, 0x00]].concat();
    });
    made.delivery(
        "non_canonical",
        "repeated-field",
        "4.5",
        "requested_by stands twice; decoders keep the last",
        |draft| {
            draft.payload = |payload| [payload.as_slice(), b"\x3a\x03eve"].concat();
        },
    );
    made.delivery("non_canonical", "trailing-default", "4.5", "an explicit zero at the end", |draft| {
        draft.payload = |payload| [payload.as_slice(), &[0x20, 0x00]].concat();
    });
    made.delivery(
        "non_canonical",
        "long-varint",
        "4.5",
        "the audience's count is written with one byte too many",
        |draft| {
            draft.payload = |payload| {
                let place = payload.windows(2).position(|pair| pair == [0x10, 0x03]).unwrap();
                let mut long = payload.clone();
                long.splice(place..place + 2, [0x10, 0x83, 0x00]);
                // The audience's own length grows with it.
                let length = payload[..place].iter().rposition(|byte| *byte == 0x24).unwrap();
                long[length] += 1;
                long
            };
        },
    );
    made.delivery(
        "malformed_payload",
        "not-protobuf",
        "4.5",
        "signed bytes that decode as nothing",
        |draft| {
            draft.payload = |_| vec![0xff; 40];
        },
    );
}

fn bounds_of_payloads(made: &mut Made) {
    made.delivery("malformed_payload", "no-action", "4.5", "nothing to do", |draft| {
        draft.command.action = None
    });
    made.delivery("malformed_payload", "short-id", "4.5", "a command id of 15 bytes", |draft| {
        draft.command.command_id = vec![0xc1; 15].into();
    });
    made.delivery("malformed_payload", "empty-window", "4.5", "it expires when it begins", |draft| {
        draft.command.expires_at_ms = draft.command.not_before_ms;
    });
    made.delivery(
        "malformed_payload",
        "lives-too-long",
        "4.5",
        "one millisecond more than 30 days",
        |draft| {
            draft.command.expires_at_ms = (NOW + DAY * 30).as_millis() + 1;
        },
    );
    made.delivery(
        "malformed_payload",
        "issued-in-the-future",
        "4.5",
        "issued after it begins, to outlive the 30 days",
        |draft| {
            draft.command.issued_at_ms = (NOW + DAY * 300).as_millis();
            draft.command.expires_at_ms = (NOW + DAY * 330).as_millis();
        },
    );
    made.delivery(
        "malformed_payload",
        "control-character",
        "4.5",
        "an operator's name that would break a log line",
        |draft| {
            draft.command.requested_by = "ann\nroot".to_owned();
        },
    );
    let unsorted = Draft::new().run("echo", &[("b", "1"), ("a", "1")]);
    made.add(
        "malformed_payload",
        "parameters-unsorted",
        "4.5",
        "parameters must ascend by name",
        unsorted.case(),
    );
    made.delivery("wrong_fleet", "other-fleet", "4.6", "the same key, another fleet", |draft| {
        draft.command.fleet_id = vec![0xf2; 16].into();
    });
}

fn audiences(made: &mut Made) {
    made.delivery("wrong_agent", "anothers-proof", "4.7", "agent 2's proof, offered to agent 1", |draft| {
        draft.proof = Some(audience(3, 1).1);
    });
    made.delivery(
        "wrong_agent",
        "not-chosen",
        "4.7",
        "a command for agents 2 and 3, with agent 2's proof",
        |draft| {
            let tree = AudienceTree::build(&[agent(2), agent(3)]).unwrap();
            let root = tree.audience().root.as_bytes().to_vec().into();
            draft.command.audience = Some(proto::Audience { root, count: 2 });
            draft.proof = Some((&tree.proof(0).unwrap()).into());
        },
    );
    made.delivery("wrong_agent", "altered-hash", "4.7", "one bit of the path is flipped", |draft| {
        let path = &mut draft.proof.as_mut().unwrap().path[0];
        let mut hash = path.to_vec();
        hash[0] ^= 1;
        *path = hash.into();
    });
    let broken = "broken_proof";
    for count in [1, 2, 3, 5, 7, 8] {
        let last = u32::from(count) - 1;
        let spoil = |made: &mut Made, name: &str, says: &str, change: &dyn Fn(&mut proto::AudienceProof)| {
            made.delivery(broken, &format!("count-{count}-{name}"), "4.7", says, |draft| {
                let (signed, _) = audience(count, 0);
                let (_, mut proof) = audience(count, 0);
                change(&mut proof);
                draft.command.audience = Some(signed);
                draft.proof = Some(proof);
            });
        };
        spoil(made, "index-is-count", "the index is one past the last agent", &|proof| {
            proof.index = last + 1
        });
        spoil(made, "path-one-long", "one hash too many", &|proof| proof.path.push(vec![0; 32].into()));
        if count > 1 {
            spoil(made, "path-one-short", "one hash too few", &|proof| {
                proof.path.pop();
            });
        }
    }
    made.delivery(
        broken,
        "inner-node-as-leaf",
        "4.7",
        "an inner node passed off as a leaf: the path is too short for the count",
        |draft| {
            let (signed, whole) = audience(8, 0);
            draft.command.audience = Some(signed);
            draft.proof = Some(proto::AudienceProof { index: 0, path: whole.path[1..].to_vec() });
        },
    );
    made.delivery(broken, "count-zero", "3.4", "an audience of nobody", |draft| {
        draft.command.audience.as_mut().unwrap().count = 0;
    });
    made.delivery(broken, "count-too-large", "3.4", "an audience of 2^20 + 1", |draft| {
        draft.command.audience.as_mut().unwrap().count = (1 << 20) + 1;
    });
    made.delivery(broken, "no-proof", "4.7", "a delivery without a proof", |draft| draft.proof = None);
    made.delivery(broken, "short-hash", "4.7", "a hash of 31 bytes", |draft| {
        draft.proof.as_mut().unwrap().path[0] = vec![0; 31].into();
    });
}

fn novelty(made: &mut Made) {
    let known = |digest: Digest| vec![(uuid(0xc1), digest.to_string())];
    made.delivery(
        "redelivery",
        "redelivery",
        "4.8",
        "the same id and digest again: answered, not started",
        |draft| {
            draft.journal.known = known(draft.digest());
        },
    );
    made.delivery("id_reused", "other-digest", "4.8", "the id is known with another digest", |draft| {
        draft.journal.known = known(Digest::of(b"another command"));
    });
    made.delivery(
        "not_yet_valid",
        "past-the-skew",
        "4.9",
        "it begins one millisecond after the skew",
        |draft| {
            draft.command.not_before_ms = (NOW + limits::SKEW).as_millis() + 1;
            draft.command.expires_at_ms = (NOW + HOUR).as_millis();
        },
    );
    made.delivery("accept", "within-the-skew", "4.9", "it begins exactly one skew ahead", |draft| {
        draft.command.not_before_ms = (NOW + limits::SKEW).as_millis();
    });
    made.delivery("expired", "at-expiry", "4.9", "judged at expires_at itself", |draft| {
        draft.command.issued_at_ms = (NOW - HOUR).as_millis();
        draft.command.not_before_ms = (NOW - HOUR).as_millis();
        draft.command.expires_at_ms = NOW.as_millis();
    });
    made.delivery(
        "accept",
        "one-millisecond-left",
        "4.9",
        "judged one millisecond before expires_at",
        |draft| {
            draft.command.issued_at_ms = (NOW - HOUR).as_millis();
            draft.command.not_before_ms = (NOW - HOUR).as_millis();
            draft.command.expires_at_ms = NOW.as_millis() + 1;
        },
    );
    made.delivery(
        "too_old",
        "forgotten",
        "4.9",
        "a command that expired as late was pruned: this one may have been obeyed",
        |draft| {
            draft.journal.forgotten_until_ms = draft.command.expires_at_ms;
            draft.journal.birth_ms = (NOW - DAY).as_millis();
        },
    );
    made.delivery("too_old", "before-the-journal", "4.9", "issued before the journal was born", |draft| {
        draft.journal.birth_ms = NOW.as_millis() + 1;
    });
}

fn approvals(made: &mut Made) {
    let operators = || role(&[key(0x11), key(0x12), key(0x13)], 2);
    let ruled = || {
        let mut draft = Draft::new().run("echo", &[("word", "hello")]);
        draft.bundle.class_rules =
            vec![proto::ClassRule { class: proto::ActionClass::Change.into(), operators: Some(operators()) }];
        draft
    };
    let (one, two) = (key(0x11), key(0x12));
    let digest = ruled().digest();
    made.add(
        "accept",
        "approved",
        "4.10",
        "two of three operators approved",
        ruled().approve(&[&one, &two], digest).case(),
    );
    made.add("threshold_not_met", "nobody", "4.10", "nobody approved", ruled().case());
    let twice = ruled().approve(&[&one, &one], digest).case();
    made.add("threshold_not_met", "one-key-twice", "4.10", "one operator approved twice", twice);
    let other = ruled().approve(&[&one, &two], Digest::of(b"another")).case();
    made.add("threshold_not_met", "another-command", "4.10", "two operators approved another command", other);
    let strangers = ruled().approve(&[&one, &stranger()], digest).case();
    made.add("threshold_not_met", "a-stranger", "4.10", "one operator and a stranger approved", strangers);
    let unlabelled = |bundle: &mut proto::TrustBundle| {
        bundle.class_rules = vec![proto::ClassRule {
            class: proto::ActionClass::Destructive.into(),
            operators: Some(operators()),
        }];
    };
    let mut unlisted = Draft::new().run("unlisted", &[]);
    unlabelled(&mut unlisted.bundle);
    made.add(
        "threshold_not_met",
        "unlisted-is-destructive",
        "4.10",
        "what is on no list is destructive",
        unlisted.case(),
    );
}

fn allow_lists(made: &mut Made) {
    let echo = Draft::new().run("echo", &[("word", "hello")]);
    made.add("accept", "action", "4.11", "an action of the allow-list", echo.case());
    let unlisted = Draft::new().run("reboot", &[]);
    made.add("action_not_allowed", "not-on-the-list", "4.11", "the list does not name it", unlisted.case());
    made.delivery(
        "action_not_allowed",
        "of-a-newer-agent",
        "4.11",
        "an action of the schema that this agent does not offer",
        |draft| {
            draft.command.action = Some(Action::RotateIdentity(proto::RotateIdentity {}));
        },
    );
    for (name, parameters) in [
        ("missing", [].as_slice()),
        ("outside-its-pattern", [("word", "rm -rf")].as_slice()),
        ("undeclared", [("word", "hello"), ("words", "hello")].as_slice()),
    ] {
        let draft = Draft::new().run("echo", parameters);
        made.add("invalid_parameters", name, "4.11", "a parameter is not what the list says", draft.case());
    }
    made.delivery("journal_full", "full", "4.12", "the journal holds as many commands as it may", |draft| {
        draft.journal.max_entries = 1;
        draft.journal.known = vec![(uuid(0xc2), Digest::of(b"another command").to_string())];
    });
}

fn uuid(byte: u8) -> String {
    writ_protocol::id::CommandId::from_bytes([byte; 16]).to_string()
}

/// The bundle that the chain's vectors begin with, as it travels.
fn held() -> bytes::Bytes {
    sealed("trust-bundle", &bundle(), &authority())
}

fn digest_of_held() -> bytes::Bytes {
    writ_protocol::trust::Chain::digest_of(&held()).unwrap().as_bytes().to_vec().into()
}

/// A bundle that follows it.
fn successor() -> proto::TrustBundle {
    proto::TrustBundle { version: 2, prev: vec![digest_of_held()], ..bundle() }
}

fn offer(bundle: &proto::TrustBundle, signers: &[&Forger]) -> Case {
    let offered = envelope(&payload_type("trust-bundle"), &bundle.encode_to_vec(), signers).encode_to_vec();
    Case::Chain(ChainCase { held: base64(&held()), offered: base64(&offered) })
}

fn signed_chains(made: &mut Made) {
    let (first, second) = (authority(), key(0x03));
    made.add(
        "accept",
        "bundle-successor",
        "5.3",
        "the next bundle by the same authority",
        offer(&successor(), &[&first]),
    );
    let repaired =
        proto::TrustBundle { version: 9, prev: vec![vec![9; 32].into(), digest_of_held()], ..bundle() };
    made.add(
        "accept",
        "bundle-repair",
        "5.3",
        "a repair bundle names every fork's head",
        offer(&repaired, &[&first]),
    );
    let handed_over = proto::TrustBundle { authority: Some(role(&[key(0x03)], 1)), ..successor() };
    made.add(
        "accept",
        "bundle-new-authority",
        "5.3",
        "signed by the old authority and the new",
        offer(&handed_over, &[&first, &second]),
    );

    let astray = proto::TrustBundle { prev: vec![vec![9; 32].into()], ..successor() };
    made.add(
        "bundle_wrong_prev",
        "another-predecessor",
        "5.3",
        "it follows a bundle that is not held",
        offer(&astray, &[&first]),
    );
    let same = proto::TrustBundle { issued_at_ms: NOW.as_millis(), ..bundle() };
    made.add(
        "bundle_not_newer",
        "same-version",
        "5.3",
        "another bundle of the held version",
        offer(&same, &[&first]),
    );
    made.add(
        "unknown_key",
        "bundle-by-a-stranger",
        "5.3",
        "not signed by the held bundle's authority",
        offer(&successor(), &[&stranger()]),
    );
    made.add(
        "unknown_key",
        "bundle-by-the-new-authority-only",
        "5.3",
        "the new authority cannot appoint itself",
        offer(&handed_over, &[&second]),
    );
    made.add(
        "unknown_key",
        "bundle-by-the-old-authority-only",
        "5.3",
        "the new authority must sign too",
        offer(&handed_over, &[&first]),
    );
    let demanding = proto::TrustBundle { authority: Some(role(&[authority(), key(0x03)], 2)), ..successor() };
    made.add(
        "threshold_not_met",
        "bundle-too-few",
        "5.3",
        "its own threshold is two, one signed",
        offer(&demanding, &[&first]),
    );
    made.add(
        "threshold_not_met",
        "bundle-one-key-twice",
        "5.3",
        "one key signed twice",
        offer(&demanding, &[&first, &first]),
    );
}

fn valid_chains(made: &mut Made) {
    let first = authority();
    let doubled = proto::TrustBundle { authority: Some(role(&[authority(), authority()], 1)), ..successor() };
    made.add(
        "bundle_invalid",
        "duplicate-authority-key",
        "5.2",
        "a key stands twice in a role",
        offer(&doubled, &[&first]),
    );
    let twice = proto::TrustBundle { signing: vec![entry(&signing()), entry(&signing())], ..successor() };
    made.add("bundle_invalid", "signing-key-twice", "5.2", "a key signs twice", offer(&twice, &[&first]));
    let impossible = proto::TrustBundle { authority: Some(role(&[authority()], 2)), ..successor() };
    made.add(
        "threshold_not_met",
        "bundle-nobody-can-sign",
        "5.3",
        "its own threshold is two of one key",
        offer(&impossible, &[&first]),
    );
    let keyless = proto::TrustBundle { authority: Some(role(&[authority()], 0)), ..successor() };
    made.add("bundle_invalid", "zero-threshold", "5.2", "a threshold of nobody", offer(&keyless, &[&first]));
    let mut late = successor();
    late.signing[0].accept_until_ms = (NOW + DAY * 365 * 10).as_millis();
    made.add(
        "bundle_invalid",
        "past-the-certificate",
        "5.2",
        "accepted past the certificate's notAfter",
        offer(&late, &[&first]),
    );
    let placeless = proto::TrustBundle { endpoints: Vec::new(), ..successor() };
    made.add("bundle_invalid", "no-endpoint", "5.2", "nowhere to meet", offer(&placeless, &[&first]));
    let foreign = proto::TrustBundle { fleet_id: vec![0xf2; 16].into(), ..successor() };
    made.add(
        "wrong_fleet",
        "bundle",
        "5.3",
        "a bundle of another fleet by the same authority",
        offer(&foreign, &[&first]),
    );
}

fn leaf() -> Digest {
    Digest::of(b"a leaf")
}

fn good_hello() -> proto::ServerHello {
    proto::ServerHello {
        fleet_id: FLEET.to_vec().into(),
        agent_nonce: vec![7; 32].into(),
        server_nonce: vec![8; 32].into(),
        time_ms: NOW.as_millis(),
        chain_version: 1,
        chain_digest: vec![9; 32].into(),
        tls_leaf_spki_digests: vec![leaf().as_bytes().to_vec().into()],
        protocol: limits::PROTOCOL,
    }
}

fn hello(hello: &proto::ServerHello, signer: &Forger, floor: Timestamp, round_trip_ms: u64) -> Case {
    Case::Hello(HelloCase {
        bundle: base64(&sealed("trust-bundle", &bundle(), &authority())),
        realm: "default".to_owned(),
        nonce: hex::encode([7; 32]),
        tls_leaf_spki_digest: leaf().to_string(),
        floor_ms: floor.as_millis(),
        round_trip_ms,
        hello: base64(&sealed("server-hello", hello, signer)),
    })
}

fn hellos(made: &mut Made) {
    let usual = NOW - HOUR;
    made.add("accept", "hello", "6.2", "a good greeting", hello(&good_hello(), &signing(), usual, 5));
    let Case::Hello(mut elsewhere) = hello(&good_hello(), &signing(), usual, 5) else { return };
    elsewhere.realm = "plant-2".to_owned();
    made.add("wrong_realm", "hello", "6.2", "a server of another realm", Case::Hello(elsewhere));
    let Case::Hello(mut retired) = hello(&good_hello(), &signing(), usual, 5) else { return };
    let mut revoked = bundle();
    revoked.signing[0].revoked = true;
    retired.bundle = base64(&sealed("trust-bundle", &revoked, &authority()));
    made.add("certificate_revoked", "hello", "6.2", "a server whose key was revoked", Case::Hello(retired));
    made.add(
        "unknown_key",
        "hello-by-a-stranger",
        "6.2",
        "an impostor without the signing key",
        hello(&good_hello(), &stranger(), usual, 5),
    );
    let other = proto::ServerHello { agent_nonce: vec![6; 32].into(), ..good_hello() };
    made.add(
        "hello_mismatch",
        "nonce",
        "6.2",
        "the greeting of another session",
        hello(&other, &signing(), usual, 5),
    );
    let other = proto::ServerHello { tls_leaf_spki_digests: vec![vec![1; 32].into()], ..good_hello() };
    made.add(
        "hello_mismatch",
        "leaf",
        "6.2",
        "another TLS leaf is on the wire",
        hello(&other, &signing(), usual, 5),
    );
}

fn hellos_too_late(made: &mut Made) {
    let usual = NOW - HOUR;
    made.add(
        "time_went_back",
        "below-the-floor",
        "6.2",
        "one millisecond below the floor",
        hello(&good_hello(), &signing(), NOW + Duration::from_millis(1), 5),
    );
    made.add(
        "round_trip_too_long",
        "held-back",
        "6.2",
        "the greeting was held back longer than the skew",
        hello(&good_hello(), &signing(), usual, 60_001),
    );
    let late = proto::ServerHello { time_ms: (NOW + DAY * 400).as_millis(), ..good_hello() };
    made.add(
        "certificate_expired",
        "hello",
        "6.2",
        "the greeting's own time is past accept_until",
        hello(&late, &signing(), usual, 5),
    );
    let other = proto::ServerHello { fleet_id: vec![0xf2; 16].into(), ..good_hello() };
    made.add(
        "wrong_fleet",
        "hello",
        "6.2",
        "another fleet's greeting by the same key",
        hello(&other, &signing(), usual, 5),
    );
}
