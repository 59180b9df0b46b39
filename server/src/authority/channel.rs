//! The channel's leaf: read again when somebody replaced it, renewed by itself before it ends, shown without
//! a restart.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use writ_common::files::{self, FileError};
use writ_common::keys::pem;
use writ_common::tls::{IssueError, LeafFacts, ServerTls, TlsAuthority, TlsLeaf, TlsSetupError};
use writ_protocol::limits::MAX_KEYS;
use writ_protocol::place::server_name;
use writ_protocol::time::Timestamp;
use writ_protocol::trust::TrustBundle;
use zeroize::Zeroizing;

use super::publisher::{Fresh, PublishError, Published, TrustPublisher, Unlocked};
use super::{Files, KeyFileError, read_tls_leaf, write_tls_leaf};
use crate::context::Server;

/// How often the files are looked at, beside SIGHUP: mounted secrets change without a signal.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How often a leaf that cannot be renewed here is complained about.
const WARN_EVERY: Duration = Duration::from_secs(3600);

/// Why there is no leaf to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    /// A file is missing, exposed or damaged.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A leaf cannot be issued.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// No bundle was minted.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// Leaf and key do not belong together, and there is no authority to issue another.
    #[error(transparent)]
    Setup(#[from] TlsSetupError),
}

/// The leaf to show at the start, renewed if that is due and the time is known.
///
/// # Errors
/// When there is none that can be shown.
pub(crate) fn open(
    files: &Files,
    now: Option<Timestamp>,
    endpoints: &[String],
) -> Result<ServerTls, ChannelError> {
    let leaf = read_tls_leaf(files)?;
    match (ServerTls::new(&leaf), now) {
        (Ok(tls), Some(now)) => {
            if let Some(renewed) = renew_if_due(files, &leaf, now, endpoints)? {
                tls.show(&renewed)?;
            }
            Ok(tls)
        }
        (Ok(tls), None) => Ok(tls),
        // A crash between the two files of a renewal leaves a leaf beside another's key: issue once more.
        (Err(error), Some(now)) => match renew(files, &leaf, now, endpoints)? {
            Some(renewed) => Ok(ServerTls::new(&renewed)?),
            None => Err(error.into()),
        },
        (Err(error), None) => Err(error.into()),
    }
}

/// Whether a leaf is by no authority that a bundle lists: agents cannot verify the channel then, and
/// operators may not.
#[must_use]
pub(crate) fn is_foreign(leaf: &TlsLeaf, bundle: &TrustBundle) -> bool {
    !leaf.chain.iter().any(|shown| bundle.tls_cas.contains(shown))
}

fn say_if_foreign(files: &Files, bundle: &TrustBundle) {
    if read_tls_leaf(files).is_ok_and(|leaf| is_foreign(&leaf, bundle)) {
        error!(
            file = %files.tls_certificate().display(),
            "the TLS certificate is by no authority the trust bundle lists: agents cannot verify this channel; put back one that is, or make a new authority: writ-server authority channel"
        );
    }
}

/// Makes a new authority and leaf for the channel, and a bundle that lists it.
///
/// # Errors
/// When they cannot be made, or no bundle may be minted.
pub(crate) async fn replace(
    publisher: &TrustPublisher,
    unlocked: &Unlocked,
    keeps_old: bool,
) -> Result<Published, ChannelError> {
    let authority = TlsAuthority::create(&format!("{} channel", publisher.name), publisher.now)?;
    let leaf = authority
        .issue(&leaf_names(&publisher.files, &publisher.chain.head().bundle.endpoints), publisher.now)?;
    let chain: String = leaf.chain.iter().map(|der| pem::encode("CERTIFICATE", der).to_string()).collect();
    let text = |label: &str, der: &[u8]| Zeroizing::new(pem::encode(label, der).as_bytes().to_vec());
    let name = |path: PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let files = vec![
        (name(publisher.files.tls_ca_key()), text("PRIVATE KEY", &authority.key)),
        (name(publisher.files.tls_ca()), text("CERTIFICATE", &authority.certificate)),
        (name(publisher.files.tls_key()), text("PRIVATE KEY", &leaf.key)),
        (name(publisher.files.tls_certificate()), Zeroizing::new(chain.into_bytes())),
    ];
    let fresh = Fresh { files, ..Fresh::default() };
    let change = |next: &mut TrustBundle| {
        next.tls_cas.truncate(if keeps_old { MAX_KEYS - 1 } else { 0 });
        next.tls_cas.insert(0, authority.certificate.clone());
    };
    Ok(publisher.publish("writ-server authority channel", &fresh, unlocked, change).await?)
}

/// The names of the leaf in place, and those of these endpoints. A key that is lost beside it costs no names.
#[must_use]
pub(crate) fn leaf_names(files: &Files, endpoints: &[String]) -> Vec<String> {
    let text = files::read(&files.tls_certificate()).ok();
    let facts = text.and_then(|text| LeafFacts::read(pem::certificates(&text).ok()?.first()?));
    facts.map_or_else(|| endpoint_names(endpoints), |facts| names_with(facts.names, endpoints))
}

fn names_with(mut names: Vec<String>, endpoints: &[String]) -> Vec<String> {
    for name in hosts(endpoints) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn hosts(endpoints: &[String]) -> impl Iterator<Item = String> {
    let hosts = endpoints.iter().filter_map(|endpoint| server_name(endpoint).ok());
    hosts.map(|name| name.to_str().into_owned())
}

/// What a leaf must name for these endpoints.
#[must_use]
pub(crate) fn endpoint_names(endpoints: &[String]) -> Vec<String> {
    let mut names: Vec<_> = hosts(endpoints).collect();
    names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    names.sort();
    names.dedup();
    names
}

/// Looks at the files now and then, and at SIGHUP, until the server ends.
pub(crate) async fn run(server: Arc<Server>, files: Files) {
    let Ok(mut asked) = signal(SignalKind::hangup()) else {
        warn!("SIGHUP cannot be heard; the TLS files are looked at once a minute");
        return;
    };
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    let mut warned = Timestamp::ZERO;
    say_if_foreign(&files, &server.chain().head().bundle);
    loop {
        let look = async {
            tokio::select! {
                _ = asked.recv() => {}
                _ = ticks.tick() => {}
            }
        };
        if server.shutdown.unless_requested(look).await.is_none() {
            return;
        }
        // A clock nobody signs by dates no leaf either.
        let Ok(now) = server.signer.now() else { continue };
        let chain = server.chain();
        match look_again(&files, &server.tls, now, &chain.head().bundle.endpoints) {
            Ok(true) => {
                info!(leaves = ?server.tls.leaf_spki_digests(), "TLS leaf replaced");
                say_if_foreign(&files, &chain.head().bundle);
            }
            Ok(false) => {}
            Err(error) => warn!(%error, "the TLS leaf stays as it is"),
        }
        let facts = read_tls_leaf(&files).ok().and_then(|leaf| LeafFacts::read(leaf.chain.first()?));
        if let Some(facts) = facts.filter(|facts| facts.is_due(now) && warned + WARN_EVERY < now) {
            warned = now;
            warn!(
                ends = %facts.not_after,
                "the TLS leaf should be renewed, but its authority's key is not here; put a new tls.pem and tls.key in place"
            );
        }
    }
}

fn look_again(
    files: &Files,
    tls: &ServerTls,
    now: Timestamp,
    endpoints: &[String],
) -> Result<bool, ChannelError> {
    let leaf = read_tls_leaf(files)?;
    let is_replaced = tls.show(&leaf)?;
    Ok(match renew_if_due(files, &leaf, now, endpoints)? {
        Some(renewed) => tls.show(&renewed)?,
        None => is_replaced,
    })
}

/// A new leaf at two thirds of the life of this one, or when the fleet's endpoints have a name it does not
/// carry.
fn renew_if_due(
    files: &Files,
    leaf: &TlsLeaf,
    now: Timestamp,
    endpoints: &[String],
) -> Result<Option<TlsLeaf>, ChannelError> {
    let facts = leaf.chain.first().and_then(|first| LeafFacts::read(first));
    let has_names = |facts: &LeafFacts| names_with(facts.names.clone(), endpoints).len() == facts.names.len();
    let Some(facts) = facts.filter(|facts| facts.is_due(now) || !has_names(facts)) else { return Ok(None) };
    let renewed = renew(files, leaf, now, endpoints)?;
    if renewed.is_some() {
        info!(ended = %facts.not_after, "TLS leaf renewed");
    }
    Ok(renewed)
}

/// A new leaf for the same names and those of the endpoints; `None` when the authority is not here, or did
/// not issue the old one.
fn renew(
    files: &Files,
    leaf: &TlsLeaf,
    now: Timestamp,
    endpoints: &[String],
) -> Result<Option<TlsLeaf>, ChannelError> {
    let facts = leaf.chain.first().and_then(|first| LeafFacts::read(first));
    let text = match files::read_secret(&files.tls_ca_key()) {
        Err(error) if error.is_missing() => return Ok(None),
        read => read?,
    };
    let path = files.tls_ca_key();
    let key = pem::private_key(&text).map_err(|source| KeyFileError::Pem { path, source })?;
    let path = files.tls_ca();
    let certificates =
        pem::certificates(&files::read(&path)?).map_err(|source| KeyFileError::Pem { path, source })?;
    let (Some(facts), Some(certificate)) = (facts, certificates.into_iter().next()) else { return Ok(None) };
    // A leaf of somebody else's authority is theirs to renew.
    if leaf.chain.get(1) != Some(&certificate) {
        return Ok(None);
    }
    let renewed = TlsAuthority { certificate, key }.issue(&names_with(facts.names, endpoints), now)?;
    write_tls_leaf(files, &renewed)?;
    Ok(Some(renewed))
}
