//! The fuzz targets of Lighter, for libFuzzer.

pub mod targets;

/// Runs the target of this name.
pub fn run(name: &str, input: &[u8]) {
    let target = targets::TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    (target.run)(input);
}
