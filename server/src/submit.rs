//! The one door for commands: all that agents are asked to do comes through [`submit`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tracing::info;
use writ_common::admin::audit::SentCommand;
use writ_common::admin::{Actor, AdminBackend as _, AuditLog, AuditedCall, chosen_by};
use writ_common::status::Failure;
use writ_proto::v1 as proto;
use writ_protocol::audience::AudienceTree;
use writ_protocol::command::Action;
use writ_protocol::id::{AgentId, CommandId, Digest};
use writ_protocol::rollout::Seed;
use writ_protocol::time::Timestamp;

use crate::actions::{Foreseen, foresee};
use crate::choose::{self, Selection, resolve};
use crate::context::Server;
use crate::dispatch::Terms;
use crate::metrics;
use crate::rollouts::{RolloutPlace, Staging};
use crate::sign::{CommandDraft, SignedCommand};
use crate::store::rules::rollout::Plan;
use crate::store::unavailable;
use crate::store::{CommandRow, NewCommand, RolloutRow};
use crate::traces::{Moment, Submission, TraceParent};

/// A well-formed request.
#[derive(Debug)]
pub(crate) struct Request {
    /// The caller's id for it, so that asking twice is asking once.
    pub id: Option<CommandId>,
    /// For whom.
    pub selection: Selection,
    /// How long it may wait.
    pub lifetime: Duration,
    /// What to do.
    pub action: Action,
    /// How it reaches its agents, if not all at once.
    pub rollout: Option<Staging>,
    /// The caller's own span.
    pub parent: Option<TraceParent>,
    /// What must hold, or nothing is signed.
    pub expects: Expectations,
    /// Names of the parameters that are shown to nobody.
    pub secrets: BTreeSet<String>,
}

/// What a caller takes for granted.
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    /// That agents have the action and its parameters, by what they last said.
    pub obedience: bool,
    /// That it is for these.
    pub audience: Option<Digest>,
}

/// What a submission came to.
#[derive(Debug)]
pub(crate) enum Submitted {
    /// A new command, for so many targets.
    New(CommandRow, usize),
    /// The same request under the same id was submitted before.
    Known(CommandId),
}

/// Resolves, signs, stores and sends.
///
/// # Errors
/// When nobody is chosen, a name is unknown or ambiguous, an id is taken, or nothing may be signed now.
pub(crate) async fn submit(
    server: &Arc<Server>,
    actor: &Actor,
    request: Request,
) -> Result<Submitted, Failure> {
    let came = Moment::now(&*server.clock);
    let fingerprint = fingerprint(actor, &request);
    if let Some(id) = request.id {
        // Before resolving: the fleet may have grown since the first submission.
        match server.store.request_of(id).await.map_err(unavailable)? {
            Some(known) if known == fingerprint || known == first_fingerprint(actor, &request) => {
                return Ok(Submitted::Known(id));
            }
            Some(_) => return Err(taken(id)),
            None => {}
        }
    }
    let Request { id, selection, lifetime, action, rollout, parent, expects, secrets } = request;
    let asked = selection.describe();
    let selection = choose::expand_all(server, selection).await?;
    let chosen_by = match selection.describe() {
        same if same == asked => chosen_by(&same),
        stood => chosen_by(&format!("{asked} ({stood})")),
    };
    let id = id.unwrap_or_else(|| CommandId::generate(server.clock.wall()));
    let targets = resolve(server, selection).await?;
    check_scope(server, actor, action.name(), &targets).await?;
    let (targets, rollout) = match rollout {
        None => (targets, None),
        Some(staging) => {
            let place = server.rollouts.reserve()?;
            let (targets, plan) = stage(server, &staging, targets, lifetime)?;
            (targets, Some((staging.seed, plan, place)))
        }
    };
    let seed = rollout.as_ref().map(|(seed, ..)| *seed);
    let Foreseen { shown, obstacle } = foresee(server, &action, secrets, &targets).await?;
    if let Some(obstacle) = obstacle.filter(|_| expects.obedience) {
        return Err(obstacle);
    }
    if let Some(expected) = expects.audience {
        check_audience(expected, seed, &targets)?;
    }
    // Last before it is signed: what was refused until here takes no place.
    let now = server.clock.wall();
    server.quotas.take(actor, now, now + lifetime)?;
    let requested_by = actor.name.clone();
    let draft = CommandDraft { id, targets, lifetime, requested_by, rollout: seed, action };
    let signed = server.signer.command(draft)?;
    let stamps = (came, Moment::now(&*server.clock), parent);
    // A task of its own: a caller that hangs up now must not leave a stored command that nobody sends.
    let task = server.shutdown.spawn(record_and_send(
        Arc::clone(server),
        (signed, rollout),
        fingerprint,
        (actor.clone(), shown, chosen_by),
        stamps,
    ));
    task.await.map_err(|_| Failure::unavailable("the server is shutting down"))?
}

/// Whether it is for those whom the caller was shown.
fn check_audience(expected: Digest, seed: Option<Seed>, targets: &[AgentId]) -> Result<(), Failure> {
    let tree = AudienceTree::of(seed, targets);
    let root = tree.map_err(|error| Failure::invalid("agents", error.to_string()))?.audience().root;
    if root == expected {
        return Ok(());
    }
    let text = format!(
        "{} agents are chosen now, and they are not those that were shown; look again: --dry-run. Nothing was signed",
        targets.len()
    );
    Err(Failure::precondition("targets_changed", text))
}

/// Whether a caller may send agents an action.
///
/// # Errors
/// When it or one of them is outside of the caller's scope.
pub(crate) async fn check_scope(
    server: &Server,
    actor: &Actor,
    action: &str,
    targets: &[AgentId],
) -> Result<(), Failure> {
    let Actor { name, scope, .. } = actor;
    if !scope.allows(action) {
        let text = format!("`{name}` may send {}, and not `{action}`", scope.actions.replace(',', ", "));
        return Err(Failure::denied("scope_action", text));
    }
    if scope.selector.is_empty() {
        return Ok(());
    }
    let limit = choose::parse(&scope.selector)?;
    // One that was made when these words were a label's name must not let its holder command everybody.
    if !limit.is_about_attributes() {
        let text = format!(
            "the scope of `{name}` asks how agents stand: {limit}; an admin gives another token: writ operator create"
        );
        return Err(Failure::denied("scope_agents", text));
    }
    let mut within = server.store.agent_ids(Some(&limit)).await.map_err(unavailable)?;
    within.sort_unstable();
    let mut outside = targets.iter().filter(|agent| within.binary_search(agent).is_err());
    let Some(first) = outside.next() else { return Ok(()) };
    let (outside, targets) = (outside.count() + 1, targets.len());
    let row = server.store.agent(*first, server.clock.wall()).await.map_err(unavailable)?;
    let first = row.map_or_else(|| first.to_string(), |row| row.name);
    let text = format!(
        "{outside} of {targets} agents, such as {first}, are outside of what `{name}` may command: {limit}; see: writ agents list --selector '{limit}'"
    );
    Err(Failure::denied("scope_agents", text))
}

/// The same of a command that was sent before: whether a caller may end it, or carry it on. Who sent it may
/// always end it, also when an agent was relabelled or removed since.
///
/// # Errors
/// When it is outside of the caller's scope, or there is no such command.
pub(crate) async fn check_scope_of(
    server: &Server,
    actor: &Actor,
    id: CommandId,
    is_ending: bool,
) -> Result<(), Failure> {
    if actor.scope.is_everything() {
        return Ok(());
    }
    let unknown = || Failure::not_found(format!("there is no command {id}; see: writ commands list"));
    let row = server.store.command(id).await.map_err(unavailable)?.ok_or_else(unknown)?;
    if is_ending && row.requested_by == actor.name {
        return Ok(());
    }
    let stored = server.store.envelope(id).await.map_err(unavailable)?.ok_or_else(unknown)?;
    let action = row.action.split(' ').next().unwrap_or_default();
    check_scope(server, actor, action, &stored.targets).await
}

/// Puts agents into the order of their rollout.
///
/// # Errors
/// When there are too many, or the command would expire before its last wave.
pub(crate) fn stage(
    server: &Server,
    staging: &Staging,
    mut targets: Vec<AgentId>,
    lifetime: Duration,
) -> Result<(Vec<AgentId>, Plan), Failure> {
    choose::order(&mut targets, staging.seed);
    let count =
        u32::try_from(targets.len()).map_err(|error| Failure::invalid("agents", error.to_string()))?;
    let plan = staging.plan(count, lifetime, server.clock.wall())?;
    Ok((targets, plan))
}

async fn record_and_send(
    server: Arc<Server>,
    (signed, rollout): (SignedCommand, Option<(Seed, Plan, RolloutPlace)>),
    fingerprint: Digest,
    (actor, shown, chosen_by): (Actor, String, String),
    (came, signed_at, parent): (Moment, Moment, Option<TraceParent>),
) -> Result<Submitted, Failure> {
    let SignedCommand { command, envelope, targets, tree } = signed;
    let (id, by) = (command.id, actor.name.clone());
    let new = NewCommand {
        id,
        digest: envelope.digest(),
        request_digest: fingerprint,
        envelope: envelope.bytes().clone(),
        action: shown.clone(),
        requested_by: command.requested_by,
        issued_at: command.window.issued_at,
        expires_at: command.window.expires_at,
        targets: targets.clone(),
        rollout: rollout.as_ref().map(|(seed, plan, _)| Box::new((*seed, plan.clone()))),
        call: server.audit_entry(AuditedCall {
            log: AuditLog::Changes,
            actor,
            subject: id.to_string(),
            sent: Some(Box::new(SentCommand {
                action: shown,
                agents: u32::try_from(targets.len()).unwrap_or(u32::MAX),
                chosen_by,
            })),
            outcome: "ok",
        }),
    };
    let row = CommandRow {
        sequence: 0,
        id,
        digest: new.digest,
        action: new.action.clone(),
        requested_by: new.requested_by.clone(),
        issued_at: new.issued_at,
        expires_at: new.expires_at,
        cancelled_at: Timestamp::ZERO,
    };
    let recorded = server.store.record_command(new).await.map_err(unavailable)?.ok_or_else(|| taken(id))?;
    writ_common::checkpoint!("command_stored");
    if !recorded.is_new() {
        return Ok(Submitted::Known(id));
    }
    let action = command.action.name();
    let submission =
        Submission { action, came, signed: signed_at, recorded: Moment::now(&*server.clock), parent };
    info!(
        target: "audit",
        { command.id = %id, actor = by, action = row.action, targets = targets.len() },
        "command recorded"
    );
    metrics::count_command();
    match rollout {
        None => {
            let terms = Terms::of(action, row.expires_at);
            server.dispatcher.announce(&recorded, (envelope.bytes().clone(), terms), tree, &targets);
        }
        Some((seed, plan, place)) => {
            let row = RolloutRow::new(&row, seed, plan, targets.len());
            server.rollouts.begin(row, place, &targets).await;
        }
    }
    server.traces.submitted(&row, targets.len(), &submission, Moment::now(&*server.clock));
    Ok(Submitted::New(row, targets.len()))
}

fn taken(id: CommandId) -> Failure {
    Failure::exists(format!("command {id} exists and is a different one; leave the id away for a new one"))
}

/// Identifies a request: [`Digest::of_parts`] of the caller's name, the lifetime, the action as it would be
/// signed, and the selection.
fn fingerprint(actor: &Actor, request: &Request) -> Digest {
    let Request { id: _, selection, lifetime, action, rollout, parent: _, expects: _, secrets: _ } = request;
    let action = proto::Command { action: Some(action.into()), ..proto::Command::default() }.encode_to_vec();
    let (kind, names) = selection.parts();
    let lifetime = lifetime.as_millis().to_be_bytes();
    let fixed = [actor.name.as_bytes(), &lifetime, &action, kind.as_bytes()];
    // Without a rollout as before there were any: commands are kept for good.
    let rollout = rollout.as_ref().map(|staging| staging.asked.encode_to_vec());
    let rollout = rollout.iter().flat_map(|asked| [b"rollout".as_slice(), asked]);
    Digest::of_parts(fixed.into_iter().chain(names.iter().map(String::as_bytes)).chain(rollout))
}

/// The same as the first builds stored it. Commands are kept for good, so this stays.
fn first_fingerprint(actor: &Actor, request: &Request) -> Digest {
    let Request { id: _, selection, lifetime, action, rollout: _, parent: _, .. } = request;
    Digest::of(format!("{:?}", (&actor.name, selection, lifetime, action)).as_bytes())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use writ_common::admin::Role;
    use writ_common::admin::operators::Scope;
    use writ_protocol::command::{NamedAction, Settings};

    use super::*;

    fn anna() -> Actor {
        Actor {
            name: "anna".to_owned(),
            role: Role::Operator,
            method: "/a/B",
            request: None,
            scope: Scope::default(),
        }
    }

    fn request(selection: Selection, seconds: u64, action: Action) -> Request {
        let lifetime = Duration::from_secs(seconds);
        let expects = Expectations::default();
        let secrets = BTreeSet::new();
        Request { id: None, selection, lifetime, action, rollout: None, parent: None, expects, secrets }
    }

    fn run(parameters: &[(&str, &str)]) -> Action {
        let owned = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Action::Run(NamedAction::new("restart".to_owned(), owned.collect()).unwrap())
    }

    #[test]
    fn two_requests_are_the_same_if_all_of_them_is() {
        let named = |names: &[&str]| Selection::Named(names.iter().map(|name| (*name).to_owned()).collect());
        let matching = || Selection::Matching(choose::parse("site=rome").unwrap());
        let all = [
            request(Selection::All, 60, Action::Ping),
            request(Selection::All, 61, Action::Ping),
            request(Selection::All, 60, Action::Inventory),
            request(named(&["all"]), 60, Action::Ping),
            request(named(&["a", "b"]), 60, Action::Ping),
            request(named(&["ab"]), 60, Action::Ping),
            request(named(&["site=rome"]), 60, Action::Ping),
            request(matching(), 60, Action::Ping),
            request(matching(), 60, run(&[])),
            request(matching(), 60, run(&[("a", "bc")])),
            request(matching(), 60, run(&[("ab", "c")])),
        ];
        let mut digests: BTreeSet<_> = all.iter().map(|one| fingerprint(&anna(), one)).collect();
        let vera = Actor { name: "vera".to_owned(), ..anna() };
        digests.insert(fingerprint(&vera, &all[0]));
        assert_eq!(digests.len(), all.len() + 1);
        let again = request(matching(), 60, run(&[("a", "bc")]));
        assert_eq!(fingerprint(&anna(), &again), fingerprint(&anna(), &all[9]));
    }

    #[test]
    fn what_the_first_builds_stored_is_known_again() {
        let settings = Settings {
            revision: 1,
            heartbeat: Some(Duration::from_secs(30)),
            endpoints: vec!["a:1".to_owned()],
            log_filter: None,
        };
        for (request, stored) in [
            (request(Selection::All, 60, Action::Ping), r#"("anna", All, 60s, Ping)"#),
            (
                request(Selection::Named(vec!["web1".to_owned()]), 3600, run(&[("unit", "nginx")])),
                r#"("anna", Named(["web1"]), 3600s, Run(NamedAction { name: "restart", parameters: [("unit", "nginx")] }))"#,
            ),
            (
                request(Selection::Matching(choose::parse("site=rome,!old").unwrap()), 1, Action::Inventory),
                r#"("anna", Matching(Selector([Requirement { name: "site", values: ["rome"], is_negated: false }, Requirement { name: "old", values: [], is_negated: true }])), 1s, Inventory)"#,
            ),
            (
                request(Selection::All, 5, Action::ApplySettings(settings)),
                r#"("anna", All, 5s, ApplySettings(Settings { revision: 1, heartbeat: Some(30s), endpoints: ["a:1"], log_filter: None }))"#,
            ),
        ] {
            assert_eq!(first_fingerprint(&anna(), &request), Digest::of(stored.as_bytes()), "{request:?}");
        }
    }
}
