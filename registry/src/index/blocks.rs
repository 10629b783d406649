//! Blocks: rows that follow each other in one value, since the price of a value in sled hardly depends on
//! its size. Rows one by one cost it forty times the memory, and a start as long as there are rows. Where
//! blocks lie is the business of `sled_rows`.
//!
//! ```text
//! ├ key length ┼ value length ┼ key ┼ value ┼ key length … ┤    in the order of keys
//! ```

use std::iter::Peekable;

/// A block that grew beyond so many bytes is split.
const LARGEST: usize = 6 << 10;
/// Into blocks of about so many; a row that is larger lies alone.
const WANTED: usize = 3 << 10;
/// The two lengths before a row.
const LENGTHS: usize = 8;

/// These bytes are not a block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoBlock;

/// A block with its first key.
pub(super) type Keyed<'a> = (&'a [u8], Vec<u8>);

/// The rows of a block, in order.
pub(super) fn rows(block: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8]), NoBlock>> {
    let mut rest = block;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let split = split(rest);
        // Whoever goes on behind what is no row must come to an end.
        rest = split.map_or(&[], |(.., behind)| behind);
        Some(split.map(|(key, value, _)| (key, value)).ok_or(NoBlock))
    })
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (key, rest) = bytes.split_first_chunk()?;
    let (value, rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key) as usize)?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value) as usize)?;
    Some((key, value, rest))
}

/// The value of a key, if the block has it.
pub(super) fn find<'a>(block: &'a [u8], wanted: &[u8]) -> Result<Option<&'a [u8]>, NoBlock> {
    for row in rows(block) {
        let (key, value) = row?;
        if key >= wanted {
            return Ok((key == wanted).then_some(value));
        }
    }
    Ok(None)
}

/// The blocks that a block becomes by some changes, each with its first key; none if no row is left.
pub(super) fn change<'a>(
    block: &'a [u8],
    changes: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) -> Result<Vec<Keyed<'a>>, NoBlock> {
    let mut changes = changes.peekable();
    let mut merged = Vec::new();
    let before = |changes: &mut Peekable<_>, merged: &mut Vec<_>, key: Option<&[u8]>| {
        while let Some((key, value)) = changes.next_if(|(change, _): &(&[u8], _)| key.is_none_or(|key| *change < key)) {
            merged.extend(Option::map(value, |value: &[u8]| (key, value)));
        }
    };
    for row in rows(block) {
        let (key, value) = row?;
        before(&mut changes, &mut merged, Some(key));
        match changes.next_if(|(change, _)| *change == key) {
            Some((_, change)) => merged.extend(change.map(|value| (key, value))),
            None => merged.push((key, value)),
        }
    }
    before(&mut changes, &mut merged, None);
    Ok(cut(&merged))
}

/// Lays rows out as blocks of about the same size.
fn cut<'a>(rows: &[(&'a [u8], &[u8])]) -> Vec<Keyed<'a>> {
    let size = |(key, value): &(&[u8], &[u8])| LENGTHS + key.len() + value.len();
    let total: usize = rows.iter().map(size).sum();
    let most = if total <= LARGEST { LARGEST } else { total.div_ceil(total.div_ceil(WANTED)) };
    let mut blocks: Vec<Keyed<'a>> = Vec::new();
    for row in rows {
        let fits = |(_, block): &Keyed<'_>| block.len() + size(row) <= most;
        if !blocks.last().is_some_and(fits) {
            blocks.push((row.0, Vec::with_capacity(most.min(total))));
        }
        let Some((_, block)) = blocks.last_mut() else { continue };
        for length in [row.0.len(), row.1.len()] {
            // Rows are records of the journal in parts, which are at most some megabytes long.
            block.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        }
        block.extend_from_slice(row.0);
        block.extend_from_slice(row.1);
    }
    blocks
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Map = BTreeMap<Vec<u8>, Vec<u8>>;

    fn applied(block: &[u8], changes: &BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let changes = changes.iter().map(|(key, value)| (key.as_slice(), value.as_deref()));
        let blocks = change(block, changes).unwrap();
        blocks.into_iter().map(|(first, block)| (first.to_vec(), block)).collect()
    }

    proptest! {
        #[test]
        fn changes_are_found_in_the_blocks_that_come_of_them(
            rows_before in prop::collection::btree_map(prop::collection::vec(0u8..4, 1..4), prop::collection::vec(any::<u8>(), 0..9), 0..20),
            changes in prop::collection::btree_map(prop::collection::vec(0u8..4, 1..4), prop::option::of(prop::collection::vec(any::<u8>(), 0..2000)), 0..20),
        ) {
            let puts = rows_before.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
            let before = applied(&[], &puts);
            prop_assert!(before.len() <= 1);
            let block = before.into_iter().next().map_or_else(Vec::new, |(_, block)| block);
            let blocks = applied(&block, &changes);

            let mut wanted: Map = rows_before;
            for (key, value) in &changes {
                match value {
                    Some(value) => drop(wanted.insert(key.clone(), value.clone())),
                    None => drop(wanted.remove(key)),
                }
            }
            let mut found = Vec::new();
            for (first, block) in &blocks {
                let rows: Vec<_> = rows(block).map(Result::unwrap).collect();
                prop_assert_eq!(rows[0].0, first.as_slice());
                prop_assert!(block.len() <= LARGEST || rows.len() == 1);
                found.extend(rows.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())));
                for (key, value) in &wanted {
                    let here = found.iter().any(|(here, _)| here == key) && key >= first;
                    prop_assert_eq!(find(block, key).unwrap(), here.then_some(value.as_slice()));
                }
            }
            prop_assert_eq!(found, wanted.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn what_is_no_block_is_refused(block in prop::collection::vec(any::<u8>(), 0..40)) {
            let read: Result<Vec<_>, _> = rows(&block).collect();
            let whole = read.is_ok_and(|rows| {
                rows.iter().map(|(key, value)| LENGTHS + key.len() + value.len()).sum::<usize>() == block.len()
            });
            prop_assert_eq!(whole, change(&block, std::iter::empty()).is_ok());
        }
    }
}
