//! Kernel, initrd and kernel parameters in `/boot` of an image root.
//!
//! The tree is whatever a user made of it: links are followed inside the root only, and every file is
//! opened once and read through that descriptor, so that nothing can be swapped afterwards.

use std::fs::File;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};

use linux::dir::Dir;

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

impl Files {
    /// The same files once more, for another try to publish them.
    pub fn try_clone(&self) -> io::Result<Self> {
        let clone = |file: &Option<File>| file.as_ref().map(File::try_clone).transpose();
        Ok(Self {
            kernel: clone(&self.kernel)?,
            initrd: clone(&self.initrd)?,
            parameters: clone(&self.parameters)?,
            debug_kernel: clone(&self.debug_kernel)?,
        })
    }

    /// Copies of the files that no user can change, without names, in `directory`.
    pub fn detach(&self, directory: &Path) -> io::Result<Self> {
        let copy = |file: &Option<File>| {
            let Some(file) = file else { return Ok(None) };
            let mut copy = tempfile::tempfile_in(directory)?;
            io::copy(&mut &*file, &mut copy)?;
            copy.rewind()?;
            Ok::<_, io::Error>(Some(copy))
        };
        Ok(Self {
            kernel: copy(&self.kernel)?,
            initrd: copy(&self.initrd)?,
            parameters: copy(&self.parameters)?,
            debug_kernel: copy(&self.debug_kernel)?,
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open the image root {path}")]
    Root { path: PathBuf, source: io::Error },
    #[error(
        "the {what} /boot/{name} of the image root does not exist or is not a regular file; \
             /boot contains: {listing}"
    )]
    Unusable { what: &'static str, name: String, listing: String, source: io::Error },
}

/// Finds and opens the boot artifacts of the image root at `root`.
///
/// A kernel or initrd that is missing, dangling or no regular file is an error that lists `/boot`.
pub fn find(root: &Path, names: &Names) -> Result<Files, Error> {
    let root = Root::open(root)?;
    let debug_kernel = names.debug_kernel.as_deref().filter(|name| !name.is_empty());
    Ok(Files {
        kernel: root.required("kernel", &names.kernel).map(Some)?,
        initrd: root.required("initrd", &names.initrd).map(Some)?,
        parameters: match names.parameters.as_str() {
            "" => None,
            name => root.optional("kernel parameters", name)?,
        },
        debug_kernel: match debug_kernel {
            None => None,
            Some(name) => root.optional("debug kernel", name)?,
        },
    })
}

/// The boot artifacts that exist; missing ones are not an error.
pub fn find_any(root: &Path, names: &Names) -> Result<Files, Error> {
    let root = Root::open(root)?;
    let any = |what, name: &str| root.required(what, name).ok();
    Ok(Files {
        kernel: any("kernel", &names.kernel),
        initrd: any("initrd", &names.initrd),
        parameters: any("kernel parameters", &names.parameters),
        debug_kernel: None,
    })
}

/// Warns of a kernel or initrd that [`find`] would miss: the user can still make it.
pub fn warn_of_missing(root: &Path, kernel: &str, initrd: &str) -> Result<(), Error> {
    for error in missing(root, kernel, initrd)? {
        if let Error::Unusable { what, name, listing, .. } = error {
            tracing::warn!(
                boot = %listing,
                "THE IMAGE HAS NO {what} /boot/{name}: create it before you touch `complete`, or \
                 start a job with another file name; otherwise the job fails"
            );
        }
    }
    Ok(())
}

/// The kernel or initrd that [`find`] would not take.
pub fn missing(root: &Path, kernel: &str, initrd: &str) -> Result<Vec<Error>, Error> {
    let root = Root::open(root)?;
    let needed = [("kernel", kernel), ("initrd", initrd)];
    Ok(needed.into_iter().filter_map(|(what, name)| root.required(what, name).err()).collect())
}

/// An image root, of which files in `/boot` are opened.
struct Root<'a> {
    path: &'a Path,
    opened: Dir,
}

impl<'a> Root<'a> {
    fn open(path: &'a Path) -> Result<Self, Error> {
        let opened = Dir::open(path);
        let opened = opened.map_err(|source| Error::Root { path: path.to_owned(), source })?;
        Ok(Self { path, opened })
    }

    fn required(&self, what: &'static str, name: &str) -> Result<File, Error> {
        let name = relative(name);
        self.opened.open_regular_inside(&Path::new("boot").join(name)).map_err(|source| {
            Error::Unusable { what, name: name.to_owned(), listing: listing(self.path), source }
        })
    }

    fn optional(&self, what: &'static str, name: &str) -> Result<Option<File>, Error> {
        match self.required(what, name) {
            Err(Error::Unusable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            found => found.map(Some),
        }
    }
}

/// `/vmlinuz` means the file in `/boot` as well: joining an absolute path would drop `/boot`.
fn relative(name: &str) -> &str {
    name.trim_start_matches('/')
}

/// What `/boot` holds, for a person who looks for the right name.
fn listing(root: &Path) -> String {
    let entries = match std::fs::read_dir(root.join("boot")) {
        Ok(entries) => entries,
        Err(error) => return format!("nothing readable ({error})"),
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
        let files = find(root.path(), &names()).unwrap();
        assert_eq!(text(files.kernel.as_ref().unwrap()), "kernel");
        assert!(files.parameters.is_none());
        fs::write(boot.join("kernel-parameters"), "quiet").unwrap();
        let files = find(root.path(), &names()).unwrap();
        assert_eq!(text(files.parameters.as_ref().unwrap()), "quiet");
    }

    #[test]
    fn a_missing_kernel_is_an_error_that_lists_boot() {
        let root = root();
        fs::write(root.path().join("boot/bzImage"), "").unwrap();
        symlink("nowhere", root.path().join("boot/vmlinuz")).unwrap();
        let error = find(root.path(), &names()).unwrap_err().to_string();
        assert!(error.contains("kernel /boot/vmlinuz"), "{error}");
        assert!(error.contains("bzImage, vmlinuz -> nowhere"), "{error}");
    }

    #[test]
    fn a_directory_is_no_kernel_and_no_parameters_file() {
        let root = root();
        fs::create_dir(root.path().join("boot/vmlinuz")).unwrap();
        assert!(find(root.path(), &names()).is_err());
        fs::remove_dir(root.path().join("boot/vmlinuz")).unwrap();
        fs::write(root.path().join("boot/vmlinuz"), "").unwrap();
        fs::write(root.path().join("boot/initrd"), "").unwrap();
        fs::create_dir(root.path().join("boot/kernel-parameters")).unwrap();
        assert!(find(root.path(), &names()).is_err());
    }

    #[test]
    fn what_will_be_missed_is_told_by_the_same_rules() {
        let root = root();
        let boot = root.path().join("boot");
        let missed = |kernel: &str, initrd: &str| -> Vec<&'static str> {
            let of = |error: &Error| match error {
                Error::Unusable { what, .. } => *what,
                Error::Root { .. } => "root",
            };
            missing(root.path(), kernel, initrd).unwrap().iter().map(of).collect()
        };
        assert_eq!(missed("vmlinuz", "initrd"), ["kernel", "initrd"]);
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::write(boot.join("vmlinuz-1"), "").unwrap();
        symlink("/boot/vmlinuz-1", boot.join("vmlinuz")).unwrap();
        symlink(outside.path(), boot.join("initrd")).unwrap();
        assert_eq!(missed("vmlinuz", "initrd"), ["initrd"]);
        assert_eq!(missed("/vmlinuz", "/vmlinuz-1"), [""; 0]);
        fs::remove_dir_all(boot).unwrap();
        assert_eq!(missed("vmlinuz", "initrd"), ["kernel", "initrd"]);
    }
}
