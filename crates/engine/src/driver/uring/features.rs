//! What `kolk doctor` reports: each thing the driver uses, tried on this kernel.

use std::io;

use io_uring::{IoUring, Probe, opcode};

use super::buffer_ring::BufferRing;
use crate::driver::DriverConfig;
use crate::driver::probe::Feature;

/// See [`crate::driver::features`].
pub(in crate::driver) fn features() -> Vec<Feature> {
    let mut found = vec![feature(
        "io_uring",
        IoUring::new(2).map(drop),
        true,
        "the interface itself; allow it in the seccomp filter, and set sysctl kernel.io_uring_disabled to 0",
    )];
    found.extend(setup_features());
    if let Ok(ring) = IoUring::new(2) {
        found.extend(ring_features(&ring));
        found.extend(operation_features(&ring));
    }
    found
}

fn setup_features() -> [Feature; 5] {
    let build = |set: fn(&mut io_uring::Builder)| {
        let mut builder = IoUring::builder();
        set(&mut builder);
        builder.build(2).map(drop)
    };
    [
        feature(
            "SINGLE_ISSUER | DEFER_TASKRUN",
            build(|ring| {
                ring.setup_single_issuer().setup_defer_taskrun();
            }),
            true,
            "completions are handled when the loop asks for them; Linux 6.1",
        ),
        feature(
            "R_DISABLED",
            build(|ring| {
                ring.setup_r_disabled();
            }),
            true,
            "a loop made on one thread runs on another; Linux 5.10",
        ),
        feature(
            "SUBMIT_ALL",
            build(|ring| {
                ring.setup_submit_all();
            }),
            true,
            "a failed entry does not stop those behind it; Linux 5.18",
        ),
        feature(
            "COOP_TASKRUN | TASKRUN_FLAG",
            build(|ring| {
                ring.setup_coop_taskrun().setup_taskrun_flag();
            }),
            false,
            "fewer interrupts of the loop's thread; Linux 5.19",
        ),
        feature(
            "NO_SQARRAY",
            build(|ring| {
                ring.setup_no_sqarray();
            }),
            false,
            "a smaller submission queue; Linux 6.6",
        ),
    ]
}

fn ring_features(ring: &IoUring) -> [Feature; 4] {
    let buffers = BufferRing::new(ring, &DriverConfig { ring_buffers: 1, ..DriverConfig::default() });
    let has = |available: bool| if available { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) };
    let parameters = ring.params();
    [
        feature("PBUF_RING", buffers.map(drop), true, "idle connections share receive buffers; Linux 5.19"),
        feature("EXT_ARG", has(parameters.is_feature_ext_arg()), true, "waits with a time limit; Linux 5.11"),
        feature(
            "NODROP",
            has(parameters.is_feature_nodrop()),
            true,
            "completions are kept when their queue overflows; Linux 5.5",
        ),
        feature(
            "NO_IOWAIT",
            has(parameters.is_feature_no_iowait()),
            false,
            "an idle loop is not shown as waiting for a disk; Linux 6.15",
        ),
    ]
}

fn operation_features(ring: &IoUring) -> [Feature; 6] {
    let mut probe = Probe::new();
    let probed = ring.submitter().register_probe(&mut probe);
    let has = |code: u8| match &probed {
        Ok(()) if probe.is_supported(code) => Ok(()),
        _ => Err(io::ErrorKind::Unsupported.into()),
    };
    [
        feature(
            "RECV (multishot)",
            has(opcode::Recv::CODE),
            true,
            "one submission, many receives; Linux 6.0",
        ),
        feature(
            "ACCEPT (multishot)",
            has(opcode::Accept::CODE),
            true,
            "one submission, many connections; Linux 5.19",
        ),
        feature(
            "SENDMSG",
            has(opcode::SendMsg::CODE),
            true,
            "all writes of a turn in one operation; Linux 5.3",
        ),
        feature("POLL_ADD", has(opcode::PollAdd::CODE), true, "wake-ups of other threads; Linux 5.1"),
        feature(
            "TIMEOUT",
            has(opcode::Timeout::CODE),
            false,
            "silent connections wait in less memory; Linux 5.4",
        ),
        feature("ASYNC_CANCEL", has(opcode::AsyncCancel::CODE), true, "ending what is in flight; Linux 5.5"),
    ]
}

fn feature(name: &'static str, tried: io::Result<()>, needed: bool, purpose: &str) -> Feature {
    let advice = match &tried {
        Ok(()) => purpose.to_owned(),
        Err(error) => format!("{purpose} ({error})"),
    };
    Feature { name, available: tried.is_ok(), needed, advice }
}
