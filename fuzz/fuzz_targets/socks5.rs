//! `fuzz_checks::socks5` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_checks::socks5(data));
