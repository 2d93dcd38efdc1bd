//! Why a command ends without doing its work, and the exit status that tells the shell.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// A failure with its whole sentence: what was tried, on what, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The command cannot be carried out as given: status 2, as for wrong arguments.
    Usage(String),
    /// It began well and failed on the way: status 1.
    Runtime(String),
}

/// What a subcommand answers: the exit status, or why there was nothing to report.
pub(crate) type Outcome = Result<ExitCode, Failure>;

/// What the system said, without the number that the standard library appends.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

impl Failure {
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::Usage(message.to_string())
    }

    pub(crate) fn runtime(message: impl fmt::Display) -> Self {
        Self::Runtime(message.to_string())
    }

    /// The exit status.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Runtime(_) => 1,
            Self::Usage(_) => 2,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Runtime(message) => f.write_str(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_words() {
        let error = io::Error::from(rustix::io::Errno::CONNREFUSED);
        assert_eq!(reason(&error), "connection refused");
        assert_eq!(reason(&io::Error::other("No")), "No");
    }
}
