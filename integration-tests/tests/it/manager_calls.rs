//! What a manager takes from any stranger that reaches its port.

use std::time::Duration;

use bytes::Bytes;
use integration_tests::daemon::until;
use integration_tests::fleet::{Build, Fleet};
use integration_tests::forge::Forger;
use integration_tests::manager::Manager;
use integration_tests::road::Road;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use writ_common::keys::pem;
use writ_common::time::{Clock as _, SystemClock};
use writ_common::tls::{Anchors, connect};
use writ_proto::manager::v1 as proto;
use writ_proto::manager::v1::entity_link_client::EntityLinkClient;
use writ_proto::manager::v1::objects_piece::Piece;
use writ_proto::manager::v1::registry_client::RegistryClient;
use writ_protocol::envelope::{Candidate, EntityCallPurpose, ManagerReplyPurpose, sign, verify};
use writ_protocol::id::ManagerId;
use writ_protocol::keys::{Algorithm, Entity, PrivateKey, SigningCertificate};
use writ_protocol::manager::{
    CallBody, EntityCall, Mode, ObjectsCall, Poll, Registration, RegistrationToken, ReplyBody, TokenProof,
};
use writ_protocol::time::Timestamp;

/// Somebody who speaks the protocol and has a key.
struct Caller {
    runtime: Runtime,
    channel: Channel,
    key: PrivateKey<Entity>,
    manager: ManagerId,
}

fn now() -> Timestamp {
    SystemClock::new().wall()
}

fn registration(token: Option<TokenProof>) -> Registration {
    Registration {
        display_name: "caller".to_owned(),
        host_name: "host".to_owned(),
        product: "story".to_owned(),
        version: "1".to_owned(),
        addresses: vec!["192.0.2.1".to_owned()],
        mode: Mode::OneWay,
        entity: None,
        token,
        heartbeat: Duration::from_secs(10),
        abnormal_after: Duration::from_secs(30),
    }
}

impl Caller {
    fn new(fleet: &Fleet, manager: &Manager) -> Self {
        let authorities = pem::certificates(&std::fs::read(manager.ca()).unwrap()).unwrap();
        let runtime = Runtime::new().unwrap();
        let endpoint = format!("localhost:{}", manager.link_port);
        let connection = runtime.block_on(connect(&endpoint, &Anchors::Authorities(authorities))).unwrap();
        let id = fleet.cm(&["entities", "manager"])["manager_id"].as_str().unwrap().parse().unwrap();
        let key = PrivateKey::generate(Algorithm::P256);
        Self { runtime, channel: connection.channel, key, manager: id }
    }

    fn call(&self, epoch: u64, counter: u64, body: CallBody) -> EntityCall {
        EntityCall {
            key: self.key.public().clone(),
            epoch,
            counter,
            sent_at: now(),
            manager: self.manager,
            body,
        }
    }

    fn signed(&self, call: &EntityCall) -> Bytes {
        sign::<EntityCallPurpose>(&[&self.key.for_purpose()], call).bytes().clone()
    }

    /// Sends an envelope where its call belongs, and reads the answer.
    fn send(&self, body: &CallBody, envelope: Bytes) -> Result<ReplyBody, tonic::Status> {
        let request = proto::SignedCall { envelope };
        let mut registry = RegistryClient::new(self.channel.clone());
        let mut link = EntityLinkClient::new(self.channel.clone());
        let reply = self.runtime.block_on(async {
            match body {
                CallBody::Register(_) => registry.register(request).await,
                CallBody::Update(_) => registry.update(request).await,
                CallBody::Unregister => registry.unregister(request).await,
                CallBody::Poll(_) => link.poll(request).await,
                CallBody::Objects(ObjectsCall::Subscribe(_) | ObjectsCall::Unsubscribe) => {
                    link.subscribe(request).await
                }
                CallBody::Objects(ObjectsCall::Fetch(_)) => {
                    let mut pieces = link.fetch_objects(request).await?.into_inner();
                    match pieces.message().await?.and_then(|first| first.piece) {
                        Some(Piece::Reply(reply)) => Ok(tonic::Response::new(reply)),
                        other => panic!("no reply first: {other:?}"),
                    }
                }
            }
        });
        let reply = reply?.into_inner();
        let key = SigningCertificate::from_der(&reply.certificate).unwrap();
        let verified = verify::<ManagerReplyPurpose>(&reply.envelope, &[Candidate::accepted(key.key())], 1);
        Ok(verified.unwrap().into_document().body)
    }

    fn says(&self, call: &EntityCall) -> ReplyBody {
        self.send(&call.body, self.signed(call)).unwrap()
    }

    /// The code of a rejection.
    fn is_rejected(&self, call: &EntityCall) -> &'static str {
        match self.says(call) {
            ReplyBody::Rejected(rejection) => rejection.code.as_str(),
            other => panic!("not rejected: {other:?}"),
        }
    }
}

fn poll(after: u64) -> CallBody {
    CallBody::Poll(Poll { after, outcomes: Vec::new() })
}

#[test]
fn calls_that_are_forged_stale_replayed_or_of_another_kind_are_refused_and_list_nobody() {
    let fleet = Fleet::new(Build::Shipped);
    let manager = Manager::new(&fleet);
    let caller = Caller::new(&fleet, &manager);
    let register = |counter| caller.call(0, counter, CallBody::Register(registration(None)));

    // Not signed by the key it names, altered, not a call at all, or sent as another one.
    let thief = PrivateKey::<Entity>::generate(Algorithm::Ed25519);
    let forged = sign::<EntityCallPurpose>(&[&thief.for_purpose()], &register(1)).bytes().clone();
    let mut altered = caller.signed(&register(1)).to_vec();
    let middle = altered.len() / 2;
    altered[middle] ^= 1;
    let body = CallBody::Register(registration(None));
    for envelope in [forged, altered.into(), Bytes::from_static(b"nothing"), Bytes::new()] {
        let refused = caller.send(&body, envelope).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    }
    let refused = caller.send(&poll(0), caller.signed(&register(1))).unwrap_err();
    assert!(refused.message().contains("another call than this method's"), "{refused}");
    // A key of another kind of holder signs no call.
    let stolen = Forger::stolen(&thief).honest::<Entity>();
    assert_eq!(stolen.public(), thief.public());
    assert_eq!(fleet.cm(&["entities", "list"]), serde_json::json!([]));

    // From another time.
    let stale = EntityCall { sent_at: now() - Duration::from_secs(61), ..register(1) };
    assert_eq!(caller.is_rejected(&stale), "clock_skew");
    let early = EntityCall { sent_at: now() + Duration::from_secs(120), ..register(1) };
    assert_eq!(caller.is_rejected(&early), "clock_skew");
    // For another manager.
    let misled = EntityCall { manager: ManagerId::generate(now()), ..register(1) };
    assert_eq!(caller.is_rejected(&misled), "unknown_entity");
    // Of somebody who is not there.
    assert_eq!(caller.is_rejected(&caller.call(1, 1, poll(0))), "unknown_entity");
    assert_eq!(
        caller.is_rejected(&caller.call(1, 1, CallBody::Update(registration(None)))),
        "unknown_entity"
    );
    assert!(matches!(caller.says(&caller.call(1, 1, CallBody::Unregister)), ReplyBody::Left));
    // With a token that is none, or rules that are broken.
    let token = |token| caller.call(0, 2, CallBody::Register(registration(Some(token))));
    let guessed = RegistrationToken::from_secret([7; 32]).prove(caller.key.public());
    assert_eq!(caller.is_rejected(&token(guessed)), "token_refused");
    let hasty = Registration { heartbeat: Duration::from_millis(10), ..registration(None) };
    assert_eq!(caller.is_rejected(&caller.call(0, 3, CallBody::Register(hasty))), "invalid_registration");
    assert_eq!(fleet.cm(&["entities", "list"]), serde_json::json!([]));
    manager.daemon().wait_for("entity rejected", |said| {
        said["code"] == "token_refused" && said["key.id"] == caller.key.public().id().to_string()
    });

    // One that counts; it waits, and saying it again is a replay.
    let good = register(10);
    let ReplyBody::Registered(standing) = caller.says(&good) else { panic!("not registered") };
    assert!(!standing.is_approved);
    assert_eq!(caller.is_rejected(&good), "replayed");
    assert_eq!(caller.is_rejected(&register(9)), "replayed");
    assert_eq!(caller.is_rejected(&caller.call(standing.epoch, 11, poll(0))), "not_approved");
    assert_eq!(caller.is_rejected(&caller.call(standing.epoch + 1, 12, poll(0))), "unknown_entity");

    // A token lets it in; after it left, its old calls list nobody.
    let secret: RegistrationToken = std::fs::read_to_string(manager.token(&fleet)).unwrap().parse().unwrap();
    // A thief who saw another entity show it has nothing of it.
    let others = CallBody::Register(registration(Some(secret.prove(thief.public()))));
    assert_eq!(caller.is_rejected(&caller.call(standing.epoch, 19, others)), "token_refused");
    let proof = secret.prove(caller.key.public());
    let with_token = caller.call(standing.epoch, 20, CallBody::Register(registration(Some(proof))));
    let ReplyBody::Registered(let_in) = caller.says(&with_token) else { panic!("not registered") };
    assert_eq!(caller.is_rejected(&caller.call(let_in.epoch, 20, poll(0))), "replayed");
    // It holds more than this manager made: the manager was put back to an earlier state.
    assert_eq!(caller.is_rejected(&caller.call(let_in.epoch, 21, poll(5))), "unknown_entity");
    assert!(matches!(caller.says(&caller.call(let_in.epoch, 22, poll(0))), ReplyBody::Work(_)));
    // Of another registration nobody leaves.
    assert_eq!(caller.is_rejected(&caller.call(1, 23, CallBody::Unregister)), "unknown_entity");
    assert!(let_in.is_approved && let_in.epoch == standing.epoch && let_in.entity == standing.entity);
    assert!(matches!(caller.says(&caller.call(let_in.epoch, 24, CallBody::Unregister)), ReplyBody::Left));
    assert_eq!(caller.is_rejected(&with_token), "replayed");
    assert_eq!(fleet.cm(&["entities", "list"]), serde_json::json!([]));
}

#[test]
fn objects_are_for_the_key_of_a_subscription_and_for_nobody_else() {
    let fleet = Fleet::new(Build::Shipped);
    let manager = Manager::new(&fleet);
    let caller = Caller::new(&fleet, &manager);
    let fetches = |key: &PrivateKey<Entity>| Caller { key: key.clone(), ..Caller::new(&fleet, &manager) };
    let fetch = CallBody::Objects(ObjectsCall::Fetch(0));
    let subscribe =
        |key: &PrivateKey<Entity>| CallBody::Objects(ObjectsCall::Subscribe(key.public().clone()));
    let [first, second] = [(), ()].map(|()| PrivateKey::<Entity>::generate(Algorithm::Ed25519));
    // Who is no entity, or waits to be one, gets none.
    assert_eq!(caller.is_rejected(&caller.call(0, 1, fetch.clone())), "not_subscribed");
    assert_eq!(caller.is_rejected(&caller.call(0, 1, subscribe(&first))), "unknown_entity");
    let asked = caller.call(0, 2, CallBody::Register(registration(None)));
    let ReplyBody::Registered(standing) = caller.says(&asked) else { panic!("not registered") };
    let of = |caller: &Caller, counter, body: &CallBody| caller.call(standing.epoch, counter, body.clone());
    assert_eq!(caller.is_rejected(&of(&caller, 3, &subscribe(&first))), "not_approved");
    let _approved = fleet.cm(&["entities", "approve", "caller"]);
    // The entity's own key is none of a subscription.
    assert_eq!(caller.is_rejected(&of(&caller, 4, &fetch)), "not_subscribed");
    assert_eq!(caller.is_rejected(&of(&caller, 4, &subscribe(&caller.key))), "invalid_registration");
    assert!(matches!(caller.says(&of(&caller, 5, &subscribe(&first))), ReplyBody::Subscribed));
    let by_first = fetches(&first);
    let good = of(&by_first, 6, &fetch);
    let ReplyBody::Objects(offer) = by_first.says(&good) else { panic!("no objects") };
    assert!(offer.change.is_some_and(|change| change.base == 0), "{offer:?}");
    // Said again, from another time, for another registration or another manager.
    assert_eq!(by_first.is_rejected(&good), "replayed");
    let stale = EntityCall { sent_at: now() - Duration::from_secs(61), ..of(&by_first, 7, &fetch) };
    assert_eq!(by_first.is_rejected(&stale), "clock_skew");
    assert_eq!(by_first.is_rejected(&by_first.call(standing.epoch + 1, 7, fetch.clone())), "unknown_entity");
    let misled = EntityCall { manager: ManagerId::generate(now()), ..of(&by_first, 7, &fetch) };
    assert_eq!(by_first.is_rejected(&misled), "unknown_entity");
    // The key fetches, and does nothing else.
    assert_eq!(by_first.is_rejected(&of(&by_first, 8, &poll(0))), "unknown_entity");
    assert_eq!(by_first.is_rejected(&of(&by_first, 8, &subscribe(&second))), "unknown_entity");
    // What it counts keeps the entity from nothing.
    let far = of(&by_first, u64::MAX >> 2, &CallBody::Objects(ObjectsCall::Fetch(offer.version)));
    assert!(matches!(by_first.says(&far), ReplyBody::Objects(_)));
    assert!(matches!(caller.says(&of(&caller, 9, &poll(0))), ReplyBody::Work(_)));
    assert!(matches!(caller.says(&of(&caller, 10, &subscribe(&first))), ReplyBody::Subscribed));
    // What holds the newest list is offered nothing, and what holds a later one the whole.
    let of_held = |held, counter| {
        let body = CallBody::Objects(ObjectsCall::Fetch(held));
        let ReplyBody::Objects(offer) = by_first.says(&of(&by_first, counter, &body)) else {
            panic!("no objects")
        };
        offer.change.map(|change| change.base)
    };
    assert_eq!(of_held(offer.version, 9), None);
    assert_eq!(of_held(offer.version + 1, 10), Some(0));
    // Another key takes its place, and an operator revokes that one.
    assert!(matches!(caller.says(&of(&caller, 11, &subscribe(&second))), ReplyBody::Subscribed));
    assert_eq!(by_first.is_rejected(&of(&by_first, 12, &fetch)), "not_subscribed");
    let by_second = fetches(&second);
    assert!(matches!(by_second.says(&of(&by_second, 13, &fetch)), ReplyBody::Objects(_)));
    assert_eq!(fleet.cm(&["entities", "revoke-subscription", "caller"])["subscription"], "revoked");
    assert_eq!(by_second.is_rejected(&of(&by_second, 14, &fetch)), "not_subscribed");
    assert_eq!(caller.is_rejected(&of(&caller, 15, &subscribe(&first))), "subscription_revoked");
    // Leaving does not wash it clean.
    assert!(matches!(caller.says(&of(&caller, 16, &CallBody::Unregister)), ReplyBody::Left));
    let back = caller.call(0, 17, CallBody::Register(registration(None)));
    let ReplyBody::Registered(back) = caller.says(&back) else { panic!("not registered") };
    let _approved = fleet.cm(&["entities", "approve", "caller"]);
    assert_eq!(caller.is_rejected(&caller.call(back.epoch, 18, subscribe(&first))), "subscription_revoked");
    assert_eq!(fleet.cm(&["entities", "allow-subscription", "caller"])["subscription"], "none");
    let again = caller.call(back.epoch, 19, subscribe(&first));
    assert!(matches!(caller.says(&again), ReplyBody::Subscribed));
    let _rejected = fleet.cm(&["entities", "reject", "caller"]);
    let fetched = by_first.call(back.epoch, 20, fetch);
    assert_eq!(by_first.is_rejected(&fetched), "rejected_entity");
}

#[test]
fn many_instructions_go_out_in_order_and_once_over_one_connection() {
    let fleet = Fleet::new(Build::Shipped);
    let manager = Manager::new(&fleet);
    let road = Road::open();
    road.lead_to(manager.link_port);
    manager.introduce(&fleet);
    let token = manager.token(&fleet);
    let port = road.port().to_string();
    let often =
        ["--port", &port, "--heartbeat", "1s", "--abnormal-after", "3s", "--registration-token-file", &token];
    let _set = fleet.settings(&often).ok();
    let _status = fleet.json(&["manager", "register", "--update-source", "default"]);
    // More than one answer to a poll holds.
    for _ in 0..40 {
        let _issued = fleet.cm(&["instruct", "status", "--all"]);
    }
    manager.daemon().wait_for_count("instruction ended", 40);
    let acted: Vec<_> = fleet
        .server()
        .lines("instruction acted on")
        .iter()
        .map(|said| said["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(acted, (1..=40).collect::<Vec<_>>());
    let list = fleet.cm(&["instruct", "list"]);
    assert!(list.as_array().unwrap().iter().all(|one| one["successful"] == 1), "{list:#}");
    // One to register, one that is kept.
    assert_eq!(road.travellers(), 2);
}

#[test]
fn commands_that_wait_for_an_agent_that_is_away_keep_no_later_instruction_waiting() {
    let fleet = Fleet::new(Build::Shipped);
    let agent = fleet.agent("rome");
    assert!(agent.stop().success());
    let manager = Manager::new(&fleet);
    let _set = fleet.settings(&["--heartbeat", "1s", "--abnormal-after", "3s"]).ok();
    let _status = fleet.registered(&manager);
    // More than one poll can tell of.
    for _ in 0..70 {
        let _issued = fleet.cm(&["instruct", "ping", "--all"]);
    }
    let issued = fleet.cm(&["instruct", "status", "--all"]);
    manager.daemon().wait_for("instruction ended", |said| said["instruction.id"] == issued["instruction_id"]);
    // This server has the manager's answer a moment later.
    until("70 instructions are open", || fleet.line()["instructions_open"] == 70);
    // It comes back, and all of them end.
    let _agent = fleet.start_agent("rome", None);
    manager.daemon().wait_for_count("instruction ended", 71);
    let list = fleet.cm(&["instruct", "list"]);
    assert!(list.as_array().unwrap().iter().all(|one| one["successful"] == 1), "{list:#}");
}

#[test]
fn strangers_fill_the_list_of_those_who_wait_and_nothing_else() {
    let fleet = Fleet::new(Build::Shipped);
    let manager = Manager::new(&fleet);
    let mut caller = Caller::new(&fleet, &manager);
    let body = || CallBody::Register(registration(None));
    for number in 0..256 {
        caller.key = PrivateKey::generate(Algorithm::Ed25519);
        let registered = caller.says(&caller.call(0, 1, body()));
        let ReplyBody::Registered(standing) = registered else { panic!("{registered:?}") };
        // Leaving again makes no room at once.
        if number % 2 == 0 {
            assert!(matches!(
                caller.says(&caller.call(standing.epoch, 2, CallBody::Unregister)),
                ReplyBody::Left
            ));
        }
    }
    caller.key = PrivateKey::generate(Algorithm::Ed25519);
    assert_eq!(caller.is_rejected(&caller.call(0, 1, body())), "manager_full");
    // An entity with a token is no stranger.
    let status = fleet.registered(&manager);
    assert_eq!(status["state"], "registered");
    assert_eq!(fleet.cm(&["entities", "manager"])["entities_waiting"], 128);
}
