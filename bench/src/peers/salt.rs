//! Salt: a master, minions on its own channels, and real ones. `bench/peers/salt_peer.py` measures.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::{FEW, MANY, Peer};
use crate::figures::progress;

/// Real minions: each takes 120 MB and a core for seconds.
const REAL: usize = 10;

pub(super) fn measure() -> Peer {
    let few = asked(FEW, REAL);
    let many = asked(MANY, 0);
    let of = |said: &Value, name: &str| said[name].as_f64().unwrap();
    Peer {
        name: "Salt",
        one_p50_ms: of(&few, "one_p50_ms"),
        one_p99_ms: of(&few, "one_p99_ms"),
        fanout_100_ms: of(&few, "fanout_s") * 1e3,
        fanout_1000_ms: of(&many, "fanout_s") * 1e3,
        commands_per_s: of(&few, "commands_per_s"),
        server_us_per_reply: of(&few, "server_cpu_us_per_reply"),
        kb_per_connection: None,
        notes: format!(
            "simulated minions; a real one answers in {:.0} ms, {REAL} in {:.0} ms; the master has {:.0} MB",
            of(&few, "real_one_p50_ms"),
            of(&few, "real_all_s") * 1e3,
            of(&few, "server_pss_kb") / 1024.0
        ),
    }
}

fn asked(simulated: usize, real: usize) -> Value {
    progress(&format!("Salt, {simulated} simulated minions and {real} real ones"));
    let folder = tempfile::tempdir().unwrap();
    #[expect(clippy::disallowed_methods, reason = "the peers are processes of their own")]
    let mut command = Command::new("python3");
    command.args(["bench/peers/salt_peer.py", "measure"]).arg(folder.path());
    command.args([simulated.to_string(), real.to_string()]).env("PYTHONPATH", "target/peers/python");
    let done = command.stderr(Stdio::null()).output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    let figures = said.lines().last().and_then(|line| serde_json::from_str(line).ok());
    figures.unwrap_or_else(|| panic!("Salt was not measured: {said}"))
}
