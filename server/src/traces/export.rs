//! To the collector: whatever waits goes in one call. A collector that is away costs spans, never commands.

use std::io;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tracing::{info, warn};
use writ_common::files::{self, FileError};
use writ_common::keys::pem;
use writ_common::net::reach;
use writ_common::shutdown::Shutdown;
use writ_common::text::quoted;
use writ_common::tls::check_authorities;
use writ_protocol::id::FleetId;
use writ_protocol::place::Place;

use super::text;
use crate::VERSION;
use crate::config::TraceSettings;
use crate::metrics;

/// Spans of one call.
const MOST_AT_ONCE: usize = 512;
/// How long a collector may take to be reached, and to answer; then what was sent to it is lost.
const DEADLINE: Duration = Duration::from_secs(3);
/// How long a collector that did not take spans is left alone.
const PAUSE: Duration = Duration::from_secs(2);
/// How often it is said that it does not.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Why there can be no traces.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TraceError {
    /// `traces.ca` cannot be read.
    #[error("`traces.ca`: {0}")]
    File(#[from] FileError),
    /// It holds no certificate.
    #[error("`traces.ca`: {0}")]
    Pem(#[from] pem::InvalidPem),
    /// It holds something else.
    #[error("`traces.ca` holds no certificate of an authority: {0}")]
    Ca(String),
    /// The address is none.
    #[error("`traces.endpoint`: {0}")]
    Endpoint(#[from] tonic::transport::Error),
}

/// Where a collector's address leads to.
fn place(uri: &Uri) -> io::Result<Place> {
    let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    Place::of(uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(usual)).map_err(io::Error::other)
}

/// The collector that takes spans.
#[derive(Debug)]
pub(super) struct Collector {
    client: TraceServiceClient<Channel>,
    endpoint: String,
    resource: Resource,
}

impl Collector {
    pub(super) fn new(settings: &TraceSettings, fleet: FleetId) -> Result<Self, TraceError> {
        // A connection that is dead without a word is noticed, and nothing that was given up on is kept.
        let mut endpoint = Endpoint::from_shared(settings.endpoint.clone())?
            .connect_timeout(DEADLINE)
            .http2_keep_alive_interval(DEADLINE * 3)
            .keep_alive_timeout(DEADLINE)
            .buffer_size(1);
        if let Some(ca) = &settings.ca {
            let authorities = pem::certificates(&files::read(ca)?)?;
            check_authorities(&authorities).map_err(TraceError::Ca)?;
            // Whatever form the file has, one that the library reads.
            let text: String =
                authorities.iter().map(|der| pem::encode("CERTIFICATE", der).to_string()).collect();
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(text)).timeout(DEADLINE);
            endpoint = endpoint.tls_config(tls)?;
        }
        let attributes = vec![
            text("service.name", "writ-server".to_owned()),
            text("service.version", VERSION.to_owned()),
            text("writ.fleet.id", fleet.to_string()),
        ];
        let resource = Resource { attributes, ..Resource::default() };
        let connector = tower::service_fn(|uri: Uri| async move {
            reach(&place(&uri)?, None).await.map(TokioIo::new).map_err(io::Error::other)
        });
        let client = TraceServiceClient::new(endpoint.connect_with_connector_lazy(connector));
        Ok(Self { client, endpoint: settings.endpoint.clone(), resource })
    }

    /// Hands on what waits until the end is asked for, and then for a moment what still waits.
    pub(super) async fn feed(mut self, mut spans: mpsc::Receiver<Span>, shutdown: Shutdown) {
        let mut said_at: Option<Instant> = None;
        let mut batch = Vec::with_capacity(MOST_AT_ONCE);
        while let Some(1..) = shutdown.unless_requested(spans.recv_many(&mut batch, MOST_AT_ONCE)).await {
            match self.export(std::mem::take(&mut batch)).await {
                Ok(()) if said_at.is_some_and(|at| at.elapsed() >= SAY_EVERY) => {
                    info!("the collector takes traces again");
                    said_at = None;
                }
                Ok(()) => {}
                Err(reason) => {
                    if said_at.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
                        said_at = Some(Instant::now());
                        warn!(
                            endpoint = self.endpoint,
                            reason, "the collector does not take traces; they are lost meanwhile"
                        );
                    }
                    shutdown.unless_requested(tokio::time::sleep(PAUSE)).await;
                }
            }
        }
        spans.close();
        let rest = async {
            while spans.recv_many(&mut batch, MOST_AT_ONCE).await > 0
                && self.export(std::mem::take(&mut batch)).await.is_ok()
            {}
        };
        if tokio::time::timeout(DEADLINE, rest).await.is_err() {
            warn!("the collector was too slow for the last traces");
        }
    }

    pub(super) async fn export(&mut self, spans: Vec<Span>) -> Result<(), String> {
        let sent = spans.len();
        let scope = InstrumentationScope { name: "writ".to_owned(), ..InstrumentationScope::default() };
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
        let resource = Some(self.resource.clone());
        let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
        let call = self.client.export(ExportTraceServiceRequest { resource_spans });
        let (rejected, answer) = match tokio::time::timeout(DEADLINE, call).await {
            Ok(Ok(answer)) => {
                let partial = answer.into_inner().partial_success.unwrap_or_default();
                let rejected = usize::try_from(partial.rejected_spans).unwrap_or(0).min(sent);
                (rejected, if rejected == 0 { Ok(()) } else { Err(partial.error_message) })
            }
            Ok(Err(status)) => (sent, Err(causes(&status))),
            Err(_) => (sent, Err(format!("it did not answer in {DEADLINE:?}"))),
        };
        metrics::count_spans("exported", sent - rejected);
        metrics::count_spans("lost", rejected);
        answer.map_err(|reason| quoted(&reason))
    }
}

/// What a call failed of, down to the first cause: "tcp connect error" alone helps nobody.
fn causes(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
