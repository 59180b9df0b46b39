//! `writ-agent enroll`.

use std::io::Read as _;
use std::path::Path;

use serde::Serialize;
use writ_common::daemon::Fatal;
use writ_common::files;
use writ_common::net::Proxy;
use writ_common::say;
use writ_common::text::secret_line;
use writ_protocol::facts::is_plain_name;
use writ_protocol::identity::EnrolmentToken;
use writ_protocol::keys::Algorithm;
use writ_protocol::keys::public::PublicKey;

use super::{Enroll, Output};
use crate::config::Config;
use crate::identity::Files;
use crate::link::{self, Enrolled, NewAgent};

/// A token is never longer; more on standard input is not read.
const MAX_TOKEN_BYTES: u64 = 16 << 10;

#[derive(Serialize)]
struct Shown {
    agent_id: String,
    name: String,
    realm: String,
    fleet_id: String,
    key_id: String,
    bundle_version: u64,
}

pub(super) async fn enroll(options: Enroll) -> Result<(), Fatal> {
    let Enroll { place, token_file, name, key_algorithm, output } = options;
    let config = Config::load(place.config.as_deref(), place.data_dir.as_deref()).map_err(Fatal::usage)?;
    let files = Files::new(&config.data_dir);
    let Enrolled { record, bundle_version } =
        with_token(&files, &token_file, name, key_algorithm, config.proxy.as_ref()).await?;
    let key_id = PublicKey::id(&record.public_key).to_string();
    let shown = Shown {
        agent_id: record.agent.to_string(),
        name: record.name,
        realm: record.realm,
        fleet_id: record.fleet.to_string(),
        key_id,
        bundle_version,
    };
    let text = match output {
        Output::Json => serde_json::to_string_pretty(&shown).map_err(Fatal::failure)?,
        Output::Text => format!(
            "Enrolled as {} ({}) in fleet {}, realm {}, trust bundle {}.\nNext: {}",
            shown.name,
            shown.agent_id,
            shown.fleet_id,
            shown.realm,
            shown.bundle_version,
            place.start().how()
        ),
    };
    say::result(text).map_err(Fatal::failure)
}

/// Reads the token, and enrols this host under this name or its own.
pub(super) async fn with_token(
    files: &Files,
    token_file: &Path,
    name: Option<String>,
    algorithm: Algorithm,
    proxy: Option<&Proxy>,
) -> Result<Enrolled, Fatal> {
    let text = if token_file.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().take(MAX_TOKEN_BYTES).read_to_end(&mut bytes).map_err(Fatal::usage)?;
        secret_line(&bytes).map_err(|why| Fatal::usage(format!("standard input: {why}")))?
    } else {
        files::secret_line(token_file).map_err(Fatal::usage)?
    };
    let token = EnrolmentToken::from_text(&text)
        .map_err(|error| Fatal::usage(format!("the token {}", error.rule)))?;
    let host_name = match name {
        Some(name) => name,
        None => host_name()?,
    };
    if !is_plain_name(&host_name) {
        let rule = "it must have 1 to 128 of A-Z, a-z, 0-9, `.`, `_` and `-`";
        return Err(Fatal::usage(format!("the name `{host_name}`: {rule}; give one with --name")));
    }
    let host = NewAgent { name: &host_name, algorithm, proxy };
    let enrolled = link::enroll(files, &token, host).await;
    enrolled.map_err(|error| Fatal::caused("not enrolled", &error))
}

/// What a kernel says whom nobody gave a name, and what many hosts are called.
const NOBODYS: [&str; 5] = ["", "(none)", "localhost", "localhost.localdomain", "localhost6.localdomain6"];

fn host_name() -> Result<String, Fatal> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if NOBODYS.contains(&name.as_str()) {
        return Err(Fatal::usage(format!(
            "this host has no name of its own (it is called `{name}`), and operators would not tell it from others; give one with --name, or name the host: hostnamectl hostname NAME"
        )));
    }
    Ok(name)
}
