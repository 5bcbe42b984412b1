//! The algorithms that are offered, and the library's settings that go with them.

use std::borrow::Cow;
use std::time::Duration;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::{MethodKind, MethodSet, Preferred, SshId, cipher, compression, kex, mac, server};

use super::config::Config;

/// A channel's window, as OpenSSH's. A bigger one would help only beyond 40 MB/s at 50 ms, and every
/// byte of it may stand in front of another channel's packets when a program does not read.
pub(super) const WINDOW: u32 = 2 << 20;

/// No finite-field groups: the big ones cost clients nothing and us 0.4 s of CPU before login
/// (the DHEat attack). The last two names are no exchanges but extensions: without them there is no
/// RSA with SHA-2 and no strict key exchange (CVE-2023-48795).
const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];

/// Host keys we have (ed25519, RSA), and user keys that may sign (also ECDSA). Not ssh-rsa: SHA-1.
const KEYS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
    Algorithm::SkEd25519,
    Algorithm::SkEcdsaSha2NistP256,
];

const CIPHERS: &[cipher::Name] = &[
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];

/// The two that are not encrypt-then-mac are for paramiko before 2.13 and other old clients.
const MACS: &[mac::Name] =
    &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM, mac::HMAC_SHA256, mac::HMAC_SHA512];

/// Whether `algorithm` may sign a login.
pub(super) fn accepts(algorithm: &Algorithm) -> bool {
    KEYS.contains(algorithm)
}

/// The library's configuration for `config`.
pub(super) fn russh_config(config: &Config) -> server::Config {
    let limits = &config.limits;
    server::Config {
        // Clients recognize OpenSSH's order of the arguments of SFTP's SYMLINK by this name
        // (asyncssh, libssh). The comment has our name.
        server_id: SshId::Standard(Cow::Borrowed(concat!(
            "SSH-2.0-OpenSSH_9.9 ims-job-agent_",
            env!("CARGO_PKG_VERSION")
        ))),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        // The same for every refusal. The library sleeps in the connection's loop, so little.
        auth_rejection_time: Duration::from_millis(10),
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: config.host_keys.private(),
        limits: rekey_limits(),
        window_size: WINDOW,
        maximum_packet_size: 32768,
        // The library's own queues: input goes by callbacks, output is bounded by windows.
        channel_buffer_size: 4,
        event_buffer_size: 32,
        preferred: Preferred {
            kex: Cow::Borrowed(KEX),
            key: Cow::Borrowed(KEYS),
            host_key_certificates: Cow::Borrowed(&[]),
            cipher: Cow::Borrowed(CIPHERS),
            mac: Cow::Borrowed(MACS),
            compression: Cow::Borrowed(&[compression::NONE, compression::ZLIB_LEGACY]),
        },
        // The library counts the first `none`, with which clients ask for the methods.
        max_auth_attempts: limits.max_auth_tries as usize + 1,
        // Reset by any packet, keep-alive answers too, so of no use; the server has its own timers.
        inactivity_timeout: None,
        keepalive_interval: Some(limits.client_alive_interval).filter(|time| !time.is_zero()),
        keepalive_max: limits.client_alive_count_max as usize,
        ..server::Config::default()
    }
}

/// A key exchange begun by us kills a connection with more than two windows of data in flight, one
/// begun by the client does not, and OpenSSH begins them. So ours come rarely: far below 2^32 packets
/// of 32 KiB, and below the 64 GiB that 2^32 blocks of AES are.
fn rekey_limits() -> russh::Limits {
    russh::Limits {
        rekey_write_limit: 32 << 30,
        rekey_read_limit: 32 << 30,
        rekey_time_limit: Duration::from_secs(7 * 24 * 3600),
    }
}
