//! One packet of an SFTP client, without its length.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use sftp_server::request::parse;

fuzz_target!(|bytes: &[u8]| {
    // Answered or not: nothing else may happen.
    let _ = parse(Bytes::copy_from_slice(bytes));
});
