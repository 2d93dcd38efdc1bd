//! Any bytes behind varints, cut anywhere.
#![no_main]

use kolk_proto::codec::{VarintLength, check};

libfuzzer_sys::fuzz_target!(|input: (u8, Vec<u8>, Vec<u8>)| {
    let (limit, cuts, stream) = input;
    let limit = usize::from(limit);
    check::decode_however_cut(|| VarintLength::new(limit), &stream, &cuts, limit + 10);
});
