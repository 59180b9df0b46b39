//! To the collector: whatever waits goes in one call. A collector that is away costs spans, never commands.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use tokio::sync::mpsc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tracing::{info, warn};
use writ_common::files::{self, FileError};
use writ_common::id::FleetId;
use writ_common::shutdown::Shutdown;

use super::text;
use crate::VERSION;
use crate::config::TraceSettings;
use crate::metrics;

/// Spans of one call.
const MOST_AT_ONCE: usize = 512;
/// How long a collector may take to be reached and to answer; then what was sent to it is lost.
const DEADLINE: Duration = Duration::from_secs(3);

/// Why there can be no traces.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// `traces.ca` cannot be read.
    #[error("`traces.ca`: {0}")]
    Ca(#[from] FileError),
    /// It is no certificate, or the address none of a collector.
    #[error("`traces.endpoint`, `traces.ca`: {0}")]
    Endpoint(#[from] tonic::transport::Error),
}

/// Whoever takes spans.
#[derive(Debug)]
pub(super) struct Collector {
    client: TraceServiceClient<Channel>,
    resource: Resource,
}

impl Collector {
    pub(super) fn new(settings: &TraceSettings, fleet: FleetId) -> Result<Self, TraceError> {
        let mut endpoint = Endpoint::from_shared(settings.endpoint.clone())?.connect_timeout(DEADLINE);
        if let Some(ca) = &settings.ca {
            let ca = Certificate::from_pem(files::read(ca)?);
            endpoint = endpoint.tls_config(ClientTlsConfig::new().ca_certificate(ca))?;
        }
        let attributes = vec![
            text("service.name", "writ-server".to_owned()),
            text("service.version", VERSION.to_owned()),
            text("writ.fleet.id", fleet.to_string()),
        ];
        let resource = Resource { attributes, ..Resource::default() };
        Ok(Self { client: TraceServiceClient::new(endpoint.connect_lazy()), resource })
    }

    /// Hands on what waits until the end is asked for, and then what still waits, as long as it is taken.
    pub(super) async fn feed(mut self, mut spans: mpsc::Receiver<Span>, shutdown: Shutdown) {
        let mut was_taken = true;
        loop {
            let mut batch = Vec::with_capacity(MOST_AT_ONCE);
            if shutdown.unless_requested(spans.recv_many(&mut batch, MOST_AT_ONCE)).await.is_none() {
                spans.close();
                if !was_taken || spans.recv_many(&mut batch, MOST_AT_ONCE).await == 0 {
                    return;
                }
            }
            let taken = self.export(batch).await;
            match &taken {
                Ok(()) if !was_taken => info!("the collector takes traces again"),
                Err(reason) if was_taken => {
                    warn!(reason, "the collector does not take traces; they are lost meanwhile");
                }
                Ok(()) | Err(_) => {}
            }
            was_taken = taken.is_ok();
        }
    }

    async fn export(&mut self, spans: Vec<Span>) -> Result<(), String> {
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
            Ok(Err(status)) => (sent, Err(status.message().to_owned())),
            Err(_) => (sent, Err(format!("it did not answer in {DEADLINE:?}"))),
        };
        metrics::count_spans("exported", sent - rejected);
        metrics::count_spans("lost", rejected);
        answer
    }
}
