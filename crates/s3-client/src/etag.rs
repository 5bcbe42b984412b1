//! Computes etags, as S3 stores do, from the content of an object (contract section 5).
//!
//! A single put has the md5 of its bytes; a multipart upload the md5 of the concatenated binary md5s
//! of its parts, a dash, and the number of parts. Pure functions, used by `put` to compute the etag
//! that the store must return.

use md5::{Digest, Md5};

/// Bytes of an md5.
pub const MD5_LEN: usize = 16;

/// One md5, binary.
pub type Md5Sum = [u8; MD5_LEN];

/// Smallest part size used; the one of boto3, so that an object gets the etag its clients expect.
pub const MIN_PART_SIZE: u64 = 8 << 20;

/// The most parts a multipart upload may have (S3's limit, and Ceph's `rgw_multipart_part_upload_limit`).
pub const MAX_PARTS: u64 = 10_000;

/// The etag of an object made by one put.
pub fn single(md5: &Md5Sum) -> String {
    hex::encode(md5)
}

/// The etag of an object made of parts with these md5s.
pub fn multipart(parts: &[Md5Sum]) -> String {
    let mut whole = Md5::new();
    for part in parts {
        whole.update(part);
    }
    format!("{}-{}", hex::encode(whole.finalize()), parts.len())
}

/// An etag header as manifests carry it: without quotes.
pub fn unquoted(header: &str) -> &str {
    header.trim().trim_matches('"')
}

/// The part size for an object of `size` bytes: `wished`, or the next doubling of it with which
/// [`MAX_PARTS`] are enough.
pub fn part_size(size: u64, wished: u64) -> u64 {
    let mut part_size = wished.max(1);
    while size.div_ceil(part_size) > MAX_PARTS {
        part_size *= 2;
    }
    part_size
}

#[cfg(test)]
mod tests {
    use super::*;

    fn md5(bytes: &[u8]) -> Md5Sum {
        Md5::digest(bytes).into()
    }

    #[test]
    fn a_single_put_has_the_md5_as_etag() {
        assert_eq!(single(&md5(b"")), "d41d8cd98f00b204e9800998ecf8427e");
    }

    #[test]
    fn a_multipart_etag_is_the_md5_of_the_binary_md5s_and_the_count() {
        // printf a | md5sum | xxd -r -p, the same for b, both into md5sum.
        let etag = multipart(&[md5(b"a"), md5(b"b")]);
        assert_eq!(etag, "96e024ba2074fe77e8e965ba43a704be-2");
        assert!(multipart(&[md5(b"a")]).ends_with("-1"));
    }

    #[test]
    fn quotes_are_not_part_of_an_etag() {
        assert_eq!(unquoted("\"abc-2\""), "abc-2");
        assert_eq!(unquoted("abc"), "abc");
    }

    #[test]
    fn ten_thousand_parts_are_enough_for_any_object() {
        const TIB: u64 = 1 << 40;
        for size in [0, 1, MIN_PART_SIZE, 78 << 30, 80 << 30, TIB, 5 * TIB] {
            let part_size = part_size(size, MIN_PART_SIZE);
            assert!(size.div_ceil(part_size) <= MAX_PARTS, "{size} in parts of {part_size}");
            assert!(part_size <= 5 << 30, "S3 takes parts of 5 GiB at most");
        }
        assert_eq!(part_size(78 << 30, MIN_PART_SIZE), MIN_PART_SIZE);
    }
}
