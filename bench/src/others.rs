//! Whether the machine was ours: what other processes took of its cores while something was measured.

use std::collections::HashMap;
use std::time::Instant;

use crate::figures::{count, float, now};

/// A figure counts only if others took no more of the cores than this.
pub(crate) const MOST: f64 = 0.1;

/// Since when, how busy the cores were by then, and how busy we were.
#[derive(Debug)]
pub(crate) struct Others {
    since: Instant,
    all: u64,
    ours: u64,
}

impl Others {
    pub(crate) fn watch() -> Self {
        Self { since: now(), all: all(), ours: ours() }
    }

    /// The part of the cores that others took since then.
    pub(crate) fn share(&self) -> f64 {
        let cores = count(std::thread::available_parallelism().unwrap().get());
        let ticks = float(rustix::param::clock_ticks_per_second());
        let theirs = (all() - self.all).saturating_sub(ours().saturating_sub(self.ours));
        float(theirs) / (self.since.elapsed().as_secs_f64() * ticks * cores)
    }
}

/// What all processes took, in ticks: proc(5), `/proc/stat`. Not what the kernel does for all together, such
/// as the network's; but what a hypervisor gave to somebody else.
fn all() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let fields: Vec<u64> =
        stat.lines().next().unwrap().split_whitespace().skip(1).map(|field| field.parse().unwrap()).collect();
    let [user, nice, system, _idle, _waits, _irq, _softirq, steal, ..] = fields.as_slice() else {
        panic!("/proc/stat says {stat}");
    };
    user + nice + system + steal
}

/// What this process and those that it started took, also those that have ended.
fn ours() -> u64 {
    let mut parents = HashMap::new();
    let mut spent = HashMap::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let name = entry.unwrap().file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // It may have ended meanwhile.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // After the program's name, which may hold anything: proc(5), fields 3 and on.
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let number = |field: usize| fields[field - 3].parse::<u64>().unwrap();
        parents.insert(pid, fields[1].parse::<u32>().unwrap());
        spent.insert(pid, (14..=17).map(number).sum::<u64>());
    }
    let us = std::process::id();
    let is_ours = |mut pid: u32| loop {
        if pid == us {
            return true;
        }
        match parents.get(&pid) {
            Some(&parent) if parent != pid && parent != 0 => pid = parent,
            _ => return false,
        }
    };
    spent.iter().filter(|(pid, _)| is_ours(**pid)).map(|(_, spent)| spent).sum()
}
