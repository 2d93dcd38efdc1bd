//! The file of results: one JSON object a line, so that a run that is interrupted keeps what it has.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use harness::Result;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::metrics::Figures;

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub(crate) enum Line {
    /// A run begins.
    Run(Run),
    /// One contender, in one round of one cell.
    Measured(Measured),
}

/// What all measurements of a run share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// When it began, in UTC: also its name.
    pub(crate) began: String,
    pub(crate) quick: bool,
    pub(crate) machine: Machine,
    /// By contender.
    pub(crate) versions: BTreeMap<String, String>,
}

/// One contender, in one round of one cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// [`Run::began`].
    pub(crate) run: String,
    pub(crate) scenario: String,
    pub(crate) cell: String,
    /// From 1.
    pub(crate) round: u32,
    pub(crate) contender: String,
    /// Seconds that it was measured for.
    pub(crate) seconds: f64,
    /// Messages a second of an open loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<f64>,
    pub(crate) outcome: Outcome,
}

/// What came of a measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// By the key of the metric.
    Figures(Figures),
    /// The contender cannot do this, and says why.
    Unsupported(String),
    /// It went wrong: a wrong byte, a lost connection, a server that ended.
    Failed(String),
}

/// Adds lines to the file, each as soon as it is there.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
}

impl Writer {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(Self { file })
    }

    pub(crate) fn add(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        // In one piece: a run that ends here leaves no half line.
        Ok(self.file.write_all(text.as_bytes())?)
    }
}

/// What the file holds, of each cell only its last run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Results {
    /// By [`Run::began`].
    pub(crate) runs: BTreeMap<String, Run>,
    pub(crate) measured: Vec<Measured>,
}

impl Results {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|error| {
            format!("cannot read {}: {error} (`run` writes it)", path.display())
        })?;
        let mut results = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = serde_json::from_str(line);
            match line
                .map_err(|error| format!("{}, line {}: {error}", path.display(), number + 1))?
            {
                Line::Run(run) => {
                    results.runs.insert(run.began.clone(), run);
                }
                Line::Measured(measured) => results.measured.push(measured),
            }
        }
        results.keep_the_last();
        Ok(results)
    }

    /// Rounds of different runs are not pairs: of each cell, the last run counts.
    fn keep_the_last(&mut self) {
        let mut last: BTreeMap<(String, String), String> = BTreeMap::new();
        for it in &self.measured {
            let newest = last
                .entry((it.scenario.clone(), it.cell.clone()))
                .or_default();
            if it.run > *newest {
                newest.clone_from(&it.run);
            }
        }
        self.measured
            .retain(|it| last.get(&(it.scenario.clone(), it.cell.clone())) == Some(&it.run));
        self.runs
            .retain(|name, _| last.values().any(|run| run == name));
    }

    /// The newest run that is left.
    pub(crate) fn newest(&self) -> Option<&Run> {
        self.runs.values().next_back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(run: &str, cell: &str, value: f64) -> Measured {
        Measured {
            run: run.to_owned(),
            scenario: "echo".to_owned(),
            cell: cell.to_owned(),
            round: 1,
            contender: "mio".to_owned(),
            seconds: 1.0,
            rate: None,
            outcome: Outcome::Figures(Figures::from([("cpu_us".to_owned(), value)])),
        }
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        for line in [
            Line::Measured(measured("a", "x", 1.5)),
            Line::Measured(Measured {
                outcome: Outcome::Failed("lost".into()),
                ..measured("a", "x", 0.0)
            }),
            Line::Run(Run {
                began: "2026-01-01T00:00:00Z".to_owned(),
                quick: true,
                machine: Machine::default(),
                versions: BTreeMap::from([("mio".to_owned(), "1.2.4".to_owned())]),
            }),
        ] {
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line, "{text}");
        }
    }

    #[test]
    fn of_each_cell_the_last_run_counts() {
        let lines = [
            measured("1", "x", 1.0),
            measured("1", "y", 2.0),
            measured("2", "x", 3.0),
        ];
        let mut results = Results {
            measured: lines.to_vec(),
            ..Results::default()
        };
        results.keep_the_last();
        assert_eq!(
            results.measured,
            [measured("1", "y", 2.0), measured("2", "x", 3.0)]
        );
    }
}
