//! A fleet of real processes in a temporary folder: one server, any number of agents, an operator.
//!
//! Nothing here sleeps: a story waits for a line of a log or for a process to end, and gives up with the logs
//! when it waited too long. `KEEP=1` keeps the folder; a panic prints its path.

mod agents;
mod keys;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use serde_json::Value;
use tempfile::TempDir;

pub use crate::daemon::{Checkpoint, Daemon, PATIENCE, Said, binary};
use crate::daemon::{command, said};
use crate::ports::free_port;
use crate::python;
use crate::road::Road;

/// Which binaries a story runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// What users get.
    Shipped,
    /// With checkpoints and a clock that can be moved.
    Testing,
}

impl Build {
    fn suffix(self) -> &'static str {
        match self {
            Self::Shipped => "",
            Self::Testing => "-testing",
        }
    }
}

/// A fleet.
#[derive(Debug)]
pub struct Fleet {
    folder: TempDir,
    build: Build,
    /// Between the agents and the server.
    pub road: Road,
    /// The server, while it runs.
    pub server: Option<Daemon>,
    admin_port: u16,
    /// Where agents find the server without a road; 0: they take the road.
    direct_port: u16,
    /// Which address the server listens at for agents.
    pub agents_address: &'static str,
    /// Where the server listens for its Control Manager in two-way mode.
    pub notify_port: u16,
    /// Flags of every server.
    pub server_flags: Vec<String>,
    /// Lines added to every server's configuration.
    pub server_config: String,
    /// What every server logs.
    pub log_filter: String,
    /// Lines added to the table `actions` of every agent's configuration.
    pub actions_config: String,
    /// Lines added to the table `link` of every agent's configuration.
    pub link_config: String,
    /// Lines added to every agent's configuration.
    pub agent_config: String,
    actions: BTreeMap<String, String>,
}

impl Fleet {
    /// A new fleet with a running server and no agents.
    #[must_use]
    pub fn new(build: Build) -> Self {
        let mut fleet = Self::unmade(build);
        fleet.init().ok();
        fleet.start_server(None);
        fleet.add_context();
        fleet
    }

    /// A folder and a road, and nothing else yet.
    ///
    /// # Panics
    /// When the folder cannot be made.
    #[must_use]
    pub fn unmade(build: Build) -> Self {
        let folder = TempDir::with_prefix("writ-").unwrap();
        let mut fleet = Self {
            folder,
            build,
            road: Road::open(),
            server: None,
            admin_port: free_port(),
            direct_port: 0,
            agents_address: "127.0.0.1",
            notify_port: 0,
            server_flags: Vec::new(),
            server_config: String::new(),
            log_filter: "info".to_owned(),
            actions_config: String::new(),
            link_config: String::new(),
            agent_config: String::new(),
            actions: BTreeMap::new(),
        };
        fleet.folder.disable_cleanup(std::env::var_os("KEEP").is_some());
        fs::create_dir(fleet.path("actions.d")).unwrap();
        fleet.write_secret("passphrase", "correct horse battery staple\n");
        fleet
    }

    /// Agents go to the server itself: ten thousand of them are too many for a road. To be called before
    /// `init`.
    ///
    /// # Panics
    /// When no port can be had.
    pub fn leave_the_road(&mut self) {
        self.direct_port = free_port();
    }

    /// What the names of its binaries end with.
    #[must_use]
    pub fn suffix(&self) -> &'static str {
        self.build.suffix()
    }

    /// A path in the fleet's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file only its owner may read.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_secret(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Runs something to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Said {
        self.run_with_input(program, arguments, "")
    }

    /// Runs a program of the system, such as openssl.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn run_tool(&self, program: &str, arguments: &[&str]) -> Said {
        said(command(Path::new(program)).args(arguments))
    }

    /// Starts a program of the system that becomes a daemon of ours.
    #[must_use]
    pub fn spawn_tool(&self, program: &str, arguments: &[String]) -> Daemon {
        let mut started = command(Path::new(program));
        started.args(arguments);
        Daemon::spawn(program, started)
    }

    /// Runs a program of the Python packages that `make` installed, such as grpcurl.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn run_python_tool(&self, program: &str, arguments: &[&str]) -> Said {
        // The child's PATH does not decide which program is started: a shell's does.
        let mut shell = command(Path::new("sh"));
        shell.args(["-c", "exec \"$@\"", "sh", program]).args(arguments);
        said(python::with_packages(&mut shell))
    }

    /// Runs something on a host whose wall clock is so many seconds off.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn run_with_clock(&self, program: &str, arguments: &[&str], seconds_off: i64) -> Said {
        let clock = self.path("moved-clock");
        fs::write(&clock, seconds_off.to_string()).unwrap();
        said(command(&binary(program)).args(arguments).env("WRITTEST_CLOCK", clock))
    }

    /// The same with something on standard input.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn run_with_input(&self, program: &str, arguments: &[&str], input: &str) -> Said {
        self.feed(command(&binary(program)).args(arguments), input)
    }

    /// Runs `writ` on a terminal, where somebody types. What it prints and what it says come together there.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn writ_at_terminal(&self, arguments: &[&str], typed: &str) -> Said {
        let program = binary("writ");
        let words = [program.to_str().unwrap()].into_iter().chain(arguments.iter().copied());
        let line = words.map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
        let mut terminal = command(Path::new("script"));
        self.feed(terminal.args(["--quiet", "--return", "--command", &line, "/dev/null"]), typed)
    }

    fn feed(&self, command: &mut Command, input: &str) -> Said {
        command.env("XDG_CONFIG_HOME", self.path("config"));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        Said {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs `writ`.
    #[must_use]
    pub fn writ(&self, arguments: &[&str]) -> Said {
        self.run("writ", arguments)
    }

    /// Starts `writ`, which will not end before something else happens.
    #[must_use]
    pub fn spawn_writ(&self, arguments: &[&str]) -> Daemon {
        let mut command = command(&binary("writ"));
        command.args(arguments).env("XDG_CONFIG_HOME", self.path("config"));
        Daemon::spawn("writ", command)
    }

    /// Runs `writ` for somebody to watch; its exit code.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn show(&self, arguments: &[&str]) -> i32 {
        let mut command = command(&binary("writ"));
        // Who watches is asked nothing.
        command.args(arguments).env("XDG_CONFIG_HOME", self.path("config")).stdin(Stdio::null());
        let status = command.status().unwrap();
        status.code().unwrap_or(-1)
    }

    /// Runs `writ --output json`, which must go well.
    #[must_use]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["--output", "json"];
        all.extend(arguments);
        self.writ(&all).ok().json()
    }

    /// Runs `writ-server init`.
    #[must_use]
    pub fn init(&self) -> Said {
        self.init_with(&[])
    }

    /// The same with more flags.
    #[must_use]
    pub fn init_with(&self, more: &[&str]) -> Said {
        let (folder, passphrase) = (self.path("server"), self.path("passphrase"));
        let port = self.agents_port();
        let host = if self.agents_address == "127.0.0.1" { "localhost" } else { self.agents_address };
        let endpoint = format!("{host}:{port}");
        let arguments = ["init", "--output", "json", "--name", "acme", "--endpoint", &endpoint];
        let places =
            ["--data-dir", folder.to_str().unwrap(), "--passphrase-file", passphrase.to_str().unwrap()];
        self.run(
            &format!("writ-server{}", self.build.suffix()),
            &[arguments.as_slice(), &places, more].concat(),
        )
    }

    fn server_command(&self) -> Command {
        let config = format!(
            "[listen]\nagents = \"{}:{}\"\nadmin = \"127.0.0.1:{}\"\nmetrics = \"127.0.0.1:0\"\nnotify = \"0.0.0.0:{}\"\n[log]\nformat = \"json\"\nfilter = \"{}\"\n{}",
            self.agents_address,
            self.direct_port,
            self.admin_port,
            self.notify_port,
            self.log_filter,
            self.server_config
        );
        fs::write(self.path("server.toml"), config).unwrap();
        let mut command = command(&binary(&format!("writ-server{}", self.build.suffix())));
        command
            .arg("run")
            .arg("--config")
            .arg(self.path("server.toml"))
            .arg("--data-dir")
            .arg(self.path("server"));
        command.args(&self.server_flags).env("WRITTEST_CLOCK", self.path("server-clock"));
        command
    }

    /// Starts the server and leads the road to it.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_server(&mut self, checkpoint: Option<&Checkpoint>) {
        let mut command = self.server_command();
        if let Some(checkpoint) = checkpoint {
            command.env("WRITTEST_CHECKPOINT", &checkpoint.variable);
        }
        self.serve(command);
    }

    fn serve(&mut self, command: Command) {
        let server = Daemon::spawn("server", command);
        let serving = server.wait_for("serving", |_| true);
        let address = serving["agents"].as_str().unwrap();
        self.road.lead_to(address.rsplit_once(':').unwrap().1.parse().unwrap());
        self.server = Some(server);
    }

    /// Starts the server without waiting for it to serve.
    #[must_use]
    pub fn try_server(&self) -> Daemon {
        Daemon::spawn("server", self.server_command())
    }

    /// Starts the server with files that cannot grow past a size, in KiB, as on a disk that is nearly full.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_cramped_server(&mut self, kilobytes: u32) {
        let cramped = cramp(&self.server_command(), kilobytes * 2);
        self.serve(cramped);
    }

    /// Starts a second server on a copy of the first one's data directory, made while that one stands still.
    ///
    /// # Panics
    /// When it cannot be copied or does not start.
    #[must_use]
    pub fn copied_server(&self) -> Daemon {
        let (from, to) = (self.path("server"), self.path("copy"));
        self.server().signal("-STOP");
        let copied = command(Path::new("cp")).arg("-a").args([&from, &to]).status();
        self.server().signal("-CONT");
        assert!(copied.unwrap().success());
        let config = self.path("copy.toml");
        let listen = "agents = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nmetrics = \"127.0.0.1:0\"\nnotify = \"127.0.0.1:0\"";
        fs::write(&config, format!("[listen]\n{listen}\n[log]\nformat = \"json\"\n")).unwrap();
        let mut second = command(&binary(&format!("writ-server{}", self.build.suffix())));
        second.arg("run").arg("--config").arg(config).arg("--data-dir").arg(to);
        let copy = Daemon::spawn("copy", second);
        copy.wait_for("serving", |_| true);
        copy
    }

    /// Starts the server without waiting for it to serve; it stops at a checkpoint.
    #[must_use]
    pub fn try_server_at(&self, checkpoint: &Checkpoint) -> Daemon {
        let mut command = self.server_command();
        command.env("WRITTEST_CHECKPOINT", &checkpoint.variable);
        Daemon::spawn("server", command)
    }

    /// The running server.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn server(&self) -> &Daemon {
        self.server.as_ref().unwrap()
    }

    /// kill -9 of the server, and a new one whose wall clock is so many seconds off.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart_server_at(&mut self, seconds_off: i64) {
        self.kill_server();
        fs::write(self.path("server-clock"), seconds_off.to_string()).unwrap();
        self.start_server(None);
    }

    /// kill -9 of the server.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_server(&mut self) {
        self.server.take().unwrap().kill();
    }

    /// The port agents use.
    #[must_use]
    pub fn agents_port(&self) -> u16 {
        if self.direct_port == 0 { self.road.port() } else { self.direct_port }
    }

    /// The port operators use.
    #[must_use]
    pub const fn admin_port(&self) -> u16 {
        self.admin_port
    }

    /// Makes the operator know the server.
    pub fn add_context(&self) {
        let (ca, token) = (self.path("server/admin-ca.pem"), self.path("server/admin-token"));
        let server = format!("localhost:{}", self.admin_port);
        let places = ["--ca", ca.to_str().unwrap(), "--token-file", token.to_str().unwrap()];
        let _added =
            self.writ(&[["context", "add", "acme", "--server", &server].as_slice(), &places].concat()).ok();
    }

    /// Allows an action on every agent started from now on: a script that gets the parameter `word`, and
    /// writes it to the file of its name.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn allow(&mut self, name: &str, script: &str, more: &str) -> PathBuf {
        let (program, notes) = (self.path(&format!("{name}.sh")), self.path(&format!("{name}.notes")));
        fs::write(&program, format!("#!/bin/sh\nNOTES='{}'\n{script}\n", notes.display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let definition = format!(
            "program = \"{}\"\narguments = [\"{{word}}\"]\nclass = \"change\"\n{more}\n[parameters.word]\ntype = \"text\"\npattern = \"[a-z0-9]{{1,40}}\"\n",
            program.display()
        );
        let path = self.path(&format!("actions.d/{name}.toml"));
        fs::write(&path, &definition).unwrap();
        self.actions.insert(name.to_owned(), definition);
        notes
    }

    /// A place to stop a daemon at.
    ///
    /// # Panics
    /// When the socket cannot be made.
    #[must_use]
    pub fn checkpoint(&self, name: &str) -> Checkpoint {
        let path = self.path(&format!("{name}.sock"));
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let (sender, reached) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if sender.send(stream).is_err() {
                    return;
                }
            }
        });
        Checkpoint { variable: format!("{name}={}", path.display()), reached }
    }

    /// Starts any of our programs with a checkpoint.
    #[must_use]
    pub fn spawn(&self, program: &str, arguments: &[&str], checkpoint: &Checkpoint) -> Daemon {
        let mut command = command(&binary(program));
        command.args(arguments).env("WRITTEST_CHECKPOINT", &checkpoint.variable);
        command.env("XDG_CONFIG_HOME", self.path("config"));
        Daemon::spawn(program, command)
    }

    /// Kills a process group, as a reboot would.
    ///
    /// # Panics
    /// When there is none.
    pub fn kill_group(&self, leader: u64) {
        let mut kill = command(Path::new("/bin/kill"));
        assert!(kill.args(["-9", "--", &format!("-{leader}")]).status().unwrap().success());
        // The kernel removes it in its own time, seconds on the busiest machine.
        let process = format!("/proc/{leader}");
        let is_gone = (0..20_000_000).any(|_| {
            std::thread::yield_now();
            !Path::new(&process).exists()
        });
        assert!(is_gone, "{process} is still there; does process 1 of this machine reap its children?");
    }

    /// A host of that name is enrolled and then installed anew: two agents have it, which is an alert.
    ///
    /// # Panics
    /// When it cannot be.
    pub fn install_anew(&self, name: &str) {
        let _first = self.enroll(name, &self.token(1)).ok();
        fs::remove_dir_all(self.path(name)).unwrap();
        let _second = self.enroll(name, &self.token(1)).ok();
    }

    /// Alerts of a kind, as the operator sees them.
    ///
    /// # Panics
    /// When they cannot be listed.
    #[must_use]
    pub fn alerts(&self, kind: &str, code: &str) -> Vec<Value> {
        let all = self.json(&["alerts"]);
        let matching =
            all.as_array().unwrap().iter().filter(|alert| alert["kind"] == kind && alert["code"] == code);
        matching.cloned().collect()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the fleet lived in {} (KEEP=1 keeps it)", self.folder.path().display());
        }
    }
}

/// The same command with files that cannot grow past a size.
fn cramp(plain: &Command, blocks_of_512: u32) -> Command {
    let mut cramped = command(Path::new("/bin/sh"));
    // Ignored signals stay ignored over exec: a write past the limit then fails instead of killing.
    let script = format!("trap '' XFSZ; ulimit -f {blocks_of_512}; exec \"$0\" \"$@\"");
    cramped.arg("-c").arg(script).arg(plain.get_program()).args(plain.get_args());
    let set = plain.get_envs().filter_map(|(name, value)| Some((name, value?)));
    cramped.envs(set);
    cramped
}

/// The lines of a file that may not be there yet.
#[must_use]
pub fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}
