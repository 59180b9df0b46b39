//! Servers this machine knows: `~/.config/writ/contexts.toml`. Tokens stay in their own files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use writ_common::files;
use writ_protocol::place::Place;

use crate::failure::Failure;

/// One server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// "host:port" of the admin port.
    pub(crate) server: String,
    /// PEM of the certificate authority.
    pub(crate) ca: PathBuf,
    /// The bearer token's file.
    pub(crate) token_file: PathBuf,
}

/// All of them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one that is used.
    #[serde(default)]
    pub(crate) current: String,
    /// By name.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

impl Context {
    /// Where a server answers, written in one way.
    pub(crate) fn place(server: &str) -> Result<String, Failure> {
        let place = Place::to_call(server).map_err(|error| Failure::usage(error.to_string()))?;
        Ok(place.to_string())
    }

    /// The one the environment names, for containers and jobs: `WRIT_SERVER`, `WRIT_CA`, `WRIT_TOKEN_FILE`.
    pub(crate) fn of_environment() -> Result<Option<Self>, Failure> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        match (variable("WRIT_SERVER"), variable("WRIT_CA"), variable("WRIT_TOKEN_FILE")) {
            (None, None, None) => Ok(None),
            (Some(server), Some(ca), Some(token_file)) => {
                let server = Self::place(&server).map_err(|failure| failure.about("WRIT_SERVER"))?;
                Ok(Some(Self { server, ca: ca.into(), token_file: token_file.into() }))
            }
            _ => Err(Failure::local(
                "WRIT_SERVER, WRIT_CA and WRIT_TOKEN_FILE must be set together, or none of them",
            )),
        }
    }
}

impl Contexts {
    /// Reads the file; a missing one is empty.
    pub(crate) fn load() -> Result<Self, Failure> {
        let path = path()?;
        let text = match files::read(&path) {
            Err(error) if error.is_missing() => return Ok(Self::default()),
            read => read.map_err(|error| Failure::local(error.to_string()))?,
        };
        let text = String::from_utf8_lossy(&text);
        toml::from_str(text.strip_prefix('\u{feff}').unwrap_or(&text))
            .map_err(|error| Failure::local(format!("{}: {error}", path.display())))
    }

    /// Writes the file.
    pub(crate) fn save(&self) -> Result<(), Failure> {
        let path = path()?;
        let local = |error: &dyn std::fmt::Display| Failure::local(error.to_string());
        files::private_folder(path.parent().unwrap_or_else(|| Path::new(".")))
            .map_err(|error| local(&error))?;
        let text = toml::to_string(self).map_err(|error| local(&error))?;
        // A link stays one: people keep such files elsewhere.
        let path = path.canonicalize().unwrap_or(path);
        files::write_secret(&path, text.as_bytes()).map_err(|error| local(&error))
    }

    /// The one asked for, or the current one.
    pub(crate) fn choose<'a>(&'a self, name: Option<&'a str>) -> Result<(&'a str, &'a Context), Failure> {
        let name = name.unwrap_or(&self.current);
        let chosen = self.contexts.get(name).ok_or_else(|| {
            Failure::local(if name.is_empty() && !self.contexts.is_empty() {
                "no context is in use; see: writ context list, and then: writ context use NAME".to_owned()
            } else if name.is_empty() {
                "no server is known; add one: writ context add NAME --server HOST:7444 --ca admin-ca.pem --token-file FILE"
                    .to_owned()
            } else {
                format!("there is no context `{name}`; see: writ context list")
            })
        })?;
        Ok((name, chosen))
    }
}

fn path() -> Result<PathBuf, Failure> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let folder = variable("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".config")));
    let folder = folder.ok_or_else(|| Failure::local("neither XDG_CONFIG_HOME nor HOME is set"))?;
    Ok(folder.join("writ/contexts.toml"))
}
