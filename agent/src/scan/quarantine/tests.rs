use std::os::unix::fs::MetadataExt as _;

use tempfile::TempDir;

use super::*;

const CONTENT: &[u8] = b"what nobody wants";

struct Scene {
    folder: TempDir,
    quarantine: Quarantine,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::new(&folder.path().join("quarantine"));
        Self { folder, quarantine }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("file")
    }

    /// Moves the file away; `meanwhile` is done when it is sealed.
    fn take(&self, meanwhile: impl Fn()) -> Result<Digest, NotMoved> {
        let path = self.file();
        let place = Place::of(&path).unwrap();
        let (mut file, stat) = place.open().unwrap();
        let limit = Limit { bytes: 1 << 20, goes_on: &|| true };
        let is_expected = |_: &mut File| {
            meanwhile();
            Ok(true)
        };
        let command = CommandId::from_bytes([1; 16]);
        self.quarantine.take((&path, &place), (&mut file, &stat, limit), is_expected, (command, 7))
    }

    fn notes(&self) -> Vec<(String, Note)> {
        let notes = self.quarantine.notes().unwrap();
        notes.into_iter().map(|(id, note)| (id, note.unwrap())).collect()
    }

    /// As if the agent had been killed before it noted that the file is here alone.
    fn forget_that_it_is_kept(&self) -> Note {
        let (id, note) = self.notes().remove(0);
        let note = Note { state: State::Removing, ..note };
        self.quarantine.note(&id, &note).unwrap();
        note
    }
}

#[test]
fn a_file_that_is_written_to_after_it_was_sealed_keeps_its_name_and_what_was_written() {
    let scene = Scene::new();
    fs::write(scene.file(), CONTENT).unwrap();
    let taken = scene.take(|| fs::write(scene.file(), "what somebody needs").unwrap());
    assert!(matches!(taken, Err(NotMoved::Exchanged)), "{taken:?}");
    assert_eq!(fs::read_to_string(scene.file()).unwrap(), "what somebody needs");
    assert_eq!(scene.quarantine.kept(), (Vec::new(), Vec::new()));
    assert_eq!(fs::read_dir(scene.folder.path()).unwrap().count(), 2, "nothing hidden is left");
}

#[test]
fn a_file_that_has_the_name_or_the_inode_of_one_that_was_moved_away_is_not_taken_for_it() {
    let scene = Scene::new();
    fs::write(scene.file(), CONTENT).unwrap();
    let sha256 = scene.take(|| {}).unwrap();
    let note = scene.forget_that_it_is_kept();
    fs::write(scene.file(), "another").unwrap();
    let inode = fs::metadata(scene.file()).unwrap().ino();
    let (id, _) = scene.notes().remove(0);
    scene.quarantine.note(&id, &Note { inode, ..note }).unwrap();
    scene.quarantine.recover();
    assert_eq!(scene.quarantine.kept().0.len(), 1);
    assert_eq!(fs::read_to_string(scene.file()).unwrap(), "another");
    fs::remove_file(scene.file()).unwrap();
    assert_eq!(scene.quarantine.restore(sha256), (vec![super::super::shown(&scene.file())], Vec::new()));
    assert_eq!(fs::read(scene.file()).unwrap(), CONTENT);
}

#[test]
fn what_was_cut_short_is_ended_by_whoever_asks_for_it_and_with_its_folder_all_of_it_is_here() {
    let scene = Scene::new();
    let below = scene.folder.path().canonicalize().unwrap().join("below");
    fs::write(scene.file(), CONTENT).unwrap();
    let sha256 = scene.take(|| {}).unwrap();
    let note = scene.forget_that_it_is_kept();
    let (id, _) = scene.notes().remove(0);
    let path = hex::encode(below.join("file").as_os_str().as_bytes());
    scene.quarantine.note(&id, &Note { path, ..note }).unwrap();
    let (done, failed) = scene.quarantine.restore(sha256);
    assert!(done.is_empty() && failed[0].contains("its folder cannot be reached"), "{failed:?}");
    assert_eq!(scene.notes()[0].1.state, State::Kept);
    assert_eq!(scene.quarantine.delete(sha256).0.len(), 1);
    assert!(scene.notes().is_empty());
}

#[test]
fn a_folder_that_cannot_be_listed_is_none_that_is_empty() {
    let scene = Scene::new();
    fs::write(scene.file(), CONTENT).unwrap();
    let sha256 = scene.take(|| {}).unwrap();
    let (folder, elsewhere) = (scene.quarantine.folder.clone(), scene.folder.path().join("elsewhere"));
    fs::rename(&folder, &elsewhere).unwrap();
    // A file in its place: listing fails.
    fs::write(&folder, "").unwrap();
    scene.quarantine.recover();
    assert!(!scene.quarantine.kept().1.is_empty());
    fs::remove_file(&folder).unwrap();
    fs::rename(&elsewhere, &folder).unwrap();
    scene.quarantine.recover();
    assert_eq!(scene.quarantine.restore(sha256).0.len(), 1);
}

#[test]
fn what_is_sealed_is_opened_whole_or_not_at_all() {
    let scene = Scene::new();
    for length in [0, 1, 65_535, 65_536, 65_537, 300_000] {
        let content: Vec<u8> = (0..length).map(|number: u32| number.to_le_bytes()[0]).collect();
        fs::write(scene.file(), &content).unwrap();
        let sha256 = scene.take(|| {}).unwrap();
        assert_eq!(sha256, Digest::of(&content));
        let (id, _) = scene.notes().remove(0);
        let sealed = scene.quarantine.folder.join(format!("{id}.sealed"));
        let bytes = fs::read(&sealed).unwrap();
        if !bytes.is_empty() {
            let mut spoilt = bytes.clone();
            spoilt[bytes.len() / 2] ^= 1;
            fs::write(&sealed, spoilt).unwrap();
            let (done, failed) = scene.quarantine.restore(sha256);
            assert!(done.is_empty() && failed[0].ends_with("damaged"), "{failed:?}");
            assert!(!scene.file().exists());
            fs::write(&sealed, bytes).unwrap();
        }
        assert_eq!(scene.quarantine.restore(sha256).0.len(), 1);
        assert_eq!(fs::read(scene.file()).unwrap(), content);
    }
}

#[test]
fn a_full_quarantine_takes_no_more_and_says_so_and_the_file_stays() {
    let scene = Scene::new();
    fs::write(scene.file(), CONTENT).unwrap();
    let _kept = scene.take(|| {}).unwrap();
    let (id, note) = scene.notes().remove(0);
    scene.quarantine.note(&id, &Note { bytes: MAX_BYTES, ..note }).unwrap();
    fs::write(scene.file(), CONTENT).unwrap();
    let taken = scene.take(|| {});
    let Err(NotMoved::Failed(why)) = taken else { panic!("{taken:?}") };
    assert!(why.contains("the quarantine is full: it holds 1 files"), "{why}");
    assert_eq!(fs::read(scene.file()).unwrap(), CONTENT);
    assert_eq!(scene.notes().len(), 1);
}
