//! Streams cut into chunks where their content says so: a byte more at the beginning moves the cuts with it, so two
//! streams that are mostly alike have mostly the same chunks. Where chunks are kept is not known here.

use std::io::{self, Read};

/// Smallest chunk but the last, in bytes.
const LEAST: usize = 64 << 10;

/// Largest chunk, in bytes.
pub const LARGEST: usize = 2 << 20;

/// A cut is where so many bits of the rolling hash are zero: every 256 KiB, behind the smallest size.
const CUT: u64 = ((1 << 18) - 1) << 40;

/// How much is read at once, in bytes.
const READ: usize = 256 << 10;

/// A number for each byte (splitmix64), for the rolling hash, which knows the last 64 of them.
const GEAR: [u64; 256] = gear();

const fn gear() -> [u64; 256] {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut number = (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[at] = number ^ (number >> 31);
        at += 1;
    }
    table
}

/// The chunks of a stream.
pub struct Chunks<R> {
    stream: R,
    waiting: Vec<u8>,
    is_at_end: bool,
}

impl<R: Read> Chunks<R> {
    /// Cuts a stream.
    pub fn new(stream: R) -> Self {
        Self { stream, waiting: Vec::new(), is_at_end: false }
    }

    fn fill(&mut self) -> io::Result<()> {
        while self.waiting.len() < LARGEST && !self.is_at_end {
            let before = self.waiting.len();
            let wanted = READ.min(LARGEST - before) as u64;
            let got = (&mut self.stream).take(wanted).read_to_end(&mut self.waiting)?;
            self.is_at_end = got == 0;
        }
        Ok(())
    }
}

impl<R: Read> Iterator for Chunks<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.fill() {
            return Some(Err(error));
        }
        if self.waiting.is_empty() {
            return None;
        }
        let rest = self.waiting.split_off(cut(&self.waiting));
        Some(Ok(std::mem::replace(&mut self.waiting, rest)))
    }
}

/// Where the first chunk of some bytes ends.
fn cut(bytes: &[u8]) -> usize {
    let mut hash: u64 = 0;
    for (at, byte) in bytes.iter().enumerate().skip(LEAST.saturating_sub(64)) {
        hash = (hash << 1).wrapping_add(GEAR[usize::from(*byte)]);
        if at >= LEAST && hash & CUT == 0 {
            return at + 1;
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn noise(size: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let byte = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..size).map(byte).collect()
    }

    fn cut_all(bytes: &[u8]) -> Vec<Vec<u8>> {
        Chunks::new(bytes).collect::<io::Result<_>>().unwrap()
    }

    #[test]
    fn what_is_put_in_between_changes_few_chunks() {
        let before = noise(12 << 20, 1);
        let mut after = before.clone();
        after.splice(5_000_000..5_000_000, noise(1000, 2));
        let (before, after) = (cut_all(&before), cut_all(&after));
        let known: HashSet<&Vec<u8>> = before.iter().collect();
        assert!(before.len() > 20, "{}", before.len());
        assert!(after.iter().filter(|chunk| !known.contains(chunk)).count() <= 2);
    }

    #[test]
    fn chunks_are_the_whole_stream_and_never_too_large() {
        for bytes in [Vec::new(), vec![0; 5 << 20], noise(100, 3), noise(3 << 20, 4)] {
            let chunks = cut_all(&bytes);
            assert_eq!(chunks.concat(), bytes);
            assert!(chunks.iter().all(|chunk| chunk.len() <= LARGEST && !chunk.is_empty()));
        }
    }
}
