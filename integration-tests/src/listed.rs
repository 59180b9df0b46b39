//! A fleet whose server gets lists from a repository in a folder.

use std::fmt::Write as _;
use std::fs;

use serde_json::Value;

use crate::daemon::Said;
use crate::fleet::Fleet;

/// What agents hold of a list of files.
pub const FILTER: &str = "file-reputation-filter";

/// The fleet, and that folder.
#[derive(Debug)]
pub struct Listed {
    /// The fleet.
    pub fleet: Fleet,
}

impl Listed {
    /// Over a fleet that is not made.
    ///
    /// # Panics
    /// When it is.
    #[must_use]
    pub fn over(mut fleet: Fleet) -> Self {
        let _made = fleet.init().ok();
        let passphrase = fleet.path("passphrase").display().to_string();
        let updates = format!(
            "[updates]\nurl = \"file://{}\"\nroot = \"{}\"\n",
            fleet.path("tuf").display(),
            fleet.path("tuf/metadata/1.root.json").display()
        );
        fleet.server_config.push_str(&updates);
        let listed = Self { fleet };
        let _made = listed.repo("init", &["--passphrase-file", &passphrase]);
        listed
    }

    /// Runs `repo` of the manager over the repository; what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn repo(&self, verb: &str, more: &[&str]) -> Value {
        let [repository, keys] = ["tuf", "keys"].map(|name| self.fleet.path(name).display().to_string());
        let places = ["repo", verb, "--output", "json", "--repository", &repository, "--keys", &keys];
        self.manager(&[places.as_slice(), more].concat()).json()
    }

    fn manager(&self, arguments: &[&str]) -> Said {
        let program = format!("writ-control-manager{}", self.fleet.suffix());
        self.fleet.run(&program, arguments).ok()
    }

    /// Publishes a list of so many digests with its filter, which has several pieces.
    ///
    /// # Panics
    /// When that fails.
    pub fn publish(&self, version: &str, count: u32) {
        let mut digests = String::new();
        for number in 0..count {
            writeln!(digests, "{number:032x}{:032x}", number.wrapping_mul(2_654_435_761)).unwrap();
        }
        self.publish_text(version, &digests);
    }

    /// Publishes a list of these digests with its filter.
    ///
    /// # Panics
    /// When that fails.
    pub fn publish_text(&self, version: &str, digests: &str) {
        self.publish_list(version, "sha256", ["file-reputation", FILTER], digests);
    }

    /// Publishes a list of these URLs with its filter.
    ///
    /// # Panics
    /// When that fails.
    pub fn publish_web(&self, version: &str, urls: &str) {
        self.publish_list(version, "url", ["web-reputation", "web-reputation-filter"], urls);
    }

    fn publish_list(&self, version: &str, kind: &str, components: [&str; 2], values: &str) {
        let [text, list, filter] =
            ["digests", "list", "filter"].map(|name| self.fleet.path(name).display().to_string());
        fs::write(&text, values).unwrap();
        let build = ["lists", "build", "--kind", kind, "--out", &list, "--filter", &filter, &text];
        let _built = self.manager(&build);
        for (component, file) in [(components[0], &list), (components[1], &filter)] {
            let _added = self.repo("add", &["--component", component, "--component-version", version, file]);
        }
        let _published = self.repo("publish", &[]);
    }

    /// Starts the server, for `writ` too.
    pub fn start(&mut self) {
        self.fleet.start_server(None);
        self.fleet.add_context();
    }
}
