//! What is measured, and how.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use integration_tests::fleet::{Build, Fleet};
use integration_tests::intruder::{Intruder, altered};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use tokio::sync::Semaphore;

use crate::admin::Admin;
use crate::figures::{count, float, median, now, percentile, progress};
use crate::process::{Swarm, cpu, rss_kb, wake_ups};
use crate::table::{Figure, Goal};

/// Fan-outs of which the median is told.
const FAN_OUTS: usize = 5;
/// Commands to one real agent, one after the other.
const LATENCIES: usize = 1000;
/// Commands one agent obeys until its memory is looked at, and how long it is idle then.
const OBEYED: usize = 100_000;
/// Commands watched to their end at the same time; a connection has 64 streams.
const WATCHED: usize = 32;
const IDLE: Duration = Duration::from_secs(120);
/// Entities under one Control Manager.
const ENTITIES: usize = 200;
/// Distinct commands, so many of them under way.
const DISTINCT: usize = 20_000;
const UNDER_WAY: usize = 256;

/// A new fleet whose server logs no line for each receipt.
fn fleet() -> Fleet {
    let mut fleet = Fleet::unmade(Build::Shipped);
    fleet.log_filter = "writ_server=warn,writ_server::app=info".to_owned();
    fleet.leave_the_road();
    fleet.init().ok();
    fleet.start_server(None);
    fleet.add_context();
    fleet
}

pub(crate) async fn all(agents: usize, reconnecting: usize, only: &str) -> Vec<Figure> {
    let mut figures = Vec::new();
    let wants = |name: &str| name.contains(only);
    if wants("crypto") {
        crypto(&mut figures);
    }
    if wants("latency") {
        latency(&mut figures).await;
    }
    if wants("lists") {
        crate::lists::measure(&mut figures);
    }
    if wants("scan") {
        // It waits for programs, which a thread of its own may.
        let measured = tokio::task::spawn_blocking(|| {
            let mut figures = Vec::new();
            crate::scan::measure(&mut figures);
            figures
        });
        figures.extend(measured.await.unwrap());
    }
    if wants("footprint") {
        footprint(&mut figures).await;
    }
    if wants("flood") {
        // The villain has a runtime of its own.
        figures.push(tokio::task::spawn_blocking(flood).await.unwrap());
    }
    if wants("fanout") {
        fan_out(&mut figures, agents).await;
    }
    if wants("distribution") {
        crate::distribution::measure(&mut figures, agents).await;
    }
    if wants("rotation") {
        rotation(&mut figures, agents).await;
    }
    if wants("manager") {
        crate::manager::measure(&mut figures, ENTITIES).await;
    }
    if wants("reconnect") {
        reconnect(&mut figures, reconnecting).await;
    }
    figures
}

fn crypto(figures: &mut Vec<Figure>) {
    progress("one Ed25519 verification");
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let message = [1; 300];
    #[expect(clippy::disallowed_methods, reason = "what is measured is the primitive itself")]
    let signature = pair.sign(&message);
    let key = UnparsedPublicKey::new(&ED25519, pair.public_key().as_ref().to_vec());
    let rounds = 20_000;
    let start = now();
    for _ in 0..rounds {
        #[expect(clippy::disallowed_methods, reason = "what is measured is the primitive itself")]
        key.verify(std::hint::black_box(&message), signature.as_ref()).unwrap();
    }
    let each = start.elapsed().as_secs_f64() * 1e6 / float(rounds);
    figures.push(Figure {
        name: "ed25519_verify_us",
        value: each,
        unit: "µs",
        goal: None,
        how: format!("ring, one core, mean of {rounds}"),
    });
}

/// One real agent with its journal on disk.
async fn latency(figures: &mut Vec<Figure>) {
    progress("one real agent, commands one after the other");
    let fleet = fleet();
    let agent = fleet.agent("rome");
    let admin = Admin::connect(&fleet).await;
    let mut all = Vec::with_capacity(LATENCIES);
    for _ in 0..LATENCIES {
        let start = now();
        let command = admin.ping(Vec::new()).await;
        assert_eq!(admin.finish(&command).await, 1);
        all.push(start.elapsed().as_secs_f64() * 1e3);
    }
    all.sort_by(f64::total_cmp);
    let how =
        format!("{LATENCIES} pings, submit to durable receipt seen by a watcher; TLS, both disks synced");
    figures.push(Figure {
        name: "latency_p50_ms",
        value: percentile(&all, 50),
        unit: "ms",
        goal: Some(Goal::AtMost(3.0)),
        how: how.clone(),
    });
    figures.push(Figure { name: "latency_p99_ms", value: percentile(&all, 99), unit: "ms", goal: None, how });
    drop(agent);
}

/// One real agent, as it is installed: what it takes up on a host of somebody else's.
async fn footprint(figures: &mut Vec<Figure>) {
    progress(&format!("one real agent, {OBEYED} commands"));
    let mut fleet = fleet();
    fleet.agent_config = format!("[journal]\nmax_entries = {}\n", OBEYED * 2);
    let agent = fleet.agent("rome");
    let (fresh, admin) = (rss_kb(agent.pid()), Admin::connect(&fleet).await);
    let places = Arc::new(Semaphore::new(WATCHED));
    let start = now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..OBEYED {
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let admin = admin.clone();
        tasks.spawn(async move {
            let _place = place;
            let command = admin.ping(Vec::new()).await;
            assert_eq!(admin.finish(&command).await, 1);
        });
        while tasks.try_join_next().is_some() {}
    }
    tasks.join_all().await;
    let seconds = start.elapsed().as_secs_f64();
    figures.push(Figure {
        name: "agent_rss_mb",
        value: float(rss_kb(agent.pid())) / 1024.0,
        unit: "MB",
        goal: Some(Goal::AtMost(8.0)),
        how: format!(
            "the installed agent after {OBEYED} commands, {:.0} a second, all in its journal; {:.1} MB when it started",
            count(OBEYED) / seconds,
            float(fresh) / 1024.0
        ),
    });
    let program = std::fs::metadata(integration_tests::fleet::binary("writ-agent")).unwrap().len();
    figures.push(Figure {
        name: "agent_binary_mb",
        value: float(program) / 1e6,
        unit: "MB",
        goal: Some(Goal::AtMost(8.0)),
        how: "static, stripped".to_owned(),
    });
    progress(&format!("the same agent, idle for {} s", IDLE.as_secs()));
    // What the commands left to do first.
    tokio::time::sleep(IDLE / 6).await;
    let (woken, used) = (wake_ups(agent.pid()), cpu(agent.pid()));
    tokio::time::sleep(IDLE).await;
    figures.push(Figure {
        name: "agent_idle_wakeups_per_min",
        value: float(wake_ups(agent.pid()) - woken) * 60.0 / IDLE.as_secs_f64(),
        unit: "/min",
        goal: None,
        how: format!(
            "context switches of all threads in {} s, with a heartbeat each 30 s; {:.2} ms of CPU in that time",
            IDLE.as_secs(),
            (cpu(agent.pid()) - used).as_secs_f64() * 1e3
        ),
    });
}

/// Forged commands a second, each with a listed key's id, so that each costs the agent a verification.
const FORGED_A_SECOND: u32 = 1000;
/// Honest commands measured with and without them.
const HONEST: usize = 500;

/// Honest commands to one real agent while somebody between it and the server forges others.
fn flood() -> Figure {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    progress("one real agent, a villain in the middle");
    let fleet = Fleet::new(Build::Shipped);
    let _agent = fleet.agent("rome");
    let rome = fleet.agent_id("rome").parse().unwrap();
    let villain = Arc::new(Intruder::in_the_middle(&fleet.road, &fleet.path("server")));
    villain.wait_for_session(rome);
    let admin = runtime.block_on(Admin::connect(&fleet));
    let quiet = runtime.block_on(p99_of(&admin));
    let genuine = villain.wait_for_deliveries(rome, 1).remove(0);
    let is_over = Arc::new(AtomicBool::new(false));
    let (flooding, stop) = (Arc::clone(&villain), Arc::clone(&is_over));
    let thread = std::thread::spawn(move || {
        let mut sent = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            flooding.deliver(rome, altered(&genuine));
            sent += 1;
            std::thread::sleep(Duration::from_secs(1) / FORGED_A_SECOND);
        }
        sent
    });
    let start = now();
    let flooded = runtime.block_on(p99_of(&admin));
    let seconds = start.elapsed().as_secs_f64();
    is_over.store(true, Ordering::Relaxed);
    let forged = thread.join().unwrap();
    let rate = float(forged) / seconds;
    Figure {
        name: "flood_p99_ratio",
        value: flooded / quiet,
        unit: "",
        goal: Some(Goal::AtMost(2.0)),
        how: format!(
            "p99 of {HONEST} honest pings to one real agent under {rate:.0} forged commands a second ({flooded:.2} ms), by the same without ({quiet:.2} ms)"
        ),
    }
}

async fn p99_of(admin: &Admin) -> f64 {
    let mut all = Vec::with_capacity(HONEST);
    for _ in 0..HONEST {
        let start = now();
        let command = admin.ping(Vec::new()).await;
        assert_eq!(admin.finish(&command).await, 1);
        all.push(start.elapsed().as_secs_f64() * 1e3);
    }
    all.sort_by(f64::total_cmp);
    percentile(&all, 99)
}

async fn fan_out(figures: &mut Vec<Figure>, agents: usize) {
    for (agents, is_great) in [(agents.min(1000), false), (agents, true)] {
        progress(&format!("{agents} agents enrol and connect"));
        let fleet = fleet();
        let token = fleet.token(u32::try_from(agents).unwrap());
        let server = fleet.server().pid();
        let before = rss_kb(server);
        let mut swarm = Swarm::start(agents, &token);
        swarm.connected(agents).await;
        let admin = Admin::connect(&fleet).await;
        let connected = rss_kb(server);
        progress(&format!("{FAN_OUTS} commands to all {agents}"));
        let (mut seconds, mut micros) = (Vec::new(), Vec::new());
        for _ in 0..FAN_OUTS {
            let (start, spent) = (now(), cpu(server));
            let command = admin.ping(Vec::new()).await;
            let done = admin.finish(&command).await;
            seconds.push(start.elapsed().as_secs_f64());
            micros.push((cpu(server) - spent).as_secs_f64() * 1e6 / count(agents));
            assert_eq!(done, u64::try_from(agents).unwrap(), "every receipt is signed, verified and durable");
        }
        let how = "median of 5: one signed ping, every receipt signed, verified and committed; TLS; agents simulated, on the same cores, journal in memory";
        figures.push(Figure {
            name: if is_great { "fanout_10000_s" } else { "fanout_1000_s" },
            value: median(seconds),
            unit: "s",
            goal: is_great.then_some(Goal::AtMost(1.0)),
            how: format!("{agents} agents; {how}"),
        });
        if !is_great {
            continue;
        }
        figures.push(Figure {
            name: "server_cpu_us_per_receipt",
            value: median(micros),
            unit: "µs",
            goal: figures
                .iter()
                .find(|figure| figure.name == "ed25519_verify_us")
                .map(|verify| Goal::AtMost(verify.value * 2.0)),
            how: "CPU of the server's process in that time, by receipt; the goal is two verifications"
                .to_owned(),
        });
        figures.push(Figure {
            name: "server_rss_kb_per_agent",
            value: (float(connected) - float(before)) / count(agents),
            unit: "KB",
            goal: Some(Goal::AtMost(20.0)),
            how: format!(
                "growth of resident memory with {agents} sessions; kernel buffers of sockets are not in it"
            ),
        });
        distinct(figures, &fleet, &admin).await;
        figures.push(Figure {
            name: "server_rss_mb_after_all",
            value: float(rss_kb(server)) / 1024.0,
            unit: "MB",
            goal: None,
            how: "the server when all of that is done".to_owned(),
        });
    }
}

/// A new signing certificate, then a new authority, while commands flow.
async fn rotation(figures: &mut Vec<Figure>, agents: usize) {
    progress(&format!("{agents} agents enrol and connect"));
    let fleet = Arc::new(fleet());
    let token = fleet.token(u32::try_from(agents).unwrap());
    let mut swarm = Swarm::start(agents, &token);
    swarm.connected(agents).await;
    let admin = Admin::connect(&fleet).await;
    let listed = fleet.json(&["agents", "list"]);
    let ids: Vec<_> =
        listed.as_array().unwrap().iter().map(|row| row["agent_id"].as_str().unwrap().to_owned()).collect();
    let path = |name: &str| fleet.path(name).to_str().unwrap().to_owned();
    let (old, new, secret) = (path("server/authority.key.age"), path("new.key.age"), path("passphrase"));
    let _made = fleet.run("writ-server", &["authority", "create", &new, "--passphrase-file", &secret]).ok();
    let by_both = ["authority", "rotate", "--to", &new, "--authority", &old, "--authority", &new];
    for (name, change) in
        [("rotation_10000_s", ["cert", "create"].as_slice()), ("authority_rotation_10000_s", &by_both)]
    {
        progress(&change[..2].join(" "));
        let is_over = Arc::new(AtomicBool::new(false));
        let flow = {
            let (admin, is_over, ids) = (admin.clone(), Arc::clone(&is_over), ids.clone());
            async move {
                let mut sent = 0_usize;
                while !is_over.load(Ordering::Relaxed) {
                    let command = admin.ping(vec![ids[sent % ids.len()].clone()]).await;
                    assert_eq!(admin.finish(&command).await, 1);
                    sent += 1;
                }
                let command = admin.ping(Vec::new()).await;
                assert_eq!(admin.finish(&command).await, u64::try_from(agents).unwrap());
                sent
            }
        };
        let mut flow = tokio::task::JoinSet::from_iter([flow]);
        let whole = now();
        let before = admin.convergence().await.chain_version;
        let (keys, change) = (Arc::clone(&fleet), change.iter().map(|&word| word.to_owned()));
        let change: Vec<String> = change.collect();
        let command = tokio::task::spawn_blocking(move || {
            keys.keys(&change.iter().map(String::as_str).collect::<Vec<_>>()).ok()
        });
        let mut in_force = None;
        loop {
            let held = admin.convergence().await;
            if held.chain_version > before {
                in_force.get_or_insert_with(now);
                if held.newest == u64::try_from(agents).unwrap() {
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let seconds = in_force.map_or(0.0, |start| start.elapsed().as_secs_f64());
        let whole = whole.elapsed().as_secs_f64();
        let _made = command.await.unwrap();
        is_over.store(true, Ordering::Relaxed);
        let sent = flow.join_next().await.unwrap().unwrap();
        figures.push(Figure {
            name,
            value: seconds,
            unit: "s",
            goal: Some(Goal::AtMost(5.0)),
            how: format!(
                "{agents} connected agents, from when the server has the new bundle until each of them said that it holds it; {whole:.1} s with the command, which hashes passphrases; {sent} commands one after the other meanwhile and one to all afterwards, none refused"
            ),
        });
    }
    assert_eq!(swarm.ask()["enrolled"], agents, "nobody had to enrol again");
}

/// Many commands, each for another agent.
async fn distinct(figures: &mut Vec<Figure>, fleet: &Fleet, admin: &Admin) {
    progress(&format!("{DISTINCT} distinct commands"));
    let listed = fleet.json(&["agents", "list"]);
    let ids: Vec<_> =
        listed.as_array().unwrap().iter().map(|row| row["agent_id"].as_str().unwrap().to_owned()).collect();
    let places = Arc::new(Semaphore::new(UNDER_WAY));
    let start = now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..DISTINCT {
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let (admin, id) = (admin.clone(), ids[number % ids.len()].clone());
        tasks.spawn(async move {
            let _place = place;
            admin.ping(vec![id]).await
        });
    }
    let commands = tasks.join_all().await;
    let submitted = start.elapsed().as_secs_f64();
    // Receipts come in within milliseconds of each other; asked for one by one, the last says when all were
    // there.
    for command in &commands {
        assert_eq!(admin.finish(command).await, 1);
    }
    let all = start.elapsed().as_secs_f64();
    figures.push(Figure {
        name: "distinct_commands_per_s",
        value: count(DISTINCT) / submitted,
        unit: "/s",
        goal: Some(Goal::AtLeast(5000.0)),
        how: format!(
            "{DISTINCT} submits of one target each, {UNDER_WAY} under way on one connection, each signed, audited and committed; {all:.1} s until the last receipt was looked up"
        ),
    });
}

async fn reconnect(figures: &mut Vec<Figure>, agents: usize) {
    progress(&format!("{agents} agents enrol and connect"));
    let mut fleet = fleet();
    let token = fleet.token(u32::try_from(agents).unwrap());
    let mut swarm = Swarm::start(agents, &token);
    swarm.connected(agents).await;
    progress("kill -9 of the server, and a new one");
    let sent = Admin::connect(&fleet).await.ping(Vec::new()).await;
    fleet.kill_server();
    let start = now();
    fleet.start_server(None);
    swarm.connected(agents).await;
    let seconds = start.elapsed().as_secs_f64();
    fleet.add_context();
    let admin = Admin::connect(&fleet).await;
    let done = admin.finish(&sent).await;
    let settled = start.elapsed().as_secs_f64();
    let said = swarm.ask();
    assert_eq!(done, u64::try_from(agents).unwrap(), "nothing was lost");
    assert_eq!((&said["started"], &said["started_twice"]), (&agents.into(), &0.into()), "nothing ran twice");
    figures.push(Figure {
        name: "reconnect_15000_s",
        value: seconds,
        unit: "s",
        goal: Some(Goal::AtMost(15.0)),
        how: format!(
            "{agents} agents; from the kill, the server's start included; a command sent just before was answered by all, once, {settled:.1} s after the kill"
        ),
    });
}
