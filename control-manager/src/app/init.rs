//! `writ-control-manager init`.

use std::path::PathBuf;

use serde::Serialize;
use writ_common::admin::new_token;
use writ_common::daemon::Fatal;
use writ_common::files;
use writ_common::listener::DRAIN_DEADLINE;
use writ_common::say;
use writ_common::shutdown::Shutdown;
use writ_common::time::{Clock as _, SystemClock};
use writ_database::file as database_file;
use writ_protocol::id::{Digest, ManagerId};
use writ_protocol::place::host_for_others;
use writ_protocol::time::Timestamp;

use super::{Custom, Init, Names, Output, unusable};
use crate::authority::{self, Authority, AuthorityError, Files};
use crate::folder::{self, Presence};
use crate::store::Store;

/// Names every leaf carries.
const OWN_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

#[derive(Serialize)]
struct NewManager {
    manager_id: String,
    name: String,
    ca_file: PathBuf,
    ca_subject: String,
    ca_sha256: String,
    ca_not_after: String,
    admin_token_file: PathBuf,
}

pub(super) async fn init(options: Init, shutdown: &Shutdown) -> Result<(), Fatal> {
    let Init { folder, name, tls_names, custom, keep_keys, if_new, output } = options;
    check_name(&name)?;
    if custom.is_some() && !tls_names.is_empty() {
        return Err(Fatal::usage("--tls-name is for a certificate made here; yours has its names already"));
    }
    let tls_names = certificate_names(&tls_names)?;
    let files = folder.files()?;
    if keep_keys && !files.folder().exists() {
        return Err(no_keys(&files));
    }
    files::private_folder(files.folder()).map_err(Fatal::failure)?;
    let failed = |error: &dyn std::error::Error| Fatal::caused("no manager was made", error);
    // Before the folder is taken: a manager that runs has it.
    if let Presence::Manager { id, name: there } =
        folder::find(&files).await.map_err(|error| failed(&error))?
    {
        if if_new && there == name {
            say::aside(format_args!("manager `{name}` ({id}) is here already; nothing was changed"));
            return Ok(());
        }
        let (at, start) = (files.folder().display(), folder.start().how());
        return Err(Fatal::failure(format!(
            "{at}: the manager `{there}` ({id}) lives here; start it: {start}"
        )));
    }
    let _lock = files::lock_folder(files.folder()).map_err(Fatal::failure)?;
    let now = SystemClock::new().wall();
    clear_folder(&files, keep_keys, now).await?;
    // Keys that stay are somebody's all the time.
    if !keep_keys {
        files::begin_making(files.folder()).map_err(Fatal::failure)?;
    }
    if !keep_keys {
        make_keys(&files, &name, tls_names, custom, now)?;
    }
    let opened = Authority::open(&files, now).map_err(|error| failed(&error))?;
    let secret = new_token();
    // The old database, if it is put back, needs the old token.
    database_file::move_aside(&files.admin_token(), now).map_err(|error| failed(&error))?;
    files::write_secret(&files.admin_token(), secret.as_bytes()).map_err(|error| failed(&error))?;
    let id = ManagerId::generate(now);
    let store = Store::make(&files.database(), shutdown).await.map_err(|error| failed(&error))?;
    let created = store.create(id, name.clone(), Digest::of(secret.as_bytes()), now).await;
    created.map_err(|error| failed(&error))?;
    store.close().await;
    // The file is whole before anybody hears of it.
    shutdown.drain(DRAIN_DEADLINE).await;
    files::end_making(files.folder()).map_err(Fatal::failure)?;
    say(
        output,
        keep_keys,
        &folder.start().how(),
        &NewManager {
            manager_id: id.to_string(),
            name,
            ca_file: files.ca(),
            ca_subject: opened.ca.subject.clone(),
            ca_sha256: Digest::of(opened.ca.der()).to_string(),
            ca_not_after: opened.ca.not_after.to_string(),
            admin_token_file: files.admin_token(),
        },
    )
}

fn check_name(name: &str) -> Result<(), Fatal> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(is_plain) {
        return Err(Fatal::usage("--name must have 1 to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`"));
    }
    Ok(())
}

fn no_keys(files: &Files) -> Fatal {
    let folder = files.folder().display();
    Fatal::failure(format!("{folder}: no keys of a manager lie here; leave --keep-keys out"))
}

/// Moves away what is in the place of a new manager; keys stay only when they are to be kept, and whole.
async fn clear_folder(files: &Files, keep_keys: bool, now: Timestamp) -> Result<(), Fatal> {
    let found = folder::find(files).await.map_err(|error| Fatal::caused("no manager was made", &error))?;
    match found {
        Presence::Manager { .. } => {
            return Err(Fatal::failure("a manager was made here meanwhile; nothing was changed"));
        }
        Presence::Lost(lost) if !keep_keys => return Err(Fatal::failure(lost)),
        Presence::Nothing if keep_keys => return Err(no_keys(files)),
        Presence::Lost(_) | Presence::Unfinished if keep_keys => {
            // Before anything moves: the keys must be whole.
            Authority::open(files, now).map_err(|error| unusable(files, &error))?;
            let aside = database_file::move_aside(&files.database(), now).map_err(Fatal::failure)?;
            if let Some(aside) = aside {
                say::aside(format_args!("the database that was here lies in {}", aside.display()));
            }
        }
        Presence::Unfinished => {
            files::move_aside(files.folder(), "unfinished", now, str::to_owned).map_err(Fatal::failure)?;
        }
        Presence::Nothing | Presence::Lost(_) => {}
    }
    Ok(())
}

/// Makes the manager's keys, or takes those of an organisation.
fn make_keys(
    files: &Files,
    name: &str,
    tls_names: Vec<String>,
    custom: Option<Custom>,
    now: Timestamp,
) -> Result<(), Fatal> {
    let made = match custom {
        Some(Custom { custom_ca, tls_certificate, tls_key, signing_certificate, signing_key }) => {
            let custom = authority::Custom {
                ca: custom_ca,
                tls: tls_certificate,
                tls_key,
                signing: signing_certificate,
                signing_key,
            };
            authority::adopt(files, &custom, now)
        }
        None => {
            let mut hosts = tls_names;
            hosts.extend(OWN_NAMES.map(str::to_owned));
            hosts.sort();
            hosts.dedup();
            authority::create(files, name, &hosts, now)
        }
    };
    made.map_err(|error| match &error {
        AuthorityError::File(_) => Fatal::caused("no manager was made", &error),
        AuthorityError::Pem { .. }
        | AuthorityError::Key { .. }
        | AuthorityError::Authority { .. }
        | AuthorityError::NotVouched { .. }
        | AuthorityError::Mismatch { .. }
        | AuthorityError::Nameless(_)
        | AuthorityError::Issue(_)
        | AuthorityError::Tls(_) => Fatal::usage(error),
    })
}

/// Names a certificate can carry, each written in one way.
fn certificate_names(names: &[String]) -> Result<Vec<String>, Fatal> {
    let read = names.iter().map(|name| host_for_others(name));
    read.collect::<Result<_, _>>().map_err(|error| Fatal::usage(format!("--tls-name: {error}")))
}

/// `writ-control-manager names`.
pub(super) async fn names(options: Names) -> Result<(), Fatal> {
    let Names { folder, tls_names } = options;
    let tls_names = certificate_names(&tls_names)?;
    let files = folder.files()?;
    if !files.ca_key().exists() {
        return Err(Fatal::failure(format!(
            "{}: the authority is not one made here; have your organisation issue tls.pem with these names, and start the manager again",
            files.folder().display()
        )));
    }
    files::check_owner(files.folder()).map_err(Fatal::failure)?;
    let failed = |error: &dyn std::error::Error| Fatal::caused("nothing was changed", error);
    let now = SystemClock::new().wall();
    let authority = Authority::open(&files, now).map_err(|error| failed(&error))?;
    let all = authority.add_names(&files, &tls_names, now).map_err(|error| failed(&error))?;
    say::result(format_args!("The certificate names {}. Start the manager again to show it.", all.join(", ")))
        .map_err(Fatal::failure)
}

fn say(output: Output, keep_keys: bool, start: &str, made: &NewManager) -> Result<(), Fatal> {
    let text = match output {
        Output::Json => serde_json::to_string_pretty(made).map_err(Fatal::failure)?,
        Output::Text => {
            let NewManager {
                manager_id,
                name,
                ca_file,
                ca_subject,
                ca_sha256,
                ca_not_after,
                admin_token_file,
            } = made;
            let (ca, token) = (ca_file.display(), admin_token_file.display());
            let then = match keep_keys {
                true => "2. On each server, which trusts these keys already: writ manager re-register".to_owned(),
                false => format!(
                    "2. Copy {ca} to each server, and there: writ manager settings set --address HOST --ca control-manager-ca.pem
     HOST must be one of the names given by --tls-name; add one: writ-control-manager names --tls-name HOST
  3. writ manager test; writ manager register"
                ),
            };
            format!(
                "The manager `{name}` is made.

  manager id     {manager_id}
  authority      {ca_subject}
  its SHA-256    {ca_sha256}
  valid until    {ca_not_after}
  authority file {ca}
  admin token    {token}

Next:
  1. {start}
  {then}"
            )
        }
    };
    say::result(text).map_err(Fatal::failure)
}
