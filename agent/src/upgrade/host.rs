//! What root's side does to a host: its service manager, its package manager, its files.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use md5::{Digest as _, Md5};
use rustix::fs::FlockOperation;
use tokio::process::Command;
use tracing::warn;
use writ_common::files;
use writ_common::shutdown::Shutdown;
use writ_common::text::plain;

use super::{Allowed, Greeting, HandOver, Place, request};
use crate::identity::Files;

/// How long a package manager may take, and how long it may be busy with others.
const INSTALLS_WITHIN: Duration = Duration::from_secs(600);
/// How long anything else may take. An agent that stops waits for what runs (`TimeoutStopSec` of its unit).
const ENDS_WITHIN: Duration = Duration::from_secs(60);
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

    /// Does something with the agent's state with the rights of the agent: in its folder a link leads anywhere.
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
        let found = version_of(&program).await?;
        if found != version {
            return Err(format!("what came as version {version} says that it is {}", plain(&found)));
        }
        // One that knows nothing of upgrades would never say that it has greeted.
        let words = ["upgrade", "allow", "--help"];
        let known = run(&program.to_string_lossy(), &words, &[], ENDS_WITHIN).await;
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

    async fn stop(&mut self) -> Result<(), String> {
        let unit = self.allowed.unit.clone();
        self.systemctl(&["stop", &unit]).await.map(drop)
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
        replace(&self.allowed.program, &self.place.program()).map_err(|error| error.to_string())
    }
}

/// Whether a component holds Debian packages.
pub(crate) fn is_debian(component: &str) -> bool {
    component.starts_with("agent-deb-")
}

/// The Debian package that a file is of; `None`: of none.
pub(crate) async fn owner_of(program: &Path) -> Result<Option<String>, String> {
    if !Path::new("/var/lib/dpkg/status").exists() {
        return Ok(None);
    }
    match run("dpkg-query", &["--search", &program.to_string_lossy()], &[], ENDS_WITHIN).await {
        Ok(found) => Ok(owner_in(&found)),
        Err(why) if why.contains("no path found") => Ok(None),
        Err(why) => Err(why),
    }
}

/// The package in what `dpkg-query --search` says: `writ-agent: /usr/bin/writ-agent`, or with an architecture
/// after the name.
fn owner_in(said: &str) -> Option<String> {
    let line = said.lines().find(|line| !line.starts_with("diversion "))?;
    let (name, _) = line.split_once(": ")?;
    Some(name.split(':').next().unwrap_or(name).to_owned())
}

/// How Debian is called for a processor; another one as the compiler calls it.
pub(crate) const fn architecture() -> &'static str {
    match std::env::consts::ARCH.as_bytes() {
        b"x86_64" => "amd64",
        b"aarch64" => "arm64",
        _ => std::env::consts::ARCH,
    }
}

/// A version of a Debian package as its program says it: a tilde stands for the hyphen of a pre-release
/// (Debian Policy §5.6.12).
fn upstream(version: &str) -> String {
    version.trim().replacen('~', "-", 1)
}

/// What a program of ours says that it is.
async fn version_of(program: &Path) -> Result<String, String> {
    let said = run(&program.to_string_lossy(), &["--version"], &[], ENDS_WITHIN).await?;
    let version = said.trim().strip_prefix("writ-agent ");
    version.map(str::to_owned).ok_or_else(|| format!("{} is no writ-agent", program.display()))
}

/// Makes a package of what is installed, so that the host's package manager can go back to it: the files, the
/// scripts and the fields that dpkg knows of it (dpkg-deb(1), deb(5)).
///
/// Files below `/etc` that the host's owner has changed are in no package, so that no package is what they
/// were changed from: dpkg leaves them alone then, and later.
async fn pack_installed(name: &str, place: &Place) -> Result<(), String> {
    let tree = place.work().join("tree");
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| format!("{path}: {error}")
    };
    remove_tree(&tree)?;
    let control = tree.join("DEBIAN");
    fs::create_dir_all(&control).map_err(failed(&control))?;
    // dpkg-deb(1) takes no other.
    let readable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&control, readable).map_err(failed(&control))?;
    let status = run("dpkg-query", &["--status", name], &[], ENDS_WITHIN).await?;
    let configured = configured(&status);
    let (as_shipped, changed): (Vec<_>, Vec<_>) =
        configured.into_iter().partition(|(path, md5)| fs::read(path).is_ok_and(|now| md5_of(&now) == *md5));
    let listed = run("dpkg-query", &["--listfiles", name], &[], ENDS_WITHIN).await?;
    for path in listed.lines().filter(|line| line.starts_with('/') && *line != "/.").map(Path::new) {
        if !changed.iter().any(|(changed, _)| changed == path) {
            copy_into(path, &tree).map_err(failed(path))?;
        }
    }
    let file = control.join("control");
    fs::write(&file, control_of(&status)).map_err(failed(&file))?;
    let conffiles: String = as_shipped.iter().map(|(path, _)| format!("{}\n", path.display())).collect();
    let file = control.join("conffiles");
    fs::write(&file, conffiles).map_err(failed(&file))?;
    for part in ["preinst", "postinst", "prerm", "postrm"] {
        let from = run("dpkg-query", &["--control-path", name, part], &[], ENDS_WITHIN).await?;
        let from = PathBuf::from(from.trim());
        if !from.as_os_str().is_empty() {
            fs::copy(&from, control.join(part)).map_err(failed(&from))?;
        }
    }
    let (tree, to) = (tree.to_string_lossy(), place.previous());
    let words = ["--root-owner-group", "-Znone", "--build", &tree, &to.to_string_lossy()];
    run("dpkg-deb", &words, &[], INSTALLS_WITHIN).await?;
    File::open(&to).and_then(|file| file.sync_all()).map_err(failed(&to))
}

fn remove_tree(tree: &Path) -> Result<(), String> {
    match fs::remove_dir_all(tree) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{}: {error}", tree.display())),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The files of a package that its host's owner may change, with the MD5 of what was shipped (deb-conffiles(5)).
fn configured(status: &str) -> Vec<(PathBuf, String)> {
    let rows = status.lines().skip_while(|line| !line.starts_with("Conffiles:")).skip(1);
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        Some((PathBuf::from(words.next()?), words.next()?.to_owned()))
    };
    rows.take_while(|line| line.starts_with(' ')).filter_map(row).collect()
}

fn md5_of(content: &[u8]) -> String {
    hex::encode(Md5::digest(content))
}

/// The fields of an installed package without those that say how it is installed.
fn control_of(status: &str) -> String {
    const OF_THE_HOST: [&str; 5] =
        ["Status:", "Conffiles:", "Config-Version:", "Triggers-Pending:", "Triggers-Awaited:"];
    let (mut control, mut is_kept) = (String::new(), true);
    for line in status.lines().filter(|line| !line.is_empty()) {
        if !line.starts_with(' ') {
            is_kept = !OF_THE_HOST.iter().any(|field| line.starts_with(field));
        }
        if is_kept {
            control.push_str(line);
            control.push('\n');
        }
    }
    control
}

/// Copies a file, link or folder of a package below another root. What is gone, such as a page of a manual on a
/// host that keeps none, is left out; a folder that the host's owner has put elsewhere is a folder in it.
fn copy_into(path: &Path, tree: &Path) -> io::Result<()> {
    let to = tree.join(path.strip_prefix("/").unwrap_or(path));
    if path.is_dir() {
        fs::create_dir_all(&to)?;
        return fs::set_permissions(&to, fs::metadata(path)?.permissions());
    }
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    if found.is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(path)?, &to);
    }
    // Never one that is there: it could be of the host.
    io::copy(&mut File::open(path)?, &mut File::create_new(&to)?)?;
    fs::set_permissions(&to, found.permissions())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dpkg_says_of_a_package_is_read_as_it_is_meant() {
        for (said, name) in [
            ("writ-agent: /usr/bin/writ-agent\n", Some("writ-agent")),
            ("writ-agent:amd64: /usr/bin/writ-agent\n", Some("writ-agent")),
            (
                "diversion by other from: /usr/bin/writ-agent\nwrit-agent: /usr/bin/writ-agent\n",
                Some("writ-agent"),
            ),
            ("", None),
        ] {
            assert_eq!(owner_in(said).as_deref(), name, "{said}");
        }
        let status = "Package: writ-agent\nStatus: install ok installed\nVersion: 0.1.0\nConffiles:\n /etc/writ/agent.toml d41d8cd98f00b204e9800998ecf8427e\n /etc/writ/old 00000000000000000000000000000000 obsolete\nDescription: obeys\n more\n";
        assert_eq!(control_of(status), "Package: writ-agent\nVersion: 0.1.0\nDescription: obeys\n more\n");
        let files = configured(status);
        assert_eq!(files[0], (PathBuf::from("/etc/writ/agent.toml"), md5_of(b"")));
        assert_eq!(files.len(), 2);
        assert_eq!(upstream("0.2.0~rc.1\n"), "0.2.0-rc.1");
    }

    #[test]
    fn a_copy_of_a_package_never_writes_to_the_host() {
        let folder = tempfile::TempDir::new().unwrap();
        let (host, tree) = (folder.path().join("host"), folder.path().join("tree"));
        fs::create_dir_all(host.join("srv/writ")).unwrap();
        fs::write(host.join("srv/writ/agent.toml"), "mine").unwrap();
        // The host's owner has put the folder elsewhere.
        std::os::unix::fs::symlink(host.join("srv/writ"), host.join("writ")).unwrap();
        for path in ["writ", "writ/agent.toml", "gone"] {
            copy_into(&host.join(path), &tree).unwrap();
        }
        let copied = tree.join(host.strip_prefix("/").unwrap()).join("writ");
        assert!(!fs::symlink_metadata(&copied).unwrap().is_symlink());
        assert_eq!(fs::read(copied.join("agent.toml")).unwrap(), b"mine");
        assert_eq!(fs::read(host.join("srv/writ/agent.toml")).unwrap(), b"mine");
        copy_into(&host.join("writ/agent.toml"), &tree).unwrap_err();
    }
}
