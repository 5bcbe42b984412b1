//! Loop devices: a file as a read-only block device that goes away by itself.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

const CONTROL: &str = "/dev/loop-control";

/// Major number of loop devices, `Documentation/admin-guide/devices.txt`.
const LOOP_MAJOR: u64 = 7;

/// Between asking for a free device and taking it, another process may take it first.
const ATTEMPTS: u32 = 64;

// `include/uapi/linux/loop.h`.
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// `struct loop_info64`.
#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

/// Why a file cannot be attached to a loop device.
#[allow(missing_docs, reason = "the messages say what each means")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open {CONTROL}; a pod needs to be privileged to use loop devices")]
    Control(#[source] io::Error),
    #[error("the kernel has no free loop device")]
    NoFree(#[source] Errno),
    #[error(
        "{device} does not exist in this container and cannot be created; a privileged pod has \
         only the devices that existed when it started, so create more of them on the host \
         (loop.max_loop)"
    )]
    NoNode { device: PathBuf, source: Errno },
    #[error("cannot open {device}")]
    Device { device: PathBuf, source: io::Error },
    #[error("cannot open {file}")]
    File { file: PathBuf, source: io::Error },
    #[error("cannot attach {file} to {device}")]
    Configure { file: PathBuf, device: PathBuf, source: Errno },
    #[error("other processes took every free loop device first; try again")]
    Raced,
}

/// A loop device with a file attached, read-only.
///
/// The kernel detaches the file when the last user is gone (autoclear): keep this until the device
/// is mounted, then drop it. Neither a crash nor a killed pod leaves a device behind.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    _open: File,
}

impl LoopDevice {
    /// Attaches `file` to a free loop device.
    ///
    /// Reads go through the page cache, where a file that was just downloaded still is.
    pub fn attach(file: &Path) -> Result<Self, Error> {
        let backing =
            File::open(file).map_err(|source| Error::File { file: file.into(), source })?;
        let control =
            OpenOptions::new().read(true).write(true).open(CONTROL).map_err(Error::Control)?;
        for _ in 0..ATTEMPTS {
            let number = free_number(&control)?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            ensure_node(&path, number)?;
            let device =
                match OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC).open(&path) {
                    Ok(device) => device,
                    // The device may be removed again between the two calls.
                    Err(error)
                        if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV)) =>
                    {
                        continue;
                    }
                    Err(source) => return Err(Error::Device { device: path, source }),
                };
            match configure(&device, &backing) {
                Ok(()) => return Ok(Self { path, _open: device }),
                Err(Errno::EBUSY) => continue,
                Err(source) => {
                    return Err(Error::Configure { file: file.into(), device: path, source });
                }
            }
        }
        Err(Error::Raced)
    }

    /// `/dev/loopN`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn free_number(control: &File) -> Result<u64, Error> {
    // SAFETY: neither std nor nix has this ioctl. It takes no argument and touches no memory of
    // ours; the descriptor is open for as long as `control` is borrowed.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) };
    let number = Errno::result(number).map_err(Error::NoFree)?;
    Ok(u64::try_from(number).expect("a successful ioctl gives a device number, not a negative"))
}

/// A pod's `/dev` is a copy made at its start and lacks devices that were added since.
fn ensure_node(path: &Path, number: u64) -> Result<(), Error> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.file_type().is_block_device() => Ok(()),
        Ok(_) => Err(Error::NoNode { device: path.into(), source: Errno::ENOTBLK }),
        Err(_) => {
            let mode = Mode::S_IRUSR | Mode::S_IWUSR;
            match mknod(path, SFlag::S_IFBLK, mode, makedev(LOOP_MAJOR, number)) {
                Ok(()) | Err(Errno::EEXIST) => Ok(()),
                Err(source) => Err(Error::NoNode { device: path.into(), source }),
            }
        }
    }
}

fn configure(device: &File, backing: &File) -> Result<(), Errno> {
    // SAFETY: both structures are plain integers and arrays of such, for which all zeroes is a
    // valid value and, for the kernel, means "default".
    let mut config: LoopConfig = unsafe { std::mem::zeroed() };
    config.fd = u32::try_from(backing.as_raw_fd()).expect("an open descriptor is not negative");
    config.info.flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR;
    // SAFETY: neither std nor nix has this ioctl. It reads one `struct loop_config`, which
    // `LoopConfig` mirrors field by field; both descriptors outlive the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE as _, &raw const config) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn file_of(byte: u8) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [byte; 4096]).unwrap();
        file
    }

    #[test]
    fn the_structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<LoopInfo64>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }

    #[test]
    fn an_attached_file_is_read_through_the_device_and_detached_on_drop() {
        let file = file_of(7);
        let device = LoopDevice::attach(file.path()).expect("this test needs loop devices");
        let mut bytes = [0; 4096];
        File::open(device.path()).unwrap().read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [7; 4096]);
        let sysfs = Path::new("/sys/block").join(device.path().file_name().unwrap());
        let shown = |name: &str| std::fs::read_to_string(sysfs.join(name)).unwrap_or_default();
        assert_eq!(shown("ro").trim(), "1");
        let is_attached = || shown("loop/backing_file").contains(file.path().to_str().unwrap());
        assert!(is_attached());
        drop(device);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while is_attached() {
            assert!(std::time::Instant::now() < deadline, "still attached");
            std::thread::yield_now();
        }
    }

    #[test]
    fn several_threads_that_attach_at_once_get_devices_of_their_own() {
        let threads: Vec<_> = (0..6u8)
            .map(|byte| {
                std::thread::spawn(move || {
                    let file = file_of(byte);
                    let device = LoopDevice::attach(file.path()).unwrap();
                    let mut bytes = [0xff; 4096];
                    File::open(device.path()).unwrap().read_exact(&mut bytes).unwrap();
                    assert_eq!(bytes, [byte; 4096]);
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
