//! What an operator chose. Whether the Control Manager is the source is not here: that belongs to the
//! registration with it, and ends with it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;
use writ_common::shutdown::Shutdown;
use writ_protocol::id::Digest;
use writ_updates::{Folder, Reason, Trusted, UpdateError, Web};

use super::authorities;

/// Where they are kept, in the folder of updates. In a folder of their own, whose lock nobody holds for as
/// long as a run takes.
const PLACE: &str = "choice";
const FILE: &str = "choice/settings.json";
/// How often a run begins unless told otherwise.
const EVERY: u64 = 3600;
/// Neither more often nor less.
const SHORTEST: u64 = 300;
const LONGEST: u64 = 30 * 86_400;
/// A root has a few keys.
const MAX_ROOT_BYTES: usize = 256 << 10;

/// What an operator chose.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// An address of their own; `None`: the update server of the configuration.
    pub custom: Option<Custom>,
    /// The root of what the manager mirrors, JSON; `None`: that of the configuration.
    pub manager_root: Option<String>,
    /// Not by the proxy, although one is set.
    pub is_direct: bool,
    /// Seconds between the beginnings of two runs; 0: none begins by itself.
    every_seconds: Option<u64>,
}

/// A repository that an operator named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Custom {
    /// The folder with `metadata` and `targets` in it.
    pub url: String,
    /// The root that is pinned, JSON.
    pub root: String,
    /// Who vouches for the web server, PEM; `None`: whom this host trusts.
    pub authority: Option<String>,
}

/// What an operator chooses.
#[derive(Debug)]
pub(crate) enum Choice {
    /// The update server of the configuration.
    Default,
    /// The manager; with a root if it mirrors another repository.
    Manager(Option<Vec<u8>>),
    /// An address.
    Custom {
        /// The folder with `metadata` and `targets` in it.
        url: String,
        /// The root that is pinned, JSON.
        root: Vec<u8>,
        /// PEM, if it is not whom this host trusts.
        authority: Option<Vec<u8>>,
    },
}

impl Choice {
    /// For the audit log: who is trusted from now on.
    ///
    /// # Errors
    /// When the source is one that `direct` says nothing of.
    pub(crate) fn describe(&self, is_direct: bool) -> Result<String, UpdateError> {
        let root = |root: &[u8]| format!("root {}", Digest::of(root));
        let direct = if is_direct { " direct" } else { "" };
        match self {
            Self::Manager(_) if is_direct => {
                let text = "the way to the manager is set with the registration: writ manager settings set --proxy none";
                Err(UpdateError::new(Reason::NoSource, text))
            }
            Self::Default => Ok(format!("default{direct}")),
            Self::Manager(None) => Ok("manager".to_owned()),
            Self::Manager(Some(given)) => Ok(format!("manager {}", root(given))),
            Self::Custom { url, root: given, .. } => {
                Ok(format!("{} {}{direct}", writ_common::text::quoted(url), root(given)))
            }
        }
    }
}

impl Settings {
    /// What was chosen.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn read(folder: &Folder) -> Result<Self, UpdateError> {
        Ok(folder.read_json(FILE)?.unwrap_or_default())
    }

    /// Changes what was chosen; whether that made a difference.
    ///
    /// # Errors
    /// What is wrong with the change, or that it cannot be written; then nothing is changed.
    pub(crate) fn change(
        folder: &Folder,
        change: impl FnOnce(&mut Self) -> Result<(), UpdateError>,
    ) -> Result<bool, UpdateError> {
        let _lock = Folder::new(&folder.path().join(PLACE)).lock()?;
        let before = Self::read(folder)?;
        let mut after = before.clone();
        change(&mut after)?;
        if after != before {
            folder.write_json(FILE, &after)?;
        }
        Ok(after != before)
    }

    /// How often a run begins by itself.
    #[must_use]
    pub(crate) fn every(&self) -> Option<Duration> {
        match self.every_seconds.unwrap_or(EVERY) {
            0 => None,
            seconds => Some(Duration::from_secs(seconds)),
        }
    }

    /// Sets how often.
    ///
    /// # Errors
    /// When it is too often or too seldom.
    pub(crate) fn set_every(&mut self, seconds: u64) -> Result<(), UpdateError> {
        if seconds != 0 && !(SHORTEST..=LONGEST).contains(&seconds) {
            let text =
                format!("a run begins every {SHORTEST} to {LONGEST} seconds, or 0 for never by itself");
            return Err(UpdateError::new(Reason::BadSchedule, text));
        }
        self.every_seconds = Some(seconds);
        Ok(())
    }

    /// Takes a choice, after every part of it was looked at.
    ///
    /// # Errors
    /// What is wrong with it; then nothing is changed.
    pub(crate) fn choose(&mut self, choice: Choice, is_direct: bool) -> Result<(), UpdateError> {
        match choice {
            Choice::Default => self.custom = None,
            Choice::Manager(root) => {
                self.manager_root = root.map(check_root).transpose()?;
                self.custom = None;
            }
            Choice::Custom { url, root, authority } => {
                let root = check_root(root)?;
                let refuse = |why: String| UpdateError::new(Reason::NoSource, why);
                let address = check_url(&url).map_err(refuse)?;
                let authority = authority.map(|pem| String::from_utf8_lossy(&pem).into_owned());
                if let Some(pem) = &authority {
                    authorities(pem.as_bytes())?;
                }
                if address.scheme() != "file" {
                    let given = authority.as_ref().map(|pem| authorities(pem.as_bytes())).transpose()?;
                    Web::new(&address, given, None, Shutdown::new()).map_err(refuse)?;
                }
                self.custom = Some(Custom { url: address.into(), root, authority });
            }
        }
        self.is_direct = is_direct;
        Ok(())
    }
}

fn check_root(root: Vec<u8>) -> Result<String, UpdateError> {
    let no_root = |why: &str| UpdateError::new(Reason::NoRoot, why);
    if root.len() > MAX_ROOT_BYTES {
        return Err(no_root("the root has more than 262144 bytes"));
    }
    Trusted::check_root(&root)?;
    String::from_utf8(root).map_err(|_| no_root("the root is no text"))
}

/// An address of a folder.
pub(crate) fn check_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| {
        format!(
            "`{}` is no address of a repository ({error}), such as https://updates.example/writ/",
            writ_common::text::quoted(text)
        )
    })?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        "file" => match url.to_file_path() {
            Ok(path) if path.is_absolute() && url.host().is_none() => Ok(url),
            _ => {
                Err("a file:// address names a folder of this host, such as file:///srv/updates/".to_owned())
            }
        },
        other => Err(format!("`{other}` is no way to a repository: http, https or file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_that_of_a_folder() {
        for good in ["https://updates.example/writ/", "http://127.0.0.1:8080", "file:///srv/updates"] {
            assert!(check_url(good).is_ok(), "{good}");
        }
        for bad in ["", "updates.example", "ftp://a/", "file://host/srv", "manager:", "javascript:1"] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_schedule_has_bounds() {
        let mut settings = Settings::default();
        assert_eq!(settings.every(), Some(Duration::from_secs(3600)));
        settings.set_every(0).unwrap();
        assert_eq!(settings.every(), None);
        for bad in [1, 299, 2_592_001, u64::MAX] {
            assert!(settings.set_every(bad).is_err(), "{bad}");
        }
        settings.set_every(300).unwrap();
        assert_eq!(settings.every(), Some(Duration::from_secs(300)));
    }
}
