//! `writ-agent run`: configuration, telemetry, state, link, drain.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info, warn};
use writ_common::daemon::{self, Fatal};
use writ_common::files;
use writ_common::shutdown::Shutdown;
use writ_common::systemd;
use writ_common::telemetry;
use writ_common::time::SystemClock;
use writ_common::users;
use writ_protocol::keys::Algorithm;

use super::{Run, enroll};
use crate::VERSION;
use crate::components::ComponentStore;
use crate::config::Config;
use crate::execute::{self, ActionTable};
use crate::identity::{Files, Identity, IdentityError};
use crate::link::{self, Enrolled, Link};
use crate::link_state::LinkStateFile;
use crate::obey::{AgentCore, Surroundings, Unsettled};
use crate::refusals::Refusals;
use crate::replay::{Journal, look};
use crate::session_time::SessionTime;
use crate::settings::SettingsStore;
use crate::trust::Trust;
use crate::upgrade::asked::Upgrades;
use crate::upgrade::{self, Place};

/// How long running actions may take to end; then they are killed and count as indeterminate.
const DRAIN_DEADLINE: Duration = Duration::from_secs(20);

/// How often a patient agent looks whether there is a token.
const LOOK_FOR_TOKEN: Duration = Duration::from_millis(200);

pub(super) async fn run(options: Run, shutdown: Shutdown) -> Result<(), Fatal> {
    let Run { place, token_file, name, patience } = options;
    let config = Config::load(place.config.as_deref(), place.data_dir.as_deref()).map_err(Fatal::usage)?;
    telemetry::init(&config.log_filter, config.log_format)
        .map_err(|error| Fatal::usage(format!("`log.filter` is not a filter: {error}")))?;
    let failed = |error: &dyn std::error::Error| Fatal::caused("cannot start", error);
    let files = Files::new(&config.data_dir);
    if let Some(token_file) = token_file {
        match enroll_once(&files, &config, &token_file, (name, patience), &shutdown).await? {
            Waited::Enrolled => {}
            // It was asked to end, and nothing is wrong.
            Waited::ShuttingDown => return Ok(()),
        }
    }
    if files.folder().exists() {
        files::check_owner(files.folder()).map_err(|error| failed(&error))?;
    }
    let identity = Identity::load(&files).map_err(|error| failed(&error))?;
    let trust = Trust::load(&files).map_err(|error| failed(&error))?;
    let table = load_table(&config, &files)?;
    execute::prepare();
    let journal = Journal::open(&files.journal(), config.max_entries).map_err(|error| failed(&error))?;
    journal.bind(identity.record.agent).map_err(|error| failed(&error))?;
    let refusals = Refusals::load(&journal, config.refusals_interval).map_err(|error| failed(&error))?;
    info!(
        version = VERSION,
        agent.id = %identity.record.agent,
        fleet.id = %identity.record.fleet,
        bundle.version = trust.chain().head().bundle.version,
        actions = table.rows().count(),
        "obeying"
    );
    let time = SessionTime::new(Arc::new(SystemClock::new()));
    let actions_shutdown = Shutdown::new();
    let status = LinkStateFile::new(&files, &table);
    let settings = load_settings(&files, &config)?;
    let components = ComponentStore::load(&files.components());
    let left = Unsettled::of(&journal).map_err(|error| failed(&error))?;
    let surroundings = Surroundings {
        time,
        max_running: config.max_running,
        proxy: config.proxy,
        probe: link::probe,
        upgrades: upgrade::FOLDER.into(),
        own_folders: vec![config.actions_dir],
        shutdown: actions_shutdown.clone(),
    };
    let (core, answers) =
        AgentCore::new(identity, trust, journal, (table, settings, components), surroundings);
    core.scans.recover();
    let link = Link {
        core,
        answers,
        refusals,
        status,
        max_backoff: config.max_backoff,
        rendezvous_every: config.rendezvous_every,
        learnt: Arc::default(),
        left,
    };
    answer_questions(&files, &link.core, &shutdown);
    let core = Arc::clone(&link.core);
    let watched = Arc::clone(&core);
    shutdown.spawn(systemd::keep_alive(shutdown.clone(), move || {
        let core = Arc::clone(&watched);
        async move { !core.journal.facts().is_err_and(|error| error.is_lasting()) }
    }));
    daemon::outlive_terminal();
    systemd::ready();
    let ran = link.run(shutdown).await;
    systemd::stopping();
    if !actions_shutdown.drain(DRAIN_DEADLINE).await {
        warn!("some actions did not end in time; they are killed and will be reported as indeterminate");
    }
    look::close(&files);
    // Held until here, and the journal's lock with it.
    drop(core);
    info!("ended");
    ran.map_err(|error| failed(&error))
}

/// Answers `status`, `doctor` and `explain`, which cannot read the journal meanwhile. Without it the agent
/// obeys all the same.
fn answer_questions(files: &Files, core: &Arc<AgentCore>, shutdown: &Shutdown) {
    let listener = match look::open(files) {
        Ok(listener) => listener,
        Err(error) => {
            let file = files.questions();
            warn!(file = %file.display(), %error, "status and doctor will not say how the journal stands");
            return;
        }
    };
    let (core, ended) = (Arc::clone(core), shutdown.clone());
    shutdown.spawn(async move {
        ended.unless_requested(look::answer_all(listener, |asked| core.journal.answer(asked))).await
    });
}

/// What waiting for a token came to.
enum Waited {
    /// The agent has an identity.
    Enrolled,
    /// It was asked to end meanwhile.
    ShuttingDown,
}

/// Enrols by a token file, if this agent has no identity yet; waits for the file as long as it is told to.
async fn enroll_once(
    files: &Files,
    config: &Config,
    token_file: &Path,
    (name, patience): (Option<String>, Option<Duration>),
    shutdown: &Shutdown,
) -> Result<Waited, Fatal> {
    let Err(IdentityError::NotEnrolled(_)) = Identity::load(files) else { return Ok(Waited::Enrolled) };
    let made = async {
        while !token_file.exists() {
            tokio::time::sleep(LOOK_FOR_TOKEN).await;
        }
    };
    if let Some(patience) = patience {
        let waited = shutdown.unless_requested(tokio::time::timeout(patience, made)).await;
        let Some(made) = waited else { return Ok(Waited::ShuttingDown) };
        debug!(made = made.is_ok(), "waited for a token");
    }
    let proxy = config.proxy.as_ref();
    let Enrolled { record, .. } =
        enroll::with_token(files, token_file, name, Algorithm::default(), proxy).await?;
    info!(agent.id = %record.agent, name = record.name, "enrolled");
    Ok(Waited::Enrolled)
}

/// What this agent may do.
fn load_table(config: &Config, files: &Files) -> Result<ActionTable, Fatal> {
    let upgrades = Upgrades::load(Place::new(Path::new(upgrade::FOLDER)), files);
    let table = ActionTable::load(&config.actions_dir, &config.denied_actions, users::own_uid());
    if !config.actions_dir.is_dir() {
        warn!(folder = %config.actions_dir.display(), "there is no such folder, so nothing but the agent's own actions is allowed");
    }
    table.map(|table| table.with_upgrades(upgrades.component())).map_err(|problems| {
        let all: Vec<_> = problems.iter().map(ToString::to_string).collect();
        Fatal::usage(all.join("\n"))
    })
}

/// The settings that were kept, unless the host forbids settings.
fn load_settings(files: &Files, config: &Config) -> Result<SettingsStore, Fatal> {
    let path = files.settings();
    if !config.denied_actions.iter().any(|denied| denied == "settings") {
        let loaded = SettingsStore::load(&path, &config.log_filter);
        return loaded.map_err(|error| Fatal::caused("cannot start", &error));
    }
    if path.exists() {
        warn!(file = %path.display(), "settings that came by a command do not count: actions.deny lists `settings`");
    }
    Ok(SettingsStore::nothing(&path, &config.log_filter))
}
