//! The SSH server: thin handler, bounded events, one task a session.
