//! A scan by the installed agent, against what others take for the same files.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use integration_tests::fleet::{Build, Fleet};
use integration_tests::listed::Listed;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use tempfile::TempDir;

use crate::figures::{count, float, now, progress};
use crate::process::{forget_peak, peak_kb};
use crate::table::{Figure, Goal};

/// Values of the list.
const VALUES: u32 = 10_000_000;
/// Long files, and the bytes of each.
const LONG: (usize, usize) = (64, 32 << 20);
/// Short files, and the bytes of each.
const SHORT: (usize, usize) = (100_000, 512);
/// Each is measured so often, in turn; the median counts.
const TURNS: usize = 5;
/// Files of the tree that the other scanner is given: it takes long for each byte.
const FEW: (usize, usize) = (8, 32 << 20);

/// Digests that the other scanner is given: with 4,194,304 it has no memory, however much there is.
const THEIR_VALUES: u32 = 4_000_000;

/// What the other scanner is unpacked from; see the Makefile.
const CLAMSCAN: &str = "target/bench/clamav/bin/clamscan";

fn fill(folder: &Path, (files, bytes): (usize, usize)) {
    let mut content = vec![0; bytes];
    for number in 0..files {
        SystemRandom::new().fill(&mut content).unwrap();
        // A thousand in a folder, as programs that make many files have them.
        let below = folder.join((number / 1000).to_string());
        std::fs::create_dir_all(&below).unwrap();
        std::fs::write(below.join(number.to_string()), &content).unwrap();
    }
}

/// How long a program takes, whose output nobody reads.
fn took(command: &str) -> f64 {
    let begun = now();
    #[expect(clippy::disallowed_methods, reason = "the program that is compared with")]
    let ended = Command::new("sh").args(["-c", command]).stdout(Stdio::null()).status().unwrap();
    // 1: the scanner found something, which it does not.
    assert!(ended.success(), "{command}");
    begun.elapsed().as_secs_f64()
}

struct Site {
    listed: Listed,
    pid: u32,
    _agent: integration_tests::daemon::Daemon,
    trees: TempDir,
}

impl Site {
    fn new() -> Self {
        let mut fleet = Fleet::unmade(Build::Shipped);
        fleet.log_filter = "writ_server=warn,writ_server::app=info".to_owned();
        fleet.leave_the_road();
        let mut listed = Listed::over(fleet);
        listed.publish("1", VALUES);
        listed.start();
        let agent = listed.fleet.agent("scanned");
        agent.wait_for("component in force", |_| true);
        let pid = agent.pid();
        Self { listed, pid, _agent: agent, trees: tempfile::tempdir().unwrap() }
    }

    fn tree(&self, name: &str, files: (usize, usize)) -> PathBuf {
        let tree = self.trees.path().join(name);
        fill(&tree, files);
        tree
    }

    /// How long a scan takes, as the agent itself says.
    fn scan(&self, tree: &Path) -> f64 {
        let tree = tree.display().to_string();
        let sent = self.listed.fleet.json(&["send", "scan", &tree, "--all", "--wait"]);
        let detail = sent["targets"][0]["detail"].as_str().unwrap().to_owned();
        let seconds = detail.split(" in ").nth(1).and_then(|rest| rest.split(' ').next());
        assert!(detail.contains(" 0 listed") && detail.contains(" 0 undecided"), "{detail}");
        seconds.and_then(|seconds| seconds.parse().ok()).unwrap_or_else(|| panic!("{detail}"))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn measure(figures: &mut Vec<Figure>) {
    progress(&format!("an agent with the filter of a list of {VALUES} files"));
    let site = Site::new();
    let mut tell =
        |name, value, unit, goal, how: String| figures.push(Figure { name, value, unit, goal, how });
    let (long, short) = (site.tree("long", LONG), site.tree("short", SHORT));
    let sums = |tree: &Path| format!("find {} -type f -print0 | xargs -0 sha256sum", tree.display());
    forget_peak(site.pid);
    for (tree, files, speed, ratio) in [
        (&long, LONG, "scan_mb_per_s", "scan_long_by_sha256sum"),
        (&short, SHORT, "scan_files_per_s", "scan_short_by_sha256sum"),
    ] {
        progress(&format!("{} files of {} bytes", files.0, files.1));
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        // Once before, so that the files are in memory for both.
        took(&sums(tree));
        for _ in 0..TURNS {
            ours.push(site.scan(tree));
            theirs.push(took(&sums(tree)));
        }
        let (ours, theirs) = (median(ours), median(theirs));
        let (unit, per_second) = match speed {
            "scan_mb_per_s" => ("MB/s", count(files.0 * files.1) / 1e6 / ours),
            _ => ("/s", count(files.0) / ours),
        };
        let what = format!("{} files of {} bytes in the page cache", files.0, files.1);
        tell(speed, per_second, unit, None, what.clone());
        let how = format!(
            "{what}: sha256sum takes {theirs:.2} s, the scan {ours:.2} s; medians of {TURNS} in turn"
        );
        tell(ratio, theirs / ours, "x", Some(Goal::AtLeast(0.9)), how);
    }
    let peak = float(peak_kb(site.pid).unwrap() * 1024) / 1e6;
    let how = format!("the most resident memory of the agent meanwhile, with the filter of {VALUES} values");
    tell("scan_agent_peak_mb", peak, "MB", Some(Goal::AtMost(24.0)), how);
    clamscan(&site, &mut tell);
}

/// The same against ClamAV with a database of as many digests.
fn clamscan(site: &Site, tell: &mut impl FnMut(&'static str, f64, &'static str, Option<Goal>, String)) {
    let tree = site.tree("few", FEW);
    let database = site.trees.path().join("listed.hsb");
    progress("the other scanner's database, and what it takes");
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&database).unwrap());
    for number in 0..THEIR_VALUES {
        let value = digest(&SHA256, &number.to_le_bytes());
        writeln!(out, "{}:{}:n{number}", hex::encode(value), FEW.1).unwrap();
    }
    out.flush().unwrap();
    let scan = |tree: &Path| {
        let limits = "--max-filesize=1000M --max-scansize=1000M";
        let shown = (database.display(), tree.display());
        took(&format!("{CLAMSCAN} --quiet --recursive {limits} --database={} {}", shown.0, shown.1))
    };
    let nothing = site.trees.path().join("nothing");
    std::fs::create_dir(&nothing).unwrap();
    std::fs::write(nothing.join("file"), "nothing").unwrap();
    // Loading the database is told apart: a daemon of ClamAV does it once.
    let loading = scan(&nothing);
    let theirs = (scan(&tree) - loading).max(f64::MIN_POSITIVE);
    let ours = median((0..TURNS).map(|_| site.scan(&tree)).collect());
    let what = format!("{} files of {} bytes", FEW.0, FEW.1);
    let how = format!(
        "{what}: clamscan takes {theirs:.2} s beyond the {loading:.1} s in which it loads {THEIR_VALUES} digests, more than which it does not take; the scan takes {ours:.2} s with {VALUES}"
    );
    tell("scan_by_clamscan", theirs / ours, "x", Some(Goal::AtLeast(5.0)), how);
}
