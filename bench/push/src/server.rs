//! The server's process: started, spoken with by lines, and never left behind.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::{Driver, Result};

/// A child that serves until it is dropped.
pub(crate) struct Server {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// Where it listens: the first line that it prints.
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts this program again with these arguments.
    pub(crate) fn start(driver: Driver, arguments: &[String]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--driver", driver.name()])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
            return Err("the server has no pipes".into());
        };
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let address = line
            .trim()
            .parse()
            .map_err(|_| format!("the server did not start: {line:?}"))?;
        Ok(Self {
            child,
            stdin,
            stdout,
            address,
        })
    }

    /// Tells it to go on.
    pub(crate) fn go(&mut self) -> Result<()> {
        self.tell("go")
    }

    /// Tells it a line.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.stdin, "{line}")?)
    }

    /// The next numbers that it tells, in one line.
    pub(crate) fn numbers(&mut self) -> Result<Vec<u64>> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let numbers: std::result::Result<_, _> = line.split_whitespace().map(str::parse).collect();
        numbers.map_err(|_| format!("the server says {line:?}").into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the child: waits until it is told to go on. An end of the pipe is an error.
pub(crate) fn wait_for_go() -> Result<()> {
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line)? {
        0 => Err("nobody is there any more".into()),
        _ => Ok(()),
    }
}
