//! The figures, for people and for programs.

use std::path::Path;

use serde::Serialize;

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

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Figure {
    fn is_reached(&self) -> Option<bool> {
        self.goal.map(|goal| match goal {
            Goal::AtMost(most) => self.value <= most,
            Goal::AtLeast(least) => self.value >= least,
        })
    }
}

#[expect(clippy::print_stdout, reason = "the table is what the benchmark is run for")]
pub(crate) fn print(figures: &[Figure]) {
    println!("{:32} {:>12} {:6} {:>12}  reached  how", "figure", "value", "unit", "goal");
    for figure in figures {
        let goal = match figure.goal {
            None => String::new(),
            Some(Goal::AtMost(most)) => format!("≤ {most}"),
            Some(Goal::AtLeast(least)) => format!("≥ {least}"),
        };
        let reached = figure.is_reached().map_or("", |reached| if reached { "yes" } else { "no" });
        let Figure { name, value, unit, how, .. } = figure;
        println!("{name:32} {value:>12.3} {unit:6} {goal:>12}  {reached:7}  {how}");
    }
}

pub(crate) fn write(figures: &[Figure], path: &Path) {
    let mut whole: serde_json::Map<_, _> =
        figures.iter().map(|figure| (figure.name.to_owned(), figure.value.into())).collect();
    whole.insert("details".to_owned(), serde_json::json!(figures));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, serde_json::to_string_pretty(&whole).unwrap()).unwrap();
}
