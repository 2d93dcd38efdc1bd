//! Timers in the stream of completions: an interval, its end, and a timer that is cancelled.

use std::time::{Duration, Instant};

use kolk::watcher::{Completions, Watcher};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Alarm {
    Beat,
    End,
    Never,
}

fn main() -> kolk::Result<()> {
    let period = period();
    let mut watcher = Watcher::new()?;
    let beats = watcher.interval(period, Alarm::Beat)?;
    let never = watcher.timer(Duration::from_secs(3600), Alarm::Never)?;
    watcher.timer(period * 7 / 2, Alarm::End)?;

    let start = Instant::now();
    let mut pending = 3;
    let mut completions = Completions::default();
    while pending > 0 {
        watcher.wait(&mut completions, None)?;
        for done in completions.drain() {
            let passed = start.elapsed().as_millis();
            match (done.context, done.result) {
                // More than one if this program was late.
                (Alarm::Beat, Ok(beats)) => println!("{passed} ms: {beats} beat"),
                (alarm, result) => {
                    println!(
                        "{passed} ms: {alarm:?} {}",
                        if result.is_ok() { "passed" } else { "cancelled" }
                    );
                    pending -= 1;
                }
            }
            if done.context == Alarm::End {
                watcher.cancel(beats);
                watcher.cancel(never);
            }
        }
    }
    Ok(())
}

/// The one argument, a number of milliseconds.
fn period() -> Duration {
    let text = std::env::args().nth(1).unwrap_or_else(|| "200".into());
    match text.parse() {
        Ok(milliseconds @ 1..=60_000) => Duration::from_millis(milliseconds),
        _ => {
            eprintln!("{text:?} is not 1 to 60000 milliseconds; usage: watcher_timers [MILLISECONDS]");
            std::process::exit(2)
        }
    }
}
