//! From measurements to medians and to paired ratios.

use std::collections::BTreeMap;

use crate::contender::{Contender, Family};
use crate::metrics::{Better, Metric};
use crate::results::{Measured, Outcome, Results};
use crate::scenario::Scenario;
use crate::statistics::Estimate;

/// All that is known of one cell.
#[derive(Clone, Debug)]
pub(crate) struct Sheet<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) cell: String,
    /// Messages a second of an open loop.
    pub(crate) rate: Option<f64>,
    /// In the order of the contenders' file; only those that were asked.
    pub(crate) rows: Vec<Row<'a>>,
}

/// One contender in one cell.
#[derive(Clone, Debug)]
pub(crate) struct Row<'a> {
    pub(crate) contender: &'a Contender,
    /// The version that was measured.
    pub(crate) version: Option<String>,
    /// By round, and in it by the key of the metric.
    rounds: BTreeMap<u32, &'a BTreeMap<String, f64>>,
    /// Why there is less than there should be.
    pub(crate) note: Option<String>,
}

impl<'a> Sheet<'a> {
    /// One for each cell that was measured, in the order of the scenarios and of their cells.
    pub(crate) fn all(
        results: &'a Results,
        scenarios: &'a [Scenario],
        contenders: &'a [Contender],
    ) -> Vec<Self> {
        let mut sheets = Vec::new();
        for scenario in scenarios {
            for cell in scenario.cells().iter().map(ToString::to_string) {
                let is_of = |it: &&Measured| it.scenario == scenario.name && it.cell == cell;
                let measured: Vec<&Measured> = results.measured.iter().filter(is_of).collect();
                let Some(first) = measured.first() else {
                    continue;
                };
                let row = |contender| Row::of(contender, &measured, results);
                let rows = contenders.iter().filter_map(row).collect();
                sheets.push(Self {
                    scenario,
                    rate: first.rate,
                    cell,
                    rows,
                });
            }
        }
        sheets
    }

    /// The most important metric.
    pub(crate) fn first_metric(&self) -> &'static Metric {
        // Every kind of load has one: its list is a constant.
        &self.scenario.load.metrics()[0]
    }

    /// Rows of a family that have figures.
    pub(crate) fn family(&self, family: Family) -> impl Iterator<Item = &Row<'a>> {
        self.rows
            .iter()
            .filter(move |row| row.contender.family == family && !row.rounds.is_empty())
    }

    /// The row of a contender, if it has figures.
    pub(crate) fn row(&self, name: &str) -> Option<&Row<'a>> {
        self.rows
            .iter()
            .find(|row| row.contender.name == name && !row.rounds.is_empty())
    }

    /// Whose median of a metric is the best one of a family.
    pub(crate) fn best(&self, family: Family, metric: &Metric) -> Option<&Row<'a>> {
        let median = |row: &Row<'a>| row.median(metric.key);
        let ranked = self.family(family).filter(|row| median(row).is_some());
        ranked.max_by(|a, b| {
            let (a, b) = (median(a).unwrap_or_default(), median(b).unwrap_or_default());
            match metric.better {
                Better::More => a.total_cmp(&b),
                Better::Less => b.total_cmp(&a),
            }
        })
    }
}

impl<'a> Row<'a> {
    fn of(contender: &'a Contender, measured: &[&'a Measured], results: &Results) -> Option<Self> {
        let own: Vec<&&Measured> = measured
            .iter()
            .filter(|it| it.contender == contender.name)
            .collect();
        let run = results.runs.get(&own.first()?.run);
        let mut row = Self {
            contender,
            version: run.and_then(|run| run.versions.get(&contender.name).cloned()),
            rounds: BTreeMap::new(),
            note: None,
        };
        for it in own {
            match &it.outcome {
                Outcome::Figures(figures) => drop(row.rounds.insert(it.round, figures)),
                Outcome::Unsupported(why) => row.note = Some(format!("not offered: {why}")),
                Outcome::Failed(why) => {
                    let first = why.lines().next().unwrap_or_default();
                    row.note = Some(format!("failed in round {}: {first}", it.round));
                }
            }
        }
        Some(row)
    }

    /// Rounds with figures.
    pub(crate) fn round_count(&self) -> usize {
        self.rounds.len()
    }

    /// Of a metric, over the rounds.
    pub(crate) fn estimate(&self, key: &str) -> Option<Estimate> {
        let values: Vec<f64> = self
            .rounds
            .values()
            .filter_map(|figures| figures.get(key).copied())
            .collect();
        Estimate::of(&values)
    }

    pub(crate) fn median(&self, key: &str) -> Option<f64> {
        Some(self.estimate(key)?.median)
    }

    /// How much better than `other` this one is, in the rounds that both have: above 1 it is better, whether more or
    /// less is.
    pub(crate) fn advantage(&self, other: &Self, metric: &Metric) -> Option<Estimate> {
        let value = |figures: &BTreeMap<String, f64>| {
            figures.get(metric.key).copied().filter(|&it| it > 0.0)
        };
        let ratio = |(round, ours): (&u32, &&BTreeMap<String, f64>)| {
            let (ours, theirs) = (value(ours)?, value(other.rounds.get(round)?)?);
            Some(match metric.better {
                Better::More => ours / theirs,
                Better::Less => theirs / ours,
            })
        };
        let ratios: Vec<f64> = self.rounds.iter().filter_map(ratio).collect();
        Estimate::of(&ratios)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;
    use crate::metrics::{self, Figures};

    /// Scenarios and contenders as they are shipped.
    pub(crate) fn shipped() -> (Vec<Scenario>, Vec<Contender>) {
        let bench = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let scenarios = Scenario::all(&bench.join("scenarios")).unwrap();
        (
            scenarios,
            Contender::all(&bench.join("contenders.toml")).unwrap(),
        )
    }

    /// Some rounds of a cell: by contender, messages a second and CPU in each.
    pub(crate) fn results(
        scenario: &str,
        cell: &str,
        figures: &[(&str, &[(f64, f64)])],
    ) -> Results {
        let mut results = Results::default();
        for (contender, rounds) in figures {
            for (round, &(per_second, cpu_us)) in rounds.iter().enumerate() {
                let keys = [
                    "p50_us",
                    "p99_us",
                    "p999_us",
                    "user_us",
                    "resident",
                    "user_bytes",
                    "kernel_bytes",
                ];
                let mut figures: Figures =
                    keys.iter().map(|&key| (key.to_owned(), cpu_us)).collect();
                figures.insert("per_second".to_owned(), per_second);
                figures.insert("cpu_us".to_owned(), cpu_us);
                results.measured.push(Measured {
                    run: "r".to_owned(),
                    scenario: scenario.to_owned(),
                    cell: cell.to_owned(),
                    round: round as u32 + 1,
                    contender: (*contender).to_owned(),
                    seconds: 1.0,
                    rate: None,
                    outcome: Outcome::Figures(figures),
                });
            }
        }
        results
    }

    #[test]
    fn only_ratios_within_a_round_count_and_above_one_is_better() {
        let (scenarios, contenders) = shipped();
        // The machine became twice as fast after each round; mio was asked in two of them only.
        let results = results(
            "echo",
            "tcp-50x64x1",
            &[
                ("kolk-uring", &[(110.0, 4.0), (220.0, 2.0), (440.0, 1.0)]),
                ("kolk-epoll", &[(90.0, 5.0), (180.0, 2.5), (360.0, 1.25)]),
                ("tokio", &[(100.0, 8.0), (200.0, 4.0), (400.0, 2.0)]),
                ("mio", &[(100.0, 4.0), (200.0, 2.0)]),
            ],
        );
        let sheets = Sheet::all(&results, &scenarios, &contenders);
        let [sheet] = sheets.as_slice() else {
            panic!("{sheets:?}")
        };
        let (uring, tokio) = (
            sheet.row("kolk-uring").unwrap(),
            sheet.row("tokio").unwrap(),
        );
        let [messages, cpu, ..] = metrics::ECHO else {
            panic!()
        };
        let faster = uring.advantage(tokio, messages).unwrap();
        assert!((faster.median - 1.1).abs() < 1e-9 && faster.interval.is_some());
        assert_eq!(uring.advantage(tokio, cpu).unwrap().median, 2.0);
        assert_eq!(
            uring
                .advantage(sheet.row("mio").unwrap(), messages)
                .unwrap()
                .interval,
            None
        );
        assert_eq!(
            sheet.best(Family::Kolk, messages).unwrap().contender.name,
            "kolk-uring"
        );
        assert!(sheet.best(Family::Limit, messages).is_none());
    }

    #[test]
    fn what_is_not_offered_has_a_note_and_no_figures() {
        let (scenarios, contenders) = shipped();
        let mut results = results("echo", "tcp-50x64x1", &[("mio", &[(1.0, 1.0)])]);
        results.measured[0].outcome = Outcome::Unsupported("too hard".to_owned());
        let sheets = Sheet::all(&results, &scenarios, &contenders);
        assert!(sheets[0].row("mio").is_none());
        assert_eq!(
            sheets[0].rows[0].note.as_deref(),
            Some("not offered: too hard")
        );
    }
}
