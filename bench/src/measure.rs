//! What is measured, and how.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use integration_tests::fleet::{Build, Fleet};
use integration_tests::intruder::{Intruder, altered};
use tokio::sync::Semaphore;

use crate::admin::Admin;
use crate::figures::{count, float, median, now, percentile, progress};
use crate::floor::{self, Floor, ratio};
use crate::others::Others;
use crate::process::{Swarm, cpu, rss_kb, wake_ups};
use crate::table::{Figure, Goal, Measured};

/// Fan-outs of which the median is told.
const FAN_OUTS: usize = 5;
/// How long the server may go on with a command after its last receipt is stored.
const SETTLED: Duration = Duration::from_secs(2);
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
pub(crate) fn fleet() -> Fleet {
    let mut fleet = Fleet::unmade(Build::Shipped);
    fleet.log_filter = "writ_server=warn,writ_server::app=info".to_owned();
    fleet.leave_the_road();
    fleet.init().ok();
    fleet.start_server(None);
    fleet.add_context();
    fleet
}

/// A measurement that waits without letting other tasks run.
type Blocking = fn(&mut Vec<Figure>);

/// One round of all measurements whose name contains `only`.
pub(crate) async fn round(agents: usize, reconnecting: usize, only: &str) -> Vec<Measured> {
    let mut measured = Vec::new();
    let mut figures = Vec::new();
    let others = Others::watch();
    let floor = floor::measure(&mut figures);
    // Whatever is judged by the floor is as good as it.
    let others_of_floor = others.share();
    note(&mut measured, figures, others_of_floor);
    // They wait for programs, or have a runtime of their own, which a thread of its own may.
    let blocking: [(_, Blocking); 3] =
        [("lists", crate::lists::measure), ("scan", crate::scan::measure), ("flood", flood)];
    for (name, measure) in blocking.into_iter().filter(|(name, _)| name.contains(only)) {
        progress(name);
        let others = Others::watch();
        let work = move || {
            let mut figures = Vec::new();
            measure(&mut figures);
            figures
        };
        let figures = tokio::task::spawn_blocking(work).await.unwrap();
        note(&mut measured, figures, others.share());
    }
    for name in ["latency", "footprint", "fanout", "distribution", "rotation", "manager", "reconnect"] {
        if !name.contains(only) {
            continue;
        }
        let (others, mut figures) = (Others::watch(), Vec::new());
        match name {
            "latency" => latency(&mut figures).await,
            "footprint" => footprint(&mut figures).await,
            "fanout" => fan_out(&mut figures, agents, reconnecting, &floor).await,
            "distribution" => crate::distribution::measure(&mut figures, agents).await,
            "rotation" => rotation(&mut figures, agents).await,
            "manager" => crate::manager::measure(&mut figures, ENTITIES).await,
            _ => crate::reconnect::measure(&mut figures, reconnecting).await,
        }
        note(&mut measured, figures, others.share().max(others_of_floor));
    }
    measured
}

fn note(measured: &mut Vec<Measured>, figures: Vec<Figure>, others: f64) {
    measured.extend(figures.into_iter().map(|figure| Measured { figure, others }));
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
    for (name, percent, most) in [("latency_p50_ms", 50, 2.5), ("latency_p99_ms", 99, 4.0)] {
        let (value, goal) = (percentile(&all, percent), Some(Goal::AtMost(most)));
        figures.push(Figure { name, value, unit: "ms", goal, how: how.clone() });
    }
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
        goal: Some(Goal::AtMost(5.0)),
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
    // What the commands left to do first: the last of their receipts are acknowledged with a heartbeat.
    tokio::time::sleep(IDLE / 3).await;
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
fn flood(figures: &mut Vec<Figure>) {
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
    figures.push(Figure {
        name: "flood_p99_ratio",
        value: flooded / quiet,
        unit: "",
        goal: Some(Goal::AtMost(2.0)),
        how: format!(
            "p99 of {HONEST} honest pings to one real agent under {rate:.0} forged commands a second ({flooded:.2} ms), by the same without ({quiet:.2} ms)"
        ),
    });
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

/// What one more agent costs with few agents, and with all of them.
struct Cost {
    seconds: f64,
    micros: f64,
    kilobytes: f64,
}

async fn fan_out(figures: &mut Vec<Figure>, agents: usize, most: usize, floor: &Floor) {
    let few = answered(figures, "fanout_1000_s", agents.min(1000), floor, false).await;
    let some = answered(figures, "fanout_2000_s", agents.min(2000), floor, false).await;
    let all = answered(figures, "fanout_10000_s", agents, floor, true).await;
    let great = answered(figures, "fanout_15000_s", most, floor, false).await;
    let answers = floor::answers(floor, u64::try_from(agents).unwrap());
    let how = "the fan-out to all, by two verifications and one signature for each agent on all cores";
    figures.push(ratio("fanout_by_crypto", all.seconds / answers, Goal::AtMost(1.6), how));
    let how = "CPU of the server's process for one receipt, by one verification";
    let verifications = floor.verifications(all.micros / 1e6);
    figures.push(ratio("receipt_by_verification", verifications, Goal::AtMost(2.0), how));
    let how = format!(
        "CPU of one receipt: {:.0} µs with {most} agents, {:.0} with {}, {:.0} with {}",
        great.micros,
        some.micros,
        agents.min(2000),
        few.micros,
        agents.min(1000)
    );
    figures.push(ratio("receipt_cpu_15000_by_2000", great.micros / some.micros, Goal::AtMost(1.0), &how));
    let how = format!(
        "memory of one agent: {:.1} KB with {most} agents, {:.1} with {}",
        great.kilobytes,
        some.kilobytes,
        agents.min(2000)
    );
    figures.push(ratio("agent_kb_15000_by_2000", great.kilobytes / some.kilobytes, Goal::AtMost(1.0), &how));
}

/// One command to so many agents; with `is_judged`, all that is asked of that many, and what comes after it.
async fn answered(
    figures: &mut Vec<Figure>,
    name: &'static str,
    agents: usize,
    floor: &Floor,
    is_judged: bool,
) -> Cost {
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
        // What is left to do when the last receipt is stored counts, too.
        tokio::time::sleep(SETTLED).await;
        micros.push((cpu(server) - spent).as_secs_f64() * 1e6 / count(agents));
        assert_eq!(done, u64::try_from(agents).unwrap(), "every receipt is signed, verified and durable");
    }
    let kilobytes = (float(connected) - float(before)) / count(agents);
    let cost = Cost { seconds: median(seconds), micros: median(micros), kilobytes };
    let how = format!(
        "{agents} agents; median of {FAN_OUTS}: one signed ping, every receipt signed, verified and committed; TLS; agents simulated, on the same cores, journal in memory"
    );
    figures.push(Figure { name, value: cost.seconds, unit: "s", goal: None, how });
    if !is_judged {
        return cost;
    }
    let how =
        format!("CPU of the server's process in that time and {} s more, by receipt", SETTLED.as_secs());
    let (name, value) = ("server_cpu_us_per_receipt", cost.micros);
    figures.push(Figure { name, value, unit: "µs", goal: None, how });
    figures.push(Figure {
        name: "server_rss_kb_per_agent",
        value: cost.kilobytes,
        unit: "KB",
        goal: Some(Goal::AtMost(20.0)),
        how: format!(
            "growth of resident memory with {agents} sessions; kernel buffers of sockets are not in it"
        ),
    });
    distinct(figures, &fleet, &admin, floor).await;
    figures.push(Figure {
        name: "server_rss_mb_after_all",
        value: float(rss_kb(server)) / 1024.0,
        unit: "MB",
        goal: Some(Goal::AtMost(300.0)),
        how: format!("the server with {agents} agents when all of that is done"),
    });
    cost
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
            goal: Some(Goal::AtMost(2.0)),
            how: format!(
                "{agents} connected agents, from when the server has the new bundle until each of them said that it holds it; {whole:.1} s with the command, which hashes passphrases; {sent} commands one after the other meanwhile and one to all afterwards, none refused"
            ),
        });
    }
    assert_eq!(swarm.ask()["enrolled"], agents, "nobody had to enrol again");
}

/// Many commands, each for another agent.
async fn distinct(figures: &mut Vec<Figure>, fleet: &Fleet, admin: &Admin, floor: &Floor) {
    progress(&format!("{DISTINCT} distinct commands"));
    let listed = fleet.json(&["agents", "list"]);
    let ids: Vec<_> =
        listed.as_array().unwrap().iter().map(|row| row["agent_id"].as_str().unwrap().to_owned()).collect();
    let rate = distinct_commands(admin, &ids).await;
    figures.push(Figure {
        name: "distinct_commands_per_s",
        value: rate,
        unit: "/s",
        goal: None,
        how: format!(
            "{DISTINCT} submits of one target each, {UNDER_WAY} under way on one connection, each signed, audited \
             and committed; until the receipts of the last {UNDER_WAY} were looked up"
        ),
    });
    let crypto = floor.seconds(2.0, 2.0);
    let how = "the least time in which all cores make two signatures and two verifications for each, by the time it took";
    figures.push(ratio("distinct_by_crypto", crypto * rate, Goal::AtLeast(0.5), how));
}

/// How many commands a second are answered, each for one of these agents in turn.
pub(crate) async fn distinct_commands(admin: &Admin, ids: &[String]) -> f64 {
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
    // Those under way last are the last to be answered.
    let (earlier, last) = commands.split_at(DISTINCT - UNDER_WAY);
    for command in last {
        assert_eq!(admin.finish(command).await, 1);
    }
    let seconds = start.elapsed().as_secs_f64();
    for command in earlier {
        assert_eq!(admin.finish(command).await, 1);
    }
    count(DISTINCT) / seconds
}
