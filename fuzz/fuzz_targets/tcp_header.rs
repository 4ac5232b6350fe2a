//! `fuzz_checks::tcp_header` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_checks::tcp_header(data));
