//! One run of an update: fetch, verify, stage, activate. Each stage has a type that only it makes, so that
//! nothing is activated that was not staged, nor staged that was not verified.

mod activate;
mod fetch;
mod stage;
mod verify;

use std::fs;
use std::path::Path;

use writ_common::checkpoint;
use writ_protocol::time::Timestamp;

use crate::folder::{Alone, Folder};
use crate::link::{Link, Pace};
use crate::mirror::too_long;
use crate::reason::UpdateError;
use crate::{MAX_RUN, Name, Release};

pub(crate) use fetch::{DELTA_FROM, Listed, Offers, check_room, list, offers};

/// Where a run gets its components from.
#[derive(Debug, Clone)]
pub struct Source<L> {
    /// The way.
    pub link: L,
    /// The root that was pinned, as JSON.
    pub root: Vec<u8>,
    /// How fast it must come.
    pub pace: Pace,
}

/// How far a run has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The signed list of what there is was read and verified.
    Listed {
        /// Components that will be fetched.
        wanted: usize,
        /// Bytes that they have.
        bytes: u64,
    },
    /// A component is coming.
    Fetching {
        /// Which.
        name: Name,
        /// What it is.
        release: Release,
        /// How many bytes are here.
        done: u64,
    },
    /// All are here, and are what they should be.
    Verified,
    /// All are where they are used from.
    Staged,
}

/// What came of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What came into force.
    pub activated: Vec<(Name, Release)>,
    /// What is held, although the repository has another version.
    pub held: Vec<(Name, Release)>,
    /// What is here, and the repository does not list any more. It stays in force.
    pub unlisted: Vec<Name>,
    /// Targets of the repository that are no components.
    pub others: usize,
}

/// Brings what the source has into force, all of it or nothing.
///
/// # Errors
/// Why not; what was in force before is in force still.
pub async fn update<L: Link>(
    (folder, _alone): (&Folder, &Alone),
    source: Source<L>,
    now: Timestamp,
    told: &mut (dyn FnMut(Progress) + Send),
) -> Result<Report, UpdateError> {
    let incoming = folder.incoming()?;
    let ended = tokio::time::timeout(MAX_RUN, stages(folder, &incoming, source, now, told)).await;
    // On a full disk it would be what fills it.
    let _ = fs::remove_dir_all(incoming);
    ended.unwrap_or_else(|_| Err(too_long()))
}

async fn stages<L: Link>(
    folder: &Folder,
    incoming: &Path,
    source: Source<L>,
    now: Timestamp,
    told: &mut (dyn FnMut(Progress) + Send),
) -> Result<Report, UpdateError> {
    let fetched = fetch::fetch(folder, incoming, source, told).await?;
    checkpoint!("update_fetched");
    let verified = verify::verify(fetched)?;
    told(Progress::Verified);
    checkpoint!("update_verified");
    // From here on nobody goes back: what is staged and not named yet would be removed.
    let _alone = folder.lock_shelf()?;
    let staged = stage::stage(folder, verified)?;
    told(Progress::Staged);
    checkpoint!("update_staged");
    activate::activate(folder, staged, now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;
    use writ_common::keys::sealed::Passphrase;

    use super::*;
    use crate::{Disk, Lifetimes, Reason, Role, Workshop};

    const DAY: Duration = Duration::from_secs(86_400);
    const LIFETIMES: Lifetimes = Lifetimes { timestamp: DAY, snapshot: DAY, targets: DAY };

    struct Scene {
        folder: TempDir,
        workshop: Workshop,
    }

    fn passphrase() -> Passphrase {
        Passphrase::new("correct horse battery").unwrap()
    }

    fn now() -> Timestamp {
        use writ_common::time::{Clock as _, SystemClock};
        SystemClock::new().wall()
    }

    impl Scene {
        async fn new() -> Self {
            let folder = TempDir::new().unwrap();
            let (repository, keys) = (folder.path().join("repository"), folder.path().join("keys"));
            let passphrase = passphrase();
            let made = Workshop::make((&repository, &keys), &passphrase, DAY, LIFETIMES, now());
            let (workshop, published) = made.await.unwrap();
            assert_eq!((published.root, published.targets, published.timestamp), (1, 1, 1));
            Self { folder, workshop }
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.folder.path().join(name)
        }

        async fn offer(&self, version: &str, content: &[u8]) {
            let file = self.path("file");
            fs::write(&file, content).unwrap();
            self.workshop.add("tool".parse().unwrap(), version.parse().unwrap(), &file, &mut |_| {}).unwrap();
            self.workshop.publish(LIFETIMES, now()).await.unwrap();
        }

        fn client(&self) -> Folder {
            Folder::new(&self.path("client"))
        }

        async fn update(&self) -> Result<Report, UpdateError> {
            self.update_from(&self.path("repository")).await
        }

        async fn update_from(&self, repository: &Path) -> Result<Report, UpdateError> {
            self.update_by_root("repository/metadata/1.root.json", repository).await
        }

        async fn update_by_root(&self, root: &str, repository: &Path) -> Result<Report, UpdateError> {
            let root = fs::read(self.path(root)).unwrap();
            let source = Source { link: Disk::new(repository.to_owned()), root, pace: Pace::default() };
            let client = self.client();
            let alone = client.lock()?;
            update((&client, &alone), source, now(), &mut |_| {}).await
        }

        fn active(&self) -> (String, Vec<u8>) {
            let (release, file) = self.client().active(&"tool".parse().unwrap()).unwrap().unwrap();
            (release.version.into(), fs::read(file).unwrap())
        }
    }

    #[tokio::test]
    async fn a_component_comes_is_replaced_and_gone_back_to() {
        let scene = Scene::new().await;
        scene.offer("1", b"one").await;
        assert_eq!(scene.update().await.unwrap().activated.len(), 1);
        assert_eq!(scene.active(), ("1".to_owned(), b"one".to_vec()));
        assert_eq!(scene.update().await.unwrap(), Report::default());
        scene.offer("2", b"two").await;
        scene.update().await.unwrap();
        assert_eq!(scene.active(), ("2".to_owned(), b"two".to_vec()));
        let (client, tool) = (scene.client(), "tool".parse().unwrap());
        client.roll_back(&tool, now()).unwrap();
        assert_eq!(scene.active(), ("1".to_owned(), b"one".to_vec()));
        assert_eq!(client.roll_back(&tool, now()).unwrap_err().reason, Reason::NothingEarlier);
        let report = scene.update().await.unwrap();
        assert_eq!((report.activated.len(), report.held.len()), (0, 1));
        client.release(&tool).unwrap();
        assert_eq!(client.release(&tool).unwrap_err().reason, Reason::NotHeld);
        scene.update().await.unwrap();
        assert_eq!(scene.active(), ("2".to_owned(), b"two".to_vec()));
    }

    #[tokio::test]
    async fn a_file_that_was_lost_comes_again() {
        let scene = Scene::new().await;
        scene.offer("1", b"one").await;
        scene.update().await.unwrap();
        let (_, file) = scene.client().active(&"tool".parse().unwrap()).unwrap().unwrap();
        fs::remove_file(file).unwrap();
        scene.update().await.unwrap();
        assert_eq!(scene.active(), ("1".to_owned(), b"one".to_vec()));
    }

    #[tokio::test]
    async fn replaced_keys_are_followed_and_count_no_more() {
        let scene = Scene::new().await;
        scene.offer("1", b"one").await;
        scene.update().await.unwrap();
        let before = scene.path("before");
        copy(&scene.path("repository"), &before);
        let passphrase = passphrase();
        let rotated = scene.workshop.rotate(&Role::ALL, &passphrase, DAY, LIFETIMES, now());
        assert_eq!(rotated.await.unwrap().root, 2);
        scene.offer("2", b"two").await;
        scene.update().await.unwrap();
        assert_eq!(scene.active(), ("2".to_owned(), b"two".to_vec()));
        let error = scene.update_from(&before).await.unwrap_err();
        assert_eq!(error.reason, Reason::Unsigned, "{error}");
        assert_eq!(scene.active(), ("2".to_owned(), b"two".to_vec()));
    }

    #[tokio::test]
    async fn an_older_state_of_the_repository_is_refused() {
        let scene = Scene::new().await;
        scene.offer("1", b"one").await;
        let before = scene.path("before");
        copy(&scene.path("repository"), &before);
        scene.offer("2", b"two").await;
        scene.update().await.unwrap();
        let error = scene.update_from(&before).await.unwrap_err();
        assert_eq!(error.reason, Reason::RolledBack, "{error}");
    }

    #[tokio::test]
    async fn whoever_pins_another_root_of_the_same_repository_forgets_nothing() {
        let scene = Scene::new().await;
        for _ in 0..2 {
            scene.workshop.rotate(&[], &passphrase(), DAY, LIFETIMES, now()).await.unwrap();
        }
        let before = scene.path("before");
        copy(&scene.path("repository"), &before);
        scene.offer("1", b"one").await;
        fs::create_dir_all(scene.path("client/trust/lost+found")).unwrap();
        scene.update_by_root("before/metadata/3.root.json", &scene.path("repository")).await.unwrap();
        // That root 1 leads to root 3 is known only when they have come.
        for _ in 0..2 {
            let error = scene.update_from(&before).await.unwrap_err();
            assert_eq!(error.reason, Reason::RolledBack, "{error}");
        }
        scene.update().await.unwrap();
        assert_eq!(fs::read_dir(scene.path("client/trust")).unwrap().count(), 2);
        assert_eq!(scene.active().0, "1");
    }

    #[tokio::test]
    async fn damage_of_what_was_seen_of_one_repository_stops_no_other() {
        let (scene, other) = (Scene::new().await, Scene::new().await);
        scene.offer("1", b"one").await;
        scene.update().await.unwrap();
        let damaged = scene.path("client/trust").join("00".repeat(32)).join("roots");
        fs::create_dir_all(&damaged).unwrap();
        fs::write(damaged.join("1.root.json"), b"{").unwrap();
        scene.update().await.unwrap();
        // This may be the one that is damaged.
        fs::copy(other.path("repository/metadata/1.root.json"), scene.path("other.json")).unwrap();
        let refused = scene.update_by_root("other.json", &other.path("repository")).await.unwrap_err();
        assert_eq!(refused.reason, Reason::Damaged, "{refused}");
    }

    #[tokio::test]
    async fn roots_that_the_web_server_lost_are_published_again() {
        let scene = Scene::new().await;
        scene.update().await.unwrap();
        scene.workshop.rotate(&Role::ALL, &passphrase(), DAY, LIFETIMES, now()).await.unwrap();
        let roots = ["1.root.json", "2.root.json"].map(|name| scene.path("repository/metadata").join(name));
        let pinned = scene.path("pinned.json");
        fs::copy(&roots[0], &pinned).unwrap();
        for root in roots {
            fs::remove_file(root).unwrap();
        }
        scene.offer("1", b"one").await;
        scene.update_by_root("pinned.json", &scene.path("repository")).await.unwrap();
        assert_eq!(scene.active().0, "1");
    }

    #[tokio::test]
    async fn what_is_no_list_is_no_reputation() {
        let scene = Scene::new().await;
        let file = scene.path("file");
        fs::write(&file, b"no list").unwrap();
        let added =
            scene.workshop.add("file-reputation".parse().unwrap(), "1".parse().unwrap(), &file, &mut |_| {});
        let error = added.unwrap_err().to_string();
        assert!(error.contains("list"), "{error}");
    }

    fn copy(from: &Path, to: &Path) {
        for folder in ["metadata", "targets"] {
            fs::create_dir_all(to.join(folder)).unwrap();
            for entry in fs::read_dir(from.join(folder)).unwrap() {
                let entry = entry.unwrap();
                fs::copy(entry.path(), to.join(folder).join(entry.file_name())).unwrap();
            }
        }
    }
}
