//! The bars that kolk sets itself, and whether they hold.

use std::fmt::Write;

use crate::analysis::{Row, Sheet};
use crate::contender::{Contender, Family};
use crate::metrics::Metric;
use crate::statistics::{Estimate, Verdict};

/// What one measurement says of one bar.
#[derive(Clone, Debug, PartialEq)]
struct Judged {
    bar: &'static str,
    cell: String,
    measured: String,
    holds: bool,
}

/// A line for each bar and cell that was measured.
pub(crate) fn table(sheets: &[Sheet<'_>]) -> String {
    let mut judged = Vec::new();
    for sheet in sheets {
        match sheet.scenario.name.as_str() {
            "echo" => echo(sheet, &mut judged),
            "idle" => idle(sheet, &mut judged),
            "parked" => judged.extend(parked(sheet)),
            "churn" => judged.extend(by_the_first(
                sheet,
                "churn: at least 1.10 of the best peer",
                1.10,
            )),
            "broadcast" => {
                judged.extend(by_the_first(
                    sheet,
                    "broadcast: at least 1.10 of the best peer",
                    1.10,
                ));
                judged.extend(memory(
                    sheet,
                    "broadcast: a quarter of the best peer's memory",
                    4.0,
                ));
            }
            "relay" => {
                judged.extend(by_the_first(sheet, "relay: at least the best peer", 1.0));
                judged.extend(memory(sheet, "relay: less memory than the best peer", 1.0));
            }
            "udp" if sheet.cell.starts_with("udp-1x") => {
                judged.extend(by_the_first(
                    sheet,
                    "UDP, one bulk flow: at least 2.0 of the best peer",
                    2.0,
                ));
            }
            "udp" => judged.extend(by_the_first(
                sheet,
                "UDP: at least 1.05 of the best peer",
                1.05,
            )),
            "rate" => {
                judged.extend(latency(
                    sheet,
                    "p99 at a fixed rate: not above the best peer's",
                    "p99_us",
                ));
                judged.extend(latency(
                    sheet,
                    "p99.9 at a fixed rate: not above the best peer's",
                    "p999_us",
                ));
            }
            _ => {}
        }
    }
    judged.extend(growth(sheets));
    let mut text = "| bar | cell | measured | |\n|---|---|---|---|\n".to_owned();
    for Judged {
        bar,
        cell,
        measured,
        holds,
    } in judged
    {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {bar} | `{cell}` | {measured} | {} |",
            if holds { "holds" } else { "**fails**" }
        );
    }
    text
}

fn judge(sheet: &Sheet<'_>, bar: &'static str, holds: bool, measured: String) -> Judged {
    Judged {
        bar,
        cell: sheet.cell.clone(),
        measured,
        holds,
    }
}

fn metric(sheet: &Sheet<'_>, key: &str) -> Option<&'static Metric> {
    sheet
        .scenario
        .load
        .metrics()
        .iter()
        .find(|metric| metric.key == key)
}

/// kolk's best by the first metric, against whoever of a family is best by it.
fn against_the_best<'s>(sheet: &'s Sheet<'_>, family: Family) -> Option<(&'s Row<'s>, Estimate)> {
    let metric = sheet.first_metric();
    let other = sheet.best(family, metric)?;
    Some((
        other,
        sheet.best(Family::Kolk, metric)?.advantage(other, metric)?,
    ))
}

fn told(other: &Row<'_>, advantage: Estimate) -> String {
    format!("{advantage} of {}", other.contender.title)
}

fn echo(sheet: &Sheet<'_>, judged: &mut Vec<Judged>) {
    if let Some((limit, advantage)) = against_the_best(sheet, Family::Limit) {
        let bar = "echo: at least 0.97 of the better limit";
        judged.push(judge(
            sheet,
            bar,
            advantage.median >= 0.97,
            told(limit, advantage),
        ));
    }
    judged.extend(above_every_peer(sheet));
    if sheet.cell == "tcp-50x64x1" {
        judged.extend(user_time(sheet));
    }
}

/// The interval may span 1 against the fastest peer only.
fn above_every_peer(sheet: &Sheet<'_>) -> Option<Judged> {
    let metric = sheet.first_metric();
    let (kolk, fastest) = (
        sheet.best(Family::Kolk, metric)?,
        sheet.best(Family::Peer, metric)?,
    );
    let beats = |peer: &&Row<'_>| {
        let verdict = kolk.advantage(peer, metric).map(Estimate::verdict);
        let is_fastest = peer.contender.name == fastest.contender.name;
        verdict == Some(Verdict::Above) || (is_fastest && verdict == Some(Verdict::NoDifference))
    };
    let losers: Vec<&str> = sheet
        .family(Family::Peer)
        .filter(|peer| !beats(peer))
        .map(|peer| peer.contender.title.as_str())
        .collect();
    let mut measured = told(fastest, kolk.advantage(fastest, metric)?);
    if !losers.is_empty() {
        let _ = write!(measured, "; not clearly faster than {}", losers.join(", "));
    }
    Some(judge(
        sheet,
        "echo: at least every peer",
        losers.is_empty(),
        measured,
    ))
}

fn user_time(sheet: &Sheet<'_>) -> Option<Judged> {
    let best = sheet.best(Family::Kolk, metric(sheet, "user_us")?)?;
    let ours = best.median("user_us")?;
    let limits = [
        ("tokio", 0.5),
        ("monoio", 0.5),
        ("compio", 0.5),
        ("mio", 1.0),
    ];
    let there = limits
        .iter()
        .filter_map(|&(name, part)| Some((name, part, sheet.row(name)?.median("user_us")?)));
    let all: Vec<(&str, f64, f64)> = there.collect();
    let holds = all.iter().all(|&(_, part, theirs)| ours <= part * theirs);
    let list: Vec<String> = all
        .iter()
        .map(|(name, _, theirs)| format!("{name} {theirs:.2}"))
        .collect();
    let bar = "user time a message: half of tokio's, monoio's and compio's, and not above mio's";
    Some(judge(
        sheet,
        bar,
        holds,
        format!("{ours:.2} us; {}", list.join(", ")),
    ))
}

fn idle(sheet: &Sheet<'_>, judged: &mut Vec<Judged>) {
    let Some(user) = metric(sheet, "user_bytes") else {
        return;
    };
    for kolk in sheet.family(Family::Kolk) {
        let ours = kolk.median(user.key).unwrap_or(f64::INFINITY);
        let measured = format!("{ours:.0} B, {}", kolk.contender.title);
        judged.push(judge(
            sheet,
            "idle: at most 256 B of user memory a connection",
            ours <= 256.0,
            measured,
        ));
    }
    let best = sheet.best(Family::Kolk, user);
    let Some(ours) = best.and_then(|kolk| kolk.median(user.key)) else {
        return;
    };
    let mut peers: Vec<(f64, &Contender)> = sheet
        .family(Family::Peer)
        .filter_map(|peer| Some((peer.median(user.key)?, peer.contender)))
        .collect();
    peers.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (keeping, bare): (Vec<_>, Vec<_>) =
        peers.into_iter().partition(|(_, peer)| peer.keeps_session);
    let Some(&(theirs, least)) = keeping.first() else {
        return;
    };
    let mut measured = format!("{ours:.0} B; {} {theirs:.0} B", least.title);
    for (bytes, peer) in bare {
        let _ = write!(measured, "; without one, {} {bytes:.0} B", peer.title);
    }
    judged.push(judge(
        sheet,
        "idle: the least of all peers that keep a session",
        ours <= theirs,
        measured,
    ));
}

/// What waiting costs the kernel beyond the sockets.
fn parked(sheet: &Sheet<'_>) -> Option<Judged> {
    let key = sheet.first_metric().key;
    let sockets = sheet.row("limit-sockets")?.median(key)?;
    let [uring, epoll] = ["kolk-uring", "limit-epoll"].map(|name| sheet.row(name));
    let above = uring?.median(key)? - sockets;
    let mut measured = format!("{above:.0} B above {sockets:.0} B of the sockets");
    if let Some(epoll) = epoll.and_then(|row| row.median(key)) {
        let _ = write!(measured, "; limit, epoll {:.0} B", epoll - sockets);
    }
    Some(judge(
        sheet,
        "parked on io_uring: at most 300 B of kernel memory above the socket",
        above <= 300.0,
        measured,
    ))
}

fn by_the_first(sheet: &Sheet<'_>, bar: &'static str, least: f64) -> Option<Judged> {
    let (peer, advantage) = against_the_best(sheet, Family::Peer)?;
    Some(judge(
        sheet,
        bar,
        advantage.median >= least,
        told(peer, advantage),
    ))
}

/// Memory of those who are best by the first metric.
fn memory(sheet: &Sheet<'_>, bar: &'static str, least: f64) -> Option<Judged> {
    let (heap, first) = (metric(sheet, "anonymous")?, sheet.first_metric());
    let (kolk, peer) = (
        sheet.best(Family::Kolk, first)?,
        sheet.best(Family::Peer, first)?,
    );
    let advantage = kolk.advantage(peer, heap)?;
    Some(judge(
        sheet,
        bar,
        advantage.median >= least,
        format!("{advantage} times less than {}", peer.contender.title),
    ))
}

fn latency(sheet: &Sheet<'_>, bar: &'static str, key: &str) -> Option<Judged> {
    let metric = metric(sheet, key)?;
    let (kolk, peer) = (
        sheet.best(Family::Kolk, metric)?,
        sheet.best(Family::Peer, metric)?,
    );
    let advantage = kolk.advantage(peer, metric)?;
    let holds = advantage.median >= 1.0 || advantage.verdict() == Verdict::NoDifference;
    let both = [kolk, peer].map(|row| row.median(key).unwrap_or_default());
    let measured = format!(
        "{:.0} us; {} {:.0} us; {advantage}",
        both[0], peer.contender.title, both[1]
    );
    Some(judge(sheet, bar, holds, measured))
}

fn growth(sheets: &[Sheet<'_>]) -> Option<Judged> {
    let cell = |name: &str| {
        sheets
            .iter()
            .find(|it| it.scenario.name == "echo" && it.cell == name)
    };
    let (few, many) = (cell("tcp-50x64x1")?, cell("tcp-8000x64x1")?);
    let best = many.best(Family::Kolk, metric(many, "cpu_us")?)?;
    let (at_50, at_8000) = (
        few.row(&best.contender.name)?.median("cpu_us")?,
        best.median("cpu_us")?,
    );
    let measured = format!("{:.2}, {}", at_8000 / at_50, best.contender.title);
    let bar = "growth: a message costs at most 1.5 of that at 50 connections";
    Some(judge(many, bar, at_8000 <= 1.5 * at_50, measured))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::tests::{results, shipped};

    fn judged(scenario: &str, cell: &str, kolk: f64, peers: &[(&str, f64)]) -> String {
        let (scenarios, contenders) = shipped();
        let rounds = |value: f64| [(value, 1.0), (value * 1.01, 1.0), (value * 1.02, 1.0)];
        let own = rounds(kolk);
        let others: Vec<_> = peers
            .iter()
            .map(|&(name, value)| (name, rounds(value)))
            .collect();
        let mut figures: Vec<(&str, &[(f64, f64)])> = vec![("kolk-uring", &own)];
        figures.extend(others.iter().map(|(name, rounds)| (*name, &rounds[..])));
        let results = results(scenario, cell, &figures);
        table(&Sheet::all(&results, &scenarios, &contenders))
    }

    #[test]
    fn an_echo_is_judged_against_limits_and_peers() {
        let text = judged(
            "echo",
            "unix-50x64x1",
            100.0,
            &[("limit-epoll", 102.0), ("tokio", 90.0)],
        );
        assert_eq!(text.matches("| holds |").count(), 2, "{text}");
        let text = judged(
            "echo",
            "unix-50x64x1",
            100.0,
            &[("limit-epoll", 105.0), ("tokio", 110.0)],
        );
        assert_eq!(text.matches("**fails**").count(), 2, "{text}");
    }

    /// One figure of each.
    fn memory(scenario: &str, cell: &str, figures: &[(&str, f64)]) -> String {
        let (scenarios, contenders) = shipped();
        let rounds: Vec<_> = figures
            .iter()
            .map(|&(name, bytes)| (name, [(1.0, bytes)]))
            .collect();
        let figures: Vec<(&str, &[(f64, f64)])> = rounds
            .iter()
            .map(|(name, rounds)| (*name, &rounds[..]))
            .collect();
        table(&Sheet::all(
            &results(scenario, cell, &figures),
            &scenarios,
            &contenders,
        ))
    }

    #[test]
    fn idle_memory_is_compared_with_those_that_keep_a_session() {
        let peers = [("mio", 50.0), ("libuv", 350.0), ("tokio", 5000.0)];
        let with = |kolk| {
            let all = [&[("kolk-uring", kolk)], &peers[..]].concat();
            memory("idle", "tcp-10000x64x1", &all)
        };
        let text = with(177.0);
        assert_eq!(text.matches("| holds |").count(), 2, "{text}");
        assert!(text.contains("libuv 350 B; without one, mio"), "{text}");
        assert_eq!(with(400.0).matches("**fails**").count(), 2);
    }

    #[test]
    fn parked_connections_are_compared_with_sockets_alone() {
        let with = |kolk| {
            let all = [("kolk-uring", kolk), ("limit-sockets", 8000.0)];
            memory("parked", "tcp-10000x64x1", &all)
        };
        assert!(with(8299.0).contains("299 B above 8000 B of the sockets | holds |"));
        assert!(with(8301.0).contains("**fails**"));
    }

    #[test]
    fn a_bulk_flow_has_a_bar_of_its_own() {
        assert!(judged("udp", "udp-1000x64x128", 108.0, &[("mio", 100.0)]).contains("| holds |"));
        assert!(judged("udp", "udp-1x1400x64", 108.0, &[("mio", 100.0)]).contains("**fails**"));
    }
}
