//! What a repository holds and how long it counts.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tough::schema::{Role, Root, Signed, Snapshot, Targets, Timestamp as Newest};
use writ_common::files;
use writ_protocol::id::Digest;
use writ_protocol::time::Timestamp;

use super::{Workshop, WorkshopError};
use crate::{Name, Release};

/// A repository as it is published, and what is planned.
#[derive(Debug, Serialize)]
pub struct RepositoryState {
    /// SHA-256 of the newest root's file.
    pub root_sha256: String,
    /// The roles, in the order root, targets, snapshot, timestamp.
    pub roles: Vec<RoleState>,
    /// What will be published next, or is.
    pub components: Vec<Offered>,
    /// The plan was changed since it was published.
    pub is_unpublished: bool,
    /// What keeps servers from updating, in words.
    pub problems: Vec<String>,
}

/// One role's metadata.
#[derive(Debug, Serialize)]
pub struct RoleState {
    /// Which.
    pub role: &'static str,
    /// Its version.
    pub version: u64,
    /// Until when it counts, in milliseconds since 1970.
    pub expires_ms: u64,
    /// The ids of the keys that sign it.
    pub key_ids: Vec<String>,
}

/// A component in the plan.
#[derive(Debug, Serialize)]
pub struct Offered {
    /// Which.
    pub name: Name,
    /// What it is.
    #[serde(flatten)]
    pub release: Release,
}

impl Workshop {
    /// What it holds.
    ///
    /// # Errors
    /// When what is kept with the keys cannot be read.
    pub fn state(&self) -> Result<RepositoryState, WorkshopError> {
        let (plan, numbers) = (self.plan()?, self.numbers()?);
        let root_bytes = files::read(&self.root_file(numbers.root))?;
        let root = self.root(numbers.root)?;
        let (targets, snapshot) = numbers.published.first().copied().unwrap_or_default();
        let (mut roles, mut problems) = (Vec::new(), Vec::new());
        for role in super::Role::ALL {
            let read = match role {
                super::Role::Root => self.read::<Root>(&format!("{}.root.json", numbers.root), &root),
                super::Role::Targets => self.read::<Targets>(&format!("{targets}.targets.json"), &root),
                super::Role::Snapshot => self.read::<Snapshot>(&format!("{snapshot}.snapshot.json"), &root),
                super::Role::Timestamp => self.read::<Newest>("timestamp.json", &root),
            };
            let keys = root.roles.get(&role.tuf()).map(|keys| keys.keyids.clone()).unwrap_or_default();
            let key_ids = keys.into_iter().map(|id| hex::encode(id.into_vec())).collect();
            let (version, expires) = read.unwrap_or_else(|why| {
                problems.push(why);
                (0, Timestamp::ZERO)
            });
            roles.push(RoleState { role: role.as_str(), version, expires_ms: expires.as_millis(), key_ids });
        }
        for (name, release) in &plan.components {
            problems.extend(self.check_target(name, release).err().map(|error| error.to_string()));
        }
        let components =
            plan.components.into_iter().map(|(name, release)| Offered { name, release }).collect();
        let root_sha256 = Digest::of(&root_bytes).to_string();
        Ok(RepositoryState { root_sha256, roles, components, is_unpublished: plan.is_changed, problems })
    }

    /// Version and end of a role's metadata, if it is there and its keys signed it.
    fn read<R>(&self, file: &str, root: &Root) -> Result<(u64, Timestamp), String>
    where
        R: Role + DeserializeOwned,
    {
        let path = self.metadata(file);
        let shown = path.display();
        let bytes = files::read(&path).map_err(|error| error.to_string())?;
        let signed: Signed<R> =
            serde_json::from_slice(&bytes).map_err(|error| format!("{shown}: {error}"))?;
        root.verify_role(&signed)
            .map_err(|error| format!("{shown}: the newest root does not let it count ({error})"))?;
        let second = u64::try_from(signed.signed.expires().as_second()).unwrap_or(0);
        Ok((signed.signed.version().get(), Timestamp::from_millis(second.saturating_mul(1000))))
    }
}
