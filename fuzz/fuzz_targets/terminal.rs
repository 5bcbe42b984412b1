//! What a client says of its terminal in `pty-req` and `window-change`: sizes, and pairs of a mode's number
//! and value. Whatever it is, a real terminal takes it or refuses it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use linux::pty::{self, Mode, Window};

fuzz_target!(|request: ([u32; 4], Vec<(u8, u32)>)| {
    let ([columns, rows, width_pixels, height_pixels], modes) = request;
    let pty = pty::open("/dev/ptmx".as_ref()).expect("a terminal can be opened");
    let window = Window { columns, rows, width_pixels, height_pixels };
    pty::resize(&pty.master, window).expect("any size is taken");
    let known = modes.iter().filter_map(|&(code, value)| Some((Mode::from_code(code)?, value)));
    let _ = pty::set_modes(&pty.slave, &known.collect::<Vec<_>>());
});
