//! `writ-server run`: telemetry, configuration, state, ports, serve, drain.

use std::fs::File;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};
use writ_common::admin::{PolicyLayer, archive};
use writ_common::daemon::{self, Fatal};
use writ_common::files;
use writ_common::hush::Hush;
use writ_common::listener::{self, DRAIN_DEADLINE, FEW_STREAMS, MANY_STREAMS};
use writ_common::shutdown::Shutdown;
use writ_common::systemd;
use writ_common::telemetry;
use writ_common::time::{SharedClock, SystemClock};
use writ_common::tls::Room;
use writ_protocol::trust::Chain;

use super::{Run, gateway, sample};
use crate::VERSION;
use crate::admin;
use crate::authority::presence::{self, Presence};
use crate::authority::{Files, channel, follow, head_marker, read_signing_keys};
use crate::cm_bridge::{Bridge, Uplink, notify, poll, register, subscription};
use crate::config::Config;
use crate::context::Server;
use crate::dispatch::{Dispatcher, in_flight};
use crate::expiry;
use crate::metrics;
use crate::notices::{self, Mail, Way, Webhook};
use crate::objects;
use crate::quota::Quotas;
use crate::rollouts::{self, Rollouts};
use crate::sign::Signer;
use crate::store::{Store, Teller};
use crate::throttle::Throttle;
use crate::traces::Traces;
use crate::unknown_fleet::UnknownFleetPeers;
use crate::updates::{Updates, distribute, schedule};

/// How often the time that is signed with is noted.
const NOTE_TIME_EVERY: Duration = Duration::from_secs(60);
/// How soon again while nothing could be written: an operator who made room on the disk waits for this.
const NOTE_TIME_AGAIN: Duration = Duration::from_secs(5);
/// How often a patient server looks whether there is a fleet.
const LOOK_FOR_FLEET: Duration = Duration::from_millis(200);
/// Tokens looked up at a time from where too many were wrong; the database has four connections.
const TOKEN_CHECKS: usize = 2;
/// Chains handed back at a time; each costs a copy of the chain and a signature's check.
const HAND_BACKS: usize = 2;

pub(super) async fn run(options: Run, shutdown: Shutdown) -> Result<(), Fatal> {
    let config = options.folder.config()?;
    telemetry::init(&config.log_filter, config.log_format)
        .map_err(|error| Fatal::usage(format!("`log.filter` is not a filter: {error}")))?;
    let files = Files::new(&config.data_dir);
    if let Some(patience) = options.patience {
        wait_for_fleet(&files, patience, &shutdown).await;
    }
    // What requests and sessions that are drained still write to ends last: the store, and the traces.
    let last_shutdown = Shutdown::new();
    let _lock = take_folder(&files).await?;
    let store = Store::open(&files.database(), &last_shutdown)
        .await
        .map_err(|e| Fatal::caused("cannot start", &e))?;
    let shutdowns = (&shutdown, &last_shutdown);
    let uplink = Arc::new(load(&config, &files, store, options.accept_clock, shutdowns).await?);
    let server = Arc::clone(&uplink.server);
    let tls = server.tls.clone();
    let webhook = config.webhook.as_ref().map(|settings| Webhook::open(settings, shutdown.clone()));
    let webhook = webhook.transpose().map_err(|why| Fatal::usage(format!("alerts.webhook: {why}")))?;
    let mail = config.mail.as_ref().map(Mail::open).transpose();
    let mail = mail.map_err(|why| Fatal::usage(format!("alerts.mail: {why}")))?;

    let agents = listener::bind(config.listen_agents, "listen.agents")?;
    let operators = listener::bind(config.listen_admin, "listen.admin")?;
    let measured = listener::bind(config.listen_metrics, "listen.metrics")?;
    let recorder = metrics::install().map_err(|error| Fatal::failure(format!("cannot count: {error}")))?;
    info!(
        version = VERSION,
        fleet.id = %server.fleet,
        agents = %agents.1,
        admin = %operators.1,
        metrics = %measured.1,
        chain.version = server.chain().head().bundle.version,
        "serving"
    );
    let agent_port = listener::settings(FEW_STREAMS).add_service(gateway::service(&server));
    let routes = admin::routes(&uplink).map_err(|error| Fatal::failure(error.to_string()))?;
    let admin_port = listener::settings(MANY_STREAMS).layer(PolicyLayer::new(&server)).add_routes(routes);

    shutdown.spawn(sample::serve(Arc::clone(&uplink), measured.0, recorder));
    start_loops(&uplink, &files);
    shutdown.spawn(notices::run(Arc::clone(&server), Teller::Webhook, webhook.map(Way::Webhook)));
    shutdown.spawn(notices::run(Arc::clone(&server), Teller::Mail, mail.map(Way::Mail)));
    // The loops have their own hold on it, and let go when they end.
    drop(uplink);
    daemon::outlive_terminal();
    daemon::open_many_files();
    systemd::ready();
    let serving = listener::serve(agent_port, agents.0, Some(&tls), Room::AGENTS, &shutdown);
    let administrating = listener::serve(admin_port, operators.0, Some(&tls), Room::OTHERS, &shutdown);
    let (first, second) = tokio::join!(serving, administrating);
    systemd::stopping();
    if !shutdown.drain(DRAIN_DEADLINE).await {
        warn!("some sessions did not end in time");
    }
    drop(server);
    if !last_shutdown.drain(DRAIN_DEADLINE).await {
        warn!("the store did not close in time");
    }
    info!("ended");
    first.and(second)
}

/// Waits until `init` has made a fleet, or patience is over.
async fn wait_for_fleet(files: &Files, patience: Duration, shutdown: &Shutdown) {
    let made = async {
        // `init` holds the folder until it is done.
        while !files.database().exists() || files::is_unfinished(files.folder()) || files.lock().is_err() {
            tokio::time::sleep(LOOK_FOR_FLEET).await;
        }
    };
    let waited = shutdown.unless_requested(tokio::time::timeout(patience, made)).await;
    debug!(made = matches!(waited, Some(Ok(()))), "waited for a fleet");
}

/// The lock of a folder in which a fleet lives.
async fn take_folder(files: &Files) -> Result<File, Fatal> {
    let failed = |error: &dyn std::error::Error| Fatal::caused("cannot start", error);
    let folder = files.folder().display();
    let nothing = || {
        Fatal::failure(format!(
            "{folder}: there is no fleet here; make one: writ-server init --data-dir {folder} --name NAME --endpoint HOST:7443"
        ))
    };
    if !files.folder().exists() {
        return Err(nothing());
    }
    let lock = files.lock().map_err(|error| failed(&error))?;
    match presence::find(files).await.map_err(|error| failed(&error))? {
        Presence::Nothing => Err(nothing()),
        Presence::Unfinished => {
            Err(Fatal::failure(format!("{folder}: init did not finish here; run it again")))
        }
        Presence::Lost(lost) => Err(Fatal::failure(lost)),
        Presence::Fleet { .. } => {
            files::end_making(files.folder()).map_err(|error| failed(&error))?;
            Ok(lock)
        }
    }
}

/// What a server does beside answering, until it ends.
fn start_loops(uplink: &Arc<Uplink>, files: &Files) {
    let server = &uplink.server;
    let (shutdown, store) = (&server.shutdown, &server.store);
    shutdown.spawn(note_time(Arc::clone(server)));
    let of_the_server = (Arc::clone(&server.clock), shutdown.clone());
    shutdown.spawn(archive::run(store.database().clone(), server.audit, files.audit(), of_the_server));
    shutdown.spawn(expiry::run(Arc::clone(server)));
    shutdown.spawn(poll::run(Arc::clone(uplink)));
    shutdown.spawn(register::keep_departures(Arc::clone(uplink)));
    shutdown.spawn(notify::run(Arc::clone(uplink)));
    shutdown.spawn(subscription::run(Arc::clone(uplink)));
    shutdown.spawn(schedule::run(Arc::clone(uplink)));
    shutdown.spawn(distribute::run(Arc::clone(server)));
    shutdown.spawn(objects::run(Arc::clone(server)));
    shutdown.spawn(rollouts::run(Arc::clone(server)));
    let in_flight = Arc::clone(server.dispatcher.in_flight());
    shutdown.spawn(in_flight::run(in_flight, store.clone(), shutdown.clone()));
    shutdown.spawn(channel::run(Arc::clone(server), files.clone()));
    shutdown.spawn(follow::run(Arc::clone(server), files.clone()));
    shutdown.spawn(keep_alive(server));
}

/// A server whose store does not answer works for nobody.
fn keep_alive(server: &Arc<Server>) -> impl Future<Output = ()> + use<> {
    let store = server.store.clone();
    systemd::keep_alive(server.shutdown.clone(), move || {
        let store = store.clone();
        async move { store.latest_time().await.is_ok() }
    })
}

/// Notes the time that is signed with, now and then: precise enough to notice a clock that went back. Soon
/// again while the disk takes nothing, so that room is seen when there is some.
async fn note_time(server: Arc<Server>) {
    let mut noted: Option<Instant> = None;
    loop {
        let is_due = noted.is_none_or(|noted| noted.elapsed() >= NOTE_TIME_EVERY);
        if (is_due || !server.store.is_writing())
            && let Ok(now) = server.signer.now()
        {
            noted = Some(Instant::now());
            if let Err(error) = server.store.note_time(now, false).await {
                warn!(%error, "the time could not be noted");
            }
        }
        if server.shutdown.unless_requested(tokio::time::sleep(NOTE_TIME_AGAIN)).await.is_none() {
            return;
        }
    }
}

async fn load(
    config: &Config,
    files: &Files,
    store: Store,
    accept_clock: bool,
    (shutdown, last_shutdown): (&Shutdown, &Shutdown),
) -> Result<Uplink, Fatal> {
    let failed = |error: &dyn std::error::Error| Fatal::caused("cannot start", error);
    let (fleet, _name) = store.fleet().await.map_err(|error| failed(&error))?.ok_or_else(|| {
        Fatal::failure(format!("{}: init did not finish here; run it again", files.folder().display()))
    })?;
    let noted = head_marker::read(files).map_err(|error| failed(&error))?;
    let bundles = store.bundles().await.map_err(|error| failed(&error))?;
    let chain = Chain::stored(bundles.into_iter().map(|(_, envelope)| envelope));
    let chain = chain.map_err(|refusal| failed(&refusal))?;
    let clock: SharedClock = Arc::new(SystemClock::new());
    head_marker::check(noted, &chain, &store, clock.wall()).await.map_err(|error| failed(&error))?;
    head_marker::write(files, chain.head()).map_err(|error| failed(&error))?;
    let keys = read_signing_keys(files).map_err(|error| failed(&error))?;
    let head = &chain.head().bundle;
    let latest = store.latest_time().await.map_err(|error| failed(&error))?;
    let latest = if accept_clock {
        let now = clock.wall();
        store.note_time(now, true).await.map_err(|error| failed(&error))?;
        now
    } else {
        latest
    };
    let signer = Signer::new(keys, head, Arc::clone(&clock), latest);
    if let Err(error) = signer.check() {
        error!(%error, "nothing can be signed");
    }
    // A clock nobody signs by dates no leaf either.
    let now = signer.now().ok();
    let tls = channel::open(files, now, &chain.head().bundle.endpoints).map_err(|error| failed(&error))?;
    let bridge = Bridge::open(files, &store, config.listen_notify).await.map_err(|error| failed(&error))?;
    let traces = Traces::start(config.traces.as_ref(), fleet, last_shutdown).map_err(Fatal::usage)?;
    let rollouts = Rollouts::open(&store, &chain, clock.wall(), clock.monotonic()).await;
    let rollouts = rollouts.map_err(|error| failed(&error))?;
    let server = Server {
        fleet,
        rollouts,
        trust: RwLock::new(Arc::new(chain)),
        signer,
        store,
        dispatcher: Dispatcher::new(config.session.outbox, config.running),
        quotas: Quotas::new(config.scoped_commands),
        tls,
        proxy_leaves: config.proxy_leaves.clone(),
        failed_enrolments: Throttle::new(Arc::clone(&clock)),
        published: Notify::new(),
        unknown_fleet: UnknownFleetPeers::default(),
        hand_backs: Semaphore::new(HAND_BACKS),
        token_checks: Semaphore::new(TOKEN_CHECKS),
        settings: config.session.clone(),
        audit: config.audit,
        clock,
        hush: Hush::default(),
        traces,
        updates: Updates::of(config, files),
        shutdown: shutdown.clone(),
    };
    Ok(Uplink { server: Arc::new(server), bridge })
}
