//! Repositories that lie, and web servers that do: what was in force stays, and the reason is named.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use integration_tests::fleet::{Build, Fleet, Said};
use integration_tests::proxies::Proxy;
use integration_tests::repository::{TufRepository, address};

/// A fleet whose server has version 1, and a repository that offers version 2.
fn scene() -> (Fleet, TufRepository) {
    let fleet = Fleet::unmade(Build::Testing);
    let _made = fleet.init().ok();
    fs::create_dir(fleet.path("web")).unwrap();
    let repository = TufRepository::make(fleet.path("web/tuf"));
    let web = Proxy::files(&fleet.path("web"), None);
    let _set = fleet.update_from(&address(&web, "tuf"), &repository.root()).ok();
    let _synced = fleet.keys(&["updates", "sync"]).ok();
    repository.offer("2", "two");
    (fleet, repository)
}

fn sync(fleet: &Fleet) -> Said {
    fleet.keys(&["updates", "sync"])
}

#[test]
fn a_repository_that_lies_is_refused_with_its_reason() {
    let (fleet, repository) = scene();
    for (attack, code) in [
        ("longer-file", "update_too_long"),
        ("other-file", "update_mismatched"),
        ("shorter-file", "update_mismatched"),
        ("no-file", "update_missing"),
        ("freeze", "update_expired"),
        ("expired-snapshot", "update_expired"),
        ("expired-targets", "update_expired"),
        ("expired-root", "update_expired"),
        ("too-few", "update_unsigned"),
        ("one-key-twice", "update_unsigned"),
        ("forged-timestamp", "update_unsigned"),
        ("forged-root", "update_unsigned"),
        ("root-of-one-key-twice", "update_unsigned"),
        ("root-skips-a-version", "update_rolled_back"),
        ("mix-and-match", "update_mismatched"),
        ("old-snapshot", "update_mismatched"),
        ("dots", "update_malformed"),
        ("bad-version", "update_malformed"),
        ("no-metadata", "update_malformed"),
        ("unending-file", "update_too_long"),
        ("large-metadata", "update_too_long"),
        ("chain-of-roles", "update_too_long"),
        ("role-called-root", "update_malformed"),
    ] {
        let enemy = repository.copied(&fleet, "enemy");
        enemy.python("attack", &[attack]);
        let url = format!("file://{}", enemy.folder.display());
        let _set = fleet.update_from(&url, &repository.root()).ok();
        // What was seen of one enemy must not help the next.
        let trust = fleet.path("server/updates/trust");
        let kept = fleet.path("trust");
        let _copied = fleet.run_tool("cp", &["-r", trust.to_str().unwrap(), kept.to_str().unwrap()]).ok();
        let refused = sync(&fleet).failed(1);
        assert!(refused.stderr.contains(&format!("({code})")), "{attack}: {refused:?}");
        assert_eq!(fleet.component("tool"), ("1".to_owned(), "one".to_owned()), "{attack}");
        let status = fleet.keys(&["updates", "status"]).failed(1).json();
        assert_eq!(status["last_run"]["outcome"]["failed"]["code"], code, "{attack}");
        fs::remove_dir_all(&trust).unwrap();
        fs::rename(kept, trust).unwrap();
    }
    let _set = fleet.update_from(&format!("file://{}", repository.folder.display()), &repository.root()).ok();
    let _synced = sync(&fleet).ok();
    assert_eq!(fleet.component("tool"), ("2".to_owned(), "two".to_owned()));
}

#[test]
fn a_target_that_leads_elsewhere_is_no_component_and_touches_nothing() {
    let (fleet, repository) = scene();
    let enemy = repository.copied(&fleet, "enemy");
    enemy.python("attack", &["outside"]);
    let _set = fleet.update_from(&format!("file://{}", enemy.folder.display()), &repository.root()).ok();
    let synced = sync(&fleet).ok().json();
    assert_eq!((&synced["other_targets"], fleet.component("tool").1), (&1.into(), "three".to_owned()));
    assert!(!fleet.path("server/etc").exists() && !fleet.path("etc").exists());
}

#[test]
fn a_delegate_says_nothing_of_what_it_may_not_speak_for() {
    let (fleet, repository) = scene();
    let enemy = repository.copied(&fleet, "enemy");
    enemy.python("attack", &["delegate-mislabels"]);
    let _set = fleet.update_from(&format!("file://{}", enemy.folder.display()), &repository.root()).ok();
    let _synced = sync(&fleet).ok();
    assert_eq!(fleet.component("tool"), ("2".to_owned(), "two".to_owned()));
    assert_eq!(sync(&fleet).ok().json()["run"]["outcome"], "current");
}

#[test]
fn what_a_hostile_repository_left_behind_does_not_keep_the_honest_one_out() {
    let (fleet, repository) = scene();
    let enemy = repository.copied(&fleet, "enemy");
    enemy.python("attack", &["role-called-root"]);
    let _set = fleet.update_from(&format!("file://{}", enemy.folder.display()), &repository.root()).ok();
    let _refused = sync(&fleet).failed(1);
    // The new root was signed by the keys that count, so the honest repository goes on from there.
    let root = enemy.folder.join("metadata/2.root.json");
    fs::copy(root, repository.folder.join("metadata/2.root.json")).unwrap();
    let trust = fs::read_dir(fleet.path("server/updates/trust")).unwrap().next().unwrap().unwrap().path();
    let kept = fs::read_to_string(trust.join("roots/2.root.json")).unwrap();
    assert!(kept.contains("\"_type\": \"root\""), "{kept}");
    let refused = sync(&fleet).failed(1);
    assert!(refused.stderr.contains("no consistent snapshots"), "the trust is not damaged: {refused:?}");
}

#[test]
fn an_old_state_of_the_repository_is_refused_by_every_way_to_it_and_under_each_of_its_roots() {
    let (fleet, repository) = scene();
    let before = repository.copied(&fleet, "before");
    repository.offer("3", "three");
    let web = Proxy::files(&fleet.path("web"), None);
    let _set = fleet.update_from(&address(&web, "tuf"), &repository.root()).ok();
    let _synced = sync(&fleet).ok();
    let old = format!("file://{}", before.folder.display());
    // The same root as another file, as a package or another tool writes it.
    let spaced = fleet.path("spaced.json").display().to_string();
    fs::write(&spaced, format!("{}\n\n", fs::read_to_string(repository.root()).unwrap())).unwrap();
    // The next root, which is pinned before it was seen.
    repository.python("rotate", &[]);
    let next = repository.folder.join("metadata/2.root.json").display().to_string();
    for root in [&repository.root(), &spaced, &next] {
        let _set = fleet.update_from(&old, root).ok();
        let refused = sync(&fleet).failed(1);
        let is_refused =
            refused.stderr.contains("(update_rolled_back)") || refused.stderr.contains("(update_unsigned)");
        assert!(is_refused, "{root}: {refused:?}");
        assert_eq!(fleet.component("tool").1, "three", "{root}");
    }
    assert_eq!(fs::read_dir(fleet.path("server/updates/trust")).unwrap().count(), 1);
    // What was seen is damaged: that is said, and nothing older passes meanwhile.
    let trust = fs::read_dir(fleet.path("server/updates/trust")).unwrap().next().unwrap().unwrap().path();
    fs::write(trust.join("timestamp.json"), "{").unwrap();
    let _set = fleet.update_from(&old, &repository.root()).ok();
    let refused = sync(&fleet).failed(1);
    assert!(
        refused.stderr.contains("timestamp.json") && refused.stderr.contains("(update_damaged)"),
        "{refused:?}"
    );
    assert_eq!(fleet.component("tool").1, "three");
}

#[test]
fn keys_that_were_rotated_away_sign_nothing_any_more() {
    let (fleet, repository) = scene();
    repository.python("rotate", &[]);
    let _set = fleet.update_from(&format!("file://{}", repository.folder.display()), &repository.root()).ok();
    let _synced = sync(&fleet).ok();
    // Whoever holds the old keys makes another root 2, and goes on from there.
    repository.python("attack", &["rotated-keys"]);
    let refused = sync(&fleet).failed(1);
    assert!(refused.stderr.contains("(update_unsigned)"), "{refused:?}");
    assert_eq!(fleet.component("tool").1, "two");
}

/// A web server that answers every question with the same bytes over and over.
struct Endless {
    port: u16,
    ends: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
}

impl Endless {
    fn serve(head: &'static str, body: Body) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let ends = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&ends);
        let serving = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if asked.load(Ordering::Relaxed) {
                    return;
                }
                answer(stream, head, &body);
            }
        });
        Self { port, ends, serving: Some(serving) }
    }
}

/// What follows the head of an answer.
enum Body {
    /// This, over and over.
    Endless(&'static [u8]),
    /// Silence, until the other end gives up.
    Silence,
    /// The end of the connection.
    Cut,
}

fn answer(mut stream: TcpStream, head: &str, body: &Body) {
    let mut question = [0; 4096];
    let read = stream.read(&mut question).unwrap_or(0);
    let is_next_root = String::from_utf8_lossy(&question[..read]).contains("root.json");
    if is_next_root {
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        return;
    }
    let _ = stream.write_all(head.as_bytes());
    match body {
        Body::Endless(piece) => while stream.write_all(piece).is_ok() {},
        Body::Silence => {
            let _ = stream.read(&mut question);
        }
        Body::Cut => {}
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.serving.take().map(JoinHandle::join);
    }
}

#[test]
fn endless_slow_broken_and_foreign_answers_end_the_run_in_bounded_time_and_room() {
    let (fleet, repository) = scene();
    let config = fleet.path("patience.toml");
    fs::write(&config, "[updates]\npatience = \"1s\"\n").unwrap();
    let config = config.display().to_string();
    for (head, body, code) in [
        ("HTTP/1.1 200 OK\r\n\r\n", Body::Endless(&[b' '; 65_536]), "update_too_long"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{", Body::Silence, "update_slow"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{", Body::Cut, "update_unreachable"),
        ("", Body::Cut, "update_unreachable"),
        (
            "HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
            Body::Silence,
            "update_unreachable",
        ),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", Body::Silence, "update_unreachable"),
        ("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", Body::Silence, "update_unreachable"),
        ("SSH-2.0-OpenSSH\r\n", Body::Silence, "update_unreachable"),
    ] {
        let web = Endless::serve(head, body);
        let _set = fleet.update_from(&format!("http://127.0.0.1:{}/", web.port), &repository.root()).ok();
        let refused = fleet.keys(&["updates", "sync", "--config", &config]).failed(1);
        assert!(refused.stderr.contains(&format!("({code})")), "{head}: {refused:?}");
        assert_eq!(fleet.component("tool").1, "one", "{head}");
    }
    // Nobody is there at all.
    let port = integration_tests::ports::free_port();
    let _set = fleet.update_from(&format!("http://127.0.0.1:{port}/"), &repository.root()).ok();
    let refused = sync(&fleet).failed(1);
    assert!(
        refused.stderr.contains("(update_unreachable)") && refused.stderr.contains("refused"),
        "{refused:?}"
    );
}
