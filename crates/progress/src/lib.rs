#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

/// Takes what long work reports of itself. Its methods are called by several threads, and for every few
/// hundred KiB: they must be quick.
pub trait Progress: Send + Sync {
    /// How much there is to do, in the unit of the work; called once that is known.
    fn set_total(&self, total: u64);

    /// So much more is done.
    fn add(&self, amount: u64);

    /// So much is done in all, where work begins again or another program does it.
    fn set(&self, done: u64);
}

/// Nobody asks.
impl Progress for () {
    fn set_total(&self, _: u64) {}
    fn add(&self, _: u64) {}
    fn set(&self, _: u64) {}
}
