//! What root says once: that this agent may be replaced, and by whom.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use writ_common::daemon::Fatal;
use writ_common::files;
use writ_common::time::{Clock as _, SystemClock};
use writ_common::users;
use writ_protocol::component::package_of;
use writ_protocol::id::Digest;
use writ_protocol::identity::IdentityRecord;

use super::package::{architecture, owner_of};
use super::{Allowed, HandOver, Place, host, request};
use crate::identity::{Files, IdentityError, record_in};

/// What systemd starts for root's side.
const UNITS: [(&str, &str); 2] = [
    ("writ-agent-upgrade.path", include_str!("../../../deploy/systemd/writ-agent-upgrade.path")),
    ("writ-agent-upgrade.service", include_str!("../../../deploy/systemd/writ-agent-upgrade.service")),
];
const UNIT_FOLDER: &str = "/etc/systemd/system";
/// How long the service manager may take.
const WITHIN: Duration = Duration::from_secs(60);

/// Bytes of an identity record that are read.
const MAX_RECORD_BYTES: u64 = 1 << 20;

/// Allows the agent of a data directory to be replaced; what was allowed. Whom the agent obeys is believed
/// where it follows from a bundle that root names, and from the one that root pinned before. The first
/// time, there may be neither.
///
/// # Errors
/// When this host has no systemd, the agent is not enrolled or obeys others, or a file cannot be written.
pub(crate) async fn allow(
    place: &Place,
    files: &Files,
    (unit, bundle): (&str, Option<Digest>),
) -> Result<Allowed, Fatal> {
    check_root(place)?;
    for above in files.folder().ancestors().skip(1) {
        check_only_roots(above)?;
    }
    let folder = fs::symlink_metadata(files.folder()).map_err(files::FileError::io(files.folder()));
    if !folder.map_err(Fatal::failure)?.is_dir() {
        return Err(Fatal::usage(format!(
            "{}: this is no folder; a link leads anywhere",
            files.folder().display()
        )));
    }
    // The files are the agent's: what is there may be a link, a pipe, or without an end.
    let record = match request::bounded(&files.record(), MAX_RECORD_BYTES) {
        Err(error) if error.is_missing() => Err(IdentityError::NotEnrolled(files.record())),
        read => {
            let read = read.map_err(Fatal::failure)?;
            record_in(&read).ok_or_else(|| IdentityError::Record(files.record()))
        }
    };
    let record = record.map_err(Fatal::failure)?;
    let chain = request::chain(files, bundle).map_err(Fatal::failure)?;
    if let Some(before) = place.allowed().map_err(Fatal::failure)? {
        check_same(&before, files, &record)?;
    }
    let program = program_of(unit).await?;
    check_only_roots(&program)?;
    let is_owned = owner_of(&program).await.map_err(Fatal::failure)?.is_some();
    let kind = format!("{}-{}", if is_owned { "deb" } else { "program" }, architecture());
    let allowed = Allowed {
        data_dir: files.folder().to_owned(),
        agent_id: record.agent.to_string(),
        realm: record.realm,
        bundle_digest: chain.head().digest.to_string(),
        component: package_of(&kind),
        program: program.clone(),
        unit: unit.to_owned(),
        since_ms: SystemClock::new().wall().as_millis(),
    };
    make_folder(place.folder()).map_err(Fatal::failure)?;
    host::adopt(&program, place).map_err(Fatal::failure)?;
    place.allow(&allowed).map_err(Fatal::failure)?;
    let request = HandOver::of(files).request;
    for (name, text) in UNITS {
        let text = text.replace("@FOLDER@", &place.folder().to_string_lossy());
        let text = text.replace("@REQUEST@", &request.to_string_lossy());
        let text = text.replace("@TRUST@", &files.trust().to_string_lossy());
        let path = Path::new(UNIT_FOLDER).join(name);
        files::write_public(&path, text.as_bytes()).map_err(Fatal::failure)?;
    }
    systemctl(&["daemon-reload"]).await?;
    systemctl(&["enable", "--now", UNITS[0].0]).await?;
    Ok(allowed)
}

/// Whether the agent is the one that was allowed before, and obeys whoever follows from what was pinned then:
/// neither an agent that was broken into nor an old bundle changes that by having root allow it again.
fn check_same(before: &Allowed, files: &Files, record: &IdentityRecord) -> Result<(), Fatal> {
    let Allowed { agent_id, realm, .. } = before;
    let told = if (agent_id, realm) == (&record.agent.to_string(), &record.realm) {
        let pin = before.pin().map_err(Fatal::failure)?;
        request::chain(files, Some(pin)).err()
    } else {
        Some(format!(
            "upgrades are allowed for agent {agent_id} of realm {realm}, and this is {} of {}",
            record.agent, record.realm
        ))
    };
    told.map_or(Ok(()), |told| {
        let cure = "If this host was enrolled anew: writ-agent upgrade forbid, and then: writ-agent upgrade allow --bundle DIGEST";
        Err(Fatal::failure(format!("{told}. {cure}")))
    })
}

/// Takes all of that back.
///
/// # Errors
/// When an upgrade is under way, or a file cannot be removed.
pub(crate) async fn forbid(place: &Place) -> Result<(), Fatal> {
    check_root(place)?;
    if Path::new(UNIT_FOLDER).join(UNITS[0].0).exists() {
        systemctl(&["disable", "--now", UNITS[0].0]).await?;
    }
    for (name, _) in UNITS {
        remove(|path| fs::remove_file(path), &Path::new(UNIT_FOLDER).join(name))?;
    }
    remove(|path| fs::remove_dir_all(path), place.folder())?;
    systemctl(&["daemon-reload"]).await
}

/// A folder that everybody may read, and root alone change.
fn make_folder(folder: &Path) -> Result<(), files::FileError> {
    let made = fs::create_dir_all(folder);
    let readable = fs::Permissions::from_mode(0o755);
    made.and_then(|()| fs::set_permissions(folder, readable)).map_err(files::FileError::io(folder))
}

fn remove(by: fn(&Path) -> io::Result<()>, path: &Path) -> Result<(), Fatal> {
    match by(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Fatal::failure(files::FileError::io(path)(error)))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

async fn systemctl(words: &[&str]) -> Result<(), Fatal> {
    host::run("systemctl", words, &[], WITHIN).await.map(drop).map_err(Fatal::failure)
}

/// Whether this is root, on a host where systemd can carry an upgrade out, and none is under way.
fn check_root(place: &Place) -> Result<(), Fatal> {
    if users::own_uid() != 0 {
        return Err(Fatal::usage("only root allows that programs are installed: run this as root"));
    }
    if !Path::new("/run/systemd/system").exists() {
        return Err(Fatal::usage("this host was not started by systemd, which carries upgrades out"));
    }
    if place.work().exists() {
        let text = "an upgrade is under way; wait for its end: systemctl status writ-agent-upgrade";
        return Err(Fatal::failure(text));
    }
    Ok(())
}

/// Whether only root can change a program or folder, and the way to it: root starts the one, and opens files
/// in the other.
///
/// # Errors
/// What others can change.
pub(crate) fn check_only_roots(path: &Path) -> Result<(), Fatal> {
    for part in path.ancestors() {
        let found = fs::symlink_metadata(part).map_err(files::FileError::io(part)).map_err(Fatal::failure)?;
        if found.uid() != 0 || found.mode() & 0o022 != 0 || found.is_symlink() {
            let text = format!(
                "{}: this must be root's, no link, and nobody else's to write: root would start, or look for, what others put there",
                part.display()
            );
            return Err(Fatal::usage(text));
        }
    }
    Ok(())
}

/// The program that a unit starts.
async fn program_of(unit: &str) -> Result<std::path::PathBuf, Fatal> {
    let words = ["show", "--property=ExecStart", "--value", unit];
    let shown = host::run("systemctl", &words, &[], WITHIN).await.map_err(Fatal::failure)?;
    let path = shown.split_once("path=").and_then(|(_, rest)| rest.split_once(" ;")).map(|(path, _)| path);
    let Some(path) = path else {
        return Err(Fatal::usage(format!("no unit {unit} starts a program here; name it: --unit NAME")));
    };
    // Where the host's folders are links, as /bin is one to /usr/bin.
    fs::canonicalize(path).map_err(files::FileError::io(Path::new(path))).map_err(Fatal::failure)
}
