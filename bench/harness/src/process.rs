//! Child processes: pinned to a processor, bounded in time, never left behind.

use std::io::{self, BufRead, BufReader, Read};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::Result;
use crate::address::Address;

/// How long a server may take until it accepts.
pub const START: Duration = Duration::from_secs(5);

/// How long a server may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(3);

/// Pause between two looks at a child: rare enough to disturb no measurement.
const LOOK: Duration = Duration::from_millis(10);

/// The exit status of a peer that cannot do what it was asked for.
const UNSUPPORTED: i32 = 3;

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on SIGINT and SIGTERM end the run in order, with the children stopped.
///
/// # Errors
///
/// The kernel refuses the handlers.
pub fn note_interrupts() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(flag))?;
    }
    Ok(())
}

fn was_interrupted() -> bool {
    INTERRUPTED
        .get()
        .is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Whether an error is the end that the user asked for.
pub fn is_interrupt(error: &dyn std::error::Error) -> bool {
    was_interrupted() && error.to_string() == INTERRUPT
}

const INTERRUPT: &str = "interrupted";

/// Fails if this process may not run on the processor, or has not what starts children on one.
///
/// # Errors
///
/// Names the processor, or the missing program.
pub fn check_cpu(cpu: usize) -> Result<()> {
    let allowed = sched_getaffinity(None)?;
    if cpu >= CpuSet::MAX_CPU || !allowed.is_set(cpu) {
        let message =
            format!("processor {cpu} is not available here (see --server-cpu and --load-cpu)");
        return Err(message.into());
    }
    let launcher = Command::new(LAUNCHER)
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    match launcher {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!(
            "there is no `{LAUNCHER}` (Debian: util-linux), which binds children to us"
        )
        .into()),
    }
}

/// Sets a signal that the child gets when its parent ends, and becomes the program.
const LAUNCHER: &str = "setpriv";

/// A server under measurement. It is stopped on drop.
#[derive(Debug)]
pub struct Server {
    child: Guard,
    /// Whether its first line was `listening`; read by a thread of its own, so that the server never
    /// waits for us.
    first_line: Receiver<bool>,
    complaints: Option<JoinHandle<io::Result<String>>>,
}

/// What a server says to its task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It accepts.
    Listening,
    /// It cannot do this, and says why.
    Unsupported(String),
}

impl Server {
    /// Starts a server on one processor.
    ///
    /// # Errors
    ///
    /// The program cannot be started.
    pub fn start(mut command: Command, cpu: usize) -> Result<Self> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Guard::spawn(&command, cpu)?;
        let first_line = watch(child.process.stdout.take());
        let complaints = Some(collect(child.process.stderr.take()));
        Ok(Self {
            child,
            first_line,
            complaints,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.process.id()
    }

    /// Connects until it succeeds, for a bounded time.
    ///
    /// # Errors
    ///
    /// It ended, or does not accept in time.
    pub fn wait_until_it_accepts(&mut self, address: &Address) -> Result<()> {
        let refused = || match address {
            Address::Ip(address) => TcpStream::connect(address).is_err(),
            Address::Unix(path) => UnixStream::connect(path).is_err(),
        };
        let deadline = Instant::now() + START;
        while refused() {
            self.check_alive()?;
            if Instant::now() >= deadline {
                let name = &self.child.name;
                return Err(format!("{name} does not accept on {address} after {START:?}").into());
            }
            pause()?;
        }
        self.check_alive()
    }

    /// Waits, at most for `patience`, for the line that begins with `listening`, or for the exit status
    /// that means *unsupported*. For a server, [`START`] is enough.
    ///
    /// # Errors
    ///
    /// It ended otherwise, or said nothing in time.
    pub fn wait_until_it_listens(&mut self, patience: Duration) -> Result<Readiness> {
        let deadline = Instant::now() + patience;
        loop {
            if self.first_line.try_recv() == Ok(true) {
                return Ok(Readiness::Listening);
            }
            if let Some(status) = self.child.process.try_wait()? {
                let complaint = self.complaint();
                return match status.code() {
                    Some(UNSUPPORTED) => Ok(Readiness::Unsupported(reason(&complaint))),
                    _ => Err(self.ended(status, &complaint).into()),
                };
            }
            if Instant::now() >= deadline {
                let name = &self.child.name;
                return Err(format!("{name} is not ready after {patience:?}").into());
            }
            pause()?;
        }
    }

    /// Fails if the server has ended by itself.
    ///
    /// # Errors
    ///
    /// Says how it ended.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.process.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let complaint = self.complaint();
                Err(self.ended(status, &complaint).into())
            }
        }
    }

    /// Ends the server and looks at how it ended.
    ///
    /// # Errors
    ///
    /// It did not end within [some seconds](STOP), or badly.
    pub fn stop(mut self) -> Result<()> {
        let status = self.child.end()?;
        if status.success() || status.signal() == Some(SIGTERM) {
            return Ok(());
        }
        let complaint = self.complaint();
        Err(format!("after SIGTERM: {}", self.ended(status, &complaint)).into())
    }

    fn ended(&self, status: ExitStatus, complaint: &str) -> String {
        format!("{} ended by itself: {status}\n{complaint}", self.child.name)
            .trim_end()
            .to_owned()
    }

    /// All that it wrote to standard error, once it has ended.
    fn complaint(&mut self) -> String {
        self.complaints
            .take()
            .and_then(|reader| joined(reader).ok())
            .unwrap_or_default()
    }
}

/// What follows `unsupported:`.
fn reason(complaint: &str) -> String {
    let line = complaint.lines().find(|line| line.contains("unsupported"));
    let said = line
        .and_then(|line| line.split_once(':'))
        .map(|(_, why)| why.trim());
    said.filter(|why| !why.is_empty())
        .unwrap_or("it does not say why")
        .to_owned()
}

/// Runs a program to its end, at most for `bound`, and returns its standard output.
///
/// # Errors
///
/// It cannot be started, takes too long, or fails: with what it printed.
pub fn run_to_end(command: Command, cpu: usize, bound: Duration) -> Result<String> {
    Running::start(command, cpu)?.finish(bound)
}

/// A program that runs beside others until it ends by itself. It is stopped on drop.
#[derive(Debug)]
pub struct Running {
    child: Guard,
    output: JoinHandle<io::Result<String>>,
    complaints: JoinHandle<io::Result<String>>,
}

impl Running {
    /// Starts it on one processor.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start(mut command: Command, cpu: usize) -> Result<Self> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Guard::spawn(&command, cpu)?;
        let output = collect(child.process.stdout.take());
        let complaints = collect(child.process.stderr.take());
        Ok(Self {
            child,
            output,
            complaints,
        })
    }

    /// Asks it to finish, by SIGTERM.
    pub fn ask_to_finish(&self) {
        self.child.terminate();
    }

    /// Waits for its end, at most for `bound`, and returns its standard output.
    ///
    /// # Errors
    ///
    /// It takes too long, or fails: with what it printed.
    pub fn finish(mut self, bound: Duration) -> Result<String> {
        let deadline = Instant::now() + bound;
        let status = loop {
            if let Some(status) = self.child.process.try_wait()? {
                break status;
            }
            if Instant::now() >= deadline {
                return Err(format!("{} still runs after {bound:?}", self.child.name).into());
            }
            pause()?;
        };
        let (output, complaints) = (joined(self.output)?, joined(self.complaints)?);
        if status.success() {
            return Ok(output);
        }
        Err(format!("{} failed: {status}\n{output}{complaints}", self.child.name).into())
    }
}

/// A child that does not outlive its owner.
#[derive(Debug)]
struct Guard {
    process: Child,
    /// Program and arguments, for messages.
    name: String,
}

impl Guard {
    /// A child inherits the processors of the thread that starts it: for that moment, ours are those.
    fn spawn(command: &Command, cpu: usize) -> Result<Self> {
        let name = format!("{command:?}");
        let ours = sched_getaffinity(None)?;
        let mut one = CpuSet::new();
        one.set(cpu);
        sched_setaffinity(None, &one)?;
        let process = launcher(command).spawn();
        sched_setaffinity(None, &ours)?;
        match process {
            Ok(process) => Ok(Self { process, name }),
            Err(error) => Err(format!("cannot start {name}: {error}").into()),
        }
    }

    /// The child has not been waited for, so the number is its own.
    fn terminate(&self) {
        if let Some(pid) = Pid::from_raw(self.process.id() as i32) {
            // One that has ended meanwhile is what we want.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// SIGTERM, a bounded wait, SIGKILL.
    fn end(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.process.try_wait()? {
            return Ok(status);
        }
        self.terminate();
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            thread::sleep(LOOK);
        }
        self.process.kill()?;
        self.process.wait()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Nobody is left to tell; the kernel ends the child with us at the latest.
        let _ = self.end();
    }
}

/// The command, started so that it ends with us whatever happens to us.
fn launcher(command: &Command) -> Command {
    let mut launcher = Command::new(LAUNCHER);
    launcher
        .args(["--pdeathsig", "TERM", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    launcher
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    launcher
}

/// Waits a little; fails once the run has been interrupted.
fn pause() -> Result<()> {
    thread::sleep(LOOK);
    if was_interrupted() {
        return Err(INTERRUPT.into());
    }
    Ok(())
}

/// Says whether the first line begins with `listening`, and reads on to the end.
fn watch(pipe: Option<ChildStdout>) -> Receiver<bool> {
    let (tell, first_line) = mpsc::channel();
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe?);
        let mut line = String::new();
        pipe.read_line(&mut line).ok()?;
        // The server may be dropped before it has said anything.
        let _ = tell.send(line.starts_with("listening") || line.starts_with("holding"));
        io::copy(&mut pipe, &mut io::sink()).ok()
    });
    first_line
}

/// Reads a pipe to its end on a thread of its own, so that the child never waits for us.
fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<io::Result<String>> {
    thread::spawn(move || {
        let mut text = String::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_string(&mut text)?;
        }
        Ok(text)
    })
}

fn joined(reader: JoinHandle<io::Result<String>>) -> Result<String> {
    let text = reader.join().map_err(|_| "the reader of a pipe panicked")?;
    Ok(text?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn any_cpu() -> usize {
        let allowed = sched_getaffinity(None).unwrap();
        (0..CpuSet::MAX_CPU)
            .find(|&cpu| allowed.is_set(cpu))
            .unwrap()
    }

    #[test]
    fn a_child_runs_on_its_processor_and_we_keep_ours() {
        let (cpu, before) = (any_cpu(), sched_getaffinity(None).unwrap());
        check_cpu(cpu).unwrap();
        let output = run_to_end(
            shell("grep Cpus_allowed_list /proc/self/status"),
            cpu,
            BOUND,
        )
        .unwrap();
        assert_eq!(
            output.split_whitespace().last(),
            Some(cpu.to_string().as_str())
        );
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }

    #[test]
    fn a_program_that_fails_is_quoted_and_one_that_lasts_is_stopped() {
        let failed = run_to_end(shell("echo to >&2; exit 7"), any_cpu(), BOUND)
            .unwrap_err()
            .to_string();
        assert!(
            failed.contains("status: 7") && failed.contains("to"),
            "{failed}"
        );
        let lasting = run_to_end(shell("exec sleep 60"), any_cpu(), Duration::from_millis(50));
        assert!(lasting.unwrap_err().to_string().contains("still runs"));
    }

    #[test]
    fn a_server_listens_or_says_why_not() {
        let cpu = any_cpu();
        let mut server = Server::start(shell("echo listening on x; exec sleep 60"), cpu).unwrap();
        assert_eq!(
            server.wait_until_it_listens(START).unwrap(),
            Readiness::Listening
        );
        server.stop().unwrap();

        let script = "echo 'unsupported: no datagrams' >&2; exit 3";
        let mut server = Server::start(shell(script), cpu).unwrap();
        let said = server.wait_until_it_listens(START).unwrap();
        assert_eq!(said, Readiness::Unsupported("no datagrams".to_owned()));

        let mut server = Server::start(shell("echo port taken >&2; exit 1"), cpu).unwrap();
        let error = server.wait_until_it_listens(START).unwrap_err().to_string();
        assert!(error.contains("port taken"), "{error}");
    }
}
