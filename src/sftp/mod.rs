//! The SFTP server (protocol 3) that runs inside the jail on stdin and stdout.
