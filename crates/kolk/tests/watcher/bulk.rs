//! Much data, in pieces of many sizes.

use std::io::{Read, Write};

use bytes::BytesMut;
use kolk::DriverKind;
use kolk::watcher::{Completions, Operation, Watcher};

use crate::alone::full_length;
use crate::support::{choice, on_real_kernels};

on_real_kernels!(p05_bulk_data_is_equal_through_exact_reads, p03_bulk_data_is_equal_through_short_reads);

/// 100 MiB of random data, or less for a developer who waits.
fn size() -> usize {
    if full_length() { 100 << 20 } else { 12 << 20 }
}

fn p05_bulk_data_is_equal_through_exact_reads(driver: DriverKind) {
    echo(driver, true);
}

fn p03_bulk_data_is_equal_through_short_reads(driver: DriverKind) {
    echo(driver, false);
}

fn echo(driver: DriverKind, exact: bool) {
    const BLOCK: usize = 30_000;
    let size = size() / BLOCK * BLOCK;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut watcher = Watcher::builder().driver(choice(driver, None)).build().unwrap();
    let conn = watcher.adopt(listener.accept().unwrap().0).unwrap();
    let client = std::thread::spawn(move || {
        let mut reader = stream.try_clone().unwrap();
        let writer = std::thread::spawn(move || {
            let (mut stream, mut random) = (stream, Random(7));
            let mut block = vec![0; 64 << 10];
            let mut left = size;
            while left > 0 {
                let count = left.min(1 + random.next() as usize % block.len());
                (block[..count]).copy_from_slice(&random_bytes(size - left, count));
                stream.write_all(&block[..count]).unwrap();
                left -= count;
            }
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let (mut read, mut block) = (0, vec![0; 64 << 10]);
        loop {
            let count = reader.read(&mut block).unwrap();
            if count == 0 {
                break;
            }
            assert!(
                block[..count] == random_bytes(read, count)[..],
                "differs within {count} bytes at {read}"
            );
            read += count;
        }
        writer.join().unwrap();
        read
    });
    let read = |watcher: &mut Watcher, mut buffer: BytesMut| {
        buffer.reserve(BLOCK);
        if exact {
            // Its capacity is what it fills; the last bytes make a block, too.
            let rest = buffer.split_off(BLOCK);
            drop(rest);
            watcher.read_exact(conn, (), buffer)
        } else {
            watcher.read(conn, (), buffer)
        }
    };
    read(&mut watcher, BytesMut::with_capacity(BLOCK)).unwrap();
    let mut completions = Completions::default();
    'echo: loop {
        assert!(watcher.wait(&mut completions, Some(crate::support::PATIENCE)).unwrap() > 0, "{driver}");
        for done in completions.drain() {
            match (done.operation, done.result.unwrap()) {
                (Operation::Write, _) => read(&mut watcher, done.buffer.recycle()).unwrap(),
                (_, 0) => break 'echo,
                _ => watcher.write(conn, (), done.buffer).unwrap(),
            }
        }
    }
    drop(watcher);
    assert_eq!(client.join().unwrap(), size, "{driver}");
}

/// Bytes of a stream that does not repeat, from any place of it.
fn random_bytes(start: usize, count: usize) -> Vec<u8> {
    (start..start + count)
        .map(|place| ((place as u64 / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (place % 8 * 8)) as u8)
        .collect()
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
