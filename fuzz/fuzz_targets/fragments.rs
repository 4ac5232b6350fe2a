//! `fuzz_checks::fragments` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_checks::fragments(data));
