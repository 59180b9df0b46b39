//! Every bound of the protocol in one place, with the attack it stops and the reason for its number.

use std::time::Duration;

/// One gRPC frame. Stops a stranger from costing an allocation; 12 bundles of the largest size fit beside
/// their frame.
pub const MAX_FRAME_BYTES: usize = 1 << 20;
/// One envelope of a command, looked at before anything is decoded. A ping takes a few hundred bytes
/// (proto/vectors/accept/ping.json); what is larger than this is never signed.
pub const MAX_COMMAND_BYTES: usize = 64 << 10;
/// One envelope of a receipt: the largest output kept (256 KiB) and room for its fields.
pub const MAX_RECEIPT_BYTES: usize = 320 << 10;
/// One envelope of a trust bundle.
pub const MAX_BUNDLE_BYTES: usize = 64 << 10;
/// Any other envelope: hellos, proofs, refusal reports.
pub const MAX_SMALL_BYTES: usize = 32 << 10;
/// A request for enrolment: its envelope, and the token's secret.
pub const MAX_ENROLMENT_BYTES: usize = 40 << 10;
/// One envelope of an agent's report: [`MAX_REPORT_ROWS`] rows of the longest names.
pub const MAX_REPORT_BYTES: usize = 256 << 10;
/// One envelope of an entity's call to its manager: 64 outcomes of the longest details.
pub const MAX_ENTITY_CALL_BYTES: usize = 256 << 10;
/// Outcomes in one poll.
pub const MAX_OUTCOMES: usize = 64;
/// Instructions in one answer to a poll.
pub const MAX_INSTRUCTIONS: usize = 16;
/// Addresses an entity lists of itself.
pub const MAX_ADDRESSES: usize = 16;
/// Bytes of a change of objects that a manager sends to an entity: a hundred thousand objects with the
/// longest notes, and their values.
pub const MAX_OBJECTS_CHANGE_BYTES: u64 = 128 << 20;
/// Signatures on one envelope. Each may cost a verification.
pub const MAX_SIGNATURES: usize = 16;
/// Keys of one role and entries of one bundle. With [`MAX_SIGNATURES`] it bounds verifications per envelope.
pub const MAX_KEYS: usize = 16;
/// Recipients of one command: a proof of 20 hashes.
pub const MAX_AUDIENCE: u32 = 1 << 20;
/// Hashes of one proof, log2 of [`MAX_AUDIENCE`].
pub const MAX_PROOF_PATH: usize = 20;
/// How long a command may live. Bounds the agent's memory of ids.
pub const MAX_COMMAND_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long an upgraded agent may be given to greet its server, at the least and at the most.
pub const MIN_GREETING_TIME: Duration = Duration::from_secs(10);
/// The most.
pub const MAX_GREETING_TIME: Duration = Duration::from_secs(1800);
/// How far two honest clocks may differ, and how long a hello may take to come back.
pub const SKEW: Duration = Duration::from_secs(60);
/// Bundles in one answer of `TrustChain`.
pub const MAX_BUNDLES_PER_CALL: usize = 256;
/// Bytes of bundles in one frame or answer, below [`MAX_FRAME_BYTES`].
pub const MAX_BUNDLE_BATCH_BYTES: usize = 768 << 10;
/// Bytes of a component that agents hold: a filter of two hundred million values. An agent has no more room
/// for one that a thief of the signing key names.
pub const MAX_AGENT_COMPONENT_BYTES: u64 = 256 << 20;
/// Bytes of a component in one frame. Small: between two of them commands go out, and so much waits for each
/// agent that does not read.
pub const MAX_PIECE_BYTES: usize = 64 << 10;
/// Paths of one scan to look at, and as many to leave out.
pub const MAX_SCAN_PATHS: usize = 64;
/// Files that one scan blocks and quarantines. A list that names what every host needs must not take a host
/// apart; who wants more sends the scan again.
pub const MAX_REMEDIED: u32 = 10_000;
/// Values of one question about reputation: what fits an envelope of [`MAX_SMALL_BYTES`] when all are listed.
pub const MAX_QUESTION_VALUES: usize = 512;
/// How long an agent may go by what a list said. A list that has changed is asked again by then.
pub const MAX_REPUTATION_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Rendezvous endpoints of one bundle.
pub const MAX_ENDPOINTS: usize = 8;
/// Bytes of an endpoint: a host name of 253 (RFC 1035, section 2.3.4), a colon and a port. More is nobody's
/// address, and would only make bundles and tokens large.
pub const MAX_ENDPOINT_BYTES: usize = 259;
/// Bytes of any name: fleets, realms, operators, actions.
pub const MAX_NAME_BYTES: usize = 128;
/// Bytes of a log filter in settings: a few dozen directives.
pub const MAX_LOG_FILTER_BYTES: usize = 1024;
/// Parameters of one action.
pub const MAX_PARAMETERS: usize = 64;
/// Values that a parameter's rule lists, in a report; a rule with more is not checked by servers.
pub const MAX_CHOICES: usize = 1024;
/// Bytes that an agent gives to what its actions take in one report: what [`MAX_REPORT_ROWS`] rows of the
/// longest names leave of [`MAX_REPORT_BYTES`]. Of the actions for which there is no room servers check no
/// parameters.
pub const MAX_SCHEMA_BYTES: usize = 64 << 10;
/// Bytes of one parameter's value.
pub const MAX_PARAMETER_BYTES: usize = 4 << 10;
/// Output an action may keep in its receipt.
pub const MAX_OUTPUT_BYTES: usize = 256 << 10;
/// Bytes of the text that explains a refusal in a receipt.
pub const MAX_DETAIL_BYTES: usize = 1024;
/// Approvals beside one command.
pub const MAX_APPROVALS: usize = 16;
/// Commands of one stream whose deliveries are counted; past it the server asks the agent to come back.
pub const MAX_COUNTED_DELIVERIES: usize = 16_384;
/// Actions and facts in one agent report.
pub const MAX_REPORT_ROWS: usize = 1024;
/// Refusals of one code in one report, and of one alert in all: what every JSON reader keeps whole.
pub const MAX_REFUSALS_COUNTED: u64 = 1 << 53;
/// Marks of sessions an agent's journal keeps: how many sessions a server may have forgotten.
pub const MAX_MARKS: usize = 64;
/// The protocol's version, in both hellos.
pub const PROTOCOL: u32 = 1;
