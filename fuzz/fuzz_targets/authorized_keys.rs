//! An authorized_keys file: every line is a key, a fault with its number, or nothing.

#![no_main]

use ims_job_agent::ssh::authorized_keys::AuthorizedKeys;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (keys, bad) = AuthorizedKeys::parse(bytes);
    let lines = bytes.split(|&byte| byte == b'\n').count();
    assert!(keys.entries().len() + bad.len() <= lines);
    assert!(bad.iter().all(|line| (1..=lines).contains(&line.line)));
});
