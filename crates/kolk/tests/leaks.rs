//! What a server leaves behind, in a process of its own.

mod support;

use std::fs;

use kolk::DriverKind;
use support::{connect, echo, exchange, reset, server, socket_path};

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("Linux shows its descriptors").count()
}

#[test]
fn l01_no_descriptor_is_left_behind() {
    for driver in [DriverKind::IoUring, DriverKind::Epoll] {
        let before = descriptors();
        for _ in 0..3 {
            let path = socket_path("leaks", driver);
            let server = server(driver)
                .listen("tcp://127.0.0.1:0")
                .listen(format!("unix://{}", path.display()))
                .event_loops(2)
                .start(echo)
                .expect("free addresses");
            let streams: Vec<_> = (0..100).map(|_| connect(&server, 0)).collect();
            for stream in &streams {
                exchange(stream, b"hello");
            }
            for (index, stream) in streams.into_iter().enumerate() {
                if index % 2 == 0 {
                    reset(stream);
                }
            }
            server.stop();
            server.wait().expect("it stops in order");
        }
        assert_eq!(descriptors(), before, "{driver}");
    }
}
