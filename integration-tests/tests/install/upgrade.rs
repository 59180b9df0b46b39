//! The agent replaced by a signed command, on machines with systemd: good versions, bad ones, a power loss in
//! the middle, and who may not ask for it.

use std::fs;
use std::path::{Path, PathBuf};

use integration_tests::daemon::until;
use integration_tests::fleet::Fleet;
use integration_tests::listed::Listed;
use integration_tests::machine::{Lan, Machine, repository};
use serde_json::Value;

use crate::package::{NOTE, connected, definition, enroll, package};

const DEB: &str = "agent-deb-amd64";
const PROGRAM: &str = "agent-program-amd64";

/// A fleet whose server has packages of agents.
struct Scene {
    lan: Lan,
    listed: Listed,
}

impl Scene {
    fn new() -> Self {
        let lan = Lan::new();
        let listed = lan.on_hub(|| {
            let mut listed = Listed::over(Lan::unmade_fleet());
            listed.publish("1", 10);
            listed.start();
            listed
        });
        Self { lan, listed }
    }

    fn fleet(&self) -> &Fleet {
        &self.listed.fleet
    }

    fn writ(&self, words: &[&str]) -> integration_tests::daemon::Said {
        self.lan.on_hub(|| self.fleet().writ(words))
    }

    /// Publishes a version of the agent and has the server fetch it.
    fn publish(&self, component: &str, version: &str, file: &Path) {
        let file = file.display().to_string();
        self.lan.on_hub(|| {
            self.listed.repo("add", &["--component", component, "--component-version", version, &file]);
            self.listed.repo("publish", &[]);
            let _synced = self.fleet().call("UpdateService/Sync", "{}").ok();
        });
    }

    /// Sends it and waits; how it went at one agent.
    fn upgrade(&self, version: &str, agent: &str, more: &[&str]) -> Value {
        let words = ["--output", "json", "send", "upgrade", "--version", version, "--agent", agent, "--wait"];
        let said = self.writ(&[words.as_slice(), more].concat());
        serde_json::from_str::<Value>(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))["targets"]
            [0]
        .clone()
    }

    /// Sends it and does not wait; the command.
    fn begin(&self, version: &str, agent: &str, more: &[&str]) -> String {
        let words = ["--output", "json", "send", "upgrade", "--version", version, "--agent", agent];
        let sent = self.writ(&[words.as_slice(), more].concat()).ok().json();
        sent["command_id"].as_str().unwrap().to_owned()
    }

    fn result(&self, command: &str) -> Value {
        self.lan.on_hub(|| self.fleet().json(&["commands", "show", command]))["targets"][0].clone()
    }

    /// That an agent obeys, and how often it has.
    fn obeys(&self, machine: &Machine, word: &str) {
        let given = format!("word={word}");
        let words = ["send", "action", "note", &given, "--agent", &machine.name, "--wait"];
        let sent = self.lan.on_hub(|| self.fleet().json(&words));
        assert_eq!(sent["done"], 1, "{sent:#}");
        let said = machine.sh("cat /var/lib/writ/agent/notes").ok().stdout;
        assert_eq!(said.lines().filter(|line| *line == word).count(), 1, "{said}");
    }
}

fn version(machine: &Machine, program: &str) -> String {
    machine.sh(&format!("{program} --version")).ok().stdout.trim().replace("writ-agent ", "")
}

fn standing(machine: &Machine) -> Value {
    let said = machine.sh("cat /var/lib/writ-upgrade/standing.json");
    serde_json::from_str(&said.stdout).unwrap_or_default()
}

/// Cuts the power as soon as an upgrade is at a step.
fn lose_power_while(machine: &mut Machine, command: &str, phases: &[&str]) {
    let at = |machine: &Machine| {
        let standing = standing(machine);
        let phase = standing["phase"].as_str().unwrap_or_default().to_owned();
        standing["command_id"] == command && phases.contains(&phase.as_str())
    };
    until("the upgrade does not come to that step", || at(machine));
    machine.lose_power();
    machine.boot();
}

/// The package of the later version, changed: a version that says so in its fields.
fn changed(scene: &Scene, version: &str, change: impl FnOnce(&Path)) -> PathBuf {
    let tree = scene.fleet().path(&format!("tree-{version}"));
    let next = repository().join("target/install/next.deb");
    let tool = |words: &[&str]| {
        let _made = scene.fleet().run_tool("dpkg-deb", words).ok();
    };
    tool(&["--raw-extract", next.to_str().unwrap(), tree.to_str().unwrap()]);
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    fs::write(&control, text.replace("Version: 9.0.0", &format!("Version: {version}"))).unwrap();
    change(&tree);
    let made = scene.fleet().path(&format!("{version}.deb"));
    tool(&["--root-owner-group", "-Zgzip", "--build", tree.to_str().unwrap(), made.to_str().unwrap()]);
    made
}

fn next() -> PathBuf {
    repository().join("target/install/next.deb")
}

/// A machine with the package, enrolled, with the action `note`, and started.
fn installed(scene: &Scene, name: &str) -> Machine {
    let machine = Machine::new(&scene.lan, name);
    machine.put("/root/writ-agent.deb", &package("writ-agent"), 0o644);
    machine.sh("dpkg -i /root/writ-agent.deb").ok();
    enroll(&scene.lan, scene.fleet(), &machine);
    noting(&machine);
    machine.sh("systemctl start writ-agent").ok();
    connected(&scene.lan, scene.fleet(), name);
    machine
}

fn noting(machine: &Machine) {
    machine.put("/usr/local/bin/note", NOTE.as_bytes(), 0o755);
    machine.put("/etc/writ/actions.d/note.toml", definition("/usr/local/bin/note", "").as_bytes(), 0o644);
}

/// As root of the host says it.
fn allow(scene: &Scene, machine: &Machine) {
    let said = machine.sh("PATH=$PATH:/usr/local/bin writ-agent upgrade allow").ok();
    assert!(said.stdout.contains("systemctl restart writ-agent"), "{said:?}");
    machine.sh("systemctl restart writ-agent").ok();
    connected(&scene.lan, scene.fleet(), &machine.name);
    let shows = || {
        let shown = scene.lan.on_hub(|| scene.fleet().json(&["agents", "show", &machine.name]));
        shown["actions"].to_string().contains("upgrade")
    };
    until("it is not reported", shows);
}

#[test]
fn a_package_that_does_not_greet_is_taken_back_and_a_good_one_stays_through_a_power_loss() {
    let scene = Scene::new();
    let mut web1 = installed(&scene, "web1");
    let agent = "/usr/bin/writ-agent";
    scene.publish(DEB, "9.0.0", &next());

    // Nobody but root of the host allows it.
    let said = scene.writ(&["send", "upgrade", "--version", "9.0.0", "--agent", "web1"]);
    assert!(said.code != 0 && said.stderr.contains("writ-agent upgrade allow"), "{said:?}");
    let refused = scene.upgrade("9.0.0", "web1", &["--unchecked"]);
    assert_eq!(refused["refusal_code"], "action_not_allowed", "{refused}");
    let said = web1.sh("runuser -u writ-agent -- writ-agent upgrade allow");
    assert!(said.code == 64 && said.stderr.contains("only root"), "{said:?}");
    allow(&scene, &web1);
    let shown = scene.writ(&["actions", "show", "upgrade"]).ok().stdout;
    assert!(shown.contains(&format!("package: one of {DEB}")), "{shown}");
    let said = scene.writ(&["send", "upgrade", "--version", "8.0.0", "--agent", "web1"]);
    assert!(said.code != 0 && said.stderr.contains(&format!("{DEB} 9.0.0")), "{said:?}");
    scene.obeys(&web1, "before");

    // What the host's owner changed stays, whatever comes and goes.
    web1.sh("echo '# mine' >> /etc/writ/agent.toml").ok();
    let mine = "tail -1 /etc/writ/agent.toml";
    let pages = web1.sh("find /usr/share/man /usr/share/doc/writ-agent | sort | sha256sum").ok().stdout;
    let answers = |tree: &Path, version: &str, run: &str| {
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = --version ] && echo writ-agent {version} && exit\n[ \"$1\" = upgrade ] && exit\n{run}\n"
        );
        fs::write(tree.join("usr/bin/writ-agent"), script).unwrap();
    };
    for (version, says, file) in [
        ("9.1.0", "the new program does not start", {
            changed(&scene, "9.1.0", |tree| answers(tree, "9.1.0", "exit 1"))
        }),
        ("9.0.0", "version 9.0.0 did not greet its server within 10s", {
            changed(&scene, "9.0.0", |tree| {
                let folder = tree.join("usr/lib/systemd/system/writ-agent.service.d");
                fs::create_dir_all(&folder).unwrap();
                fs::write(
                    folder.join("deaf.conf"),
                    "[Service]\nRestrictAddressFamilies=\nRestrictAddressFamilies=AF_UNIX\n",
                )
                .unwrap();
            })
        }),
        ("9.2.0", "bad unit file setting", {
            changed(&scene, "9.2.0", |tree| {
                answers(tree, "9.2.0", "exit 1");
                let unit = tree.join("usr/lib/systemd/system/writ-agent.service");
                let text = fs::read_to_string(&unit).unwrap();
                let kept = text.lines().filter(|line| !line.starts_with("ExecStart="));
                fs::write(&unit, kept.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
            })
        }),
        ("9.3.0", "the package of version 9.3.0 holds a program that says it is 9.0.0", {
            changed(&scene, "9.3.0", |tree| {
                let (agent, beside) = (tree.join("usr/bin/writ-agent"), tree.join("usr/bin/writ-agent-9"));
                fs::rename(&agent, &beside).unwrap();
                answers(tree, "9.3.0", "exec /usr/bin/writ-agent-9 \"$@\"");
                fs::set_permissions(&agent, fs::metadata(&beside).unwrap().permissions()).unwrap();
            })
        }),
        ("9.4.0", "dpkg", {
            changed(&scene, "9.4.0", |tree| {
                answers(tree, "9.4.0", "exit 1");
                fs::write(tree.join("DEBIAN/postinst"), "#!/bin/sh\nexit 3\n").unwrap();
            })
        }),
        ("9.5.0", "what came as version 9.5.0 says that it is 9.0.0", changed(&scene, "9.5.0", |_| {})),
        ("9.6.0", "its package is `tool`, not `writ-agent`", {
            changed(&scene, "9.6.0", |tree| {
                let control = tree.join("DEBIAN/control");
                let text = fs::read_to_string(&control).unwrap();
                fs::write(&control, text.replace("Package: writ-agent", "Package: tool")).unwrap();
            })
        }),
    ] {
        scene.publish(DEB, version, &file);
        let failed = scene.upgrade(version, "web1", &["--greet-within", "10s"]);
        let told = failed["detail"].as_str().unwrap_or_default();
        assert!(failed["ending"] == "failed" && told.contains(says), "{version}: {failed:#}");
        let ends = if version < "9.5.0" { "0.1.0 is installed again" } else { "nothing was changed" };
        assert!(told.ends_with(ends), "{failed:#}");
        assert_eq!(self::version(&web1, agent), "0.1.0", "{version}");
        let known = web1.sh("dpkg-query -W -f '${Status} ${Version}' writ-agent").ok().stdout;
        assert_eq!(known, "install ok installed 0.1.0", "{version}");
        assert_eq!(web1.sh(mine).ok().stdout, "# mine\n", "{version}");
        web1.sh("test ! -e /usr/lib/systemd/system/writ-agent.service.d && test ! -e /usr/bin/writ-agent-9")
            .ok();
        connected(&scene.lan, scene.fleet(), "web1");
        scene.obeys(&web1, version);
    }
    let now = web1.sh("find /usr/share/man /usr/share/doc/writ-agent | sort | sha256sum").ok().stdout;
    assert_eq!(pages, now, "taken back is as it was");

    let shown = web1.sh("runuser -u writ-agent -- writ-agent status").ok().stdout;
    assert!(shown.contains(&format!("by {DEB}; the last, to 9.6.0: refused: its package")), "{shown}");

    // The power goes while a good one comes, and while a bad one is taken back.
    scene.publish(DEB, "9.0.0", &next());
    let command = scene.begin("9.0.0", "web1", &[]);
    lose_power_while(&mut web1, &command, &["installing", "waiting"]);
    until("no answer", || scene.result(&command)["state"] == "done");
    let done = scene.result(&command);
    assert_eq!(done["ending"], "done", "{done:#}");
    assert_eq!(version(&web1, agent), "9.0.0");
    assert_eq!(version(&web1, "/var/lib/writ-upgrade/writ-agent"), "9.0.0");
    scene.obeys(&web1, "good");
    assert_eq!(web1.sh(mine).ok().stdout, "# mine\n");
    let late = changed(&scene, "9.7.0", |tree| answers(tree, "9.7.0", "exit 1"));
    scene.publish(DEB, "9.7.0", &late);
    let command = scene.begin("9.7.0", "web1", &["--greet-within", "10s"]);
    lose_power_while(&mut web1, &command, &["taking_back", "returning"]);
    until("no answer", || scene.result(&command)["ending"] != "");
    let failed = scene.result(&command);
    assert_eq!(failed["ending"], "failed", "{failed:#}");
    assert_eq!(version(&web1, agent), "9.0.0");
    scene.obeys(&web1, "back");

    // What is there already is, and what is older has to be asked for.
    scene.publish(DEB, "9.0.0", &next());
    let done = scene.upgrade("9.0.0", "web1", &[]);
    assert_eq!(done["detail"], "9.0.0 is installed already", "{done:#}");
    let done = scene.upgrade("9.0.0", "web1", &["--allow-older"]);
    assert_eq!(done["detail"], "9.0.0 is installed and greets; before: 9.0.0", "{done:#}");
    let old = repository().join("target/dist/writ-agent_0.1.0_amd64.deb");
    scene.publish(DEB, "0.1.0", &old);
    let refused = scene.upgrade("0.1.0", "web1", &[]);
    assert!(refused["detail"].as_str().unwrap().contains("0.1.0 is not later than 9.0.0"), "{refused:#}");
    let done = scene.upgrade("0.1.0", "web1", &["--allow-older"]);
    assert_eq!(done["ending"], "done", "{done:#}");
    assert_eq!(version(&web1, agent), "0.1.0");

    // Root's side believes nobody who was broken into.
    let before = standing(&web1);
    let asks = |what: &str| {
        let script = format!("cd /var/lib/writ/agent && echo evil > upgrade-package && {what}");
        web1.put("/root/ask", script.as_bytes(), 0o755);
        web1.sh("install -m 755 /root/ask /usr/local/bin/ask; runuser -u writ-agent -- /usr/local/bin/ask")
            .ok();
        until("it is not looked at", || web1.sh("test -e /var/lib/writ/agent/upgrade-request").code == 1);
        until("it does not end", || {
            web1.sh("systemctl is-active writ-agent-upgrade").stdout.trim() == "inactive"
        });
        assert_eq!(version(&web1, agent), "0.1.0");
    };
    asks("echo nonsense > upgrade-request");
    asks("ln -s /etc/shadow upgrade-request");
    assert_eq!(standing(&web1), before);
    let claimed = "018f0000-0000-7000-8000-000000000001";
    asks(&format!("echo '{{\"command_id\":\"{claimed}\",\"delivery\":\"0a00\"}}' > upgrade-request"));
    let after = standing(&web1);
    assert_eq!((&after["phase"], &after["command_id"]), (&"refused".into(), &claimed.into()), "{after}");
    assert_eq!(after["issued_at_ms"], before["issued_at_ms"]);

    // Nor does root take their word for whom to believe.
    let fleet = scene.lan.on_hub(|| scene.fleet().json(&["trust", "bundles"]));
    let digest = fleet[0]["digest"].as_str().unwrap();
    let pinned = "/var/lib/writ-upgrade/allowed.json";
    let said = web1.sh(&format!("writ-agent upgrade allow --bundle {}", "1".repeat(64))).failed(1);
    assert!(said.stderr.contains("does not follow from bundle 1111"), "{said:?}");
    for (was, is) in [(digest, "0".repeat(64)), ("default", "other".to_owned())] {
        web1.sh(&format!("sed -i.kept s/{was}/{is}/ {pinned} && ! cmp -s {pinned} {pinned}.kept")).ok();
        let said = web1.sh(&format!("writ-agent upgrade allow --bundle {digest}")).failed(1);
        assert!(said.stderr.contains("writ-agent upgrade forbid, and then"), "{said:?}");
        web1.sh(&format!("mv {pinned}.kept {pinned}")).ok();
    }
    web1.sh("writ-agent upgrade allow && writ-agent upgrade forbid").ok();
    web1.sh(&format!("writ-agent upgrade allow --bundle {digest} && grep -q {digest} {pinned}")).ok();
    let trust = "/var/lib/writ/agent/trust.chain";
    web1.sh(&format!("mv {trust} {trust}.aside && ln -s /dev/zero {trust}")).ok();
    let said = web1.sh("writ-agent upgrade allow").failed(1);
    assert!(said.stderr.contains("trust.chain"), "{said:?}");
    web1.sh(&format!("mv {trust}.aside {trust}")).ok();

    // Purged, it leaves nothing of that.
    web1.sh("dpkg --purge writ-agent").ok();
    let left = web1.sh("ls /var/lib/writ-upgrade /etc/systemd/system/writ-agent-upgrade.* 2>/dev/null");
    assert_eq!(left.stdout, "");
}

/// What a host without the package has: one program, and a unit.
fn bare(scene: &Scene, name: &str) -> Machine {
    let machine = Machine::new(&scene.lan, name);
    let program = fs::read(repository().join("target/dist/writ-agent")).unwrap();
    machine.put("/usr/local/bin/writ-agent", &program, 0o755);
    let unit = fs::read_to_string(repository().join("deploy/systemd/writ-agent.service")).unwrap();
    let unit = unit.replace("/usr/bin/writ-agent", "/usr/local/bin/writ-agent");
    machine.put("/etc/systemd/system/writ-agent.service", unit.as_bytes(), 0o644);
    machine.sh("useradd --system writ-agent && install -d -o writ-agent -g writ-agent -m 700 /var/lib/writ/agent && mkdir -p /etc/writ/actions.d").ok();
    let token = scene.lan.on_hub(|| fs::read_to_string(scene.fleet().token(1)).unwrap());
    let enrolled = machine
        .sh_with_input("runuser -u writ-agent -- /usr/local/bin/writ-agent enroll --token-file -", &token);
    assert!(enrolled.ok().stdout.contains(name));
    noting(&machine);
    machine.sh("systemctl enable --now writ-agent").ok();
    connected(&scene.lan, scene.fleet(), name);
    machine
}

#[test]
fn a_bad_program_stops_its_rollout_at_the_canary_and_a_good_one_reaches_all() {
    let scene = Scene::new();
    let machines = [bare(&scene, "web1"), bare(&scene, "web2")];
    let agent = "/usr/local/bin/writ-agent";
    for machine in &machines {
        allow(&scene, machine);
    }
    // It says its version, starts, and greets nobody.
    let silent = scene.fleet().path("silent");
    let script = "#!/bin/sh\n[ \"$1\" = --version ] && echo writ-agent 9.1.0 && exit\n[ \"$1\" = upgrade ] && exit\nsystemd-notify --ready; exec sleep 1d\n";
    fs::write(&silent, script).unwrap();
    scene.publish(PROGRAM, "9.1.0", &silent);
    let waves = ["--all", "--canary", "1", "--greet-within", "10s", "--wait", "--output", "json"];
    let said = scene.writ(&[["send", "upgrade", "--version", "9.1.0"].as_slice(), &waves].concat());
    assert_ne!(said.code, 0, "{said:?}");
    let rollouts = scene.lan.on_hub(|| scene.fleet().json(&["rollouts", "list"]));
    let stopped = &rollouts[0];
    assert_eq!((&stopped["state"], &stopped["released"]), (&"stopped".into(), &1.into()), "{rollouts:#}");
    for machine in &machines {
        assert_eq!(version(machine, agent), "0.1.0", "{}", machine.name);
        connected(&scene.lan, scene.fleet(), &machine.name);
        scene.obeys(machine, "after");
    }

    let next = repository().join("target/install/next/target/dist/writ-agent");
    scene.publish(PROGRAM, "9.0.0", &next);
    let said = scene.writ(&[["send", "upgrade", "--version", "9.0.0"].as_slice(), &waves].concat()).ok();
    assert_eq!(said.json()["done"], 2, "{said:?}");
    for machine in &machines {
        assert_eq!(version(machine, agent), "9.0.0", "{}", machine.name);
        scene.obeys(machine, "good");
    }

    // Taken back by root, it is refused again.
    machines[0].sh(&format!("{agent} upgrade forbid && systemctl restart writ-agent")).ok();
    connected(&scene.lan, scene.fleet(), "web1");
    let refused = scene.upgrade("9.0.0", "web1", &["--unchecked", "--allow-older"]);
    assert_eq!(refused["refusal_code"], "action_not_allowed", "{refused}");
}
