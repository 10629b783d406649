//! Where a layer is cut into blocks: only by what its entries are, so that the blocks of files which did not change
//! are the same in the next layer, whatever came and went before them.

/// The rule, for blocks of about so many bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    target: usize,
}

impl Cut {
    pub fn new(target: usize) -> Self {
        Self { target }
    }

    /// Whether a block that holds so much ends in front of this entry. The path decides, and with a chance that
    /// grows with the size, so that blocks are of about one size whether files are small or large.
    pub fn ends_before(self, path: &[u8], size: u64, held: usize) -> bool {
        if held >= self.target / 2 * 3 {
            return true;
        }
        let chance = u64::from(libdeflater::crc32(path)) * (self.target / 2) as u64;
        held >= self.target / 2 && chance < (size.min(1 << 30) + 512) << 32
    }

    /// Whether a file is cut from its own start on, so that its blocks do not depend on its neighbours, nor on
    /// what its header says.
    pub fn is_apart(self, size: u64) -> bool {
        size >= (self.target / 2) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paths in front of which blocks end.
    fn ends(files: &[(String, u64)]) -> Vec<&str> {
        let (rule, mut held, mut ends) = (Cut::new(1 << 20), 0, Vec::new());
        for (path, size) in files {
            if rule.ends_before(path.as_bytes(), *size, held) {
                ends.push(path.as_str());
                held = 0;
            }
            held += 512 + *size as usize;
        }
        ends
    }

    #[test]
    fn blocks_are_of_about_one_size_and_find_back_to_their_ends() {
        for size in [100, 5_000, 100_000, 400_000] {
            let files: Vec<(String, u64)> =
                (0..200_000_000 / (size + 512)).map(|at| (format!("f{at}"), size)).collect();
            let before = ends(&files);
            let average = 200 / before.len();
            assert!((0..=1).contains(&average) && before.len() < 400, "{size}: {}", before.len());
            let mut changed = files.clone();
            changed.insert(1000.min(changed.len() / 2), ("new".to_owned(), 300_000));
            let after = ends(&changed);
            let lost = before.iter().filter(|path| !after.contains(path)).count();
            assert!(lost <= 12, "{size}: {lost} of {}", before.len());
        }
    }
}
