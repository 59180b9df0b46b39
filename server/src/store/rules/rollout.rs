//! When the next agents of a rollout may obey.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use writ_protocol::time::Timestamp;

use super::super::rows::RolloutState;

const DAY_MINUTES: u64 = 24 * 60;
/// So much of a rate is released at a time.
const RATE_STEP: Duration = Duration::from_secs(1);

/// What an operator asked for, with shares turned into numbers of agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Agents of the first wave; 0: it is as large as the others.
    pub canary: u32,
    /// Agents of each further wave; 0: all that are left.
    pub batch: u32,
    /// Between the end of a wave and the begin of the next.
    pub pause: Duration,
    /// So many failures are borne; one more stops it.
    pub max_failures: u32,
    /// Agents let obey in a second at most; 0: a wave at once.
    pub rate: u32,
    /// When agents may be let obey.
    pub window: Option<DayWindow>,
    /// Not before this.
    pub start_at: Timestamp,
    /// After so long without an answer an agent that is connected has failed.
    pub patience: Duration,
}

impl Plan {
    /// How many of so many agents are in the first waves up to this one, counted from 0.
    #[must_use]
    pub(crate) fn end_of(&self, wave: u32, targets: u32) -> u32 {
        let first = match (self.canary, self.batch) {
            (0, 0) => targets,
            (0, batch) => batch,
            (canary, _) => canary,
        };
        let rest = if self.batch == 0 { targets } else { self.batch.saturating_mul(wave) };
        let end = if wave == 0 { first } else { first.saturating_add(rest) };
        end.min(targets)
    }

    /// How many waves it takes.
    #[must_use]
    pub(crate) fn waves(&self, targets: u32) -> u32 {
        let first = self.end_of(0, targets);
        let rest = targets - first;
        if self.batch == 0 { 1 + u32::from(rest > 0) } else { 1 + rest.div_ceil(self.batch) }
    }
}

/// A part of each day, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DayWindow {
    from: u64,
    to: u64,
}

impl DayWindow {
    /// How long until it opens; zero within it.
    #[must_use]
    pub(crate) fn opens_in(self, now: Timestamp) -> Duration {
        let day = Duration::from_secs(DAY_MINUTES * 60);
        let of_day = Duration::from_millis(now.as_millis() % 86_400_000);
        let (from, to) = (Duration::from_secs(self.from * 60), Duration::from_secs(self.to * 60));
        let is_in =
            if self.from < self.to { (from..to).contains(&of_day) } else { of_day >= from || of_day < to };
        match is_in {
            true => Duration::ZERO,
            false if of_day < from => from - of_day,
            false => day - of_day + from,
        }
    }
}

impl fmt::Display for DayWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

impl FromStr for DayWindow {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let minutes = |text: &str| {
            let (hours, minutes) = text.split_once(':')?;
            let is_plain = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
            let (hours, minutes) = (is_plain(hours).then_some(hours)?, is_plain(minutes).then_some(minutes)?);
            let (hours, minutes) = (hours.parse::<u64>().ok()?, minutes.parse::<u64>().ok()?);
            (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
        };
        let read = || {
            let (from, to) = text.split_once('-')?;
            let (from, to) = (minutes(from)?, minutes(to)?);
            (from != to).then_some(Self { from, to })
        };
        read().ok_or("write it as 22:00-04:00, in UTC")
    }
}

/// How far a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// What an operator has to know.
    pub state: RolloutState,
    /// The present wave, counted from 0.
    pub wave: u32,
    /// Agents that may obey, from the first of the audience.
    pub released: u32,
    /// Failures that an operator has seen and bears.
    pub forgiven: u32,
}

/// Agents that may obey, by what became of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Obeyed and ended well.
    pub done: u32,
    /// Obeyed and ended badly, or refused.
    pub failed: u32,
    /// Without an answer for longer than the plan's patience, though they were sent it.
    pub silent: u32,
    /// Connected, and not yet silent.
    pub unanswered: u32,
    /// Not connected, and neither silent nor away yet: they may be about to come back.
    pub awaited: u32,
    /// Not connected, and without the command: passed over.
    pub away: u32,
    /// Of the present wave: those that answered.
    pub tried: u32,
}

impl Counted {
    /// What counts against the plan's limit.
    #[must_use]
    pub(crate) fn failures(&self) -> u32 {
        self.failed.saturating_add(self.silent)
    }
}

/// What time it is for a rollout. Durations are of a clock that nobody sets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// By the wall clock.
    pub now: Timestamp,
    /// Since the wave before had ended; `None`: there was none.
    pub since_wave: Option<Duration>,
    /// Since agents were let obey last; `None`: never.
    pub since_release: Option<Duration>,
    /// When the command expires.
    pub expires_at: Timestamp,
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many agents, from the first, are let obey.
    Release(u32),
    /// The present wave is over; the next one is its turn.
    EndWave,
    /// It is over.
    End(RolloutState),
    /// It holds itself: too many failed.
    Stop,
    /// Nothing, for this reason.
    Wait(Wait),
}

/// What a rollout waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// An operator.
    Operator,
    /// The time to start.
    Start,
    /// The pause between waves.
    Pause(Duration),
    /// The part of the day in which agents may be let obey.
    Window(Duration),
    /// The next second, for the plan has a rate.
    Rate,
    /// So many agents, to answer or to come back.
    Answers(u32),
    /// So many agents of the canary, or of a wave that nobody has answered of, to come back: it has shown
    /// nothing yet.
    Away(u32),
}

/// What happens next with a rollout of so many agents.
#[must_use]
pub(crate) fn decide(
    plan: &Plan,
    targets: u32,
    standing: Standing,
    counted: Counted,
    moment: Moment,
) -> Step {
    let Standing { state, wave, released, forgiven } = standing;
    if state.is_over() {
        return Step::Wait(Wait::Operator);
    }
    if moment.now >= moment.expires_at {
        return Step::End(RolloutState::Expired);
    }
    if state != RolloutState::Running {
        return Step::Wait(Wait::Operator);
    }
    if counted.failures().saturating_sub(forgiven) > plan.max_failures {
        return Step::Stop;
    }
    let end = plan.end_of(wave, targets);
    if released < end {
        return next_release(plan, end, standing, moment);
    }
    let open = counted.unanswered.saturating_add(counted.awaited);
    if open > 0 {
        return Step::Wait(Wait::Answers(open));
    }
    let is_canary = wave == 0 && plan.canary > 0;
    if counted.away > 0 && (is_canary || (counted.tried == 0 && end < targets)) {
        return Step::Wait(Wait::Away(counted.away));
    }
    if end == targets { Step::End(RolloutState::Finished) } else { Step::EndWave }
}

fn next_release(plan: &Plan, end: u32, standing: Standing, moment: Moment) -> Step {
    if moment.now < plan.start_at {
        return Step::Wait(Wait::Start);
    }
    let opens_in = plan.window.map_or(Duration::ZERO, |window| window.opens_in(moment.now));
    if !opens_in.is_zero() {
        return Step::Wait(Wait::Window(opens_in));
    }
    let left = moment.since_wave.map_or(Duration::ZERO, |since| plan.pause.saturating_sub(since));
    if !left.is_zero() {
        return Step::Wait(Wait::Pause(left));
    }
    if plan.rate == 0 {
        return Step::Release(end);
    }
    match moment.since_release {
        Some(since) if since < RATE_STEP => Step::Wait(Wait::Rate),
        _ => Step::Release(standing.released.saturating_add(plan.rate).min(end)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    fn plan() -> Plan {
        Plan {
            canary: 2,
            batch: 5,
            pause: MINUTE * 2,
            max_failures: 1,
            rate: 0,
            window: None,
            start_at: Timestamp::ZERO,
            patience: MINUTE * 10,
        }
    }

    fn standing(wave: u32, released: u32) -> Standing {
        Standing { state: RolloutState::Running, wave, released, forgiven: 0 }
    }

    fn moment() -> Moment {
        let hour = Some(MINUTE * 60);
        Moment { now: NOW, since_wave: hour, since_release: hour, expires_at: NOW + MINUTE * 600 }
    }

    fn next(standing: Standing, counted: Counted) -> Step {
        decide(&plan(), 12, standing, counted, moment())
    }

    #[test]
    fn waves_cover_every_agent_once() {
        let ends = |canary, batch, targets| {
            let plan = Plan { canary, batch, ..plan() };
            (0..plan.waves(targets)).map(|wave| plan.end_of(wave, targets)).collect::<Vec<_>>()
        };
        assert_eq!(ends(2, 5, 12), [2, 7, 12]);
        assert_eq!(ends(2, 5, 13), [2, 7, 12, 13]);
        assert_eq!(ends(2, 0, 12), [2, 12]);
        assert_eq!(ends(0, 5, 12), [5, 10, 12]);
        assert_eq!(ends(0, 0, 12), [12]);
        assert_eq!(ends(20, 5, 12), [12]);
        assert_eq!(ends(1, u32::MAX, 3), [1, 3]);
        assert_eq!(ends(1, 1, 3), [1, 2, 3]);
    }

    #[test]
    fn a_rollout_goes_wave_by_wave_when_all_who_are_there_have_answered() {
        let done = |done| Counted { done, tried: done, ..Counted::default() };
        assert_eq!(next(standing(0, 0), done(0)), Step::Release(2));
        assert_eq!(next(standing(0, 2), done(2)), Step::EndWave);
        assert_eq!(next(standing(1, 2), done(2)), Step::Release(7));
        let waits = Counted { done: 4, unanswered: 3, ..Counted::default() };
        assert_eq!(next(standing(1, 7), waits), Step::Wait(Wait::Answers(3)));
        let away = Counted { done: 4, away: 3, tried: 2, ..Counted::default() };
        assert_eq!(next(standing(1, 7), away), Step::EndWave, "a batch does not wait for who is away");
        let nobody = Counted { done: 2, away: 5, ..Counted::default() };
        assert_eq!(
            next(standing(1, 7), nobody),
            Step::Wait(Wait::Away(5)),
            "a wave nobody tried shows nothing"
        );
        let last = Counted { done: 7, away: 5, ..Counted::default() };
        assert_eq!(next(standing(2, 12), last), Step::End(RolloutState::Finished), "nothing follows it");
        assert_eq!(next(standing(2, 12), done(12)), Step::End(RolloutState::Finished));
    }

    #[test]
    fn a_canary_that_is_away_is_waited_for() {
        let away = Counted { done: 1, away: 1, tried: 1, ..Counted::default() };
        assert_eq!(next(standing(0, 2), away), Step::Wait(Wait::Away(1)));
        let plan = Plan { canary: 0, ..plan() };
        assert_eq!(decide(&plan, 12, standing(0, 5), away, moment()), Step::EndWave);
    }

    #[test]
    fn failures_at_the_limit_are_borne_and_one_more_stops_it_in_the_middle_of_a_wave() {
        let failed =
            |failed, silent| Counted { done: 1, failed, silent, unanswered: 3, ..Counted::default() };
        assert_eq!(next(standing(1, 7), failed(1, 0)), Step::Wait(Wait::Answers(3)));
        assert_eq!(next(standing(1, 7), failed(2, 0)), Step::Stop);
        assert_eq!(next(standing(1, 7), failed(1, 1)), Step::Stop, "who does not answer has failed");
        let forgiven = Standing { forgiven: 1, ..standing(1, 7) };
        assert_eq!(next(forgiven, failed(2, 0)), Step::Wait(Wait::Answers(3)));
        assert_eq!(next(forgiven, failed(3, 0)), Step::Stop);
    }

    #[test]
    fn nobody_is_let_obey_before_start_pause_and_window_and_after_the_end() {
        let of = |plan: &Plan, moment| decide(plan, 12, standing(1, 2), Counted::default(), moment);
        let later = Plan { start_at: NOW + MINUTE, ..plan() };
        assert_eq!(of(&later, moment()), Step::Wait(Wait::Start));
        let soon = Moment { since_wave: Some(MINUTE), ..moment() };
        assert_eq!(of(&plan(), soon), Step::Wait(Wait::Pause(MINUTE)));
        let first = Moment { since_wave: None, ..moment() };
        assert_eq!(of(&plan(), first), Step::Release(7));
        // 2026-09-21, 14:13:20.
        let night = Plan { window: Some("22:00-04:00".parse().unwrap()), ..plan() };
        assert!(matches!(of(&night, moment()), Step::Wait(Wait::Window(_))));
        assert_eq!(of(&night, Moment { now: NOW + MINUTE * 480, ..moment() }), Step::Release(7));
        let over = Moment { now: NOW + MINUTE * 600, ..moment() };
        assert_eq!(of(&plan(), over), Step::End(RolloutState::Expired));
        let paused = Standing { state: RolloutState::Paused, ..standing(1, 2) };
        let held = |moment| decide(&plan(), 12, paused, Counted::default(), moment);
        assert_eq!(held(moment()), Step::Wait(Wait::Operator));
        assert_eq!(held(over), Step::End(RolloutState::Expired), "a held one ends, too");
    }

    #[test]
    fn a_rate_lets_so_many_obey_in_a_second() {
        let plan = Plan { rate: 2, ..plan() };
        let of = |released, since| {
            let moment = Moment { since_release: since, ..moment() };
            decide(&plan, 12, standing(1, released), Counted::default(), moment)
        };
        assert_eq!(of(2, None), Step::Release(4));
        assert_eq!(of(4, Some(Duration::from_millis(999))), Step::Wait(Wait::Rate));
        assert_eq!(of(4, Some(RATE_STEP)), Step::Release(6));
        assert_eq!(of(6, Some(MINUTE)), Step::Release(7), "what was not used is not made up for");
    }

    #[test]
    fn a_window_may_pass_midnight() {
        let at = |hours: u64, minutes: u64| Timestamp::from_millis((hours * 60 + minutes) * 60_000);
        let opens = |window: &str, now| window.parse::<DayWindow>().unwrap().opens_in(now);
        assert_eq!(opens("22:00-04:00", at(23, 0)), Duration::ZERO);
        assert_eq!(opens("22:00-04:00", at(3, 59)), Duration::ZERO);
        assert_eq!(opens("22:00-04:00", at(4, 0)), MINUTE * 18 * 60);
        assert_eq!(opens("22:00-04:00", at(21, 59)), MINUTE);
        assert_eq!(opens("09:00-17:00", at(9, 0)), Duration::ZERO);
        assert_eq!(opens("09:00-17:00", at(17, 0)), MINUTE * 16 * 60);
        for bad in ["22-04", "24:00-01:00", "22:00", "22:00-22:00", "22:60-01:00", "+2:00-04:00", ""] {
            bad.parse::<DayWindow>().unwrap_err();
        }
        assert_eq!("22:00-04:00".parse::<DayWindow>().unwrap().to_string(), "22:00-04:00");
    }
}
