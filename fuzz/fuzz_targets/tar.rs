//! libFuzzer's way into the target `tar`, which stands in `fuzz::targets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::run("tar", input));
