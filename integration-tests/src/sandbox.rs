//! A sandbox that feeds a Control Manager: medallion, the reference server of TAXII 2.1.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use writ_common::keys::pem;
use writ_common::time::{Clock as _, SystemClock};
use writ_common::tls::TlsAuthority;

use crate::fleet::Fleet;
use crate::ports::free_port;
use crate::proxies::{PASSWORD, Proxy, USER};
use crate::python;

/// It answers until it is dropped.
#[derive(Debug)]
pub struct Sandbox {
    server: Proxy,
    folder: PathBuf,
}

/// Writes `ca.pem` into a folder, and what it vouches for: certificate and key of a web server of this host.
pub(crate) fn leaf(folder: &Path) -> [PathBuf; 2] {
    let now = SystemClock::new().wall();
    let authority = TlsAuthority::create("sandbox", now).unwrap();
    let leaf = authority.issue(&["localhost".to_owned(), "127.0.0.1".to_owned()], now).unwrap();
    let text = |label: &str, der: &[u8]| pem::encode(label, der).to_string();
    let [ca, certificate, key] = ["ca.pem", "tls.pem", "tls.key"].map(|name| folder.join(name));
    fs::write(ca, text("CERTIFICATE", &authority.certificate)).unwrap();
    fs::write(&certificate, text("CERTIFICATE", &leaf.chain[0])).unwrap();
    fs::write(&key, text("PRIVATE KEY", &leaf.key)).unwrap();
    [certificate, key]
}

impl Sandbox {
    /// Starts one with an empty collection.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(fleet: &Fleet) -> Self {
        let folder = fleet.path("sandbox");
        fs::create_dir(&folder).unwrap();
        let [certificate, key] = leaf(&folder);
        let password = folder.join("password");
        fs::write(&password, PASSWORD).unwrap();
        let _private = fleet.run_tool("chmod", &["600", &password.display().to_string()]).ok();
        let port = free_port();
        let places = [certificate, key, password].map(|path| path.display().to_string());
        let script = python::root().join("integration-tests/sandbox.py").display().to_string();
        let arguments = [&[script, "serve".to_owned(), port.to_string()][..], &places].concat();
        Self { server: Proxy::of_python(port, &arguments), folder }
    }

    /// The address of its collection.
    #[must_use]
    pub fn url(&self) -> String {
        let port = self.server.port;
        format!("https://localhost:{port}/analyses/collections/91a7b528-80eb-42ed-a74d-c6fbd5a26116/")
    }

    /// Where it listens, on the loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.port
    }

    /// Lines of a manager's configuration that have it read.
    #[must_use]
    pub fn config(&self, more: &str) -> String {
        let place = |name| self.folder.join(name).display().to_string();
        format!(
            "[sandbox]\ncollection = \"{}\"\nca = \"{}\"\nuser = \"{USER}\"\npassword_file = \"{}\"\n{more}\n",
            self.url(),
            place("ca.pem"),
            place("password")
        )
    }

    /// What an analysis found.
    ///
    /// # Panics
    /// When it is not taken.
    pub fn add(&self, objects: &[Value]) {
        let file = self.folder.join("found.json");
        fs::write(&file, json!({ "objects": objects }).to_string()).unwrap();
        let place = |name| self.folder.join(name).display().to_string();
        let (ca, password, file) = (place("ca.pem"), place("password"), file.display().to_string());
        let added = python::run("integration-tests/sandbox.py", &["add", &self.url(), &ca, &password, &file]);
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    }

    /// Everything it said.
    #[must_use]
    pub fn said(&self) -> String {
        self.server.said()
    }
}

/// An indicator of STIX 2.1 whose version has a number.
#[must_use]
pub fn indicator(number: u8, version: u8, pattern: &str, more: &Value) -> Value {
    let mut indicator = json!({
        "type": "indicator", "spec_version": "2.1",
        "id": format!("indicator--00000000-0000-4000-8000-0000000000{number:02x}"),
        "name": format!("finding {number}"), "created": "2026-01-01T00:00:00.000Z",
        "modified": format!("2026-01-01T00:00:{version:02}.000Z"), "pattern": pattern,
        "pattern_type": "stix", "valid_from": "2026-01-01T00:00:00Z"
    });
    if let (Some(indicator), Some(more)) = (indicator.as_object_mut(), more.as_object()) {
        indicator.extend(more.clone());
    }
    indicator
}
