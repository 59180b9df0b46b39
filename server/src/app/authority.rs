//! `writ-server authority …`.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Subcommand;
use prost::Message as _;
use serde::Serialize;
use writ_common::daemon::Fatal;
use writ_common::files;
use writ_common::keys::pem;
use writ_common::keys::sealed::{open, seal};
use writ_common::shutdown::Shutdown;
use writ_common::time::{Clock as _, SystemClock};
use writ_protocol::id::Digest;
use writ_protocol::keys::public::PublicKey;
use writ_protocol::keys::{Algorithm, Authority as Holder, PrivateKey};
use writ_protocol::limits::SKEW;
use writ_protocol::trust::{Role, SigningEntry, TrustBundle};

use super::local::{LocalCommand, Place, Print, Unlock, is_free, unchanged};
use super::{init, passphrase};
use crate::authority::backup::ArchivedFile;
use crate::authority::create::endpoints_for_others;
use crate::authority::publisher::{Fresh, PublishError, TrustPublisher, Unlocked};
use crate::authority::{channel, read_signing_keys, restore};

#[derive(Debug, Subcommand)]
pub(super) enum Authority {
    /// Make a sealed authority key. It signs nothing until `authority rotate` or `authority split` names it.
    Create {
        /// Where to; an existing file is not overwritten.
        file: PathBuf,
        #[command(flatten)]
        kind: LocalCommand,
        /// File with the passphrase that seals it.
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        #[command(flatten)]
        print: Print,
    },
    /// Let a new key be the fleet's only authority. Signed by the old one and the new one.
    Rotate {
        #[command(flatten)]
        unlock: Unlock,
        /// The sealed new key (`authority create`); it must be among --authority too.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Let several keys be the authority, of which so many must sign.
    Split {
        #[command(flatten)]
        unlock: Unlock,
        /// How many of them must sign.
        #[arg(long, value_name = "M")]
        threshold: usize,
        /// The public part of each (`authority create` writes it beside the sealed key); repeat.
        #[arg(long = "member", value_name = "FILE", required = true)]
        members: Vec<PathBuf>,
    },
    /// Make a new authority for the TLS channel, when its key was lost or leaked. Agents learn of it by a
    /// bundle alone; operators need the new admin-ca.pem, and enrolment tokens made before are void.
    Channel {
        #[command(flatten)]
        unlock: Unlock,
        /// Let agents accept the old one too.
        #[arg(long)]
        keep_old: bool,
    },
    /// Set where agents look for the fleet's servers, whatever their settings say: when a server moved, or a
    /// further one came.
    Endpoints {
        #[command(flatten)]
        unlock: Unlock,
        /// All of them, 1 to 8; repeat for several.
        #[arg(long = "endpoint", value_name = "HOST:PORT", required = true)]
        endpoints: Vec<String>,
    },
    /// Let agents believe the present time although they heard a later one, when a server's clock was wrong.
    ResetFloor {
        #[command(flatten)]
        unlock: Unlock,
    },
    /// Make a server anew when every backup is gone: from the chain that any agent holds. It signs nothing
    /// until the authority minted new keys for it.
    Rebuild {
        #[command(flatten)]
        place: Place,
        /// `trust.chain` from the data directory of an agent.
        chain: PathBuf,
    },
    /// Join two chains again, when two servers minted at the same time: one bundle that follows both.
    Repair {
        #[command(flatten)]
        unlock: Unlock,
        /// The other chain: `trust.chain` from the data directory of an agent that follows it; repeat for
        /// several. Without it, those that agents handed over.
        #[arg(long = "fork", value_name = "FILE")]
        forks: Vec<PathBuf>,
    },
    /// Seal an authority's key with another passphrase.
    Reseal {
        /// The sealed key.
        file: PathBuf,
        /// File with the present passphrase.
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        /// File with the new one.
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
        #[command(flatten)]
        print: Print,
    },
    /// Say that the head of a restored chain is the newest bundle there is.
    Confirm {
        #[command(flatten)]
        place: Place,
        /// Its digest, so that you confirm the one you mean.
        digest: Digest,
    },
}

#[derive(Serialize)]
struct MadeAuthority {
    key_id: String,
    file: PathBuf,
    public_file: PathBuf,
}

pub(super) async fn run(verb: Authority, shutdown: Shutdown) -> Result<(), Fatal> {
    match verb {
        Authority::Create { file, kind, passphrase_file, print } => {
            create(file, kind.key_algorithm, passphrase_file, &print)
        }
        Authority::Rotate { unlock, to } => {
            let publisher = unlock.publisher(&shutdown).await?;
            let unlocked = unlock.open(&publisher.files)?;
            let new = public_part(&to)?;
            publish(
                &unlock,
                &publisher,
                &unlocked,
                "writ-server authority rotate",
                Role { keys: vec![new], threshold: 1 },
                // The one key there is from now on must not be in one place alone; those of several belong
                // to several people.
                vec![("authority-new.key.age".to_owned(), files::read_secret(&to).map_err(Fatal::usage)?)],
            )
            .await
        }
        Authority::Split { unlock, threshold, members } => {
            let publisher = unlock.publisher(&shutdown).await?;
            let unlocked = unlock.open(&publisher.files)?;
            let keys = members.iter().map(public_part).collect::<Result<_, _>>()?;
            publish(
                &unlock,
                &publisher,
                &unlocked,
                "writ-server authority split",
                Role { keys, threshold },
                Vec::new(),
            )
            .await
        }
        Authority::Channel { unlock, keep_old } => {
            let publisher = unlock.publisher(&shutdown).await?;
            let unlocked = unlock.open(&publisher.files)?;
            let made =
                channel::replace(&publisher, &unlocked, keep_old).await.map_err(|error| unchanged(&error))?;
            unlock.place.changed(&publisher, &made)
        }
        Authority::Endpoints { unlock, endpoints } => move_endpoints(&unlock, &endpoints, &shutdown).await,
        Authority::ResetFloor { unlock } => {
            let publisher = unlock.publisher(&shutdown).await?;
            let unlocked = unlock.open(&publisher.files)?;
            let command = "writ-server authority reset-floor";
            // Agents allow for a floor this much later.
            let change = |next: &mut TrustBundle| next.floor_reset = Some(publisher.now - SKEW);
            let made = publisher.publish(command, &Fresh::default(), &unlocked, change).await;
            unlock.place.changed(&publisher, &made.map_err(|error| unchanged(&error))?)
        }
        Authority::Rebuild { place, chain } => rebuild(&place, &chain, &shutdown).await,
        Authority::Repair { unlock, forks } => repair(&unlock, &forks, &shutdown).await,
        Authority::Reseal { file, passphrase_file, new_passphrase_file, print } => {
            reseal(&file, passphrase_file.as_deref(), new_passphrase_file.as_deref(), &print)
        }
        Authority::Confirm { place, digest } => confirm(&place, digest, &shutdown).await,
    }
}

async fn move_endpoints(unlock: &Unlock, endpoints: &[String], shutdown: &Shutdown) -> Result<(), Fatal> {
    let places = endpoints_for_others(endpoints).map_err(Fatal::usage)?;
    let endpoints: Vec<_> = places.iter().map(ToString::to_string).collect();
    // Before the passphrase is asked for: agents follow whatever is published.
    init::say_doubts(&endpoints, shutdown).await;
    let publisher = unlock.publisher(shutdown).await?;
    let unlocked = unlock.open(&publisher.files)?;
    let command = "writ-server authority endpoints";
    let change = |next: &mut TrustBundle| next.endpoints = endpoints;
    let made = publisher.publish(command, &Fresh::default(), &unlocked, change).await;
    unlock.place.changed(&publisher, &made.map_err(|error| unchanged(&error))?)
}

/// Joins chains: those in the files, or those that agents handed over.
async fn repair(unlock: &Unlock, forks: &[PathBuf], shutdown: &Shutdown) -> Result<(), Fatal> {
    let mut publisher = unlock.publisher(shutdown).await?;
    let mut heads = Vec::new();
    for file in forks {
        heads.push(publisher.fork(read_chain(file)?).map_err(|error| unchanged(&error))?);
    }
    if forks.is_empty() {
        heads = publisher.handed_over().await.map_err(|error| unchanged(&error))?;
    }
    if heads.is_empty() {
        return Err(unchanged(&PublishError::NothingToJoin));
    }
    publisher.despite.extend(heads.iter().map(|head| head.digest));
    let unlocked = unlock.open(&publisher.files)?;
    let fresh = Fresh::default();
    let made = publisher.publish("writ-server authority repair", &fresh, &unlocked, |next| {
        for head in &heads {
            next.version = next.version.max(head.bundle.version + 1);
            next.prev.push(head.digest);
            head.bundle.signing.iter().for_each(|entry| join(&mut next.signing, entry));
        }
    });
    unlock.place.changed(&publisher, &made.await.map_err(|error| unchanged(&error))?)
}

/// Gives an authority key's file another passphrase.
fn reseal(
    file: &PathBuf,
    passphrase_file: Option<&Path>,
    new_passphrase_file: Option<&Path>,
    print: &Print,
) -> Result<(), Fatal> {
    let old = passphrase::ask(passphrase_file, "the key as it is", false)?;
    let sealed = files::read_secret(file).map_err(Fatal::usage)?;
    let text = open(&sealed, &old).map_err(|error| Fatal::usage(format!("{}: {error}", file.display())))?;
    if pem::private_key(&text).is_err() {
        return Err(Fatal::usage(format!("{}: it holds no authority key", file.display())));
    }
    let new = passphrase::ask(new_passphrase_file, "the key from now on", true)?;
    let sealed = seal(&text, &new).map_err(|error| unchanged(&error))?;
    files::write_secret(file, &sealed).map_err(|error| unchanged(&error))?;
    print.say(file, &format!("{} opens with the new passphrase.", file.display()))
}

/// Says after a restore that the head is the newest bundle there was.
async fn confirm(place: &Place, digest: Digest, shutdown: &Shutdown) -> Result<(), Fatal> {
    let publisher = place.publisher(shutdown).await?;
    let head = publisher.chain.head();
    if head.digest != digest {
        let text =
            format!("the head is bundle {} ({}); nothing was confirmed", head.bundle.version, head.digest);
        return Err(Fatal::usage(text));
    }
    publisher.store.confirm_head().await.map_err(|error| unchanged(&error))?;
    publisher.record("writ-server authority confirm").await.map_err(|error| unchanged(&error))?;
    let version = head.bundle.version;
    let text = format!("Trust bundle {version} is the fleet's head; bundles may be minted.");
    place.say(&version, &text)
}

/// The bundles in an agent's `trust.chain`, oldest first; nothing of them is believed yet.
pub(super) fn read_chain(file: &Path) -> Result<Vec<Bytes>, Fatal> {
    let stored = files::read(file).map_err(Fatal::usage)?;
    let bundles = writ_proto::v1::Bundles::decode(stored.as_slice())
        .map_err(|_| Fatal::usage(format!("{}: not a chain of trust bundles", file.display())))?;
    Ok(bundles.bundles)
}

/// A key that leaked in one of the chains leaked.
fn join(entries: &mut Vec<SigningEntry>, theirs: &SigningEntry) {
    let mut ours = entries.iter_mut();
    match ours.find(|ours| ours.certificate.key() == theirs.certificate.key()) {
        Some(ours) => ours.revoked |= theirs.revoked,
        None => entries.push(theirs.clone()),
    }
}

async fn rebuild(place: &Place, chain: &Path, shutdown: &Shutdown) -> Result<(), Fatal> {
    let (files, now) = (place.folder.files()?, SystemClock::new().wall());
    let rebuilt = restore::rebuild_from_chain(&files, read_chain(chain)?, now, shutdown).await;
    let rebuilt = rebuilt.map_err(|error| unchanged(&error))?;
    let has_keys = read_signing_keys(&files).is_ok_and(|keys| !keys.is_empty());
    let (signs, last) = match has_keys {
        true => (
            "the signing keys that were left here",
            "With the authority's key, when you trust no key that lay here: writ-server cert create --authority FILE",
        ),
        false => (
            "no key to sign with",
            "With the authority's key: writ-server authority channel --authority FILE, then writ-server cert create --authority FILE",
        ),
    };
    let text = format!(
        "Fleet {} ({}) has a server again, with trust bundle {} ({}) and {signs}. Agents that were removed are not known any more: remove them again.\nNext:\n  1. writ-server run --data-dir {folder}; agents that hold newer bundles hand them back.\n  2. When {} is the newest there is: writ-server authority confirm {}\n  3. {last}",
        rebuilt.fleet_name,
        rebuilt.fleet_id,
        rebuilt.bundle_version,
        rebuilt.bundle_digest,
        rebuilt.bundle_version,
        rebuilt.bundle_digest,
        folder = files.folder().display()
    );
    place.say(&rebuilt, &text)
}

async fn publish(
    unlock: &Unlock,
    publisher: &TrustPublisher,
    unlocked: &Unlocked,
    command: &'static str,
    role: Role,
    kept: Vec<ArchivedFile>,
) -> Result<(), Fatal> {
    let fresh = Fresh { kept, ..Fresh::default() };
    let made = publisher.publish(command, &fresh, unlocked, |next| next.authority = role).await;
    let made = made.map_err(|error| unchanged(&error))?;
    unlock.place.changed(publisher, &made)
}

fn create(
    file: PathBuf,
    algorithm: Algorithm,
    passphrase_file: Option<PathBuf>,
    print: &Print,
) -> Result<(), Fatal> {
    is_free(&file)?;
    let secret = passphrase::ask(passphrase_file.as_deref(), "the new authority key", true)?;
    let key = PrivateKey::<Holder>::generate(algorithm);
    let sealed =
        seal(pem::encode("PRIVATE KEY", &key.to_pkcs8()).as_bytes(), &secret).map_err(Fatal::failure)?;
    let public_file = public_path(&file);
    files::write_secret(&file, &sealed).map_err(Fatal::failure)?;
    files::write_public(&public_file, pem::encode("PUBLIC KEY", &key.public().spki()).as_bytes())
        .map_err(Fatal::failure)?;
    let made = MadeAuthority { key_id: key.public().id().to_string(), file, public_file };
    let text = format!(
        "Authority key {} sealed into {}; its public part is {}.",
        made.key_id,
        made.file.display(),
        made.public_file.display()
    );
    print.say(&made, &text)
}

/// The public part lies beside the sealed key.
fn public_path(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(".pub.pem");
    PathBuf::from(path)
}

/// Reads a public part, or that of the sealed key it stands for.
fn public_part(file: &PathBuf) -> Result<PublicKey, Fatal> {
    let beside = public_path(file);
    let path = if beside.exists() { &beside } else { file };
    let text = files::read(path).map_err(Fatal::usage)?;
    let key = pem::public_key(&text).ok().and_then(|der| PublicKey::from_spki(&der).ok());
    key.ok_or_else(|| Fatal::usage(format!("{}: not the public part of an authority key", path.display())))
}
