//! An agent of somebody: it is started with a token, and somebody who has all keys of its server stands on
//! the road.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use rustix::process::{Pid, Signal, kill_process_group};
use writ_common::time::{Clock as _, SystemClock};
use writ_proto::v1::{self as proto, agent_frame, command::Action, server_frame::Frame};
use writ_protocol::audience::AudienceTree;
use writ_protocol::id::{AgentId, Digest};

use super::Report;
use crate::fleet::{Build, Fleet};
use crate::forge::{Forger, envelope, payload_type, sealed};
use crate::intruder::{Intruder, altered, forged};
use crate::stolen::{Stolen, delivery, now};

/// How long an agent may take for what it does at once.
const SOON: Duration = Duration::from_secs(20);

/// The program under test; it ends with the kit, and so does what it started.
struct Program(Child);

impl Program {
    fn start(command: &[String], token: &Path, folder: &Path) -> std::io::Result<Self> {
        let (program, arguments) = command.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
        #[expect(clippy::disallowed_methods, reason = "the kit starts what it judges")]
        let mut started = Command::new(program_at(program));
        started.process_group(0);
        started.args(arguments).current_dir(folder).env("WRIT_TOKEN_FILE", token).stdin(Stdio::null());
        started.stdout(Stdio::null()).spawn().map(Self)
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

/// It runs in a folder of its own.
fn program_at(program: &str) -> PathBuf {
    match program.contains('/') {
        true => std::path::absolute(program).unwrap_or_else(|_| program.into()),
        false => program.into(),
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let leader = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        let _ = leader.map(|leader| kill_process_group(leader, Signal::KILL));
        let _ = self.0.wait();
    }
}

struct Scene<'a> {
    report: &'a mut Report,
    fleet: &'a Fleet,
    villain: Intruder,
    agent: AgentId,
    stolen: Stolen,
}

/// Judges the agent that this command starts, with the path of a token's file in `WRIT_TOKEN_FILE`.
///
/// # Panics
/// When the server of the kit cannot be made.
pub fn judge(command: &[String], report: &mut Report) {
    let fleet = Fleet::new(Build::Shipped);
    let token = fleet.token(1);
    let folder = fleet.path("program");
    std::fs::create_dir(&folder).unwrap();
    let villain = Intruder::in_the_middle(&fleet.road, &fleet.path("server"));
    let started = Program::start(command, &token, &folder);
    let mut program = match started {
        Ok(program) => program,
        Err(error) => {
            report.case("8.3", "it starts", Err(error.to_string()));
            return;
        }
    };
    let Some(agent) = enrolled(&fleet, &mut program) else {
        let seen = if program.has_ended() { "the program ended" } else { "it did not" };
        report.case("8.3", "it enrols with its token", Err(seen.to_owned()));
        return;
    };
    report.case("8.3", "it enrols with its token", Ok(()));
    let welcomed = villain.try_wait(agent, SOON, |line| line.is_welcome().then_some(()));
    if !report.case(
        "6.4",
        "it proves itself and has a session",
        welcomed.ok_or_else(|| "it has none".to_owned()),
    ) {
        return;
    }
    let stolen = Stolen::from_bundle(&fleet, first_bundle(&fleet));
    let mut scene = Scene { report, fleet: &fleet, villain, agent, stolen };
    scene.obeys("4", "it obeys what its server orders");
    scene.silences();
    scene.answers();
    scene.trust();
    scene.sessions();
}

fn enrolled(fleet: &Fleet, program: &mut Program) -> Option<AgentId> {
    let clock = SystemClock::new();
    let began = clock.monotonic();
    while clock.monotonic() < began + SOON {
        let listed = fleet.json(&["agents", "list"]);
        if let Some(agent) = listed.as_array()?.first() {
            return agent["agent_id"].as_str()?.parse().ok();
        }
        if program.has_ended() {
            return None;
        }
    }
    None
}

/// Anybody may ask for it.
#[tokio::main(flavor = "current_thread")]
async fn first_bundle(fleet: &Fleet) -> Bytes {
    let authorities =
        writ_common::keys::pem::certificates(&std::fs::read(fleet.path("server/admin-ca.pem")).unwrap());
    let anchors = writ_common::tls::Anchors::Authorities(authorities.unwrap());
    let endpoint = format!("localhost:{}", fleet.road.port());
    let connection = writ_common::tls::connect(&endpoint, &anchors).await.unwrap();
    let mut client = proto::agent_gateway_client::AgentGatewayClient::new(connection.channel);
    let request = proto::TrustChainRequest { version: 0, digest: Bytes::new() };
    client.trust_chain(request).await.unwrap().into_inner().bundles.remove(0)
}

/// What a command is called in a delivery; `None` if nobody can say.
fn id_of(delivery: &proto::Delivery) -> Option<Bytes> {
    let envelope = proto::Envelope::decode(delivery.envelope.clone()).ok()?;
    proto::Command::decode(envelope.payload).ok().map(|command| command.command_id)
}

fn code_of(code: i32) -> String {
    let name = proto::RefusalCode::try_from(code).map_or("unknown", |code| code.as_str_name());
    name.trim_start_matches("REFUSAL_CODE_").to_lowercase()
}

/// The codes an agent has reported.
fn reported(said: &[agent_frame::Frame]) -> Vec<String> {
    let reports = said.iter().filter_map(|frame| match frame {
        agent_frame::Frame::Refusals(envelope) => proto::Envelope::decode(envelope.clone()).ok(),
        _ => None,
    });
    let records = reports.filter_map(|envelope| proto::RefusalReport::decode(envelope.payload).ok());
    records.flat_map(|report| report.records).map(|record| code_of(record.code)).collect()
}

/// The answers to a command.
fn answers<'a>(said: &'a [agent_frame::Frame], id: &Bytes) -> Vec<&'a proto::Answer> {
    let answers = said.iter().filter_map(|frame| match frame {
        agent_frame::Frame::Answer(answer) if answer.command_id == *id => Some(answer),
        _ => None,
    });
    answers.collect()
}

fn receipt(answer: &proto::Answer) -> Option<proto::Receipt> {
    let envelope = proto::Envelope::decode(answer.receipt.clone()).ok()?;
    proto::Receipt::decode(envelope.payload).ok()
}

impl Scene<'_> {
    /// A ping through the operators' door comes back as a receipt that the server believes.
    fn obeys(&mut self, clause: &'static str, says: &str) {
        let said =
            self.fleet.writ(&["--output", "json", "send", "ping", "--all", "--expires", "20s", "--wait"]);
        let seen = if said.code == 0 { Ok(()) } else { Err(format!("{}{}", said.stdout, said.stderr)) };
        self.report.case(clause, says, seen);
    }

    /// Up to 4.7 a failure is silent, and reported.
    fn is_silent(&mut self, clause: &'static str, says: &str, delivery: proto::Delivery, code: &str) {
        let id = id_of(&delivery);
        self.villain.deliver(self.agent, delivery);
        let seen = self.villain.try_wait(self.agent, SOON, |line| {
            let said = line.said();
            let is_answered = id.as_ref().is_some_and(|id| !answers(said, id).is_empty());
            let is_reported = reported(said).iter().any(|reported| reported == code);
            (is_answered || is_reported).then_some(is_answered)
        });
        let seen = match seen {
            Some(false) => Ok(()),
            Some(true) => Err("it answered".to_owned()),
            None => {
                let reported =
                    self.villain.try_wait(self.agent, Duration::ZERO, |line| Some(reported(line.said())));
                Err(format!("`{code}` was not reported; what was: {:?}", reported.unwrap_or_default()))
            }
        };
        self.report.case(clause, format!("{says}: silence and `{code}`"), seen);
    }

    fn silences(&mut self) {
        let signing = Forger::stolen(&self.stolen.signing.honest::<writ_protocol::keys::Server>());
        let agent = self.agent;
        let genuine = self.stolen.ping(agent, &signing, |_| {});
        self.is_silent("4.3", "an order by a key nobody listed", forged(&genuine), "unknown_key");
        self.is_silent("4.3", "an order that was altered", altered(&genuine), "bad_signature");
        let large = proto::Delivery { envelope: vec![0; 65_537].into(), ..genuine.clone() };
        self.is_silent("4.1", "an envelope of 65,537 bytes", large, "oversized");
        let trailing = Bytes::from([genuine.envelope.as_ref(), &[0x7a, 0x00]].concat());
        let trailing = proto::Delivery { envelope: trailing, ..genuine.clone() };
        self.is_silent("4.2", "bytes behind an envelope", trailing, "malformed_envelope");
        let alone = proto::Delivery { proof: None, ..genuine };
        self.is_silent("4.7", "an order without a proof", alone, "broken_proof");
        let another = AgentId::from_bytes([9; 16]);
        let (command, _) = self.stolen.order(&[another], Action::Ping(proto::Ping {}));
        let tree = AudienceTree::build(&[another]).unwrap();
        let misled = delivery(sealed("command", &command, &signing), &tree, 0);
        self.is_silent("4.7", "an order for somebody else", misled, "wrong_agent");
        let foreign = self.stolen.ping(agent, &signing, |command| command.fleet_id = vec![9; 16].into());
        self.is_silent("4.6", "an order of another fleet", foreign, "wrong_fleet");
        let empty = self.stolen.ping(agent, &signing, |command| command.action = None);
        self.is_silent("4.5", "an order of nothing", empty, "malformed_payload");
        let (command, tree) = self.stolen.order(&[agent], Action::Ping(proto::Ping {}));
        let unknown = [command.encode_to_vec().as_slice(), &[0xc2, 0x3e, 0x01, 0x00]].concat();
        let signed = envelope(&payload_type("command"), &unknown, &[&signing]).encode_to_vec();
        let odd = delivery(signed.into(), &tree, 0);
        self.is_silent("4.5", "a field nobody knows, under the seal", odd, "non_canonical");
        let (command, tree) = self.stolen.order(&[agent], Action::Ping(proto::Ping {}));
        let misused = delivery(sealed("refusals-ack", &command, &signing), &tree, 0);
        self.is_silent("4.4", "an order sealed as something else", misused, "wrong_purpose");
        self.obeys("7.5", "after all that it obeys its server");
    }

    /// The answer to an order that is delivered; how often it was said before does not matter.
    fn answer(&self, delivery: proto::Delivery, count: usize) -> Option<proto::Answer> {
        let id = id_of(&delivery)?;
        self.villain.deliver(self.agent, delivery);
        self.villain.try_wait(self.agent, SOON, |line| {
            let all = answers(line.said(), &id);
            (all.len() >= count).then(|| all.last().map(|answer| (*answer).clone()))?
        })
    }

    fn is_refused(&mut self, clause: &'static str, says: &str, delivery: proto::Delivery, code: &str) {
        let answer = self.answer(delivery, 1);
        let seen = match answer.as_ref().and_then(receipt) {
            None => Err("it did not answer by a receipt".to_owned()),
            Some(receipt) if receipt.decision != i32::from(proto::Decision::Refused) => {
                Err("it says that it obeyed".to_owned())
            }
            Some(receipt) if code_of(receipt.refusal_code) != code => {
                Err(format!("it refuses as `{}`", code_of(receipt.refusal_code)))
            }
            Some(_) => Ok(()),
        };
        self.report.case(clause, format!("{says}: a receipt with `{code}`"), seen);
    }

    /// From 4.8 on the answer is a signed receipt.
    fn answers(&mut self) {
        let signing = Forger::stolen(&self.stolen.signing.honest::<writ_protocol::keys::Server>());
        let (agent, second) = (self.agent, 1000);
        let at = now().as_millis();
        let late = self.stolen.ping(agent, &signing, |command| {
            (command.issued_at_ms, command.not_before_ms) = (at - 2 * second, at - 2 * second);
            command.expires_at_ms = at - second;
        });
        // What is older than the journal is too old before it is expired; both are the truth.
        let late_code =
            self.answer(late, 1).as_ref().and_then(receipt).map(|said| code_of(said.refusal_code));
        let seen = match late_code.as_deref() {
            Some("expired" | "too_old") => Ok(()),
            other => Err(format!("{other:?}")),
        };
        self.report.case("4.9", "an order that has ended: a receipt with `expired`", seen);
        let early = self.stolen.ping(agent, &signing, |command| {
            (command.not_before_ms, command.expires_at_ms) = (at + 600 * second, at + 900 * second);
        });
        self.is_refused("4.9", "an order for later", early, "not_yet_valid");
        let action =
            proto::RunAction { name: "conformance-nobody-allows-this".to_owned(), ..Default::default() };
        let (command, tree) = self.stolen.order(&[agent], Action::Run(action));
        let unlisted = delivery(sealed("command", &command, &signing), &tree, 0);
        self.is_refused("4.11", "an action on no list", unlisted, "action_not_allowed");

        let ping = self.stolen.ping(agent, &signing, |_| {});
        let first = self.answer(ping.clone(), 1);
        let obeyed = first
            .as_ref()
            .and_then(receipt)
            .filter(|said| said.decision == i32::from(proto::Decision::Obeyed));
        let seen = obeyed.as_ref().map(|_| ()).ok_or_else(|| "no such receipt came".to_owned());
        if !self.report.case("7.1", "a ping under the seal is obeyed by a receipt", seen) {
            return;
        }
        let digest = digest_of(&ping);
        let seen = match obeyed {
            Some(said) if said.command_digest == digest => Ok(()),
            _ => Err("it names another".to_owned()),
        };
        self.report.case("2.6", "the receipt names the command's digest", seen);
        let again = self.answer(ping.clone(), 2);
        let seen = match (&first, &again) {
            (_, None) => Err("it did not answer again".to_owned()),
            (Some(first), Some(again)) if !again.receipt.is_empty() && again.receipt != first.receipt => {
                Err("the second receipt is another one".to_owned())
            }
            (_, Some(again)) if again.deliveries < 2 => {
                Err(format!("it counts {} deliveries", again.deliveries))
            }
            _ => Ok(()),
        };
        self.report.case("7.3", "a second delivery gets the same receipt, and is counted", seen);
        let other = self.stolen.ping(agent, &signing, |command| {
            command.command_id = id_of(&ping).unwrap_or_default();
            command.requested_by = "somebody else".to_owned();
        });
        let reused = self.answer(other, 3).as_ref().and_then(receipt).map(|said| code_of(said.refusal_code));
        let seen = if reused.as_deref() == Some("id_reused") { Ok(()) } else { Err(format!("{reused:?}")) };
        self.report.case("4.8", "another order under the same id: a receipt with `id_reused`", seen);
    }

    fn bundle(&self, bundle: Bytes) {
        self.villain.inject(self.agent, Frame::Bundles(proto::Bundles { bundles: vec![bundle] }));
    }

    /// A bundle counts by its authority alone.
    fn trust(&mut self) {
        let stranger = Forger::new([0x77; 32]);
        let entry = self.stolen.entry(&stranger);
        let payload = {
            let listed = self.stolen.successor(|bundle| bundle.signing.push(entry.clone()));
            proto::Envelope::decode(listed).unwrap().payload
        };
        let forged = envelope(&payload_type("trust-bundle"), &payload, &[&stranger]).encode_to_vec();
        self.bundle(forged.into());
        let ping = self.stolen.ping(self.agent, &stranger, |_| {});
        let id = id_of(&ping).unwrap_or_default();
        self.villain.deliver(self.agent, ping);
        self.obeys("5.3", "it goes on to obey its server after a bundle by a stranger");
        let obeyed = self.villain.try_wait(self.agent, Duration::ZERO, |line| {
            (!answers(line.said(), &id).is_empty()).then_some(())
        });
        let seen = if obeyed.is_none() { Ok(()) } else { Err("it answers the stranger".to_owned()) };
        self.report.case("5.3", "a bundle by a stranger changes nothing", seen);
        let listed = self.stolen.successor(|bundle| bundle.signing.push(entry.clone()));
        self.bundle(listed);
        let answered =
            self.answer(self.stolen.ping(self.agent, &stranger, |_| {}), 1).as_ref().and_then(receipt);
        let seen = match answered {
            Some(said) if said.decision == i32::from(proto::Decision::Obeyed) => Ok(()),
            Some(said) => Err(format!("it refuses as `{}`", code_of(said.refusal_code))),
            None => Err("it does not answer".to_owned()),
        };
        self.report.case("5.3", "a bundle by its authority lists a key that is obeyed from then on", seen);
    }

    fn sessions(&mut self) {
        let hellos = |line: &crate::intruder::Line| {
            line.said().iter().filter(|frame| matches!(frame, agent_frame::Frame::Hello(_))).count()
        };
        let before =
            self.villain.try_wait(self.agent, Duration::ZERO, |line| Some(hellos(line))).unwrap_or_default();
        let frame = proto::ComeBack { after_ms: 0, reason: "conformance".to_owned() };
        self.villain.inject(self.agent, Frame::ComeBack(frame));
        let back = self
            .villain
            .try_wait(self.agent, SOON, |line| (hellos(line) > before && line.is_welcome()).then_some(()));
        self.report.case(
            "6.16",
            "it comes back when it is asked to",
            back.ok_or_else(|| "it did not".to_owned()),
        );
        self.obeys("6.9", "it obeys in its new session");
    }
}

/// 2.6.
fn digest_of(delivery: &proto::Delivery) -> Bytes {
    let envelope = proto::Envelope::decode(delivery.envelope.clone()).unwrap_or_default();
    let (kind, payload) = (&envelope.payload_type, &envelope.payload);
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    Bytes::copy_from_slice(Digest::of(&[head.as_bytes(), payload].concat()).as_bytes())
}
