//! What agents can do, by what they last said. It is asked before anything is signed, so that a slip of the
//! pen is found where it was made, and by people who look for an action. It decides nothing: agents do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use writ_common::status::Failure;
use writ_common::text::{plain, quoted};
use writ_protocol::command::{Action, ActionClass, NamedAction, Upgrade, is_own_action};
use writ_protocol::id::AgentId;
use writ_protocol::report::ReportedSchema;
use writ_protocol::schema::{ActionSchema, ParameterRule};

use crate::choose;
use crate::context::Server;
use crate::selector::Selector;
use crate::store::{AllowList, unavailable};

/// Names of agents that are said of a version.
pub(crate) const MAX_SAID: usize = 10;

/// An agent that is gone for less may be starting anew.
const MAY_COME_BACK: Duration = Duration::from_secs(120);

/// What an agent would do with a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outlook {
    /// Obey it, or it has not said yet what it can do.
    Obeys(ActionClass),
    /// Refuse it: its list does not have the action.
    Unlisted,
    /// Refuse it: it takes other parameters, and this is why.
    Misfit(ActionClass, String),
}

impl Outlook {
    /// Why it would refuse; empty: it would not.
    pub(crate) fn refusal(&self) -> &str {
        match self {
            Self::Obeys(_) => "",
            Self::Unlisted => "it is not on the agent's allow-list",
            Self::Misfit(_, why) => why,
        }
    }
}

/// One action before many agents. What it takes is read once of all agents that say the same.
#[derive(Debug)]
pub(crate) struct Outlooks<'a> {
    action: &'a Action,
    /// What the caller says is secret.
    by_caller: &'a BTreeSet<String>,
    known: HashMap<ReportedSchema, Known>,
    /// By how many agents each parameter is secret.
    secrets: BTreeMap<String, usize>,
    /// How many agents say what it takes.
    read: usize,
}

/// What agents with one and the same schema make of an action.
#[derive(Debug)]
struct Known {
    misfit: Option<String>,
    /// Its secret parameters; `None`: the schema cannot be read.
    secrets: Option<Vec<String>>,
}

/// Stands where a secret is not shown.
pub(crate) const SECRET: &str = "(secret)";

impl<'a> Outlooks<'a> {
    pub(crate) fn of(action: &'a Action, by_caller: &'a BTreeSet<String>) -> Self {
        Self { action, by_caller, known: HashMap::new(), secrets: BTreeMap::new(), read: 0 }
    }

    /// At one of them, by its last report.
    pub(crate) fn at(&mut self, agent: &AllowList) -> Outlook {
        let listed = agent.actions.iter().find(|listed| listed.name == self.action.name());
        match (listed, self.action, self.action.own_class()) {
            (Some(listed), Action::Upgrade(upgrade), Some(class)) => {
                match self.misfit(&listed.schema, |_, schema| unfit(upgrade, schema)) {
                    Some(why) => Outlook::Misfit(class, why),
                    None => Outlook::Obeys(class),
                }
            }
            // Root of a host allows it, and says so by it.
            (None, Action::Upgrade(_), _) => Outlook::Unlisted,
            (Some(_), _, Some(class)) => Outlook::Obeys(class),
            // One that has reported nothing yet can do what every agent can; its host may deny that later.
            (None, _, Some(class)) if !agent.has_reported => Outlook::Obeys(class),
            (Some(listed), Action::Run(named), None) => {
                match self.misfit(&listed.schema, |all, schema| all.mistake(named, schema)) {
                    Some(why) => Outlook::Misfit(listed.class, why),
                    None => Outlook::Obeys(listed.class),
                }
            }
            // It may have it, and be anything.
            (None, Action::Run(_), None) if !agent.has_reported => Outlook::Obeys(ActionClass::Destructive),
            (Some(_) | None, _, _) => Outlook::Unlisted,
        }
    }

    /// An action without the values of what the caller says is secret, or half of the agents. Not what one of
    /// many says: it could hide from the log what others were sent.
    fn without_secrets(&self, named: &NamedAction) -> String {
        let is_secret = |name: &String| {
            self.by_caller.contains(name)
                || self.secrets.get(name).is_some_and(|count| count * 2 >= self.read)
        };
        let mut shown = named.clone();
        let hidden = shown.parameters.iter_mut().filter(|(name, _)| is_secret(name));
        hidden.for_each(|(_, value)| SECRET.clone_into(value));
        Action::Run(shown).describe()
    }

    /// Why what is asked for does not fit what an agent says that it takes; looked at once for all that say
    /// the same.
    fn misfit(
        &mut self,
        schema: &ReportedSchema,
        look: impl FnOnce(&Self, &ActionSchema) -> Option<String>,
    ) -> Option<String> {
        if !self.known.contains_key(schema) {
            let read = schema.read();
            let secrets = read.as_ref().map(|read| {
                let secret = read.parameters.iter().filter(|(_, parameter)| parameter.is_secret);
                secret.map(|(name, _)| name.to_owned()).collect()
            });
            // A pattern is an agent's word, and could say anything.
            let misfit = read.and_then(|read| look(self, &read)).map(|why| quoted(&why));
            self.known.insert(schema.clone(), Known { misfit, secrets });
        }
        let known = &self.known[schema];
        // Each agent is counted, and not each way to say it: a few could outvote the others.
        if let Some(secrets) = &known.secrets {
            self.read += 1;
            for name in secrets {
                *self.secrets.entry(name.clone()).or_default() += 1;
            }
        }
        known.misfit.clone()
    }

    fn mistake(&self, named: &NamedAction, schema: &ActionSchema) -> Option<String> {
        let refused = schema.parameters.fill(&named.name, &named.parameters).err();
        refused.map(|refusal| refusal.detail.into_owned()).or_else(|| {
            let mut plain = schema.parameters.iter().filter(|(_, one)| !one.is_secret);
            let (name, _) = plain.find(|(name, _)| self.by_caller.contains(*name))?;
            Some(format!(
                "parameter `{name}` is not secret there: it would be an argument, which all of a host see"
            ))
        })
    }
}

/// Why none of the packages is of an agent's kind, which it says as a choice of one.
fn unfit(upgrade: &Upgrade, schema: &ActionSchema) -> Option<String> {
    let rules = schema.parameters.iter().map(|(_, parameter)| &parameter.rule);
    let kinds: Vec<_> = rules
        .filter_map(|rule| match rule {
            ParameterRule::Choice(choices) => Some(choices),
            ParameterRule::Text(_) | ParameterRule::Integer(..) => None,
        })
        .flatten()
        .collect();
    let fits = kinds.iter().any(|kind| upgrade.package(kind).is_some());
    (!fits).then(|| format!("no package is of its kind: {kinds:?}"))
}

/// What is known of an action before it is sent.
#[derive(Debug)]
pub(crate) struct Foreseen {
    /// The action as it may be shown: without the values of secret parameters.
    pub shown: String,
    /// Why nothing should be signed, if agents would refuse it.
    pub obstacle: Option<Failure>,
}

/// What agents last said of an action, all of them together; `secrets`: what the caller says is secret.
///
/// # Errors
/// When the store cannot be read.
pub(crate) async fn foresee(
    server: &Server,
    action: &Action,
    secrets: BTreeSet<String>,
    targets: &[AgentId],
) -> Result<Foreseen, Failure> {
    if !matches!(action, Action::Run(_) | Action::Upgrade(_)) {
        return Ok(Foreseen { shown: action.describe(), obstacle: None });
    }
    let name = action.name();
    let mut tables = server.store.action_tables(targets, Some(name)).await.map_err(unavailable)?;
    let registry = server.dispatcher.registry();
    let now = server.clock.wall();
    for agent in &mut tables {
        // What the store knows of an agent that has just come may be of before it came, and one that has just
        // gone may come back with another list: agents read theirs when they start.
        let has_gone = !registry.is_connected(agent.id) && now.since(agent.last_contact) < MAY_COME_BACK;
        agent.has_reported &= !has_gone && !registry.is_about_to_report(agent.id);
    }
    let (asked, count) = (action.clone(), tables.len());
    let looked = blocking(move || look(&asked, &secrets, &tables)).await?;
    let obstacle = match looked.misfit {
        Some((agent, why)) => Some(format!(
            "{} of {count} agents would refuse it, such as {agent}: {why}; what it takes: writ actions show {name}; to send it all the same: --unchecked. Nothing was signed",
            looked.misfits
        )),
        None if looked.lacking == count && matches!(action, Action::Upgrade(_)) => Some(format!(
            "the host of none of these {count} agents lets its agent be upgraded by commands; there, as root: writ-agent upgrade allow. Nothing was signed"
        )),
        // One that has not said what it can do may have it.
        None if looked.lacking == count => {
            let meant = likeliest(server, targets, name).await?;
            let meant = meant.map_or_else(|| ".".to_owned(), |meant| format!("; did you mean `{meant}`?"));
            Some(format!(
                "no agent of these {count} has `{name}` on its list{meant} See: writ actions list; to send it all the same: --unchecked. Nothing was signed"
            ))
        }
        None => None,
    };
    let obstacle = obstacle.map(|text| Failure::precondition("would_be_refused", text));
    Ok(Foreseen { shown: looked.shown, obstacle })
}

/// What of many agents stands against an action.
struct Looked {
    shown: String,
    misfits: usize,
    misfit: Option<(String, String)>,
    lacking: usize,
}

fn look(action: &Action, secrets: &BTreeSet<String>, tables: &[AllowList]) -> Looked {
    let mut outlooks = Outlooks::of(action, secrets);
    let (mut misfits, mut misfit, mut lacking) = (0, None, 0);
    for agent in tables {
        match outlooks.at(agent) {
            Outlook::Misfit(_, why) if agent.has_reported => {
                misfits += 1;
                misfit.get_or_insert_with(|| (plain(&agent.name), why));
            }
            Outlook::Unlisted if agent.has_reported => lacking += 1,
            Outlook::Misfit(..) | Outlook::Unlisted | Outlook::Obeys(_) => {}
        }
    }
    let shown = match action {
        Action::Run(named) => outlooks.without_secrets(named),
        other => other.describe(),
    };
    Looked { shown, misfits, misfit, lacking }
}

/// Does what takes a while where it keeps no session waiting: agents say what is matched, and values are
/// long.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Failure::unavailable("the server is shutting down"))
}

/// What a mistyped action was meant to be, if a name that agents have is like it.
async fn likeliest(server: &Server, targets: &[AgentId], name: &str) -> Result<Option<String>, Failure> {
    let tables = server.store.action_tables(targets, None).await.map_err(unavailable)?;
    let listed = tables.into_iter().flat_map(|table| table.actions).map(|listed| listed.name);
    let known: BTreeSet<_> = listed.filter(|listed| !is_own_action(listed)).collect();
    let like = known.into_iter().map(|listed| (strsim::damerau_levenshtein(&listed, name), listed));
    Ok(like.filter(|(distance, _)| *distance <= MAX_SLIP).min().map(|(_, listed)| listed))
}

/// Letters of a name that a slip of the pen changes, adds, leaves out or exchanges.
const MAX_SLIP: usize = 2;

/// An action, and how many agents have it.
#[derive(Debug)]
pub(crate) struct ListedBy {
    /// The strictest class an agent gives it.
    pub class: ActionClass,
    /// Who has it: class and what it takes, with the agents that say so.
    pub versions: BTreeMap<Version, Vec<(AgentId, String)>>,
}

/// What some agents say of an action in the same words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    /// The class.
    pub class: ActionClass,
    schema: Vec<u8>,
}

impl Version {
    /// What it takes; `None` when nobody said so.
    pub(crate) fn schema(&self) -> Option<ActionSchema> {
        ReportedSchema::from_wire(self.schema.clone().into()).read()
    }
}

impl ListedBy {
    /// How many agents have it.
    pub(crate) fn agents(&self) -> usize {
        self.versions.values().map(Vec::len).sum()
    }
}

/// What the agents of a selection have on their lists, by name; of one action alone, if it is named.
///
/// # Errors
/// When the store cannot be read.
pub(crate) async fn listed(
    server: &Server,
    selector: Option<&Selector>,
    action: Option<&str>,
) -> Result<BTreeMap<String, ListedBy>, Failure> {
    let agents = match selector {
        Some(selector) => choose::agents(server, selector).await?,
        None => server.store.agent_ids(None).await.map_err(unavailable)?,
    };
    let mut listed = BTreeMap::<String, ListedBy>::new();
    let tables = server.store.action_tables(&agents, action).await.map_err(unavailable)?;
    for AllowList { id, name, actions, has_reported: _, last_contact: _ } in tables {
        for action in actions {
            let class = action.class;
            let version = Version { class, schema: action.schema.to_wire().to_vec() };
            let by = ListedBy { class, versions: BTreeMap::new() };
            let known = listed.entry(action.name).or_insert(by);
            known.class = known.class.max(class);
            known.versions.entry(version).or_default().push((id, name.clone()));
        }
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use writ_protocol::id::{AgentId, Digest};
    use writ_protocol::report::ReportedSchema;
    use writ_protocol::schema::{ActionSchema, Parameter, ParameterRule, Pattern};
    use writ_protocol::time::Timestamp;

    use super::*;
    use crate::store::ListedAction;

    /// An agent whose `login` takes a password, which it says is secret or not.
    fn agent(number: u8, is_secret: bool, seconds: u64) -> AllowList {
        let rule = ParameterRule::Text(Pattern::new(".+").unwrap());
        let password = Parameter { rule, default: None, is_secret };
        let schema = ActionSchema {
            timeout: Duration::from_secs(seconds),
            is_idempotent: false,
            parameters: std::iter::once(("password".to_owned(), password)).collect(),
            definition: Digest::of(&[number]),
        };
        let schema = ReportedSchema::from(&schema);
        AllowList {
            id: AgentId::from_bytes([number; 16]),
            name: format!("host-{number}"),
            actions: vec![ListedAction { name: "login".to_owned(), class: ActionClass::Change, schema }],
            has_reported: true,
            last_contact: Timestamp::ZERO,
        }
    }

    #[test]
    fn agents_are_counted_to_know_what_is_secret_and_not_the_ways_they_say_it() {
        let parameters = vec![("password".to_owned(), "hunter2".to_owned())];
        let login = Action::Run(NamedAction { name: "login".to_owned(), parameters });
        let hides = |agents: &[AllowList]| look(&login, &BTreeSet::new(), agents).shown.contains(SECRET);
        let said_alike = |count: u8| (1..=count).map(|_| agent(1, true, 10));
        let said_apart = |count: u8| (1..=count).map(|number| agent(number + 9, false, number.into()));
        assert!(hides(&said_alike(5).chain(said_apart(3)).collect::<Vec<_>>()));
        assert!(hides(&said_alike(3).chain(said_apart(3)).collect::<Vec<_>>()), "a tie hides");
        assert!(!hides(&said_alike(2).chain(said_apart(3)).collect::<Vec<_>>()));
        assert!(!hides(&said_apart(3).collect::<Vec<_>>()));
    }
}
