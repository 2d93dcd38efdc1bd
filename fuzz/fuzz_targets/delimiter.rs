//! Any bytes behind any delimiter, cut anywhere.
#![no_main]

use kolk_proto::codec::{Delimiter, check};

libfuzzer_sys::fuzz_target!(|input: (u8, Vec<u8>, Vec<u8>, Vec<u8>)| {
    let (limit, delimiter, cuts, stream) = input;
    let limit = usize::from(limit);
    let Ok(codec) = Delimiter::new(&delimiter, limit) else {
        return;
    };
    check::decode_however_cut(|| codec.clone(), &stream, &cuts, limit + delimiter.len());
});
