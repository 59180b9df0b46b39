//! `writ doctor`: from this machine to the server, step by step; the first bad one is the one to mend.

use std::process::ExitCode;
use std::time::Duration;

use tonic::Code;
use writ_common::doctor::{Finding, Report};
use writ_common::files;
use writ_common::keys::pem;
use writ_common::net::{advice_on, dial, resolve};
use writ_common::time::{Clock as _, SystemClock};
use writ_proto::admin::v1::GetSystemRequest;
use writ_proto::manager::v1::GetManagerRequest;
use writ_protocol::place::{InvalidPlace, Place};
use writ_protocol::time::Timestamp;

use crate::args::Format;
use crate::client::Client;
use crate::context::{Context, Contexts};
use crate::failure::Failure;
use crate::output;

/// A clock that is off by more is worth a word: expiry is told by the server's.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

pub(super) async fn run(format: Format, context: Option<&str>) -> Result<ExitCode, Failure> {
    let report = Report::of(examine(context).await);
    match format {
        Format::Table | Format::Wide => output::text(&report.text())?,
        Format::Json | Format::Jsonl | Format::Csv => output::one(format, &report, &[])?,
    }
    Ok(ExitCode::from(u8::from(report.is_bad())))
}

/// Each step needs the one before it.
async fn examine(name: Option<&str>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let context = match choose(name) {
        Ok((name, context)) => {
            findings.push(Finding::good("context", format!("{name}, {}", context.server)));
            context
        }
        Err(failure) => return vec![Finding::bad("context", failure.text(), "")],
    };
    findings.push(ca(&context));
    findings.push(match files::secret_line(&context.token_file) {
        Ok(_) => Finding::good("token", format!("{}", context.token_file.display())),
        Err(error) => Finding::bad(
            "token",
            error.to_string(),
            "an administrator makes one: writ operator create NAME --role operator --token-file FILE",
        ),
    });
    let place: Place = match context.server.parse() {
        Ok(place) => place,
        Err(error) => {
            let next = "add the context again: writ context add NAME --server HOST:7444";
            findings.push(Finding::bad("name", InvalidPlace::to_string(&error), next));
            return findings;
        }
    };
    let addresses = match resolve(&place).await {
        Ok(found) => found,
        Err(error) => {
            findings.push(Finding::bad("name", error.to_string(), error.advice()));
            return findings;
        }
    };
    let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    findings.push(Finding::good("name", shown.join(", ")));
    findings.push(match dial(&addresses).await {
        Ok(_) => Finding::good("port", "somebody listens"),
        Err(error) => {
            let next = advice_on(&error, "on the server: systemctl status writ-server, writ-server doctor");
            Finding::bad("port", error.to_string(), next)
        }
    });
    if Report::of(findings.clone()).is_bad() {
        return findings;
    }
    call(&context, &mut findings).await;
    findings
}

fn choose(name: Option<&str>) -> Result<(String, Context), Failure> {
    if name.is_none()
        && let Some(context) = Context::of_environment()?
    {
        return Ok(("of the environment".to_owned(), context));
    }
    let contexts = Contexts::load()?;
    let (name, context) = contexts.choose(name)?;
    Ok((name.to_owned(), context.clone()))
}

fn ca(context: &Context) -> Finding {
    let shown = context.ca.display();
    let next = "copy admin-ca.pem from the server's data directory";
    match files::read(&context.ca).map_err(|error| error.to_string()) {
        Err(error) => Finding::bad("ca", error, next),
        Ok(text) => match pem::certificates(&text) {
            Ok(_) => Finding::good("ca", format!("{shown}")),
            Err(error) => Finding::bad("ca", format!("{shown}: {error}"), next),
        },
    }
}

/// The call itself: the channel, the token, and what the server says of itself.
async fn call(context: &Context, findings: &mut Vec<Finding>) {
    let client = match Client::connect(context).await {
        Ok(client) => client,
        Err(failure) => return findings.push(Finding::bad("channel", failure.text(), "")),
    };
    findings.push(Finding::good("channel", "TLS, verified by the CA"));
    match client.system().get(GetSystemRequest {}).await {
        Ok(answer) => {
            let system = answer.into_inner();
            findings.push(Finding::good(
                "server",
                format!("fleet {}, version {}", system.fleet_name, system.version),
            ));
            let (now, there) = (SystemClock::new().wall(), Timestamp::from_millis(system.time_ms));
            findings.push(if now + CLOCK_TOLERANCE < there || there + CLOCK_TOLERANCE < now {
                Finding::notice(
                    "clock",
                    format!("it is {now} here and {there} there"),
                    "set the clock that is wrong",
                )
            } else {
                Finding::good("clock", "as the server's")
            });
            findings.push(if system.signing_key_id.is_empty() {
                Finding::bad("signing", "the server signs nothing", "on the server: writ-server doctor")
            } else {
                Finding::good("signing", format!("by key {}", system.signing_key_id))
            });
        }
        // A Control Manager, which knows no fleet.
        Err(status)
            if status.code() == Code::PermissionDenied
                && client.manager().get(GetManagerRequest {}).await.is_ok() =>
        {
            findings.push(Finding::good("server", "a Control Manager"));
        }
        Err(status) => {
            let failure = Failure::from(status);
            findings.push(Finding::bad(
                "server",
                failure.text(),
                "if the token was revoked, an administrator makes another: writ operator create",
            ));
        }
    }
}
