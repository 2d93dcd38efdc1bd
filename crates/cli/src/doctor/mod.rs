//! `kolk doctor`: what this machine offers, and what to do where it offers too little.

mod checks;

use std::process::ExitCode;

use kolk_engine::driver::{self, Feature};
use serde::Serialize;

use crate::failure::Outcome;
use crate::output;

/// How to show it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// Nothing to do.
    Ok,
    /// It works, with a limit that the advice can lift.
    Limited,
    /// It keeps kolk from working.
    Bad,
}

/// One thing examined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    name: String,
    value: String,
    verdict: Verdict,
    /// What to do about it, or what it means.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn ok(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into(), verdict: Verdict::Ok, advice: None }
    }

    fn limited(self, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Limited, ..self.explained(advice) }
    }

    fn bad(self, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Bad, ..self.explained(advice) }
    }

    fn explained(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }

    fn limited_if(self, limited: bool, advice: impl Into<String>) -> Self {
        if limited { self.limited(advice) } else { self }
    }

    /// One line, and one more for the advice.
    fn text(&self) -> String {
        let mark = match self.verdict {
            Verdict::Ok => "ok     ",
            Verdict::Limited => "limited",
            Verdict::Bad => "BAD    ",
        };
        let line = format!("{mark}  {:<29} {}", self.name, self.value);
        match &self.advice {
            Some(advice) => format!("{line}\n           -> {advice}"),
            None => line,
        }
    }
}

/// All that was found.
#[derive(Debug, Serialize)]
struct Findings {
    system: Vec<Finding>,
    io_uring: Vec<Finding>,
}

/// Examines the machine. Status 1 if something keeps kolk from working.
pub(crate) fn run(args: &Args) -> Outcome {
    let findings =
        Findings { system: checks::all(), io_uring: driver::features().into_iter().map(feature).collect() };
    if args.json {
        output::say(&output::json(&findings));
    } else {
        output::say(&findings.text());
    }
    let all = || findings.system.iter().chain(&findings.io_uring);
    Ok(if all().any(|finding| finding.verdict == Verdict::Bad) {
        ExitCode::from(1)
    } else {
        ExitCode::SUCCESS
    })
}

impl Findings {
    fn text(&self) -> String {
        let mut lines: Vec<String> = self.system.iter().map(Finding::text).collect();
        lines.push("\nio_uring, feature by feature:".to_owned());
        lines.extend(self.io_uring.iter().map(Finding::text));
        lines.join("\n")
    }
}

/// A missing feature is never bad: without one that is needed, epoll serves.
fn feature(feature: Feature) -> Finding {
    let finding = Finding::ok(feature.name, if feature.available { "found" } else { "missing" });
    match (feature.available, feature.needed) {
        (true, _) => finding,
        (false, true) => {
            finding.limited(format!("needed for io_uring, epoll serves instead: {}", feature.advice))
        }
        (false, false) => finding.explained(format!("optional: {}", feature.advice)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_shows_its_verdict_and_advice() {
        let finding = Finding::ok("descriptor limit", "1024").limited("raise it");
        assert_eq!(finding.text(), "limited  descriptor limit              1024\n           -> raise it");
        let json = serde_json::to_value(&finding).unwrap();
        assert_eq!(json["verdict"], "limited");
        assert_eq!(json["advice"], "raise it");
    }

    #[test]
    fn a_missing_feature_is_never_bad() {
        let missing =
            |needed| Feature { name: "multishot", available: false, needed, advice: "Linux 6.0".into() };
        assert_eq!(feature(missing(true)).verdict, Verdict::Limited);
        assert_eq!(feature(missing(false)).verdict, Verdict::Ok);
        assert!(feature(missing(false)).advice.unwrap().contains("Linux 6.0"));
    }
}
