//! A collector of traces: the service of the OpenTelemetry Protocol, made from its published schema.

use std::net::Ipv4Addr;
use std::sync::{Arc, Condvar, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use writ_common::shutdown::Shutdown;
use writ_common::tls::{Room, ServerTls, TlsLeaf, incoming};

use crate::fleet::PATIENCE;

/// Takes traces on a port of this machine.
#[derive(Debug)]
pub struct Collector {
    /// Where.
    pub port: u16,
    manner: watch::Sender<Manner>,
    taken: Taken,
    shutdown: Shutdown,
    runtime: Option<tokio::runtime::Runtime>,
}

/// How it treats what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Takes it.
    Takes,
    /// Refuses it, as one that is full.
    Refuses,
    /// Takes its time until it is told something else.
    Ponders,
}

#[derive(Debug, Clone)]
struct Taken {
    requests: Arc<(Mutex<Vec<ExportTraceServiceRequest>>, Condvar)>,
    manner: watch::Receiver<Manner>,
}

#[tonic::async_trait]
impl TraceService for Taken {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut manner = self.manner.clone();
        let manner = *manner.wait_for(|manner| *manner != Manner::Ponders).await.unwrap();
        if manner == Manner::Refuses {
            return Err(Status::resource_exhausted("full"));
        }
        let (requests, changed) = &*self.requests;
        requests.lock().unwrap().push(request.into_inner());
        changed.notify_all();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Takes traces under this certificate, or in clear text.
    ///
    /// # Panics
    /// When no port can be had.
    #[must_use]
    pub fn new(leaf: Option<&TlsLeaf>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (sender, manner) = watch::channel(Manner::Takes);
        let (taken, shutdown) = (Taken { requests: Arc::default(), manner }, Shutdown::new());
        let port = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let router = Server::builder().add_service(TraceServiceServer::new(taken.clone()));
            let asked = shutdown.clone();
            let asked = async move { asked.requested().await };
            if let Some(leaf) = leaf {
                let accepted =
                    incoming(listener, Some(&ServerTls::new(leaf).unwrap()), Room::AGENTS, &shutdown);
                shutdown.spawn(router.serve_with_incoming_shutdown(accepted, asked));
            } else {
                let accepted = tokio_stream::wrappers::TcpListenerStream::new(listener);
                shutdown.spawn(router.serve_with_incoming_shutdown(accepted, asked));
            }
            port
        });
        Self { port, manner: sender, taken, shutdown, runtime: Some(runtime) }
    }

    /// Treats what comes like this from now on.
    pub fn behave(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }

    /// All spans so far, as soon as they are what is waited for.
    ///
    /// # Panics
    /// When that does not come.
    #[must_use]
    pub fn wait_for(&self, is_enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let (requests, changed) = &*self.taken.requests;
        let guard = requests.lock().unwrap();
        let (guard, waited) =
            changed.wait_timeout_while(guard, PATIENCE, |taken| !is_enough(&spans(taken))).unwrap();
        assert!(!waited.timed_out(), "{:#?}", spans(&guard));
        spans(&guard)
    }

    /// Everything as it came.
    ///
    /// # Panics
    /// Never in practice.
    #[must_use]
    pub fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        self.taken.requests.0.lock().unwrap().clone()
    }
}

fn spans(requests: &[ExportTraceServiceRequest]) -> Vec<Span> {
    let resources = requests.iter().flat_map(|request| &request.resource_spans);
    resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
}

/// An attribute, as text.
#[must_use]
pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.shutdown.trigger();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
