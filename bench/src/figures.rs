//! Time and numbers of measurements.

use std::time::Instant;

#[expect(clippy::disallowed_methods, reason = "a benchmark measures the machine's own time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

#[expect(clippy::as_conversions, reason = "counts of a benchmark are far below 2^52")]
pub(crate) const fn float(value: u64) -> f64 {
    value as f64
}

pub(crate) fn count(value: usize) -> f64 {
    float(u64::try_from(value).unwrap())
}

pub(crate) fn progress(what: &str) {
    eprintln!("… {what}");
}
