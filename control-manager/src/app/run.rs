//! `writ-control-manager run`: telemetry, configuration, state, ports, serve, drain.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tonic::transport::server::Router;
use tracing::{error, info, warn};
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

use super::{Run, unusable};
use crate::VERSION;
use crate::admin;
use crate::authority::{Authority, Files};
use crate::context::Manager;
use crate::feed::{self, Feed};
use crate::folder::{self, Presence};
use crate::metrics;
use crate::mirror::{self, Mirror};
use crate::notify::{MAX_DIALS, MAX_TRIALS};
use crate::sandbox::{self, Sandbox};
use crate::service::services as entity_services;
use crate::store::Store;

/// How often the channel's leaf is looked at.
const LOOK_AT_LEAF: Duration = Duration::from_secs(3600);

pub(super) async fn run(options: Run, shutdown: Shutdown) -> Result<(), Fatal> {
    let config = options.folder.config()?;
    telemetry::init(&config.log_filter, config.log_format)
        .map_err(|error| Fatal::usage(format!("`log.filter` is not a filter: {error}")))?;
    config.upstream.as_ref().map(mirror::check).transpose()?;
    config.sandbox.as_ref().map(sandbox::check).transpose()?;
    let files = Files::new(&config.data_dir);
    let failed = |error: &dyn std::error::Error| Fatal::caused("cannot start", error);
    let _lock = take_folder(&files).await?;
    // What calls that are drained still write to ends last.
    let last_shutdown = Shutdown::new();
    let store = Store::open(&files.database(), &last_shutdown).await.map_err(|error| failed(&error))?;
    let (id, name) = store.manager().await.map_err(|error| failed(&error))?.ok_or_else(|| nothing(&files))?;
    let clock: SharedClock = Arc::new(SystemClock::new());
    let authority = Authority::open(&files, clock.wall()).map_err(|error| unusable(&files, &error))?;
    let tls = authority.tls.clone();
    let manager = Arc::new(Manager {
        id,
        name,
        version: config.version,
        is_sandbox_connected: config.is_sandbox_connected,
        authority,
        store: store.clone(),
        mirror: Mirror::new(&config.data_dir),
        feed: Feed::default(),
        sandbox: config.sandbox.map(Sandbox::new),
        dials: Semaphore::new(MAX_DIALS),
        trials: Semaphore::new(MAX_TRIALS),
        audit: config.audit,
        clock,
        hush: Hush::default(),
        shutdown: shutdown.clone(),
    });

    let link = listener::bind(config.listen_link, "listen.link")?;
    let operators = listener::bind(config.listen_admin, "listen.admin")?;
    let measured = listener::bind(config.listen_metrics, "listen.metrics")?;
    let recorder = metrics::install().map_err(|error| Fatal::failure(format!("cannot count: {error}")))?;
    let in_clear = match config.listen_link_in_clear {
        Some(address) => Some(listener::bind(address, "listen.link_in_clear")?),
        None => None,
    };
    info!(
        version = VERSION,
        manager.id = %manager.id,
        announced = %manager.version,
        link = %link.1,
        admin = %operators.1,
        metrics = %measured.1,
        in_clear = in_clear.as_ref().map(|(_, address)| address.to_string()),
        "serving"
    );
    let routes = admin::routes(&manager).map_err(|error| Fatal::failure(error.to_string()))?;
    let admin_port = listener::settings(MANY_STREAMS).layer(PolicyLayer::new(&manager)).add_routes(routes);
    shutdown.spawn(metrics::serve(Arc::clone(&manager), measured.0, recorder));
    start_loops(&manager, &files);
    if let Some(upstream) = config.upstream {
        shutdown.spawn(mirror::run(Arc::clone(&manager), upstream));
    }
    if let Some((listener, _)) = in_clear {
        serve_in_clear(&manager, listener);
    }
    daemon::outlive_terminal();
    daemon::open_many_files();
    systemd::ready();
    let (first, second) = tokio::join!(
        listener::serve(entity_port(&manager), link.0, Some(&tls), Room::OTHERS, &shutdown),
        listener::serve(admin_port, operators.0, Some(&tls), Room::OTHERS, &shutdown)
    );
    systemd::stopping();
    if !shutdown.drain(DRAIN_DEADLINE).await {
        warn!("some calls did not end in time");
    }
    store.close().await;
    drop(manager);
    if !last_shutdown.drain(DRAIN_DEADLINE).await {
        warn!("the store did not close in time");
    }
    info!("ended");
    first.and(second)
}

fn nothing(files: &Files) -> Fatal {
    let folder = files.folder().display();
    Fatal::failure(format!(
        "{folder}: there is no manager here; make one: writ-control-manager init --data-dir {folder} --name NAME --tls-name HOST"
    ))
}

/// The lock of a folder in which a manager lives.
async fn take_folder(files: &Files) -> Result<File, Fatal> {
    let failed = |error: &dyn std::error::Error| Fatal::caused("cannot start", error);
    if !files.folder().exists() {
        return Err(nothing(files));
    }
    let lock = files::lock_folder(files.folder()).map_err(|error| failed(&error))?;
    match folder::find(files).await.map_err(|error| failed(&error))? {
        Presence::Nothing => Err(nothing(files)),
        Presence::Unfinished => {
            let folder = files.folder().display();
            Err(Fatal::failure(format!("{folder}: init did not finish here; run it again")))
        }
        Presence::Lost(lost) => Err(Fatal::failure(lost)),
        Presence::Manager { .. } => {
            files::end_making(files.folder()).map_err(|error| failed(&error))?;
            Ok(lock)
        }
    }
}

/// What entities call.
fn entity_port(manager: &Arc<Manager>) -> Router {
    let (registry, link) = entity_services(manager);
    listener::settings(FEW_STREAMS).add_service(registry).add_service(link)
}

/// The same without TLS, where an operator asked for it.
fn serve_in_clear(manager: &Arc<Manager>, listener: TcpListener) {
    warn!("entities may come in clear text: a listener in between reads along");
    let (served, asked) = (entity_port(manager), manager.shutdown.clone());
    manager.shutdown.spawn(async move {
        if let Err(error) = listener::serve(served, listener, None, Room::OTHERS, &asked).await {
            error!(%error, "the port in clear text failed");
            asked.trigger();
        }
    });
}

/// What a manager does beside answering, until it ends.
fn start_loops(manager: &Arc<Manager>, files: &Files) {
    let (shutdown, store) = (&manager.shutdown, manager.store.clone());
    shutdown.spawn(keep_leaf(Arc::clone(manager), files.clone()));
    shutdown.spawn(feed::run(Arc::clone(manager)));
    shutdown.spawn(sandbox::run(Arc::clone(manager)));
    let of_the_manager = (Arc::clone(&manager.clock), shutdown.clone());
    shutdown.spawn(archive::run(store.database().clone(), manager.audit, files.audit(), of_the_manager));
    shutdown.spawn(systemd::keep_alive(shutdown.clone(), move || {
        let store = store.clone();
        async move { store.manager().await.is_ok() }
    }));
}

async fn keep_leaf(manager: Arc<Manager>, files: Files) {
    loop {
        match manager.authority.renew_if_due(&files, manager.now()) {
            Ok(true) => info!("the channel's certificate was renewed"),
            Ok(false) => {}
            Err(error) => error!(%error, "the channel's certificate could not be renewed"),
        }
        if manager.shutdown.unless_requested(tokio::time::sleep(LOOK_AT_LEAF)).await.is_none() {
            return;
        }
    }
}
