//! Divides the bytes into parts: uploaded, or copied inside the store from an object that already
//! has them.

use crate::etag;
use crate::object::Object;

/// S3's smallest part, in bytes; only the last one may be smaller (S3 user guide, multipart limits).
const SMALLEST: u64 = 5 << 20;

/// Bytes of a part that is copied, about: enough to make requests few, and several run at once. More where
/// [`etag::MAX_PARTS`] would not be enough.
const COPY: u64 = 64 << 20;

/// An object in the same store that shares bytes with the one to be uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reuse {
    /// What the store copies from.
    pub object: Object,
    /// Without quotes. The object is not used if it has another one.
    pub etag: String,
    /// In the order of the new object, without overlaps.
    pub ranges: Vec<Shared>,
}

/// Bytes that both objects have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared {
    /// Byte offset in the new object.
    pub at: u64,
    /// Byte offset in the object that is there.
    pub from: u64,
    /// Bytes.
    pub length: u64,
}

/// A part to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// Byte offset in the new object.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Byte offset in the object that is there, if the part can be copied.
    pub from: Option<u64>,
}

/// Divides an object of `size` bytes. Without shared ranges all parts but the last have the same size:
/// `wished`, or more where [`etag::MAX_PARTS`] would not be enough.
pub(super) fn spans(size: u64, wished: u64, shared: &[Shared]) -> Vec<Span> {
    // A part between two copies may be as short as a copy is long: twice as many parts at worst.
    let counted = if shared.is_empty() { size } else { size.saturating_mul(2) };
    let part_size = etag::part_size(counted, wished);
    let mut spans = Vec::new();
    let mut done = 0;
    for range in shared {
        let end = range.at + range.length;
        let gap = range.at.saturating_sub(done);
        // A gap that is too short for its own part includes the beginning of the range.
        let start = if gap == 0 { done } else { done + gap.max(SMALLEST) };
        if start < range.at || start + part_size.max(SMALLEST) > end {
            continue;
        }
        divide(&mut spans, done, start - done, part_size, None);
        divide(
            &mut spans,
            start,
            end - start,
            COPY.max(part_size),
            Some(range.from + (start - range.at)),
        );
        done = end;
    }
    let full = (size - done) / part_size * part_size;
    for offset in (done..done + full).step_by(part_size as usize) {
        spans.push(Span { offset, length: part_size, from: None });
    }
    if done + full < size {
        spans.push(Span { offset: done + full, length: size - done - full, from: None });
    }
    spans
}

/// Equal parts of about `part_size` bytes, none of them smaller than half of it unless all is.
fn divide(spans: &mut Vec<Span>, start: u64, length: u64, part_size: u64, from: Option<u64>) {
    if length == 0 {
        return;
    }
    let count = (length / part_size).max(1);
    for part in 0..count {
        let (at, end) = (length * part / count, length * (part + 1) / count);
        let from = from.map(|from| from + at);
        spans.push(Span { offset: start + at, length: end - at, from });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn without_shared_bytes_the_parts_are_those_of_stock_clients() {
        let sizes = |size| -> Vec<u64> {
            spans(size, 8 * MIB, &[]).iter().map(|span| span.length).collect()
        };
        assert_eq!(sizes(20 * MIB), [8 * MIB, 8 * MIB, 4 * MIB]);
        assert_eq!(sizes(16 * MIB), [8 * MIB, 8 * MIB]);
        assert_eq!(sizes(1), [1]);
    }

    #[test]
    fn a_superblock_before_the_shared_bytes_becomes_a_part_of_the_smallest_size() {
        let shared = [Shared { at: 96, from: 96, length: 200 * MIB }];
        let spans = spans(201 * MIB, 8 * MIB, &shared);
        assert_eq!(spans[0], Span { offset: 0, length: SMALLEST, from: None });
        let copied: Vec<_> = spans.iter().filter(|span| span.from.is_some()).collect();
        assert_eq!(copied[0].from, Some(SMALLEST));
        assert_eq!(copied.iter().map(|span| span.length).sum::<u64>(), 195 * MIB + 96);
        assert_eq!(spans.last().unwrap().from, None);
    }

    #[test]
    fn short_shared_ranges_are_sent_with_their_neighbours() {
        let shared = [
            Shared { at: 10 * MIB, from: 0, length: 3 * MIB },
            Shared { at: 14 * MIB, from: 50 * MIB, length: 2 * MIB },
        ];
        assert!(spans(40 * MIB, 8 * MIB, &shared).iter().all(|span| span.from.is_none()));
    }

    #[test]
    fn a_huge_image_that_is_nearly_the_old_one_has_no_more_parts_than_stores_take() {
        for gib in [600, 700, 5 << 10] {
            let size = gib << 30;
            let shared = [Shared { at: 96, from: 96, length: size - 96 }];
            let parts = spans(size, 8 * MIB, &shared).len();
            assert!(parts as u64 <= etag::MAX_PARTS, "{parts} parts of {gib} GiB");
        }
    }

    fn layouts() -> impl Strategy<Value = (u64, Vec<Shared>)> {
        let pieces = prop::collection::vec((0..60 * MIB, 0..90 * MIB, 0..1u64 << 40), 0..12);
        (pieces, 0..30 * MIB).prop_map(|(pieces, tail)| {
            let mut at = 0;
            let mut shared = Vec::new();
            for (gap, length, from) in pieces {
                shared.push(Shared { at: at + gap, from, length });
                at += gap + length;
            }
            (at + tail + 1, shared)
        })
    }

    proptest! {
        #[test]
        fn parts_cover_the_object_once_and_stores_take_their_sizes((size, shared) in layouts()) {
            let spans = spans(size, 8 * MIB, &shared);
            let mut done = 0;
            for (index, span) in spans.iter().enumerate() {
                prop_assert_eq!(span.offset, done);
                prop_assert!(span.length >= SMALLEST || index + 1 == spans.len(), "{:?}", span);
                if let Some(from) = span.from {
                    let within = shared.iter().any(|range| {
                        range.at <= span.offset
                            && span.offset + span.length <= range.at + range.length
                            && from - range.from == span.offset - range.at
                    });
                    prop_assert!(within, "{:?} is not shared", span);
                }
                done += span.length;
            }
            prop_assert_eq!(done, size);
        }
    }
}
