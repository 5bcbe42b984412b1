//! The architecture of an image root, from the ELF header of its own programs.

use object::elf;
use object::read::elf::FileHeader;

use super::paths::shown;
use super::root::{self, Root};
use ims_client::Arch;

/// Programs that a root of any distribution has.
const PROGRAMS: [&str; 10] = [
    "bin/sh",
    "usr/bin/sh",
    "usr/bin/env",
    "bin/bash",
    "usr/bin/bash",
    "sbin/init",
    "usr/sbin/init",
    "usr/lib/systemd/systemd",
    "bin/busybox",
    "usr/bin/busybox",
];

/// Bytes of an ELF header.
const HEADER: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Root(#[from] root::Error),
    #[error(
        "/{path} of the image root is built for ELF machine {machine}, not for x86_64 or aarch64"
    )]
    Unsupported { path: String, machine: u16 },
    #[error("the image root is {found} (as /{path} shows), not {asked}")]
    Mismatch { path: String, found: Arch, asked: Arch },
    #[error(
        "cannot determine the architecture of the image root from its programs (bin/sh, \
         usr/bin/env, sbin/init...): use --arch"
    )]
    Unknown,
}

/// Finds the architecture and compares it with the requested one.
pub fn of(root: &Root, asked: Option<Arch>) -> Result<Arch, Error> {
    match (find(root)?, asked) {
        (Some((found, path)), Some(asked)) if found != asked => {
            Err(Error::Mismatch { path, found, asked })
        }
        (Some((found, _)), _) => Ok(found),
        (None, Some(asked)) => Ok(asked),
        (None, None) => Err(Error::Unknown),
    }
}

fn find(root: &Root) -> Result<Option<(Arch, String)>, Error> {
    for program in PROGRAMS {
        let Some(found) = root.file(program.as_bytes())? else { continue };
        let head = root.head(&found, HEADER)?;
        let Some(machine) = machine(&head) else { continue };
        let path = shown(&found.path);
        return match machine {
            elf::EM_X86_64 => Ok(Some((Arch::X86_64, path))),
            elf::EM_AARCH64 => Ok(Some((Arch::Aarch64, path))),
            other => Err(Error::Unsupported { path, machine: other.0 }),
        };
    }
    Ok(None)
}

/// `e_machine`; `None` if this is no ELF file, a script for one.
fn machine(head: &[u8]) -> Option<elf::Machine> {
    if let Ok(header) = elf::FileHeader64::<object::Endianness>::parse(head) {
        return Some(header.e_machine(header.endian().ok()?));
    }
    let header = elf::FileHeader32::<object::Endianness>::parse(head).ok()?;
    Some(header.e_machine(header.endian().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_an_elf_file_of_a_known_machine() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!([elf::EM_X86_64, elf::EM_AARCH64].contains(&machine(&own[..HEADER]).unwrap()));
        assert_eq!(machine(b"#!/bin/sh\n"), None);
        let mut wrong = own[..HEADER].to_vec();
        wrong[18] = 0xf3;
        wrong[19] = 0;
        assert_eq!(machine(&wrong), Some(elf::EM_RISCV));
    }
}
