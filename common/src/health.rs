//! Whether a daemon works, as grpc.health.v1 says it; and asking one on this host.
//!
//! Two services are answered for: the empty name (it works at all; if not, start it again) and [`READY`] (it
//! does what it is for; if not, send nobody there).

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tonic_health::ServingStatus;
use tonic_health::pb::health_check_response::ServingStatus as Answer;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_health::server::HealthReporter;

use crate::daemon::Fatal;
use crate::shutdown::Shutdown;
use crate::tls::{Anchors, connect};

/// The service that stands for readiness.
pub const READY: &str = "ready";

/// How often a daemon looks at itself.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long asking may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// How a daemon finds itself.
#[derive(Debug, Clone, Copy)]
pub struct Health {
    /// It works at all.
    pub works: bool,
    /// It does what it is for.
    pub is_ready: bool,
}

/// Looks again and again, and says so to who asks; not ready any more once the end was asked for.
pub async fn run<F>(reporter: HealthReporter, shutdown: Shutdown, look: impl Fn() -> F + Send + Sync)
where
    F: Future<Output = Health> + Send,
{
    let status = |good| if good { ServingStatus::Serving } else { ServingStatus::NotServing };
    loop {
        // One that does not answer itself is not well.
        let looked = tokio::time::timeout(LOOK_TIMEOUT, look()).await;
        let Health { works, is_ready } = looked.unwrap_or(Health { works: false, is_ready: false });
        reporter.set_service_status("", status(works)).await;
        reporter.set_service_status(READY, status(works && is_ready)).await;
        if shutdown.unless_requested(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
            reporter.set_service_status(READY, ServingStatus::NotServing).await;
            return;
        }
    }
}

/// The answer of [`ask`] as JSON, on standard output.
///
/// # Errors
/// When the daemon was not reached or said no; what was printed says why.
pub fn say(asked: Result<(), Fatal>) -> Result<(), Fatal> {
    let reason = asked.as_ref().err().map(ToString::to_string);
    let answer = serde_json::json!({ "serving": asked.is_ok(), "reason": reason.unwrap_or_default() });
    crate::say::result(answer).map_err(Fatal::failure)?;
    asked.map_err(|_| Fatal::said())
}

/// Asks the daemon that listens at this address on this host.
///
/// The channel is not verified: nothing secret is said, who answers on this host's own port is this host's
/// concern, and a leaf that ended must not make a container start again that agents still obey.
///
/// # Errors
/// When it is not reached or says no; what to look at.
pub async fn ask(listens: SocketAddr, service: &str) -> Result<(), Fatal> {
    let endpoint = match listens.ip().is_unspecified() {
        // Of either family: this host may have one alone.
        true => format!("localhost:{}", listens.port()),
        false => listens.to_string(),
    };
    let asked = async {
        let connection =
            Box::pin(connect(&endpoint, &Anchors::Unverified)).await.map_err(|e| e.to_string())?;
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = HealthClient::new(connection.channel).check(request).await;
        Ok::<_, String>(answer.map_err(|status| status.message().to_owned())?.into_inner().status())
    };
    match tokio::time::timeout(ASK_TIMEOUT, asked).await {
        Ok(Ok(Answer::Serving)) => Ok(()),
        Ok(Ok(_)) => Err(Fatal::failure(format!("{endpoint} says that it does not serve; its log says why"))),
        Ok(Err(error)) => Err(Fatal::failure(format!("{endpoint} was not reached: {error}"))),
        Err(_) => Err(Fatal::failure(format!("{endpoint} said nothing for {} s", ASK_TIMEOUT.as_secs()))),
    }
}
