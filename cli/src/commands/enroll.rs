//! `writ enroll token create`.

use serde::Serialize;
use writ_common::files;
use writ_proto::admin::v1::{CreateTokenRequest, CreateTokenResponse};

use crate::args::{Enroll, Format, Token};
use crate::client::Client;
use crate::failure::Failure;
use crate::output;

#[derive(Serialize)]
struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    token_id: String,
    uses: u32,
    expires_at: String,
}

pub(super) async fn run(format: Format, client: &Client, verb: Enroll) -> Result<(), Failure> {
    let Enroll::Token(Token::Create { uses, expires, realm, token_file }) = verb;
    // Before a token is made that could not be kept.
    if let Some(path) = &token_file {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if path.exists() || folder.is_some_and(|folder| !folder.is_dir()) {
            let why = if path.exists() { "it exists; name a new file" } else { "its folder does not exist" };
            return Err(Failure::local(format!("--token-file {}: {why}; no token was made", path.display())));
        }
    }
    let request = CreateTokenRequest { uses, expires_in_seconds: expires.as_secs(), realm };
    let answer = client.enrollment().create_token(request).await?.into_inner();
    let CreateTokenResponse { token, token_id, expires_at_ms, uses } = answer;
    let mut shown = Shown { token: None, token_id, uses, expires_at: output::time(expires_at_ms) };
    let Some(path) = token_file else {
        // Alone on standard output, so that it can be piped to `writ-agent enroll --token-file -`.
        return match format {
            Format::Table => output::text(&token),
            Format::Json => {
                shown.token = Some(token);
                output::one(format, &shown, &[])
            }
        };
    };
    files::write_secret(&path, token.as_bytes()).map_err(|error| Failure::local(error.to_string()))?;
    let fields = [
        ("token file", path.display().to_string()),
        ("token id", shown.token_id.clone()),
        ("uses", shown.uses.to_string()),
        ("until", shown.expires_at.clone()),
        ("next", format!("on the new host: writ-agent enroll --token-file {}", path.display())),
    ];
    output::one(format, &shown, &fields)
}
