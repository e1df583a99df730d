//! The result of a run, as a table and as JSON.

use std::fmt;

use serde::Serialize;

use super::{Options, server::Server};

/// One measured value.
pub struct Sample {
    name: String,
    unit: Unit,
    value: f64,
}

impl Sample {
    pub fn new(name: impl Into<String>, unit: Unit, value: f64) -> Self {
        Self { name: name.into(), unit, value }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Milliseconds; less is better.
    Ms,
    /// Tokens a second; more is better.
    Rate,
    /// Megabytes of 10⁶ bytes; less is better.
    Mb,
    /// A number of tokens, which shows that all servers got equal requests; no value is better.
    Tokens,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Unit::Ms => "ms ↓",
            Unit::Rate => "tok/s ↑",
            Unit::Mb => "MB ↓",
            Unit::Tokens => "tokens",
        })
    }
}

/// One figure, for every server.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    pub name: String,
    pub unit: Unit,
    /// Measured values in the order of the servers, then of the rounds.
    pub values: Vec<Vec<f64>>,
    /// The spread of each server; `None` if every measurement failed.
    pub spread: Vec<Option<Spread>>,
    /// The median of the first server divided by that of each other one.
    pub ratios: Vec<Option<f64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Returns `None` without values. The median of an even number of values is the mean of the middle two.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted.get((sorted.len() - 1) / 2)?, sorted.get(sorted.len() / 2)?);
        Some(Self { median: (low + high) / 2.0, min, max })
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub options: Options,
    pub servers: Vec<Server>,
    pub figures: Vec<Figure>,
    /// The rows that were omitted, and why.
    pub notes: Vec<String>,
    /// The measurements that failed, and why.
    pub failures: Vec<String>,
}

impl Report {
    pub(super) fn new(options: &Options, servers: &[Server]) -> Self {
        let (figures, notes, failures) = (vec![], vec![], vec![]);
        Self { options: options.clone(), servers: servers.to_vec(), figures, notes, failures }
    }

    /// Adds the samples of one server in one round.
    pub(super) fn add(&mut self, server: usize, prefix: &str, samples: Vec<Sample>) {
        for sample in samples {
            let name = format!("{prefix}{}", sample.name);
            let figure = match self.figures.iter_mut().position(|figure| figure.name == name) {
                Some(at) => self.figures.get_mut(at),
                None => {
                    self.figures.push(Figure::empty(name, sample.unit, self.servers.len()));
                    self.figures.last_mut()
                }
            };
            if let Some(figure) = figure {
                figure.add(server, sample.value);
            }
        }
    }
}

impl Figure {
    fn empty(name: String, unit: Unit, servers: usize) -> Self {
        Self { name, unit, values: vec![vec![]; servers], spread: vec![None; servers], ratios: vec![] }
    }

    fn add(&mut self, server: usize, value: f64) {
        if let Some(values) = self.values.get_mut(server) {
            values.push(value);
        }
        self.spread = self.values.iter().map(|values| Spread::of(values)).collect();
        let mut medians = self.spread.iter().map(|spread| spread.map(|spread| spread.median));
        let ours = medians.next().flatten();
        self.ratios = medians.map(|peer| ours.zip(peer).map(|(ours, peer)| ours / peer)).collect();
    }
}

/// Formats a value with as many digits as are significant.
fn short(value: f64) -> String {
    if value.abs() < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for server in &self.servers {
            writeln!(f, "{}: {} at {}", server.name, server.model, server.url)?;
        }
        writeln!(f, "Medians of {} rounds (least to most); ratios are ours / peer.\n", self.options.rounds)?;
        write!(f, "{:<62}{:<9}", "", "")?;
        for (at, server) in self.servers.iter().enumerate() {
            write!(f, "{:>26}", server.name)?;
            if at > 0 {
                write!(f, "{:>8}", "ratio")?;
            }
        }
        for figure in &self.figures {
            write!(f, "\n{:<62}{:<9}", figure.name, figure.unit)?;
            for (at, spread) in figure.spread.iter().enumerate() {
                let cell = spread.map_or("–".to_owned(), |Spread { median, min, max }| {
                    format!("{} ({}–{})", short(median), short(min), short(max))
                });
                write!(f, "{cell:>26}")?;
                if let Some(ratio) = at.checked_sub(1).and_then(|at| figure.ratios.get(at)) {
                    write!(f, "{:>8}", ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}")))?;
                }
            }
        }
        let lines = |f: &mut fmt::Formatter<'_>, title, lines: &[String]| {
            lines.iter().try_for_each(|line| write!(f, "\n{title}: {line}"))
        };
        lines(f, "note", &self.notes)?;
        lines(f, "failed", &self.failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_median() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[3.0, 1.0, 9.0]), Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
        assert_eq!(Spread::of(&[4.0, 2.0]).map(|spread| spread.median), Some(3.0));
    }

    #[test]
    fn ratios_are_ours_to_each_peer() {
        let mut figure = Figure::empty("decode".into(), Unit::Rate, 3);
        figure.add(0, 200.0);
        figure.add(1, 100.0);
        assert_eq!(figure.ratios, [Some(2.0), None]);
        figure.add(2, 400.0);
        assert_eq!(figure.ratios, [Some(2.0), Some(0.5)]);
    }
}
