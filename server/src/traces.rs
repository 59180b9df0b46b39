//! Traces for a collector: what became of a command and when, in OTLP over gRPC (OpenTelemetry
//! Protocol 1.x). Off unless `traces.endpoint` is set. docs/telemetry.md lists every span and attribute.
//!
//! A command's id is the id of its trace, so that one is found by the other, across restarts of this server
//! too.

mod export;

use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::span::{Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use tokio::sync::mpsc;
use writ_common::shutdown::Shutdown;
use writ_common::time::Clock;
use writ_protocol::id::{AgentId, CommandId, FleetId, random_bytes};
use writ_protocol::receipt::{Decision, Receipt};
use writ_protocol::refusal::RefusalCode;
use writ_protocol::time::Timestamp;

use crate::config::TraceSettings;
use crate::metrics;
use crate::store::{CommandRow, TargetState};
pub(crate) use export::TraceError;

/// Spans that wait for the collector; past it they are lost, and counted.
const MAX_WAITING: usize = 16_384;

/// How long ago an agent may have run what its receipt tells of: a command may wait a month, and its receipt
/// another.
const OLDEST_RUN: Duration = Duration::from_secs(60 * 24 * 3600);
/// How far an agent's time may be ahead.
const AHEAD: Duration = Duration::from_secs(24 * 3600);

/// Where spans go.
#[derive(Debug)]
pub(crate) struct Traces {
    waiting: Option<mpsc::Sender<Span>>,
    one_in: u64,
}

/// A moment with the precision of the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    wall: Timestamp,
    monotonic: Duration,
}

impl Moment {
    /// Now.
    #[must_use]
    pub(crate) fn now(clock: &dyn Clock) -> Self {
        Self { wall: clock.wall(), monotonic: clock.monotonic() }
    }

    /// Unix nanoseconds of this moment, and of a later one by the time that passed: a wall clock that is set
    /// right meanwhile makes no span end before it began.
    fn span_to(self, later: Self) -> (u64, u64) {
        let start = nanos(self.wall);
        let passed = later.monotonic.saturating_sub(self.monotonic);
        (start, start.saturating_add(u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX)))
    }
}

const fn nanos(at: Timestamp) -> u64 {
    at.as_millis().saturating_mul(1_000_000)
}

/// The caller's own span, as the header `traceparent` names it (W3C Trace Context §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceParent {
    trace: [u8; 16],
    span: [u8; 8],
    flags: u8,
}

impl TraceParent {
    /// Reads the header; what is not one is passed over, as the recommendation asks (§4.3).
    #[must_use]
    pub(crate) fn read(metadata: &tonic::metadata::MetadataMap) -> Option<Self> {
        Self::parse(metadata.get("traceparent")?.to_str().ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let is_lower = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'));
        let is_known = version != "ff" && version.len() == 2 && (version != "00" || fields.next().is_none());
        let (mut parent, mut flag) = (Self { trace: [0; 16], span: [0; 8], flags: 0 }, [0]);
        hex::decode_to_slice(trace, &mut parent.trace).ok()?;
        hex::decode_to_slice(span, &mut parent.span).ok()?;
        hex::decode_to_slice(flags, &mut flag).ok()?;
        parent.flags = flag[0];
        let is_set = parent.trace != [0; 16] && parent.span != [0; 8];
        (is_lower && is_known && is_set).then_some(parent)
    }
}

/// How a command was submitted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Submission<'a> {
    /// What is to be done, by its name: parameters may be secrets.
    pub action: &'a str,
    /// The request came.
    pub came: Moment,
    /// It was signed.
    pub signed: Moment,
    /// It was durable.
    pub recorded: Moment,
    /// On whose behalf, if the caller said.
    pub parent: Option<TraceParent>,
}

/// What a receipt says, as far as a trace tells it.
#[derive(Debug)]
pub(crate) struct Answered {
    command: CommandId,
    agent: AgentId,
    state: TargetState,
    code: Option<RefusalCode>,
    ran: Option<(Timestamp, Timestamp)>,
}

impl Traces {
    /// No traces without settings.
    ///
    /// # Errors
    /// When the collector's address or authority cannot be used.
    pub(crate) fn start(
        settings: Option<&TraceSettings>,
        fleet: FleetId,
        shutdown: &Shutdown,
    ) -> Result<Self, TraceError> {
        let Some(settings) = settings else { return Ok(Self { waiting: None, one_in: 1 }) };
        let collector = export::Collector::new(settings, fleet)?;
        let (waiting, spans) = mpsc::channel(MAX_WAITING);
        shutdown.spawn(collector.feed(spans, shutdown.clone()));
        Ok(Self { waiting: Some(waiting), one_in: settings.one_in })
    }

    /// Tells a collector nothing, to see whether it would take more; why it does not.
    ///
    /// # Errors
    /// When the collector's address or authority cannot be used.
    pub(crate) async fn try_out(
        settings: &TraceSettings,
        fleet: FleetId,
    ) -> Result<Result<(), String>, TraceError> {
        Ok(export::Collector::new(settings, fleet)?.export(Vec::new()).await)
    }

    /// Whether a command is traced: all parts of it or none, whenever they are asked for.
    #[must_use]
    pub(crate) fn follow(&self, command: CommandId) -> bool {
        let random = u64::from_be_bytes(root_of(command));
        self.waiting.is_some() && random != 0 && random.is_multiple_of(self.one_in)
    }

    /// A command was handed to the dispatcher.
    pub(crate) fn submitted(
        &self,
        row: &CommandRow,
        targets: usize,
        submission: &Submission<'_>,
        now: Moment,
    ) {
        if !self.follow(row.id) {
            return;
        }
        let Submission { action, came, signed, recorded, parent } = *submission;
        let root = root_of(row.id).to_vec();
        let link = parent.map(|TraceParent { trace, span, flags }| Link {
            trace_id: trace.to_vec(),
            span_id: span.to_vec(),
            flags: flags.into(),
            ..Link::default()
        });
        let attributes = vec![
            text("writ.command.id", row.id.to_string()),
            text("writ.command.action", action.to_owned()),
            text("writ.command.requested_by", row.requested_by.clone()),
            number("writ.command.targets", targets),
        ];
        let whole = span(row.id, "command", SpanKind::Producer, came.span_to(now));
        self.send(Span { span_id: root, links: link.into_iter().collect(), attributes, ..whole });
        self.send(child(row.id, span(row.id, "sign", SpanKind::Internal, came.span_to(signed))));
        self.send(child(row.id, span(row.id, "record", SpanKind::Internal, signed.span_to(recorded))));
    }

    /// What a receipt will tell once it is stored; `None` when its command is not traced.
    #[must_use]
    pub(crate) fn about(&self, receipt: &Receipt) -> Option<Answered> {
        self.follow(receipt.command).then(|| {
            let (code, ran) = match &receipt.decision {
                Decision::Refused(code) => (Some(*code), None),
                Decision::Obeyed(outcome) => (None, Some((outcome.started_at, outcome.finished_at))),
            };
            let state = TargetState::of(&receipt.decision);
            Answered { command: receipt.command, agent: receipt.agent, state, code, ran }
        })
    }

    /// An agent's receipt was stored; `sent`: when its command was handed to this session, if it was to this
    /// one.
    pub(crate) fn answered(&self, answered: Answered, sent: Option<Moment>, now: Moment) {
        let Answered { command, agent, state, code, ran } = answered;
        let mut attributes = vec![
            text("writ.command.id", command.to_string()),
            text("writ.agent.id", agent.to_string()),
            text("writ.receipt.outcome", metrics::outcome(state).to_owned()),
        ];
        attributes.extend(code.map(|code| text("writ.refusal.code", code.as_str().to_owned())));
        let is_done = state == TargetState::Done;
        let status = Status {
            code: if is_done { StatusCode::Ok } else { StatusCode::Error }.into(),
            message: if is_done { String::new() } else { metrics::outcome(state).to_owned() },
        };
        let delivered =
            child(command, span(command, "agent", SpanKind::Consumer, sent.unwrap_or(now).span_to(now)));
        let delivered_id = delivered.span_id.clone();
        self.send(Span { attributes, status: Some(status), ..delivered });
        // An agent may say any time; one that is not of this age would stretch the whole trace.
        let is_of_now = |at: &Timestamp| now.wall.since(*at) <= OLDEST_RUN && at.since(now.wall) <= AHEAD;
        if let Some((started, finished)) =
            ran.filter(|(started, finished)| is_of_now(started) && is_of_now(finished))
        {
            let ran =
                span(command, "run", SpanKind::Internal, (nanos(started), nanos(finished.max(started))));
            self.send(Span { parent_span_id: delivered_id, ..ran });
        }
    }

    fn send(&self, span: Span) {
        if self.waiting.as_ref().is_some_and(|waiting| waiting.try_send(span).is_err()) {
            metrics::count_spans("lost", 1);
        }
    }
}

/// The second half of a command's id is random where the server made it.
fn root_of(command: CommandId) -> [u8; 8] {
    let [.., a, b, c, d, e, f, g, h] = command.as_bytes().to_owned();
    [a, b, c, d, e, f, g, h]
}

fn span(command: CommandId, name: &str, kind: SpanKind, (start, end): (u64, u64)) -> Span {
    Span {
        trace_id: command.as_bytes().to_vec(),
        span_id: random_bytes::<8>().to_vec(),
        name: name.to_owned(),
        kind: kind.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: end,
        // Sampled (W3C Trace Context §3.2.2.5.1).
        flags: 1,
        ..Span::default()
    }
}

fn child(command: CommandId, span: Span) -> Span {
    Span { parent_span_id: root_of(command).to_vec(), ..span }
}

fn text(key: &str, value: String) -> KeyValue {
    attribute(key, any_value::Value::StringValue(value))
}

fn number(key: &str, value: usize) -> KeyValue {
    attribute(key, any_value::Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_the_recommendation_has_it() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let parent = TraceParent::parse(good).unwrap();
        assert_eq!((parent.trace[0], parent.span[7], parent.flags), (0x0a, 0x31, 1));
        assert!(TraceParent::parse(&good.replacen("00", "cc", 1)).is_some(), "a later version");
        assert!(TraceParent::parse(&format!("cc{}-later", &good[2..]).replace("later", "aa")).is_some());
        for bad in [
            "",
            "00",
            &good.to_uppercase(),
            &good.replacen("00", "ff", 1),
            &format!("{good}-00"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b71692033-01",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn one_command_in_so_many_is_traced_and_none_without_a_collector() {
        let (waiting, _spans) = mpsc::channel(1);
        let all = Traces { waiting: Some(waiting), one_in: 1 };
        let some = Traces { one_in: 4, ..all };
        let ids: Vec<_> = (0..=255).map(|n| CommandId::from_bytes([n; 16])).collect();
        assert_eq!(ids.iter().filter(|id| some.follow(**id)).count(), 63);
        let off = Traces { waiting: None, one_in: 1 };
        assert_eq!(ids.iter().filter(|id| off.follow(**id)).count(), 0);
    }

    #[test]
    fn a_clock_set_back_meanwhile_ends_no_span_before_it_began() {
        let at = |wall, monotonic| Moment {
            wall: Timestamp::from_millis(wall),
            monotonic: Duration::from_micros(monotonic),
        };
        assert_eq!(at(5000, 10).span_to(at(1000, 35)), (5_000_000_000, 5_000_025_000));
    }
}
