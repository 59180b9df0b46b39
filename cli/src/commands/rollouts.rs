//! `writ rollouts`, and how a rollout is shown.

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use writ_common::say;
use writ_proto::admin::v1::{
    GetRolloutRequest, ListRolloutsRequest, ResumeRolloutRequest, Rollout, RolloutPlan,
};
use writ_protocol::time::Timestamp;

use super::send::{EXIT_AGENT, EXIT_UNANSWERED};
use super::track::whole_id;
use crate::args::{Format, Rollouts, Waves};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Rows};
use crate::progress::Progress;

#[derive(Serialize)]
pub(super) struct Shown {
    command_id: String,
    action: String,
    requested_by: String,
    pub(super) state: String,
    reason: String,
    waits_for: String,
    seed: u64,
    target_count: u32,
    waves: u32,
    wave: u32,
    released: u32,
    done: u32,
    failed: u32,
    silent: u32,
    unanswered: u32,
    awaited: u32,
    away: u32,
    forgiven: u32,
    canary: u32,
    batch: u32,
    pause_seconds: u32,
    max_failures: u32,
    rate_per_second: u32,
    window: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_at: Option<String>,
    answer_within_seconds: u32,
    issued_at: String,
    expires_at: String,
}

impl Shown {
    fn answers(&self) -> String {
        let parts = [
            (self.done, "done"),
            (self.failed, "failed"),
            (self.silent, "silent"),
            (self.unanswered, "running"),
            (self.awaited, "not connected"),
            (self.away, "away"),
            (self.target_count - self.released.min(self.target_count), "not released"),
        ];
        let said =
            parts.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}"));
        said.collect::<Vec<_>>().join(", ")
    }

    fn why(&self) -> String {
        match (self.reason.is_empty(), self.waits_for.is_empty()) {
            (true, true) => String::new(),
            (false, true) => self.reason.clone(),
            (true, false) => format!("waits for {}", self.waits_for),
            (false, false) => format!("{}; waits for {}", self.reason, self.waits_for),
        }
    }

    fn plan(&self) -> String {
        let mut parts = Vec::new();
        if self.canary > 0 {
            parts.push(format!("canary {}", self.canary));
        }
        match self.batch {
            0 => parts.push("then all".to_owned()),
            batch => parts.push(format!("batches of {batch}")),
        }
        if self.pause_seconds > 0 {
            let pause = humantime::format_duration(Duration::from_secs(self.pause_seconds.into()));
            parts.push(format!("pause {pause}"));
        }
        parts.push(format!("bears {} failures", self.max_failures));
        if self.rate_per_second > 0 {
            parts.push(format!("{}/s", self.rate_per_second));
        }
        if !self.window.is_empty() {
            parts.push(format!("{} UTC", self.window));
        }
        parts.join(", ")
    }
}

impl Rows for Shown {
    const HEAD: &'static [&'static str] = &["COMMAND", "ACTION", "BY", "STATE", "WAVE", "AGENTS"];

    fn cells(&self) -> Vec<String> {
        vec![
            output::short(&self.command_id),
            self.action.clone(),
            self.requested_by.clone(),
            self.state.clone(),
            format!("{}/{}", self.wave, self.waves),
            self.answers(),
        ]
    }
}

fn show(rollout: Rollout) -> Shown {
    Shown {
        command_id: rollout.command_id,
        action: output::plain(&rollout.action),
        requested_by: output::plain(&rollout.requested_by),
        state: rollout.state,
        reason: output::plain(&rollout.reason),
        waits_for: output::plain(&rollout.waits_for),
        seed: rollout.seed,
        target_count: rollout.targets,
        waves: rollout.waves,
        wave: rollout.wave,
        released: rollout.released,
        done: rollout.done,
        failed: rollout.failed,
        silent: rollout.silent,
        unanswered: rollout.unanswered,
        awaited: rollout.awaited,
        away: rollout.away,
        forgiven: rollout.forgiven,
        canary: rollout.canary,
        batch: rollout.batch,
        pause_seconds: rollout.pause_seconds,
        max_failures: rollout.max_failures,
        rate_per_second: rollout.rate_per_second,
        window: rollout.window,
        start_at: Some(output::time(rollout.start_at_ms)).filter(|_| rollout.start_at_ms > 0),
        answer_within_seconds: rollout.patience_seconds,
        issued_at: output::time(rollout.issued_at_ms),
        expires_at: output::time(rollout.expires_at_ms),
    }
}

/// What the flags of `writ send` ask for; `None` without any of them. A seed that only picks some agents asks
/// for no waves.
pub(super) fn plan(waves: Waves, picks: bool) -> Option<RolloutPlan> {
    let seconds = |time: Option<Duration>| {
        time.map_or(0, |time| u32::try_from(time.as_secs().max(1)).unwrap_or(u32::MAX))
    };
    let Waves { canary, batch, pause, max_failures, rate, window, start_at, answer_within, seed } = waves;
    let plan = RolloutPlan {
        canary: canary.unwrap_or_default(),
        batch: batch.unwrap_or_default(),
        pause_seconds: seconds(pause),
        max_failures: max_failures.unwrap_or_default(),
        rate_per_second: rate.unwrap_or(0),
        window: window.unwrap_or_default(),
        start_at_ms: start_at.map_or(0, Timestamp::as_millis),
        seed: seed.unwrap_or(0),
        patience_seconds: seconds(answer_within),
    };
    let nothing = RolloutPlan { seed: if picks { plan.seed } else { 0 }, ..RolloutPlan::default() };
    (plan != nothing).then_some(plan)
}

pub(super) async fn run(format: Format, client: &Client, verb: Rollouts) -> Result<ExitCode, Failure> {
    let request = |command_id: String| GetRolloutRequest { command_id };
    let mut rollouts = client.rollouts();
    let rollout = match verb {
        Rollouts::List { limit } => {
            let request = ListRolloutsRequest { page_size: limit, page_token: String::new() };
            let listed = rollouts.list(request).await?.into_inner().rollouts;
            let rows: Vec<_> = listed.into_iter().map(show).collect();
            let next = client.typed("writ send action NAME --all --canary 5 --batch 10%");
            output::list(format, &rows, &format!("No command was sent in waves yet. Next: {next}"))?;
            return Ok(ExitCode::SUCCESS);
        }
        Rollouts::Watch { id } => return watch(format, client, id, None).await,
        Rollouts::Show { id } => rollouts.get(request(id)).await?,
        Rollouts::Pause { id } => rollouts.pause(request(whole_id(client, id).await?)).await?,
        Rollouts::Resume { id, without_away } => {
            let command_id = whole_id(client, id).await?;
            rollouts.resume(ResumeRolloutRequest { command_id, without_away }).await?
        }
        Rollouts::Abort { id } => rollouts.abort(request(whole_id(client, id).await?)).await?,
    };
    print(format, client, &show(rollout.into_inner()))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints how one stands.
pub(super) fn print(format: Format, client: &Client, shown: &Shown) -> Result<(), Failure> {
    let id = &output::short(&shown.command_id);
    let next = match shown.state.as_str() {
        "running" => format!("writ rollouts watch {id}"),
        "paused" => format!("writ rollouts resume {id}"),
        _ => format!("writ commands show {id}"),
    };
    let fields = [
        ("command", shown.command_id.clone()),
        ("action", shown.action.clone()),
        ("by", shown.requested_by.clone()),
        ("state", shown.state.clone()),
        ("why", shown.why()),
        ("wave", format!("{} of {}", shown.wave, shown.waves)),
        ("agents", shown.answers()),
        ("plan", shown.plan()),
        ("seed", shown.seed.to_string()),
        ("expires", shown.expires_at.clone()),
        ("next", client.typed(&next)),
    ];
    let said: Vec<_> = fields.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    output::one(format, shown, &said)
}

/// Follows a rollout until it is over or stops, or as long as one wants to wait.
pub(super) async fn watch(
    format: Format,
    client: &Client,
    command_id: String,
    limit: Option<Duration>,
) -> Result<ExitCode, Failure> {
    let goes_on = format!(
        "the rollout goes on: {}; to end it: {}",
        client.typed(&format!("writ rollouts watch {}", output::short(&command_id))),
        client.typed(&format!("writ rollouts abort {}", output::short(&command_id)))
    );
    let (mut latest, mut said) = (None, String::new());
    let mut progress = Progress::of(0, "let obey");
    let watching = async {
        let mut changes = client.rollouts().watch(GetRolloutRequest { command_id }).await?.into_inner();
        while let Some(change) = changes.message().await? {
            let shown = show(change);
            // Why nothing moves, once: what it waits for says how long with numbers that change.
            let why = shown.why();
            let kind: String = why.chars().take_while(|c| !c.is_ascii_digit()).collect();
            if kind != said && !why.is_empty() {
                progress.note(&format!("{}: {why}", shown.state));
            }
            said = kind;
            let words = format!("wave {}/{}: {}", shown.wave, shown.waves, shown.answers());
            progress.show(shown.released.into(), shown.target_count.into(), words);
            latest = Some(shown);
        }
        Ok::<_, tonic::Status>(())
    };
    let ended = tokio::select! {
        ended = tokio::time::timeout(limit.unwrap_or(Duration::MAX), watching) => ended,
        _ = tokio::signal::ctrl_c() => {
            progress.end();
            say::aside(format_args!("writ: {goes_on}"));
            return Ok(ExitCode::from(EXIT_UNANSWERED));
        }
    };
    progress.end();
    match ended {
        Ok(Err(status)) => return Err(Failure::from(status).with_next(latest.is_some(), &goes_on)),
        Ok(Ok(())) => {}
        Err(_) => say::aside(format_args!("writ: {goes_on}")),
    }
    let Some(shown) = latest else { return Err(Failure::unreachable(goes_on)) };
    print(format, client, &shown)?;
    Ok(match shown.state.as_str() {
        "stopped" => ExitCode::from(EXIT_AGENT),
        _ if shown.failed + shown.silent > 0 => ExitCode::from(EXIT_AGENT),
        _ if shown.done < shown.target_count => ExitCode::from(EXIT_UNANSWERED),
        _ => ExitCode::SUCCESS,
    })
}
