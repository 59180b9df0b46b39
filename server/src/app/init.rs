//! `writ-server init`.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use tracing::debug;
use writ_common::daemon::Fatal;
use writ_common::files;
use writ_common::keys::sealed::Passphrase;
use writ_common::shutdown::Shutdown;
use writ_common::time::{Clock as _, SystemClock};
use zeroize::Zeroizing;

use super::{Init, Output};
use crate::authority::Files;
use crate::authority::create::{CreateError, Made, Plan, create};

pub(super) async fn init(options: Init, shutdown: Shutdown) -> Result<(), Fatal> {
    let Init { data_dir, name, endpoints, tls_names, key_algorithm, passphrase_file, output } = options;
    let passphrase = passphrase(passphrase_file.as_deref())?;
    let plan = Plan { name, endpoints, extra_names: tls_names, algorithm: key_algorithm, passphrase };
    eprintln!("making keys and sealing the backup; the passphrase hash takes a few seconds …");
    let made =
        create(&Files::new(&data_dir), plan, SystemClock::new().wall(), &shutdown).await.map_err(explain)?;
    let is_drained = shutdown.drain(std::time::Duration::from_secs(5)).await;
    debug!(is_drained, "store closed");
    let text = match output {
        Output::Json => serde_json::to_string_pretty(&made).map_err(Fatal::failure)?,
        Output::Text => describe(&made),
    };
    writeln!(std::io::stdout(), "{text}").map_err(Fatal::failure)
}

fn explain(error: CreateError) -> Fatal {
    match error {
        CreateError::Plan(_) | CreateError::Tls(_) | CreateError::Certificate(_) | CreateError::Seal(_) => {
            Fatal::usage(error)
        }
        CreateError::Exists { .. }
        | CreateError::KeysWithoutDatabase { .. }
        | CreateError::File(_)
        | CreateError::Store(_)
        | CreateError::Backup(_) => Fatal::caused("no fleet was made", &error),
    }
}

/// From the file, from systemd's credential, or from the terminal; never from argv or the environment.
fn passphrase(file: Option<&Path>) -> Result<Passphrase, Fatal> {
    let credential = std::env::var_os("CREDENTIALS_DIRECTORY")
        .map(|folder| Path::new(&folder).join("writ-passphrase"))
        .filter(|path| path.exists());
    let text = match file.map(Path::to_owned).or(credential) {
        Some(path) => {
            let bytes = files::read_secret(&path).map_err(Fatal::usage)?;
            let text = std::str::from_utf8(&bytes)
                .map_err(|_| Fatal::usage(format!("{}: not UTF-8 text", path.display())))?;
            Zeroizing::new(text.to_owned())
        }
        None if std::io::stdin().is_terminal() => {
            let ask =
                |prompt: &str| rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(Fatal::failure);
            let first = ask("Passphrase for the authority key and the backup: ")?;
            if *first != *ask("Again: ")? {
                return Err(Fatal::usage("the two passphrases differ; nothing was made"));
            }
            first
        }
        None => {
            return Err(Fatal::usage(
                "a passphrase is needed to seal the authority key and the backup: name a file with --passphrase-file, \
                 set the systemd credential `writ-passphrase`, or run this on a terminal",
            ));
        }
    };
    Passphrase::new(&text).map_err(Fatal::usage)
}

fn describe(made: &Made) -> String {
    let Made {
        fleet_id,
        fleet_name,
        authority_key_id,
        signing_key_id,
        signing_accept_until,
        tls_ca_spki_sha256,
        bundle_digest,
        authority_file,
        admin_token_file,
        admin_ca_file,
        backup_file,
    } = made;
    format!(
        "Fleet `{fleet_name}` is made.

  fleet id            {fleet_id}
  authority key       {authority_key_id}
  signing key         {signing_key_id}
  signs until         {signing_accept_until}
  TLS authority       {tls_ca_spki_sha256}
  trust bundle 1      {bundle_digest}

  sealed backup       {backup}
  sealed authority    {authority}
  admin token         {token}
  TLS authority file  {ca}

Next:
  1. Copy the sealed backup to another place. Without it and its passphrase a lost disk is a lost fleet.
  2. writ-server run --data-dir {folder}
  3. writ context add {fleet_name} --server HOST:7444 --ca {ca} --token-file {token}",
        backup = backup_file.display(),
        authority = authority_file.display(),
        token = admin_token_file.display(),
        ca = admin_ca_file.display(),
        folder = admin_ca_file.parent().unwrap_or_else(|| Path::new(".")).display(),
    )
}
