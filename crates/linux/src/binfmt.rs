//! Programs of another processor architecture, run by qemu through binfmt_misc (the kernel's document
//! admin-guide/binfmt-misc).
//!
//! Registrations belong to the whole kernel: an existing one is used, and never changed or removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

/// Where the kernel shows the registrations.
const DIRECTORY: &str = "/proc/sys/fs/binfmt_misc";

/// The first 20 bytes of an ELF executable or library (elf(5)): class, byte order, version, ABI, type,
/// machine. As in qemu's scripts/qemu-binfmt-conf.sh the ABI may be any, the type either of the two.
const HEADER: usize = 20;
const MASK: [u8; HEADER] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xfe, 0xff, 0xff, 0xff,
];

/// An architecture that can be emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// As qemu and `uname -m` call it.
    pub name: &'static str,
    /// `e_machine` of elf(5).
    number: u16,
}

impl Machine {
    /// 64-bit ARM.
    pub const AARCH64: Machine = Machine { name: "aarch64", number: 183 };
    /// 64-bit x86.
    pub const X86_64: Machine = Machine { name: "x86_64", number: 62 };

    fn magic(self) -> [u8; HEADER] {
        let mut magic = [0; HEADER];
        // 64 bits, little endian, version 1; an executable.
        magic[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        magic[16..18].copy_from_slice(&2u16.to_le_bytes());
        magic[18..].copy_from_slice(&self.number.to_le_bytes());
        magic
    }
}

/// Why programs of another architecture cannot be run.
#[allow(missing_docs, reason = "the messages say what each means")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "programs for {machine} cannot be run here: {DIRECTORY} does not exist and cannot be \
         mounted. Load the kernel module binfmt_misc on the host, register qemu there, or run the \
         job on a host of that architecture (REMOTE_BUILD_NODE)"
    )]
    Missing { machine: &'static str, source: io::Error },
    #[error("cannot read the registrations in {DIRECTORY}")]
    Read(#[source] io::Error),
    #[error(
        "programs for {machine} cannot be run here: {} is disabled; enable it on the host: \
         echo 1 > {}",
        .entry.display(),
        .entry.display()
    )]
    Disabled { machine: &'static str, entry: PathBuf },
    #[error(
        "programs for {machine} cannot be run in an image: {} lacks the flag F, so its interpreter \
         {interpreter} would have to be in the image. Register it on the host with F",
        .entry.display()
    )]
    NotFixed { machine: &'static str, entry: PathBuf, interpreter: String },
    #[error(
        "programs for {machine} cannot be run here: there is no {} in {looked_for}; install \
         qemu-user-static",
        interpreter(.machine)
    )]
    NoInterpreter { machine: &'static str, looked_for: String },
    #[error("cannot register {} in {DIRECTORY}", .interpreter.display())]
    Register { interpreter: PathBuf, source: io::Error },
}

/// How programs are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emulator {
    /// Path of the program that runs them.
    pub interpreter: String,
    /// By us, just now.
    pub registered: bool,
}

/// Sees to it that programs for `machine` run, also in a chroot or container that has no emulator.
/// `path` is where an emulator is looked for (`PATH`) if there is no registration.
pub fn ensure(machine: Machine, path: &str) -> Result<Emulator, Error> {
    open(machine)?;
    let entries = entries()?;
    if let Some(found) = judge(machine, &entries)? {
        return Ok(found);
    }
    let name = interpreter(machine.name);
    let found = path.split(':').map(|directory| Path::new(directory).join(&name));
    let found = found.into_iter().find(|path| path.is_file());
    let found = found
        .ok_or_else(|| Error::NoInterpreter { machine: machine.name, looked_for: path.into() })?;
    register(machine, &found)?;
    Ok(Emulator { interpreter: found.display().to_string(), registered: true })
}

fn interpreter(machine: &str) -> String {
    format!("qemu-{machine}-static")
}

/// Mounts the facility where that was not done, for everybody: it is the kernel's.
fn open(machine: Machine) -> Result<(), Error> {
    if Path::new(DIRECTORY).join("register").exists() {
        return Ok(());
    }
    let none = None::<&str>;
    mount(Some("binfmt_misc"), DIRECTORY, Some("binfmt_misc"), MsFlags::empty(), none)
        .map_err(|errno| Error::Missing { machine: machine.name, source: errno.into() })?;
    tracing::info!("mounted {DIRECTORY}");
    Ok(())
}

/// One registration, as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    path: PathBuf,
    enabled: bool,
    interpreter: String,
    flags: String,
    offset: usize,
    magic: Vec<u8>,
    mask: Vec<u8>,
}

impl Entry {
    /// `None` for one that goes by the extension of names.
    fn parse(path: PathBuf, text: &str) -> Option<Self> {
        let value = |name: &str| {
            let of_name = |line: &str| line.strip_prefix(name).map(|rest| rest.trim().to_owned());
            text.lines().find_map(of_name)
        };
        let magic = hex::decode(value("magic ")?).ok()?;
        let mask = value("mask ").and_then(|mask| hex::decode(mask).ok());
        Some(Self {
            path,
            enabled: text.starts_with("enabled"),
            interpreter: value("interpreter ")?,
            flags: value("flags:").unwrap_or_default(),
            offset: value("offset ")?.parse().ok()?,
            mask: mask.unwrap_or_else(|| vec![0xff; magic.len()]),
            magic,
        })
    }

    /// The kernel's comparison.
    fn is_for(&self, machine: Machine) -> bool {
        let program = machine.magic();
        let Some(part) = program.get(self.offset..self.offset + self.magic.len()) else {
            return false;
        };
        let pairs = part.iter().zip(&self.magic).zip(&self.mask);
        // Something that takes every ELF file is not an emulator of this machine.
        self.magic.len() == HEADER
            && pairs.into_iter().all(|((is, wanted), mask)| (is ^ wanted) & mask == 0)
    }
}

fn entries() -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(DIRECTORY).map_err(Error::Read)? {
        let path = entry.map_err(Error::Read)?.path();
        let special = ["register", "status"].iter().any(|name| path.ends_with(name));
        // One that was removed meanwhile is none.
        if !special && let Ok(text) = fs::read_to_string(&path) {
            entries.extend(Entry::parse(path, &text));
        }
    }
    Ok(entries)
}

/// What the registrations mean for `machine`: an enabled one with F is all that is needed.
fn judge(machine: Machine, entries: &[Entry]) -> Result<Option<Emulator>, Error> {
    let ours = || entries.iter().filter(|entry| entry.is_for(machine));
    // The kernel takes the newest that is enabled; which that is, is not shown.
    let mut enabled = ours().filter(|entry| entry.enabled).peekable();
    if enabled.peek().is_none() {
        return match ours().next() {
            Some(entry) => {
                Err(Error::Disabled { machine: machine.name, entry: entry.path.clone() })
            }
            None => Ok(None),
        };
    }
    let mut last = None;
    for entry in enabled {
        if !entry.flags.contains('F') {
            return Err(Error::NotFixed {
                machine: machine.name,
                entry: entry.path.clone(),
                interpreter: entry.interpreter.clone(),
            });
        }
        last = Some(Emulator { interpreter: entry.interpreter.clone(), registered: false });
    }
    Ok(last)
}

/// Flag F: the interpreter is opened now, and so found wherever a program runs.
fn register(machine: Machine, interpreter: &Path) -> Result<(), Error> {
    let escaped =
        |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect() };
    let line = format!(
        ":qemu-{}:M::{}:{}:{}:F",
        machine.name,
        escaped(&machine.magic()),
        escaped(&MASK),
        interpreter.display()
    );
    let register = Path::new(DIRECTORY).join("register");
    match fs::write(register, line) {
        // Another job was quicker.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(Error::Register { interpreter: interpreter.into(), source }),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(flags: &str, enabled: &str, machine: Machine) -> Entry {
        let text = format!(
            "{enabled}\ninterpreter /usr/bin/qemu-aarch64-static\nflags: {flags}\noffset 0\n\
             magic {}\nmask {}\n",
            hex::encode(machine.magic()),
            hex::encode(MASK)
        );
        Entry::parse("/x/qemu".into(), &text).unwrap()
    }

    #[test]
    fn the_magic_is_that_of_qemu() {
        assert_eq!(
            hex::encode(Machine::AARCH64.magic()),
            "7f454c460201010000000000000000000200b700"
        );
    }

    #[test]
    fn an_enabled_registration_with_f_is_used_under_any_name() {
        let found = judge(Machine::AARCH64, &[entry("POCF", "enabled", Machine::AARCH64)]).unwrap();
        assert_eq!(found.unwrap().interpreter, "/usr/bin/qemu-aarch64-static");
        let other = [entry("F", "enabled", Machine::X86_64)];
        assert_eq!(judge(Machine::AARCH64, &other).unwrap(), None);
    }

    #[test]
    fn one_that_would_not_do_is_named() {
        let disabled = judge(Machine::AARCH64, &[entry("F", "disabled", Machine::AARCH64)]);
        assert!(matches!(disabled, Err(Error::Disabled { .. })));
        let error = judge(Machine::AARCH64, &[entry("OC", "enabled", Machine::AARCH64)]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("/x/qemu lacks the flag F"), "{error}");
    }

    #[test]
    fn what_goes_by_extension_is_none() {
        let text = "enabled\ninterpreter /usr/bin/java\nflags: \nextension .jar\n";
        assert_eq!(Entry::parse("/x/jar".into(), text), None);
    }
}
