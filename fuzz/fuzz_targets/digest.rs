//! libFuzzer's way into the target `digest`, which stands in `fuzz::targets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::run("digest", input));
