//! Sparse files in the three dialects of GNU tar that use PAX records: what the archive holds are the pieces between
//! holes. (<https://www.gnu.org/software/tar/manual/html_node/PAX-keywords.html>: 0.0 and 0.1 say where they lie in
//! records, 1.0 in front of the content.) The older dialect, with a type of its own, is no more read than by BuildKit.

use std::collections::VecDeque;
use std::ops::Range;

/// The records that an extension header has about it.
#[derive(Clone, Default)]
pub(super) struct Records {
    version: (Option<Vec<u8>>, Option<Vec<u8>>),
    name: Option<Vec<u8>>,
    size: Option<u64>,
    count: Option<u64>,
    /// Offsets and lengths by turns.
    map: Vec<u64>,
}

/// Where the pieces of a sparse file are said to lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// In the records.
    Records,
    /// In front of the content.
    Content,
}

impl Records {
    /// Takes a record whose key is `GNU.sparse.` and this.
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        let number = || super::header::decimal(value).ok_or("a malformed record of a sparse file");
        match key {
            b"major" => self.version.0 = Some(value.to_vec()),
            b"minor" => self.version.1 = Some(value.to_vec()),
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(number()?),
            b"numblocks" => self.count = Some(number()?),
            b"map" => self.map = numbers(value, b',').ok_or("a malformed map of a sparse file")?,
            b"offset" | b"numbytes" if self.map.len().is_multiple_of(2) != (key == b"offset") => {
                return Err("a malformed map of a sparse file");
            }
            b"offset" | b"numbytes" => self.map.push(number()?),
            _ => {}
        }
        Ok(())
    }

    /// Whether and where there is a map. Versions that are not known mean a file like any other, says Go.
    pub fn place(&self) -> Option<Place> {
        match (self.version.0.as_deref(), self.version.1.as_deref()) {
            (Some(b"1"), Some(b"0")) => Some(Place::Content),
            (Some(b"0"), Some(b"0" | b"1")) => Some(Place::Records),
            (None, None) if !self.map.is_empty() => Some(Place::Records),
            _ => None,
        }
    }

    /// The name of the file, where the header has another one for those who do not know of sparse files.
    pub fn name(&self) -> Option<&[u8]> {
        self.name.as_deref()
    }

    /// The file as the records tell it. `held` is how many bytes the archive has of it.
    pub fn file(&self, held: u64) -> Result<Sparse, &'static str> {
        if self.count.is_some_and(|count| count.checked_mul(2) != Some(self.map.len() as u64)) {
            return Err("a map of a sparse file of another length than it says");
        }
        Sparse::new(&self.map, self.size.unwrap_or(held), held)
    }

    /// The same with a map that stood in front of the content.
    pub fn file_of(&self, map: &[u64], held: u64) -> Result<Sparse, &'static str> {
        Sparse::new(map, self.size.unwrap_or(held), held)
    }
}

/// Decimal numbers with something between them; one more of that at the end says nothing.
fn numbers(text: &[u8], between: u8) -> Option<Vec<u64>> {
    let text = text.strip_suffix(&[between]).unwrap_or(text);
    text.split(|byte| *byte == between).map(super::header::decimal).collect()
}

/// A map of version 1.0, as far as it has come: the number of pieces, then their offsets and lengths, a line each.
#[derive(Default)]
pub(super) struct Map {
    text: Vec<u8>,
    lines: u64,
}

impl Map {
    /// Takes the next block.
    pub fn push(&mut self, block: &[u8]) {
        self.lines += block.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.text.extend_from_slice(block);
    }

    /// Bytes that have come.
    pub fn len(&self) -> u64 {
        self.text.len() as u64
    }

    /// The numbers, or `None` if there are more to come.
    pub fn numbers(&self) -> Result<Option<Vec<u64>>, &'static str> {
        let malformed = "a malformed map of a sparse file";
        if self.lines == 0 {
            return Ok(None);
        }
        let mut numbers = self.text.split(|byte| *byte == b'\n').map(super::header::decimal::<u64>);
        let count = numbers.next().flatten().and_then(|count| count.checked_mul(2)).ok_or(malformed)?;
        if self.lines <= count {
            return Ok(None);
        }
        let count = usize::try_from(count).map_err(|_| malformed)?;
        numbers.take(count).collect::<Option<Vec<_>>>().map(Some).ok_or(malformed)
    }
}

/// How far a sparse file was read.
#[derive(Debug)]
pub(super) struct Sparse {
    pieces: VecDeque<Range<u64>>,
    at: u64,
    size: u64,
}

/// What comes next of a sparse file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// So many zeros that the archive does not hold.
    Hole(u64),
    /// So many bytes of the archive.
    Held(u64),
    /// Nothing.
    End,
}

impl Sparse {
    fn new(map: &[u64], size: u64, held: u64) -> Result<Self, &'static str> {
        let malformed = "a map of a sparse file that leads out of it";
        let (mut pieces, mut end, mut sum) = (VecDeque::new(), 0, 0u64);
        for pair in map.chunks(2) {
            let &[at, length] = pair else { return Err(malformed) };
            let stop = at.checked_add(length).filter(|stop| at >= end && *stop <= size).ok_or(malformed)?;
            (end, sum) = (stop, sum + length); // no more than the size, since none overlap
            pieces.push_back(at..stop);
        }
        if sum != held {
            return Err("a sparse file of which the archive holds more or less than its map says");
        }
        Ok(Self { pieces, at: 0, size })
    }

    /// Bytes of the whole file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of it that the archive does not hold.
    pub fn holes(&self) -> u64 {
        self.size - self.pieces.iter().map(|piece| piece.end - piece.start).sum::<u64>()
    }

    pub fn next(&mut self) -> Next {
        while self.pieces.front().is_some_and(|piece| piece.end == self.at) {
            self.pieces.pop_front();
        }
        match self.pieces.front() {
            Some(piece) if piece.start <= self.at => Next::Held(piece.end - self.at),
            Some(piece) => Next::Hole(piece.start - self.at),
            None if self.at < self.size => Next::Hole(self.size - self.at),
            None => Next::End,
        }
    }

    /// Notes that so much of what came next was read.
    pub fn advance(&mut self, bytes: u64) {
        self.at += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut sparse: Sparse) -> Vec<Next> {
        let mut all = Vec::new();
        loop {
            match sparse.next() {
                Next::End => return all,
                next @ (Next::Hole(bytes) | Next::Held(bytes)) => {
                    sparse.advance(bytes);
                    all.push(next);
                }
            }
        }
    }

    #[test]
    fn maps_give_pieces_and_holes() {
        use Next::{Held, Hole};
        for (map, size, held, wanted) in [
            (&[][..], 0, 0, vec![]),
            (&[], 9, 0, vec![Hole(9)]),
            (&[0, 3, 5, 2, 9, 0], 9, 5, vec![Held(3), Hole(2), Held(2), Hole(2)]),
            (&[0, 2, 2, 1], 3, 3, vec![Held(2), Held(1)]),
            (&[4, 0, 4, 0], 4, 0, vec![Hole(4)]),
        ] {
            assert_eq!(read(Sparse::new(map, size, held).unwrap()), wanted, "{map:?}");
        }
        for (map, size, held) in [
            (&[0][..], 5, 0),
            (&[3, 3], 5, 3),
            (&[2, 2, 1, 1], 5, 3),
            (&[u64::MAX, 2], u64::MAX, 2),
            (&[0, 3], 5, 2),
            (&[0, 3], 5, 4),
        ] {
            assert!(Sparse::new(map, size, held).is_err(), "{map:?}");
        }
    }

    #[test]
    fn records_of_each_version_are_understood() {
        let records = |all: &[(&str, &str)]| {
            let mut records = Records::default();
            for (key, value) in all {
                records.add(key.as_bytes(), value.as_bytes())?;
            }
            Ok::<_, &str>(records)
        };
        let oldest = [("size", "9"), ("numblocks", "1"), ("offset", "4"), ("numbytes", "2")];
        let older = [("size", "9"), ("numblocks", "1"), ("map", "4,2"), ("name", "f")];
        for said in [&oldest, &older] {
            let records = records(said).unwrap();
            assert_eq!(records.place(), Some(Place::Records));
            assert_eq!(records.file(2).map(|file| (file.size(), file.holes())), Ok((9, 7)));
            assert!(records.file(3).is_err());
        }
        let new = records(&[("major", "1"), ("minor", "0"), ("realsize", "9"), ("name", "f")]).unwrap();
        assert_eq!((new.place(), new.name()), (Some(Place::Content), Some(&b"f"[..])));
        assert_eq!(new.file_of(&[4, 2], 2).map(|file| file.size()), Ok(9));
        assert_eq!(records(&[("major", "2"), ("minor", "0"), ("map", "0,1")]).unwrap().place(), None);
        assert_eq!(records(&[]).unwrap().place(), None);
        for bad in [("size", "-1"), ("map", "1,x"), ("numbytes", "1"), ("numblocks", "99999999999999999999")] {
            assert!(records(&[bad]).is_err(), "{bad:?}");
        }
        assert!(records(&[("numblocks", "2"), ("map", "0,1")]).unwrap().file(1).is_err());
    }

    #[test]
    fn the_map_in_front_of_content_may_come_in_parts() {
        let read = |parts: &[&[u8]]| {
            let mut map = Map::default();
            parts.iter().for_each(|part| map.push(part));
            map.numbers()
        };
        assert_eq!(read(&[b"2\n0\n3\n5\n2\n\0\0"]), Ok(Some(vec![0, 3, 5, 2])));
        assert_eq!(read(&[b"2\n0\n", b"3\n5", b"\n2\n\0\0"]), Ok(Some(vec![0, 3, 5, 2])));
        assert_eq!(read(&[b"0\n\0"]), Ok(Some(vec![])));
        for part in [&b""[..], b"2", b"2\n0\n3\n5\n", b"2\n0\n3\n5\n2", b"9223372036854775807\n1\n"] {
            assert_eq!(read(&[part]), Ok(None), "{part:?}");
        }
        for bad in [&b"x\n"[..], b"1\n\0\n\n", b"18446744073709551615\n", b"\n"] {
            assert!(read(&[bad]).is_err(), "{bad:?}");
        }
    }
}
