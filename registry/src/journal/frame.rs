//! The frame around each journal record: pure bytes in, bytes out. No files here; see `segment`.
//!
//! ```text
//! 0        4        8                16               24
//! ├ length ┼ crc32  ┼ lsn            ┼ synced         ┼ payload (length bytes) ┤   little endian
//! ```
//!
//! The checksum covers everything after itself. `synced` is the last record that was known to be
//! durable when this one was written. It tells two things apart that look alike after a crash: a
//! torn tail (never acknowledged, may be cut off) and damage to records that were acknowledged (must
//! never be cut off silently). A bad frame is damage if any later frame claims that it was durable.

use super::Lsn;

/// Bytes in front of each payload.
pub(crate) const HEADER: usize = 24;

/// Largest payload, in bytes: deleting a manifest of 4 MiB that names some 40 000 blobs doubts each of
/// them, which takes 12 MiB. A length above this is noise, and must not make us allocate.
pub(crate) const PAYLOAD_LIMIT: usize = 32 << 20;

/// One record as it lies in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) lsn: Lsn,
    pub(crate) synced: Lsn,
    pub(crate) payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Reads the frame at the start of `bytes`; `None` if what lies there is not a whole frame.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let length = u32::from_le_bytes(word(bytes, 0)?) as usize;
        if length > PAYLOAD_LIMIT {
            return None;
        }
        let crc = u32::from_le_bytes(word(bytes, 4)?);
        let covered = bytes.get(8..HEADER + length)?;
        if crc32fast::hash(covered) != crc {
            return None;
        }
        Some(Self {
            lsn: Lsn(u64::from_le_bytes(word(bytes, 8)?)),
            synced: Lsn(u64::from_le_bytes(word(bytes, 16)?)),
            payload: &bytes[HEADER..HEADER + length],
        })
    }

    /// Appends the frame to `out`. The payload must not exceed [`PAYLOAD_LIMIT`].
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let length = u32::try_from(self.payload.len()).expect("callers keep payloads below PAYLOAD_LIMIT");
        let start = out.len();
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.lsn.0.to_le_bytes());
        out.extend_from_slice(&self.synced.0.to_le_bytes());
        out.extend_from_slice(self.payload);
        let crc = crc32fast::hash(&out[start + 8..]);
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    }

    /// How many bytes the frame takes.
    pub(crate) fn size(&self) -> usize {
        HEADER + self.payload.len()
    }
}

/// A fixed number of bytes at an offset; `None` past the end.
pub(crate) fn word<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Where the readable frames of a segment end, and what lies behind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// The segment ends with a whole frame.
    Clean,
    /// Bytes from `at` on were never acknowledged: a write that a crash cut short.
    Torn {
        /// Offset of the first byte that is no frame.
        at: usize,
    },
    /// Acknowledged records from `at` on cannot be read.
    Damaged {
        /// Offset of the first byte that is no frame.
        at: usize,
    },
}

/// Walks the frames of a segment's body, which starts with record `next`, and judges its end.
pub(crate) fn walk<'a>(bytes: &'a [u8], mut next: Lsn, mut each: impl FnMut(Frame<'a>)) -> Tail {
    let mut at = 0;
    while at < bytes.len() {
        match Frame::read(&bytes[at..]).filter(|frame| frame.lsn == next) {
            Some(frame) => {
                at += frame.size();
                next = next.next();
                each(frame);
            }
            None if claimed_durable(&bytes[at..], next) => return Tail::Damaged { at },
            None => return Tail::Torn { at },
        }
    }
    Tail::Clean
}

/// Whether any frame behind a bad one says that record `bad` was durable already.
fn claimed_durable(bytes: &[u8], bad: Lsn) -> bool {
    (0..bytes.len().saturating_sub(HEADER - 1)).any(|at| {
        let plausible = |lsn: u64| lsn > bad.0 && lsn - bad.0 < (1 << 32);
        let synced = word(bytes, at + 16).map(u64::from_le_bytes);
        let lsn = word(bytes, at + 8).map(u64::from_le_bytes);
        synced.is_some_and(|synced| synced >= bad.0)
            && lsn.is_some_and(plausible)
            && Frame::read(&bytes[at..]).is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(payloads: &[Vec<u8>], synced_each: bool) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut ends) = (Vec::new(), vec![0]);
        for (index, payload) in payloads.iter().enumerate() {
            let lsn = Lsn(index as u64 + 1);
            let synced = if synced_each { Lsn(index as u64) } else { Lsn(0) };
            Frame { lsn, synced, payload }.write(&mut bytes);
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn payloads(bytes: &[u8]) -> (Vec<Vec<u8>>, Tail) {
        let mut found = Vec::new();
        let tail = walk(bytes, Lsn(1), |frame| found.push(frame.payload.to_vec()));
        (found, tail)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_tail_torn_at_any_byte_keeps_every_whole_record(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6),
            synced_each: bool,
        ) {
            let (bytes, ends) = segment(&records, synced_each);
            for cut in 0..=bytes.len() {
                let whole = ends.iter().filter(|&&end| end <= cut).count() - 1;
                let (found, tail) = payloads(&bytes[..cut]);
                prop_assert_eq!(&found, &records[..whole]);
                let expected = if ends.contains(&cut) { Tail::Clean } else { Tail::Torn { at: ends[whole] } };
                prop_assert_eq!(tail, expected);
            }
        }

        #[test]
        fn a_changed_byte_is_never_read_and_damage_is_told_from_a_torn_tail(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 2..6),
            position: prop::sample::Index,
            flip in 1u8..,
        ) {
            let (mut bytes, ends) = segment(&records, true);
            let at = position.index(bytes.len());
            bytes[at] ^= flip;
            let hit = ends.iter().filter(|&&end| end <= at).count() - 1;
            let (found, tail) = payloads(&bytes);
            prop_assert_eq!(&found, &records[..hit]);
            let last = hit + 1 == records.len();
            let expected = if last { Tail::Torn { at: ends[hit] } } else { Tail::Damaged { at: ends[hit] } };
            prop_assert_eq!(tail, expected);
        }

        #[test]
        fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = payloads(&bytes); // only whether it returns matters here
        }
    }

    #[test]
    fn a_batch_written_at_once_may_lose_a_middle_page() {
        // One write of three records, of which the disk kept the last but not the second.
        let (mut bytes, ends) = segment(&[vec![1; 9], vec![2; 9], vec![3; 9]], false);
        bytes[ends[1]..ends[2]].fill(0);
        let (found, tail) = payloads(&bytes);
        assert_eq!((found.len(), tail), (1, Tail::Torn { at: ends[1] }));
    }
}
