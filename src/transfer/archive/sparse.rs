//! Where the data of a sparse file is in it: GNU tar's old format, and its three in PAX headers
//! (GNU tar manual, "Storing Sparse Files").

use super::pax::Pax;

/// Most pieces of one file: bounds the memory that an archive's headers can take.
pub const MAX_PIECES: usize = 1 << 20;

/// A piece of data: offset in the file and length, both in bytes.
pub type Piece = (u64, u64);

/// What is stored of a file, and how long it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// Bytes of the file with its holes.
    pub size: u64,
    /// In order, not overlapping, within `size`.
    pub pieces: Vec<Piece>,
}

impl Map {
    /// A file without holes.
    pub fn plain(size: u64) -> Self {
        Self { size, pieces: if size > 0 { vec![(0, size)] } else { Vec::new() } }
    }

    /// `None` if the pieces are out of order, overlap or exceed the file.
    pub fn new(size: u64, pieces: Vec<Piece>) -> Option<Self> {
        let mut end = 0;
        for (offset, length) in &pieces {
            if *offset < end {
                return None;
            }
            end = offset.checked_add(*length)?;
        }
        let pieces = pieces.into_iter().filter(|(_, length)| *length > 0).collect();
        (end <= size).then_some(Self { size, pieces })
    }

    /// Bytes that are stored in the archive.
    pub fn stored(&self) -> u64 {
        self.pieces.iter().map(|(_, length)| length).sum()
    }
}

/// The form in which PAX headers describe a sparse file.
#[derive(Debug, PartialEq, Eq)]
pub enum Form {
    /// The map is in the headers (formats 0.0 and 0.1).
    Headers(Map),
    /// The map comes before the data, and the file has so many bytes (format 1.0).
    Data(u64),
}

/// What PAX headers say; `None` if the file is not sparse, `Some(None)` if they make no sense.
pub fn from_pax(pax: &Pax) -> Option<Option<Form>> {
    if pax.get("GNU.sparse.major").is_some() {
        return Some(read_1_0(pax));
    }
    let size = pax.number("GNU.sparse.size")?;
    Some(size.and_then(|size| {
        let pieces = match pax.get("GNU.sparse.map") {
            Some(map) => pairs(map.split(|byte| *byte == b','))?,
            None => {
                let number = |value| std::str::from_utf8(value).ok()?.parse().ok();
                let offsets: Option<Vec<u64>> = pax.all("GNU.sparse.offset").map(number).collect();
                let lengths: Option<Vec<u64>> =
                    pax.all("GNU.sparse.numbytes").map(number).collect();
                let (offsets, lengths) = (offsets?, lengths?);
                if offsets.len() != lengths.len() {
                    return None;
                }
                offsets.into_iter().zip(lengths).collect()
            }
        };
        Map::new(size, pieces).map(Form::Headers)
    }))
}

fn read_1_0(pax: &Pax) -> Option<Form> {
    let version = (pax.number("GNU.sparse.major")??, pax.number("GNU.sparse.minor")??);
    if version != (1, 0) {
        return None;
    }
    pax.number("GNU.sparse.realsize")?.map(Form::Data)
}

fn pairs<'a>(mut numbers: impl Iterator<Item = &'a [u8]>) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    while let Some(offset) = numbers.next() {
        let number = |value| std::str::from_utf8(value).ok()?.parse::<u64>().ok();
        pieces.push((number(offset)?, number(numbers.next()?)?));
        if pieces.len() > MAX_PIECES {
            return None;
        }
    }
    Some(pieces)
}

/// Takes the map of format 1.0, line by line: the number of pieces, then offset and length of each.
#[derive(Debug, Default)]
pub struct Lines {
    count: Option<usize>,
    numbers: Vec<u64>,
    line: Vec<u8>,
}

impl Lines {
    /// Takes one block of the data; true when the map is complete, `None` if it makes no sense.
    pub fn block(&mut self, block: &[u8]) -> Option<bool> {
        for byte in block {
            if self.is_complete() {
                return Some(true);
            }
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() > 20 {
                    return None;
                }
                continue;
            }
            let number: u64 = std::str::from_utf8(&self.line).ok()?.parse().ok()?;
            self.line.clear();
            match self.count {
                None => self.count = usize::try_from(number).ok().filter(|it| *it <= MAX_PIECES),
                Some(_) => self.numbers.push(number),
            }
            self.count?;
        }
        Some(self.is_complete())
    }

    fn is_complete(&self) -> bool {
        self.count.is_some_and(|count| self.numbers.len() == 2 * count)
    }

    pub fn map(self, size: u64) -> Option<Map> {
        Map::new(size, self.numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_in_order_and_inside() {
        assert!(Map::new(10, vec![(0, 2), (4, 6)]).is_some());
        for bad in [vec![(4, 2), (0, 2)], vec![(0, 4), (2, 4)], vec![(8, 4)], vec![(u64::MAX, 2)]] {
            assert_eq!(Map::new(10, bad), None);
        }
    }

    #[test]
    fn a_map_in_the_data_may_span_blocks() {
        let mut lines = Lines::default();
        assert_eq!(lines.block(b"2\n0\n5\n10"), Some(false));
        assert_eq!(lines.block(b"24\n7\n\0\0\0"), Some(true));
        let map = lines.map(2000).unwrap();
        assert_eq!(map.pieces, [(0, 5), (1024, 7)]);
        assert_eq!(map.stored(), 12);
        assert_eq!(Lines::default().block(b"x\n"), None);
        assert_eq!(Lines::default().block(b"99999999999\n"), None);
    }
}
