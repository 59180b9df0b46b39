//! The figures, for people and for programs.

use std::path::Path;

use serde::Serialize;

use crate::figures::median;
use crate::others::MOST;

/// One measured figure.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// The most it should be, or the least; `None` when it is only told.
    pub(crate) goal: Option<Goal>,
    /// How it was measured.
    pub(crate) how: String,
}

/// A figure, and the part of the cores that other processes took while it was measured.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) figure: Figure,
    pub(crate) others: f64,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

/// One figure of all rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    name: &'static str,
    /// The median.
    value: f64,
    unit: &'static str,
    /// From the least to the greatest, as a part of the median.
    spread: f64,
    goal: Option<Goal>,
    verdict: Verdict,
    /// The largest part of the cores that others took.
    others: f64,
    rounds: Vec<f64>,
    how: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// There is no goal.
    Told,
    Reached,
    NotReached,
    /// Others took too much of the cores: it says nothing.
    NotJudged,
}

/// The rows of rounds, in the order in which figures came.
pub(crate) fn rows(rounds: Vec<Vec<Measured>>) -> Vec<Row> {
    let mut rows = Vec::<Row>::new();
    for Measured { figure: Figure { name, value, unit, goal, how }, others } in rounds.into_iter().flatten() {
        match rows.iter_mut().find(|row| row.name == name) {
            Some(row) => {
                row.rounds.push(value);
                row.others = row.others.max(others);
                (row.goal, row.how) = (goal, how);
            }
            None => {
                let (spread, verdict, rounds) = (0.0, Verdict::Told, vec![value]);
                rows.push(Row { name, value, unit, spread, goal, verdict, others, rounds, how });
            }
        }
    }
    rows.iter_mut().for_each(Row::judge);
    rows
}

impl Row {
    fn judge(&mut self) {
        self.value = median(self.rounds.clone());
        let least = self.rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = self.rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        self.spread = (greatest - least) / self.value;
        let is_reached = self.goal.map(|goal| match goal {
            Goal::AtMost(most) => self.value <= most,
            Goal::AtLeast(least) => self.value >= least,
        });
        self.verdict = match is_reached {
            None => Verdict::Told,
            Some(_) if self.others > MOST => Verdict::NotJudged,
            Some(true) => Verdict::Reached,
            Some(false) => Verdict::NotReached,
        };
    }

    /// Whether others took too much for it to be judged.
    pub(crate) fn is_judged(&self) -> bool {
        self.verdict != Verdict::NotJudged
    }
}

#[expect(clippy::print_stdout, reason = "the table is what the benchmark is run for")]
pub(crate) fn print(rows: &[Row]) {
    println!(
        "{:34} {:>12} {:6} {:>7} {:>12}  {:10} {:>7}  how",
        "figure", "median", "unit", "spread", "goal", "reached", "others"
    );
    for row in rows {
        let goal = match row.goal {
            None => String::new(),
            Some(Goal::AtMost(most)) => format!("≤ {most}"),
            Some(Goal::AtLeast(least)) => format!("≥ {least}"),
        };
        let verdict = match row.verdict {
            Verdict::Told => "",
            Verdict::Reached => "yes",
            Verdict::NotReached => "no",
            Verdict::NotJudged => "not judged",
        };
        let Row { name, value, unit, how, .. } = row;
        let (spread, others) = (row.spread * 100.0, row.others * 100.0);
        println!(
            "{name:34} {value:>12.3} {unit:6} {spread:>6.1}% {goal:>12}  {verdict:10} {others:>6.1}%  {how}"
        );
    }
    let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    let (reached, not, unjudged) =
        (count(Verdict::Reached), count(Verdict::NotReached), count(Verdict::NotJudged));
    println!("{reached} goals reached, {not} not, {unjudged} not judged");
    if unjudged > 0 {
        let most = MOST * 100.0;
        println!(
            "Other processes took more than {most} % of the cores: what is not judged says nothing. End them, and run it again."
        );
    }
}

pub(crate) fn write(rows: &[Row], path: &Path) {
    let mut whole: serde_json::Map<_, _> =
        rows.iter().map(|row| (row.name.to_owned(), row.value.into())).collect();
    whole.insert("details".to_owned(), serde_json::json!(rows));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, serde_json::to_string_pretty(&whole).unwrap()).unwrap();
}
