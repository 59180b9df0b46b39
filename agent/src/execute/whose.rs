//! Who could change what stands at a path: all who may write the file, a folder on the way to it, or a link
//! that leads there.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use writ_common::users;

/// Links followed on one way, as the kernel does (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// Mode bit: in such a folder nobody touches what is another's, as in /tmp.
const STICKY: u32 = 0o1000;

/// Who but root and this user may change what stands at a path, and so run what they like; and what mends
/// that. Every component is looked at, of each link and of what it leads to. `None` if nobody may, or if
/// there is nothing.
pub(super) fn others_may_change(path: &Path, uid: u32) -> Option<String> {
    let (mut here, mut links) = (PathBuf::from("/"), 0);
    let mut left: VecDeque<OsString> = names(path);
    loop {
        let found = here.symlink_metadata().ok()?;
        if found.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                return Some(format!("leads over more than {MAX_LINKS} links at {}", here.display()));
            }
            // Where anybody may put a link, it is judged by who did.
            if let Some(fault) = owner_fault(&here, &found, uid) {
                return Some(fault);
            }
            let to = here.read_link().ok()?;
            here.pop();
            if to.is_absolute() {
                here = PathBuf::from("/");
            }
            names(&to).into_iter().rev().for_each(|name| left.push_front(name));
        } else if let Some(fault) = fault(&here, &found, uid) {
            return Some(fault);
        }
        match left.pop_front() {
            None => return None,
            Some(name) if name == ".." => {
                here.pop();
            }
            Some(name) => here.push(name),
        }
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    let named = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(named).collect()
}

fn fault(path: &Path, found: &Metadata, uid: u32) -> Option<String> {
    let mode = found.permissions().mode();
    let keeps = found.is_dir() && mode & STICKY != 0;
    if mode & 0o022 != 0 && !keeps {
        let shown = path.display();
        let whose = if found.is_dir() { "its folder " } else { "" };
        return Some(format!(
            "others may write {whose}{shown}, and with it run what they like; run: chmod go-w {shown}"
        ));
    }
    owner_fault(path, found, uid)
}

fn owner_fault(path: &Path, found: &Metadata, uid: u32) -> Option<String> {
    (found.uid() != 0 && found.uid() != uid).then(|| {
        let (owner, shown) = (users::name_of(found.uid()), path.display());
        format!("{shown} belongs to {owner}, who may write it, and with it run what they like; run: chown -h root {shown}")
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn each_folder_and_link_on_the_way_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let own = users::own_uid();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::create_dir(at("c")).unwrap();
        fs::write(at("a/b/tool"), "").unwrap();
        symlink("../a/b/tool", at("c/link")).unwrap();
        symlink(at("c"), at("d")).unwrap();
        let through = at("d/link");
        assert_eq!(others_may_change(&through, own), None);
        for open in ["a", "a/b", "c", "a/b/tool"] {
            let before = fs::metadata(at(open)).unwrap().permissions().mode();
            mode(&at(open), before | 0o020);
            let fault = others_may_change(&through, own).unwrap();
            assert!(fault.contains(&format!("chmod go-w {}", at(open).display())), "{open}: {fault}");
            mode(&at(open), before);
        }
        // In a sticky folder others put things of their own, and cannot touch these.
        mode(&at("c"), 0o1777);
        assert_eq!(others_may_change(&through, own), None);
        symlink("round", at("round")).unwrap();
        assert!(others_may_change(&at("round"), own).unwrap().contains("more than 40 links"));
        assert_eq!(others_may_change(&at("nowhere/at/all"), own), None, "there is nothing");
    }

    #[test]
    fn what_belongs_to_somebody_else_is_named_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let tool = folder.path().join("tool");
        fs::write(&tool, "").unwrap();
        let own = users::own_uid();
        if own == 0 {
            std::os::unix::fs::chown(&tool, Some(65_534), None).unwrap();
            let fault = others_may_change(&tool, 0).unwrap();
            assert!(fault.contains("belongs to nobody") && fault.contains("chown -h root"), "{fault}");
        } else {
            assert!(others_may_change(&tool, own + 1).unwrap().contains("belongs to"));
        }
    }
}
