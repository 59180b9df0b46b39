//! What root's side does to a host: its service manager, its package manager, its files.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::fs::FlockOperation;
use tokio::process::Command;
use tracing::warn;
use writ_common::files;
use writ_common::shutdown::Shutdown;
use writ_common::text::plain;

use super::package::{is_debian, owner_of, pack_installed, remove_tree, upstream};
use super::{Allowed, Greeting, HandOver, Place, request};
use crate::components::check_room;
use crate::identity::Files;

/// How long a package manager may take, and how long it may be busy with others.
pub(super) const INSTALLS_WITHIN: Duration = Duration::from_secs(600);
/// How long anything else may take. An agent that stops waits for what runs (`TimeoutStopSec` of its unit).
pub(super) const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked whether another package manager has ended.
const LOOK_FOR_LOCK: Duration = Duration::from_secs(1);
/// A program that has ended so often does not start.
const MOST_RESTARTS: u64 = 3;
/// Bytes of what a command said that are told.
const MAX_SAID_BYTES: usize = 400;
/// Bytes of a greeting that are read.
const MAX_GREETING_BYTES: u64 = 4096;

/// Held by whoever works on packages (apt and dpkg: "frontend lock").
const PACKAGES_LOCK: &str = "/var/lib/dpkg/lock-frontend";

/// Which program is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// The one of the command.
    New,
    /// The one that was there before.
    Previous,
}

/// What an upgrade does to a host; every step can be made again.
pub(crate) trait Host {
    /// The version that is installed.
    async fn installed(&mut self) -> Result<String, String>;
    /// Looks whether the package is one that this host can install, of a version.
    async fn check(&mut self, version: &str) -> Result<(), String>;
    /// Keeps what is installed, so that it can be installed again.
    async fn keep_installed(&mut self) -> Result<(), String>;
    /// Installs.
    async fn install(&mut self, which: Which, may_be_older: bool) -> Result<(), String>;
    /// Whether a version is installed, and whole.
    async fn has(&mut self, version: &str) -> bool;
    /// Stops the agent, and returns when it has ended.
    async fn stop(&mut self) -> Result<(), String>;
    /// Starts the agent, anew if it runs.
    async fn start(&mut self) -> Result<(), String>;
    /// Starts the agent unless it runs.
    async fn let_run(&mut self) -> Result<(), String>;
    /// Copies what of the agent's state other versions may write differently.
    async fn keep_state(&mut self) -> Result<(), String>;
    /// Puts those copies back.
    async fn put_back_state(&mut self) -> Result<(), String>;
    /// Removes those copies.
    async fn forget_state(&mut self) -> Result<(), String>;
    /// What a program has noted.
    fn greeting(&self) -> Option<Greeting>;
    /// Why the program that was started will not greet, if that is known.
    async fn fault(&mut self) -> Result<Option<String>, String>;
    /// Waits a moment; the error says that this program is to end.
    async fn pause(&mut self, time: Duration) -> Result<(), String>;
    /// Whether this program is to end, so that what failed says nothing.
    fn is_ending(&self) -> bool;
    /// From now on the program that was installed makes upgrades.
    async fn adopt(&mut self) -> Result<(), String>;
}

/// A host with systemd, and with dpkg where the agent is a Debian package.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) place: Place,
    pub(crate) allowed: Allowed,
    pub(crate) shutdown: Shutdown,
    /// Held while packages are worked on.
    pub(crate) lock: Option<File>,
}

impl Machine {
    pub(crate) fn new(place: &Place, allowed: &Allowed, shutdown: &Shutdown) -> Self {
        let (place, allowed) = (place.clone(), allowed.clone());
        Self { place, allowed, shutdown: shutdown.clone(), lock: None }
    }

    fn is_package(&self) -> bool {
        is_debian(&self.allowed.component)
    }

    /// The name of the installed package.
    async fn package_name(&self) -> Result<String, String> {
        owner_of(&self.allowed.program).await?.ok_or_else(|| {
            format!(
                "no package owns {} any more; as root: writ-agent upgrade allow",
                self.allowed.program.display()
            )
        })
    }

    async fn systemctl(&self, words: &[&str]) -> Result<String, String> {
        run("systemctl", words, &[], ENDS_WITHIN).await
    }

    /// Keeps other package managers away; waits for one that is at work.
    async fn lock_packages(&mut self) -> Result<(), String> {
        if self.lock.is_some() {
            return Ok(());
        }
        let failed = |error: io::Error| format!("{PACKAGES_LOCK}: {error}");
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(PACKAGES_LOCK);
        let file = file.map_err(failed)?;
        let until = tokio::time::Instant::now() + INSTALLS_WITHIN;
        while let Err(error) = rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            let is_held = matches!(error, rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS);
            if !is_held || tokio::time::Instant::now() >= until {
                return Err(format!("{}; another package manager is at work", failed(error.into())));
            }
            self.pause(LOOK_FOR_LOCK).await?;
        }
        self.lock = Some(file);
        Ok(())
    }

    async fn dpkg(&self, words: &[&str], may_be_older: bool) -> Result<String, String> {
        // The scripts of our packages go by the second.
        let older = may_be_older.then_some(("WRIT_ALLOW_OLDER", "yes"));
        let told = [("DPKG_FRONTEND_LOCKED", "yes"), ("DEBIAN_FRONTEND", "noninteractive")];
        let told: Vec<_> = told.into_iter().chain(older).collect();
        run("dpkg", words, &told, INSTALLS_WITHIN).await
    }

    /// Does something with the agent's state with the rights of the agent: in its folder a link leads
    /// anywhere.
    async fn with_state(&self, what: &str) -> Result<(), String> {
        let folder = &self.allowed.data_dir;
        let owner = fs::metadata(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let (program, folder) = (self.place.program(), folder.to_string_lossy());
        let mut command = command(&program.to_string_lossy());
        command.args(["upgrade", "state", what, "--data-dir", &folder]);
        command.uid(owner.uid()).gid(owner.gid());
        finish(command, "the agent's state", INSTALLS_WITHIN).await.map(drop)
    }
}

impl Host for Machine {
    async fn installed(&mut self) -> Result<String, String> {
        if self.is_package() {
            let name = self.package_name().await?;
            let words = ["--show", "--showformat=${Version}", &name];
            return run("dpkg-query", &words, &[], ENDS_WITHIN).await.map(|version| upstream(&version));
        }
        version_of(&self.allowed.program).await
    }

    async fn check(&mut self, version: &str) -> Result<(), String> {
        // While the agent obeys: its state is copied when it is stopped.
        let files = Files::new(&self.allowed.data_dir);
        let bytes = |path: PathBuf| fs::symlink_metadata(path).map_or(0, |found| found.len());
        check_room(files.folder(), bytes(files.journal()).saturating_add(bytes(files.settings())))?;
        check_room(self.place.folder(), 0)?;
        let (package, mut program) = (self.place.package(), self.place.package());
        if self.is_package() {
            let (path, installed) = (package.to_string_lossy(), self.package_name().await?);
            for (field, wanted) in [("Package", installed.as_str()), ("Version", version)] {
                let found = run("dpkg-deb", &["--field", &path, field], &[], ENDS_WITHIN).await?;
                let found = upstream(&found);
                if found != wanted {
                    return Err(format!(
                        "its {} is `{}`, not `{wanted}`",
                        field.to_lowercase(),
                        plain(&found)
                    ));
                }
            }
            let tree = self.place.work().join("new");
            remove_tree(&tree)?;
            run("dpkg-deb", &["--extract", &path, &tree.to_string_lossy()], &[], INSTALLS_WITHIN).await?;
            program = tree.join(self.allowed.program.strip_prefix("/").unwrap_or(&self.allowed.program));
        } else {
            make_program(&package).map_err(|error| format!("{}: {error}", package.display()))?;
        }
        if !fs::symlink_metadata(&program).is_ok_and(|found| found.is_file()) {
            return Err(format!("it holds no program {}", self.allowed.program.display()));
        }
        let found = version_of(&program).await?;
        if found != version {
            return Err(format!("what came as version {version} says that it is {}", plain(&found)));
        }
        // One that knows nothing of upgrades would never say that it has greeted.
        let words = ["upgrade", "allow", "--help"];
        let known = run(&program.to_string_lossy(), &words, &[], ENDS_WITHIN).await;
        // Its room is needed when something has to be put back.
        remove_tree(&self.place.work().join("new"))?;
        known
            .map(drop)
            .map_err(|_| format!("version {version} cannot be upgraded to by a command: it is too old"))
    }

    async fn keep_installed(&mut self) -> Result<(), String> {
        if !self.is_package() {
            return replace(&self.allowed.program, &self.place.previous()).map_err(|error| error.to_string());
        }
        self.lock_packages().await?;
        let name = self.package_name().await?;
        pack_installed(&name, &self.place).await
    }

    async fn install(&mut self, which: Which, may_be_older: bool) -> Result<(), String> {
        let from = match which {
            Which::New => self.place.package(),
            Which::Previous => self.place.previous(),
        };
        if !self.is_package() {
            return replace(&from, &self.allowed.program).map_err(|error| error.to_string());
        }
        self.lock_packages().await?;
        // What the host's owner wrote stays, whatever the package says about it.
        let words = ["--force-confold", "--force-confdef", "--force-downgrade", "--install"];
        let from = from.to_string_lossy();
        let words: Vec<_> = words.into_iter().chain([&*from]).collect();
        let installed = self.dpkg(&words, may_be_older).await.map(drop);
        // Others need not wait until the agent has greeted.
        self.lock = None;
        installed
    }

    async fn has(&mut self, version: &str) -> bool {
        if !self.is_package() {
            return version_of(&self.allowed.program).await.is_ok_and(|found| found == version);
        }
        let Ok(name) = self.package_name().await else { return false };
        let words = ["--show", "--showformat=${Status} ${Version}", &name];
        let found = run("dpkg-query", &words, &[], ENDS_WITHIN).await.unwrap_or_default();
        found.strip_prefix("install ok installed ").is_some_and(|found| upstream(found) == version)
    }

    async fn stop(&mut self) -> Result<(), String> {
        let unit = self.allowed.unit.clone();
        let Err(why) = self.systemctl(&["stop", &unit]).await else { return Ok(()) };
        // A unit that cannot be read is not stopped, although nothing of it runs: such a unit may be the
        // fault of what came.
        let shown = self.systemctl(&["show", "--property=ActiveState", "--value", &unit]).await?;
        if matches!(shown.trim(), "inactive" | "failed") { Ok(()) } else { Err(why) }
    }

    async fn start(&mut self) -> Result<(), String> {
        let unit = self.allowed.unit.clone();
        self.systemctl(&["daemon-reload"]).await?;
        // Its failures of before do not count; there may be none.
        if let Err(why) = self.systemctl(&["reset-failed", &unit]).await {
            warn!(why, "not reset");
        }
        self.systemctl(&["--no-block", "restart", &unit]).await.map(drop)
    }

    async fn let_run(&mut self) -> Result<(), String> {
        let unit = self.allowed.unit.clone();
        self.systemctl(&["--no-block", "start", &unit]).await.map(drop)
    }

    async fn keep_state(&mut self) -> Result<(), String> {
        self.with_state("keep").await
    }

    async fn put_back_state(&mut self) -> Result<(), String> {
        self.with_state("put-back").await
    }

    async fn forget_state(&mut self) -> Result<(), String> {
        self.with_state("forget").await
    }

    fn greeting(&self) -> Option<Greeting> {
        let path = HandOver::of(&Files::new(&self.allowed.data_dir)).greeting;
        let text = request::bounded(&path, MAX_GREETING_BYTES).ok()?;
        serde_json::from_slice(&text).ok()
    }

    async fn fault(&mut self) -> Result<Option<String>, String> {
        let unit = self.allowed.unit.clone();
        let shown = self.systemctl(&["show", "--property=NRestarts,ActiveState", &unit]).await?;
        let value = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let restarts = value("NRestarts=").parse::<u64>().unwrap_or(0);
        if value("ActiveState=") == "failed" || restarts >= MOST_RESTARTS {
            return Ok(Some(format!("the new program does not start; there: journalctl -u {unit}")));
        }
        Ok(None)
    }

    async fn pause(&mut self, time: Duration) -> Result<(), String> {
        let slept = self.shutdown.unless_requested(tokio::time::sleep(time)).await;
        slept.ok_or_else(|| "this program is to end; it goes on at its next start".to_owned())
    }

    fn is_ending(&self) -> bool {
        self.shutdown.is_requested()
    }

    async fn adopt(&mut self) -> Result<(), String> {
        adopt(&self.allowed.program, &self.place).map_err(|error| error.to_string())
    }
}

/// What a program of ours says that it is.
async fn version_of(program: &Path) -> Result<String, String> {
    let said = run(&program.to_string_lossy(), &["--version"], &[], ENDS_WITHIN).await?;
    let version = said.trim().strip_prefix("writ-agent ");
    version.map(str::to_owned).ok_or_else(|| format!("{} is no writ-agent", program.display()))
}

/// Puts a copy of a program in a place, whole and durable.
pub(crate) fn replace(from: &Path, to: &Path) -> Result<(), files::FileError> {
    let mut beside = to.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    fs::copy(from, &beside).map_err(files::FileError::io(&beside))?;
    make_program(&beside).map_err(files::FileError::io(&beside))?;
    files::rename(&beside, to)
}

/// Makes a program the one that makes upgrades. Nobody else can read it, so that what it does as the agent's
/// user, the agent cannot look into (ptrace(2), "dumpable").
pub(crate) fn adopt(program: &Path, place: &Place) -> Result<(), files::FileError> {
    let to = place.program();
    replace(program, &to)?;
    fs::set_permissions(&to, fs::Permissions::from_mode(0o711)).map_err(files::FileError::io(&to))
}

fn make_program(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    File::open(path)?.sync_all()
}

fn command(program: &str) -> Command {
    #[expect(clippy::disallowed_methods, reason = "the home of what root's side of an upgrade starts")]
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8");
    command
}

/// Runs a program of the host to its end; what it printed.
pub(crate) async fn run(
    program: &str,
    words: &[&str],
    told: &[(&str, &str)],
    within: Duration,
) -> Result<String, String> {
    let mut command = command(program);
    command.args(words).envs(told.iter().copied());
    finish(command, &format!("{program} {}", words.join(" ")), within).await
}

async fn finish(mut command: Command, what: &str, within: Duration) -> Result<String, String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(within, command.output()).await;
    let Output { status, stdout, stderr } = ended
        .map_err(|_| format!("{what}: it did not end within {within:?}"))?
        .map_err(|error| format!("{what}: {error}"))?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let said = plain(String::from_utf8_lossy(&stderr).trim());
    let end = said.char_indices().rev().nth(MAX_SAID_BYTES).map_or(0, |(at, _)| at);
    Err(format!("{what}: {status}: {}", &said[end..]))
}
