//! `UpdateService`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::info;
use writ_common::admin::{self, Effect};
use writ_common::status::Failure;
use writ_proto::admin::v1 as proto;
use writ_proto::admin::v1::update_service_server::UpdateService;
use writ_updates::{Held, LastRun, Name, Outcome, Progress, Reason, UpdateError};

use crate::cm_bridge::{ManagerRecord, UpdateSource, Uplink, update_source};
use crate::store::unavailable;
use crate::updates::distribute::{Coverage, coverage};
use crate::updates::settings::{Choice, Settings};
use crate::updates::source::{self, Chosen, Shown};
use crate::updates::{Surroundings, sync};

#[derive(Debug)]
pub(super) struct Updates(pub(super) Arc<Uplink>);

type RpcResult<T> = Result<Response<T>, Status>;

/// Words of progress that wait for a slow reader; more are left out.
const WAITING_WORDS: usize = 64;
/// How long the last word waits for a slow reader.
const LAST_WORD: Duration = Duration::from_secs(30);

#[tonic::async_trait]
impl UpdateService for Updates {
    async fn get_source(&self, _: Request<proto::GetSourceRequest>) -> RpcResult<proto::SourceSettings> {
        let shown = source::show(&Surroundings::of(&self.0)).map_err(failure)?;
        Ok(Response::new(show_source(shown)))
    }

    async fn set_source(
        &self,
        request: Request<proto::SetSourceRequest>,
    ) -> RpcResult<proto::SourceSettings> {
        let actor = admin::actor(&request)?;
        let (choice, is_direct) = choice(request.into_inner())?;
        let source = choice.describe(is_direct).map_err(failure)?;
        info!(target: "audit", { actor = actor.name, source }, "update source is being set");
        let uplink = Arc::clone(&self.0);
        let set = self.0.server.to_the_end(async move { set_source(&uplink, choice, is_direct).await });
        Ok(Response::new(show_source(set.await??)))
    }

    type SyncStream = Pin<Box<dyn Stream<Item = Result<proto::SyncProgress, Status>> + Send>>;

    async fn sync(&self, _: Request<proto::SyncRequest>) -> RpcResult<Self::SyncStream> {
        source::resolve(&Surroundings::of(&self.0)).map_err(failure)?;
        // One waits for the run that is under way; more would only repeat it.
        let waits = Arc::clone(&self.0.server.updates.asked).try_acquire_owned();
        let waits = waits.map_err(|_| {
            failure(UpdateError::new(Reason::Busy, "a run is under way, and another waits for its end"))
        })?;
        let (sender, receiver) = mpsc::channel(WAITING_WORDS);
        let uplink = Arc::clone(&self.0);
        // It goes on when its listener hangs up: what was fetched is not thrown away.
        self.0.server.shutdown.spawn(async move {
            let _waits = waits;
            let mut told = |progress| {
                let _ = sender.try_send(Ok(show_progress(progress)));
            };
            let (run, ended) = Box::pin(sync(&uplink, &mut told)).await;
            let last = ended.map(|report| proto::SyncProgress {
                stage: proto::SyncStage::Ended.into(),
                outcome: Some(show_run(run)),
                held: report.held.into_iter().map(|(name, _)| name.into()).collect(),
                unlisted: report.unlisted.into_iter().map(String::from).collect(),
                other_targets: u32::try_from(report.others).unwrap_or(u32::MAX),
                ..proto::SyncProgress::default()
            });
            let last = last.map_err(|error| failure(error).into());
            let _ = tokio::time::timeout(LAST_WORD, sender.send(last)).await;
        });
        let told: Self::SyncStream = Box::pin(ReceiverStream::new(receiver));
        Ok(Response::new(told))
    }

    async fn set_schedule(
        &self,
        request: Request<proto::SetScheduleRequest>,
    ) -> RpcResult<proto::UpdateStatus> {
        let actor = admin::actor(&request)?;
        let seconds = request.into_inner().every_seconds;
        info!(target: "audit", { actor = actor.name, seconds }, "update schedule is being set");
        let folder = &self.0.server.updates.folder;
        let has_changed =
            Settings::change(folder, |settings| settings.set_every(seconds)).map_err(failure)?;
        self.0.server.updates.poke.notify_one();
        Ok(Effect::unless(has_changed, self.status()?))
    }

    async fn roll_back(&self, request: Request<proto::RollBackRequest>) -> RpcResult<proto::UpdateStatus> {
        let name = name(&request.into_inner().component)?;
        let now = self.0.server.clock.wall();
        let folder = self.0.server.updates.folder.clone();
        // The digest of the file is made anew.
        let back = tokio::task::spawn_blocking(move || folder.roll_back(&name, now)).await;
        back.map_err(|error| Failure::unavailable(error.to_string()))?.map_err(failure)?;
        Ok(Response::new(self.status()?))
    }

    async fn release(&self, request: Request<proto::ReleaseRequest>) -> RpcResult<proto::UpdateStatus> {
        let name = name(&request.into_inner().component)?;
        self.0.server.updates.folder.release(&name).map_err(failure)?;
        Ok(Response::new(self.status()?))
    }

    async fn get_status(&self, _: Request<proto::GetUpdateStatusRequest>) -> RpcResult<proto::UpdateStatus> {
        Ok(Response::new(self.status()?))
    }

    async fn get_coverage(&self, _: Request<proto::GetCoverageRequest>) -> RpcResult<proto::UpdateCoverage> {
        let covered = coverage(&self.0.server).await?;
        Ok(Response::new(proto::UpdateCoverage { components: covered.iter().map(show_coverage).collect() }))
    }
}

fn show_coverage(coverage: &Coverage) -> proto::ComponentCoverage {
    let Coverage { name, release, fact: (fact, value), agents, holding } = coverage;
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    proto::ComponentCoverage {
        component: name.to_string(),
        version: release.version.to_string(),
        sha256: release.sha256.to_string(),
        agents: count(*agents),
        holding: count(holding.len()),
        behind_selector: format!("{fact}!={value}"),
    }
}

impl Updates {
    fn status(&self) -> Result<proto::UpdateStatus, Failure> {
        let updates = &self.0.server.updates;
        let shown = source::show(&Surroundings::of(&self.0)).map_err(failure)?;
        let settings = Settings::read(&updates.folder).map_err(failure)?;
        let shelf = updates.folder.shelf().map_err(failure)?;
        Ok(proto::UpdateStatus {
            source: Some(show_source(shown)),
            every_seconds: settings.every().map_or(0, |every| every.as_secs()),
            running: updates.is_running(),
            last_run: updates.folder.last_run().map_err(failure)?.map(show_run),
            components: shelf.0.into_iter().map(show_component).collect(),
        })
    }
}

/// What callers hear of it.
fn failure(error: UpdateError) -> Failure {
    match error.reason {
        Reason::Disk | Reason::DiskFull | Reason::Damaged => Failure::unavailable(error.to_string()),
        Reason::Unknown => Failure::not_found(error.text),
        reason => Failure::precondition(reason.as_str(), error.to_string()),
    }
}

fn name(text: &str) -> Result<Name, Failure> {
    text.parse().map_err(|error: writ_updates::InvalidName| Failure::invalid("component", error.to_string()))
}

fn choice(request: proto::SetSourceRequest) -> Result<(Choice, bool), Failure> {
    let proto::SetSourceRequest { update_source, url, root, authority, direct } = request;
    let only_for_custom = |is_empty: bool, field: &'static str| {
        if is_empty { Ok(()) } else { Err(Failure::invalid(field, "belongs to CUSTOM alone")) }
    };
    let given = |bytes: Vec<u8>| (!bytes.is_empty()).then_some(bytes);
    let choice = match proto::UpdateSource::try_from(update_source) {
        Ok(proto::UpdateSource::Custom) => {
            if root.is_empty() {
                let text =
                    "is missing: without the repository's root, such as 1.root.json, nothing can be trusted";
                return Err(Failure::invalid("root", text));
            }
            Choice::Custom { url, root, authority: given(authority) }
        }
        Ok(source @ (proto::UpdateSource::Default | proto::UpdateSource::Manager)) => {
            only_for_custom(url.is_empty(), "url")?;
            only_for_custom(authority.is_empty(), "authority")?;
            match source {
                proto::UpdateSource::Manager => Choice::Manager(given(root)),
                _ if !root.is_empty() => {
                    let text = "of the default update server is set in the configuration: updates.root";
                    return Err(Failure::invalid("root", text));
                }
                _ => Choice::Default,
            }
        }
        Ok(proto::UpdateSource::Unspecified) | Err(_) => {
            return Err(Failure::invalid("update_source", "must be DEFAULT, MANAGER or CUSTOM"));
        }
    };
    Ok((choice, direct))
}

/// Takes a choice. The manager is chosen in the registration with it, and all else beside it.
async fn set_source(uplink: &Arc<Uplink>, choice: Choice, is_direct: bool) -> Result<Shown, Failure> {
    let mut turn = uplink.bridge.turn().await;
    let chosen = match &choice {
        Choice::Manager(_) => {
            update_source::is_offered(&turn.registration)?;
            UpdateSource::Manager
        }
        Choice::Default | Choice::Custom { .. } => UpdateSource::Default,
    };
    let folder = &uplink.server.updates.folder;
    Settings::change(folder, |settings| settings.choose(choice, is_direct)).map_err(failure)?;
    let mut next = ManagerRecord::clone(&turn);
    next.registration.source = chosen;
    uplink.keep_line(&mut turn, next).await.map_err(unavailable)?;
    uplink.server.updates.poke.notify_one();
    source::show(&Surroundings::of(uplink)).map_err(failure)
}

fn show_source(shown: Shown) -> proto::SourceSettings {
    let Shown { chosen, url, root, has_authority, is_direct, next, is_missing: _ } = shown;
    let update_source = match chosen {
        Chosen::Default => proto::UpdateSource::Default,
        Chosen::Manager => proto::UpdateSource::Manager,
        Chosen::Custom => proto::UpdateSource::Custom,
    };
    proto::SourceSettings {
        update_source: update_source.into(),
        url,
        root_sha256: root.map_or_else(String::new, |root| root.to_string()),
        authority_set: has_authority,
        direct: is_direct,
        next,
    }
}

fn show_progress(progress: Progress) -> proto::SyncProgress {
    let none = proto::SyncProgress::default();
    match progress {
        Progress::Listed { wanted, bytes } => proto::SyncProgress {
            stage: proto::SyncStage::Listed.into(),
            components: u32::try_from(wanted).unwrap_or(u32::MAX),
            bytes,
            ..none
        },
        Progress::Fetching { name, release, done } => proto::SyncProgress {
            stage: proto::SyncStage::Fetching.into(),
            component: name.into(),
            version: release.version.into(),
            done,
            bytes: release.bytes,
            ..none
        },
        Progress::Verified => proto::SyncProgress { stage: proto::SyncStage::Verified.into(), ..none },
        Progress::Staged => proto::SyncProgress { stage: proto::SyncStage::Staged.into(), ..none },
    }
}

fn show_run(run: LastRun) -> proto::UpdateRun {
    let LastRun { began_ms, ended_ms, source, source_digest: _, outcome } = run;
    let (updated, code, reason) = match outcome {
        Outcome::Updated(names) => {
            (names.into_iter().map(String::from).collect(), String::new(), String::new())
        }
        Outcome::Current | Outcome::UnderWay => Default::default(),
        Outcome::Stopped => {
            (Vec::new(), Reason::Stopped.as_str().to_owned(), "it was stopped before its end".to_owned())
        }
        Outcome::Failed { code, reason } => (Vec::new(), code, reason),
    };
    proto::UpdateRun { began_at_ms: began_ms, ended_at_ms: ended_ms, source, updated, code, reason }
}

fn show_component((name, held): (Name, Held)) -> proto::ComponentStatus {
    let Held { active, since_ms, earlier, is_held } = held;
    proto::ComponentStatus {
        component: name.into(),
        version: active.version.into(),
        sha256: active.sha256.to_string(),
        bytes: active.bytes,
        since_ms,
        earlier_version: earlier.map_or_else(String::new, |earlier| earlier.version.into()),
        held: is_held,
    }
}
