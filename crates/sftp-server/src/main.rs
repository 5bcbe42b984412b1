//! Serves SFTP on stdin and stdout, as OpenSSH's sftp-server does.
#![forbid(unsafe_code)]

fn main() {
    std::process::exit(sftp_server::serve_stdio())
}
