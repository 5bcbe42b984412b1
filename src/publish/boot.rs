//! Kernel, initrd and kernel parameters in `/boot` of an image root.
//!
//! The tree is whatever a user made of it: links are followed inside the root only, and every file is
//! opened once and read through that descriptor, so that nothing can be swapped afterwards.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::contract::Arch;
use crate::os::openat::{directory, open_regular_in_root};

/// Names an error repeats of what `/boot` holds.
const LISTED: usize = 40;

/// File names in `/boot` (contract section 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    pub kernel: String,
    pub initrd: String,
    /// Optional artifact: published when the file exists.
    pub parameters: String,
    /// Optional artifact; contract section 2 has no variable for it.
    pub debug_kernel: Option<String>,
}

/// The opened files. Only images that were not made by a job lack a kernel or an initrd.
#[derive(Debug)]
pub struct Files {
    pub kernel: Option<File>,
    pub initrd: Option<File>,
    pub parameters: Option<File>,
    pub debug_kernel: Option<File>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open the image root {path}")]
    Root { path: PathBuf, source: io::Error },
    #[error("{what} /boot/{name} of the image root is no regular file; /boot holds: {listing}")]
    Unusable { what: &'static str, name: String, listing: String, source: io::Error },
}

/// The kernel's name: `vmlinuz` on aarch64 is a client's wrong default and means `Image`.
pub fn kernel_name(name: &str, arch: Arch) -> &str {
    match (name, arch) {
        ("vmlinuz", Arch::Aarch64) => "Image",
        _ => name,
    }
}

/// Finds and opens the boot artifacts of the image root at `root`.
///
/// A kernel or initrd that is missing, dangling or no regular file is an error that lists `/boot`.
pub fn find(root: &Path, names: &Names, arch: Arch) -> Result<Files, Error> {
    let opened = directory(root).map_err(|source| Error::Root { path: root.to_owned(), source })?;
    let required = |what, name: &str| {
        open_regular_in_root(&opened, &Path::new("boot").join(relative(name)))
            .map_err(|source| unusable(root, what, name, source))
    };
    let optional = |what, name: &str| match required(what, name) {
        Err(Error::Unusable { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    };
    let debug_kernel = names.debug_kernel.as_deref().filter(|name| !name.is_empty());
    Ok(Files {
        kernel: required("the kernel", kernel_name(&names.kernel, arch)).map(Some)?,
        initrd: required("the initrd", &names.initrd).map(Some)?,
        parameters: match names.parameters.as_str() {
            "" => None,
            name => optional("the kernel parameters", name)?,
        },
        debug_kernel: match debug_kernel {
            None => None,
            Some(name) => optional("the debug kernel", name)?,
        },
    })
}

/// `/vmlinuz` means the file in `/boot` as well: joining an absolute path would drop `/boot`.
fn relative(name: &str) -> &str {
    name.trim_start_matches('/')
}

fn unusable(root: &Path, what: &'static str, name: &str, source: io::Error) -> Error {
    Error::Unusable { what, name: name.to_owned(), listing: listing(root), source }
}

/// What `/boot` holds, for a person who looks for the right name.
fn listing(root: &Path) -> String {
    let entries = match std::fs::read_dir(root.join("boot")) {
        Ok(entries) => entries,
        Err(error) => return format!("nothing that can be read ({error})"),
    };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| match std::fs::read_link(entry.path()) {
            Ok(target) => format!("{} -> {}", entry.file_name().display(), target.display()),
            Err(_) => entry.file_name().display().to_string(),
        })
        .collect();
    names.sort();
    let more = names.len().saturating_sub(LISTED);
    names.truncate(LISTED);
    match (names.is_empty(), more) {
        (true, _) => "nothing".to_owned(),
        (_, 0) => names.join(", "),
        (_, more) => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    fn names() -> Names {
        Names {
            kernel: "vmlinuz".to_owned(),
            initrd: "initrd".to_owned(),
            parameters: "kernel-parameters".to_owned(),
            debug_kernel: None,
        }
    }

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("boot")).unwrap();
        root
    }

    fn text(mut file: &File) -> String {
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn links_are_followed_and_parameters_are_optional() {
        let root = root();
        let boot = root.path().join("boot");
        fs::write(boot.join("vmlinuz-6.1"), "kernel").unwrap();
        fs::write(boot.join("initrd"), "initrd").unwrap();
        symlink("/boot/vmlinuz-6.1", boot.join("vmlinuz")).unwrap();
        let files = find(root.path(), &names(), Arch::X86_64).unwrap();
        assert_eq!(text(files.kernel.as_ref().unwrap()), "kernel");
        assert!(files.parameters.is_none());
        fs::write(boot.join("kernel-parameters"), "quiet").unwrap();
        let files = find(root.path(), &names(), Arch::X86_64).unwrap();
        assert_eq!(text(files.parameters.as_ref().unwrap()), "quiet");
    }

    #[test]
    fn a_missing_kernel_is_an_error_that_lists_boot() {
        let root = root();
        fs::write(root.path().join("boot/bzImage"), "").unwrap();
        symlink("nowhere", root.path().join("boot/vmlinuz")).unwrap();
        let error = find(root.path(), &names(), Arch::X86_64).unwrap_err().to_string();
        assert!(error.contains("kernel /boot/vmlinuz"), "{error}");
        assert!(error.contains("bzImage, vmlinuz -> nowhere"), "{error}");
    }

    #[test]
    fn a_directory_is_no_kernel_and_no_parameters_file() {
        let root = root();
        fs::create_dir(root.path().join("boot/vmlinuz")).unwrap();
        assert!(find(root.path(), &names(), Arch::X86_64).is_err());
        fs::remove_dir(root.path().join("boot/vmlinuz")).unwrap();
        fs::write(root.path().join("boot/vmlinuz"), "").unwrap();
        fs::write(root.path().join("boot/initrd"), "").unwrap();
        fs::create_dir(root.path().join("boot/kernel-parameters")).unwrap();
        assert!(find(root.path(), &names(), Arch::X86_64).is_err());
    }

    #[test]
    fn vmlinuz_on_aarch64_means_image() {
        let root = root();
        fs::write(root.path().join("boot/Image"), "arm").unwrap();
        fs::write(root.path().join("boot/initrd"), "").unwrap();
        let files = find(root.path(), &names(), Arch::Aarch64).unwrap();
        assert_eq!(text(files.kernel.as_ref().unwrap()), "arm");
        assert_eq!(kernel_name("other", Arch::Aarch64), "other");
    }
}
