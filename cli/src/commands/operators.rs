//! `writ operator`.

use serde::Serialize;
use writ_proto::admin::v1::{
    CreateOperatorRequest, ListOperatorsRequest, Operator as Known, OperatorRole, RevokeOperatorRequest,
};

use super::PAGE;
use crate::args::{Format, Operator, Role};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Rows};
use crate::secret::NewSecretFile;

#[derive(Serialize)]
struct Row {
    name: String,
    role: &'static str,
    created_at: String,
    revoked_at: String,
    expires_at: String,
    selector: String,
    actions: Vec<String>,
}

impl Row {
    /// What limits the token.
    fn scope(&self) -> String {
        let actions = (!self.actions.is_empty()).then(|| self.actions.join(","));
        let selector = (!self.selector.is_empty()).then(|| format!("on {}", self.selector));
        let parts: Vec<_> = actions.into_iter().chain(selector).collect();
        parts.join(" ")
    }
}

impl Rows for Row {
    const HEAD: &'static [&'static str] = &["NAME", "ROLE", "EXPIRES", "REVOKED", "SCOPE"];
    const WIDE: &'static [&'static str] = &["NAME", "ROLE", "EXPIRES", "REVOKED", "SCOPE", "SINCE"];

    fn cells(&self) -> Vec<String> {
        let Self { name, role, expires_at, revoked_at, .. } = self;
        vec![name.clone(), (*role).to_owned(), expires_at.clone(), revoked_at.clone(), self.scope()]
    }

    fn wide(&self) -> Vec<String> {
        self.cells().into_iter().chain([self.created_at.clone()]).collect()
    }
}

#[derive(Serialize)]
struct Created {
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    name: String,
    role: &'static str,
    expires_at: String,
}

pub(super) async fn run(format: Format, client: &Client, verb: Operator) -> Result<(), Failure> {
    match verb {
        Operator::Create { name, role, expires, selector, actions, token_file } => {
            let request = CreateOperatorRequest {
                name,
                role: wire(role).into(),
                expires_in_seconds: expires.map_or(0, |expires| expires.as_secs().max(1)),
                selector: selector.unwrap_or_default(),
                actions,
            };
            create(format, client, request, token_file).await
        }
        Operator::List => {
            let (mut rows, mut page_token) = (Vec::new(), String::new());
            loop {
                let request = ListOperatorsRequest { page_size: PAGE, page_token };
                let page = client.operators().list(request).await?.into_inner();
                rows.extend(page.operators.into_iter().map(row));
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    return output::list(format, &rows, "Nobody, which cannot be: you are one.");
                }
            }
        }
        Operator::Revoke { name } => {
            let row = row(client.operators().revoke(RevokeOperatorRequest { name }).await?.into_inner());
            let next = format!(
                "what it sent before goes on: writ commands list --by {}; writ rollouts list",
                row.name
            );
            let fields = [("name", row.name.clone()), ("revoked", row.revoked_at.clone()), ("next", next)];
            output::one(format, &row, &fields)
        }
    }
}

const fn wire(role: Role) -> OperatorRole {
    match role {
        Role::Viewer => OperatorRole::Viewer,
        Role::Operator => OperatorRole::Operator,
        Role::KeyAdmin => OperatorRole::KeyAdmin,
        Role::Admin => OperatorRole::Admin,
    }
}

async fn create(
    format: Format,
    client: &Client,
    request: CreateOperatorRequest,
    token_file: Option<std::path::PathBuf>,
) -> Result<(), Failure> {
    let file = token_file.map(NewSecretFile::check).transpose()?;
    let answer = client.operators().create(request).await?.into_inner();
    let known = row(answer.operator.unwrap_or_default());
    let (expires, scope) = (known.expires_at.clone(), known.scope());
    let mut created =
        Created { token: None, name: known.name, role: known.role, expires_at: known.expires_at };
    let Some(file) = file else {
        return match format {
            Format::Table | Format::Wide => output::text(&answer.token),
            Format::Json | Format::Jsonl | Format::Csv => {
                created.token = Some(answer.token);
                output::one(format, &created, &[])
            }
        };
    };
    let path = file.write(&answer.token)?;
    let fields = [
        ("operator", created.name.clone()),
        ("role", created.role.to_owned()),
        ("expires", expires),
        ("scope", if scope.is_empty() { "what the role allows".to_owned() } else { scope }),
        ("token file", path.display().to_string()),
        ("next", "hand it over with the CA file of this context (writ context list); they run: writ context add NAME --server HOST:PORT --ca FILE --token-file FILE".to_owned()),
    ];
    output::one(format, &created, &fields)
}

fn row(known: Known) -> Row {
    let role = match known.role() {
        OperatorRole::Unspecified => "unknown",
        OperatorRole::Viewer => "viewer",
        OperatorRole::Operator => "operator",
        OperatorRole::KeyAdmin => "key-admin",
        OperatorRole::Admin => "admin",
    };
    let revoked_at = if known.revoked_at_ms == 0 { String::new() } else { output::time(known.revoked_at_ms) };
    Row {
        name: known.name,
        role,
        created_at: output::time(known.created_at_ms),
        revoked_at,
        expires_at: output::time(known.expires_at_ms),
        selector: known.selector,
        actions: known.actions,
    }
}
