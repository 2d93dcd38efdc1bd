//! A server that tells how it is, whenever it is asked: for what `idle`, `burst` and `offload` judge.

use std::io::{BufRead, Write};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use kolk::SocketOptions;
use kolk::server::{Action, Conn, Handler, Input, Server as KolkServer};
use rustix::time::{ClockId, clock_gettime};

use crate::server::Server;
use crate::{Driver, Result, SEND_BUFFER, allow_descriptors, resident};

/// How long a job of the pool takes.
pub(crate) const JOB: Duration = Duration::from_millis(8);

/// Of the pool: threads, and jobs that wait.
const POOL: (usize, usize) = (4, 64);

/// Bytes of one piece of a burst: few enough to be copied, so each connection has its own.
pub(crate) const PIECE: usize = 512;

/// How it serves.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Milliseconds after which an idle connection is closed
    #[arg(long)]
    idle_timeout: Option<u64>,
}

/// What it tells of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) connections: u64,
    pub(crate) timer_operations: u64,
    pub(crate) jobs: u64,
    pub(crate) longest_turn: Duration,
    /// Processor time of all its threads.
    pub(crate) busy: Duration,
    /// Bytes in memory.
    pub(crate) resident: u64,
}

/// Starts one.
pub(crate) fn start(driver: Driver, idle_timeout: Option<Duration>) -> Result<Server> {
    let timeout = idle_timeout.map(|timeout| format!("--idle-timeout={}", timeout.as_millis()));
    Server::start(
        driver,
        &["serve-observed".to_owned()]
            .into_iter()
            .chain(timeout)
            .collect::<Vec<_>>(),
    )
}

/// Asks it how it is.
pub(crate) fn look(server: &mut Server) -> Result<Look> {
    server.tell("look")?;
    match *server.numbers()? {
        [
            connections,
            timer_operations,
            jobs,
            longest_turn,
            busy,
            resident,
        ] => Ok(Look {
            connections,
            timer_operations,
            jobs,
            longest_turn: Duration::from_nanos(longest_turn),
            busy: Duration::from_nanos(busy),
            resident,
        }),
        _ => Err("the server tells something else".into()),
    }
}

/// Lets it queue so many bytes for every connection, in small pieces, and asks how it is then.
pub(crate) fn burst(server: &mut Server, bytes: usize) -> Result<Look> {
    server.tell(&format!("burst {}", bytes / PIECE))?;
    look(server)
}

/// An echo; what begins with a `j` is a job for each pair of bytes, and is answered when that is done.
struct Observed;

impl Handler for Observed {
    type Session = ();

    fn on_open(&mut self, _: &mut Conn<'_>) {}

    fn on_data(&mut self, _: &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        if input.peek().first() != Some(&b'j') {
            conn.write(input.take());
            return Action::Continue;
        }
        while let Some(order) = input.take_exact(2) {
            let number = order[1];
            let job = || thread::sleep(JOB);
            let done = move |(): &mut (), conn: &mut Conn<'_>, ()| conn.write_copy(&[b'd', number]);
            if conn.offload(job, done).is_err() {
                conn.write_copy(&[b'-', number]);
            }
        }
        Action::Continue
    }
}

/// In the child: serves, and does what the lines say.
pub(crate) fn serve(arguments: &Arguments, driver: Driver) -> Result<()> {
    allow_descriptors(64)?;
    let mut builder = KolkServer::builder()
        .listen("tcp://127.0.0.1:0")
        .driver(driver.choice())
        .event_loops(1)
        .socket_options(SocketOptions::new().send_buffer(SEND_BUFFER))
        .offload_pool(POOL.0, POOL.1);
    if let Some(timeout) = arguments.idle_timeout {
        builder = builder.idle_timeout(Duration::from_millis(timeout));
    }
    let server = builder.start(|_| Observed)?;
    let mut stdout = std::io::stdout();
    writeln!(
        stdout,
        "{}",
        server.addresses()[0].trim_start_matches("tcp://")
    )?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if let Some(pieces) = line.strip_prefix("burst ") {
            let piece = Bytes::from(vec![b'b'; PIECE]);
            for _ in 0..pieces.parse()? {
                server.handle().broadcast(piece.clone())?;
            }
            let (tell, told) = std::sync::mpsc::channel();
            // What is asked later waits until all of it is queued.
            let queued = move |(): &mut (), _: &mut Conn<'_>| {
                // One answer is enough.
                let _ = tell.send(());
            };
            server.handle().for_each(queued)?;
            told.recv()?;
        } else {
            let stats = server.stats();
            let busy = clock_gettime(ClockId::ProcessCPUTime);
            writeln!(
                stdout,
                "{} {} {} {} {} {}",
                stats.connections,
                stats.timer_operations,
                stats.jobs,
                stats.longest_turn.as_nanos(),
                busy.tv_sec * 1_000_000_000 + busy.tv_nsec,
                resident()?
            )?;
        }
    }
    Ok(())
}
