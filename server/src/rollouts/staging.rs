//! What an operator asks of a rollout, before it is known for how many agents.

use std::str::FromStr;
use std::time::Duration;

use writ_common::status::Failure;
use writ_proto::admin::v1::RolloutPlan;
use writ_protocol::id::random_bytes;
use writ_protocol::rollout::Seed;
use writ_protocol::time::Timestamp;

use crate::store::rules::rollout::{DayWindow, Plan};

const DEFAULT_PATIENCE: Duration = Duration::from_secs(600);
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Seeds that programs in JavaScript read without rounding, too.
const MAX_SEED: u64 = (1 << 53) - 1;

/// How a command is to reach its agents.
#[derive(Debug, Clone)]
pub(crate) struct Staging {
    /// As it was asked for.
    pub asked: RolloutPlan,
    /// What gives the order.
    pub seed: Seed,
    canary: Option<Share>,
    batch: Option<Share>,
    max_failures: Option<Share>,
    window: Option<DayWindow>,
}

/// A number of agents, or a part of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Share {
    Number(u32),
    Percent(u32),
}

impl Share {
    /// Of so many, at least one.
    fn up(self, of: u32) -> u32 {
        match self {
            Self::Number(number) => number,
            Self::Percent(percent) => percent_of(percent, of, 99),
        }
    }

    fn down(self, of: u32) -> u32 {
        match self {
            Self::Number(number) => number,
            Self::Percent(percent) => percent_of(percent, of, 0),
        }
    }
}

fn percent_of(percent: u32, of: u32, rounding: u64) -> u32 {
    u32::try_from((u64::from(of) * u64::from(percent) + rounding) / 100).unwrap_or(u32::MAX)
}

impl FromStr for Share {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.parse::<u32>().ok().filter(|_| !text.starts_with('+'));
        match text.strip_suffix('%') {
            Some(percent) => number(percent).filter(|percent| *percent <= 100).map(Self::Percent),
            None => number(text).map(Self::Number),
        }
        .ok_or("write a number of agents, as 5, or a part of them, as 10%, at most 100%")
    }
}

impl Staging {
    /// Reads what was asked for.
    ///
    /// # Errors
    /// Which field is wrong, and how to write it.
    pub(crate) fn read(asked: RolloutPlan) -> Result<Self, Failure> {
        let share = |field: &'static str, text: &str, least: u32| {
            let read = |text: &str| {
                let share = text.parse::<Share>()?;
                let is_least = !matches!(share, Share::Number(n) | Share::Percent(n) if n < least);
                is_least.then_some(share).ok_or("must be at least 1")
            };
            let read = (!text.is_empty()).then(|| read(text)).transpose();
            read.map_err(|error| Failure::invalid(field, format!("`{text}`: {error}")))
        };
        let window = (!asked.window.is_empty()).then(|| asked.window.parse()).transpose();
        let window = window.map_err(|error: &str| {
            Failure::invalid("rollout.window", format!("`{}`: {error}", asked.window))
        })?;
        for (field, seconds) in [
            ("rollout.pause_seconds", asked.pause_seconds),
            ("rollout.patience_seconds", asked.patience_seconds),
        ] {
            if Duration::from_secs(seconds.into()) > LONGEST {
                return Err(Failure::invalid(field, "must be at most 24h"));
            }
        }
        let is_all_at_once = asked.canary.is_empty() && asked.batch.is_empty();
        if is_all_at_once && (asked.pause_seconds > 0 || !asked.max_failures.is_empty()) {
            let text =
                "say --canary or --batch, too: without them all obey at once, and there is nothing to stop";
            return Err(Failure::invalid("rollout.canary", text));
        }
        let seed = match asked.seed {
            0 => u64::from_be_bytes(random_bytes()) % MAX_SEED + 1,
            seed => seed,
        };
        let seed = Seed::new(seed).filter(|seed| seed.get() <= MAX_SEED);
        Ok(Self {
            seed: seed
                .ok_or_else(|| Failure::invalid("rollout.seed", format!("must be at most {MAX_SEED}")))?,
            canary: share("rollout.canary", &asked.canary, 1)?,
            batch: share("rollout.batch", &asked.batch, 1)?,
            max_failures: share("rollout.max_failures", &asked.max_failures, 0)?,
            window,
            asked,
        })
    }

    /// The plan for so many agents and a command that lives so long.
    ///
    /// # Errors
    /// When the command would expire before its last wave.
    pub(crate) fn plan(&self, targets: u32, lifetime: Duration, now: Timestamp) -> Result<Plan, Failure> {
        let RolloutPlan { pause_seconds, rate_per_second, start_at_ms, patience_seconds, .. } = self.asked;
        let patience = match patience_seconds {
            0 => DEFAULT_PATIENCE,
            seconds => Duration::from_secs(seconds.into()),
        };
        let plan = Plan {
            canary: self.canary.map_or(0, |share| share.up(targets)),
            batch: self.batch.map_or(0, |share| share.up(targets)),
            pause: Duration::from_secs(pause_seconds.into()),
            max_failures: self.max_failures.map_or(0, |share| share.down(targets)),
            rate: rate_per_second,
            window: self.window,
            start_at: Timestamp::from_millis(start_at_ms),
            patience,
        };
        if plan.canary >= targets && targets > 1 {
            let text = format!("{} are all that were chosen; a canary is a part of them", agents(targets));
            return Err(Failure::invalid("rollout.canary", text));
        }
        let waves = plan.waves(targets);
        let start_in = plan.start_at.since(now);
        let opens_in = plan.window.map_or(Duration::ZERO, |window| window.opens_in(now + start_in));
        let rated = u64::from(targets.checked_div(plan.rate).unwrap_or(0));
        let least = start_in
            .saturating_add(opens_in)
            .saturating_add(plan.pause.saturating_mul(waves - 1))
            .saturating_add(Duration::from_secs(rated));
        if least >= lifetime {
            let text = format!(
                "the rollout takes {} at least, in {waves} waves, and the command expires after {}; let it live longer: --expires",
                words(least),
                words(lifetime)
            );
            return Err(Failure::invalid("expires_in_seconds", text));
        }
        Ok(plan)
    }
}

/// So many agents, in words.
pub(crate) fn agents(number: u32) -> String {
    if number == 1 { "1 agent".to_owned() } else { format!("{number} agents") }
}

/// A time as an operator writes one.
pub(crate) fn words(time: Duration) -> String {
    let seconds = time.as_secs();
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let said: Vec<_> = parts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, unit)| format!("{number}{unit}"))
        .collect();
    if said.is_empty() { "0s".to_owned() } else { said.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    fn asked() -> RolloutPlan {
        RolloutPlan {
            canary: "2%".to_owned(),
            batch: "25".to_owned(),
            max_failures: "2%".to_owned(),
            pause_seconds: 60,
            ..RolloutPlan::default()
        }
    }

    #[test]
    fn shares_are_of_the_agents_that_were_chosen() {
        let plan = |targets| Staging::read(asked()).unwrap().plan(targets, HOUR, NOW).unwrap();
        let numbers = |targets| {
            let plan = plan(targets);
            (plan.canary, plan.batch, plan.max_failures)
        };
        assert_eq!(numbers(100), (2, 25, 2));
        assert_eq!(numbers(99), (2, 25, 1), "a canary is rounded up, failures down");
        assert_eq!(numbers(1), (1, 25, 0));
        assert_eq!(plan(1).patience, DEFAULT_PATIENCE);
    }

    #[test]
    fn what_cannot_be_read_is_told_by_field() {
        for (field, plan) in [
            ("rollout.canary", RolloutPlan { canary: "0".to_owned(), ..asked() }),
            ("rollout.canary", RolloutPlan { canary: "0%".to_owned(), ..asked() }),
            ("rollout.canary", RolloutPlan { canary: "some".to_owned(), ..asked() }),
            ("rollout.batch", RolloutPlan { batch: "101%".to_owned(), ..asked() }),
            ("rollout.batch", RolloutPlan { batch: "+5".to_owned(), ..asked() }),
            ("rollout.max_failures", RolloutPlan { max_failures: "-1".to_owned(), ..asked() }),
            ("rollout.window", RolloutPlan { window: "22-04".to_owned(), ..asked() }),
            ("rollout.pause_seconds", RolloutPlan { pause_seconds: 86_401, ..asked() }),
            ("rollout.patience_seconds", RolloutPlan { patience_seconds: u32::MAX, ..asked() }),
            ("rollout.seed", RolloutPlan { seed: 1 << 53, ..asked() }),
        ] {
            let failure = Staging::read(plan).unwrap_err();
            assert!(format!("{failure:?}").contains(field), "{field}: {failure:?}");
        }
        let none = RolloutPlan { max_failures: "0".to_owned(), ..asked() };
        assert_eq!(Staging::read(none).unwrap().plan(100, HOUR, NOW).unwrap().max_failures, 0);
    }

    #[test]
    fn a_rollout_that_outlives_its_command_is_refused() {
        let staging = Staging::read(asked()).unwrap();
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        staging.plan(100, minutes(5), NOW).unwrap();
        let said = format!("{:?}", staging.plan(100, minutes(4), NOW).unwrap_err());
        assert!(
            said.contains("takes 4m at least, in 5 waves") && said.contains("expires after 4m"),
            "{said}"
        );
        let late = RolloutPlan { start_at_ms: (NOW + HOUR).as_millis(), ..asked() };
        Staging::read(late).unwrap().plan(100, HOUR, NOW).unwrap_err();
        let slow = RolloutPlan { rate_per_second: 1, ..asked() };
        Staging::read(slow).unwrap().plan(100_000, HOUR, NOW).unwrap_err();
    }

    #[test]
    fn times_are_told_as_they_are_typed() {
        for (seconds, said) in [(0, "0s"), (59, "59s"), (60, "1m"), (3661, "1h 1m 1s"), (90_000, "25h")] {
            assert_eq!(words(Duration::from_secs(seconds)), said);
        }
    }
}
