//! `writ-server updates …`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use writ_common::daemon::Fatal;
use writ_common::files;
use writ_common::say;
use writ_common::shutdown::Shutdown;
use writ_common::time::SystemClock;
use writ_protocol::time::Timestamp;
use writ_updates::{Held, LastRun, Name, Offered, Outcome, Progress, Reason, Release, UpdateError};

use super::local::Place;
use crate::authority::publisher::TrustPublisher;
use crate::cm_bridge::{Bridge, UpdateSource};
use crate::updates::settings::{Choice, Settings};
use crate::updates::source::{self, Chosen};
use crate::updates::{Surroundings, Updates};

#[derive(Debug, Subcommand)]
pub(super) enum Update {
    /// Where components come from.
    #[command(subcommand)]
    Source(Source),
    /// Fetch what the source has, verify it, and bring it into force: all of it or nothing.
    Sync {
        #[command(flatten)]
        place: Place,
    },
    /// How often a run begins by itself. Every hour unless set.
    Schedule {
        #[command(flatten)]
        place: Place,
        /// So often, 5 minutes to 30 days.
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, required_unless_present = "off", conflicts_with = "off")]
        every: Option<Duration>,
        /// Only when somebody asks.
        #[arg(long)]
        off: bool,
    },
    /// Go back to the version before; runs leave it alone until it is released.
    Rollback {
        #[command(flatten)]
        place: Place,
        /// Which component.
        component: Name,
    },
    /// Let the next run replace a component that was gone back to.
    Release {
        #[command(flatten)]
        place: Place,
        /// Which component.
        component: Name,
    },
    /// Which versions are in force, since when, and how the last run ended. Exit code 1 when it failed or was
    /// killed, or when the source lacks something.
    Status {
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Source {
    /// Show it, and what is missing.
    Show {
        #[command(flatten)]
        place: Place,
    },
    /// Choose it, and pin the root of its repository.
    Set {
        #[command(flatten)]
        place: Place,
        /// Which.
        #[arg(value_enum)]
        source: SourceKind,
        /// The folder with `metadata` and `targets` in it: https://, http:// or file://.
        #[arg(long, value_name = "URL", required_if_eq("source", "custom"))]
        url: Option<String>,
        /// A root of the repository that you got from somebody you trust, such as 1.root.json.
        #[arg(long, value_name = "FILE", required_if_eq("source", "custom"))]
        root: Option<PathBuf>,
        /// Who vouches for the web server, PEM. Those this host trusts unless given.
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// Not by the proxy that is set for the Control Manager.
        #[arg(long)]
        direct: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum SourceKind {
    /// The update server of the configuration.
    Default,
    /// The Control Manager this server is registered with.
    Manager,
    /// An address.
    Custom,
}

/// What a command on the local files needs.
struct Opened {
    updates: Updates,
    bridge: Bridge,
    publisher: TrustPublisher,
}

async fn open(place: &Place, shutdown: &Shutdown) -> Result<Opened, Fatal> {
    let config = place.folder.config()?;
    let publisher = place.reader(shutdown).await?;
    let bridge = Bridge::open(&publisher.files, &publisher.store, config.listen_notify).await;
    let bridge = bridge.map_err(|error| Fatal::caused("cannot look", &error))?;
    Ok(Opened { updates: Updates::of(&config, &publisher.files), bridge, publisher })
}

impl Opened {
    fn around(&self, shutdown: &Shutdown) -> Surroundings<'_> {
        Surroundings {
            updates: &self.updates,
            bridge: &self.bridge,
            clock: Arc::new(SystemClock::new()),
            shutdown: shutdown.clone(),
        }
    }

    /// Before it is done: a change without a trace is worse than a trace of one that failed.
    async fn record(&self, command: &'static str, subject: String) -> Result<(), Fatal> {
        self.publisher.record_about(command, subject).await.map_err(Fatal::failure)
    }

    fn change(&self, change: impl FnOnce(&mut Settings) -> Result<(), UpdateError>) -> Result<(), Fatal> {
        Settings::change(&self.updates.folder, change).map(|_| ()).map_err(refused)
    }
}

/// What a person can mend ends with the code for wrong values.
fn refused(error: UpdateError) -> Fatal {
    match error.reason {
        Reason::NoSource
        | Reason::NoRoot
        | Reason::Unknown
        | Reason::NothingEarlier
        | Reason::NotHeld
        | Reason::BadSchedule => Fatal::usage(error),
        _ => Fatal::failure(error),
    }
}

pub(super) async fn run(verb: Update, shutdown: Shutdown) -> Result<(), Fatal> {
    match verb {
        Update::Source(Source::Show { place }) => {
            let opened = open(&place, &shutdown).await?;
            say_source(&place, &opened, &shutdown)
        }
        Update::Source(Source::Set { place, source, url, root, ca, direct }) => {
            let opened = open(&place, &shutdown).await?;
            let (choice, subject) = choice(&opened, (source, url, root, ca), direct)?;
            opened.record("writ-server updates source set", subject).await?;
            opened.change(|settings| settings.choose(choice, direct))?;
            say_source(&place, &opened, &shutdown)
        }
        Update::Sync { place } => {
            let opened = open(&place, &shutdown).await?;
            opened.record("writ-server updates sync", String::new()).await?;
            synchronise(&place, opened, &shutdown).await
        }
        Update::Schedule { place, every, off: _ } => {
            let opened = open(&place, &shutdown).await?;
            // What is shorter than a second is too short, and not never.
            let seconds = every.map_or(0, |every| every.as_secs().max(1));
            opened.record("writ-server updates schedule", format!("every {seconds} s")).await?;
            opened.change(|settings| settings.set_every(seconds))?;
            say_status(&place, &opened, &shutdown)
        }
        Update::Rollback { place, component } => {
            let opened = open(&place, &shutdown).await?;
            opened.record("writ-server updates rollback", component.to_string()).await?;
            opened.updates.folder.roll_back(&component, opened.publisher.now).map_err(refused)?;
            say_status(&place, &opened, &shutdown)
        }
        Update::Release { place, component } => {
            let opened = open(&place, &shutdown).await?;
            opened.record("writ-server updates release", component.to_string()).await?;
            opened.updates.folder.release(&component).map_err(refused)?;
            say_status(&place, &opened, &shutdown)
        }
        Update::Status { place } => {
            let opened = open(&place, &shutdown).await?;
            say_status(&place, &opened, &shutdown)?;
            let is_missing = source::show(&opened.around(&shutdown)).map_err(refused)?.is_missing;
            let folder = &opened.updates.folder;
            let outcome = || folder.last_run().map(|run| run.map(|run| run.outcome)).map_err(refused);
            match outcome()? {
                Some(Outcome::Failed { .. }) => Err(Fatal::said()),
                Some(Outcome::UnderWay) => match folder.lock() {
                    // Nobody is at it, and it did not end before the lock was had: it was killed.
                    Ok(_alone) if outcome()? == Some(Outcome::UnderWay) => Err(Fatal::said()),
                    _ => Ok(()),
                },
                _ if is_missing => Err(Fatal::said()),
                _ => Ok(()),
            }
        }
    }
}

type Given = (SourceKind, Option<String>, Option<PathBuf>, Option<PathBuf>);

/// What is chosen, and how the audit log names it.
fn choice(
    opened: &Opened,
    (source, url, root, ca): Given,
    is_direct: bool,
) -> Result<(Choice, String), Fatal> {
    let is_manager_chosen = opened.bridge.held().registration.source == UpdateSource::Manager;
    let read = |path: PathBuf| files::read(&path).map_err(Fatal::usage);
    let root = root.map(read).transpose()?;
    let authority = ca.map(read).transpose()?;
    let choice = match source {
        // The registration with the manager is the running server's.
        SourceKind::Manager if !is_manager_chosen => {
            return Err(Fatal::usage(
                "the manager is not chosen in the registration with it: writ manager update-source manager",
            ));
        }
        SourceKind::Default | SourceKind::Custom if is_manager_chosen => {
            return Err(Fatal::usage(
                "the manager is the source, by the registration with it; first: writ manager update-source default",
            ));
        }
        SourceKind::Manager if url.is_none() && authority.is_none() => Choice::Manager(root),
        SourceKind::Custom => {
            Choice::Custom { url: url.unwrap_or_default(), root: root.unwrap_or_default(), authority }
        }
        SourceKind::Default if url.is_none() && authority.is_none() && root.is_none() => Choice::Default,
        SourceKind::Default | SourceKind::Manager => {
            return Err(Fatal::usage(
                "--url and --ca belong to a custom source, --root to a custom one or the manager; those of the default update server are set in the configuration: updates.url, updates.root, updates.ca",
            ));
        }
    };
    let subject = choice.describe(is_direct).map_err(refused)?;
    Ok((choice, subject))
}

#[derive(Serialize)]
struct SourceShown {
    update_source: &'static str,
    url: String,
    root_sha256: Option<String>,
    authority_set: bool,
    direct: bool,
    next: String,
}

fn shown(opened: &Opened, shutdown: &Shutdown) -> Result<SourceShown, Fatal> {
    let shown = source::show(&opened.around(shutdown)).map_err(refused)?;
    let update_source = match shown.chosen {
        Chosen::Default => "default",
        Chosen::Manager => "manager",
        Chosen::Custom => "custom",
    };
    Ok(SourceShown {
        update_source,
        url: shown.url,
        root_sha256: shown.root.map(|root| root.to_string()),
        authority_set: shown.has_authority,
        direct: shown.is_direct,
        next: shown.next,
    })
}

fn source_text(shown: &SourceShown) -> String {
    let SourceShown { update_source, url, root_sha256, next, .. } = shown;
    let mut text = format!("source  {update_source}");
    if !url.is_empty() {
        text += &format!("  {url}");
    }
    if let Some(root) = root_sha256 {
        text += &format!("\nroot    SHA-256 {root}");
    }
    if !next.is_empty() {
        text += &format!("\nNothing is fetched: {next}");
    }
    text
}

fn say_source(place: &Place, opened: &Opened, shutdown: &Shutdown) -> Result<(), Fatal> {
    let shown = shown(opened, shutdown)?;
    place.say(&shown, &source_text(&shown))
}

#[derive(Serialize)]
struct StatusShown {
    source: SourceShown,
    every_seconds: u64,
    last_run: Option<LastRun>,
    components: Vec<ComponentShown>,
}

#[derive(Serialize)]
struct ComponentShown {
    component: Name,
    #[serde(flatten)]
    held: Held,
}

fn say_status(place: &Place, opened: &Opened, shutdown: &Shutdown) -> Result<(), Fatal> {
    let folder = &opened.updates.folder;
    let every = Settings::read(folder).map_err(refused)?.every();
    let shelf = folder.shelf().map_err(refused)?;
    let told = StatusShown {
        source: shown(opened, shutdown)?,
        every_seconds: every.map_or(0, |every| every.as_secs()),
        last_run: folder.last_run().map_err(refused)?,
        components: shelf.0.into_iter().map(|(component, held)| ComponentShown { component, held }).collect(),
    };
    let mut text = source_text(&told.source);
    text += &match every {
        Some(every) => format!("\nevery   {}", humantime::format_duration(every)),
        None => "\nevery   only when somebody asks".to_owned(),
    };
    if let Some(run) = &told.last_run {
        let at = Timestamp::from_millis(run.ended_ms.max(run.began_ms));
        let came = match &run.outcome {
            Outcome::Updated(names) => format!("{} in force", join(names)),
            Outcome::Current => "nothing was newer".to_owned(),
            Outcome::UnderWay => {
                format!("under way since {}, or killed since then", Timestamp::from_millis(run.began_ms))
            }
            Outcome::Stopped => "stopped before its end; the next begins anew".to_owned(),
            Outcome::Failed { reason, .. } => format!("failed: {reason}"),
        };
        text += &format!("\nlast    {at}  {came}");
    }
    for ComponentShown { component, held } in &told.components {
        let Held { active: Release { version, bytes, .. }, since_ms, earlier, is_held } = held;
        text +=
            &format!("\n{component} {version}, {bytes} bytes, since {}", Timestamp::from_millis(*since_ms));
        if let Some(earlier) = earlier {
            text += &format!("; before it {}", earlier.version);
        }
        if *is_held {
            text += &format!("; held until: writ-server updates release {component}");
        }
    }
    place.say(&told, &text)
}

fn join(names: &[Name]) -> String {
    names.iter().map(AsRef::<str>::as_ref).collect::<Vec<_>>().join(", ")
}

#[derive(Serialize)]
struct Synchronised {
    run: LastRun,
    held: Vec<Offered>,
    unlisted: Vec<Name>,
    other_targets: usize,
}

async fn synchronise(place: &Place, opened: Opened, shutdown: &Shutdown) -> Result<(), Fatal> {
    let Opened { updates, bridge, publisher } = opened;
    // Whoever changes keys need not wait for what is fetched.
    drop(publisher);
    let around = Surroundings {
        updates: &updates,
        bridge: &bridge,
        clock: Arc::new(SystemClock::new()),
        shutdown: shutdown.clone(),
    };
    let (run, ended) = Box::pin(around.sync(&mut |progress| say::aside(words(&progress)))).await;
    let recorded = record_activated(place, shutdown, ended.iter().flat_map(|report| &report.activated)).await;
    let report = match ended {
        Ok(report) => report,
        Err(error) => {
            let told = Synchronised { run, held: Vec::new(), unlisted: Vec::new(), other_targets: 0 };
            place.say(&told, "Nothing was changed")?;
            return Err(refused(error));
        }
    };
    let text = match &run.outcome {
        Outcome::Updated(names) => format!("In force: {}", join(names)),
        _ => "Nothing is newer".to_owned(),
    };
    let offered = |(name, release): (Name, Release)| Offered { name, release };
    let told = Synchronised {
        run,
        held: report.held.into_iter().map(offered).collect(),
        unlisted: report.unlisted,
        other_targets: report.others,
    };
    let mut text = text;
    if !told.held.is_empty() {
        let held: Vec<_> = told.held.iter().map(|offered| offered.name.clone()).collect();
        text += &format!("\nHeld although there is another version: {}", join(&held));
    }
    if !told.unlisted.is_empty() {
        text += &format!("\nNot listed any more, and in force still: {}", join(&told.unlisted));
    }
    if told.other_targets > 0 {
        text += &format!("\n{} targets of the repository are no components", told.other_targets);
    }
    place.say(&told, &text)?;
    recorded
}

/// What came into force, in the audit log.
async fn record_activated(
    place: &Place,
    shutdown: &Shutdown,
    activated: impl Iterator<Item = &(Name, Release)>,
) -> Result<(), Fatal> {
    let mut activated = activated.peekable();
    if activated.peek().is_none() {
        return Ok(());
    }
    let publisher = place.reader(shutdown).await?;
    for (name, release) in activated {
        let subject = format!("in force: {name} {}, SHA-256 {}", release.version, release.sha256);
        publisher.record_about("writ-server updates sync", subject).await.map_err(Fatal::failure)?;
    }
    Ok(())
}

fn words(progress: &Progress) -> String {
    match progress {
        Progress::Listed { wanted: 0, .. } => "the signed list was verified".to_owned(),
        Progress::Listed { wanted, bytes } => {
            format!("the signed list was verified; components to fetch: {wanted}, {bytes} bytes")
        }
        Progress::Fetching { name, release, done } => {
            format!("{name} {}: {done} of {} bytes", release.version, release.bytes)
        }
        Progress::Verified => "all that came can be used".to_owned(),
        Progress::Staged => "all of it is in its place".to_owned(),
    }
}
