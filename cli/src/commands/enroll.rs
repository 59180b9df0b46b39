//! `writ enroll token`.

use serde::Serialize;
use writ_proto::admin::v1::{
    CreateTokenRequest, CreateTokenResponse, EnrollmentToken, ListTokensRequest, RevokeTokenRequest,
};

use super::PAGE;
use crate::args::{Enroll, Format, Token};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Rows};
use crate::secret::NewSecretFile;

#[derive(Serialize)]
struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    token_id: String,
    uses: u32,
    expires_at: String,
}

pub(super) async fn run(format: Format, client: &Client, verb: Enroll) -> Result<(), Failure> {
    let Enroll::Token(verb) = verb;
    match verb {
        Token::Create { token_file: Some(file), if_new: true, .. } if file.exists() => {
            writ_common::say::aside(format_args!("{} is there already; no token was made", file.display()));
            Ok(())
        }
        Token::Create { uses, expires, realm, token_file, .. } => {
            let file = token_file.map(NewSecretFile::check).transpose()?;
            let request = CreateTokenRequest { uses, expires_in_seconds: expires.as_secs(), realm };
            create(format, client, request, file).await
        }
        Token::List => list(format, client).await,
        Token::Revoke { id } => {
            let request = RevokeTokenRequest { token_id: id };
            let row = row(client.enrollment().revoke_token(request).await?.into_inner());
            let fields = [("token id", row.token_id.clone()), ("revoked", row.revoked_at.clone())];
            output::one(format, &row, &fields)
        }
    }
}

async fn create(
    format: Format,
    client: &Client,
    request: CreateTokenRequest,
    file: Option<NewSecretFile>,
) -> Result<(), Failure> {
    let answer = client.enrollment().create_token(request).await?.into_inner();
    let CreateTokenResponse { token, token_id, expires_at_ms, uses } = answer;
    let mut shown = Shown { token: None, token_id, uses, expires_at: output::time(expires_at_ms) };
    let Some(file) = file else {
        // Alone on standard output, so that it can be piped to `writ-agent enroll --token-file -`.
        return match format {
            Format::Table | Format::Wide => output::text(&token),
            Format::Json | Format::Jsonl | Format::Csv => {
                shown.token = Some(token);
                output::one(format, &shown, &[])
            }
        };
    };
    let path = file.write(&token)?;
    let fields = [
        ("token file", path.display().to_string()),
        ("token id", shown.token_id.clone()),
        ("uses", shown.uses.to_string()),
        ("until", shown.expires_at.clone()),
        ("next", format!("on the new host: writ-agent enroll --token-file {}", path.display())),
    ];
    output::one(format, &shown, &fields)
}

#[derive(Serialize)]
struct Row {
    token_id: String,
    realm: String,
    uses: u32,
    used: u32,
    expires_at: String,
    revoked_at: String,
    created_by: String,
}

impl Rows for Row {
    const HEAD: &'static [&'static str] = &["TOKEN", "REALM", "USED", "UNTIL", "REVOKED", "BY"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.token_id.get(..16).unwrap_or(&self.token_id).to_owned(),
            self.realm.clone(),
            format!("{} of {}", self.used, self.uses),
            self.expires_at.clone(),
            self.revoked_at.clone(),
            self.created_by.clone(),
        ]
    }
}

async fn list(format: Format, client: &Client) -> Result<(), Failure> {
    let (mut rows, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListTokensRequest { page_size: PAGE, page_token };
        let page = client.enrollment().list_tokens(request).await?.into_inner();
        rows.extend(page.tokens.into_iter().map(row));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            let next = client.typed("writ enroll token create");
            return output::list(format, &rows, &format!("No token was made yet. Next: {next}"));
        }
    }
}

fn row(token: EnrollmentToken) -> Row {
    let EnrollmentToken { token_id, realm, uses, used, expires_at_ms, created_by, revoked_at_ms } = token;
    let revoked_at = if revoked_at_ms == 0 { String::new() } else { output::time(revoked_at_ms) };
    Row { token_id, realm, uses, used, expires_at: output::time(expires_at_ms), revoked_at, created_by }
}
