//! Round trips of many while one floods.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kolk::server::{Action, Conn, Handler, Input, Server as KolkServer};
use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, gettid, sched_setaffinity};

use crate::server::{Server, wait_for_go};
use crate::{Driver, PATIENCE, Result, bar, per_mille};

/// Bytes of a ping.
const PING: usize = 64;

/// The server has the one processor, all clients the other.
const SERVER_CPU: usize = 0;
const CLIENT_CPU: usize = 1;

/// How much the flood yields to the pings on the clients' processor: their competition there is not the server's.
const FLOOD_NICE: i32 = 19;

/// What to measure.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Connections that ping, one after the other in turn
    #[arg(long, default_value_t = 99, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pingers: u32,
    /// Seconds of each part
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Parts with and parts without the flood, in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

/// In the parent: pings, floods, and judges.
pub(crate) fn run(arguments: &Arguments, driver: Driver) -> Result<bool> {
    let server = Server::start(driver, &["serve-echo".to_owned()])?;
    stay_on(CLIENT_CPU)?;
    let mut pingers = (0..arguments.pingers)
        .map(|_| connect(server.address))
        .collect::<Result<Vec<_>>>()?;
    let part = Duration::from_secs(arguments.seconds);
    ping(&mut pingers, part / 4)?; // what is done once is done
    let (mut calm, mut flooded, mut flood) = (Vec::new(), Vec::new(), 0);
    for _ in 0..arguments.rounds {
        calm.extend(ping(&mut pingers, part)?);
        let (times, bytes) = while_flooded(server.address, || ping(&mut pingers, part))?;
        flooded.extend(times?);
        flood += bytes;
    }
    calm.sort_unstable();
    flooded.sort_unstable();
    println!(
        "fairness  {}  {} connections ping; the flood: {:.0} MB/s echoed",
        driver.name(),
        arguments.pingers,
        flood as f64 / 1e6 / (part * arguments.rounds).as_secs_f64()
    );
    for (name, times) in [("alone", &calm), ("flooded", &flooded)] {
        let [half, most, nearly] = [500, 990, 999].map(|part| per_mille(times, part));
        println!(
            "  {name:8} {:7} round trips: median {half} us, p99 {most} us, p99.9 {nearly} us",
            times.len()
        );
    }
    let (alone, beside) = (per_mille(&calm, 990), per_mille(&flooded, 990));
    let ratio = f64::from(beside) / f64::from(alone.max(1));
    Ok(bar(
        ratio <= 3.0,
        &format!("p99 beside the flood is {ratio:.2} times that without: at most 3"),
    ))
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Pings on all connections in turn; the time of each round trip in microseconds.
fn ping(pingers: &mut [TcpStream], time: Duration) -> Result<Vec<u32>> {
    let begin = Instant::now();
    let mut times = Vec::new();
    let mut answer = [0; PING];
    while begin.elapsed() < time {
        for stream in pingers.iter_mut() {
            let sent = Instant::now();
            let text = [times.len() as u8; PING];
            stream.write_all(&text)?;
            stream.read_exact(&mut answer)?;
            if answer != text {
                return Err("a wrong echo".into());
            }
            times.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
    }
    Ok(times)
}

/// Runs `act` while one connection sends as fast as it can, and reads what comes back as fast as it can. And how many
/// bytes came back.
fn while_flooded<T>(address: SocketAddr, act: impl FnOnce() -> T) -> Result<(T, u64)> {
    let flood = connect(address)?;
    let echoed = AtomicU64::new(0);
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            yield_to_others();
            while (&flood).write_all(&[1; 65_536]).is_ok() {}
        });
        scope.spawn(|| {
            yield_to_others();
            let mut buffer = [0; 65_536];
            while let Ok(count @ 1..) = (&flood).read(&mut buffer) {
                echoed.fetch_add(count as u64, Ordering::Relaxed);
            }
        });
        let result = act();
        // It fails only if the flood has ended already, which the bytes tell.
        let _ = flood.shutdown(Shutdown::Both);
        result
    });
    match echoed.into_inner() {
        0 => Err("there was no flood".into()),
        bytes => Ok((result, bytes)),
    }
}

/// Keeps this thread, and those that it starts, on one processor.
fn stay_on(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set)
        .map_err(|error| format!("processor {cpu} is not to be had: {error}").into())
}

fn yield_to_others() {
    // Anybody may become nicer.
    let _ = setpriority_process(Some(gettid()), FLOOD_NICE);
}

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn on_open(&mut self, _: &mut Conn<'_>) {}

    fn on_data(&mut self, _: &mut (), conn: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        conn.write(input.take());
        Action::Continue
    }
}

/// In the child: one loop that echoes.
pub(crate) fn serve(driver: Driver) -> Result<()> {
    stay_on(SERVER_CPU)?;
    let server = KolkServer::builder()
        .listen("tcp://127.0.0.1:0")
        .driver(driver.choice())
        .event_loops(1)
        .start(|_| Echo)?;
    println!("{}", server.addresses()[0].trim_start_matches("tcp://"));
    std::io::stdout().flush()?;
    wait_for_go()
}
