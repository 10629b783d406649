//! libFuzzer's way into the target `name`, which stands in `fuzz::targets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::run("name", input));
