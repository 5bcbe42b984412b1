//! Status codes of the protocol, and the code for each error, as in OpenSSH's server.

use std::io;

use super::codec::Packet;
use linux::Errno;

/// SSH_FXP_STATUS.
const STATUS: u8 = 101;

/// Draft section 7; the numbers are the protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Ok = 0,
    Eof = 1,
    NoSuchFile = 2,
    PermissionDenied = 3,
    Failure = 4,
    BadMessage = 5,
    OpUnsupported = 8,
}

impl Status {
    pub(crate) fn of(error: &io::Error) -> Status {
        match linux::errno_of(error) {
            Some(Errno::ENOENT | Errno::ENOTDIR | Errno::EBADF | Errno::ELOOP) => {
                Status::NoSuchFile
            }
            Some(Errno::EPERM | Errno::EACCES | Errno::EFAULT) => Status::PermissionDenied,
            Some(Errno::ENAMETOOLONG | Errno::EINVAL) => Status::BadMessage,
            Some(Errno::ENOSYS) => Status::OpUnsupported,
            // A NUL in a name: no such file can be.
            None if error.kind() == io::ErrorKind::InvalidInput => Status::NoSuchFile,
            _ => Status::Failure,
        }
    }

    fn message(self) -> &'static str {
        match self {
            Status::Ok => "Success",
            Status::Eof => "End of file",
            Status::NoSuchFile => "No such file",
            Status::PermissionDenied => "Permission denied",
            Status::Failure => "Failure",
            Status::BadMessage => "Bad message",
            Status::OpUnsupported => "Operation unsupported",
        }
    }

    pub(crate) fn packet(self, id: u32) -> Packet {
        self.saying(id, self.message())
    }

    /// With a message of its own.
    pub(crate) fn saying(self, id: u32, message: &str) -> Packet {
        // The last string is the language of the message; OpenSSH leaves it empty.
        Packet::new(STATUS).u32(id).u32(self as u32).string(message.as_bytes()).string(b"")
    }
}

/// What an operation without a result of its own came to.
impl From<io::Result<()>> for Status {
    fn from(result: io::Result<()>) -> Status {
        match result {
            Ok(()) => Status::Ok,
            Err(error) => Status::of(&error),
        }
    }
}
