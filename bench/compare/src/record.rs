//! `record`: a CSV with the date in its name, to be kept beside the sources.

use std::fs;
use std::path::Path;

use harness::Result;

use crate::analysis::Sheet;
use crate::contender::Contender;
use crate::results::{Results, Run};
use crate::scenario::Scenario;

/// The columns: one line a metric of a contender in a cell.
const HEAD: [&str; 15] = [
    "date",
    "commit",
    "kernel",
    "cpu",
    "driver",
    "compiler",
    "scenario",
    "cell",
    "contender",
    "version",
    "metric",
    "rounds",
    "median",
    "low",
    "high",
];

/// Writes the file of the newest run's day into a folder.
pub(crate) fn write(
    results: &Results,
    scenarios: &[Scenario],
    contenders: &[Contender],
    folder: &Path,
) -> Result<()> {
    let run = results.newest().ok_or("the file of results has no run")?;
    let date = run.began.split('T').next().unwrap_or_default();
    let path = folder.join(format!("{date}.csv"));
    fs::create_dir_all(folder)
        .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    let failed = |error: csv::Error| format!("cannot write {}: {error}", path.display());
    let mut file = csv::Writer::from_path(&path).map_err(failed)?;
    file.write_record(HEAD).map_err(failed)?;
    let mut lines = 0;
    for sheet in Sheet::all(results, scenarios, contenders) {
        for line in lines_of(&sheet, run) {
            file.write_record(line).map_err(failed)?;
            lines += 1;
        }
    }
    file.flush()?;
    println!("{}: {lines} lines", path.display());
    Ok(())
}

fn lines_of(sheet: &Sheet<'_>, run: &Run) -> Vec<[String; HEAD.len()]> {
    let (machine, scenario) = (&run.machine, sheet.scenario);
    let mut lines = Vec::new();
    for row in &sheet.rows {
        for metric in scenario.load.metrics() {
            let Some(estimate) = row.estimate(metric.key) else {
                continue;
            };
            let (low, high) = estimate
                .interval
                .map_or_else(Default::default, |(low, high)| {
                    (format!("{low:.4}"), format!("{high:.4}"))
                });
            lines.push([
                run.began.clone(),
                machine.commit.clone(),
                machine.kernel.clone(),
                machine.cpu.clone(),
                machine.driver.clone(),
                machine.compiler.clone(),
                scenario.name.clone(),
                sheet.cell.clone(),
                row.contender.name.clone(),
                row.version.clone().unwrap_or_default(),
                metric.key.to_owned(),
                row.round_count().to_string(),
                format!("{:.4}", estimate.median),
                low,
                high,
            ]);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::tests::{results, shipped};
    use crate::machine::Machine;

    #[test]
    fn a_record_is_read_back_line_by_line() {
        let (scenarios, contenders) = shipped();
        let rounds = [(100.0, 5.0), (110.0, 5.1), (105.0, 4.9)];
        let mut results = results("echo", "tcp-50x64x1", &[("tokio", &rounds)]);
        let run = Run {
            began: "2026-01-02T03:04:05Z".to_owned(),
            quick: false,
            machine: Machine {
                cpu: "A, B".to_owned(),
                ..Machine::default()
            },
            versions: [("tokio".to_owned(), "1.2.3".to_owned())].into(),
        };
        results.runs.insert("r".to_owned(), run);
        let folder = std::env::temp_dir().join(format!("kolk-record-{}", std::process::id()));
        write(&results, &scenarios, &contenders, &folder).unwrap();
        let mut file = csv::Reader::from_path(folder.join("2026-01-02.csv")).unwrap();
        let lines: Vec<csv::StringRecord> = file.records().map(|line| line.unwrap()).collect();
        fs::remove_dir_all(&folder).unwrap();
        let rate = lines.iter().find(|line| &line[10] == "per_second").unwrap();
        assert_eq!(
            (&rate[3], &rate[9], &rate[11], &rate[12]),
            ("A, B", "1.2.3", "3", "105.0000")
        );
    }
}
