//! Repositories of components: made by python-tuf, or by our own command, and held by nginx.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::daemon::Said;
use crate::fleet::Fleet;
use crate::proxies::Proxy;
use crate::python;

/// A repository that python-tuf made, with one component `tool`, version 1, whose content is `one`.
#[derive(Debug)]
pub struct TufRepository {
    /// Where it is.
    pub folder: PathBuf,
}

impl TufRepository {
    /// Makes one.
    #[must_use]
    pub fn make(folder: PathBuf) -> Self {
        let made = Self { folder };
        made.python("make", &[]);
        made
    }

    /// Runs a verb of `repositories.py` on it.
    ///
    /// # Panics
    /// When it fails.
    pub fn python(&self, verb: &str, more: &[&str]) {
        let folder = self.folder.display().to_string();
        let arguments = [&[verb, folder.as_str()], more].concat();
        let done = python::run("integration-tests/repositories.py", &arguments);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// Offers a version of the component.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn offer(&self, version: &str, content: &str) {
        let file = self.folder.with_extension("offer");
        fs::write(&file, content).unwrap();
        self.python("offer", &[version, file.to_str().unwrap()]);
    }

    /// A copy of it with its keys, for an enemy to work on.
    ///
    /// # Panics
    /// When it cannot be copied.
    #[must_use]
    pub fn copied(&self, fleet: &Fleet, name: &str) -> Self {
        let to = self.folder.with_file_name(name);
        for suffix in ["", ".keys"] {
            let place = |path: &Path| format!("{}{suffix}", path.display());
            let _ = fs::remove_dir_all(place(&to));
            let _copied = fleet.run_tool("cp", &["-r", &place(&self.folder), &place(&to)]).ok();
        }
        Self { folder: to }
    }

    /// Its first root.
    #[must_use]
    pub fn root(&self) -> String {
        self.folder.join("metadata/1.root.json").display().to_string()
    }
}

impl Fleet {
    /// Sets the source of the server's updates to an address, with a root that is pinned.
    #[must_use]
    pub fn update_from(&self, url: &str, root: &str) -> Said {
        self.keys(&["updates", "source", "set", "custom", "--url", url, "--root", root])
    }

    /// Calls a method of the admin port, by its service and name, as an operator without `writ` does.
    ///
    /// # Panics
    /// When there is no server.
    #[must_use]
    pub fn call(&self, method: &str, message: &str) -> Said {
        let ca = self.path("server/admin-ca.pem").display().to_string();
        let token = fs::read_to_string(self.path("server/admin-token")).unwrap();
        let header = format!("authorization: Bearer {}", token.trim());
        let (place, method) = (format!("localhost:{}", self.admin_port()), format!("writ.admin.v1.{method}"));
        self.run_python_tool("grpcurl", &["-cacert", &ca, "-H", &header, "-d", message, &place, &method])
    }

    /// The version and the content of a component that is in force.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn component(&self, name: &str) -> (String, String) {
        let shelf = fs::read_to_string(self.path("server/updates/active.json")).unwrap();
        let shelf: Value = serde_json::from_str(&shelf).unwrap();
        let active = &shelf[name]["active"];
        let place = format!("server/updates/components/{name}/{}", active["sha256"].as_str().unwrap());
        let content = fs::read(self.path(&place)).unwrap();
        (active["version"].as_str().unwrap().to_owned(), String::from_utf8_lossy(&content).into_owned())
    }
}

/// The address of a folder that nginx holds.
#[must_use]
pub fn address(web: &Proxy, folder: &str) -> String {
    format!("http://127.0.0.1:{}/{folder}/", web.port)
}
