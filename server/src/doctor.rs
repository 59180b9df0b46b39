//! What is wrong with this server, by cause: the first bad finding is the one to mend, the others may follow
//! from it.

use std::path::{Path, PathBuf};

use writ_common::doctor::{Finding, Level, host};
use writ_common::files;
use writ_common::health;
use writ_common::keys::pem;
use writ_common::keys::sealed::SEALED;
use writ_common::keys::vault::Vault;
use writ_common::listener;
use writ_common::net::resolve;
use writ_common::systemd::Start;
use writ_common::tls::{LeafFacts, ServerTls};
use writ_protocol::place::Place;
use writ_protocol::place::server_name;
use writ_protocol::time::Timestamp;
use writ_updates::{LastRun, Outcome};

use crate::authority::certificates::{CertificateState, held_entries, signing_here};
use crate::authority::channel::is_foreign;
use crate::authority::publisher::{PublishError, TrustPublisher};
use crate::authority::{Files, read_signing_keys, read_tls_leaf};
use crate::config::Config;
use crate::expiry::days_left;
use crate::sign::{CLOCK_TOLERANCE, signs_until};
use crate::store::{BackupRow, StoreError};
use crate::traces::Traces;
use crate::updates::Updates;

/// Files a server has open beside one socket an agent.
const OWN_FILES: u64 = 256;

/// Looks at everything, in the order of causes.
///
/// # Errors
/// When the database cannot be read.
pub(crate) async fn examine(publisher: &TrustPublisher) -> Result<Vec<Finding>, StoreError> {
    let mut findings = vec![
        clock(publisher).await?,
        keys(publisher),
        signing(publisher).await?,
        channel(publisher),
        chain(publisher).await?,
    ];
    findings.push(backup(publisher).await?);
    findings.push(kept(publisher));
    findings.push(host::folder(publisher.files.folder()));
    findings.push(host::disk(publisher.files.folder()));
    let agents: u64 = publisher.store.bundle_holders().await?.iter().map(|holders| holders.agents).sum();
    findings.push(host::open_files(agents + OWN_FILES));
    findings.push(names(publisher).await);
    Ok(findings)
}

/// Whether the names agents look for lead anywhere, as this host sees it.
async fn names(publisher: &TrustPublisher) -> Finding {
    let mut lost = Vec::new();
    for endpoint in &publisher.chain.head().bundle.endpoints {
        let Ok(place) = endpoint.parse::<Place>() else { continue };
        if let Err(error) = resolve(&place).await {
            lost.push(format!("{endpoint}: {error}"));
        }
    }
    if lost.is_empty() {
        return Finding::good("names", "every endpoint of the trust bundle has an address");
    }
    let detail = format!("from here an endpoint leads nowhere: {}", lost.join("; "));
    Finding::notice(
        "names",
        detail,
        "see that agents know one: mend the name, or writ-server authority endpoints",
    )
}

/// How the last update ended.
pub(crate) fn updates(publisher: &TrustPublisher, config: &Config) -> Finding {
    let cure = "writ-server updates status";
    match Updates::of(config, &publisher.files).folder.last_run() {
        Err(error) => Finding::notice("updates", error.to_string(), cure),
        Ok(None) => Finding::good("updates", "no update was tried yet"),
        Ok(Some(LastRun { ended_ms, outcome: Outcome::Failed { reason, .. }, .. })) => {
            let at = Timestamp::from_millis(ended_ms);
            Finding::notice("updates", format!("the last one failed at {at}: {reason}"), cure)
        }
        Ok(Some(run)) => {
            let at = Timestamp::from_millis(run.began_ms);
            Finding::good("updates", format!("the last one began at {at} and did not fail"))
        }
    }
}

/// Whether the ports are this server's, or free for it.
pub(crate) async fn ports(files: &Files, config: &Config, start: Start<'_>) -> Finding {
    if files.lock().is_err() {
        return match health::ask(config.listen_admin, "").await {
            Ok(()) => Finding::good("ports", format!("this server answers at {}", config.listen_admin)),
            Err(error) => {
                let next = "wait until it has started; if it was told of other ports: --config FILE; else look at its log";
                Finding::notice("ports", format!("a server runs on this folder, but {error}"), next)
            }
        };
    }
    for (key, address) in [
        ("listen.agents", config.listen_agents),
        ("listen.admin", config.listen_admin),
        ("listen.metrics", config.listen_metrics),
    ] {
        if let Err(error) = listener::try_bind(address, key) {
            return Finding::bad("ports", error.to_string(), error.cure());
        }
    }
    Finding::bad("ports", "the server does not run; its ports are free", start.again())
}

/// Whether a collector takes traces, where one is named.
pub(crate) async fn traces(publisher: &TrustPublisher, config: &Config) -> Option<Finding> {
    let settings = config.traces.as_ref()?;
    let next = "see that it runs and listens there for OTLP over gRPC, or take traces.endpoint out";
    Some(match Traces::try_out(settings, publisher.fleet).await {
        Ok(Ok(())) => Finding::good("traces", format!("{} takes them", settings.endpoint)),
        Ok(Err(reason)) => Finding::notice(
            "traces",
            format!("{} takes none, they are lost: {reason}", settings.endpoint),
            next,
        ),
        Err(error) => {
            Finding::bad("traces", format!("the server does not start: {error}"), "mend server.toml")
        }
    })
}

async fn clock(publisher: &TrustPublisher) -> Result<Finding, StoreError> {
    let signed = publisher.store.latest_time().await?;
    Ok(if publisher.now + CLOCK_TOLERANCE < signed {
        let detail = format!(
            "the clock says {}, but this server signed at {signed}: nothing is signed",
            publisher.now
        );
        Finding::bad(
            "clock",
            detail,
            "set the clock right; if that later time was wrong: writ-server run --accept-clock",
        )
    } else {
        Finding::good("clock", format!("{}", publisher.now))
    })
}

fn keys(publisher: &TrustPublisher) -> Finding {
    match read_signing_keys(&publisher.files) {
        Err(error) => Finding::bad("keys", error.to_string(), error.cure()),
        Ok(keys) if keys.is_empty() => {
            let detail = format!("{} holds no signing key", publisher.files.signing().display());
            Finding::bad(
                "keys",
                detail,
                "writ-server cert restore FILE, or with the authority: writ-server cert create",
            )
        }
        Ok(keys) => Finding::good("keys", format!("{} signing keys are here", keys.len())),
    }
}

/// Files that are read seldom, or not before they are needed most.
fn kept(publisher: &TrustPublisher) -> Finding {
    let restore =
        |path: &Path| format!("mv {0} {0}.damaged, then: writ-server cert restore FILE", path.display());
    let again = |path: &Path, then: &str| {
        format!("mv {0} {0}.damaged, start the server, then: {then}", path.display())
    };
    let (files, mut wrong) = (&publisher.files, Vec::new());
    let mut look =
        |path: PathBuf, is_whole: fn(&[u8]) -> bool, cure: &dyn Fn(&Path) -> String| match files::read(&path)
        {
            Err(error) if error.is_missing() => {}
            Err(error) => wrong.push((error.to_string(), error.cure().unwrap_or_else(|| cure(&path)))),
            Ok(content) if is_whole(&content) => {}
            Ok(content) => {
                let what = if content.is_empty() { "is empty" } else { "is not what it should be" };
                wrong.push((format!("{} {what}", path.display()), cure(&path)));
            }
        };
    let is_key = |content: &[u8]| pem::private_key(content).is_ok();
    look(files.authority(), |content| content.starts_with(SEALED), &restore);
    look(files.tls_ca_key(), is_key, &restore);
    look(files.tls_ca(), |content| pem::certificates(content).is_ok(), &restore);
    look(files.manager_entity_key(), is_key, &|path| again(path, "writ manager register"));
    look(files.manager_secrets_key(), Vault::is_key, &|path| {
        again(path, "writ manager settings set, with the passwords of the line")
    });
    match wrong.into_iter().next() {
        None => Finding::good("files", "what else is kept here can be read"),
        Some((detail, next)) => Finding::bad("files", detail, next),
    }
}

async fn signing(publisher: &TrustPublisher) -> Result<Finding, StoreError> {
    let bundle = &publisher.chain.head().bundle;
    let cure = "with the authority: writ-server cert create";
    if read_signing_keys(&publisher.files).is_err() {
        return Ok(Finding::notice("signing", "not judged: a key cannot be read, see above", ""));
    }
    let Some(signing) = signing_here(publisher) else {
        let detail = match held_entries(publisher).last() {
            None => "no key that is here is in the newest trust bundle: agents refuse it as `unknown_key`"
                .to_owned(),
            Some(entry) => {
                let key = entry.certificate.key().id();
                match CertificateState::of(entry, bundle, publisher.now) {
                    CertificateState::Standby => {
                        format!("certificate {key} stands by until {}", entry.sign_from)
                    }
                    CertificateState::Revoked => format!("certificate {key} is revoked: agents refuse it"),
                    other => format!(
                        "certificate {key} is {} since {}: agents refuse it",
                        other.as_str(),
                        entry.accept_until
                    ),
                }
            }
        };
        return Ok(Finding::bad("signing", detail, cure));
    };
    // Those whom the newest bundle would not make obey the key that signs here.
    let holders = publisher.store.bundle_holders().await?;
    let stranded = holders.iter().filter(|holders| !signing.realms.contains(&holders.realm));
    let (agents, realms) = stranded.fold((0, Vec::new()), |(agents, mut realms), holders| {
        realms.push(holders.realm.as_str());
        (agents + holders.agents, realms)
    });
    if agents > 0 {
        let detail = format!(
            "{agents} agents of realm {} do not obey key {}, which signs here for {}",
            realms.join(", "),
            signing.certificate.key().id(),
            signing.realms.join(", ")
        );
        let next = format!(
            "with the authority: writ-server cert create --realm {}, and --realm for each other one",
            realms.join(" --realm ")
        );
        return Ok(Finding::bad("signing", detail, next));
    }
    let last = signs_until(held_entries(publisher), publisher.now).unwrap_or(signing.accept_until);
    Ok(match days_left(last, publisher.now) {
        None => Finding::good("signing", format!("agents accept what this server signs until {last}")),
        Some(days) => {
            let level = if days <= 7 { Level::Bad } else { Level::Notice };
            let detail = format!("the certificate ends at {last}, in less than {days} days");
            Finding { level, ..Finding::bad("signing", detail, cure) }
        }
    })
}

fn channel(publisher: &TrustPublisher) -> Finding {
    let cure = "writ-server authority channel";
    let leaf = match read_tls_leaf(&publisher.files) {
        Ok(leaf) => leaf,
        Err(error) => {
            let mut next = error.cure();
            if error.is_lost() {
                next.push_str(&format!("; only if no backup has the channel's authority: {cure}"));
            }
            return Finding::bad("channel", error.to_string(), next);
        }
    };
    if let Err(error) = ServerTls::new(&leaf) {
        return Finding::bad("channel", error.to_string(), cure);
    }
    let bundle = &publisher.chain.head().bundle;
    if is_foreign(&leaf, bundle) {
        let detail =
            "the TLS leaf is by no authority the newest trust bundle lists: agents cannot verify the channel";
        return Finding::bad("channel", detail, cure);
    }
    let Some(facts) = leaf.chain.first().and_then(|leaf| LeafFacts::read(leaf)) else {
        return Finding::bad("channel", "the TLS leaf cannot be read", cure);
    };
    let hosts = bundle.endpoints.iter().filter_map(|endpoint| server_name(endpoint).ok());
    let missing: Vec<_> =
        hosts.map(|host| host.to_str().into_owned()).filter(|host| !facts.names.contains(host)).collect();
    if !missing.is_empty() {
        let detail =
            format!("the TLS leaf does not name {}, where agents look for this server", missing.join(", "));
        return Finding::bad(
            "channel",
            detail,
            "start the server: it issues a leaf with these names if the channel's authority is here; else put one in place (tls.pem, tls.key)",
        );
    }
    if facts.not_after <= publisher.now {
        let detail = format!(
            "the TLS leaf ended at {}; agents go by the signed greeting, operators cannot connect",
            facts.not_after
        );
        return Finding::notice(
            "channel",
            detail,
            "start the server: it renews its leaf; or put a new one in place",
        );
    }
    Finding::good("channel", format!("the TLS leaf is good until {}", facts.not_after))
}

async fn chain(publisher: &TrustPublisher) -> Result<Finding, StoreError> {
    let head = publisher.chain.head();
    match publisher.check().await {
        Ok(()) => Ok(Finding::good("chain", format!("trust bundle {} is the newest", head.bundle.version))),
        Err(PublishError::Store(error)) => Err(error),
        Err(PublishError::Clock { .. }) => Ok(Finding::notice("chain", "not judged: the clock is wrong", "")),
        Err(error) => Ok(Finding::bad("chain", error.to_string(), "writ trust converge")),
    }
}

async fn backup(publisher: &TrustPublisher) -> Result<Finding, StoreError> {
    let folder =
        publisher.files.folder().canonicalize().unwrap_or_else(|_| publisher.files.folder().to_owned());
    let newest = publisher.chain.head().bundle.version;
    let backups = publisher.store.backups().await?;
    let proven = backups.iter().filter(|backup| backup.proven_at > Timestamp::ZERO);
    let cure = "copy the latest of backups/ elsewhere, then from there: writ-server cert prove-backup FILE";
    let is_elsewhere = |backup: &&BackupRow| !Path::new(&backup.path).starts_with(&folder);
    let best = proven.max_by_key(|backup| (backup.bundle_version, is_elsewhere(backup), backup.proven_at));
    Ok(match best {
        None => Finding::notice("backup", "no backup was ever proven readable", cure),
        Some(backup) if backup.bundle_version < newest => {
            let detail = format!(
                "the latest proven backup holds bundle {} of {newest}: keys made since are not in it",
                backup.bundle_version
            );
            Finding::notice("backup", detail, cure)
        }
        Some(backup) if !is_elsewhere(&backup) => {
            let detail = format!(
                "{} was proven at {}, but lies on the disk whose loss it is for",
                backup.path, backup.proven_at
            );
            Finding::notice("backup", detail, cure)
        }
        Some(backup) => {
            let detail = format!("{} was proven at {}", backup.path, backup.proven_at);
            Finding::good("backup", detail)
        }
    })
}
