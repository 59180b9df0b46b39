//! A list on its way to all agents of a fleet, and what commands feel of it.

use std::fmt::Write as _;

use integration_tests::fleet::{Build, Fleet};

use crate::admin::Admin;
use crate::figures::{count, float, now, percentile, progress};
use crate::process::{Swarm, cpu, forget_peak, peak_kb, rss_kb};
use crate::table::{Figure, Goal};

/// Values of the list: its filter has 2 MB.
const VALUES: u32 = 1_850_000;
/// Pings before, one after the other.
const PINGS: usize = 300;

/// A fleet whose server holds a list and its filter, and tells nobody by itself.
fn fleet() -> Fleet {
    let mut fleet = Fleet::unmade(Build::Shipped);
    fleet.log_filter = "writ_server=warn,writ_server::app=info".to_owned();
    fleet.leave_the_road();
    fleet.init().ok();
    let place = |name: &str| fleet.path(name).display().to_string();
    let [text, list, filter, repository, keys, passphrase] =
        ["values", "list", "filter", "repository", "keys", "passphrase"].map(place);
    let mut values = String::new();
    for number in 0..VALUES {
        writeln!(values, "{number:032x}{:032x}", number.wrapping_mul(2_654_435_761)).unwrap();
    }
    std::fs::write(&text, values).unwrap();
    let run = |arguments: &[&str]| fleet.run("writ-control-manager", arguments).ok();
    run(&["lists", "build", "--kind", "sha256", "--out", &list, "--filter", &filter, &text]);
    let places = ["--repository", &repository, "--keys", &keys];
    let repo = |verb: &str, more: &[&str]| run(&[&["repo", verb], places.as_slice(), more].concat());
    repo("init", &["--passphrase-file", &passphrase]);
    for (component, file) in [("file-reputation", &list), ("file-reputation-filter", &filter)] {
        repo("add", &["--component", component, "--component-version", "1", file]);
    }
    repo("publish", &[]);
    let config = "[updates]\nfor_agents = false\n";
    let (root, url) = (format!("{repository}/metadata/1.root.json"), format!("file://{repository}"));
    fleet.update_from(&url, &root).ok();
    fleet.keys(&["updates", "sync"]).ok();
    fleet.server_config = config.to_owned();
    fleet.start_server(None);
    fleet.add_context();
    fleet
}

pub(crate) async fn measure(figures: &mut Vec<Figure>, agents: usize) {
    progress("a list of 1,850,000 files and its filter");
    let fleet = fleet();
    progress(&format!("{agents} agents enrol and connect"));
    let token = fleet.token(u32::try_from(agents).unwrap());
    let server = fleet.server().pid();
    let mut swarm = Swarm::start(agents, &token);
    swarm.connected(agents).await;
    let admin = Admin::connect(&fleet).await;
    let agent = fleet.json(&["agents", "list"])[0]["agent_id"].as_str().unwrap().to_owned();
    let ping = async || {
        let begun = now();
        let command = admin.ping(vec![agent.clone()]).await;
        assert_eq!(admin.finish(&command).await, 1);
        begun.elapsed().as_secs_f64() * 1e3
    };
    let mut quiet = Vec::new();
    for _ in 0..PINGS {
        quiet.push(ping().await);
    }
    progress(&format!("its filter goes to all {agents}"));
    forget_peak(server);
    let (begun, spent, resident) = (now(), cpu(server), rss_kb(server));
    let command = admin.component("file-reputation-filter").await;
    let mut busy = Vec::new();
    let finished = admin.finish(&command);
    tokio::pin!(finished);
    let mut done = None;
    // The ping that is under way at the end counts too: it may be the slowest.
    while done.is_none() {
        let open = ping();
        tokio::pin!(open);
        loop {
            tokio::select! {
                answered = &mut finished, if done.is_none() => done = Some((answered, begun.elapsed())),
                took = &mut open => break busy.push(took),
            }
        }
    }
    let (answered, took) = done.unwrap();
    let seconds = took.as_secs_f64();
    assert_eq!(
        answered,
        u64::try_from(agents).unwrap(),
        "every agent has all bytes, and says so under its seal"
    );
    quiet.sort_by(f64::total_cmp);
    busy.sort_by(f64::total_cmp);
    let (quiet_p99, busy_p99) = (percentile(&quiet, 99), percentile(&busy, 99));
    let megabytes = std::fs::metadata(fleet.path("filter")).unwrap().len();
    let how = format!(
        "{agents} simulated agents on the same cores fetch a filter of {megabytes} bytes over TLS, and hash it"
    );
    figures.push(Figure { name: "distribution_s", value: seconds, unit: "s", goal: None, how });
    figures.push(Figure {
        name: "distribution_server_cpu_ms_per_agent",
        value: (cpu(server) - spent).as_secs_f64() * 1e3 / count(agents),
        unit: "ms",
        goal: None,
        how: "CPU of the server's process in that time".to_owned(),
    });
    figures.push(Figure {
        name: "distribution_server_rss_mb_more",
        value: (float(peak_kb(server).unwrap()) - float(resident)) / 1024.0,
        unit: "MB",
        goal: None,
        how: "the most resident memory of the server, beyond what it had before".to_owned(),
    });
    figures.push(Figure {
        name: "distribution_command_p99_ratio",
        value: busy_p99 / quiet_p99,
        unit: "",
        goal: Some(Goal::AtMost(2.0)),
        how: format!(
            "p99 of {} pings to one agent meanwhile, {busy_p99:.1} ms, to that of {PINGS} before, {quiet_p99:.1} ms",
            busy.len()
        ),
    });
}
