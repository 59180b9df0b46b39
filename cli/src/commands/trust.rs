//! `writ trust`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use writ_common::csv::{self, MISMATCHED};
use writ_proto::admin::v1::{
    BehindRow, BundleHolders, CertificateRow, CertificateStanding, Convergence, GetConvergenceRequest,
    ListBehindRequest, ListBundlesRequest, ListCertificatesRequest,
};

use super::PAGE;
use crate::args::{Format, Trust};
use crate::client::Client;
use crate::failure::Failure;
use crate::output::{self, Rows};
use crate::progress::Progress;

/// How often `--watch` looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Not all agents hold the newest bundle.
const EXIT_BEHIND: u8 = 6;

#[derive(Serialize)]
struct Shown {
    chain_version: u64,
    chain_digest: String,
    signing_key_id: String,
    agents: u64,
    newest: u64,
    obeying: u64,
    groups: Vec<Group>,
    behind: Vec<Behind>,
    strangers: Vec<Stranger>,
}

#[derive(Serialize)]
struct Group {
    version: u64,
    digest: String,
    realm: String,
    agents: u64,
    refusal_code: String,
    known: bool,
}

impl Rows for Group {
    const HEAD: &'static [&'static str] = &["BUNDLE", "REALM", "AGENTS", "OBEY THE KEY THAT SIGNS NOW"];

    fn cells(&self) -> Vec<String> {
        let bundle = match (self.version, self.known) {
            (0, _) => "not said yet".to_owned(),
            (version, true) => version.to_string(),
            (version, false) => format!("{version}, unknown here"),
        };
        let obeys = if self.refusal_code.is_empty() { "yes" } else { &self.refusal_code };
        vec![bundle, self.realm.clone(), self.agents.to_string(), obeys.to_owned()]
    }
}

#[derive(Serialize)]
struct Behind {
    agent_id: String,
    agent_name: String,
    host_name: String,
    address: String,
    bundle_version: u64,
    key_id: String,
    expected_key_id: String,
    reason: String,
    last_contact: String,
    connected: bool,
}

impl Rows for Behind {
    const HEAD: &'static [&'static str] = &["NAME", "BUNDLE", "LAST CONTACT", "REASON"];
    const WIDE: &'static [&'static str] =
        &["NAME", "BUNDLE", "LAST CONTACT", "REASON", "HOST", "ADDRESS", "AGENT"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.agent_name.clone(),
            self.bundle_version.to_string(),
            self.last_contact.clone(),
            self.reason.clone(),
        ]
    }

    fn wide(&self) -> Vec<String> {
        let more = [self.host_name.clone(), self.address.clone(), self.agent_id.clone()];
        self.cells().into_iter().chain(more).collect()
    }
}

#[derive(Serialize)]
struct Stranger {
    address: String,
    bundle_version: u64,
    bundle_digest: String,
    asked: u64,
    last_at: String,
}

impl Rows for Stranger {
    const HEAD: &'static [&'static str] = &["ADDRESS", "BUNDLE", "DIGEST", "ASKED", "LAST"];

    fn cells(&self) -> Vec<String> {
        let digest = self.bundle_digest.get(..16).unwrap_or(&self.bundle_digest).to_owned();
        vec![
            self.address.clone(),
            self.bundle_version.to_string(),
            digest,
            self.asked.to_string(),
            self.last_at.clone(),
        ]
    }
}

fn stranger(of: writ_proto::admin::v1::Stranger) -> Stranger {
    let writ_proto::admin::v1::Stranger { address, bundle_version, bundle_digest, asked, last_at_ms } = of;
    Stranger { address, bundle_version, bundle_digest, asked, last_at: output::time(last_at_ms) }
}

#[derive(Serialize)]
struct Certificate {
    key_id: String,
    standing: &'static str,
    algorithm: String,
    sign_from: String,
    accept_until: String,
    realms: Vec<String>,
    public_key: String,
}

impl Rows for Certificate {
    const HEAD: &'static [&'static str] = &["KEY", "STANDING", "SIGNS FROM", "ACCEPTED UNTIL", "REALMS"];

    fn cells(&self) -> Vec<String> {
        let key = self.key_id.get(..16).unwrap_or(&self.key_id).to_owned();
        vec![
            key,
            self.standing.to_owned(),
            self.sign_from.clone(),
            self.accept_until.clone(),
            self.realms.join(", "),
        ]
    }
}

#[derive(Serialize)]
struct Bundle {
    version: u64,
    digest: String,
    issued_at: String,
    authority: String,
}

impl Rows for Bundle {
    const HEAD: &'static [&'static str] = &["BUNDLE", "ISSUED", "AUTHORITY", "DIGEST"];

    fn cells(&self) -> Vec<String> {
        vec![self.version.to_string(), self.issued_at.clone(), self.authority.clone(), self.digest.clone()]
    }
}

pub(super) async fn run(format: Format, client: &Client, verb: Trust) -> Result<ExitCode, Failure> {
    match verb {
        Trust::Converge { watch, timeout, csv } => {
            let converged = if watch { follow(client, timeout).await? } else { None };
            let (now, behind) = match converged {
                // The outcome that was waited for is said, whatever comes next.
                Some(now) => (now, Vec::new()),
                None => {
                    let now = client.trust().get_convergence(GetConvergenceRequest {}).await?;
                    (now.into_inner(), behind(client).await?)
                }
            };
            if let Some(file) = csv {
                write_csv(&file, &behind)?;
            }
            show(format, now, behind)
        }
        Trust::Certificates => {
            let listed = client.trust().list_certificates(ListCertificatesRequest {}).await?.into_inner();
            let rows: Vec<_> = listed.certificates.into_iter().map(certificate).collect();
            output::list(format, &rows, "The newest bundle lists no certificate.")?;
            Ok(ExitCode::SUCCESS)
        }
        Trust::Bundles { limit } => {
            let request = ListBundlesRequest { page_size: limit, page_token: String::new() };
            let listed = client.trust().list_bundles(request).await?.into_inner();
            let row = |bundle: writ_proto::admin::v1::BundleRow| Bundle {
                version: bundle.version,
                digest: bundle.digest,
                issued_at: output::time(bundle.issued_at_ms),
                authority: format!("{} of {}", bundle.authority_threshold, bundle.authority_key_ids.len()),
            };
            let rows: Vec<_> = listed.bundles.into_iter().map(row).collect();
            output::list(format, &rows, "There is no bundle.")?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Until every agent holds the newest bundle, which is then said, or as long as one wants to wait.
async fn follow(client: &Client, timeout: Option<Duration>) -> Result<Option<Convergence>, Failure> {
    let mut progress = Progress::of(0, "hold the newest bundle");
    let watching = async {
        loop {
            let now = client.trust().get_convergence(GetConvergenceRequest {}).await?.into_inner();
            progress.show(
                now.newest,
                now.agents,
                format!("bundle {}, {} obey", now.chain_version, now.obeying),
            );
            if now.newest >= now.agents && now.obeying >= now.agents {
                return Ok::<_, Failure>(Some(now));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let ended = tokio::time::timeout(timeout.unwrap_or(Duration::MAX), watching).await;
    progress.end();
    ended.unwrap_or(Ok(None))
}

async fn behind(client: &Client) -> Result<Vec<Behind>, Failure> {
    let (mut rows, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = client.trust().list_behind(ListBehindRequest { page_size: PAGE, page_token }).await?;
        let page = page.into_inner();
        rows.extend(page.agents.into_iter().map(row));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(rows);
        }
    }
}

fn row(row: BehindRow) -> Behind {
    let reason = match row.refusal_code.as_str() {
        "" => "behind, obeys all the same".to_owned(),
        code => code.to_owned(),
    };
    Behind {
        agent_id: row.agent_id,
        agent_name: output::plain(&row.agent_name),
        host_name: output::plain(&row.host_name),
        address: row.address,
        bundle_version: row.bundle_version,
        key_id: row.key_id,
        expected_key_id: row.expected_key_id,
        reason,
        last_contact: output::time(row.last_contact_ms),
        connected: row.connected,
    }
}

fn show(format: Format, now: Convergence, behind: Vec<Behind>) -> Result<ExitCode, Failure> {
    let Convergence {
        chain_version,
        chain_digest,
        signing_key_id,
        agents,
        newest,
        obeying,
        groups,
        strangers,
        strangers_total,
    } = now;
    let strangers: Vec<_> = strangers.into_iter().map(stranger).collect();
    let group = |holders: BundleHolders| {
        let BundleHolders { version, digest, realm, agents, refusal_code, known } = holders;
        Group { version, digest, realm, agents, refusal_code, known }
    };
    let groups = groups.into_iter().map(group).collect();
    let shown = Shown {
        chain_version,
        chain_digest,
        signing_key_id,
        agents,
        newest,
        obeying,
        groups,
        behind,
        strangers,
    };
    let code = if newest < agents || obeying < agents || !shown.strangers.is_empty() {
        ExitCode::from(EXIT_BEHIND)
    } else {
        ExitCode::SUCCESS
    };
    if !format.is_for_people() {
        output::one(format, &shown, &[])?;
        return Ok(code);
    }
    output::list(format, &shown.groups, "No agent is enrolled.")?;
    output::text(&format!(
        "\n{newest} of {agents} agents hold the newest bundle, {chain_version}; {obeying} obey the key that signs now.",
    ))?;
    if !shown.behind.is_empty() {
        output::text("")?;
        output::list(format, &shown.behind, "")?;
    }
    if !shown.strangers.is_empty() {
        output::text(&format!(
            "\n{strangers_total} addresses ask for the chain of another fleet, or of a later state of this one; the agents there obey nobody on this server. If two servers minted at the same time: writ-server authority repair. If this server was made anew: put that fleet's backup back (writ-server cert restore), or its chain and authority (writ-server authority rebuild); with neither, enrol these hosts again.\n",
        ))?;
        output::list(format, &shown.strangers, "")?;
    }
    Ok(code)
}

fn certificate(row: CertificateRow) -> Certificate {
    let standing = match row.standing() {
        CertificateStanding::Unspecified => "unknown",
        CertificateStanding::Standby => "standby",
        CertificateStanding::Active => "active",
        CertificateStanding::Draining => "draining",
        CertificateStanding::Retired => "retired",
        CertificateStanding::Revoked => "revoked",
    };
    Certificate {
        key_id: row.key_id,
        standing,
        algorithm: row.algorithm,
        sign_from: output::time(row.sign_from_ms),
        accept_until: output::time(row.accept_until_ms),
        realms: row.realms,
        public_key: row.public_key_pem,
    }
}

fn write_csv(file: &Path, rows: &[Behind]) -> Result<(), Failure> {
    let versions: Vec<_> = rows.iter().map(|row| row.bundle_version.to_string()).collect();
    let cells = rows.iter().zip(&versions).map(|(row, version)| {
        let seen = [row.reason.as_str(), &row.last_contact];
        let keys = [version.as_str(), &row.key_id, &row.expected_key_id];
        let who = [row.agent_id.as_str(), &row.agent_name, &row.host_name, &row.address];
        [who.as_slice(), &keys, &seen].concat()
    });
    std::fs::write(file, csv::table(&MISMATCHED, cells))
        .map_err(|error| Failure::local(format!("{}: {error}", file.display())))
}
