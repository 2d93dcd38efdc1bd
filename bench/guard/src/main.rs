//! `guard`: whether kolk's path through user space got longer.
//!
//! Reads what the benchmark `user_path` counted, and compares it with `counts.toml`, which is checked in. A count
//! that grew by more than 3 % fails, until the file says why.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use serde::{Deserialize, Serialize};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Growth that passes. Another compiler, or a line elsewhere, moves a count by less than this.
const GROWTH: f64 = 1.03;

/// Where a summary has its instructions.
const INSTRUCTIONS: &str = "/profiles/0/data/total/metrics/Ir/values/new";

const HEAD: &str = "\
# Instructions of kolk's path through user space, counted by valgrind. `bash .ci/guard` compares; after a change that is
# worth its price, `bash .ci/guard --update \"why\"` writes what it counted, and the reason, into this file.
";

/// Compare the instruction counts with those that are checked in. Exit status: 0 none grew, 1 one did.
#[derive(Parser, Debug)]
#[command(name = "guard")]
struct Arguments {
    /// The folder that the benchmark wrote to
    #[arg(long, value_name = "PATH")]
    counted: PathBuf,
    /// The file that is checked in
    #[arg(long, value_name = "FILE")]
    counts: PathBuf,
    /// Write what was counted into the file, with this reason where it differs
    #[arg(long, value_name = "WHY")]
    update: Option<String>,
}

/// The file, by the name of the benchmark.
type Counts = BTreeMap<String, Count>;

/// One benchmark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Count {
    instructions: u64,
    /// Why it is what it is, when it last changed.
    why: String,
}

fn main() -> ExitCode {
    match perform(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("guard: {error}");
            ExitCode::from(2)
        }
    }
}

fn perform(arguments: &Arguments) -> Result<bool> {
    let counted = read_summaries(&arguments.counted)?;
    let known = read_counts(&arguments.counts)?;
    if let Some(why) = &arguments.update {
        let text = written(&updated(&known, &counted, why))?;
        fs::write(&arguments.counts, text)
            .map_err(|error| format!("cannot write {}: {error}", arguments.counts.display()))?;
        return Ok(true);
    }
    let (holds, text) = compare(&known, &counted);
    print!("{text}");
    Ok(holds)
}

/// What the benchmark counted: a folder for each function, with a summary in it.
fn read_summaries(folder: &Path) -> Result<BTreeMap<String, u64>> {
    let unreadable = |error| {
        format!(
            "cannot read {}: {error} (run the benchmark with --save-summary=json)",
            folder.display()
        )
    };
    let mut counted = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path().join("summary.json");
        if !path.is_file() {
            continue;
        }
        let summary: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
        let name = summary["function_name"].as_str();
        let instructions = summary
            .pointer(INSTRUCTIONS)
            .and_then(serde_json::Value::as_u64);
        let (Some(name), Some(instructions)) = (name, instructions) else {
            return Err(format!("{} has no count of instructions", path.display()).into());
        };
        counted.insert(name.to_owned(), instructions);
    }
    Ok(counted)
}

fn read_counts(file: &Path) -> Result<Counts> {
    let text = fs::read_to_string(file);
    let text = text.map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    toml::from_str(&text).map_err(|error| format!("{}: {error}", file.display()).into())
}

/// Whether nothing grew, and a line for each.
fn compare(known: &Counts, counted: &BTreeMap<String, u64>) -> (bool, String) {
    let mut text = String::new();
    let mut holds = true;
    let names: std::collections::BTreeSet<&String> = known.keys().chain(counted.keys()).collect();
    for name in names {
        let (is_fine, verdict) = match (known.get(name), counted.get(name)) {
            (Some(known), Some(&now)) => judge(known.instructions, now),
            (Some(_), None) => (
                false,
                "was not counted: does the benchmark still have it?".to_owned(),
            ),
            (None, Some(now)) => (false, format!("{now} instructions, and not in the file")),
            (None, None) => continue,
        };
        holds &= is_fine;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{}  {name:<28} {verdict}",
            if is_fine { "ok  " } else { "FAIL" }
        );
    }
    if !holds {
        text.push_str(
            "Find what made the path longer. Where it is worth its price, write the counts and the reason with the \
             change that they are of: bash .ci/guard --update \"why\"\n",
        );
    }
    (holds, text)
}

fn judge(known: u64, now: u64) -> (bool, String) {
    let ratio = now as f64 / known.max(1) as f64;
    let verdict = format!(
        "{now} instructions, {known} in the file: {:+.1} %",
        (ratio - 1.0) * 100.0
    );
    match ratio {
        grown if grown > GROWTH => (false, verdict),
        shrunk if shrunk < 1.0 / GROWTH => (true, verdict + ", shorter: update the file"),
        _ => (true, verdict),
    }
}

/// What changed gets the reason; what did not keeps its own.
fn updated(known: &Counts, counted: &BTreeMap<String, u64>, why: &str) -> Counts {
    let count = |(name, &instructions): (&String, &u64)| {
        let same = known
            .get(name)
            .filter(|known| known.instructions == instructions);
        let count = same.cloned().unwrap_or_else(|| Count {
            instructions,
            why: why.to_owned(),
        });
        (name.clone(), count)
    };
    counted.iter().map(count).collect()
}

fn written(counts: &Counts) -> Result<String> {
    Ok(format!("{HEAD}\n{}", toml::to_string(counts)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(instructions: u64) -> Counts {
        Counts::from([(
            "echo".to_owned(),
            Count {
                instructions,
                why: "first".to_owned(),
            },
        )])
    }

    fn counted(instructions: u64) -> BTreeMap<String, u64> {
        BTreeMap::from([("echo".to_owned(), instructions)])
    }

    #[test]
    fn growth_beyond_three_in_a_hundred_fails() {
        assert!(compare(&known(1000), &counted(1030)).0);
        let (holds, text) = compare(&known(1000), &counted(1031));
        assert!(
            !holds && text.contains("+3.1 %") && text.contains("--update"),
            "{text}"
        );
        let (holds, text) = compare(&known(1000), &counted(900));
        assert!(holds && text.contains("shorter"), "{text}");
    }

    #[test]
    fn what_is_on_one_side_only_fails() {
        assert!(!compare(&known(1000), &BTreeMap::new()).0);
        assert!(!compare(&Counts::new(), &counted(1000)).0);
    }

    #[test]
    fn a_reason_is_given_to_what_changed_only() {
        assert_eq!(updated(&known(1000), &counted(1000), "why"), known(1000));
        assert_eq!(
            updated(&known(1000), &counted(1001), "why")["echo"].why,
            "why"
        );
        let text = written(&known(1000)).unwrap();
        assert_eq!(toml::from_str::<Counts>(&text).unwrap(), known(1000));
    }
}
