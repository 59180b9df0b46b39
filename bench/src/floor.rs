//! What the machine itself can do: figures are judged as ratios to it, so that any machine can judge them.

use std::fs::File;
use std::io::Write as _;

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::figures::{count, float, median, now, progress};
use crate::table::{Figure, Goal};

/// Signatures made and checked, one after the other.
const ROUNDS: u32 = 20_000;
/// Flushes, one after the other.
const FLUSHES: usize = 200;

/// The floor under every figure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Floor {
    /// One Ed25519 verification on one core, in seconds.
    verify: f64,
    /// One Ed25519 signature.
    sign: f64,
    cores: f64,
}

impl Floor {
    /// The least time in which all cores together verify and sign so often, in seconds.
    pub(crate) fn seconds(&self, verifications: f64, signatures: f64) -> f64 {
        (self.verify * verifications + self.sign * signatures) / self.cores
    }

    /// How many verifications some CPU time is.
    pub(crate) fn verifications(&self, seconds: f64) -> f64 {
        seconds / self.verify
    }
}

#[expect(clippy::disallowed_methods, reason = "what is measured is the primitive itself")]
pub(crate) fn measure(figures: &mut Vec<Figure>) -> Floor {
    progress("what the machine can do: Ed25519 and fdatasync");
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let message = [1; 300];
    let start = now();
    for _ in 0..ROUNDS {
        std::hint::black_box(pair.sign(std::hint::black_box(&message)));
    }
    let sign = start.elapsed().as_secs_f64() / f64::from(ROUNDS);
    let signature = pair.sign(&message);
    let key = UnparsedPublicKey::new(&ED25519, pair.public_key().as_ref().to_vec());
    let start = now();
    for _ in 0..ROUNDS {
        key.verify(std::hint::black_box(&message), signature.as_ref()).unwrap();
    }
    let verify = start.elapsed().as_secs_f64() / f64::from(ROUNDS);
    let mut tell = |name, value, unit, how: String| {
        figures.push(Figure { name, value, unit, goal: None, how });
    };
    let how = format!("ring, one core, mean of {ROUNDS}");
    tell("ed25519_verify_us", verify * 1e6, "µs", how.clone());
    tell("ed25519_sign_us", sign * 1e6, "µs", how);
    let folder = tempfile::tempdir().unwrap();
    let mut file = File::create(folder.path().join("flushed")).unwrap();
    let flush = |_| {
        file.write_all(&[1; 4096]).unwrap();
        let start = now();
        file.sync_data().unwrap();
        start.elapsed().as_secs_f64() * 1e3
    };
    let flushes: Vec<_> = (0..FLUSHES).map(flush).collect();
    tell("fdatasync_ms", median(flushes), "ms", format!("4 KiB appended and flushed, median of {FLUSHES}"));
    let cores = count(std::thread::available_parallelism().unwrap().get());
    Floor { verify, sign, cores }
}

/// A figure as the ratio to the floor, with the goal that the ratio has.
pub(crate) fn ratio(name: &'static str, value: f64, goal: Goal, how: &str) -> Figure {
    Figure { name, value, unit: "x", goal: Some(goal), how: how.to_owned() }
}

/// The floor of so many agents that answer one command: each verifies it and signs a receipt, which the
/// server verifies.
pub(crate) fn answers(floor: &Floor, agents: u64) -> f64 {
    floor.seconds(float(agents) * 2.0, float(agents))
}
