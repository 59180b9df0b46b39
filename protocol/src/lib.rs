//! What every implementation of Writ must agree on, and nothing of how ours is run.
//!
//! Read in the order of a command's journey: a [`command`] is addressed to an [`audience`], sealed in an
//! [`envelope`] by one of the [`keys`] a [`trust`] bundle lists, judged by [`verify`] and [`admission`], and
//! answered by a [`receipt`] or counted as a [`refusal`]. What both ends say before that is in [`hello`];
//! what a list says about files and addresses, in [`reputation`]; what a third party checks afterwards, in
//! [`evidence`]. [`manager`] is what a server and the Control
//! Manager above it say to one another.
//!
//! # What a stranger may rely on
//!
//! * The bytes. Every document, its canonical form and its signature are fixed by `docs/protocol.md`; the
//!   vectors in `proto/vectors` pin them, and another implementation that passes these agrees with this one.
//! * The checks. Nothing in here reads a clock, a file or a network: what it decides depends on what it is
//!   given, so the same document has the same fate everywhere. The crate needs neither an async runtime nor a
//!   transport.
//! * The refusals. [`refusal::RefusalCode`] is a closed list of stable names; each has a page and a vector.
//!
//! What a stranger may not rely on is the shape of these types. Fields and functions change with the programs
//! that use them; the protocol changes by `docs/protocol.md`, which says how.
//!
//! # Words
//!
//! A *fleet* is all agents under one chain of bundles. A *realm* is the part of a fleet that a signing
//! certificate may command. A *digest* is SHA-256 over a DSSE pre-authentication encoding. *Session time* is
//! the server's signed time carried on by the monotonic clock. The *floor* is the time below which session
//! time never falls.

pub mod id;
pub mod limits;
pub mod time;

pub mod audience;
pub mod command;
pub mod component;
pub mod envelope;
pub mod keys;
pub mod trust;

pub mod admission;
pub mod hello;
pub mod identity;
pub mod verify;

pub mod evidence;
pub mod facts;
pub mod notice;
pub mod receipt;
pub mod refusal;
pub mod report;
pub mod reputation;
pub mod rollout;
pub mod schema;

pub mod manager;
pub mod place;
pub mod wire;
