//! libFuzzer's way into the target `expand`, which stands in `fuzz::targets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::run("expand", input));
