//! A list of ten million files: made by the program, looked up as a server and as agents do.

use std::io::{BufWriter, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use integration_tests::fleet::binary;
use ring::digest::{SHA256, digest};
use rustix::fs::{Advice, fadvise};
use writ_lists::{Filter, Key, List};

use crate::figures::{count, float, now, progress};
use crate::process::peak_kb;
use crate::table::{Figure, Goal};

const ENTRIES: u64 = 10_000_000;
/// Values looked up; every second one is listed.
const LOOK_UPS: u64 = 1_000_000;
/// Values looked up on a disk whose pages are not in memory.
const COLD: usize = 2_000;

/// The file of this number; all below [`ENTRIES`] are listed.
fn file(number: u64) -> Key {
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, &number.to_le_bytes()).as_ref());
    key
}

pub(crate) fn measure(figures: &mut Vec<Figure>) {
    progress(&format!("a list of {ENTRIES} files"));
    let folder = tempfile::tempdir().unwrap();
    let [source, path, filter] = ["source", "list", "filter"].map(|name| folder.path().join(name));
    let mut out = BufWriter::with_capacity(1 << 20, std::fs::File::create(&source).unwrap());
    for number in 0..ENTRIES {
        writeln!(out, "{}", hex::encode(file(number))).unwrap();
    }
    out.into_inner().unwrap().sync_all().unwrap();
    let input = std::fs::metadata(&source).unwrap().len();
    let start = now();
    #[expect(clippy::disallowed_methods, reason = "the program under measurement")]
    let mut child = Command::new(binary("writ-control-manager"))
        .args(["lists", "build", "--kind", "sha256", "--out"])
        .args([&path, std::path::Path::new("--filter"), &filter, &source])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut peak = 0;
    let ended = loop {
        peak = peak.max(peak_kb(child.id()).unwrap_or(0));
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(ended.success());
    let mut tell =
        |name, value, unit, goal, how: String| figures.push(Figure { name, value, unit, goal, how });
    tell(
        "list_build_s",
        start.elapsed().as_secs_f64(),
        "s",
        Some(Goal::AtMost(30.0)),
        format!("{ENTRIES} SHA-256 in hex, {:.0} MB, to a list and its filter", float(input) / 1e6),
    );
    let ratio = float(peak * 1024) / float(input);
    let how = "peak resident memory of that program, looked at each 10 ms, by the size of its input";
    tell("list_build_memory_ratio", ratio, "", Some(Goal::AtMost(1.5)), how.to_owned());
    let bytes = std::fs::metadata(&path).unwrap().len();
    tell("list_bytes_per_entry", float(bytes) / float(ENTRIES), "B", None, "the list's file".to_owned());

    // In an order that has nothing to do with that of the list; odd ones are not listed.
    let wanted: Vec<_> = (0..LOOK_UPS)
        .map(|number| file(if number % 2 == 0 { number * 7 } else { ENTRIES + number }))
        .collect();
    let list = List::open(&path).unwrap();
    fadvise(std::fs::File::open(&path).unwrap(), 0, None, Advice::DontNeed).unwrap();
    let start = now();
    let found = wanted[..COLD].iter().filter(|key| list.contains(key).unwrap()).count();
    let cold = count(COLD) / start.elapsed().as_secs_f64();
    assert_eq!(found, COLD / 2);
    tell(
        "list_cold_look_ups_per_s",
        cold,
        "/s",
        None,
        format!("{COLD}, one thread, its pages not in memory"),
    );
    std::io::copy(&mut std::fs::File::open(&path).unwrap(), &mut std::io::sink()).unwrap();
    let start = now();
    let found = wanted.iter().filter(|key| list.contains(key).unwrap()).count();
    let hot = float(LOOK_UPS) / start.elapsed().as_secs_f64();
    assert_eq!(found, wanted.len() / 2);
    let how = format!("{LOOK_UPS}, one thread, half of them listed, the file in the page cache");
    tell("list_look_ups_per_s", hot, "/s", Some(Goal::AtLeast(1e6)), how);

    let filter = Filter::from_bytes(std::fs::read(&filter).unwrap()).unwrap();
    let bits = count(filter.as_bytes().len()) * 8.0 / float(ENTRIES);
    tell("filter_bits_per_entry", bits, "bit", Some(Goal::AtMost(10.0)), "the filter's file".to_owned());
    let start = now();
    let maybe = wanted.iter().filter(|key| filter.may_contain(key)).count();
    let speed = float(LOOK_UPS) / start.elapsed().as_secs_f64();
    tell("filter_look_ups_per_s", speed, "/s", None, format!("{LOOK_UPS}, one thread, half of them listed"));
    assert!(wanted.iter().step_by(2).all(|key| filter.may_contain(key)), "what is listed is never missed");
    let rate = count(maybe - wanted.len() / 2) / count(wanted.len() / 2);
    let how = format!("of {} values that are not listed", wanted.len() / 2);
    tell("filter_false_maybe", rate, "", Some(Goal::AtMost(1.0 / 256.0)), how);
}
