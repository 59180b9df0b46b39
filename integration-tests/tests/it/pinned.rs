//! What is generated for people is in the tree and current. `UPDATE=1` writes it anew.

use integration_tests::python::root;
use writ_protocol::refusal::{Audible, RefusalCode};
use writ_server::AlertKind;

/// Compares a file of the tree with what it has to hold; `UPDATE=1` writes it.
pub(crate) fn pinned(path: &str, expected: &[u8]) {
    let path = root().join(path);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let stored = std::fs::read(&path).unwrap_or_default();
    assert!(stored == expected, "{} is not current; run: make update", path.display());
}

#[test]
fn descriptor_set_is_pinned_so_that_a_wire_change_shows() {
    pinned("proto/vectors/descriptors.binpb", writ_proto::DESCRIPTORS);
}

#[test]
fn refusals_page_is_current() {
    let mut page = String::from(
        "# Refusals\n\nGenerated from `protocol/src/refusal.rs`; `make update` writes it.\n\n\
         Codes are stable: programs may rely on them. Each has vectors under `proto/vectors/refuse/`, \
         but for `journal_failed`, which needs a broken disk.\n\n\
         Rules that ask operators to approve have no command yet: \
         agents follow such bundles, this version's programs do not make them.\n",
    );
    for (audible, title, text) in [
        (
            Audible::Silent,
            "Silent",
            "No action and no answer; the agent counts them, reports them signed, and `writ alerts` shows them.",
        ),
        (
            Audible::Answered,
            "Answered",
            "The agent starts nothing and says so at once in a signed receipt; `writ commands show` shows it.",
        ),
        (
            Audible::Session,
            "Bundles and sessions",
            "The agent stays with the trust it has and tries again; counted and reported like silent ones.",
        ),
    ] {
        page.push_str(&format!("\n## {title}\n\n{text}\n"));
        for code in RefusalCode::ALL.iter().filter(|code| code.audible() == audible) {
            page.push_str(&format!(
                "\n### `{code}`\n\n{}\n\n*What to do:* {}\n",
                code.meaning(),
                code.cure()
            ));
        }
    }
    pinned("docs/refusals.md", page.as_bytes());
}

#[test]
fn alerts_page_is_current() {
    let mut page = String::from(
        "# Alerts\n\nGenerated from `server/src/store/rows/alert_kind.rs`; `make update` writes it.\n\n\
         What `writ alerts` shows and `writ_alerts_total` counts. Names are stable: programs may rely on them. One row stands for all \
         of one name, code and agent; a flood raises its count. An alert is open until \
         its cause is gone, where the server can tell, or somebody says that they have seen to it: `writ alerts ack NUMBER --note TEXT`. Raised \
         again, it is open again. `--all` shows all of them, `--since 1d` those of a time. Which of them should wake somebody is in \
         [alerts.yaml](../deploy/prometheus/alerts.yaml).\n",
    );
    for kind in AlertKind::ALL {
        let (name, meaning, cure) = (kind.as_str(), kind.meaning().trim(), kind.cure());
        page.push_str(&format!("\n## `{name}`\n\n{meaning}\n\n*What to do:* {cure}\n"));
    }
    pinned("docs/alerts.md", page.as_bytes());
}

#[test]
fn the_binaries_depend_on_the_shared_crates_and_never_on_one_another() {
    for (package, own) in [
        ("server", "writ-server"),
        ("agent", "writ-agent"),
        ("control-manager", "writ-control-manager"),
        ("cli", "writ"),
        ("lists", "writ-lists"),
        ("objects", "writ-objects"),
        ("updates", "writ-updates"),
        ("database", "writ-database"),
        ("common", "writ-common"),
        ("protocol", "writ-protocol"),
    ] {
        let manifest = std::fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
        let programs = ["writ-server", "writ-agent", "writ-control-manager"];
        for other in programs.iter().filter(|other| **other != own) {
            let is_dependency = manifest
                .lines()
                .any(|line| line.starts_with(&format!("{other}.")) || line.starts_with(&format!("{other} ")));
            assert!(!is_dependency, "{package} depends on {other}");
        }
    }
}

#[test]
fn an_image_is_built_from_every_package_of_the_workspace() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let ignored = std::fs::read_to_string(root().join("deploy/docker/Dockerfile.dockerignore")).unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap();
    assert!(members.len() > 1, "{members:?}");
    for member in members {
        let kept = format!("!{}", member.as_str().unwrap());
        assert!(ignored.lines().any(|line| line == kept), "Dockerfile.dockerignore lacks {kept}");
    }
}
