//! What root's side believes of what an agent hands over: the fleet's seal, and nothing else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use bytes::Bytes;
use prost::Message as _;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use writ_common::files::{self, FileError};
use writ_proto::v1 as proto;
use writ_protocol::admission::check_approvals;
use writ_protocol::command::{Action, ActionClass, ComponentUpdate, Upgrade, Window};
use writ_protocol::id::Digest;
use writ_protocol::limits::SKEW;
use writ_protocol::time::Timestamp;
use writ_protocol::trust::Chain;

use super::{Allowed, HandOver};
use crate::identity::Files;
use crate::verify::{self, verify};

/// Bytes of a request that are read: an envelope, a proof, a release and approvals, in digits.
const MAX_REQUEST_BYTES: u64 = 4 << 20;
/// Bytes of a chain that are read.
const MAX_CHAIN_BYTES: u64 = 8 << 20;
/// Bytes copied at once.
const CHUNK: usize = 256 << 10;

/// A command that this host's fleet gave for this agent.
#[derive(Debug)]
pub(crate) struct Believed {
    /// When it was issued.
    pub issued_at: Timestamp,
    /// What it says.
    pub upgrade: Upgrade,
}

/// What an agent asks for, as it writes it down; nothing of it is believed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Which command it says that this is, for the answer.
    pub command_id: String,
    /// The delivery, in hexadecimal digits.
    pub delivery: String,
}

impl Request {
    /// Reads one; `None`: there is none.
    ///
    /// # Errors
    /// In words what is wrong with it.
    pub(crate) fn read(handed: &HandOver) -> Result<Option<Self>, String> {
        match bounded(&handed.request, MAX_REQUEST_BYTES) {
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error.to_string()),
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| error.to_string()),
        }
    }

    /// Writes it, for root's side.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, handed: &HandOver) -> Result<(), FileError> {
        files::write_secret(&handed.request, &serde_json::to_vec(self).unwrap_or_default())
    }
}

/// Whom an agent obeys, by a chain that leads from a pinned bundle. Every signature of it is checked again:
/// the file is the agent's. Without a pin it begins at whatever is first.
///
/// # Errors
/// In words why there is none.
pub(super) fn chain(files: &Files, pin: Option<Digest>) -> Result<Chain, String> {
    let path = files.trust();
    let stored = bounded(&path, MAX_CHAIN_BYTES).map_err(|error| error.to_string())?;
    let bundles = proto::Bundles::decode(stored).map_err(|error| format!("{}: {error}", path.display()))?;
    let Some(pin) = pin else {
        return Chain::stored(bundles.bundles).map_err(|refusal| format!("{}: {refusal}", path.display()));
    };
    let from_pin = bundles.bundles.into_iter().skip_while(|bundle| Chain::digest_of(bundle) != Some(pin));
    Chain::stored(from_pin).map_err(|refusal| {
        format!(
            "whom the agent obeys does not follow from bundle {pin}: {refusal}; compare with: writ trust bundles"
        )
    })
}

/// The same from what root pinned.
fn pinned_chain(allowed: &Allowed) -> Result<Chain, String> {
    chain(&Files::new(&allowed.data_dir), Some(allowed.pin()?))
}

/// The newest bundle of that chain.
///
/// # Errors
/// In words why there is none.
pub(crate) fn head(allowed: &Allowed) -> Result<Digest, String> {
    pinned_chain(allowed).map(|chain| chain.head().digest)
}

/// Checks a delivery as an agent does that has no journal (protocol.md §4): 4.1 to 4.7, the window by this
/// host's clock, the approvals. What a journal is for, [`Standing`](super::Standing) says.
///
/// # Errors
/// In words what is wrong with it.
pub(crate) fn believe(request: &Request, allowed: &Allowed, now: Timestamp) -> Result<Believed, String> {
    let chain = pinned_chain(allowed)?;
    let agent = allowed.agent_id.parse().map_err(|_| "the agent's id is none".to_owned())?;
    let delivery = hex::decode(&request.delivery).map_err(|error| format!("it is no delivery: {error}"))?;
    let message = verify::decode(&delivery).ok_or("it is no delivery")?;
    let verified = verify(message, &chain, (agent, &allowed.realm), now);
    let (verified, _) = verified.map_err(|refusal| refusal.to_string())?;
    let command = verified.command();
    let Action::Upgrade(upgrade) = &command.action else {
        return Err("the command is no upgrade".to_owned());
    };
    if command.id.to_string() != request.command_id {
        return Err("it is another command than the request says".to_owned());
    }
    let Window { issued_at, not_before, expires_at } = command.window;
    if now + SKEW < not_before || now >= expires_at + SKEW {
        return Err(format!(
            "it counts from {not_before} to {expires_at}, and by the clock of this host it is {now}"
        ));
    }
    check_approvals(&chain.head().bundle, ActionClass::Destructive, &verified)
        .map_err(|refusal| refusal.to_string())?;
    Ok(Believed { issued_at, upgrade: upgrade.clone() })
}

/// Copies the package to where only root can change it, and believes the copy by its digest.
///
/// # Errors
/// In words; then there is no copy.
pub(crate) fn take(handed: &HandOver, package: &ComponentUpdate, to: &Path) -> Result<(), String> {
    let copied = copy(&handed.package, package.bytes, to);
    let wrong = match copied {
        Ok(sha256) if sha256 == package.sha256 => return Ok(()),
        Ok(_) => "the package is not the one that the command names".to_owned(),
        Err(error) => format!("{}: {error}", handed.package.display()),
    };
    let _ = fs::remove_file(to);
    Err(wrong)
}

fn copy(from: &Path, bytes: u64, to: &Path) -> io::Result<Digest> {
    let from = files::open_plain(from).map_err(io::Error::other)?;
    let mut from = from.take(bytes.saturating_add(1));
    let mut to: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to)?;
    let (mut buffer, mut context) = (vec![0; CHUNK], Context::new(&SHA256));
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        context.update(&buffer[..read]);
        to.write_all(&buffer[..read])?;
    }
    to.sync_all()?;
    Digest::try_from(context.finish().as_ref()).map_err(io::Error::other)
}

/// A file of the agent's: no link, no pipe, and of a bounded length.
pub(crate) fn bounded(path: &Path, most: u64) -> Result<Bytes, FileError> {
    let mut content = Vec::new();
    let file = files::open_plain(path)?;
    file.take(most).read_to_end(&mut content).map_err(FileError::io(path))?;
    Ok(content.into())
}
