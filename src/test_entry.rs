//! Lets a test binary be the jail's init, as main lets the real one: before the harness starts.

extern "C" fn before_main() {
    let first = std::env::args_os().nth(1);
    if first.as_deref() == Some(std::ffi::OsStr::new(crate::jail::ENTRY)) {
        crate::jail::entry();
    }
}

// SAFETY: the section holds pointers to functions that the C library calls before main with
// arguments that this one does not take; Rust's own entry there, which stores the arguments, has a
// higher priority.
#[used]
#[allow(
    unsafe_code,
    reason = "a test harness has no main of ours: this section is the only way in before it"
)]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;
