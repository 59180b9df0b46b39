//! A collection of TAXII 2.1, section 5.4: its objects, page by page.

use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION};
use http::{HeaderName, HeaderValue, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde::de::IgnoredAny;
use url::form_urlencoded::Serializer;
use writ_common::net::basic;
use writ_common::text::quoted;
use writ_common::web::WebFolder;
use zeroize::Zeroizing;

/// What is asked for in one page. A server may give fewer.
const PAGE: u32 = 1000;
/// Bytes of a page.
const MAX_PAGE_BYTES: usize = 16 << 20;
/// How long a page may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// The kind of text that TAXII is.
const TAXII: &str = "application/taxii+json;version=2.1";
/// When the last object of a page was added.
const ADDED_LAST: &str = "x-taxii-date-added-last";
/// Characters of what a server says of itself, in a message of ours.
const MAX_SHOWN: usize = 120;

/// A collection of a server.
pub(super) struct Collection {
    folder: WebFolder,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// A page of its objects.
pub(super) struct Page {
    /// The envelope, as it came; `None`: there are no objects in it.
    pub text: Option<Vec<u8>>,
    /// When the last of them was added, in the server's words; empty if it does not say.
    pub added_last: String,
    /// Whether there are more.
    pub more: bool,
    /// How they are asked for; empty if it does not say.
    pub next: String,
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    objects: Option<IgnoredAny>,
    #[serde(default)]
    more: bool,
    #[serde(default)]
    next: Option<String>,
}

impl Collection {
    pub(super) fn new(
        folder: WebFolder,
        login: Option<(String, Zeroizing<Vec<u8>>)>,
    ) -> Result<Self, String> {
        let mut headers = vec![(ACCEPT, HeaderValue::from_static(TAXII))];
        if let Some((user, password)) = login {
            let password = std::str::from_utf8(&password).unwrap_or_default().trim_end_matches(['\r', '\n']);
            if password.is_empty() {
                return Err("the file of the password is empty, or no text".to_owned());
            }
            let header = HeaderValue::try_from(basic(&user, password).as_str());
            let mut header = header.map_err(|_| "the password cannot stand in a header".to_owned())?;
            header.set_sensitive(true);
            headers.push((AUTHORIZATION, header));
        }
        Ok(Self { folder, headers })
    }

    /// The indicators that were added after a time, both as the server says them; empty: from the beginning.
    ///
    /// # Errors
    /// What went wrong, and what to do.
    pub(super) async fn page(&self, added_after: &str, next: &str) -> Result<Page, String> {
        let below = question(added_after, next);
        let asked = async {
            let answer = self.folder.get(&below, &self.headers).await.map_err(|error| error.to_string())?;
            let status = answer.status();
            if status != StatusCode::OK {
                return Err(format!("the sandbox answers {}{}", status.as_u16(), hint(status)));
            }
            let last = answer.headers().get(ADDED_LAST).and_then(|value| value.to_str().ok());
            let last = last.unwrap_or_default().to_owned();
            let body = Limited::new(answer.into_body(), MAX_PAGE_BYTES).collect().await;
            let text = body.map_err(|error| format!("a page of the sandbox did not come whole: {error}"))?;
            Ok((text.to_bytes().to_vec(), last))
        };
        let slow = |_| format!("a page of the sandbox takes longer than {PATIENCE:?}");
        let (text, added_last) = tokio::time::timeout(PATIENCE, asked).await.map_err(slow)??;
        let Envelope { objects, more, next } = serde_json::from_slice(&text).map_err(|error| {
            let begin: String = String::from_utf8_lossy(&text).chars().take(MAX_SHOWN).collect();
            let error = quoted(&error.to_string());
            format!("the sandbox does not answer as TAXII: {error}: `{}`", begin.escape_debug())
        })?;
        if added_last.len() > MAX_SHOWN || added_last.chars().any(char::is_control) {
            return Err("the sandbox says a time that is none".to_owned());
        }
        let text = objects.is_some().then_some(text);
        Ok(Page { text, added_last, more, next: next.unwrap_or_default() })
    }
}

/// Which page is asked for.
fn question(added_after: &str, next: &str) -> String {
    let mut query = Serializer::new(String::new());
    query.append_pair("match[type]", "indicator").append_pair("limit", &PAGE.to_string());
    if !added_after.is_empty() {
        query.append_pair("added_after", added_after);
    }
    if !next.is_empty() {
        query.append_pair("next", next);
    }
    format!("objects/?{}", query.finish())
}

fn hint(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => ": correct sandbox.user and sandbox.password_file",
        StatusCode::FORBIDDEN => ": this user may not read the collection",
        StatusCode::NOT_FOUND => ": there is no such collection; it is https://HOST/API-ROOT/collections/ID/",
        StatusCode::NOT_ACCEPTABLE | StatusCode::UNSUPPORTED_MEDIA_TYPE => ": it does not speak TAXII 2.1",
        status if status.is_redirection() => ": redirects are not followed; give the address it leads to",
        _ => "",
    }
}
