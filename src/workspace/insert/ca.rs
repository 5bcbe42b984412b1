//! The site's CA certificates, which stay in the image.

use std::io::{self, Read};
use std::path::Path;

use linux::dir::Dir;
use linux::entry::Attributes;

/// Where the image has them.
const TARGET: &str = "/etc/cray/ca";

/// Certificates are small; something else in that directory may not be.
const LARGEST: u64 = 1 << 20;

/// Copies the files of the directory that holds `ca_cert` into the image root.
///
/// A private key is never copied. Nothing is written where the image already has the same file.
pub(super) fn copy(root: &Dir, ca_cert: &Path) -> io::Result<()> {
    if !ca_cert.is_file() {
        tracing::warn!(path = %ca_cert.display(), "no CA certificate to add to the image");
        return Ok(());
    }
    let source = ca_cert.parent().unwrap_or(Path::new("/"));
    let target = root.make_inside(Path::new(TARGET))?;
    for entry in std::fs::read_dir(source)? {
        let name = entry?.file_name();
        // A mounted ConfigMap is `..data` and links into it.
        if name.as_encoded_bytes().starts_with(b"..") {
            continue;
        }
        copy_file(&source.join(&name), &target, Path::new(&name))?;
    }
    Ok(())
}

fn copy_file(source: &Path, target: &Dir, name: &Path) -> io::Result<()> {
    if !source.is_file() {
        return Ok(());
    }
    let mut content = Vec::new();
    std::fs::File::open(source)?.take(LARGEST + 1).read_to_end(&mut content)?;
    let is_key = content.windows(KEY.len()).any(|window| window == KEY);
    if is_key || content.len() as u64 > LARGEST {
        tracing::warn!(path = %source.display(), "not copied into the image: not a certificate");
        return Ok(());
    }
    if target.read(name, LARGEST).is_ok_and(|present| present == content) {
        return Ok(());
    }
    target.put_file(name, &content, &Attributes::root_owned(0o644))
}

/// Part of the first line of every PEM private key.
const KEY: &[u8] = b"PRIVATE KEY-----";
