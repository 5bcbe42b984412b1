//! Flow control of what clients send: bounded queues, a budget they share, and a throttle on the socket.
//!
//! The SSH library extends a client's window when data arrives, not when it is consumed, and has no
//! call to extend it later. So data for a slow program must be queued, or the whole connection
//! stops, other channels and window updates included. Each channel has an [`Inbox`], in memory
//! first and then in an unlinked file; while an inbox is long, [`Throttle`] slows the socket down
//! and the windows are kept small.

mod budget;
mod inbox;
mod spill;
mod stream;
mod throttle;

pub use budget::Budget;
pub use inbox::Inbox;
pub use stream::{SessionStream, Wire};
pub use throttle::Throttle;
