//! Pseudo-terminals: opening, window size, terminal modes.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{self, OFlag};
use nix::sys::termios::{self, BaudRate, ControlFlags, SetArg, Termios};
use rustix::process::ioctl_tiocsctty;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

mod master;
mod modes;

pub use master::Master;
pub use modes::Mode;

/// A pseudo-terminal pair. Closing the last master descriptor hangs up the terminal.
#[derive(Debug)]
pub struct Pty {
    /// The side of who shows the terminal.
    pub master: OwnedFd,
    /// Opened with `O_NOCTTY`; the child makes it its controlling terminal.
    pub slave: OwnedFd,
    /// The slave's path under the `/dev` of the session that will use it.
    pub name: PathBuf,
}

/// Opens a pair from the devpts instance that `ptmx` belongs to (`/dev/ptmx`, or `pts/ptmx` of a
/// private devpts mount).
///
/// The slave is opened through the master (TIOCGPTPEER), never by name: a name could mean another
/// devpts instance.
pub fn open(ptmx: &Path) -> io::Result<Pty> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = fcntl::open(ptmx, flags, nix::sys::stat::Mode::empty())?;
    unlockpt(&master)?;
    let slave =
        ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    Pty::of(master, slave)
}

impl Pty {
    /// A pair that another process has opened.
    pub fn of(master: OwnedFd, slave: OwnedFd) -> io::Result<Self> {
        let name = OsString::from_vec(ptsname(&master, Vec::new())?.into_bytes());
        Ok(Self { master, slave, name: name.into() })
    }
}

/// Makes `slave` the controlling terminal of the calling session leader.
pub fn set_controlling(slave: &OwnedFd) -> io::Result<()> {
    // Not stealing another session's terminal.
    Ok(ioctl_tiocsctty(slave)?)
}

/// Columns, rows and pixels of a terminal window, as `pty-req` and `window-change` give them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// Characters in a row.
    pub columns: u32,
    /// Rows.
    pub rows: u32,
    /// Width in pixels; 0 if not known.
    pub width_pixels: u32,
    /// Height in pixels; 0 if not known.
    pub height_pixels: u32,
}

/// Sets the size of the terminal; the kernel sends SIGWINCH to the foreground process group.
pub fn resize(master: impl AsFd, window: Window) -> io::Result<()> {
    let clamp = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let size = Winsize {
        ws_row: clamp(window.rows),
        ws_col: clamp(window.columns),
        ws_xpixel: clamp(window.width_pixels),
        ws_ypixel: clamp(window.height_pixels),
    };
    Ok(tcsetwinsize(master, size)?)
}

/// Applies the modes of a `pty-req` (RFC 4254 section 8) to the terminal; what this system has no
/// name for is left alone, as OpenSSH does.
pub fn set_modes(slave: impl AsFd, modes: &[(Mode, u32)]) -> io::Result<()> {
    let mut termios = termios::tcgetattr(&slave)?;
    for &(mode, value) in modes {
        mode.apply(&mut termios, value);
    }
    termios::tcsetattr(&slave, SetArg::TCSANOW, &termios)?;
    Ok(())
}

/// Linux has one speed for both ways, in the control flags.
fn set_speed(termios: &mut Termios, bits: u32) {
    let Some(rate) = baud_rate(bits) else { return };
    // A pty's speed means nothing to the kernel; programs such as vi read it to guess at redraw costs.
    // Not by cfsetospeed(3): glibc has two versions of it, and the one that the libc crate asks for by
    // version cannot be linked statically.
    let rate = ControlFlags::from_bits_retain(rate as libc::tcflag_t);
    termios.control_flags = (termios.control_flags - ControlFlags::CBAUD) | rate;
}

fn baud_rate(bits: u32) -> Option<BaudRate> {
    Some(match bits {
        300 => BaudRate::B300,
        600 => BaudRate::B600,
        1200 => BaudRate::B1200,
        1800 => BaudRate::B1800,
        2400 => BaudRate::B2400,
        4800 => BaudRate::B4800,
        9600 => BaudRate::B9600,
        19200 => BaudRate::B19200,
        38400 => BaudRate::B38400,
        57600 => BaudRate::B57600,
        115200 => BaudRate::B115200,
        230400 => BaudRate::B230400,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::termios::{InputFlags, LocalFlags, SpecialCharacterIndices};

    fn pty() -> Pty {
        open(Path::new("/dev/ptmx")).expect("a pty")
    }

    #[test]
    fn a_pair_carries_bytes_and_knows_its_name() {
        let pty = pty();
        assert!(pty.name.starts_with("/dev/pts"));
        nix::unistd::write(&pty.slave, b"x").unwrap();
        let mut byte = [0; 4];
        assert_eq!(nix::unistd::read(&pty.master, &mut byte).unwrap(), 1);
        assert_eq!(byte[0], b'x');
    }

    #[test]
    fn the_window_reaches_the_slave() {
        let pty = pty();
        resize(
            &pty.master,
            Window { columns: 132, rows: 43, width_pixels: 1, height_pixels: 70000 },
        )
        .unwrap();
        let size = rustix::termios::tcgetwinsize(&pty.slave).unwrap();
        assert_eq!((size.ws_col, size.ws_row, size.ws_ypixel), (132, 43, u16::MAX));
    }

    #[test]
    fn modes_set_characters_flags_sizes_and_speeds() {
        let pty = pty();
        let mode = |code| Mode::from_code(code).unwrap();
        // VINTR=^X, VEOL=disabled, ICRNL off, ECHO off, CS7 on, OPOST off, output speed 9600.
        let modes = [(1, 24), (6, 255), (36, 0), (53, 0), (90, 1), (70, 0), (129, 9600)];
        set_modes(&pty.slave, &modes.map(|(code, value)| (mode(code), value))).unwrap();
        let got = termios::tcgetattr(&pty.slave).unwrap();
        assert_eq!(got.control_chars[SpecialCharacterIndices::VINTR as usize], 24);
        assert_eq!(got.control_chars[SpecialCharacterIndices::VEOL as usize], 0);
        assert!(!got.input_flags.contains(InputFlags::ICRNL));
        assert!(!got.local_flags.contains(LocalFlags::ECHO));
        assert!(got.local_flags.contains(LocalFlags::ICANON), "what was not named is kept");
        assert_eq!(
            got.control_flags & ControlFlags::CSIZE,
            ControlFlags::CS8,
            "a pty has no other"
        );
        assert_eq!(termios::cfgetospeed(&got), BaudRate::B9600);
    }
}
