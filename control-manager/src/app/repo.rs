//! `writ-control-manager repo`: repositories of components (TUF 1.0), made and published without a manager.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use writ_common::daemon::Fatal;
use writ_common::passphrase;
use writ_common::say;
use writ_common::time::{Clock as _, SystemClock};
use writ_protocol::time::Timestamp;
use writ_updates::{Lifetimes, Name, Offered, Published, Role, Version, Workshop, WorkshopError};

use super::Output;

/// Bytes between two words of progress.
const STEP: u64 = 64 << 20;

#[derive(Debug, Subcommand)]
pub(super) enum Repo {
    /// Make a repository without components, and its keys. Its root is what servers pin.
    Init(Init),
    /// Plan a version of a component, in the place of the one before. Nothing is published yet.
    Add(Add),
    /// Plan a repository without a component. Servers that have it keep it.
    Remove(Remove),
    /// Sign what is planned and publish it. Do this also when nothing changed, before the timestamp ends.
    Publish(Publish),
    /// Replace keys, by a new root that servers follow to. What the replaced keys signed is signed anew.
    RotateRoot(RotateRoot),
    /// Show what is published, what is planned, and until when it counts. Exit code 1 when something of it
    /// has ended.
    Status(Status),
}

/// Which repository, and how to print.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The folder that is published: files for any web server.
    #[arg(long, value_name = "FOLDER")]
    repository: PathBuf,
    /// The folder of its keys and its plan. It is never published.
    #[arg(long, value_name = "FOLDER")]
    keys: PathBuf,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How long what is signed counts.
#[derive(Debug, Args)]
pub(super) struct Lasting {
    /// How long the word counts which components are the newest. Short: servers notice by it that somebody
    /// holds back what is newer.
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = humantime::parse_duration)]
    timestamp_lifetime: Duration,
    /// How long the list of metadata counts.
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = humantime::parse_duration)]
    snapshot_lifetime: Duration,
    /// How long the list of components counts.
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = humantime::parse_duration)]
    targets_lifetime: Duration,
}

impl Lasting {
    const fn lifetimes(&self) -> Lifetimes {
        Lifetimes {
            timestamp: self.timestamp_lifetime,
            snapshot: self.snapshot_lifetime,
            targets: self.targets_lifetime,
        }
    }
}

/// The key of the root.
#[derive(Debug, Args)]
pub(super) struct RootKey {
    /// File with the passphrase that seals the root's key. Without it the systemd credential
    /// `writ-passphrase` is used, or you are asked.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// How long the root counts.
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = humantime::parse_duration)]
    root_lifetime: Duration,
}

#[derive(Debug, Args)]
pub(super) struct Init {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    root_key: RootKey,
    #[command(flatten)]
    lasting: Lasting,
}

#[derive(Debug, Args)]
pub(super) struct Add {
    #[command(flatten)]
    place: Place,
    /// Which component: file-reputation or web-reputation for lists that `lists build` made, or a name of
    /// your own.
    #[arg(long, value_name = "NAME")]
    component: Name,
    /// Which version of it the file is.
    #[arg(long = "component-version", value_name = "VERSION")]
    version: Version,
    /// The file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    #[command(flatten)]
    place: Place,
    /// Which component.
    #[arg(long, value_name = "NAME")]
    component: Name,
}

#[derive(Debug, Args)]
pub(super) struct Publish {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    lasting: Lasting,
}

#[derive(Debug, Args)]
pub(super) struct RotateRoot {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    root_key: RootKey,
    #[command(flatten)]
    lasting: Lasting,
    /// Whose key is replaced: root, targets, snapshot or timestamp; repeat for several. That of the root
    /// unless given.
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<Role>,
    /// Replace no key: the root only counts longer.
    #[arg(long, conflicts_with = "roles")]
    keep_keys: bool,
}

#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(command: Repo) -> Result<(), Fatal> {
    match command {
        Repo::Init(options) => init(options).await,
        Repo::Add(options) => add(options),
        Repo::Remove(options) => remove(&options),
        Repo::Publish(options) => publish(&options).await,
        Repo::RotateRoot(options) => rotate_root(&options).await,
        Repo::Status(options) => status(&options),
    }
}

/// What a person can mend ends with the code for wrong values.
fn refused(error: WorkshopError) -> Fatal {
    match error {
        WorkshopError::File(_) | WorkshopError::Sign(_) | WorkshopError::Metadata { .. } => {
            Fatal::failure(error)
        }
        WorkshopError::Exists(_)
        | WorkshopError::Nothing(_)
        | WorkshopError::Sealed { .. }
        | WorkshopError::Key { .. }
        | WorkshopError::Component(_)
        | WorkshopError::Unknown(_)
        | WorkshopError::Numbers
        | WorkshopError::Lifetime => Fatal::usage(error),
    }
}

impl Place {
    fn open(&self) -> Result<Workshop, Fatal> {
        Workshop::open(&self.repository, &self.keys).map_err(refused)
    }

    fn say(&self, told: &impl Serialize, text: &str) -> Result<(), Fatal> {
        let text = match self.output {
            Output::Json => serde_json::to_string_pretty(told).map_err(Fatal::failure)?,
            Output::Text => text.to_owned(),
        };
        say::result(text).map_err(Fatal::failure)
    }

    /// Says what was published.
    fn published(&self, published: Published, text: &str) -> Result<(), Fatal> {
        let Published { root, targets, snapshot, timestamp, root_sha256, components } = published;
        let told = PublishedShown {
            root_file: self.repository.join("metadata").join(format!("{root}.root.json")),
            root_sha256: root_sha256.to_string(),
            root_version: root,
            targets_version: targets,
            snapshot_version: snapshot,
            timestamp_version: timestamp,
            components: components.into_iter().map(|(name, release)| Offered { name, release }).collect(),
        };
        self.say(&told, text)
    }
}

#[derive(Serialize)]
struct PublishedShown {
    root_file: PathBuf,
    root_sha256: String,
    root_version: u64,
    targets_version: u64,
    snapshot_version: u64,
    timestamp_version: u64,
    components: Vec<Offered>,
}

fn now() -> Timestamp {
    SystemClock::new().wall()
}

async fn init(options: Init) -> Result<(), Fatal> {
    let Init { place, root_key, lasting } = options;
    let passphrase = passphrase::ask(root_key.passphrase_file.as_deref(), "the key of the root", true)?;
    let folders = (place.repository.as_path(), place.keys.as_path());
    let made = Workshop::make(folders, &passphrase, root_key.root_lifetime, lasting.lifetimes(), now());
    let (_, published) = made.await.map_err(refused)?;
    let text = format!(
        "{}: a repository without components.\nServers pin its first root, {}, SHA-256 {}.\nIts keys are in {}. Keep root.key elsewhere; it is needed to replace keys, and before the root ends at {}.\nNext: writ-control-manager repo add, then repo publish",
        place.repository.display(),
        place.repository.join("metadata/1.root.json").display(),
        published.root_sha256,
        place.keys.display(),
        now() + root_key.root_lifetime,
    );
    place.published(published, &text)
}

fn add(options: Add) -> Result<(), Fatal> {
    let Add { place, component, version, file } = options;
    let mut said = 0;
    let mut told = |done: u64| {
        if done / STEP > said {
            said = done / STEP;
            say::aside(format_args!("{}: {} MiB copied", file.display(), done >> 20));
        }
    };
    let release = place.open()?.add(component.clone(), version, &file, &mut told).map_err(refused)?;
    let text = format!(
        "{component} {}: {} bytes, planned. Next: writ-control-manager repo publish",
        release.version, release.bytes
    );
    place.say(&Offered { name: component, release }, &text)
}

#[derive(Serialize)]
struct Removed<'a> {
    removed: &'a Name,
}

fn remove(options: &Remove) -> Result<(), Fatal> {
    let Remove { place, component } = options;
    place.open()?.remove(component).map_err(refused)?;
    let text = format!("{component} is out of the plan. Next: writ-control-manager repo publish");
    place.say(&Removed { removed: component }, &text)
}

async fn publish(options: &Publish) -> Result<(), Fatal> {
    let Publish { place, lasting } = options;
    let published = place.open()?.publish(lasting.lifetimes(), now()).await.map_err(refused)?;
    let text = format!(
        "Published: {} components, targets {}, timestamp {}. Publish again before {}",
        published.components.len(),
        published.targets,
        published.timestamp,
        now() + lasting.timestamp_lifetime,
    );
    place.published(published, &text)
}

async fn rotate_root(options: &RotateRoot) -> Result<(), Fatal> {
    let RotateRoot { place, root_key, lasting, roles, keep_keys } = options;
    let workshop = place.open()?;
    let passphrase = passphrase::ask(root_key.passphrase_file.as_deref(), "the key of the root", false)?;
    let roles = if roles.is_empty() && !keep_keys { &[Role::Root] } else { roles.as_slice() };
    let rotated = workshop.rotate(roles, &passphrase, root_key.root_lifetime, lasting.lifetimes(), now());
    let published = rotated.await.map_err(refused)?;
    let replaced: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
    let replaced = if replaced.is_empty() { "none".to_owned() } else { replaced.join(", ") };
    let text = format!(
        "Root {} is published; keys replaced: {replaced}. Servers follow by themselves; the root they pinned stays pinned",
        published.root
    );
    place.published(published, &text)
}

fn status(options: &Status) -> Result<(), Fatal> {
    let place = &options.place;
    let state = place.open()?.state().map_err(refused)?;
    let now = now();
    let (mut text, mut ended) = (String::new(), Vec::new());
    for role in &state.roles {
        let until = Timestamp::from_millis(role.expires_ms);
        let word = if until <= now { "ended" } else { "counts until" };
        if until <= now {
            ended.push(role.role);
        }
        let _ = writeln!(text, "{:10} {:>5}  {word} {until}", role.role, role.version);
    }
    for Offered { name, release } in &state.components {
        let _ = writeln!(text, "{name} {}: {} bytes, {}", release.version, release.bytes, release.sha256);
    }
    if state.is_unpublished {
        text.push_str("The plan was changed since. Next: writ-control-manager repo publish");
    }
    place.say(&state, text.trim_end())?;
    if let [first, ..] = state.problems.as_slice() {
        return Err(Fatal::failure(format!("{first}. Next: writ-control-manager repo publish")));
    }
    if ended.is_empty() {
        return Ok(());
    }
    let next = if ended.contains(&"root") { "repo rotate-root --keep-keys" } else { "repo publish" };
    Err(Fatal::failure(format!("{} ended: servers refuse it; writ-control-manager {next}", ended.join(", "))))
}
