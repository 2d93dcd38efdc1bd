//! Markdown tables.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::analysis::{Row, Sheet};
use crate::contender::Family;
use crate::metrics::Metric;
use crate::results::Results;
use crate::statistics::{Estimate, Verdict};

/// What was measured on.
pub(crate) fn machine(results: &Results) -> String {
    let Some(run) = results.newest() else {
        return "Nothing was measured.".to_owned();
    };
    let it = &run.machine;
    // A later run may have had only some of the contenders.
    let known: BTreeMap<&String, &String> = results
        .runs
        .values()
        .flat_map(|run| &run.versions)
        .collect();
    let versions: Vec<String> = known
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    let quick = if run.quick {
        "\n\n**A quick run: it shows that all works, not who wins.**"
    } else {
        ""
    };
    format!(
        "{}, Linux {}, {} x {}, {:.0} GiB, {}; kolk at `{}`, which would choose by itself: {}.\n\n{}.{quick}",
        run.began,
        it.kernel,
        it.processors,
        it.cpu,
        it.memory_bytes as f64 / f64::from(1 << 30),
        it.compiler,
        it.commit,
        it.driver,
        versions.join(", "),
    )
}

/// One line a cell: the best way to use kolk against the best limit and the best peer.
pub(crate) fn summary(sheets: &[Sheet<'_>]) -> String {
    let mut text = "| scenario | cell | metric | best kolk | | best limit | kolk is better by | best peer | kolk is better by | |\n\
        |---|---|---|---|---:|---|---:|---|---:|---|\n"
        .to_owned();
    for sheet in sheets {
        let metric = sheet.first_metric();
        let Some(kolk) = sheet.best(Family::Kolk, metric) else {
            continue;
        };
        let against = |family| {
            let other = sheet.best(family, metric)?;
            Some((
                other.contender.title.clone(),
                kolk.advantage(other, metric)?,
            ))
        };
        let (limit, peer) = (against(Family::Limit), against(Family::Peer));
        let shown = |it: &Option<(String, Estimate)>| match it {
            Some((title, estimate)) => format!("{title} | {estimate}"),
            None => "| ".to_owned(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | `{}` | {} | {} | {} | {} | {} | {} |",
            sheet.scenario.name,
            sheet.cell,
            metric.title,
            kolk.contender.title,
            value(kolk.median(metric.key)),
            shown(&limit),
            shown(&peer),
            peer.map_or("", |(_, estimate)| words(estimate)),
        );
    }
    text
}

/// What a message costs with 8000 connections, as a multiple of what it costs with 50.
pub(crate) fn growth(sheets: &[Sheet<'_>]) -> String {
    let cell = |name: &str| {
        sheets
            .iter()
            .find(|it| it.scenario.name == "echo" && it.cell == name)
    };
    let (Some(few), Some(many)) = (cell("tcp-50x64x1"), cell("tcp-8000x64x1")) else {
        return "The cells `tcp-50x64x1` and `tcp-8000x64x1` were not both measured.".to_owned();
    };
    let mut text =
        "| | CPU us at 50 | CPU us at 8000 | growth |\n|---|---:|---:|---:|\n".to_owned();
    for row in &many.rows {
        let few = few
            .row(&row.contender.name)
            .and_then(|row| row.median("cpu_us"));
        if let (Some(few), Some(many)) = (few, row.median("cpu_us")) {
            let _ = writeln!(
                text,
                "| {} | {few:.2} | {many:.2} | {:.2} |",
                row.contender.title,
                many / few
            );
        }
    }
    text
}

/// Everything, a table for each cell.
pub(crate) fn cells(sheets: &[Sheet<'_>]) -> String {
    let mut text = String::new();
    let mut title = "";
    for sheet in sheets {
        if sheet.scenario.title != title {
            title = &sheet.scenario.title;
            let _ = writeln!(text, "### {title}\n");
        }
        let rate = sheet
            .rate
            .map(|rate| format!(", {rate:.0} messages/s"))
            .unwrap_or_default();
        let rounds = sheet
            .rows
            .iter()
            .map(Row::round_count)
            .max()
            .unwrap_or_default();
        let _ = writeln!(
            text,
            "`{}`{rate}, {rounds} rounds\n\n{}",
            sheet.cell,
            table(sheet)
        );
    }
    text
}

fn table(sheet: &Sheet<'_>) -> String {
    let (metrics, first) = (sheet.scenario.load.metrics(), sheet.first_metric());
    let best = sheet.best(Family::Kolk, first);
    let ways: Vec<&Row<'_>> = sheet.family(Family::Kolk).collect();
    let mut head = vec![String::new()];
    head.extend(metrics.iter().map(|metric| metric.title.to_owned()));
    head.push("load busy %".to_owned());
    head.push("best kolk is better by".to_owned());
    head.extend(ways.iter().map(|way| way.contender.name.clone()));
    head.push(String::new());
    let mut text = format!(
        "| {} |\n|---{}---|\n",
        head.join(" | "),
        "|---:".repeat(head.len() - 2) + "|"
    );
    for row in &sheet.rows {
        let mut columns = vec![named(row)];
        columns.extend(metrics.iter().map(|metric| value(row.median(metric.key))));
        columns.push(value(row.median("load_busy")));
        let advantage = |kolk: &Row<'_>| shown_advantage(kolk, row, first);
        columns.push(best.map(advantage).unwrap_or_default());
        columns.extend(ways.iter().map(|way| advantage(way)));
        columns.push(
            row.note
                .clone()
                .map_or_else(|| verdict(best, row, first), |note| note.replace('|', "/")),
        );
        let _ = writeln!(text, "| {} |", columns.join(" | "));
    }
    text
}

/// Contenders that are kolk stand out.
fn named(row: &Row<'_>) -> String {
    let title = &row.contender.title;
    if row.contender.family == Family::Kolk {
        format!("**{title}**")
    } else {
        title.clone()
    }
}

fn shown_advantage(kolk: &Row<'_>, row: &Row<'_>, metric: &Metric) -> String {
    if kolk.contender.name == row.contender.name {
        return String::new();
    }
    kolk.advantage(row, metric)
        .map_or_else(String::new, |estimate| estimate.to_string())
}

fn verdict(best: Option<&Row<'_>>, row: &Row<'_>, metric: &Metric) -> String {
    let other = best.filter(|_| row.contender.family != Family::Kolk);
    other
        .and_then(|best| best.advantage(row, metric))
        .map_or("", words)
        .to_owned()
}

fn words(advantage: Estimate) -> &'static str {
    match advantage.verdict() {
        Verdict::Above => "kolk is better",
        Verdict::Below => "kolk is worse",
        Verdict::NoDifference => "no difference",
        Verdict::TooFewRounds => "too few rounds",
    }
}

/// As many digits as a reader can use.
pub(crate) fn value(value: Option<f64>) -> String {
    match value {
        None => String::new(),
        Some(value) if value >= 1000.0 => grouped(value.round() as u64),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.2}"),
    }
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::tests::{results, shipped};

    #[test]
    fn values_have_the_digits_that_matter() {
        let values = [0.25, 12.345, 123.4, 61_190.03, 1_234_567.0].map(|it| value(Some(it)));
        assert_eq!(values, ["0.25", "12.35", "123", "61 190", "1 234 567"]);
    }

    #[test]
    fn a_cell_shows_everybody_and_says_who_is_better() {
        let (scenarios, contenders) = shipped();
        let results = results(
            "echo",
            "tcp-50x64x1",
            &[
                ("kolk-uring", &[(120.0, 4.0), (121.0, 4.0), (122.0, 4.0)]),
                ("kolk-epoll", &[(90.0, 5.0), (90.0, 5.0), (90.0, 5.0)]),
                ("limit-uring", &[(110.0, 4.0), (121.0, 4.0), (130.0, 4.0)]),
                ("tokio", &[(100.0, 8.0), (100.0, 8.0), (100.0, 8.0)]),
            ],
        );
        let sheets = Sheet::all(&results, &scenarios, &contenders);
        let text = cells(&sheets);
        let line = |start: &str| {
            text.lines()
                .find(|line| line.starts_with(start))
                .unwrap()
                .to_owned()
        };
        assert!(line("| tokio").ends_with(
            "| 1.21 [1.20, 1.22] | 1.21 [1.20, 1.22] | 0.90 [0.90, 0.90] | kolk is better |"
        ));
        assert!(line("| limit, io_uring").ends_with("no difference |"));
        assert!(line("| **kolk, Server, io_uring**").contains("| 121 | 4.00 |"));
        assert!(
            summary(&sheets)
                .contains("| echo | `tcp-50x64x1` | messages/s | kolk, Server, io_uring | 121 |")
        );
    }
}
