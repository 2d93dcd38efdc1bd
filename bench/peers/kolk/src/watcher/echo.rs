//! Pooled reads, whose leases are written back. A connection has at most one read and two writes at a time.

use kolk::watcher::{Completion, Completions, Operation, Watcher};

pub(super) fn run(watcher: &mut Watcher) -> kolk::Result<()> {
    let mut completions = Completions::default();
    loop {
        watcher.wait(&mut completions, None)?;
        for done in completions.drain() {
            match go_on(watcher, done) {
                // It was freed by an earlier completion of the same batch.
                Err(error) if error.is_not_connected() => {}
                outcome => outcome?,
            }
        }
    }
}

/// The next operation of a connection whose last one is done.
fn go_on(watcher: &mut Watcher, done: Completion) -> kolk::Result<()> {
    match (done.operation, &done.result) {
        (Operation::Accept, _) => match done.accepted() {
            Some(conn) => watcher.read_pooled(conn, ()),
            None => Ok(()), // no slot is free: the peer was turned away
        },
        (Operation::ReadPooled, Ok(1..)) => {
            // A peer that does not read is not read either: at most two messages of it wait here.
            let is_behind = watcher.is_writing(done.conn);
            watcher.write(done.conn, (), done.buffer)?;
            if is_behind {
                return Ok(());
            }
            watcher.read_pooled(done.conn, ())
        }
        (Operation::Write, Ok(_)) => {
            if watcher.is_reading(done.conn) {
                return Ok(());
            }
            watcher.read_pooled(done.conn, ())
        }
        // The stream has ended. Behind the last write the end is asked for, and told, once more.
        (Operation::ReadPooled, Ok(0)) if watcher.is_writing(done.conn) => Ok(()),
        _ => {
            watcher.free(done.conn);
            Ok(())
        }
    }
}
