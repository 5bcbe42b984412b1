//! The terminal modes of RFC 4254 section 8 and RFC 8160 (IUTF8), and what each is in a termios.

use nix::libc;
use nix::sys::termios::{
    ControlFlags, InputFlags, LocalFlags, OutputFlags, SpecialCharacterIndices as Index, Termios,
};

/// A control character's value that switches it off (RFC 4254 section 8).
const DISABLED: u32 = 255;

/// One mode that Linux knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A control character.
    Character(Index),
    /// A flag of input.
    Input(InputFlags),
    /// A local flag: echo, signals, line editing.
    Local(LocalFlags),
    /// A flag of output.
    Output(OutputFlags),
    /// A flag of the line.
    Control(ControlFlags),
    /// Bits of a character: CS7 or CS8.
    Size(ControlFlags),
    /// Of the line, in bits a second.
    Speed,
}

impl Mode {
    /// The mode of an opcode; `None` for those Linux has no counterpart of (VDSUSP, VSTATUS...).
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1..=18 => Self::Character(character(code)?),
            30..=42 => Self::Input(input(code)?),
            50..=62 => Self::Local(local(code)?),
            70..=75 => Self::Output(output(code)?),
            90 => Self::Size(ControlFlags::CS7),
            91 => Self::Size(ControlFlags::CS8),
            92 => Self::Control(ControlFlags::PARENB),
            93 => Self::Control(ControlFlags::PARODD),
            // Of input and of output, which are one.
            128 | 129 => Self::Speed,
            _ => return None,
        })
    }

    pub(super) fn apply(self, termios: &mut Termios, value: u32) {
        let on = value != 0;
        match self {
            Self::Character(index) => {
                let byte = if value == DISABLED { libc::_POSIX_VDISABLE } else { value as u8 };
                termios.control_chars[index as usize] = byte;
            }
            Self::Input(flag) => termios.input_flags.set(flag, on),
            Self::Local(flag) => termios.local_flags.set(flag, on),
            Self::Output(flag) => termios.output_flags.set(flag, on),
            Self::Control(flag) => termios.control_flags.set(flag, on),
            Self::Size(size) if on => {
                termios.control_flags.remove(ControlFlags::CSIZE);
                termios.control_flags.insert(size);
            }
            Self::Size(_) => {}
            Self::Speed => super::set_speed(termios, value),
        }
    }
}

fn character(code: u8) -> Option<Index> {
    Some(match code {
        1 => Index::VINTR,
        2 => Index::VQUIT,
        3 => Index::VERASE,
        4 => Index::VKILL,
        5 => Index::VEOF,
        6 => Index::VEOL,
        7 => Index::VEOL2,
        8 => Index::VSTART,
        9 => Index::VSTOP,
        10 => Index::VSUSP,
        12 => Index::VREPRINT,
        13 => Index::VWERASE,
        14 => Index::VLNEXT,
        16 => Index::VSWTC,
        18 => Index::VDISCARD,
        _ => return None,
    })
}

fn input(code: u8) -> Option<InputFlags> {
    Some(match code {
        30 => InputFlags::IGNPAR,
        31 => InputFlags::PARMRK,
        32 => InputFlags::INPCK,
        33 => InputFlags::ISTRIP,
        34 => InputFlags::INLCR,
        35 => InputFlags::IGNCR,
        36 => InputFlags::ICRNL,
        37 => InputFlags::from_bits_retain(libc::IUCLC),
        38 => InputFlags::IXON,
        39 => InputFlags::IXANY,
        40 => InputFlags::IXOFF,
        41 => InputFlags::IMAXBEL,
        42 => InputFlags::IUTF8,
        _ => return None,
    })
}

fn local(code: u8) -> Option<LocalFlags> {
    Some(match code {
        50 => LocalFlags::ISIG,
        51 => LocalFlags::ICANON,
        52 => LocalFlags::from_bits_retain(libc::XCASE),
        53 => LocalFlags::ECHO,
        54 => LocalFlags::ECHOE,
        55 => LocalFlags::ECHOK,
        56 => LocalFlags::ECHONL,
        57 => LocalFlags::NOFLSH,
        58 => LocalFlags::TOSTOP,
        59 => LocalFlags::IEXTEN,
        60 => LocalFlags::ECHOCTL,
        61 => LocalFlags::ECHOKE,
        62 => LocalFlags::PENDIN,
        _ => return None,
    })
}

fn output(code: u8) -> Option<OutputFlags> {
    Some(match code {
        70 => OutputFlags::OPOST,
        71 => OutputFlags::OLCUC,
        72 => OutputFlags::ONLCR,
        73 => OutputFlags::OCRNL,
        74 => OutputFlags::ONOCR,
        75 => OutputFlags::ONLRET,
        _ => return None,
    })
}
