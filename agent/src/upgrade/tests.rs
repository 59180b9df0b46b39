//! One upgrade on a host that can lose its power at every step.

use std::cell::RefCell;
use std::fs;
use std::rc::Rc;
use std::time::Duration;

use writ_common::files;
use writ_protocol::id::CommandId;
use writ_protocol::time::Timestamp;

use super::apply::Upgrader;
use super::host::{Host, Which};
use super::{Allowed, Greeting, Phase, Place, Standing};

const OLD: &str = "1.0.0";
const NEW: &str = "2.0.0";

/// What the program is like that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comes {
    Good,
    Silent,
    Dying,
    /// It says that it is another version.
    Another,
    /// The package manager does not take it.
    Uninstallable,
    /// It is no package of this version.
    Wrong,
    /// Its unit cannot be started.
    Unitless,
    /// It is good, and there is no room for a copy of the state.
    Crowded,
    /// It greets at the last moment, when it is being stopped; and the disk is full for a while then.
    Tardy,
    /// It is good, and another package manager is at work when it is tried for the second time.
    Late,
}

/// A host: one agent, its program, its state, and how often it lost its power.
#[derive(Debug)]
struct Site {
    place: Place,
    comes: Comes,
    installed: &'static str,
    is_running: bool,
    /// Commands that the agent has obeyed, as its state says; and as the world saw it.
    remembers: u32,
    obeyed: u32,
    /// Which version has written that state: an earlier one does not read it.
    written_by: &'static str,
    kept: Option<(u32, &'static str)>,
    greeting: Option<Greeting>,
    /// Steps until the power goes, and whether the last one takes effect.
    power: Option<(usize, bool)>,
    is_dark: bool,
    was_dark: bool,
    was_full: bool,
    helper: &'static str,
}

impl Site {
    /// The program that is installed comes up, unless it cannot.
    fn come_up(&mut self) {
        let is_new = self.installed == NEW;
        let is_broken = matches!(self.comes, Comes::Dying | Comes::Unitless);
        self.is_running = !(is_new && is_broken) && (is_new || self.written_by == OLD);
        if self.is_running {
            self.written_by = self.installed;
        }
        self.talk();
    }

    /// It has a session if it may, and obeys.
    fn talk(&mut self) {
        let is_new = self.installed == NEW;
        if !self.is_running || (is_new && matches!(self.comes, Comes::Silent | Comes::Tardy)) {
            return;
        }
        let says = if is_new && self.comes == Comes::Another { "3.0.0" } else { self.installed };
        let standing = self.place.standing().unwrap().unwrap();
        if standing.phase == Phase::Waiting {
            let command_id = standing.command_id.clone();
            self.greeting = Some(Greeting { command_id, version: says.to_owned() });
        }
        if standing.lets_run(says) {
            self.remembers += 1;
            self.obeyed += 1;
        }
    }
}

#[derive(Debug, Clone)]
struct Fake(Rc<RefCell<Site>>);

const POWER: &str = "the power is gone";
const FULL: &str = "there is no room";

impl Fake {
    fn step(&self, change: impl FnOnce(&mut Site)) -> Result<(), String> {
        let mut site = self.0.borrow_mut();
        match &mut site.power {
            Some((0, takes_effect)) => {
                let takes_effect = *takes_effect;
                site.is_dark = true;
                if takes_effect {
                    change(&mut site);
                }
                return Err(POWER.to_owned());
            }
            Some((left, _)) => *left -= 1,
            None => {}
        }
        change(&mut site);
        Ok(())
    }
}

impl Host for Fake {
    async fn installed(&mut self) -> Result<String, String> {
        self.step(|_| {})?;
        Ok(self.0.borrow().installed.to_owned())
    }

    async fn check(&mut self, _version: &str) -> Result<(), String> {
        self.step(|_| {})?;
        let is_wrong = self.0.borrow().comes == Comes::Wrong;
        if is_wrong { Err("it is another package".to_owned()) } else { Ok(()) }
    }

    async fn keep_installed(&mut self) -> Result<(), String> {
        self.step(|_| {})?;
        let site = self.0.borrow();
        let is_late = site.comes == Comes::Late && site.was_dark;
        if is_late { Err("another package manager is at work".to_owned()) } else { Ok(()) }
    }

    async fn install(&mut self, which: Which, _may_be_older: bool) -> Result<(), String> {
        let comes = self.0.borrow().comes;
        self.step(|site| match (which, comes) {
            (Which::New, Comes::Uninstallable) => {}
            // The scripts of a package start what they bring.
            (Which::New, _) => {
                site.installed = NEW;
                site.come_up();
            }
            (Which::Previous, _) => {
                site.installed = OLD;
                site.come_up();
            }
        })?;
        let fails = which == Which::New && comes == Comes::Uninstallable;
        if fails { Err("its script failed".to_owned()) } else { Ok(()) }
    }

    async fn has(&mut self, version: &str) -> bool {
        self.0.borrow().installed == version
    }

    async fn stop(&mut self) -> Result<(), String> {
        self.step(|site| {
            let standing = site.place.standing().unwrap().unwrap();
            if site.comes == Comes::Tardy && site.is_running && standing.phase == Phase::Waiting {
                let command_id = standing.command_id;
                site.greeting = Some(Greeting { command_id, version: NEW.to_owned() });
            }
            site.is_running = false;
        })
    }

    async fn start(&mut self) -> Result<(), String> {
        let is_unitless = self.0.borrow().comes == Comes::Unitless && self.0.borrow().installed == NEW;
        if is_unitless {
            self.step(|_| {})?;
            return Err("its unit is not found".to_owned());
        }
        self.step(Site::come_up)
    }

    async fn let_run(&mut self) -> Result<(), String> {
        self.step(|site| {
            if !site.is_running {
                site.come_up();
            }
        })
    }

    async fn keep_state(&mut self) -> Result<(), String> {
        if self.0.borrow().comes == Comes::Crowded {
            self.step(|_| {})?;
            return Err(FULL.to_owned());
        }
        self.step(|site| site.kept = Some((site.remembers, site.written_by)))
    }

    async fn put_back_state(&mut self) -> Result<(), String> {
        self.step(|site| (site.remembers, site.written_by) = site.kept.expect("it was kept"))
    }

    async fn forget_state(&mut self) -> Result<(), String> {
        self.step(|site| site.kept = None)
    }

    fn greeting(&self) -> Option<Greeting> {
        self.0.borrow().greeting.clone()
    }

    async fn fault(&mut self) -> Result<Option<String>, String> {
        self.step(|_| {})?;
        Ok((!self.0.borrow().is_running).then(|| "it does not start".to_owned()))
    }

    async fn pause(&mut self, time: Duration) -> Result<(), String> {
        self.step(Site::talk)?;
        tokio::time::advance(time).await;
        Ok(())
    }

    fn is_ending(&self) -> bool {
        // Without power nothing is concluded.
        self.0.borrow().is_dark
    }

    async fn adopt(&mut self) -> Result<(), String> {
        self.step(|_| {})?;
        let mut site = self.0.borrow_mut();
        if site.comes == Comes::Tardy && !std::mem::replace(&mut site.was_full, true) {
            assert!(site.is_running, "a full disk leaves no agent down");
            return Err(FULL.to_owned());
        }
        site.helper = site.installed;
        Ok(())
    }
}

fn allowed() -> Allowed {
    Allowed {
        data_dir: "/nowhere".into(),
        agent_id: String::new(),
        realm: String::new(),
        bundle_digest: String::new(),
        since_ms: 0,
        component: "agent-deb-amd64".to_owned(),
        program: "/usr/bin/writ-agent".into(),
        unit: "writ-agent.service".to_owned(),
    }
}

/// Plays an upgrade to its end, and says how that is. When the power goes, the whole host may be started
/// again, or root's side alone.
async fn play(comes: Comes, power: Option<(usize, bool)>, reboots: bool) -> (Site, Standing) {
    let folder = tempfile::TempDir::new().unwrap();
    let place = Place::new(folder.path());
    files::private_folder(&place.work()).unwrap();
    let standing = Standing {
        command_id: CommandId::from_bytes([1; 16]).to_string(),
        from: String::new(),
        to: NEW.to_owned(),
        phase: Phase::Preparing,
        why: String::new(),
        greet_within_seconds: 1,
        allow_older: false,
        issued_at_ms: 1,
    };
    place.note(&standing).unwrap();
    let site = Rc::new(RefCell::new(Site {
        place: place.clone(),
        comes,
        installed: OLD,
        is_running: true,
        remembers: 5,
        obeyed: 5,
        written_by: OLD,
        kept: None,
        greeting: None,
        power,
        is_dark: false,
        was_dark: false,
        was_full: false,
        helper: OLD,
    }));
    let mut upgrader = Upgrader {
        place: &place,
        allowed: allowed(),
        host: Fake(Rc::clone(&site)),
        now: Timestamp::from_millis(2),
    };
    while let Err(why) = upgrader.run().await {
        let mut site = site.borrow_mut();
        if why == FULL {
            continue;
        }
        assert_eq!(why, POWER, "{comes:?} {power:?}");
        assert!(!site.was_dark, "the power went twice");
        (site.power, site.is_dark, site.was_dark) = (None, false, true);
        if reboots {
            // The host starts its agent again, before anybody goes on with the upgrade.
            site.come_up();
        }
    }
    assert!(!fs::exists(place.work()).unwrap(), "{comes:?} {power:?}");
    let standing = place.standing().unwrap().unwrap();
    drop(upgrader);
    (Rc::into_inner(site).unwrap().into_inner(), standing)
}

#[tokio::test(start_paused = true)]
async fn whenever_the_power_goes_one_whole_version_obeys_and_nothing_that_was_obeyed_is_forgotten() {
    for comes in [
        Comes::Good,
        Comes::Silent,
        Comes::Dying,
        Comes::Another,
        Comes::Uninstallable,
        Comes::Wrong,
        Comes::Unitless,
        Comes::Crowded,
        Comes::Tardy,
        Comes::Late,
    ] {
        let ends: &[_] = match comes {
            Comes::Good => &[(Phase::Done, NEW)],
            Comes::Wrong | Comes::Crowded => &[(Phase::Refused, OLD)],
            Comes::Late => &[(Phase::Done, NEW), (Phase::Refused, OLD)],
            // When the power goes as it is stopped, it may be gone before it greets.
            Comes::Tardy => &[(Phase::Done, NEW), (Phase::TakenBack, OLD)],
            _ => &[(Phase::TakenBack, OLD)],
        };
        for (takes_effect, reboots) in [(false, true), (true, true), (false, false), (true, false)] {
            for step in 0.. {
                let (site, standing) = play(comes, Some((step, takes_effect)), reboots).await;
                let told = format!("{comes:?}, lost at step {step} ({takes_effect}, {reboots}): {site:?}");
                assert!(ends.contains(&(standing.phase, site.installed)), "{:?}: {told}", standing.phase);
                assert_eq!(site.remembers, site.obeyed, "{told}");
                assert_eq!(standing.why.is_empty(), standing.phase == Phase::Done, "{told}");
                assert!(site.is_running && site.kept.is_none(), "{told}");
                assert_eq!(site.helper, site.installed, "{told}");
                if !site.was_dark {
                    assert!(step > 1, "{told}");
                    break;
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_not_later_is_refused_while_the_agent_runs_on() {
    let (site, standing) = play(Comes::Wrong, None, true).await;
    assert_eq!((standing.phase, site.obeyed), (Phase::Refused, 5), "it was never stopped");
    for (from, to, is_fine) in [
        ("1.9.0", "1.10.0", true),
        ("1.0.0", "1.0.0", false),
        ("1.0.0", "1.0.0-rc.1", false),
        ("1.0.0", "latest", false),
    ] {
        let standing = Standing { from: from.to_owned(), to: to.to_owned(), ..standing.clone() };
        assert_eq!(super::apply::check_order(&standing).is_ok(), is_fine, "{from} {to}");
        let forced = Standing { allow_older: true, ..standing };
        super::apply::check_order(&forced).unwrap();
    }
}
