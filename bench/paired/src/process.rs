//! Child processes: pinned to a processor, bounded in time, never left behind.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, mem};

use crate::Result;

/// How long a server may take until it accepts.
const START: Duration = Duration::from_secs(5);

/// How long a server may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(3);

/// Pause between two looks at a child: rare enough to disturb no measurement.
const LOOK: Duration = Duration::from_millis(10);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From here on SIGINT and SIGTERM end the run in order, with the children stopped.
pub(crate) fn note_interrupts() {
    extern "C" fn note(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    let note: extern "C" fn(libc::c_int) = note;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler stores to an atomic and does nothing else.
        unsafe { libc::signal(signal, note as libc::sighandler_t) };
    }
}

/// Fails if this process may not run on the processor.
pub(crate) fn check_cpu(cpu: usize) -> Result<()> {
    // SAFETY: a cpu_set_t of zeros is a valid empty set, and it outlives the call that fills it.
    let allowed = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        let filled = libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) == 0;
        filled && cpu < libc::CPU_SETSIZE as usize && libc::CPU_ISSET(cpu, &set)
    };
    if allowed {
        return Ok(());
    }
    Err(format!("processor {cpu} is not available here (see --server-cpu and --load-cpu)").into())
}

/// A server under measurement. It is stopped on drop.
pub(crate) struct Server {
    child: Guard,
}

impl Server {
    pub(crate) fn start(mut command: Command, cpu: usize) -> Result<Self> {
        command.stdout(Stdio::null());
        let child = Guard::spawn(command, cpu)?;
        Ok(Self { child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.process.id()
    }

    /// Connects until it succeeds, for a bounded time.
    pub(crate) fn wait_until_it_accepts(&mut self, port: u16) -> Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let deadline = Instant::now() + START;
        while TcpStream::connect(address).is_err() {
            self.check_alive()?;
            if Instant::now() >= deadline {
                return Err(format!(
                    "{} does not accept on {address} after {START:?}",
                    self.child.name
                )
                .into());
            }
            pause()?;
        }
        self.check_alive()
    }

    /// Fails if the server has ended by itself.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.child.process.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("{} ended by itself: {status}", self.child.name).into()),
        }
    }

    /// Ends the server and looks at how it ended.
    pub(crate) fn stop(mut self) -> Result<()> {
        let status = self.child.end()?;
        if status.success() || status.signal() == Some(libc::SIGTERM) {
            return Ok(());
        }
        Err(format!(
            "{} did not end well after SIGTERM: {status}",
            self.child.name
        )
        .into())
    }
}

/// Runs a program to its end, at most for `bound`, and returns its standard output.
pub(crate) fn run_to_end(mut command: Command, cpu: usize, bound: Duration) -> Result<String> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Guard::spawn(command, cpu)?;
    let output = collect(child.process.stdout.take());
    let complaints = collect(child.process.stderr.take());
    let deadline = Instant::now() + bound;
    let status = loop {
        if let Some(status) = child.process.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            return Err(format!("{} still runs after {bound:?}", child.name).into());
        }
        pause()?;
    };
    let (output, complaints) = (joined(output)?, joined(complaints)?);
    if status.success() {
        return Ok(output);
    }
    Err(format!("{} failed: {status}\n{output}{complaints}", child.name).into())
}

/// A child that does not outlive its owner.
struct Guard {
    process: Child,
    /// Program and arguments, for messages.
    name: String,
}

impl Guard {
    fn spawn(mut command: Command, cpu: usize) -> Result<Self> {
        let name = format!("{command:?}");
        // SAFETY: between fork and exec the closure makes two system calls and nothing else.
        unsafe { command.pre_exec(move || settle(cpu)) };
        command.stdin(Stdio::null());
        match command.spawn() {
            Ok(process) => Ok(Self { process, name }),
            Err(error) => Err(format!("cannot start {name}: {error}").into()),
        }
    }

    /// SIGTERM, a bounded wait, SIGKILL.
    fn end(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.process.try_wait()? {
            return Ok(status);
        }
        // SAFETY: kill takes no pointer; the child has not been waited for, so the number is its own.
        unsafe { libc::kill(self.process.id() as libc::pid_t, libc::SIGTERM) };
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

/// In the child: run on one processor, and end with the parent whatever happens to it.
fn settle(cpu: usize) -> io::Result<()> {
    // SAFETY: a cpu_set_t of zeros is a valid empty set, `cpu` was checked to be inside it, and
    // the set outlives the call that reads it.
    let settled = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set) == 0
            && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) == 0
    };
    if settled {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Waits a little; fails once the run has been interrupted.
fn pause() -> Result<()> {
    thread::sleep(LOOK);
    if INTERRUPTED.load(Ordering::Relaxed) {
        return Err("interrupted".into());
    }
    Ok(())
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
