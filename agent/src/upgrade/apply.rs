//! Root's side: one upgrade from the request to its end, whatever happens in between.
//!
//! Each step is noted before it is made, and can be made again: a host that lost its power goes on with it
//! ([`Standing`]). Two things order the steps. The agent's state is put back only while nobody can have
//! obeyed anything since it was copied, which is until the new program has greeted. And the program that does
//! this is a copy of the last one known to be good, so that no package can take it away.

use std::time::Duration;
use std::{fs, io};

use tracing::{info, warn};
use writ_common::files;
use writ_protocol::id::CommandId;
use writ_protocol::time::Timestamp;

use super::host::{Host, Which};
use super::request::{self, Believed, Request};
use super::{Allowed, HandOver, Phase, Place, Standing};
use crate::identity::Files;

/// How often it is looked whether the new program has greeted.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// One upgrade, for the agent that root allowed to be replaced.
pub(crate) struct Upgrader<'a, H> {
    pub(crate) place: &'a Place,
    pub(crate) allowed: Allowed,
    pub(crate) host: H,
    /// What time it is, by this host's clock.
    pub(crate) now: Timestamp,
}

impl<H: Host> Upgrader<'_, H> {
    /// Carries out what was asked for, or goes on with what was begun.
    ///
    /// # Errors
    /// In words why it cannot go on now; it goes on when it is called again.
    pub(crate) async fn run(&mut self) -> Result<(), String> {
        self.follow()?;
        let last = self.place.standing().map_err(text)?;
        let begun = match last {
            Some(standing) if !standing.phase.is_settled() => Some(standing),
            last => self.begin(last)?,
        };
        if let Some(mut standing) = begun {
            while !standing.phase.is_settled() {
                self.step(&mut standing).await?;
                self.place.note(&standing).map_err(text)?;
                let Standing { phase, why, .. } = &standing;
                info!(command.id = standing.command_id, version = standing.to, ?phase, why, "upgrade");
            }
        }
        if !self.place.work().exists() {
            return Ok(());
        }
        // Only now, when a program that is started may hold a session; and whatever stopped it before.
        self.host.let_run().await?;
        match self.host.forget_state().await {
            Err(why) if self.host.is_ending() => return Err(why),
            Err(why) => warn!(why, "the copies of the agent's state stay"),
            Ok(()) => {}
        }
        // Last: until then systemd goes on with it.
        fs::remove_dir_all(self.place.work()).map_err(text)
    }

    /// Follows whom the agent obeys, from what root pinned: a chain that ends before does not count later.
    fn follow(&mut self) -> Result<(), String> {
        match request::head(&self.allowed) {
            Ok(head) if head.to_string() != self.allowed.bundle_digest => {
                self.allowed.bundle_digest = head.to_string();
                self.place.allow(&self.allowed).map_err(text)
            }
            Ok(_) => Ok(()),
            // A request is judged by the same chain, and its answer says it.
            Err(why) => {
                warn!(why, "whom the agent obeys could not be followed");
                Ok(())
            }
        }
    }

    /// Reads the request, if there is one, and believes it or says why not.
    fn begin(&mut self, last: Option<Standing>) -> Result<Option<Standing>, String> {
        let handed = HandOver::of(&Files::new(&self.allowed.data_dir));
        let asked = Request::read(&handed);
        let standing = match asked {
            Ok(None) => return Ok(None),
            Ok(Some(request)) => self.consider(&request, &handed, last)?,
            Err(why) => {
                warn!(why, "an upgrade is asked for in a way that is not understood");
                None
            }
        };
        // Before it is noted: a request that the agent has withdrawn meanwhile was answered. Its presence
        // would call for this program again, too.
        match fs::remove_file(&handed.request) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            removed => removed.map_err(text)?,
        }
        if let Some(standing) = &standing {
            self.place.note(standing).map_err(text)?;
        }
        Ok(standing)
    }

    /// What a request comes to; `None`: it was answered before.
    fn consider(
        &mut self,
        request: &Request,
        handed: &HandOver,
        last: Option<Standing>,
    ) -> Result<Option<Standing>, String> {
        let Ok(command) = request.command_id.parse::<CommandId>() else {
            warn!("an upgrade is asked for by a command without an id");
            return Ok(None);
        };
        if last.as_ref().is_some_and(|last| last.command_id == command.to_string()) {
            return Ok(None);
        }
        let newest = last.map_or(0, |last| last.issued_at_ms).max(self.allowed.since_ms);
        let refused = |why: String| Some(Standing { phase: Phase::Refused, why, ..of(command, newest) });
        let believed = match request::believe(request, &self.allowed, self.now) {
            Ok(believed) => believed,
            Err(why) => return Ok(refused(why)),
        };
        let Believed { issued_at, upgrade } = believed;
        if issued_at.as_millis() <= newest {
            let why =
                "it was issued before another one that was believed here, or before root allowed upgrades";
            return Ok(refused(why.to_owned()));
        }
        if let Err(error) = super::allow::check_only_roots(&self.allowed.program) {
            return Ok(refused(error.to_string()));
        }
        let Some(package) = upgrade.package(&self.allowed.component) else {
            let why = format!("the command has no package `{}`", self.allowed.component);
            return Ok(refused(why));
        };
        files::private_folder(&self.place.work()).map_err(text)?;
        if let Err(why) = request::take(handed, package, &self.place.package()) {
            return Ok(refused(why));
        }
        Ok(Some(Standing {
            to: package.version.clone(),
            phase: Phase::Preparing,
            greet_within_seconds: upgrade.greet_within.as_secs(),
            allow_older: upgrade.allows_older,
            ..of(command, issued_at.as_millis())
        }))
    }

    /// Makes the step that is noted, and says which comes next.
    async fn step(&mut self, standing: &mut Standing) -> Result<(), String> {
        match standing.phase {
            // The agent obeys meanwhile: what can be refused is, before it is stopped.
            Phase::Preparing => match self.look(standing).await {
                Ok(()) => standing.phase = Phase::Copying,
                Err(why) if self.host.is_ending() => return Err(why),
                Err(why) => {
                    self.place.make_room();
                    refuse(standing, Phase::Refused, why);
                }
            },
            Phase::Copying => {
                self.host.stop().await?;
                match self.host.keep_state().await {
                    Ok(()) => standing.phase = Phase::Installing,
                    Err(why) if self.host.is_ending() => return Err(why),
                    Err(why) => {
                        self.place.make_room();
                        refuse(standing, Phase::Refused, why);
                    }
                }
            }
            Phase::Installing => {
                let installed = async {
                    self.host.install(Which::New, standing.allow_older).await?;
                    self.host.start().await
                };
                match installed.await {
                    Ok(()) => standing.phase = Phase::Waiting,
                    Err(why) if self.host.is_ending() => return Err(why),
                    Err(why) => self.give_up(standing, why).await?,
                }
            }
            Phase::Waiting => match self.wait(standing).await? {
                Ok(()) => self.keep_new(standing).await?,
                Err(why) => self.give_up(standing, why).await?,
            },
            // The program first: until it is back, the one that came could write to the state once more.
            Phase::TakingBack => {
                self.host.stop().await?;
                if let Err(why) = self.host.install(Which::Previous, true).await {
                    // On a full disk nothing can be installed, and nothing may have been.
                    if !self.host.has(&standing.from).await {
                        return Err(why);
                    }
                }
                self.host.stop().await?;
                self.host.put_back_state().await?;
                standing.phase = Phase::Returning;
            }
            Phase::Returning => {
                self.host.start().await?;
                standing.phase = Phase::TakenBack;
            }
            Phase::Done | Phase::TakenBack | Phase::Refused => {}
        }
        Ok(())
    }

    async fn look(&mut self, standing: &mut Standing) -> Result<(), String> {
        standing.from = self.host.installed().await?;
        self.host.check(&standing.to).await?;
        check_order(standing)?;
        self.host.keep_installed().await
    }

    /// Waits for the greeting; the inner error says why there will be none.
    async fn wait(&mut self, standing: &Standing) -> Result<Result<(), String>, String> {
        let within = Duration::from_secs(standing.greet_within_seconds);
        // After a power loss the time begins anew: the host was not there to greet.
        let until = tokio::time::Instant::now() + within;
        loop {
            if let Some(said) = self.greeting(standing) {
                return Ok(said);
            }
            if let Some(why) = self.host.fault().await? {
                return Ok(Err(why));
            }
            if tokio::time::Instant::now() >= until {
                return Ok(Err(format!(
                    "version {} did not greet its server within {within:?}",
                    standing.to
                )));
            }
            self.host.pause(LOOK_EVERY).await?;
        }
    }

    /// What the new program has noted, if anything; the error says that it is another one.
    fn greeting(&self, standing: &Standing) -> Option<Result<(), String>> {
        let greeting = self.host.greeting().filter(|said| said.command_id == standing.command_id)?;
        Some(match greeting.version == standing.to {
            true => Ok(()),
            false => Err(format!(
                "the package of version {} holds a program that says it is {}",
                standing.to, greeting.version
            )),
        })
    }

    /// Takes the new program back, unless it greeted at the last moment: only once it is stopped is that
    /// known.
    async fn give_up(&mut self, standing: &mut Standing, why: String) -> Result<(), String> {
        self.host.stop().await?;
        match self.greeting(standing) {
            Some(Ok(())) => self.keep_new(standing).await?,
            Some(Err(_)) | None => refuse(standing, Phase::TakingBack, why),
        }
        Ok(())
    }

    async fn keep_new(&mut self, standing: &mut Standing) -> Result<(), String> {
        // First: it has greeted, and may have been stopped since. What is missing for the next may wait.
        self.host.let_run().await?;
        self.host.adopt().await?;
        standing.phase = Phase::Done;
        Ok(())
    }
}

fn of(command: CommandId, issued_at_ms: u64) -> Standing {
    Standing {
        command_id: command.to_string(),
        from: String::new(),
        to: String::new(),
        phase: Phase::Preparing,
        why: String::new(),
        greet_within_seconds: 0,
        allow_older: false,
        issued_at_ms,
    }
}

fn refuse(standing: &mut Standing, phase: Phase, why: String) {
    warn!(version = standing.to, why, "an upgrade failed");
    standing.phase = phase;
    standing.why = why;
}

/// Whether what comes is later than what is there (Semantic Versioning 2.0.0, section 11).
pub(super) fn check_order(standing: &Standing) -> Result<(), String> {
    let Standing { from, to, allow_older, .. } = standing;
    let read = |version: &str| {
        semver::Version::parse(version).map_err(|error| format!("`{version}` is no version: {error}"))
    };
    if *allow_older || read(to)? > read(from)? {
        return Ok(());
    }
    Err(format!("{to} is not later than {from}, which is installed; to go back: --allow-older"))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
