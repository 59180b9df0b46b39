//! The newest metadata that was seen from a repository: what keeps it from going back.
//!
//! * `roots/NUMBER.root.json`: the root that was pinned and those that followed, as they came. Each is signed
//!   as the one before it asks.
//! * `timestamp.json`, `snapshot.json`, `targets.json`: the newest of each, as the library writes it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use tough::schema::{Role, RoleType, Root, Signed, Snapshot, Targets, Timestamp};
use writ_common::files;
use writ_protocol::id::Digest;

use crate::reason::{Reason, UpdateError};

/// What is kept beside the roots. In the order in which it is written: a crash between two of them leaves an
/// older one beside a newer one, as between two runs.
const METADATA: [&str; 3] = ["timestamp.json", "snapshot.json", "targets.json"];

/// How the name of a folder ends that was taken in by another.
const GONE: &str = "gone";

/// A root and the bytes that it came as.
#[derive(Debug, Clone)]
pub(crate) struct TrustedRoot {
    pub(crate) signed: Signed<Root>,
    pub(crate) bytes: Vec<u8>,
}

impl TrustedRoot {
    fn version(&self) -> u64 {
        self.signed.signed.version.get()
    }

    fn parse(bytes: Vec<u8>) -> Result<Self, String> {
        let signed: Signed<Root> = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        signed.signed.verify_role(&signed).map_err(|error| error.to_string())?;
        Ok(Self { signed, bytes })
    }

    /// Whether another is the same, whoever signed it besides.
    fn is(&self, other: &Self) -> bool {
        self.signed.signed == other.signed.signed
    }

    /// Whether another root may take its place.
    fn is_followed_by(&self, next: &Self) -> bool {
        next.version() == self.version() + 1 && self.signed.signed.verify_role(&next.signed).is_ok()
    }
}

/// What is trusted of one repository.
#[derive(Debug, Clone)]
pub struct Trusted {
    folder: PathBuf,
    /// From the one that was pinned, or an older one that led to it, to the newest.
    roots: Vec<TrustedRoot>,
}

impl Trusted {
    /// The trust that begins with a pinned root. If that root was seen of a repository before, or is next
    /// to one of it, what was seen counts: whoever pins another root of the same repository forgets nothing.
    ///
    /// # Errors
    /// When the root is none, or what was kept is damaged.
    pub(crate) fn open(all: &Path, pinned: &[u8]) -> Result<Self, UpdateError> {
        let no_root = |why: String| {
            UpdateError::new(Reason::NoRoot, format!("it is no root of a TUF repository: {why}"))
        };
        let root = TrustedRoot::parse(pinned.to_vec()).map_err(no_root)?;
        let own = all.join(Digest::of(pinned).to_string());
        let mut damage = None;
        for folder in repositories(all)? {
            let mut roots = match roots_in(&folder) {
                Ok(roots) => roots,
                // Perhaps it is of another repository.
                Err(error) => {
                    damage = Some(error);
                    continue;
                }
            };
            if roots.iter().any(|seen| seen.is(&root)) {
                return Self { folder, roots }.checked();
            }
            if roots.last().is_some_and(|newest| newest.is_followed_by(&root)) {
                roots.push(root);
                return Self { folder, roots }.checked();
            }
            if roots.first().is_some_and(|first| root.is_followed_by(first)) {
                roots.insert(0, root);
                return Self { folder, roots }.checked();
            }
        }
        // It may be what was seen of this one.
        damage.map_or_else(|| Ok(Self { folder: own, roots: vec![root] }), Err)
    }

    /// Whether what is kept can be read. What cannot would let an older state of the repository pass.
    fn checked(self) -> Result<Self, UpdateError> {
        let bytes = |name: &str| read_if_there(&self.folder.join(name));
        let [timestamp, snapshot, targets] = METADATA;
        for (name, fault) in [
            (timestamp, fault::<Timestamp>(bytes(timestamp)?)),
            (snapshot, fault::<Snapshot>(bytes(snapshot)?)),
            (targets, fault::<Targets>(bytes(targets)?)),
        ] {
            if let Some(why) = fault {
                return Err(damaged(&self.folder.join(name), &why));
            }
        }
        Ok(self)
    }

    /// The newest root.
    pub(crate) fn newest(&self) -> Result<&TrustedRoot, UpdateError> {
        let none = || UpdateError::new(Reason::NoRoot, "there is no root");
        self.roots.last().ok_or_else(none)
    }

    /// All of them, by file name.
    pub(crate) fn roots(&self) -> impl Iterator<Item = (String, &[u8])> {
        self.roots.iter().map(|root| (format!("{}.root.json", root.version()), root.bytes.as_slice()))
    }

    /// Copies what was seen to where the library works. The library writes in place, so it never works on the
    /// original.
    pub(crate) fn copy_to(&self, work: &Path) -> Result<(), UpdateError> {
        files::private_folder(work).map_err(UpdateError::file)?;
        for name in METADATA {
            if let Some(bytes) = read_if_there(&self.folder.join(name))? {
                let to = work.join(name);
                fs::write(&to, bytes).map_err(|source| UpdateError::io(&to, source))?;
            }
        }
        Ok(())
    }

    /// Keeps what was verified, also of a run that failed: what was seen once is not forgotten. `came` are
    /// the roots that came, by version.
    pub(crate) fn keep(
        &mut self,
        work: &Path,
        mut came: impl FnMut(u64) -> Option<Vec<u8>>,
    ) -> Result<(), UpdateError> {
        let before = self.newest()?.signed.signed.clone();
        loop {
            let newest = self.newest()?;
            let next = came(newest.version() + 1).and_then(|bytes| TrustedRoot::parse(bytes).ok());
            match next.filter(|next| newest.is_followed_by(next)) {
                Some(next) => self.roots.push(next),
                None => break,
            }
        }
        self.write_roots()?;
        let root = self.newest()?.signed.signed.clone();
        let are_replaced = |role: RoleType| before.keys(role).ne(root.keys(role));
        // As the library does: it forgives a version that whoever had the keys of before made too high.
        let is_forgiven = are_replaced(RoleType::Timestamp) || are_replaced(RoleType::Snapshot);
        let [timestamp, snapshot, targets] = METADATA;
        self.keep_one::<Timestamp>(work, timestamp, &root, is_forgiven)?;
        self.keep_one::<Snapshot>(work, snapshot, &root, is_forgiven)?;
        self.keep_one::<Targets>(work, targets, &root, false)?;
        self.join()
    }

    fn write_roots(&self) -> Result<(), UpdateError> {
        let folder = self.folder.join("roots");
        files::private_folder(&folder).map_err(UpdateError::file)?;
        for (name, bytes) in self.roots() {
            let to = folder.join(name);
            if fs::read(&to).ok().as_deref() != Some(bytes) {
                files::write_secret(&to, bytes).map_err(UpdateError::file)?;
            }
        }
        Ok(())
    }

    /// Takes in what was seen of the same repository from another pinned root on: that one leads to the
    /// other is known only now.
    ///
    /// # Errors
    /// When something newer had been seen there, or what was seen there is damaged.
    fn join(&mut self) -> Result<(), UpdateError> {
        let Some(all) = self.folder.parent().map(Path::to_owned) else { return Ok(()) };
        let mut is_behind = false;
        // What a crash left of one that was taken in.
        let is_gone = |path: &PathBuf| path.extension().is_some_and(|end| end == GONE);
        for gone in files::list(&all).map_err(UpdateError::file)?.into_iter().filter(is_gone) {
            let _ = fs::remove_dir_all(gone);
        }
        for other in repositories(&all)? {
            let Some(roots) = roots_in(&other).ok().filter(|_| other != self.folder) else { continue };
            let Some(joined) = self.joined(&roots) else { continue };
            let _sound = Self { folder: other.clone(), roots }.checked()?;
            is_behind |=
                joined.last().map(TrustedRoot::version) > self.roots.last().map(TrustedRoot::version);
            self.roots = joined;
            self.write_roots()?;
            let root = self.newest()?.signed.signed.clone();
            let [timestamp, snapshot, targets] = METADATA;
            is_behind |= self.take_newer::<Timestamp>(&other, timestamp, &root)?;
            is_behind |= self.take_newer::<Snapshot>(&other, snapshot, &root)?;
            is_behind |= self.take_newer::<Targets>(&other, targets, &root)?;
            // All that it had is here. Half of it must not look as if it were damaged.
            let gone = other.with_extension(GONE);
            files::rename(&other, &gone).map_err(UpdateError::file)?;
            let _ = fs::remove_dir_all(gone);
        }
        if !is_behind {
            return Ok(());
        }
        let text = "this host has seen a newer state of the repository, when another root of it was pinned";
        Err(UpdateError::new(Reason::RolledBack, text))
    }

    /// These roots and those of here, if all are one chain.
    fn joined(&self, roots: &[TrustedRoot]) -> Option<Vec<TrustedRoot>> {
        let mut joined = self.roots.clone();
        for root in roots {
            match joined.iter().find(|own| own.version() == root.version()) {
                Some(own) if own.is(root) => {}
                Some(_) => return None,
                None => joined.push(root.clone()),
            }
        }
        joined.sort_by_key(TrustedRoot::version);
        joined.windows(2).all(|pair| pair[0].is_followed_by(&pair[1])).then_some(joined)
    }

    /// Takes metadata of another folder if it is newer than that of here, and counts.
    fn take_newer<R>(&self, other: &Path, name: &str, root: &Root) -> Result<bool, UpdateError>
    where
        R: Role + DeserializeOwned,
    {
        let read = |folder: &Path| -> Result<Option<(u64, Vec<u8>)>, UpdateError> {
            let Some(bytes) = read_if_there(&folder.join(name))? else { return Ok(None) };
            let signed = serde_json::from_slice::<Signed<R>>(&bytes).ok();
            let signed = signed.filter(|signed| root.verify_role(signed).is_ok());
            Ok(signed.map(|signed| (signed.signed.version().get(), bytes)))
        };
        let (theirs, own) = (read(other)?, read(&self.folder)?);
        match theirs {
            Some((version, bytes)) if own.is_none_or(|(own, _)| own < version) => {
                files::write_secret(&self.folder.join(name), &bytes).map_err(UpdateError::file)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn keep_one<R>(&self, work: &Path, name: &str, root: &Root, is_forgiven: bool) -> Result<(), UpdateError>
    where
        R: Role + DeserializeOwned,
    {
        let to = self.folder.join(name);
        let Some(bytes) = read_if_there(&work.join(name))? else {
            if is_forgiven {
                let _ = fs::remove_file(to);
            }
            return Ok(());
        };
        // On a full disk it may be a piece; and a role of another kind may have had this name.
        let is_verified =
            serde_json::from_slice::<Signed<R>>(&bytes).is_ok_and(|signed| root.verify_role(&signed).is_ok());
        if is_verified && fs::read(&to).ok().as_ref() != Some(&bytes) {
            files::write_secret(&to, &bytes).map_err(UpdateError::file)?;
        }
        Ok(())
    }

    /// Whether a root can be pinned: it is one, and signed by enough of its own keys.
    ///
    /// # Errors
    /// Why not.
    pub fn check_root(bytes: &[u8]) -> Result<u64, UpdateError> {
        let no_root = |why: String| {
            UpdateError::new(Reason::NoRoot, format!("it is no root of a TUF repository: {why}"))
        };
        TrustedRoot::parse(bytes.to_vec()).map(|root| root.version()).map_err(no_root)
    }
}

/// The folders of what was seen of repositories, one for each.
fn repositories(all: &Path) -> Result<impl Iterator<Item = PathBuf>, UpdateError> {
    let is_one = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<Digest>().is_ok())
    };
    Ok(files::list(all).map_err(UpdateError::file)?.into_iter().filter(is_one))
}

/// The roots that were kept of a repository, each as the one before it asks.
fn roots_in(folder: &Path) -> Result<Vec<TrustedRoot>, UpdateError> {
    let mut roots = Vec::new();
    for path in files::list(&folder.join("roots")).map_err(UpdateError::file)? {
        // What a crash left beside one.
        if path.extension().is_none_or(|end| end != "json") {
            continue;
        }
        let bytes = files::read(&path).map_err(UpdateError::file)?;
        roots.push(TrustedRoot::parse(bytes).map_err(|why| damaged(&path, &why))?);
    }
    roots.sort_by_key(TrustedRoot::version);
    match roots.windows(2).find(|pair| !pair[0].is_followed_by(&pair[1])) {
        Some(pair) => {
            let file = format!("roots/{}.root.json", pair[1].version());
            Err(damaged(&folder.join(file), "it does not follow the one before it"))
        }
        None => Ok(roots),
    }
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, UpdateError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).map_err(|source| UpdateError::io(path, source)),
    }
}

fn fault<R: Role + DeserializeOwned>(bytes: Option<Vec<u8>>) -> Option<String> {
    serde_json::from_slice::<Signed<R>>(&bytes?).err().map(|error| error.to_string())
}

fn damaged(path: &Path, why: &str) -> UpdateError {
    let text = format!(
        "{}: what was seen of the repository is damaged ({why}): put it back from a copy; if there is none, remove its folder, and an older state of the repository is not noticed once",
        path.display()
    );
    UpdateError::new(Reason::Damaged, text)
}
