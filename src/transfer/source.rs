//! The form of an image root: detected by its first bytes, never by its name.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use super::archive;
use super::frames::Frames;

/// Bytes to inspect: a tar header, with its magic at 257.
const HEAD: usize = 512;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
}

/// An image root in one of the forms that can be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Squashfs(PathBuf),
    Archive(PathBuf, Compression),
    Directory(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{} is {found}; an image root is a squashfs image, a tar archive (plain, gzip, xz, zstd), a \
         directory or a kiwi result directory",
        path.display()
    )]
    Unknown { path: PathBuf, found: &'static str },
    #[error(
        "{} is neither an image root (it has no etc, usr, bin or boot) nor a kiwi result directory",
        .0.display()
    )]
    NotARoot(PathBuf),
    #[error(
        "the kiwi result directory {} contains {count} images ({names}): give the path of the one \
         to import",
        path.display()
    )]
    KiwiImages { path: PathBuf, count: usize, names: String },
}

/// First bytes by which other things are known, to say what was given.
const OTHERS: &[(usize, &[u8], &str)] = &[
    (0, b"BZh", "compressed with bzip2, which is not supported: decompress it first"),
    (0, b"sqsh", "a squashfs image of a big-endian machine"),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4: decompress it first"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"QFI\xfb", "a qcow2 disk image"),
    (0, b"070701", "a cpio archive"),
    (510, b"\x55\xaa", "a disk image"),
];

impl Source {
    /// Looks at what is at `path`; links are followed, as the caller named it.
    pub fn detect(path: &Path) -> Result<Self, Error> {
        let read = |source| Error::Read { path: path.to_owned(), source };
        if fs::metadata(path).map_err(read)?.is_dir() {
            return directory(path);
        }
        let head = head(File::open(path).map_err(read)?).map_err(read)?;
        let found = |found| Err(Error::Unknown { path: path.to_owned(), found });
        let compression = match head.as_slice() {
            [b'h', b's', b'q', b's', ..] => return Ok(Self::Squashfs(path.to_owned())),
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            _ if is_tar(&head) => Compression::None,
            [] => return found("empty"),
            _ => {
                let known = OTHERS.iter().find(|(at, magic, _)| {
                    head.get(*at..).is_some_and(|bytes| bytes.starts_with(magic))
                });
                return found(known.map_or("a file of unknown type", |(_, _, what)| what));
            }
        };
        let file = File::open(path).map_err(read)?;
        match head_of(compression, file) {
            Ok(inner) if is_tar(&inner) => Ok(Self::Archive(path.to_owned(), compression)),
            Ok(inner) if inner.starts_with(b"hsqs") => {
                found("a compressed squashfs image: decompress it first")
            }
            Ok(_) => found("compressed, but without a tar archive inside"),
            Err(error) => Err(read(error)),
        }
    }
}

/// The content of an archive without its compression.
pub fn decompressed<'a>(
    compression: Compression,
    input: impl Read + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let input = BufReader::with_capacity(1 << 20, input);
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(Frames::gzip(input)),
        Compression::Xz => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(input)),
        Compression::Zstd => Box::new(Frames::zstd(input)?),
    })
}

fn head_of(compression: Compression, file: File) -> io::Result<Vec<u8>> {
    head(decompressed(compression, file)?)
}

fn head(input: impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    input.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn is_tar(head: &[u8]) -> bool {
    head.try_into().is_ok_and(archive::is_header)
}

/// A root itself, or what kiwi leaves: an archive or squashfs image beside `kiwi.result` and lists of
/// packages, and the root it was created from in `build/image-root`.
fn directory(path: &Path) -> Result<Source, Error> {
    let has = |name: &str| fs::symlink_metadata(path.join(name)).is_ok();
    if ["etc", "usr", "bin", "boot"].into_iter().any(has) {
        return Ok(Source::Directory(path.to_owned()));
    }
    let read = |source| Error::Read { path: path.to_owned(), source };
    let mut files: Vec<PathBuf> = fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(read)?;
    files.sort();
    let named = |suffix: &str| {
        files.iter().any(|file| file.to_str().is_some_and(|name| name.ends_with(suffix)))
    };
    if named("kiwi.result") || named("kiwi.result.json") || named(".packages") {
        let mut images = Vec::new();
        for file in files.iter().filter(|file| file.is_file()) {
            if let Ok(source) = Source::detect(file) {
                images.push(source);
            }
        }
        match images.len() {
            0 => {}
            1 => return Ok(images.remove(0)),
            count => {
                let names = images.iter().map(|image| image.path().display().to_string());
                let names = names.collect::<Vec<_>>().join(", ");
                return Err(Error::KiwiImages { path: path.to_owned(), count, names });
            }
        }
    }
    let root = path.join("build/image-root");
    if root.is_dir() { Ok(Source::Directory(root)) } else { Err(Error::NotARoot(path.to_owned())) }
}

impl Source {
    pub fn path(&self) -> &Path {
        match self {
            Self::Squashfs(path) | Self::Archive(path, _) | Self::Directory(path) => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn tar() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_path("etc").unwrap();
        header.set_cksum();
        builder.append(&header, io::empty()).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn the_content_tells_and_not_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.sqsh");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        gzip.write_all(&tar()).unwrap();
        let zstd = zstd::encode_all(&tar()[..], 1).unwrap();
        for (bytes, compression) in [
            (tar(), Compression::None),
            (gzip.finish().unwrap(), Compression::Gzip),
            (zstd, Compression::Zstd),
        ] {
            fs::write(&path, bytes).unwrap();
            let expected = Source::Archive(path.clone(), compression);
            assert_eq!(Source::detect(&path).unwrap(), expected);
        }
        for (bytes, said) in [
            (&b"BZh91AY"[..], "bzip2"),
            (b"", "empty"),
            (b"nothing", "a file of unknown type"),
            (&zstd::encode_all(&b"text"[..], 1).unwrap(), "without a tar archive inside"),
        ] {
            fs::write(&path, bytes).unwrap();
            let error = Source::detect(&path).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn what_kiwi_leaves_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Source::detect(dir.path()), Err(Error::NotARoot(_))));
        fs::create_dir_all(dir.path().join("build/image-root/etc")).unwrap();
        fs::write(dir.path().join("kiwi.result"), "").unwrap();
        let root = Source::Directory(dir.path().join("build/image-root"));
        assert_eq!(Source::detect(dir.path()).unwrap(), root);
        let archive = dir.path().join("name.x86_64-1.0.tar.xz");
        fs::write(&archive, tar()).unwrap();
        let found = Source::detect(dir.path()).unwrap();
        assert_eq!(found, Source::Archive(archive, Compression::None));
        fs::write(dir.path().join("second"), tar()).unwrap();
        assert!(matches!(Source::detect(dir.path()), Err(Error::KiwiImages { count: 2, .. })));
    }
}
