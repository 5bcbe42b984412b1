//! The stages of a job and the one function that moves between them.
