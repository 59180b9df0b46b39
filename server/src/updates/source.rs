//! Where the chosen source leads at this moment.

use url::Url;
use writ_common::net::{self, Login};
use writ_protocol::id::Digest;
use writ_protocol::place::Place;
use writ_updates::{Alone, Disk, Link, Progress, Reason, Report, Source, UpdateError, Web, update};
use zeroize::Zeroizing;

use super::by_manager::ByManager;
use super::settings::{Settings, check_url};
use super::{Surroundings, authorities, read};
use crate::cm_bridge::{ManagerRecord, UpdateSource};

/// Which source is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chosen {
    /// The update server of the configuration.
    Default,
    /// The manager.
    Manager,
    /// An address that an operator named.
    Custom,
}

/// What is chosen, for people.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Which.
    pub chosen: Chosen,
    /// Its address; empty for the manager, or if there is none.
    pub url: String,
    /// SHA-256 of the root that is pinned.
    pub root: Option<Digest>,
    /// An authority of its own vouches for the web server.
    pub has_authority: bool,
    /// Not by the proxy.
    pub is_direct: bool,
    /// What is missing; empty: nothing.
    pub next: String,
    /// Something is missing of a source that was chosen or configured.
    pub is_missing: bool,
}

/// A source that can be asked.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// `default`, `manager`, or the address.
    pub name: String,
    chosen: Chosen,
    url: Option<Url>,
    root: Vec<u8>,
    authority: Option<Vec<Vec<u8>>>,
    is_direct: bool,
}

impl Resolved {
    /// Of all that it is: another root, or another authority, is another source.
    pub(super) fn digest(&self) -> String {
        let Self { name, chosen: _, url, root, authority, is_direct } = self;
        let url = url.as_ref().map(Url::as_str).unwrap_or_default();
        let authority: Vec<u8> = authority.iter().flatten().flatten().copied().collect();
        let direct = [u8::from(*is_direct)];
        let parts: [&[u8]; 5] = [name.as_bytes(), url.as_bytes(), root, &authority, &direct];
        Digest::of_parts(parts).to_string()
    }
}

/// Whether an operator chose or configured any source: where there is none, nothing is missing.
pub(super) fn is_any(around: &Surroundings<'_>) -> bool {
    let is_unset = Settings::read(&around.updates.folder).is_ok_and(|settings| settings.custom.is_none());
    let is_manager = around.bridge.held().registration.source == UpdateSource::Manager;
    around.updates.configured.is_some() || is_manager || !is_unset
}

fn chosen(line: &ManagerRecord, settings: &Settings) -> Chosen {
    match (line.registration.source, &settings.custom) {
        (UpdateSource::Manager, _) => Chosen::Manager,
        (UpdateSource::Default, Some(_)) => Chosen::Custom,
        (UpdateSource::Default, None) => Chosen::Default,
    }
}

/// What is chosen, and what it lacks.
///
/// # Errors
/// When the settings cannot be read.
pub(crate) fn show(around: &Surroundings<'_>) -> Result<Shown, UpdateError> {
    let settings = Settings::read(&around.updates.folder)?;
    let chosen = chosen(&around.bridge.held(), &settings);
    let configured = around.updates.configured.as_ref();
    let (url, has_authority) = match (chosen, &settings.custom, configured) {
        (Chosen::Custom, Some(custom), _) => (custom.url.clone(), custom.authority.is_some()),
        (Chosen::Default, _, Some(configured)) => (configured.url.clone(), configured.ca.is_some()),
        _ => (String::new(), false),
    };
    let resolved = resolve(around);
    let root = resolved.as_ref().ok().map(|resolved| Digest::of(&resolved.root));
    let next = resolved.err().map_or_else(String::new, |error| error.text);
    let is_missing = !next.is_empty() && is_any(around);
    Ok(Shown { chosen, url, root, has_authority, is_direct: settings.is_direct, next, is_missing })
}

/// The source that is chosen, with its root and whoever vouches for it.
///
/// # Errors
/// What is missing.
pub(crate) fn resolve(around: &Surroundings<'_>) -> Result<Resolved, UpdateError> {
    let settings = Settings::read(&around.updates.folder)?;
    let chosen = chosen(&around.bridge.held(), &settings);
    let none = |text: &str| UpdateError::new(Reason::NoSource, text);
    let configured = around.updates.configured.as_ref();
    let is_direct = settings.is_direct;
    let bad_url = |why: String| UpdateError::new(Reason::NoSource, why);
    match (chosen, settings.custom) {
        (Chosen::Manager, _) => {
            let root = match (settings.manager_root, configured) {
                (Some(root), _) => root.into_bytes(),
                (None, Some(configured)) => read(&configured.root)?,
                (None, None) => {
                    return Err(none(
                        "the manager is the source, and no root is pinned: set updates.root in the configuration, or writ-server updates source set manager --root FILE",
                    ));
                }
            };
            let name = "manager".to_owned();
            Ok(Resolved { name, chosen, url: None, root, authority: None, is_direct })
        }
        (Chosen::Custom, Some(custom)) => {
            let authority = custom.authority.map(|pem| authorities(pem.as_bytes())).transpose()?;
            let url = Some(check_url(&custom.url).map_err(bad_url)?);
            Ok(Resolved {
                name: custom.url,
                chosen,
                url,
                root: custom.root.into_bytes(),
                authority,
                is_direct,
            })
        }
        (Chosen::Default | Chosen::Custom, _) => {
            let configured = configured.ok_or_else(|| {
                none(
                    "no update server is configured: set updates.url and updates.root in the configuration, or writ-server updates source set custom --url URL --root FILE",
                )
            })?;
            let ca = configured.ca.as_deref().map(read).transpose()?;
            let authority = ca.map(|pem| authorities(&pem)).transpose()?;
            let url = Some(check_url(&configured.url).map_err(bad_url)?);
            let root = read(&configured.root)?;
            Ok(Resolved { name: "default".to_owned(), chosen, url, root, authority, is_direct })
        }
    }
}

/// Runs an update from a source.
///
/// # Errors
/// Why it did not take place.
pub(super) async fn fetch(
    around: &Surroundings<'_>,
    alone: &Alone,
    resolved: Resolved,
    told: &mut (dyn FnMut(Progress) + Send),
) -> Result<Report, UpdateError> {
    let Resolved { chosen, url, root, authority, is_direct, .. } = resolved;
    let Some(url) = url.filter(|_| chosen != Chosen::Manager) else {
        return run((around, alone), ByManager::open(around).await?, root, told).await;
    };
    if let ("file", Ok(folder)) = (url.scheme(), url.to_file_path()) {
        return run((around, alone), Disk::new(folder), root, told).await;
    }
    let proxy = if is_direct { None } else { proxy(around)? };
    let web = Web::new(&url, authority, proxy, around.shutdown.clone());
    run((around, alone), web.map_err(|why| UpdateError::new(Reason::NoSource, why))?, root, told).await
}

async fn run<L: Link>(
    (around, alone): (&Surroundings<'_>, &Alone),
    link: L,
    root: Vec<u8>,
    told: &mut (dyn FnMut(Progress) + Send),
) -> Result<Report, UpdateError> {
    let source = Source { link, root, pace: around.updates.pace };
    update((&around.updates.folder, alone), source, around.clock.wall(), told).await
}

/// The proxy of this server: the one that is set for the line to the manager.
fn proxy(around: &Surroundings<'_>) -> Result<Option<net::Proxy>, UpdateError> {
    let refuse =
        |why: String| UpdateError::new(Reason::Unreachable, format!("the proxy cannot be used: {why}"));
    let line = around.bridge.held();
    let settings = line.in_force.as_ref().unwrap_or(&line.saved);
    let Some(proxy) = &settings.proxy else { return Ok(None) };
    let place = Place::of(&proxy.address, proxy.port).map_err(|error| refuse(error.to_string()))?;
    let login = match &proxy.login {
        Some(login) => {
            let opened =
                around.bridge.vault().unseal(&login.password).map_err(|error| refuse(error.to_string()))?;
            let password = Zeroizing::new(String::from_utf8_lossy(&opened).into_owned());
            Some(Login { user: login.user.clone(), password })
        }
        None => None,
    };
    Ok(Some(net::Proxy { protocol: proxy.protocol, place, login }))
}
