//! What root's side knows of Debian packages: whose a program is, and how one is made of what is installed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use md5::{Digest as _, Md5};

use super::Place;
use super::host::{ENDS_WITHIN, INSTALLS_WITHIN, run};

/// Whether a component holds Debian packages.
pub(super) fn is_debian(component: &str) -> bool {
    component.starts_with("agent-deb-")
}

/// The Debian package that a file is of; `None`: of none.
pub(super) async fn owner_of(program: &Path) -> Result<Option<String>, String> {
    if !Path::new("/var/lib/dpkg/status").exists() {
        return Ok(None);
    }
    match run("dpkg-query", &["--search", &program.to_string_lossy()], &[], ENDS_WITHIN).await {
        Ok(found) => Ok(owner_in(&found)),
        Err(why) if why.contains("no path found") => Ok(None),
        Err(why) => Err(why),
    }
}

/// The package in what `dpkg-query --search` says: `writ-agent: /usr/bin/writ-agent`, or with an architecture
/// after the name.
fn owner_in(said: &str) -> Option<String> {
    let line = said.lines().find(|line| !line.starts_with("diversion "))?;
    let (name, _) = line.split_once(": ")?;
    Some(name.split(':').next().unwrap_or(name).to_owned())
}

/// How Debian is called for a processor; another one as the compiler calls it.
pub(super) const fn architecture() -> &'static str {
    match std::env::consts::ARCH.as_bytes() {
        b"x86_64" => "amd64",
        b"aarch64" => "arm64",
        _ => std::env::consts::ARCH,
    }
}

/// A version of a Debian package as its program says it: a tilde stands for the hyphen of a pre-release
/// (Debian Policy §5.6.12).
pub(super) fn upstream(version: &str) -> String {
    version.trim().replacen('~', "-", 1)
}

/// Makes a package of what is installed, so that the host's package manager can go back to it: the files, the
/// scripts and the fields that dpkg knows of it (dpkg-deb(1), deb(5)).
///
/// Files below `/etc` that the host's owner has changed are in no package, so that no package is what they
/// were changed from: dpkg leaves them alone then, and later.
pub(super) async fn pack_installed(name: &str, place: &Place) -> Result<(), String> {
    let tree = place.work().join("tree");
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| format!("{path}: {error}")
    };
    remove_tree(&tree)?;
    let control = tree.join("DEBIAN");
    fs::create_dir_all(&control).map_err(failed(&control))?;
    // dpkg-deb(1) takes no other.
    let readable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&control, readable).map_err(failed(&control))?;
    let status = run("dpkg-query", &["--status", name], &[], ENDS_WITHIN).await?;
    let configured = configured(&status);
    let (as_shipped, changed): (Vec<_>, Vec<_>) =
        configured.into_iter().partition(|(path, md5)| fs::read(path).is_ok_and(|now| md5_of(&now) == *md5));
    let listed = run("dpkg-query", &["--listfiles", name], &[], ENDS_WITHIN).await?;
    for path in listed.lines().filter(|line| line.starts_with('/') && *line != "/.").map(Path::new) {
        if !changed.iter().any(|(changed, _)| changed == path) {
            copy_into(path, &tree).map_err(failed(path))?;
        }
    }
    let file = control.join("control");
    fs::write(&file, control_of(&status)).map_err(failed(&file))?;
    let conffiles: String = as_shipped.iter().map(|(path, _)| format!("{}\n", path.display())).collect();
    let file = control.join("conffiles");
    fs::write(&file, conffiles).map_err(failed(&file))?;
    for part in ["preinst", "postinst", "prerm", "postrm"] {
        let from = run("dpkg-query", &["--control-path", name, part], &[], ENDS_WITHIN).await?;
        let from = PathBuf::from(from.trim());
        if !from.as_os_str().is_empty() {
            fs::copy(&from, control.join(part)).map_err(failed(&from))?;
        }
    }
    let (tree, to) = (tree.to_string_lossy(), place.previous());
    let words = ["--root-owner-group", "-Znone", "--build", &tree, &to.to_string_lossy()];
    run("dpkg-deb", &words, &[], INSTALLS_WITHIN).await?;
    // Its room is needed when something has to be put back.
    remove_tree(Path::new(&*tree))?;
    File::open(&to).and_then(|file| file.sync_all()).map_err(failed(&to))
}

pub(super) fn remove_tree(tree: &Path) -> Result<(), String> {
    match fs::remove_dir_all(tree) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{}: {error}", tree.display())),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The files of a package that its host's owner may change, with the MD5 of what was shipped
/// (deb-conffiles(5)).
fn configured(status: &str) -> Vec<(PathBuf, String)> {
    let rows = status.lines().skip_while(|line| !line.starts_with("Conffiles:")).skip(1);
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        Some((PathBuf::from(words.next()?), words.next()?.to_owned()))
    };
    rows.take_while(|line| line.starts_with(' ')).filter_map(row).collect()
}

fn md5_of(content: &[u8]) -> String {
    hex::encode(Md5::digest(content))
}

/// The fields of an installed package without those that say how it is installed.
fn control_of(status: &str) -> String {
    const OF_THE_HOST: [&str; 5] =
        ["Status:", "Conffiles:", "Config-Version:", "Triggers-Pending:", "Triggers-Awaited:"];
    let (mut control, mut is_kept) = (String::new(), true);
    for line in status.lines().filter(|line| !line.is_empty()) {
        if !line.starts_with(' ') {
            is_kept = !OF_THE_HOST.iter().any(|field| line.starts_with(field));
        }
        if is_kept {
            control.push_str(line);
            control.push('\n');
        }
    }
    control
}

/// Copies a file, link or folder of a package below another root. What is gone, such as a page of a manual on
/// a host that keeps none, is left out; a folder that the host's owner has put elsewhere is a folder in it.
fn copy_into(path: &Path, tree: &Path) -> io::Result<()> {
    let to = tree.join(path.strip_prefix("/").unwrap_or(path));
    if path.is_dir() {
        fs::create_dir_all(&to)?;
        return fs::set_permissions(&to, fs::metadata(path)?.permissions());
    }
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    if found.is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(path)?, &to);
    }
    // Never one that is there: it could be of the host.
    io::copy(&mut File::open(path)?, &mut File::create_new(&to)?)?;
    fs::set_permissions(&to, found.permissions())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dpkg_says_of_a_package_is_read_as_it_is_meant() {
        for (said, name) in [
            ("writ-agent: /usr/bin/writ-agent\n", Some("writ-agent")),
            ("writ-agent:amd64: /usr/bin/writ-agent\n", Some("writ-agent")),
            (
                "diversion by other from: /usr/bin/writ-agent\nwrit-agent: /usr/bin/writ-agent\n",
                Some("writ-agent"),
            ),
            ("", None),
        ] {
            assert_eq!(owner_in(said).as_deref(), name, "{said}");
        }
        let status = "Package: writ-agent\nStatus: install ok installed\nVersion: 0.1.0\nConffiles:\n /etc/writ/agent.toml d41d8cd98f00b204e9800998ecf8427e\n /etc/writ/old 00000000000000000000000000000000 obsolete\nDescription: obeys\n more\n";
        assert_eq!(control_of(status), "Package: writ-agent\nVersion: 0.1.0\nDescription: obeys\n more\n");
        let files = configured(status);
        assert_eq!(files[0], (PathBuf::from("/etc/writ/agent.toml"), md5_of(b"")));
        assert_eq!(files.len(), 2);
        assert_eq!(upstream("0.2.0~rc.1\n"), "0.2.0-rc.1");
    }

    #[test]
    fn a_copy_of_a_package_never_writes_to_the_host() {
        let folder = tempfile::TempDir::new().unwrap();
        let (host, tree) = (folder.path().join("host"), folder.path().join("tree"));
        fs::create_dir_all(host.join("srv/writ")).unwrap();
        fs::write(host.join("srv/writ/agent.toml"), "mine").unwrap();
        // The host's owner has put the folder elsewhere.
        std::os::unix::fs::symlink(host.join("srv/writ"), host.join("writ")).unwrap();
        for path in ["writ", "writ/agent.toml", "gone"] {
            copy_into(&host.join(path), &tree).unwrap();
        }
        let copied = tree.join(host.strip_prefix("/").unwrap()).join("writ");
        assert!(!fs::symlink_metadata(&copied).unwrap().is_symlink());
        assert_eq!(fs::read(copied.join("agent.toml")).unwrap(), b"mine");
        assert_eq!(fs::read(host.join("srv/writ/agent.toml")).unwrap(), b"mine");
        copy_into(&host.join("writ/agent.toml"), &tree).unwrap_err();
    }
}
