//! Lines for the user. A reader that has gone (`kolk doctor | head -1`) is no error: what nobody reads
//! need not be written, so unlike `println!` these never panic.

use std::io::{self, Write};

/// Results: a line on standard output.
pub(crate) fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Warnings and errors: a line on standard error, so that results can be piped.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Figures for programs.
pub(crate) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("reports have string keys and plain numbers")
}
