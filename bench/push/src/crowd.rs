//! One message to all, again and again, while some never read.

use std::io::Write;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use kolk::SocketOptions;
use kolk::server::{Action, Conn, Handler, Input, Overflow, Server as KolkServer};

use crate::message::{SIZE, message};
use crate::receivers::{Readers, connect_silent};
use crate::server::{Server, wait_for_go};
use crate::{
    Driver, PATIENCE, Result, SEND_BUFFER, allow_descriptors, bar, counting, per_mille, resident,
};

/// Bars: 99 of 100 messages are delivered within so many microseconds.
const AGE_MAX_US: u32 = 150_000;

/// Bytes of user memory that a receiver may hold beyond its cap: one message under way, with its queue.
const UNDER_WAY: u64 = 1024;

/// Allocations for a message to all: the message. A queue that grows once in a hundred messages is no second one.
const MESSAGE_ALLOCATIONS: f64 = 1.05;

/// Messages before the times count. A receiver's kernel acknowledges the first 16 segments of a connection at once
/// (`TCP_MAX_QUICKACKS`), each with a packet that the server's has to take in; then one for several.
const WARM_UP: u64 = 20;

/// What to measure.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Connections
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// How many of them never read
    #[arg(long, default_value_t = 100)]
    silent: u32,
    /// Messages a second
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rate: u64,
    /// Seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Bytes that may be queued for one connection
    #[arg(long, default_value_t = 16 * 1024)]
    cap: u64,
    /// What becomes of the messages above it
    #[arg(long, default_value = "drop-new")]
    overflow: Policy,
    /// Event loops of the server
    #[arg(long, default_value_t = 1)]
    loops: usize,
}

/// [`Overflow`], but for closing: the silent are to stay.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Policy {
    DropNew,
    DropOld,
    KeepLatest,
}

impl Arguments {
    fn messages(&self) -> u64 {
        WARM_UP + self.rate * self.seconds
    }

    /// Allocations count in the second half: what the silent make grow has its size by then.
    fn counted_from(&self) -> u64 {
        WARM_UP + self.rate * self.seconds / 2
    }

    fn to_words(&self) -> Vec<String> {
        let policy = self
            .overflow
            .to_possible_value()
            .map(|value| value.get_name().to_owned());
        [
            "serve-crowd".to_owned(),
            format!("--connections={}", self.connections),
            format!("--silent={}", self.silent),
            format!("--rate={}", self.rate),
            format!("--seconds={}", self.seconds),
            format!("--cap={}", self.cap),
            format!("--overflow={}", policy.unwrap_or_default()),
            format!("--loops={}", self.loops),
        ]
        .into()
    }
}

/// In the parent: connects, receives, and judges.
pub(crate) fn run(arguments: &Arguments, driver: Driver) -> Result<bool> {
    let silent = arguments.silent.min(arguments.connections);
    let readers = arguments.connections - silent;
    allow_descriptors(u64::from(arguments.connections) + 64)?;
    let mut server = Server::start(driver, &arguments.to_words())?;
    let _silent = connect_silent(server.address, silent)?;
    let mut crowd = Readers::connect(
        server.address,
        readers,
        arguments.messages(),
        driver.choice(),
    )?;
    server.go()?;
    crowd.receive(arguments.messages())?;
    let told = server.numbers()?;
    let &[before, most, allocations, dropped, late] = told.as_slice() else {
        return Err(format!("the server says {told:?}").into());
    };

    let (first, ages) = crowd.ages.split_at_mut(readers as usize * WARM_UP as usize);
    first.sort_unstable();
    ages.sort_unstable();
    let [half, most_of, nearly_all, last] =
        [500, 990, 999, 1000].map(|part| f64::from(per_mille(ages, part)) / 1000.0);
    let pushed = arguments.rate * arguments.seconds;
    println!(
        "crowd   {}  {} connections, {silent} of which never read; {pushed} messages of {SIZE} B, {} a second",
        driver.name(),
        arguments.connections,
        arguments.rate
    );
    println!(
        "        delivered after: median {half:.1} ms, p99 {most_of:.1} ms, p99.9 {nearly_all:.1} ms, last {last:.1} ms"
    );
    println!(
        "        before, {WARM_UP} to warm up: p99 {:.1} ms",
        f64::from(per_mille(first, 990)) / 1000.0
    );
    let allowed = u64::from(silent) * arguments.cap + u64::from(arguments.connections) * UNDER_WAY;
    let grown = most.saturating_sub(before);
    let each = allocations as f64 / (arguments.messages() - arguments.counted_from()) as f64;
    let mut holds = bar(
        true,
        &format!("all {readers} who read got every message, in order"),
    );
    holds &= bar(
        f64::from(AGE_MAX_US) >= most_of * 1000.0,
        &format!("p99 of the delivery is at most {} ms", AGE_MAX_US / 1000),
    );
    holds &= bar(
        grown <= allowed,
        &format!(
            "the server grew by {} KiB, from {} KiB: at most {} KiB, the caps of the silent and one message for all",
            grown / 1024,
            before / 1024,
            allowed / 1024
        ),
    );
    holds &= bar(
        silent == 0 || dropped > 0,
        &format!("{dropped} messages to the silent were dropped: the caps were reached"),
    );
    holds &= bar(
        each <= MESSAGE_ALLOCATIONS,
        &format!(
            "{each:.2} allocations for a message to all, of who pushes it and of the event loops: one is the message"
        ),
    );
    holds &= bar(
        late == 0,
        &format!("{late} messages were pushed later than the next was due"),
    );
    Ok(holds)
}

/// Accepts anybody, and is not interested in what they say.
struct Push;

impl Handler for Push {
    type Session = ();

    fn on_open(&mut self, _: &mut Conn<'_>) {}

    fn on_data(&mut self, _: &mut (), _: &mut Conn<'_>, input: &mut Input<'_>) -> Action {
        input.take();
        Action::Continue
    }
}

/// In the child: serves, pushes when it is told to, and tells what that took.
pub(crate) fn serve(arguments: &Arguments, driver: Driver) -> Result<()> {
    allow_descriptors(u64::from(arguments.connections) + 64)?;
    let overflow = match arguments.overflow {
        Policy::DropNew => Overflow::DropNew,
        Policy::DropOld => Overflow::DropOld,
        Policy::KeepLatest => Overflow::KeepLatest,
    };
    let server = KolkServer::builder()
        .listen("tcp://127.0.0.1:0")
        .driver(driver.choice())
        .event_loops(arguments.loops)
        .output_cap(arguments.cap, overflow)
        .socket_options(SocketOptions::new().send_buffer(SEND_BUFFER))
        .start(|_| Push)?;
    println!("{}", server.addresses()[0].trim_start_matches("tcp://"));
    std::io::stdout().flush()?;
    wait_for_go()?;
    let begin = Instant::now();
    while server.stats().connections < u64::from(arguments.connections) {
        if begin.elapsed() > PATIENCE {
            return Err("the connections are not accepted".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }

    let beat = Duration::from_secs(1) / arguments.rate as u32;
    let (mut late, mut counted_from) = (0, 0);
    let before = resident()?;
    let mut most = before;
    let begin = Instant::now();
    for number in 0..arguments.messages() {
        if number == arguments.counted_from() {
            counted_from = counting::allocations();
        }
        counting::counted(|| server.handle().broadcast(message(number)))?;
        let due = begin + beat * (number + 1) as u32;
        let left = due.saturating_duration_since(Instant::now());
        late += u64::from(left.is_zero());
        // In the midst of it, and when it is over.
        std::thread::sleep(left / 4);
        most = most.max(resident()?);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        most = most.max(resident()?);
    }
    let allocations = counting::allocations() - counted_from;
    let dropped = server.stats().messages_dropped;
    println!("{before} {most} {allocations} {dropped} {late}");
    std::io::stdout().flush()?;
    // Until nobody is there any more: who still has to read, reads.
    wait_for_go()
}
