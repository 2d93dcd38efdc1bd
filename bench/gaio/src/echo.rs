//! The echo that is measured: one watcher on a thread of its own.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::BytesMut;
use kolk::watcher::{Completion, Completions, Operation, Submitter, Watcher};
use kolk::{Address, ConnId, DriverChoice, DriverKind, Listeners};

use crate::Result;

/// How it reads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reads {
    /// Into a buffer of so many bytes, which stays with its connection.
    Owned(usize),
    /// Into the loop's memory: an idle connection holds no buffer.
    Pooled,
}

/// An echo that runs until it is dropped.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    pub(crate) driver: DriverKind,
    submitter: Submitter,
    thread: Option<JoinHandle<kolk::Result<()>>>,
}

impl Echo {
    pub(crate) fn start(driver: DriverChoice, reads: Reads) -> Result<Self> {
        let mut listeners = Listeners::bind(["tcp://127.0.0.1:0"], 1)?;
        let bound = Address::from(listeners.addresses()[0].clone());
        let address = bound.as_inet().ok_or("the address is one of TCP")?;
        let sockets = listeners.take(0);
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut watcher = Watcher::builder().driver(driver).build()?;
            for socket in sockets {
                let listener = watcher.adopt(socket)?;
                watcher.accept(listener, ())?;
            }
            // If nobody takes it, the benchmark has ended.
            let _ = tell.send((watcher.submitter(), watcher.driver()));
            serve(&mut watcher, reads)
        });
        match told.recv() {
            Ok((submitter, driver)) => Ok(Self {
                address,
                driver,
                submitter,
                thread: Some(thread),
            }),
            Err(_) => match thread.join() {
                Ok(Err(error)) => Err(error.into()),
                _ => Err("the echo ended by itself".into()),
            },
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.submitter.timer(Duration::ZERO, ());
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("gaio: the echo: {error}");
        }
    }
}

fn serve(watcher: &mut Watcher, reads: Reads) -> kolk::Result<()> {
    let mut completions = Completions::default();
    loop {
        watcher.wait(&mut completions, None)?;
        for done in completions.drain() {
            if done.operation == Operation::Timer {
                return Ok(());
            }
            go_on(watcher, reads, done)?;
        }
    }
}

fn go_on(watcher: &mut Watcher, reads: Reads, done: Completion) -> kolk::Result<()> {
    match (done.operation, &done.result) {
        (Operation::Accept, _) => match done.accepted() {
            Some(conn) => read(watcher, conn, reads, None),
            None => Ok(()),
        },
        (Operation::Read | Operation::ReadPooled, Ok(1..)) => {
            watcher.write(done.conn, (), done.buffer)
        }
        (Operation::Write, Ok(_)) => match reads {
            Reads::Owned(_) => read(watcher, done.conn, reads, Some(done.buffer.recycle())),
            Reads::Pooled => read(watcher, done.conn, reads, None),
        },
        _ => {
            watcher.free(done.conn);
            Ok(())
        }
    }
}

fn read(
    watcher: &mut Watcher,
    conn: ConnId,
    reads: Reads,
    buffer: Option<BytesMut>,
) -> kolk::Result<()> {
    match reads {
        Reads::Owned(size) => {
            let buffer = buffer.unwrap_or_else(|| BytesMut::with_capacity(size));
            watcher.read(conn, (), buffer)
        }
        Reads::Pooled => watcher.read_pooled(conn, ()),
    }
}
