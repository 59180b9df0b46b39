//! Passphrases: from a file, from systemd's credential, or from the terminal; never from argv or the
//! environment.

use std::io::IsTerminal as _;
use std::path::Path;

use zeroize::Zeroizing;

use crate::daemon::Fatal;
use crate::files;
use crate::keys::sealed::Passphrase;

/// Asks for a passphrase; a new one twice.
///
/// # Errors
/// When there is none, or it is no good.
pub fn ask(file: Option<&Path>, what: &str, is_new: bool) -> Result<Passphrase, Fatal> {
    let credential = std::env::var_os("CREDENTIALS_DIRECTORY")
        .map(|folder| Path::new(&folder).join("writ-passphrase"))
        .filter(|path| path.exists());
    let text = match file.map(Path::to_owned).or(credential) {
        Some(path) => files::secret_line(&path).map_err(Fatal::usage)?,
        None if std::io::stdin().is_terminal() => {
            let prompt =
                |prompt: &str| rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(Fatal::failure);
            let first = prompt(&format!("Passphrase for {what}: "))?;
            if is_new && *first != *prompt("Again: ")? {
                return Err(Fatal::usage("the two passphrases differ; nothing was made"));
            }
            first
        }
        None => {
            return Err(Fatal::usage(format!(
                "a passphrase is needed for {what}: name a file with --passphrase-file, set the systemd credential `writ-passphrase`, or run this on a terminal"
            )));
        }
    };
    if is_new { Passphrase::new(&text).map_err(Fatal::usage) } else { Ok(Passphrase::existing(&text)) }
}
