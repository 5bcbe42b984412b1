//! Kernel, initrd and boot parameters in an image: by their usual names in /boot.

use std::fs::File;
use std::path::Path;

use super::paths::shown;
use super::root::{self, Found, Root};
use ims_client::Arch;

/// An artifact to be found: plain names, then prefixes of names with a version.
struct Wanted {
    what: &'static str,
    option: &'static str,
    plain: &'static [&'static str],
    versioned: &'static [&'static str],
}

const KERNEL_X86_64: Wanted = Wanted {
    what: "kernel",
    option: "--kernel",
    plain: &["boot/vmlinuz", "boot/bzImage", "vmlinuz"],
    versioned: &["vmlinuz-"],
};
const KERNEL_AARCH64: Wanted = Wanted {
    what: "kernel",
    option: "--kernel",
    plain: &["boot/Image", "boot/vmlinuz", "vmlinuz"],
    versioned: &["Image-", "vmlinuz-"],
};
const INITRD: Wanted = Wanted {
    what: "initrd",
    option: "--initrd",
    plain: &["boot/initrd", "boot/initrd.img", "boot/initramfs.img", "initrd.img"],
    versioned: &["initrd-", "initrd.img-", "initramfs-"],
};
const PARAMETERS: &str = "boot/kernel-parameters";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Root(#[from] root::Error),
    #[error(
        "/boot of the image root contains more than one {what} ({names}) and no link to one of \
         them: choose one with {option}"
    )]
    Several { what: &'static str, option: &'static str, names: String },
    #[error("cannot create a file for the {what}")]
    Temporary { what: &'static str, source: std::io::Error },
}

/// The files that were found, as files of their own without a name.
#[derive(Debug, Default)]
pub struct Artifacts {
    pub kernel: Option<File>,
    pub initrd: Option<File>,
    pub parameters: Option<File>,
}

/// Which of them to look for: those that the caller did not give.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    pub kernel: bool,
    pub initrd: bool,
    pub parameters: bool,
}

/// Finds the requested files and copies them from the image to `scratch`.
pub fn find(root: &Root, arch: Arch, ask: Ask, scratch: &Path) -> Result<Artifacts, Error> {
    let kernel = match arch {
        Arch::X86_64 => KERNEL_X86_64,
        Arch::Aarch64 => KERNEL_AARCH64,
    };
    // Looked for also when one is given: its version determines the initrd.
    let kernel_found = match kernel.find(root, None) {
        Err(_) if !ask.kernel => None,
        found => found?,
    };
    let version = kernel_found.as_ref().and_then(version);
    let copy = |what, found: Option<Found>| {
        found.map(|found| extract(root, what, &found, scratch)).transpose()
    };
    Ok(Artifacts {
        kernel: if ask.kernel { copy("kernel", kernel_found)? } else { None },
        initrd: match ask.initrd {
            true => copy("initrd", INITRD.find(root, version.as_deref())?)?,
            false => None,
        },
        parameters: match ask.parameters {
            true => copy("boot parameters", root.file(PARAMETERS.as_bytes())?)?,
            false => None,
        },
    })
}

impl Wanted {
    fn find(&self, root: &Root, version: Option<&[u8]>) -> Result<Option<Found>, Error> {
        for name in self.plain {
            if let Some(found) = root.file(name.as_bytes())? {
                return Ok(Some(found));
            }
        }
        let mut candidates: Vec<Found> = Vec::new();
        for name in root.names(b"boot")? {
            let rest = self.versioned.iter().find_map(|it| name.strip_prefix(it.as_bytes()));
            let Some(rest) = rest.filter(|rest| !is_other(rest)) else { continue };
            if let Some(found) = root.file(&[b"boot/", name.as_slice()].concat())? {
                if version.is_some_and(|version| rest.starts_with(version)) {
                    return Ok(Some(found));
                }
                candidates.push(found);
            }
        }
        candidates.sort_by_key(|found| found.at);
        candidates.dedup_by_key(|found| found.at);
        match candidates.len() {
            0 | 1 => Ok(candidates.pop()),
            _ => {
                let names = candidates.iter().map(|found| shown(&found.path)).collect::<Vec<_>>();
                let names = names.join(", ");
                Err(Error::Several { what: self.what, option: self.option, names })
            }
        }
    }
}

/// Files with the name of a kernel that are not kernels: for crash dumps, signatures, leftovers of
/// an update.
fn is_other(rest: &[u8]) -> bool {
    let contains = |word: &[u8]| rest.windows(word.len()).any(|part| part == word);
    contains(b"kdump")
        || [&b".hmac"[..], b".old", b".bak", b"~"].iter().any(|it| rest.ends_with(it))
}

/// The version in a kernel's name.
fn version(kernel: &Found) -> Option<Vec<u8>> {
    let name = kernel.path.rsplit(|byte| *byte == b'/').next()?;
    let dash = name.iter().position(|byte| *byte == b'-')?;
    Some(name[dash + 1..].to_vec()).filter(|version| !version.is_empty())
}

fn extract(root: &Root, what: &'static str, found: &Found, scratch: &Path) -> Result<File, Error> {
    let mut file =
        tempfile::tempfile_in(scratch).map_err(|source| Error::Temporary { what, source })?;
    root.extract(found, &mut file)?;
    tracing::info!(path = format!("/{}", shown(&found.path)), "found the {what} in the image");
    Ok(file)
}
