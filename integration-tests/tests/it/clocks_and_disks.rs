//! Machines with wrong clocks and full disks.

use integration_tests::daemon::until;
use integration_tests::fleet::{Build, Fleet, lines};
use writ_common::time::{Clock as _, SystemClock};

/// 2038-01-19T03:14:07Z, after which 32 bits of seconds begin anew; and the beginning of 1970.
const MOMENTS: [i64; 2] = [2_147_483_647, 0];

#[test]
fn the_clock_of_an_agents_host_decides_nothing_in_1970_and_in_2038() {
    let fleet = Fleet::new(Build::Testing);
    let _enrolled = fleet.enroll("rome", &fleet.token(1)).ok();
    let now = i64::try_from(SystemClock::new().wall().as_millis() / 1000).unwrap();
    for (number, moment) in (1_u64..).zip(MOMENTS) {
        std::fs::write(fleet.path("rome-clock"), (moment - now).to_string()).unwrap();
        let agent = fleet.start_agent("rome", None);
        let answered = fleet.json(&["send", "ping", "--all", "--wait"]);
        assert_eq!(answered["done"], 1);
        // Its receipt carries session time, which is the server's.
        let file = fleet.path(&format!("evidence-{number}.json"));
        let id = answered["command_id"].as_str().unwrap();
        let _exported = fleet.writ(&["evidence", "export", id, "--file", file.to_str().unwrap()]).ok();
        assert!(agent.stop().success());
    }
}

#[test]
fn a_server_whose_clock_jumps_a_year_signs_nothing_until_it_is_right_again() {
    let fleet = Fleet::new(Build::Testing);
    let agent = fleet.agent("rome");
    let jump = |seconds: i64| std::fs::write(fleet.path("server-clock"), seconds.to_string()).unwrap();
    jump(365 * 86_400);
    let said = fleet.writ(&["send", "ping", "--all"]);
    assert!(said.code == 7 && said.stderr.contains("the wall clock moved by"), "{said:?}");
    let why = fleet.writ(&["why", "rome"]);
    assert!(why.code == 1 && why.stdout.contains("the wall clock moved by"), "{why:?}");
    jump(0);
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
    assert_eq!(agent.count("session began"), 1, "nobody was stranded by it");
}

#[test]
fn a_server_whose_disk_is_full_stores_nothing_says_so_and_loses_nothing() {
    let mut fleet = Fleet::new(Build::Testing);
    let notes = fleet.allow("note", "echo \"$1\" >> \"$NOTES\"", "");
    let agent = fleet.agent("rome");
    let before = fleet.json(&["send", "action", "note", "word=before", "--all", "--wait"]);
    fleet.kill_server();
    // Files that may not grow much further are a disk without much room.
    let bytes = |name: &str| std::fs::metadata(fleet.path(name)).map_or(0, |file| file.len());
    let largest = bytes("server/writ.db").max(bytes("server/writ.db-wal"));
    fleet.start_cramped_server(u32::try_from(largest / 1024 + 64).unwrap());
    fleet.add_context();
    agent.wait_for_count("session began", 2);
    let mut sent = Vec::new();
    let refused = loop {
        let word = format!("word=note{}", sent.len());
        let said = fleet.writ(&["--output", "json", "send", "action", "note", &word, "--all"]);
        if said.code != 0 {
            break said;
        }
        sent.push(said.json()["command_id"].as_str().unwrap().to_owned());
        assert!(sent.len() < 2000, "the disk never filled up");
    };
    assert!(refused.code == 3 && refused.stderr.contains("cannot reach its store"), "{refused:?}");
    // Operators can still look.
    assert_eq!(fleet.json(&["agents", "list"]).as_array().unwrap().len(), 1);

    fleet.kill_server();
    fleet.start_server(None);
    fleet.add_context();
    for (number, id) in sent.iter().enumerate() {
        // The same request under the same id is the same command: this waits for it.
        let word = format!("word=note{number}");
        let waited = fleet.json(&["send", "action", "note", &word, "--all", "--wait", "--id", id]);
        assert_eq!(waited["done"], 1);
    }
    let after = fleet.json(&["send", "action", "note", "word=after", "--all", "--wait"]);
    assert_eq!((&before["done"], &after["done"]), (&1.into(), &1.into()));
    let mut noted = lines(&notes);
    let all = noted.len();
    noted.sort();
    noted.dedup();
    assert_eq!((noted.len(), all), (sent.len() + 2, sent.len() + 2), "each was started once");
    assert!(fleet.alerts("lost", "").is_empty() && fleet.alerts("contradicted", "").is_empty());
    let _holds = fleet.writ(&["audit", "verify"]).ok();
}

/// A small disk of its own for a server.
struct Disk(std::path::PathBuf);

impl Disk {
    fn new(fleet: &Fleet) -> Self {
        let place = fleet.path("server");
        std::fs::create_dir(&place).unwrap();
        let options = ["-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", place.to_str().unwrap()];
        let _mounted = fleet.run_tool("mount", &options).ok();
        Self(place)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        #[expect(clippy::disallowed_methods, reason = "tests start what they test against")]
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_server_on_a_full_disk_lives_and_is_not_ready_until_there_is_room_again() {
    let mut fleet = Fleet::unmade(Build::Shipped);
    let disk = Disk::new(&fleet);
    let _made = fleet.init().ok();
    fleet.start_server(None);
    fleet.add_context();
    let _rome = fleet.agent("rome");
    // The port is known by now.
    fleet.kill_server();
    fleet.start_again();
    let config = fleet.path("server.toml").display().to_string();
    let health =
        |how: &[&str]| fleet.run("writ-server", &[&["health", "--config", &config], how].concat()).code;
    assert_eq!((health(&[]), health(&["--ready"])), (0, 0));

    let filler = disk.0.join("filler");
    let said = fleet.run_tool("dd", &["if=/dev/zero", &format!("of={}", filler.display()), "bs=4096"]);
    assert!(said.stderr.contains("No space left"), "{said:?}");
    until("something is stored on a full disk", || fleet.writ(&["send", "ping", "--all"]).code == 3);
    until("it is ready although nothing can be stored", || health(&["--ready"]) == 1);
    assert_eq!(health(&[]), 0);
    assert_eq!(fleet.json(&["agents", "list"]).as_array().unwrap().len(), 1, "operators can look");

    std::fs::remove_file(filler).unwrap();
    until("it does not see that there is room", || health(&["--ready"]) == 0);
    assert_eq!(fleet.json(&["send", "ping", "--all", "--wait"])["done"], 1);
}
